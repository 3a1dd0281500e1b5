// SPDX-License-Identifier: Apache-2.0

/// Durations in buckets of bounded number and relative width: eight to each doubling, so a quantile is at most 6.25 % off. About 300 counters at most, and
/// only as many as the longest duration needs.
public struct LatencyHistogram: Hashable, Sendable {
    private static let stepsPerDoubling = 8
    /// A day and more; longer ones count as this.
    private static let longest: UInt64 = 1 << 37

    private var counts: [UInt32] = []
    public private(set) var count: UInt64 = 0

    public init() {}

    public mutating func add(_ duration: Nanoseconds) {
        let index = Self.index(duration / 1000)
        while counts.count <= index { counts.append(0) }
        if counts[index] < .max { counts[index] += 1 }
        count += 1
    }

    public mutating func add(_ other: LatencyHistogram) {
        while counts.count < other.counts.count { counts.append(0) }
        for (index, more) in other.counts.enumerated() {
            let (sum, overflow) = counts[index].addingReportingOverflow(more)
            counts[index] = overflow ? .max : sum
        }
        count += other.count
    }

    /// The duration that `share` (0 to 1) of all are at or below, in nanoseconds; nil where there are none.
    public func quantile(_ share: Double) -> Nanoseconds? {
        guard count > 0 else { return nil }
        let rank = max(1, UInt64((share * Double(count)).rounded(.up)))
        var seen: UInt64 = 0
        for (index, number) in counts.enumerated() {
            seen += UInt64(number)
            if seen >= rank { return Self.middle(index) * 1000 }
        }
        return Self.middle(max(0, counts.count - 1)) * 1000
    }

    /// How many took longer than `duration`, to the width of a bucket.
    public func count(above duration: Nanoseconds) -> UInt64 {
        counts.dropFirst(Self.index(duration / 1000) + 1).reduce(0) { $0 + UInt64($1) }
    }

    /// Microseconds below 8 have a bucket each; above, the three bits behind the first one choose among eight.
    private static func index(_ microseconds: UInt64) -> Int {
        let value = min(microseconds, longest)
        guard value >= UInt64(stepsPerDoubling) else { return Int(value) }
        let exponent = 63 - value.leadingZeroBitCount
        return (exponent - 2) * stepsPerDoubling + Int(value >> UInt64(exponent - 3)) - stepsPerDoubling
    }

    private static func middle(_ index: Int) -> UInt64 {
        guard index >= stepsPerDoubling else { return UInt64(index) }
        let exponent = index / stepsPerDoubling + 2
        let low = UInt64(index % stepsPerDoubling + stepsPerDoubling) << UInt64(exponent - 3)
        return low + (UInt64(1) << UInt64(exponent - 3)) / 2
    }
}
