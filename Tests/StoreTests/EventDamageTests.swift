// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB
import Glibc
import Testing

@testable import Store

private typealias Fixture = EventFixture
private let base = EventFixture.base
private let acme = EventFixture.tenants[0]

@Suite struct EventDamageTests {
    private func filled(_ count: Int) throws -> EventFolder {
        let folder = try EventFolder()
        let store = try folder.open()
        for number in 0..<count { try store.add(Fixture.draft(number, payload: [UInt8](repeating: 9, count: 500))) }
        store.close()
        return folder
    }

    @Test("a newer schema is refused by name, and left alone")
    func newer() throws {
        let folder = try filled(1)
        let path = folder.path + "/events.sqlite"
        let queue = try DatabaseQueue(path: path)
        try queue.writeWithoutTransaction { try $0.execute(sql: "PRAGMA user_version = \(EventSchema.version + 1)") }
        try queue.close()
        let before = FileManager.default.contents(atPath: path)
        let error = #expect(throws: StoreError.self) { try folder.open() }
        #expect(error?.description.contains("newer release") == true)
        #expect(FileManager.default.contents(atPath: path) == before)
    }

    @Test("a file that is no database, and a folder that is missing: a sentence")
    func none() throws {
        let folder = try EventFolder()
        try Data(repeating: 7, count: 8192).write(to: URL(fileURLWithPath: folder.path + "/events.sqlite"))
        let error = #expect(throws: StoreError.self) { try folder.open() }
        #expect(error?.description.contains("cannot be opened") == true)
        #expect(throws: StoreError.self) { try EventStore(directory: "/nonexistent/events", now: base) }
    }

    @Test("a second store on the same folder is refused, and a closed one makes way")
    func twice() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        let error = #expect(throws: StoreError.self) { try folder.open() }
        #expect(error?.description.contains("in use") == true)
        store.close()
        try folder.open().close()
    }

    /// The rest of the page is what it was, or the store says that it is damaged: it never hands out what was not submitted.
    @Test("a page of noise: what is handed out is what was submitted, or nothing is", arguments: 0..<40 as Range<UInt64>)
    func noise(seed: UInt64) throws {
        let folder = try filled(200)
        var random = Seeded(state: seed)
        let path = folder.path + "/events.sqlite"
        var bytes = try #require(FileManager.default.contents(atPath: path))
        let page = 1 + random.below(bytes.count / 4096 - 1)
        for index in 0..<4096 { bytes[page * 4096 + index] = UInt8(truncatingIfNeeded: random.next()) }
        try bytes.write(to: URL(fileURLWithPath: path))
        do {
            let store = try folder.open()
            defer { store.close() }
            var handed = 0
            while let claim = Optional(try store.take(10)), !claim.leases.isEmpty {
                for lease in claim.leases {
                    #expect(lease.event.function.tenant == acme)
                    #expect(try lease.payload.bytes() == [UInt8](repeating: 9, count: 500))
                }
                handed += claim.leases.count
            }
            // Fewer only where the damage is seen.
            if handed < 200 { #expect(throws: StoreError.self) { if let sentence = try store.imbalance() { throw StoreError(sentence) } } }
        } catch is StoreError {
            // Told.
        }
    }

    @Test("a damaged or missing payload file is told to whoever wants it, and its event can still end")
    func payload() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        for number in 0..<2 { try store.add(Fixture.draft(number, payload: [UInt8](repeating: 3, count: 100_000))) }
        try #require(folder.payloads.count == 2)
        let paths = folder.payloads.map { "\(folder.path)/payloads/\($0)" }
        var bytes = try #require(FileManager.default.contents(atPath: paths[0]))
        bytes[50_000] ^= 1
        try bytes.write(to: URL(fileURLWithPath: paths[0]))
        try FileManager.default.removeItem(atPath: paths[1])
        for lease in try store.take().leases {
            #expect(throws: StoreError.self) { try lease.payload.bytes() }
            #expect(try store.end(lease.id, lease.token, .dead(reason: "payload", result: [])))
        }
        #expect(try store.wait { store.purge([Fixture.id(0), Fixture.id(1)], of: acme, completion: $0) } == 2)
        #expect(folder.payloads.isEmpty)
        store.close()
    }

    @Test("files that no row names are removed at the start, the others are not")
    func orphans() throws {
        let folder = try EventFolder()
        var store = try folder.open()
        try store.add(Fixture.draft(1, payload: [UInt8](repeating: 3, count: 100_000)))
        store.close()
        let kept = folder.payloads
        try Data(repeating: 1, count: 10).write(to: URL(fileURLWithPath: "\(folder.path)/payloads/\(Fixture.id(2))-1"))
        store = try folder.open()
        #expect(folder.payloads == kept && kept.count == 1)
        store.close()
    }
}

