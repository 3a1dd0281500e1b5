// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store

/// What durability costs: `event-bench [--json] [--seconds S] [--queued N] [DIRECTORY]`. The directory should lie on the disk that is meant, not on a tmpfs.
///
/// Durable enqueue by 1, 64 and 256 clients, each of which submits again as soon as it is answered, beside bare SQLite with the same number of rows a commit,
/// the same payload and as many flushes, in turns in one run: once with one row in one table, and once with the event store's own tables; the full cycle of enqueue, claim and settle; and the opening of a store with many queued events.
@main struct Main {
    static func main() throws {
        var words = Array(CommandLine.arguments.dropFirst())
        let isJSON = take("--json", from: &words) != nil
        let seconds = take("--seconds", from: &words, hasValue: true).flatMap(Double.init) ?? 2
        let queued = take("--queued", from: &words, hasValue: true).flatMap(Int.init) ?? 1_000_000
        let folder = (words.first ?? NSTemporaryDirectory()) + "/event-bench-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }

        var lines: [String] = []
        var json: [String] = []
        for clients in [1, 64, 256] {
            let row = try compare(clients, rounds: 5, seconds: seconds, folder)
            lines.append(row.text)
            json.append(row.json)
        }
        let cycle = try EventBench(folder: "\(folder)/cycle").cycle(clients: 256, seconds: seconds * 2)
        lines.append("full cycle (enqueue, claim, settle), 256 clients: \(Int(cycle)) a second")
        let opening = try EventBench(folder: "\(folder)/open").opening(queued)
        lines.append(opening.text)
        json.append("{\"cycles_per_second\":\(Int(cycle))}")
        json.append(opening.json)
        print(isJSON ? "[\(json.joined(separator: ","))]" : lines.joined(separator: "\n"))
    }

    private static func take(_ name: String, from words: inout [String], hasValue: Bool = false) -> String? {
        guard let index = words.firstIndex(of: name) else { return nil }
        words.remove(at: index)
        return hasValue && index < words.count ? words.remove(at: index) : name
    }

    /// In turns, so that a disk that gets slower does so for all; the medians of the rounds' ratios.
    private static func compare(_ clients: Int, rounds: Int, seconds: Double, _ folder: String) throws -> (text: String, json: String) {
        let bench = try EventBench(folder: "\(folder)/\(clients)")
        let peers = try [RawSQLite.Kind.bare, .events].map { try RawSQLite(path: "\(folder)/\($0)-\(clients).sqlite", kind: $0) }
        var ours = Sample()
        var theirs = [Sample(), Sample()]
        var ratios: [[Double]] = [[], []]
        for _ in 0..<rounds {
            let before = peers.map { $0.insert(rowsPerCommit: clients, seconds: seconds / 2) }
            let mine = bench.enqueue(clients: clients, seconds: seconds)
            let after = peers.map { $0.insert(rowsPerCommit: clients, seconds: seconds / 2) }
            ours.add(mine)
            for index in peers.indices {
                ratios[index].append(2 * mine.perSecond / (before[index].perSecond + after[index].perSecond))
                theirs[index].add(before[index])
                theirs[index].add(after[index])
            }
        }
        let median = ratios.map { $0.sorted()[rounds / 2] }
        let names = ["one row with one index", "the same tables"]
        let beside = names.indices.map { index in
            "\n  SQLite, \(clients) a commit, \(names[index]): \(theirs[index].text); ratio \(String(format: "%.2f", median[index])) "
                + "(\(ratios[index].sorted().map { String(format: "%.2f", $0) }.joined(separator: " ")))"
        }
        let json =
            "{\"clients\":\(clients),\"ratio\":\(median[0]),\"ratio_same_tables\":\(median[1]),\"events\":\(ours.json),"
            + "\"sqlite\":\(theirs[0].json),\"sqlite_same_tables\":\(theirs[1].json)}"
        return ("\(clients) clients: \(ours.text)" + beside.joined(), json)
    }
}

/// Operations and how long each took.
struct Sample {
    var latencies: [UInt64] = []
    var operations = 0
    var seconds = 0.0

    var perSecond: Double { Double(operations) / seconds }
    mutating func add(_ other: Sample) {
        latencies += other.latencies
        operations += other.operations
        seconds += other.seconds
    }
    private func milliseconds(_ quantile: Double) -> String {
        let sorted = latencies.sorted()
        guard !sorted.isEmpty else { return "-" }
        return String(format: "%.2f", Double(sorted[Int(Double(sorted.count - 1) * quantile)]) / 1e6)
    }
    var text: String {
        let each = String(format: "%.1f us each", 1e6 / perSecond)
        return "\(Int(perSecond))/s (\(each)), p50 \(milliseconds(0.5)) ms, p99 \(milliseconds(0.99)) ms"
    }
    var json: String { "{\"per_second\":\(Int(perSecond)),\"p50_ms\":\(milliseconds(0.5)),\"p99_ms\":\(milliseconds(0.99))}" }
}

func ticks() -> UInt64 { DispatchTime.now().uptimeNanoseconds }
