// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import Store

@Suite struct AuditLogTests {
    private func withFolder(_ body: (String) throws -> Void) throws {
        let folder = NSTemporaryDirectory() + "audit-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try body(folder)
    }

    private func record(_ time: UInt64, _ tenant: String = "acme", detail: String = "d", target: String = "t") -> AuditRecord {
        AuditRecord(
            time: time, who: "uid 0", from: "control socket", tenant: tenant, action: "deploy", target: target, detail: detail,
            outcome: "ok")
    }

    private func name(_ text: String) throws -> Name { try #require(Name(text)) }

    @Test("hostile values stay one bounded line without control characters")
    func hostile() throws {
        try withFolder { folder in
            let log = AuditLog(directory: folder)
            let nasty = "a\n{\"time\": 1}\r\u{1B}[2J\u{202E}\u{0}\u{85}é"
            try log.append([record(1, detail: nasty, target: String(repeating: "x", count: 1 << 20))], of: try name("acme"))
            let bytes = try #require(FileManager.default.contents(atPath: folder + "/acme/1.jsonl"))
            #expect(bytes.count < 4096 && bytes.filter { $0 == 0x0A }.count == 1 && bytes.last == 0x0A)
            #expect(bytes.dropLast().allSatisfy { $0 >= 0x20 && $0 != 0x7F })
            let found = log.query(AuditQuery())
            #expect(found.count == 1)
            #expect(found.first?.detail == #"a\u{a}{"time": 1}\u{d}\u{1b}[2J\u{202e}\u{0}\u{85}é"#)
            #expect(found.first?.target.hasSuffix("... (1048576 bytes)") == true)
        }
    }

    @Test("a torn last line costs itself and not the next one")
    func torn() throws {
        try withFolder { folder in
            let log = AuditLog(directory: folder)
            try log.append([record(1), record(2)], of: nil)
            let path = folder + "/_node/1.jsonl"
            let whole = try #require(FileManager.default.contents(atPath: path))
            try whole.dropLast(9).write(to: URL(fileURLWithPath: path))
            try AuditLog(directory: folder).append([record(3)], of: nil)
            #expect(log.query(AuditQuery()).map(\.time) == [1, 3])
        }
    }

    @Test("one tenant's flood is bounded and pushes out nobody else's lines; old segments go by age")
    func bounds() throws {
        try withFolder { folder in
            let log = AuditLog(directory: folder, bytes: 64 << 10, age: 1000)
            let (acme, beta) = (try name("acme"), try name("beta"))
            try log.append([record(1, "beta")], of: beta)
            for round in 0..<200 { try log.append((0..<10).map { record(UInt64(2 + round * 10 + $0), detail: "x") }, of: acme) }
            let sizes = try FileManager.default.contentsOfDirectory(atPath: folder + "/acme").map {
                try #require(FileManager.default.contents(atPath: folder + "/acme/" + $0)).count
            }
            #expect(sizes.count == 8 && sizes.reduce(0, +) < 80 << 10)
            var query = AuditQuery()
            query.tail = 10_000
            let all = log.query(query)
            #expect(all.first?.tenant == "beta" && all.last?.time == 2001 && all.count < 1000)
            #expect(all.map(\.time) == all.map(\.time).sorted())
            log.prune(now: UInt64(Date().timeIntervalSince1970 * 1000) - 60_000)
            #expect(log.query(query).count == all.count)
            log.prune(now: UInt64(Date().timeIntervalSince1970 * 1000) + 60_000)
            #expect(log.query(query).isEmpty)
        }
    }

    @Test("a question finds by tenant, time and text, the newest first of all")
    func questions() throws {
        try withFolder { folder in
            let log = AuditLog(directory: folder)
            let acme = try name("acme")
            for time in 1...9 { try log.append([record(UInt64(time), detail: "n\(time)")], of: acme) }
            try log.append([record(5, "", detail: "node")], of: nil)
            func times(_ change: (inout AuditQuery) -> Void) -> [UInt64] {
                var query = AuditQuery()
                change(&query)
                return log.query(query).map(\.time)
            }
            #expect(times { $0.tenant = acme } == Array(1...9))
            #expect(
                times {
                    $0.since = 4; $0.until = 5
                } == [4, 5, 5])
            #expect(times { $0.grep = "n7" } == [7])
            #expect(times { $0.tail = 2 } == [8, 9])
        }
    }

    @Test("what cannot be written is an error and not a silence")
    func full() throws {
        try withFolder { folder in
            try Data().write(to: URL(fileURLWithPath: folder))
            #expect(throws: StoreError.self) { try AuditLog(directory: folder).append([record(1)], of: nil) }
        }
    }
}
