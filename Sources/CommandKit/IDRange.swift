// SPDX-License-Identifier: Apache-2.0

/// Consecutive uids (and gids of the same numbers).
public struct IDRange: Hashable, Sendable, CustomStringConvertible {
    public var first: UInt32
    /// 1 or more.
    public var count: UInt32
    public init(first: UInt32, count: UInt32) {
        self.first = first
        self.count = count
    }

    public var last: UInt64 { UInt64(first) + UInt64(count) - 1 }
    public func overlaps(_ other: IDRange) -> Bool { UInt64(first) <= other.last && UInt64(other.first) <= last }
    public var description: String { "\(first)-\(last)" }
}

/// Which ids the machine has given away.
public enum TakenIDs {
    /// The ids of `/etc/passwd` (its uids and primary groups) or `/etc/group`: third field, and for `passwd` the fourth.
    public static func accounts(_ text: String, fields: [Int] = [2, 3]) -> [IDRange] {
        var ranges: [IDRange] = []
        for line in text.split(whereSeparator: \.isNewline) {
            let parts = line.split(separator: ":", omittingEmptySubsequences: false)
            for field in fields where field < parts.count {
                if let number = UInt32(parts[field]) { ranges.append(IDRange(first: number, count: 1)) }
            }
        }
        return ranges
    }

    /// The ranges of `/etc/subuid` or `/etc/subgid`: `name:first:count` (subuid(5)).
    public static func subordinate(_ text: String) -> [IDRange] {
        text.split(whereSeparator: \.isNewline).compactMap { line in
            let parts = line.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 3, let first = UInt32(parts[1]), let count = UInt32(parts[2]), count > 0 else { return nil }
            return IDRange(first: first, count: count)
        }
    }
}

extension IDRange {
    /// How many ids a node takes for its workers.
    public static let workerCount: UInt32 = 4096
    /// Where the search begins: above what distributions give to people, services, and one subordinate range.
    public static let workerFirst: UInt32 = 700_000

    /// The first free range of 4,096 ids from 700,000 upwards whose predecessor is free as well: the daemon runs as `first - 1` where the
    /// user `bulkhead` does not exist. Nil where nothing is free below 2^31.
    public static func free(besides taken: [IDRange], count: UInt32 = workerCount, from start: UInt32 = workerFirst) -> IDRange? {
        let sorted = taken.sorted { ($0.first, $0.count) < ($1.first, $1.count) }
        var first = UInt64(start)
        for range in sorted where range.last + 1 >= first {
            if UInt64(range.first) > first + UInt64(count) - 1 { break }
            // Round up, so that ranges stay easy to recognise: 700000, 704096, 708192 ...
            let step = (range.last + 2 - UInt64(start) + UInt64(count) - 1) / UInt64(count)
            first = max(first, UInt64(start) + step * UInt64(count))
        }
        guard first + UInt64(count) < 1 << 31 else { return nil }
        return IDRange(first: UInt32(first), count: count)
    }
}
