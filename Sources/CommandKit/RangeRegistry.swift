// SPDX-License-Identifier: Apache-2.0

/// Which running node of this machine holds which ids: two nodes never share one. Kept as text, one line a node:
/// `FIRST COUNT SECONDS STATE-DIRECTORY`.
public struct RangeRegistry: Sendable {
    public struct Entry: Hashable, Sendable {
        public var range: IDRange
        /// When the node was started, seconds since 1970.
        public var since: Int
        public var stateDirectory: String
        public init(range: IDRange, since: Int, stateDirectory: String) {
            self.range = range
            self.since = since
            self.stateDirectory = stateDirectory
        }
    }

    /// How long a node is believed to be starting, although it does not hold its lock yet. Seconds.
    public static let startGrace = 20

    public private(set) var entries: [Entry]

    public init(parsing text: String) {
        entries = text.split(whereSeparator: \.isNewline).compactMap { line in
            let parts = line.split(separator: " ", maxSplits: 3)
            guard parts.count == 4, let first = UInt32(parts[0]), let count = UInt32(parts[1]), count > 0, let since = Int(parts[2])
            else { return nil }
            return Entry(range: IDRange(first: first, count: count), since: since, stateDirectory: String(parts[3]))
        }
    }

    public var text: String {
        entries.map { "\($0.range.first) \($0.range.count) \($0.since) \($0.stateDirectory)\n" }.joined()
    }

    /// Takes a range for a node and forgets the nodes that no longer run.
    ///
    /// - Parameters:
    ///   - taken: what accounts and containers hold.
    ///   - isRunning: whether the node of a state directory holds its lock.
    /// - Returns: the range; the one that this state directory had before where it is still free.
    public mutating func take(
        for stateDirectory: String, at now: Int, taken: [IDRange], isRunning: (String) -> Bool
    ) -> IDRange? {
        let previous = entries.first { $0.stateDirectory == stateDirectory }?.range
        entries.removeAll { entry in
            entry.stateDirectory == stateDirectory
                || (!(0...Self.startGrace).contains(now - entry.since) && !isRunning(entry.stateDirectory))
        }
        let others = taken + entries.map { IDRange(first: $0.range.first &- 1, count: $0.range.count &+ 1) }
        var range = previous
        if let held = previous, others.contains(where: { $0.overlaps(IDRange(first: held.first &- 1, count: held.count &+ 1)) }) {
            range = nil
        }
        guard let range = range ?? IDRange.free(besides: others) else { return nil }
        entries.append(Entry(range: range, since: now, stateDirectory: stateDirectory))
        return range
    }
}
