// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB
import Glibc
import Kernel
import Synchronization
import Testing

@testable import Store

/// A cpio stream (newc) built by hand, so that it can say anything.
private struct Archive {
    private(set) var bytes: [UInt8] = []

    mutating func add(_ name: String, mode: UInt32, _ data: [UInt8] = [], links: UInt32 = 1) {
        func hex(_ value: UInt32) -> [UInt8] {
            Array((String(repeating: "0", count: 8 - String(value, radix: 16).count) + String(value, radix: 16)).utf8)
        }
        bytes += Array("070701".utf8)
        for value in [1, mode, 0, 0, links, 0, UInt32(data.count), 0, 0, 0, 0, UInt32(name.utf8.count + 1), 0] { bytes += hex(value) }
        bytes += Array(name.utf8) + [0]
        pad()
        bytes += data
        pad()
    }
    private mutating func pad() { while bytes.count % 4 != 0 { bytes.append(0) } }
    mutating func end() -> [UInt8] {
        add("TRAILER!!!", mode: 0)
        return bytes
    }
}

private func take(_ bytes: [UInt8], chunk: Int = 4096, limits: IntakeLimits = IntakeLimits(), disk: FileSystemSync = FileSystemSync())
    throws -> (
        hash: String, root: String
    )
{
    let root = NSTemporaryDirectory() + "intake-\(UUID().uuidString)"
    let intake = try CodeIntake(root: root, inputBytes: UInt64(bytes.count), limits: limits, disk: disk)
    for start in stride(from: 0, to: bytes.count, by: chunk) { try intake.feed(bytes[start..<min(start + chunk, bytes.count)]) }
    return (try intake.finish().hash, root)
}

@Suite struct CodeIntakeTests {
    private func good(_ text: String = "print()") -> [UInt8] {
        var archive = Archive()
        archive.add(".", mode: 0o040755)
        archive.add("a/b.py", mode: 0o104755, Array(text.utf8))
        archive.add("link", mode: 0o120777, Array("a/b.py".utf8))
        return archive.end()
    }

    @Test("the hash depends on content, not on how it arrives", arguments: [1, 3, 110, 4096])
    func hash(chunk: Int) throws {
        let first = try take(good(), chunk: chunk)
        defer { try? FileManager.default.removeItem(atPath: first.root) }
        #expect(first.hash.count == 64)
        #expect(try take(good()).hash == first.hash)
        #expect(try take(good("other")).hash != first.hash)
        let mode = try FileManager.default.attributesOfItem(atPath: first.root + "/a/b.py")[.posixPermissions] as? Int
        #expect(mode == 0o755, "set-id bits are dropped, execution is kept")
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: first.root + "/link") == "a/b.py")
    }

    @Test(
        "hostile entries are refused",
        arguments: [
            ("../x", UInt32(0o100644), ""), ("/x", 0o100644, ""), ("a/../../x", 0o100644, ""), ("x", 0o020666, ""), ("x", 0o060666, ""),
            ("x", 0o010666, ""),
            ("x", 0o140666, ""), ("l", 0o120777, "/etc/passwd"), ("l", 0o120777, "../x"), ("a/l", 0o120777, "../../x"),
            ("x\u{1b}", 0o100644, ""),
            ("", 0o100644, ""), (String(repeating: "d/", count: 65) + "x", 0o100644, ""),
            (String(repeating: "n", count: 256), 0o100644, ""),
            // A slash with an accent is a slash to the kernel.
            ("../\u{301}x", 0o100644, ""), ("a/../../\u{301}x", 0o100644, ""), ("../\u{301}d", 0o040755, ""), ("/\u{301}x", 0o100644, ""),
            ("l", 0o120777, "../\u{301}x"), ("l", 0o120777, "/\u{301}x/../etc"), ("a/l", 0o120777, "../\u{301}x/../../y"),
            ("../\u{301}l", 0o120777, "y"), ("..\u{2F}\u{200D}x", 0o100644, ""), ("../\u{FE0F}x", 0o100644, ""),
        ])
    func hostile(name: String, mode: UInt32, data: String) {
        var archive = Archive()
        archive.add("ok", mode: 0o100644, [1])
        archive.add(name, mode: mode, Array(data.utf8))
        let bytes = archive.end()
        #expect(throws: IntakeError.self) { try take(bytes) }
    }

    @Test("nothing goes through a link, and nothing comes twice")
    func links() {
        for second in ["a", "a/b"] {
            var archive = Archive()
            archive.add("a", mode: 0o120777, Array("b".utf8))
            archive.add(second, mode: 0o100644, [1])
            let bytes = archive.end()
            #expect(throws: IntakeError.self) { try take(bytes) }
        }
    }

    @Test("bounds hold: entries, bytes, ratio")
    func bounds() {
        var limits = IntakeLimits()
        limits.entries = 3
        var many = Archive()
        for number in 0..<4 { many.add("f\(number)", mode: 0o100644) }
        let entries = many.end()
        #expect(throws: IntakeError.self) { try take(entries, limits: limits) }
        limits = IntakeLimits()
        limits.bytes = 10
        var large = Archive()
        large.add("f", mode: 0o100644, Array(repeating: 0, count: 11))
        let bytes = large.end()
        #expect(throws: IntakeError.self) { try take(bytes, limits: limits) }
    }

    @Test("a stream cut anywhere is refused")
    func cut() {
        let bytes = good()
        for count in stride(from: 0, to: bytes.count - 130, by: 7) {
            #expect(throws: IntakeError.self) { try take(Array(bytes[..<count])) }
        }
    }
}

