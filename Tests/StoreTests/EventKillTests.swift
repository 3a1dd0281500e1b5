// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Testing

@testable import Store

/// A driver's life, and what outlived it.
private struct Life {
    var new: [InvocationID: Int] = [:]
    var ended: [InvocationID: EventState] = [:]
    var tokens: [UInt64] = []
    var failed = 0
    var refused = 0
    var lines = 0

    init(log: String) {
        // The last line may be cut.
        let lines =
            (try? String(contentsOfFile: log, encoding: .utf8))?.split(separator: "\n", omittingEmptySubsequences: false).dropLast() ?? []
        for line in lines {
            let words = line.split(separator: " ")
            self.lines += 1
            switch words.first {
            case "failed": failed += 1
            case "refused": refused += 1
            case "new": if let id = InvocationID(words[1]) { new[id] = Int(words[2]) }
            case "lease": if let token = UInt64(words[2]) { tokens.append(token) }
            case "end": if let id = InvocationID(words[1]) { ended[id] = Int(words[2]).flatMap { EventState(rawValue: $0) } }
            default: break
            }
        }
    }
}

/// What all lives of one store have confirmed, and what is wrong with the store.
private struct Ledger {
    var new: [InvocationID: Int] = [:]
    var ended: [InvocationID: EventState] = [:]
    var terminal: [InvocationID: EventState] = [:]
    var lastToken: UInt64 = 0

    mutating func add(_ life: Life) {
        new.merge(life.new) { first, _ in first }
        ended.merge(life.ended) { _, last in last }
        #expect(life.tokens.allSatisfy { $0 > lastToken } && Set(life.tokens).count == life.tokens.count, "a token was given twice")
        lastToken = life.tokens.max() ?? lastToken
    }

    /// Acknowledged events that are gone, or that have lost their end.
    mutating func lost(in store: EventStore) throws -> Int {
        var found: [InvocationID: EventRecord] = [:]
        for event in try store.all(EventQuery(limit: 1_000)) {
            #expect(found.updateValue(event, forKey: event.id) == nil, "twice in the list")
        }
        var lost = new.keys.count { found[$0] == nil }
        for (id, state) in ended where found[id]?.state != state { lost += 1 }
        for (id, state) in terminal where found[id].map({ $0.state != state }) ?? false { Issue.record("\(id) has a second end") }
        for event in found.values where event.state.isTerminal { terminal[event.id] = event.state }
        for event in found.values.filter({ $0.payloadBytes > EventFiles.inlineLimit }) {
            let bytes = try store.payload(event.id, of: event.function.tenant)?.bytes()
            #expect(bytes?.count == event.payloadBytes)
        }
        var told: [InvocationID: Int] = [:]
        var last: Int64 = 0
        while let page = Optional(try store.destinations(after: last, limit: 1_000)), let end = page.last {
            for record in page { told[record.event, default: 0] += 1 }
            last = end.number
        }
        for event in found.values {
            let expected = event.state.isTerminal && !event.destination.isEmpty ? 1 : 0
            #expect(told[event.id, default: 0] == expected, "\(event.id) \(event.state)")
        }
        let keys = Dictionary(grouping: found.values.filter { $0.key != nil }) { "\($0.function) \($0.key ?? "")" }
        #expect(keys.values.allSatisfy { $0.count == 1 }, "a key has two events")
        let imbalance = try store.imbalance()
        #expect(imbalance == nil)
        return lost
    }
}

