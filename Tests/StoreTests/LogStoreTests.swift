// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Testing

@testable import Store

@Suite struct LogStoreTests {
    private let directory: String
    private let tenant: Name

    init() throws {
        directory = NSTemporaryDirectory() + "logs-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        tenant = try #require(FunctionIDs.sample?.tenant)
    }

    private func line(
        _ time: UInt64, _ text: String = "", level: String = "info", invocation: String = "", function: String = "f"
    ) -> LogRecord {
        LogRecord(
            time: time, function: function, version: 1, worker: "w-1", invocation: invocation, stream: "stdout", level: level, text: text)
    }

    private func sizes(_ name: String? = nil) throws -> [String: Int] {
        let folder = directory + "/" + (name ?? tenant.text)
        return try FileManager.default.contentsOfDirectory(atPath: folder).reduce(into: [:]) { sizes, file in
            sizes[file] = try FileManager.default.attributesOfItem(atPath: folder + "/" + file)[.size] as? Int
        }
    }

    /// All that comes after a position, read in pages as a follower does.
    private func rest(_ store: LogStore, _ position: inout LogPosition, page: Int = 1000, gaps: inout Int) -> [UInt64] {
        var times: [UInt64] = []
        while true {
            var query = LogQuery()
            (query.after, query.tail) = (position, page)
            let found = store.page(tenant, query)
            times += found.lines.map(\.time)
            position = found.position
            gaps += found.isGap ? 1 : 0
            if !found.isMore { return times }
        }
    }