@Suite struct StateStoreTests {
    @Test("numbers go on after a deletion and a new start; a newer schema is refused")
    func numbers() throws {
        let path = NSTemporaryDirectory() + "state-\(UUID().uuidString).sqlite"
        defer { for end in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: path + end) } }
        let function = try #require(FunctionIDs.sample)
        do {
            let store = try StateStore(path: path)
            #expect(try store.addVersion(function, codeHash: "a", codeBytes: 1, manifest: "m", at: 5).version.number == 1)
            #expect(try store.addVersion(function, codeHash: "b", codeBytes: 1, manifest: "m", at: 6).version.number == 2)
            #expect(try store.removeFunction(function))
            #expect(try !store.removeFunction(function))
            #expect(try store.reserveWorkers(100) == 1)
        }
        let store = try StateStore(path: path)
        #expect(try store.addVersion(function, codeHash: "c", codeBytes: 1, manifest: "m", at: 7).version.number == 3)
        #expect(try store.reserveWorkers(1) == 101)
        #expect(try store.versions().map(\.codeHash) == ["c"])
    }

    @Test("a tenant's keys are bounded: dead ones are kept as a record, valid ones up to a limit, and what is sorted needs no file")
    func keyBounds() throws {
        let path = NSTemporaryDirectory() + "state-\(UUID().uuidString).sqlite"
        defer { for end in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: path + end) } }
        let store = try StateStore(path: path)
        let tenant = try #require(FunctionIDs.sample?.tenant)
        #expect(try store.database.read { try Int.fetchOne($0, sql: "PRAGMA temp_store") } == 2)
        try store.database.write { database in
            for number in 0..<StateStore.deadKeysKept + 500 {
                try database.execute(
                    sql: "INSERT INTO keys (id, tenant, hash, scopes, created, revoked) VALUES (?, ?, ?, 'invoke', ?, 1)",
                    arguments: ["k-\(number)", tenant.text, Data("\(number)".utf8), number])
            }
        }
        let made = try store.createKey(tenant: tenant, scopes: ["invoke"], at: 9_999)
        let kept = try store.keys(of: tenant).map(\.record)
        #expect(kept.count == StateStore.deadKeysKept + 1 && kept.first?.id == "k-500" && kept.last == made.record)

        var record = made.record
        var ring = KeyRing(
            (0..<KeyRing.limit).map { number in
                record.id = "k-\(number)"
                record.expiresAt = number == 0 ? 50 : nil
                return (record, [UInt8]("\(number)".utf8))
            })
        #expect(!ring.hasRoom(tenant, at: 49) && ring.hasRoom(tenant, at: 50))
        ring.add(made.record, made.key)
        #expect(!ring.hasRoom(tenant, at: 60) && ring.record(made.key) != nil)
        ring.revoke(made.record.id, tenant)
        #expect(ring.record(made.key) == nil && ring.hasRoom(tenant, at: 60) && ring.hasKeys(tenant))
    }

    @Test("a key is found by itself alone, and not after its revocation")
    func keys() throws {
        let path = NSTemporaryDirectory() + "state-\(UUID().uuidString).sqlite"
        defer { for end in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: path + end) } }
        let store = try StateStore(path: path)
        let tenant = try #require(FunctionIDs.sample?.tenant)
        let made = try store.createKey(tenant: tenant, scopes: ["invoke"], at: 1)
        var ring = KeyRing(try store.keys())
        #expect(ring.record(made.key)?.id == made.record.id && ring.takeUses().isEmpty, "a look is no use")
        #expect(ring.record(made.key, at: 5)?.id == made.record.id && ring.record(made.key + "x", at: 6) == nil)
        #expect(ring.takeUses() == [made.record.id: 5] && ring.takeUses().isEmpty)
        try store.noteUses([made.record.id: 5])
        let next = try #require(try store.rotateKey(made.record.id, tenant: tenant, at: 10, oldUntil: 20))
        ring = KeyRing(try store.keys())
        #expect(next.key != made.key && next.record.scopes == ["invoke"])
        #expect(ring.record(next.key, at: 30)?.id == next.record.id, "the new key does not end")
        #expect(ring.record(made.key, at: 19)?.lastUsedAt == 5 && ring.record(made.key, at: 20) == nil, "the old key ends with its grace")
        #expect(try store.rotateKey(made.record.id, tenant: tenant, at: 20, oldUntil: 30) == nil, "and cannot be rotated then")
        #expect(try store.revokeKey(next.record.id, tenant: tenant))
        ring = KeyRing(try store.keys())
        #expect(ring.record(next.key, at: 11) == nil)
        #expect(ring.hasKeys(tenant), "a tenant that began to use keys stays closed to calls without one")
    }

    @Test("one tenant's keys come from the disk without those of others, of whom memory may know more")
    func oneTenantsKeys() throws {
        let path = NSTemporaryDirectory() + "state-\(UUID().uuidString).sqlite"
        defer { for end in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: path + end) } }
        let store = try StateStore(path: path)
        let tenant = try #require(FunctionIDs.sample?.tenant), other = try #require(Name("other"))
        let revoked = try store.createKey(tenant: tenant, scopes: ["invoke"], at: 1)
        let kept = try store.createKey(tenant: tenant, scopes: ["invoke"], at: 2)
        let gone = try store.createKey(tenant: other, scopes: ["invoke"], at: 3)
        var ring = KeyRing(try store.keys())
        // In memory alone: the disk has not been asked yet, or refuses.
        ring.revoke(revoked.record.id, tenant)
        _ = try store.revokeKey(gone.record.id, tenant: other)
        let come = try store.createKey(tenant: other, scopes: ["invoke"], at: 4)
        ring.replace(other, try store.keys(of: other))
        #expect(ring.record(revoked.key) == nil && ring.record(kept.key)?.tenant == tenant)
        #expect(ring.record(gone.key) == nil && ring.record(come.key)?.tenant == other)
        ring.replace(other, [])
        #expect(ring.record(come.key) == nil && !ring.hasKeys(other) && ring.hasKeys(tenant))
    }

    @Test("a file that is no database is refused with a sentence")
    func damaged() throws {
        let path = NSTemporaryDirectory() + "state-\(UUID().uuidString).sqlite"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Data(repeating: 7, count: 8192).write(to: URL(fileURLWithPath: path))
        #expect(throws: StoreError.self) { try StateStore(path: path) }
    }

    // MARK: the disk

    /// What was asked of the disk, in order.
    private final class Asked: Sendable {
        let names = Mutex<[String]>([])
        /// A disk that tells, or does not tell, of all at once, and fails what is named.
        func disk(tells: Bool, failing: String = "") -> FileSystemSync {
            var disk = FileSystemSync()
            disk.tells = { _ in tells }
            disk.one = { self.note((try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")) ?? "?", failing) }
            disk.all = { _ in self.note("all", failing) }
            return disk
        }
        private func note(_ path: String, _ failing: String) -> Int32 {
            let name = String(path[(path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex)...])
            names.withLock { $0.append(name.hasPrefix("intake-") ? "top" : name) }
            errno = EIO
            return name == failing || name.hasPrefix("intake-") && failing == "top" ? -1 : 0
        }
    }

    private func archive(files: Int) -> [UInt8] {
        var archive = Archive()
        for number in 0..<files { archive.add("d/f\(number)", mode: 0o100644, [1]) }
        return archive.end()
    }

    private func flushes(files: Int, tells: Bool, failing: String = "") throws -> [String] {
        let asked = Asked()
        let taken = try take(archive(files: files), disk: asked.disk(tells: tells, failing: failing))
        try? FileManager.default.removeItem(atPath: taken.root)
        return asked.names.withLock { $0 }
    }

    @Test("all is flushed, the names too: few files and folders each by itself; many at once, where the kernel tells of what fails")
    func flushed() throws {
        #expect(try flushes(files: 2, tells: true) == ["f0", "f1", "d", "top"])
        let few = try flushes(files: CodeIntake.fewEntries - 1, tells: true)
        #expect(few.count == CodeIntake.fewEntries + 1 && !few.contains("all"))
        let many = try flushes(files: 1000, tells: true)
        #expect(many.count <= CodeIntake.fewEntries + 2 && many.suffix(2) == ["all", "top"], "\(many.count): \(many.suffix(3))")
        let untold = try flushes(files: 1000, tells: false)
        #expect(untold.count == 1002 && !untold.contains("all"))
    }

    @Test(
        "code that the disk has not taken is no code, and the archive is not to blame",
        arguments: [(2, true, "f1"), (2, true, "d"), (2, true, "top"), (1000, true, "all"), (1000, true, "top"), (1000, false, "f999")])
    func unflushed(files: Int, tells: Bool, failing: String) throws {
        let error = #expect(throws: IntakeError.self) { try flushes(files: files, tells: tells, failing: failing) }
        #expect(error?.isStorage == true && error?.description.contains("Input/output error") == true, "\(String(describing: error))")
    }

    @Test("a disk without room for a name is told as that; a name that no disk takes is the archive's fault", .enabled(if: geteuid() == 0))
    func noInodes() throws {
        let path = NSTemporaryDirectory() + "inodes-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        var (link, long) = (Archive(), Archive())
        link.add("link", mode: 0o120777, Array("f".utf8))
        long.add(String(repeating: "n", count: 300), mode: 0o100644)
        // The file system's own root takes one, the tree's the second.
        for (inodes, bytes, isStorage) in [
            (2, archive(files: 1), true), (3, archive(files: 1), true), (2, link.end(), true), (100, long.end(), false),
        ] {
            try #require(unsafe mount("tmpfs", path, "tmpfs", 0, "nr_inodes=\(inodes)") == 0)
            defer { unsafe umount2(path, Int32(MNT_DETACH)) }
            let error = #expect(throws: IntakeError.self) {
                let intake = try CodeIntake(root: path + "/tree", inputBytes: UInt64(bytes.count))
                try intake.feed(bytes[...])
                _ = try intake.finish()
            }
            #expect(error?.isStorage == isStorage, "\(inodes): \(String(describing: error))")
        }
    }

    @Test("a file system that is a layer on another, or the kernel's own, does not tell of all that fails")
    func untold() throws {
        for path in ["/proc", "/sys"] {
            let folder = unsafe open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            defer { close(folder) }
            #expect(!FileSystemSync().tells(folder), "\(path)")
        }
    }
}
