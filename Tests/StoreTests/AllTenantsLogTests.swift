// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import Store

/// Lines of all tenants, as the operator asks for them. Times are small numbers, long before those of the files: whatever is told of them is told by the lines.
@Suite struct AllTenantsLogTests {
    private let folder: EventFolder
    private let acme: Name
    private let beta: Name

    init() throws {
        folder = try EventFolder()
        (acme, beta) = (EventFixture.tenants[0], EventFixture.tenants[1])
    }

    private func store(bytes: UInt64 = 64 << 20) -> LogStore { LogStore(directory: folder.path, bytesPerTenant: bytes, age: .max) }

    private func line(
        _ time: UInt64, _ text: String = "", level: String = "info", invocation: String = "", function: String = "f"
    ) -> LogRecord {
        LogRecord(
            time: time, function: function, version: 1, worker: "w-1", invocation: invocation, stream: "stdout", level: level, text: text)
    }

    private func ask(
        _ store: LogStore, limit: Int = LogStore.readLimit, _ change: (inout LogQuery) -> Void = { _ in }
    ) -> (lines: [String], isMore: Bool) {
        var query = LogQuery()
        change(&query)
        let page = store.newest(query, readLimit: limit)
        return (page.lines.map { "\($0.tenant) \($0.record.time)\($0.record.text.count < 9 ? $0.record.text : "")" }, page.isMore)
    }

    /// As if a tenant had written last an hour ago.
    private func age(_ tenant: Name) throws {
        for name in try FileManager.default.contentsOfDirectory(atPath: "\(folder.path)/\(tenant)") {
            let old = Date(timeIntervalSinceNow: -3600)
            try FileManager.default.setAttributes([.modificationDate: old], ofItemAtPath: "\(folder.path)/\(tenant)/\(name)")
        }
    }

    @Test(
        "lines of all tenants come by time, each with its tenant; those of one time as they were written; the newest as many as are asked for"
    )
    func order() throws {
        let store = store()
        #expect(ask(store).lines.isEmpty && !ask(store).isMore)
        for (tenant, time, text) in [
            (beta, 10, "a"), (acme, 20, "a"), (acme, 20, "b"), (beta, 20, "a"), (beta, 30, ""), (acme, 40, ""), (acme, 60, ""),
        ] as [(Name, UInt64, String)] { store.append(tenant, line(time, text)) }
        // The one who wrote last has not the last lines.
        store.append(beta, line(50))
        let all = ["beta 10a", "acme 20a", "acme 20b", "beta 20a", "beta 30", "acme 40", "beta 50", "acme 60"]
        #expect(ask(store).lines == all && !ask(store).isMore)
        for count in 1...7 {
            let newest = ask(store) { $0.tail = count }
            #expect(newest.lines == all.suffix(count) && newest.isMore, "\(count)")
        }
        #expect(!ask(store) { $0.tail = 8 }.isMore)
        #expect(ask(store) { ($0.since, $0.until) = (20, 40) }.lines == Array(all[1...5]), "both edges are in it")
        #expect(ask(store) { ($0.since, $0.until) = (21, 29) }.lines == [] && !ask(store) { ($0.since, $0.until) = (61, .max) }.isMore)
        #expect(ask(store) { ($0.until, $0.tail) = (30, 2) }.lines == ["beta 20a", "beta 30"])
        #expect(ask(store) { $0.tail = 0 }.lines == [])
    }

    @Test("text, level, invocation and function choose, of all tenants alike; what a line is torn from is not told")
    func filters() throws {
        let store = store()
        store.append(acme, line(1, "one", level: "error", invocation: "aa"))
        store.append(beta, line(2, "one", level: "info", function: "g"))
        store.append(acme, line(3, "two", level: "warning", function: "g"))
        #expect(ask(store) { $0.grep = "one" }.lines == ["acme 1one", "beta 2one"])
        #expect(ask(store) { $0.levels = ["warning", "error"] }.lines == ["acme 1one", "acme 3two"])
        #expect(ask(store) { $0.invocation = "aa" }.lines == ["acme 1one"])
        #expect(ask(store) { $0.function = "g" }.lines == ["beta 2one", "acme 3two"])
        let file = try #require(FileHandle(forWritingAtPath: "\(folder.path)/beta/1.jsonl"))
        try file.seekToEnd()
        try file.write(contentsOf: Data("{\"time\":9,".utf8))
        try file.close()
        #expect(ask(store).lines == ["acme 1one", "beta 2one", "acme 3two"])
    }