private enum Driver {
    static let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .path
    static var path: String? {
        let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path
        return [folder, Bundle.main.bundlePath, top + "/.build/debug"].map { $0 + "/event-driver" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    static func spawn(_ words: [String], _ environment: [String] = []) throws -> pid_t {
        var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
        var variables = unsafe (ProcessInfo.processInfo.environment.map { "\($0)=\($1)" } + environment).map { unsafe strdup($0) } + [nil]
        defer {
            for index in unsafe arguments.indices { unsafe free(arguments[index]) }
            for index in unsafe variables.indices { unsafe free(variables[index]) }
        }
        var pid: pid_t = 0
        let result = unsafe posix_spawnp(&pid, words[0], nil, nil, &arguments, &variables)
        try #require(result == 0, "start \(words[0])")
        return pid
    }

    static func end(of pid: pid_t) -> Int32 {
        var status: Int32 = 0
        unsafe waitpid(pid, &status, 0)
        return status
    }

    /// Starts a driver and kills it, at some moment of its work or of its start.
    static func live(_ folder: String, _ log: String, seed: UInt64, run: Int, _ mode: String = "FULL", _ environment: [String] = []) throws
        -> Life
    {
        let pid = try spawn([try #require(path, "build event-driver"), folder, log, "\(seed)", "\(run)", mode], environment)
        if run % 4 == 3 {
            usleep(UInt32.random(in: 5_000..<60_000))
        } else {
            let limit = ContinuousClock.now + .seconds(30)
            let lines = Int.random(in: 1...150)
            while Life(log: log).lines < lines, ContinuousClock.now < limit { usleep(300) }
            usleep(UInt32.random(in: 0..<3_000))
        }
        kill(pid, SIGKILL)
        #expect(end(of: pid) == SIGKILL, "the driver ended by itself")
        let life = Life(log: log)
        #expect(life.refused == 0)
        return life
    }
}

/// `BULKHEAD_CRASH_ROUNDS=48 swift test --filter EventKillTests` makes 9,984 kills, `14` with `EventPowerTests` 1,008 cuts of the power.
private let crashRounds = UInt64(ProcessInfo.processInfo.environment["BULKHEAD_CRASH_ROUNDS"] ?? "") ?? 1

@Suite(.serialized) struct EventKillTests {
    /// 8 x 26 kills; every third time two follow each other, so that a recovery is killed as well.
    @Test("killed at any instruction: nothing that was confirmed is lost, no event ends twice", arguments: 0..<8 * crashRounds)
    func kills(seed: UInt64) throws {
        let folder = try EventFolder()
        let logs = try EventFolder()
        var ledger = Ledger()
        for run in 0..<26 {
            let life = try Driver.live(folder.path, "\(logs.path)/\(run)", seed: seed, run: run)
            ledger.add(life)
            guard run % 3 != 1 else { continue }
            let store = try folder.open(at: EventFixture.base + UInt64(run) * 1_000)
            #expect(try ledger.lost(in: store) == 0, "seed \(seed), run \(run)")
            store.close()
        }
        print("events: 26 kills, \(ledger.new.count) confirmed, \(ledger.ended.count) ends confirmed, 0 lost, seed \(seed)")
        #expect(ledger.new.count > 200 && ledger.ended.count > 100)
    }
}

/// The power fails: only what was flushed is left, and of the rest any blocks.
@Suite(.serialized) struct EventPowerTests {
    /// The library that stands for the disk, built once.
    private static let disk: String? = {
        let library = NSTemporaryDirectory() + "disk-\(UUID().uuidString).so"
        let source = Driver.top + "/Tests/EventDriver/disk.c"
        guard let pid = try? Driver.spawn(["cc", "-O2", "-shared", "-fPIC", "-o", library, source]) else { return nil }
        return Driver.end(of: pid) == 0 ? library : nil
    }()

    private func cuts(_ count: Int, seed: UInt64, _ mode: String) throws -> (lost: Int, confirmed: Int) {
        let disk = try #require(Self.disk, "cc must build disk.c")
        let logs = try EventFolder()
        var random = Seeded(state: seed)
        var ledger = Ledger()
        var folder = try EventFolder()
        for run in 0..<count {
            let kept = try EventFolder()
            // What the last cut has left is on the disk.
            try Self.copy(folder.path, to: kept.path)
            // Not at the start: whoever makes the directory flushes its name, and here nobody does.
            let environment = ["LD_PRELOAD=\(disk)", "DISK_ROOT=\(folder.path)", "DISK_KEPT=\(kept.path)"]
            let life = try Driver.live(folder.path, "\(logs.path)/\(run)", seed: seed, run: run * 4, mode, environment)
            if mode == "FULL" { ledger.add(life) } else { ledger.new.merge(life.new) { first, _ in first } }
            let left = try EventFolder()
            try Self.cut(live: folder.path, kept: kept.path, to: left.path, &random)
            folder = left
            let store = try folder.open(at: EventFixture.base + UInt64(run) * 4_000)
            let lost = mode == "FULL" ? try ledger.lost(in: store) : try Self.missing(ledger, store)
            store.close()
            if lost > 0 { return (lost, ledger.new.count) }
        }
        return (0, ledger.new.count)
    }

    private static func missing(_ ledger: Ledger, _ store: EventStore) throws -> Int {
        let found = Set(try store.all(EventQuery(limit: 1_000)).map(\.id))
        return ledger.new.keys.count { !found.contains($0) }
    }

    /// `a/b` is kept as `%a%b`, and the names in `a` as `%a%names`.
    private static func copy(_ folder: String, to kept: String) throws {
        for sub in ["", "/payloads"] {
            let names = (try? FileManager.default.contentsOfDirectory(atPath: folder + sub)) ?? []
            let flat = sub.replacingOccurrences(of: "/", with: "%")
            try names.joined(separator: "\n").write(toFile: "\(kept)/%\(flat)%names", atomically: false, encoding: .utf8)
            for name in names where name != "payloads" {
                try FileManager.default.copyItem(atPath: "\(folder)\(sub)/\(name)", toPath: "\(kept)/%\(flat)%\(name)")
            }
        }
    }

    private static func cut(live: String, kept: String, to left: String, _ random: inout Seeded) throws {
        for sub in ["", "/payloads"] {
            let flat = sub.replacingOccurrences(of: "/", with: "%")
            let names = (try? String(contentsOfFile: "\(kept)/%\(flat)%names", encoding: .utf8)) ?? ""
            try FileManager.default.createDirectory(atPath: left + sub, withIntermediateDirectories: true)
            for name in names.split(separator: "\n") where name != "payloads" && !name.hasSuffix("-shm") {
                var bytes = FileManager.default.contents(atPath: "\(kept)/%\(flat)%\(name)") ?? Data()
                // A file whose name is durable but that was never flushed is empty, or holds some of what was written.
                let written = FileManager.default.contents(atPath: "\(live)\(sub)/\(name)") ?? Data()
                if random.chance(2) { mix(&bytes, written, &random) }
                try bytes.write(to: URL(fileURLWithPath: "\(left)\(sub)/\(name)"))
            }
        }
    }

    /// Some of the blocks that were written and not flushed reach the disk all the same, in any order.
    private static func mix(_ bytes: inout Data, _ written: Data, _ random: inout Seeded) {
        let one = 1 + random.below(4)
        for start in stride(from: 0, to: written.count, by: 512) where random.below(4) < one {
            let end = min(start + 512, written.count)
            if bytes.count < end { bytes.append(Data(repeating: 0, count: end - bytes.count)) }
            bytes.replaceSubrange(start..<end, with: written[start..<end])
        }
    }

    @Test("the power fails at any moment: nothing that was confirmed is lost", arguments: 0..<6 * crashRounds)
    func full(seed: UInt64) throws {
        let (lost, confirmed) = try cuts(12, seed: seed, "FULL")
        #expect(lost == 0, "seed \(seed)")
        #expect(confirmed > 100)
        print("events: 12 power cuts, \(confirmed) confirmed, \(lost) lost, seed \(seed)")
    }

    @Test("and with synchronous=NORMAL it is lost: the test can see it")
    func control() throws {
        let lost = try (100..<106 as Range<UInt64>).map { try cuts(4, seed: $0, "NORMAL").lost }
        #expect(lost.contains { $0 > 0 })
        print("events: with synchronous=NORMAL the power cuts lost \(lost)")
    }

    @Test("after a failed flush nothing is confirmed any more, and the next start has what was", arguments: 1..<12)
    func failedFlush(number: Int) throws {
        let disk = try #require(Self.disk, "cc must build disk.c")
        let folder = try EventFolder()
        let (kept, logs) = (try EventFolder(), try EventFolder())
        try folder.open().close()
        try Self.copy(folder.path, to: kept.path)
        let words = [try #require(Driver.path), folder.path, "\(logs.path)/0", "\(number)", "1"]
        let pid = try Driver.spawn(
            words, ["LD_PRELOAD=\(disk)", "DISK_ROOT=\(folder.path)", "DISK_KEPT=\(kept.path)", "DISK_FAIL=\(10 + number * 3)"])
        let limit = ContinuousClock.now + .seconds(30)
        // What was confirmed just before may still be on its way to the log: until each of the four that submit has said that it was refused.
        while true {
            let life = Life(log: "\(logs.path)/0")
            if life.failed > 0 && life.refused >= 4 || ContinuousClock.now >= limit { break }
            usleep(1_000)
        }
        let first = Life(log: "\(logs.path)/0")
        usleep(20_000)
        let later = Life(log: "\(logs.path)/0")
        kill(pid, SIGKILL)
        _ = Driver.end(of: pid)
        #expect(later.failed == 1, "told once")
        #expect(later.new == first.new && later.ended == first.ended, "nothing is confirmed after it")
        // And what was confirmed before it is on the disk.
        let left = try EventFolder()
        var random = Seeded(state: UInt64(number))
        try Self.cut(live: folder.path, kept: kept.path, to: left.path, &random)
        var ledger = Ledger()
        ledger.add(later)
        let store = try left.open(at: EventFixture.base + 1_000)
        #expect(try ledger.lost(in: store) == 0)
        store.close()
    }
}