    @Test("however many lines are asked for, an answer has a bound in bytes, and they are the newest")
    func answerBound() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 64 << 20, age: .max)
        for number in 0..<1_500 as Range<UInt64> {
            if number % 200 == 0 { store.flush() }
            store.append(tenant, line(number, String(repeating: "x", count: 8_000)))
        }
        store.flush()
        var query = LogQuery()
        query.tail = 10_000
        let found = store.query(tenant, query)
        #expect(found.last?.time == 1_499 && (900...1_050).contains(found.count), "\(found.count) lines of 8 KB")
        #expect(found.map(\.time) == (1_500 - UInt64(found.count)..<1_500).map { $0 })
    }

    @Test("lines come back in order, filtered; the store stays within its bound")
    func bounded() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        for number in 0..<12_000 as Range<UInt64> {
            if number % 1000 == 0 { store.flush() }
            let text = "line \(number) " + String(repeating: "x", count: 100)
            store.append(tenant, line(number, text, function: number % 2 == 0 ? "f" : "g"))
        }
        store.flush()
        var query = LogQuery()
        query.function = "f"
        query.tail = 3
        #expect(store.query(tenant, query).map(\.time) == [11_994, 11_996, 11_998])
        let size = try sizes().values.reduce(0, +)
        #expect(size <= 1 << 20 && size > 1 << 19, "\(size) bytes are kept of a bound of \(1 << 20)")
    }

    @Test("a follower gets every line once, through many rotations, restarts and pages of every size")
    func follows() {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        var store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        var position = LogPosition.start
        var (got, gaps): ([UInt64], Int) = ([], 0)
        var number: UInt64 = 0
        for round in 0..<40 {
            // One round is less than what is kept, and all of them are many times as much.
            for _ in 0..<900 {
                store.append(tenant, line(number, String(repeating: "y", count: 300)))
                number += 1
            }
            if round % 10 == 9 {
                store.flush()
                store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
            }
            got += rest(store, &position, page: [1, 7, 1000][round % 3], gaps: &gaps)
        }
        #expect(got == Array(0..<number))
        #expect(gaps == 0)
    }

    @Test("who reads while lines are written misses none")
    func concurrent() {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 4 << 20, age: .max)
        let (tenant, record) = (tenant, line(0, String(repeating: "z", count: 200)))
        let writing = DispatchGroup()
        // Not a task: its turn comes when the tests beside this one let go of the few threads that tasks have.
        DispatchQueue(label: "writing").async(group: writing) {
            for number in 0..<8000 as Range<UInt64> {
                var next = record
                next.time = number
                store.append(tenant, next)
                if number % 200 == 0 { store.flush() }
            }
        }
        var (position, got, gaps) = (LogPosition.start, [UInt64](), 0)
        let end = ContinuousClock.now + .seconds(60)
        while got.count < 8000, ContinuousClock.now < end { got += rest(store, &position, gaps: &gaps) }
        writing.wait()
        #expect(got.count == 8000 && got == Array(0..<8000), "\(got.count) lines")
        #expect(gaps == 0)
    }

    @Test("who is too slow is told that lines are gone, and goes on with the oldest that is there")
    func gap() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        store.append(tenant, line(0))
        var (position, gaps) = (LogPosition.start, 0)
        #expect(rest(store, &position, gaps: &gaps) == [0] && gaps == 0)
        for number in 1...9000 as ClosedRange<UInt64> {
            store.append(tenant, line(number, String(repeating: "y", count: 300)))
            if number % 1000 == 0 { store.flush() }
        }
        let got = rest(store, &position, gaps: &gaps)
        #expect(gaps == 1)
        #expect(got.first.map { $0 > 1 } == true && got.last == 9000 && got == Array((got.first ?? 0)...9000))
        // A position of a log that is not this one.
        position = LogPosition(segment: 1000, offset: 0)
        #expect(rest(store, &position, gaps: &gaps).last == 9000 && gaps == 2)
    }

    @Test("level, time and text choose, from the end and from a position alike; a position behind the newest lines goes on from there")
    func filters() {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        for number in 0..<40 as Range<UInt64> {
            let text = number % 3 == 0 ? "a \"quoted\" word" : "plain \(number)"
            let level = ["debug", "info", "warning", "error"][Int(number % 4)]
            store.append(tenant, line(number, text, level: level, invocation: number % 2 == 0 ? "aa" : "bb"))
        }
        var query = LogQuery()
        (query.levels, query.since, query.until, query.grep) = (["warning", "error"], 10, 30, "\"quoted\"")
        let expected: [UInt64] = [15, 18, 27, 30]
        #expect(store.query(tenant, query).map(\.time) == expected)
        query.after = .start
        #expect(store.query(tenant, query).map(\.time) == expected)
        query.invocation = "aa"
        #expect(store.query(tenant, query).map(\.time) == [18, 30])
        (query.grep, query.invocation) = ("plain 1", nil)
        #expect(store.query(tenant, query).map(\.time) == [10, 11, 14, 19])
        var newest = LogQuery()
        newest.tail = 2
        let page = store.page(tenant, newest)
        #expect(page.lines.map(\.time) == [38, 39])
        store.append(tenant, line(40))
        newest.after = page.position
        #expect(store.page(tenant, newest).lines.map(\.time) == [40])
    }

    @Test("old lines are neither shown nor kept, also of a tenant that writes no more, and no position is used twice")
    func age() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        let store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .seconds(3600))
        store.append(tenant, line(now - 7_200_000, "old"))
        store.append(tenant, line(now, "new"))
        #expect(store.query(tenant, LogQuery()).map(\.text) == ["new"])
        store.prune()
        #expect(try sizes().count == 1, "what is young stays")
        let file = "\(directory)/\(tenant)/1.jsonl"
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSinceNow: -7200)], ofItemAtPath: file)
        // Another run, whose writer has not opened it.
        let later = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .seconds(3600))
        later.prune()
        #expect(try sizes() == ["2.jsonl": 0])
        later.prune()
        #expect(try sizes() == ["2.jsonl": 0])
    }

    @Test("a line that an end of the power cut is skipped, and the one after it is not")
    func torn() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        store.append(tenant, line(1))
        store.flush()
        let file = try #require(FileHandle(forWritingAtPath: "\(directory)/\(tenant)/1.jsonl"))
        try file.seekToEnd()
        try file.write(contentsOf: Data("{\"time\":2,".utf8))
        try file.close()
        var (position, gaps) = (LogPosition.start, 0)
        #expect(rest(store, &position, gaps: &gaps) == [1])
        let next = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        next.append(tenant, line(3))
        #expect(rest(next, &position, gaps: &gaps) == [3])
    }

    @Test("a flood is cut and says so, and takes nothing from a tenant that writes little")
    func flood() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 512 << 20, age: .max)
        let others = try (0..<12).map { try #require(Name("loud-\($0)")) }
        let quiet = tenant
        store.whileStill {
            let long = String(repeating: "f", count: 16 << 10)
            for other in others { for number in 0..<400 as Range<UInt64> { store.append(other, line(number, long)) } }
            store.append(quiet, line(7, "still here"))
        }
        // Else it may be one more that there is no room for.
        store.flush()
        store.append(others[0], line(400, "after"))
        store.flush()
        var query = LogQuery()
        query.tail = 2
        #expect(store.query(quiet, query).map(\.text) == ["still here"])
        let all = try sizes(others[0].text).values.reduce(0, +)
        #expect(all < LogStore.backlogOfTenant + (1 << 20))
        query.tail = 1000
        query.grep = "lines were dropped"
        #expect(store.query(others[0], query).count == 1)
    }

    @Test("more tenants than files may be open")
    func manyTenants() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = LogStore(directory: directory, bytesPerTenant: 1 << 20, age: .max)
        let names = try (0..<(LogStore.openFiles + 20)).map { try #require(Name("t-\($0)")) }
        for round in 0..<2 as Range<UInt64> { for name in names { store.append(name, line(round)) } }
        store.flush()
        for name in names { #expect(store.query(name, LogQuery()).map(\.time) == [0, 1]) }
        let open = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").filter {
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/" + $0))?.hasPrefix(directory) == true
        }
        #expect(open.count <= LogStore.openFiles)
    }

    @Test("whatever a worker writes is fit for a terminal")
    func escapes() {
        #expect(escaped([0x1B, 0x5B, 0x32, 0x4A, 0x0A, 0x41]) == "\\x1b[2J\\x0aA")
        #expect(escaped(Array(repeating: 0x41, count: 100), limit: 10) == "AAAAAAAAAA...")
    }
}
