// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB
import Synchronization
import Testing

@testable import Store

private typealias Fixture = EventFixture
private let base = EventFixture.base
private let acme = EventFixture.tenants[0]

@Suite struct EventStoreTests {
    /// D1-D8: see the model. Every seed is about 600 steps with some twenty restarts.
    @Test("random walks with restarts: the store is what a dictionary is", arguments: 0..<24 as Range<UInt64>)
    func walk(seed: UInt64) throws {
        let folder = try EventFolder()
        var model = EventModel(seed: seed)
        var store = try folder.open()
        for step in 0..<600 {
            try model.step(store)
            if step % 20 == 0 { try model.compare(store) }
            if model.random.chance(30) {
                store.close()
                store = try folder.open(at: model.now)
                model.restartNode()
                try model.compare(store)
            }
        }
        try model.compare(store)
        // Every payload file has its row, and no other is left.
        let large = model.events.values.count { $0.draft.payload.count > EventFiles.inlineLimit }
        #expect(folder.payloads.count == large)
        store.close()
    }

    @Test("one key from many threads is one event, and the next day another")
    func key() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        let receipts = Mutex<[EventReceipt]>([])
        DispatchQueue.concurrentPerform(iterations: 64) { number in
            var draft = Fixture.draft(number, payload: [UInt8](repeating: 1, count: number % 2 == 0 ? 70_000 : 10))
            draft.key = "once"
            guard let receipt = try? store.add(draft) else { return }
            receipts.withLock { $0.append(receipt) }
        }
        let all = receipts.withLock { $0 }
        #expect(all.count == 64 && Set(all.map(\.id)).count == 1)
        #expect(all.count { !$0.isDuplicate } == 1)
        #expect(try store.counts().received == 1)
        #expect(folder.payloads.count <= 1, "a duplicate's payload is removed")
        var other = Fixture.draft(100, tenant: Fixture.tenants[1])
        other.key = "once"
        #expect(try !store.add(other).isDuplicate, "another tenant's key is another key")
        var late = Fixture.draft(101, at: base + 86_400_000)
        late.key = "once"
        #expect(try !store.add(late).isDuplicate)
        store.close()
    }

    @Test("a key with another payload or content type is told, in a row and in a file, alone and in a batch, while the first is kept")
    func otherPayload() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        func draft(_ number: Int, _ length: Int, byte: UInt8 = 1, at now: UInt64 = base) -> EventDraft {
            var draft = Fixture.draft(number, at: now, payload: [UInt8](repeating: byte, count: length))
            draft.key = "key of \(length > 1000 ? "large" : "small")"
            return draft
        }
        for length in [10, 70_000] {
            let first = try store.add(draft(length, length))
            #expect(try store.add(draft(length + 1, length)) == EventReceipt(id: first.id, isDuplicate: true))
            let other = EventReceipt(id: first.id, isDuplicate: true, isOfOtherPayload: true)
            #expect(try store.add(draft(length + 2, length, byte: 2)) == other)
            #expect(try store.add(draft(length + 3, length + 1)) == other)
            var typed = draft(length + 4, length)
            typed.contentType = "text/x"
            #expect(try store.add(typed) == other)
        }
        #expect(folder.payloads.count == 1, "a refused one's payload is removed")
        let batch = [Fixture.draft(20), draft(21, 10, byte: 2)]
        let first = draft(10, 10).id
        #expect(try store.wait { store.enqueue(batch, completion: $0) } == .ofOtherPayload(index: 1, first: first))
        #expect(try store.counts().received == 2, "nothing of the batch is stored")
        #expect(
            try store.wait { store.enqueue([draft(22, 10), Fixture.draft(23)], completion: $0) }
                == .stored([EventReceipt(id: first, isDuplicate: true), EventReceipt(id: Fixture.draft(23).id, isDuplicate: false)]))
        // No bytes are a payload, too.
        func bare(_ number: Int, _ payload: [UInt8] = []) -> EventDraft {
            var draft = Fixture.draft(number, payload: payload)
            draft.key = "bare"
            return draft
        }
        #expect(try !store.add(bare(30)).isDuplicate && !store.add(bare(31)).isOfOtherPayload && store.add(bare(32, [0])).isOfOtherPayload)
        _ = try store.wait { store.stop(first, of: acme, reason: "asked", at: base, completion: $0) }
        #expect(try store.add(draft(24, 10, byte: 2)).isOfOtherPayload, "one that has ended is kept for a while")
        store.close()
    }

    @Test("a stale token changes nothing: after a stop, after a settle, and after a restart")
    func stale() throws {
        let folder = try EventFolder()
        var store = try folder.open()
        for number in 0..<3 { try store.add(Fixture.draft(number)) }
        let leases = try store.take().leases
        try #require(leases.count == 3)
        #expect(try store.wait { store.stop(leases[0].id, of: acme, reason: "asked", at: base, completion: $0) }?.state == .leased)
        #expect(try !store.end(leases[0].id, leases[0].token, .done(result: [])))
        #expect(try store.end(leases[1].id, leases[1].token, .done(result: [])))
        #expect(try !store.end(leases[1].id, leases[1].token, .dead(reason: "twice", result: [])))
        store.close()
        store = try folder.open()
        #expect(store.recovered == 1)
        #expect(try !store.end(leases[2].id, leases[2].token, .done(result: [])))
        let again = try #require(try store.take().leases.first)
        #expect(again.id == leases[2].id && again.token > leases[2].token)
        #expect(again.event.history.deliveries == 2 && again.event.history.crashes == 1 && again.attempt == 1)
        #expect(try !store.end(leases[2].id, leases[2].token, .done(result: [])))
        #expect(try store.event(leases[0].id, of: acme)?.state == .stopped)
        #expect(try store.event(leases[1].id, of: acme)?.state == .done)
        store.close()
    }

    @Test("an event that takes the node with it three times is poison, and tells its destination once")
    func poison() throws {
        let folder = try EventFolder()
        var draft = Fixture.draft(1)
        draft.destination = [1]
        draft.retry = try #require(RetryPolicy(maxAttempts: 25))
        var store = try folder.open()
        try store.add(draft)
        for _ in 0..<3 {
            #expect(try store.take().leases.count == 1)
            store.close()
            store = try folder.open()
        }
        let event = try #require(try store.event(draft.id, of: acme))
        #expect(event.state == .dead && event.reason?.hasPrefix("poison") == true)
        #expect(try store.destinations().map(\.state) == [.dead])
        #expect(try store.take().leases.isEmpty)
        store.close()
    }

    @Test("ten deliveries without a word are enough; throttling is none of them")
    func deliveries() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        try store.add(Fixture.draft(1))
        for _ in 0..<30 {
            let lease = try #require(try store.take().leases.first)
            try store.end(lease.id, lease.token, .retry(.system, afterMs: 0, reason: "throttled"))
        }
        for _ in 0..<10 {
            let lease = try #require(try store.take().leases.first)
            try store.end(lease.id, lease.token, .release)
        }
        #expect(try store.take().leases.isEmpty)
        #expect(try store.event(Fixture.id(1), of: acme)?.reason == "deliveries: throttled")
        store.close()
    }

    @Test("what used up its age is a dead letter, kept and redriven as others are; what its caller does not want any more is not")
    func ages() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        let age = Fixture.draft(1).retry.maxAgeMs
        for number in 1...4 {
            var draft = Fixture.draft(number)
            if number == 4 { draft.deadline = base + 1_000 }
            try store.add(draft)
        }
        // One that failed and whose next try comes too late, one that a claim meets, one that the sweep meets.
        let lease = try #require(try store.take(1).leases.first)
        try store.end(lease.id, lease.token, .retry(.functionError, afterMs: age, reason: "KeyError"))
        let claim = try store.take(1, at: base + age)
        let swept = try store.wait { store.sweep(at: base + age, completion: $0) }
        #expect(claim.leases.isEmpty && (claim.aged + swept.aged).count == 2)
        let ended = try (1...4).map { try #require(try store.event(Fixture.id($0), of: acme)) }
        #expect(ended.map(\.state) == [.dead, .dead, .dead, .expired])
        #expect(ended.map(\.reason) == ["age: KeyError", "age", "age", nil])
        let later = base + age + 10 * 86_400_000
        try store.sweepAll(at: later)
        let ids = (1...4).map { Fixture.id($0) }
        let redriven = try store.wait { store.redrive(ids, of: acme, lineage: nil, at: later, completion: $0) }
        #expect(redriven == 3, "ten days after its end")
        #expect(try store.take(9, at: later).leases.count == 3)
        store.close()
    }

    @Test("a parked event runs only after it is resumed")
    func parked() throws {
        let folder = try EventFolder()
        var store = try folder.open()
        var draft = Fixture.draft(1)
        draft.parked = "loop: path"
        try store.add(draft)
        try store.add(Fixture.draft(2))
        let lease = try #require(try store.take().leases.first)
        #expect(lease.id == Fixture.id(2))
        try store.end(lease.id, lease.token, .park(reason: "loop: root"))
        let quarantine = try store.quarantine()
        #expect(quarantine.values.map(\.events) == [2] && quarantine.keys.first?.function.tenant == acme)
        #expect(quarantine.values.first?.bytes == draft.payload.count + Fixture.draft(2).payload.count)
        store.close()
        store = try folder.open(at: base + 700_000_000)
        try store.sweepAll(at: base + 700_000_000)
        #expect(try store.take(at: base + 700_000_000).leases.isEmpty)
        let resume = { (tenant: Name) in
            try store.wait {
                store.resume([Fixture.id(1), Fixture.id(2)], of: tenant, lineage: nil, at: base + 700_000_000, completion: $0)
            }
        }
        #expect(try resume(Fixture.tenants[1]) == 0, "another tenant's")
        #expect(try resume(acme) == 2)
        #expect(try store.take(at: base + 700_000_000).leases.count == 2, "their age began anew")
        store.close()
    }

    @Test("one tenant's backlog does not keep another waiting, and a tenant without permission gets nothing")
    func turns() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        for number in 0..<200 { try store.add(Fixture.draft(number)) }
        for number in 200..<203 { try store.add(Fixture.draft(number, tenant: Fixture.tenants[1])) }
        let first = try store.take(8)
        let perTenant = Dictionary(grouping: first.leases, by: \.event.function.tenant).mapValues(\.count)
        #expect(perTenant == [acme: 5, Fixture.tenants[1]: 3] && first.askAgainAt == base)
        let none = try store.take(8, ClaimPermission(tenants: [:], others: 0))
        #expect(none.leases.isEmpty && none.askAgainAt == nil, "asking again at once would change nothing")
        #expect(try store.take(8, ClaimPermission(tenants: [acme: 2], others: 0)).leases.count == 2)
        var delayed = Fixture.draft(300, tenant: Fixture.tenants[2])
        delayed.notBefore = base + 500
        try store.add(delayed)
        #expect(try store.take(8, ClaimPermission(tenants: [acme: 0])).askAgainAt == base + 500)
        #expect(try store.take(8, ClaimPermission(tenants: [acme: 0]), at: base + 500).leases.map(\.id) == [Fixture.id(300)])
        store.close()
    }

    @Test("one function's backlog does not keep another of its tenant waiting, and a function without permission gets nothing")
    func functionsInTurn() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        let (slow, quick) = (
            FunctionID(tenant: acme, function: Fixture.functions[0]), FunctionID(tenant: acme, function: Fixture.functions[1])
        )
        for number in 0..<203 {
            var draft = Fixture.draft(number)
            draft.function = number < 200 ? slow : quick
            try store.add(draft)
        }
        func taken(_ limit: Int, _ permission: ClaimPermission) throws -> [FunctionID: Int] {
            Dictionary(grouping: try store.take(limit, permission).leases, by: \.event.function).mapValues(\.count)
        }
        #expect(try taken(2, ClaimPermission()) == [slow: 1, quick: 1])
        // As in the steady state, where the end of one makes room for one.
        #expect(try (0..<4).map { _ in try taken(1, ClaimPermission()) } == [[slow: 1], [quick: 1], [slow: 1], [quick: 1]])
        try store.add(Fixture.draft(300))
        let none = try store.take(8, ClaimPermission(functions: [slow: 0]))
        #expect(none.leases.isEmpty && none.askAgainAt == nil, "asking again at once would change nothing")
        #expect(try taken(8, ClaimPermission(functions: [slow: 3])) == [slow: 3])
        store.close()
        let again = try folder.open()
        #expect(try again.take(1_000).leases.count == 204, "a start finds every function with events")
        again.close()
    }

    @Test("a read after the end is refused, and does not end the process")
    func readAfterClose() throws {
        let store = try EventFolder().open()
        store.close()
        #expect(throws: StoreError.self) { try store.counts() }
    }

    @Test("a store of an earlier release is opened: claims and lists find their way in it, and what it holds is whole", arguments: [1, 2])
    func upgrade(from version: Int) throws {
        let folder = try EventFolder()
        let store = try folder.open()
        for number in 0..<5 { try store.add(Fixture.draft(number)) }
        for lease in try store.take(2).leases { try store.end(lease.id, lease.token, .dead(reason: "no", result: [])) }
        store.close()
        let queue = try DatabaseQueue(path: folder.path + "/events.sqlite")
        try queue.writeWithoutTransaction { database in
            try database.execute(
                sql: """
                    DROP INDEX events_queue; CREATE INDEX events_queue ON events (state, tenant, class, due);
                    ALTER TABLE bodies DROP COLUMN trace; PRAGMA user_version = \(version)
                    """)
            if version == 1 { try database.execute(sql: "DROP INDEX events_ready") }
        }
        try queue.close()
        let again = try folder.open()
        #expect(try again.imbalance() == nil)
        #expect(try again.all(EventQuery(state: .dead, tenant: acme, limit: 1)).count == 2)
        #expect(try again.all(EventQuery(limit: 1)).count == 5)
        var draft = Fixture.draft(9)
        draft.trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        try again.add(draft)
        let leases = try again.take().leases
        #expect(try leases.count == 4 && again.imbalance() == nil)
        for lease in leases {
            #expect(try lease.payload.bytes() == [1, 2, 3])
            #expect(lease.event.trace == (lease.id == draft.id ? draft.trace : nil))
        }
        again.close()
        let opened = try DatabaseQueue(path: folder.path + "/events.sqlite")
        #expect(try opened.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM sqlite_schema WHERE name = 'events_ready'") } == 1)
        #expect(try opened.read { try Int.fetchOne($0, sql: "PRAGMA user_version") } == EventSchema.version)
        try opened.close()
    }

    @Test("a page that finds little ends, and the next goes on: by function, over more events than a page looks at")
    func pages() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        let group = DispatchGroup()
        for number in 0..<6_000 {
            var draft = Fixture.draft(number)
            draft.parked = "held"
            if number % 2_000 == 1_999 { draft.function = FunctionID(tenant: acme, function: Fixture.functions[1]) }
            group.enter()
            store.enqueue(draft) { _ in group.leave() }
        }
        group.wait()
        let query = EventQuery(state: .parked, tenant: acme, function: Fixture.functions[1], limit: 100)
        let page = try store.list(query)
        #expect(page.events.count == 2 && page.next != nil)
        #expect(try store.all(query).count == 3)
        #expect(try store.all(EventQuery(limit: 1_000)).count == 6_000)
        store.close()
    }

    @Test("what breaks a bound is refused with a sentence and leaves nothing")
    func bounds() throws {
        let folder = try EventFolder()
        let store = try folder.open()
        var faults = [EventDraft](repeating: Fixture.draft(1), count: 4)
        faults[0].payload = [UInt8](repeating: 0, count: EventDraft.payloadLimit + 1)
        faults[1].key = ""
        faults[2].lineage = [UInt8](repeating: 0, count: EventDraft.fieldLimit + 1)
        faults[3].notBefore = .max
        for draft in faults { #expect(throws: StoreError.self) { try store.add(draft) } }
        #expect(try store.counts().received == 0 && folder.payloads.isEmpty)
        var largest = Fixture.draft(2)
        largest.payload = [UInt8](repeating: 5, count: EventDraft.payloadLimit)
        try store.add(largest)
        #expect(try store.take().leases.first?.payload.bytes() == largest.payload)
        store.close()
        #expect(throws: StoreError.self) { try store.add(Fixture.draft(3)) }
    }

    @Test("the log does not grow over many short runs, none of which writes enough for a checkpoint")
    func shortRuns() throws {
        let folder = try EventFolder()
        var size: UInt64 = 0
        for run in 0..<10 {
            let store = try folder.open()
            // About 900 pages.
            for number in 0..<100 { try store.add(Fixture.draft(run * 1000 + number)) }
            store.close()
            size = (try? FileManager.default.attributesOfItem(atPath: folder.path + "/events.sqlite-wal")[.size] as? UInt64) ?? 0
        }
        print("figure: the log of events after ten short runs: \(size >> 10) KiB")
        #expect(size < 9 << 20)
    }
}