    @Test("through many pieces and segments of several tenants nothing is left out, and nothing comes twice or late")
    func merged() {
        let store = store(bytes: 2 << 20)
        var random = Seeded(state: 7)
        var wanted: [String] = []
        for number in 1...8_000 as ClosedRange<UInt64> {
            // Now one writes much, and now another.
            let tenant = EventFixture.tenants[(Int(number) / 1_500 + (random.chance(5) ? 1 : 0)) % 3]
            store.append(tenant, line(number * 1_000, String(repeating: "x", count: 50 + random.below(200))))
            wanted.append("\(tenant) \(number * 1_000)")
            if number % 500 == 0 { store.flush() }
        }
        let all = ask(store) { $0.tail = 10_000 }
        #expect(all.lines == wanted && !all.isMore)
        for count in [1, 100, 3_000] {
            let newest = ask(store) { $0.tail = count }
            #expect(newest.lines == wanted.suffix(count) && newest.isMore, "\(count)")
        }
        let part = ask(store) { ($0.since, $0.until, $0.tail) = (2_000_000, 5_000_000, 10_000) }
        #expect(part.lines == Array(wanted[1_999..<5_000]) && !part.isMore)
    }

    @Test("one bound of what is read is for all tenants together, and what it leaves out is told")
    func bound() throws {
        let store = store()
        for number in 0..<500 as Range<UInt64> {
            for tenant in EventFixture.tenants { store.append(tenant, line(number * 1_000, String(repeating: "x", count: 100))) }
        }
        store.flush()
        let sizes = EventFixture.tenants.map { Int(store.fileSize($0, 1)) }
        let most = try #require(sizes.max()), sum = sizes.reduce(0, +)
        // A line that is in two pieces is read twice.
        let whole = ask(store, limit: sum + (16 << 10)) { $0.tail = 10_000 }
        #expect(whole.lines.count == 2_000 && !whole.isMore)
        // Enough for any one of them.
        let part = ask(store, limit: most * 2) { $0.tail = 10_000 }
        #expect((500..<2_000).contains(part.lines.count) && part.isMore, "\(part.lines.count)")
        #expect(part.lines.last == "gamma 499000")
        #expect(ask(store, limit: 1) { $0.tail = 10_000 } == ([], true))
    }

    @Test("who wrote nothing in that time is not read, and of a long log only what may be of that time")
    func readsLittle() throws {
        let store = store()
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        let piece = 64 << 10
        for number in 0..<500 as Range<UInt64> { store.append(acme, line(now - 7_200_000 + number, String(repeating: "x", count: 100))) }
        store.append(beta, line(now - 60_000))
        store.append(beta, line(now - 30_000))
        store.flush()
        try age(acme)
        #expect(ask(store, limit: piece) { $0.since = now - 600_000 } == (["beta \(now - 60_000)", "beta \(now - 30_000)"], false))
        let newest = ask(store, limit: piece) { $0.tail = 1 }
        #expect(newest == (["beta \(now - 30_000)"], true), "older lines, and those of acme, are left out")
        // Later lines than those that are asked for, in the same segment and in others.
        for bytes in [16 << 20, 4 << 20] as [UInt64] {
            let folder = try EventFolder()
            let store = LogStore(directory: folder.path, bytesPerTenant: bytes, age: .max)
            for number in 1...8_000 as ClosedRange<UInt64> {
                store.append(acme, line(number * 1_000, String(repeating: "x", count: 100)))
                if number % 500 == 0 { store.flush() }
            }
            for first in [1, 1_000, 4_000, 7_990] as [UInt64] {
                let some = ask(store, limit: 512 << 10) { ($0.since, $0.until) = (first * 1_000, first * 1_000 + 9_000) }
                #expect(some == ((first..<first + 10).map { "acme \($0 * 1_000)" }, false), "from \(first)")
            }
        }
    }

    @Test("however many lines are asked for, an answer has a bound in bytes, and they are the newest")
    func answerBound() {
        let store = store()
        for number in 0..<1_500 as Range<UInt64> {
            if number % 200 == 0 { store.flush() }
            store.append(number % 2 == 0 ? acme : beta, line(number, String(repeating: "x", count: 8_000)))
        }
        let found = ask(store) { $0.tail = 10_000 }
        #expect(found.lines.last == "beta 1499" && (900...1_050).contains(found.lines.count) && found.isMore, "\(found.lines.count)")
    }
}
