// SPDX-License-Identifier: Apache-2.0
public import Core
public import Foundation

/// Which of the kept lines are asked for.
public struct ExplanationQuery: Sendable {
    /// Nil for all.
    public var tenant: Name?
    /// When the invocation ended, in milliseconds since 1970, both included.
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    /// How many at most, the newest.
    public var limit = 100
    /// How many bytes are read for one answer: more than one tenant may have.
    public var readLimit = 64 << 20
    public init() {}
}

extension ExplanationStore {
    /// A file, and when the last of its lines was written, which is no earlier than any of them ended.
    private struct Segment {
        var path: String
        var bytes: Int
        var last: UInt64
    }

    /// By how much a line's time and its file's may differ: a line is written a second after its end, later where the disk is busy.
    private static let slack: UInt64 = 60_000

    /// The newest lines that `select` takes, which says when each one's invocation ended, the oldest first; and whether some may have been left out, for their number or for what would
    /// have to be read.
    ///
    /// Reads what may hold the time that is asked for, the newest first, and holds up nobody who writes: a line that is half written has no end yet and is not told.
    public func newest<Value>(_ query: ExplanationQuery, _ select: (Data) -> (time: UInt64, value: Value)?) -> (
        values: [Value], isMore: Bool
    ) {
        var found: [(time: UInt64, value: Value)] = []
        var (read, isMore) = (0, false)
        for segment in segments(query) {
            // All that are left are older than what there is already.
            if found.count == query.limit, let oldest = found.last, segment.last &+ Self.slack < oldest.time {
                isMore = true
                break
            }
            guard read == 0 || read + segment.bytes <= query.readLimit else {
                isMore = true
                break
            }
            guard let data = FileManager.default.contents(atPath: segment.path) else { continue }
            read += data.count
            let whole = data[..<(data.lastIndex(of: 0x0A) ?? data.startIndex)]
            for line in whole.split(separator: 0x0A) {
                guard let blank = line.firstIndex(of: 0x20), let one = select(Data(line[(blank + 1)...])) else { continue }
                if one.time >= query.since, one.time <= query.until { found.append(one) }
            }
            found.sort { $0.time > $1.time }
            if found.count > query.limit {
                isMore = true
                found.removeLast(found.count - query.limit)
            }
        }
        return (found.reversed().map(\.value), isMore)
    }

    /// Those that may hold the time that is asked for, the newest first.
    private func segments(_ query: ExplanationQuery) -> [Segment] {
        var found: [Segment] = []
        for folder in query.tenant.map({ [folder($0)] }) ?? folders() {
            // A segment's lines ended after those of the one before it were written.
            var before: UInt64 = 0
            for number in numbers(folder) {
                let path = "\(folder)/\(number).jsonl"
                guard let attributes = try? FileManager.default.attributesOfItem(atPath: path),
                    let bytes = attributes[.size] as? Int, let changed = attributes[.modificationDate] as? Date
                else { continue }
                let last = UInt64(max(0, changed.timeIntervalSince1970 * 1000))
                if last + Self.slack >= query.since, before <= query.until { found.append(Segment(path: path, bytes: bytes, last: last)) }
                before = last > Self.slack ? last - Self.slack : 0
            }
        }
        return found.sorted { $0.last > $1.last }
    }
}