/// That no statement looks at more than it has to: by SQLite's own plan, for a time says nothing on a busy machine.
@Suite struct EventPlanTests {
    @Test("with 10^5 queued events every statement of the way uses an index and sorts nothing")
    func plans() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        let group = DispatchGroup()
        for number in 0..<100_000 {
            let draft = Fixture.draft(number, tenant: Fixture.tenants[number % 4])
            group.enter()
            store.enqueue(draft) { _ in group.leave() }
            if number % 10_000 == 0 { group.wait() }
        }
        group.wait()
        #expect(try store.counts()[.ready] == 100_000)
        let plans: [(String, String)] = [
            (EventTransaction.due, "USING INDEX events_ready (tenant=? AND function=? AND class=? AND due<?)"),
            (EventTransaction.nextDue, "USING COVERING INDEX events_ready (tenant=? AND function=? AND class=?)"),
            (EventSchema.waiting + " SELECT * FROM waiting", "USING COVERING INDEX events_ready (tenant=? AND function>?)"),
            (EventTransaction.ended, "USING INDEX events_ends (ends<?)"),
            (EventTransaction.endedKeys, "USING COVERING INDEX keys_until (until<?)"),
            (EventStore.listOfTenant, "USING INDEX events_queue (state=? AND tenant=? AND (class,due,id)>(?,?,?))"),
            (EventStore.listOfAll, "USING INDEX events_queue (state=? AND (tenant,class,due,id)>(?,?,?,?))"),
            (EventStore.readyOfTenant, "USING INDEX events_ready (tenant=? AND (function,class,due,state,id)>(?,?,?,?,?))"),
            (EventStore.readyOfAll, "USING INDEX events_ready ((tenant,function,class,due,state,id)>(?,?,?,?,?,?))"),
            ("SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.id = ?", "USING PRIMARY KEY (id=?)"),
            ("SELECT 1 FROM bodies WHERE file = ?", "USING COVERING INDEX bodies_file (file=?)"),
            (
                "SELECT id FROM keys WHERE tenant = ? AND function = ? AND key = ? AND until > ?",
                "USING PRIMARY KEY (tenant=? AND function=? AND key=?)"
            ),
        ]
        for (sql, expected) in plans {
            let plan = try store.reader.read { database in
                let statement = try database.makeStatement(sql: "EXPLAIN QUERY PLAN " + sql)
                statement.setUncheckedArguments(StatementArguments())
                return try Row.fetchAll(statement).map { $0["detail"] as String }
            }
            #expect(plan.contains { $0.contains(expected) }, "\(sql): \(plan)")
            let isWhole = plan.contains { $0.contains("TEMP B-TREE") || ($0.hasPrefix("SCAN") && !$0.hasPrefix("SCAN waiting")) }
            #expect(!isWhole, "\(sql): \(plan)")
        }
        store.close()
    }
}

/// A small file system of its own.
private final class SmallDisk {
    let path = NSTemporaryDirectory() + "events-disk-\(UUID().uuidString)"
    init(bytes: Int) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        let result = unsafe mount("tmpfs", path, "tmpfs", 0, "size=\(bytes)")
        try #require(result == 0, "mount tmpfs")
    }
    func makeReadOnly() throws {
        // Busy for as long as the writer's thread has not let go, or another test's driver between its fork and its exec.
        let limit = ContinuousClock.now + .seconds(30)
        var result = unsafe mount(nil, path, nil, UInt(MS_REMOUNT | MS_RDONLY), nil)
        while result != 0, errno == EBUSY, ContinuousClock.now < limit {
            usleep(10_000)
            result = unsafe mount(nil, path, nil, UInt(MS_REMOUNT | MS_RDONLY), nil)
        }
        try #require(result == 0, "remount")
    }
    deinit {
        unsafe umount2(path, Int32(MNT_DETACH))
        unsafe rmdir(path)
    }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts a file system, which needs root")) struct EventDiskTests {
    @Test("a full disk refuses, loses nothing, and takes again when there is room", arguments: [600, 100_000])
    func full(payload: Int) throws {
        let disk = try SmallDisk(bytes: 6 << 20)
        let store = try EventStore(directory: disk.path, now: base)
        let ballast = disk.path + "/ballast"
        // No driver of another test may inherit it: its room would not come back.
        let file = unsafe open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        let zeros = [UInt8](repeating: 0, count: 3 << 20)
        _ = unsafe write(file, zeros, zeros.count)
        close(file)
        var accepted: [InvocationID] = []
        var refusal: StoreError?
        for number in 0..<20_000 {
            do {
                accepted.append(try store.add(Fixture.draft(number, payload: [UInt8](repeating: 1, count: payload))).id)
            } catch {
                refusal = error as? StoreError
                break
            }
        }
        #expect(refusal?.description.contains(payload > 65_536 ? "has room" : "the disk is full") == true, "\(String(describing: refusal))")
        #expect(store.failure == nil && accepted.count > 5)
        unsafe unlink(ballast)
        accepted.append(try store.add(Fixture.draft(50_000)).id)
        let lease = try #require(try store.take(1).leases.first)
        #expect(try store.end(lease.id, lease.token, .done(result: [])))
        #expect(Set(try store.all(EventQuery(limit: 1_000)).map(\.id)) == Set(accepted))
        let imbalance = try store.imbalance()
        #expect(imbalance == nil)
        store.close()
        let again = try EventStore(directory: disk.path, now: base)
        #expect(try again.counts().received == UInt64(accepted.count))
        again.close()
    }

    @Test("a disk that is full at the start, and one that is read-only: a sentence")
    func start() throws {
        let small = try SmallDisk(bytes: 32 << 10)
        let full = #expect(throws: StoreError.self) { try EventStore(directory: small.path, now: base) }
        #expect(full?.description.contains("disk has room") == true)
        let disk = try SmallDisk(bytes: 8 << 20)
        do {
            let store = try EventStore(directory: disk.path, now: base)
            try store.add(Fixture.draft(1))
            store.close()
        }
        try disk.makeReadOnly()
        let readOnly = #expect(throws: StoreError.self) { try EventStore(directory: disk.path, now: base) }
        #expect(readOnly?.description.contains("writable") == true)
    }
}
