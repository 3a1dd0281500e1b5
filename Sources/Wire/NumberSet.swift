// SPDX-License-Identifier: Apache-2.0

/// Numbers that were given out, mostly one after the other: kept as ranges, so that millions of them take no more than a few.
public struct NumberSet: Hashable, Sendable {
    public private(set) var ranges: [ClosedRange<UInt64>] = []

    public init() {}
    public var isEmpty: Bool { ranges.isEmpty }
    public init(_ numbers: some Sequence<UInt64>) { for number in numbers.sorted() { insert(number) } }
    /// Nil unless the ranges rise.
    public init?(ranges: [ClosedRange<UInt64>]) {
        for (below, above) in zip(ranges, ranges.dropFirst()) where below.upperBound >= above.lowerBound { return nil }
        self.ranges = ranges
    }

    /// The first range that does not end below the number.
    private func place(_ number: UInt64) -> Int {
        var low = 0, high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound < number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    public func contains(_ number: UInt64) -> Bool {
        let index = place(number)
        return index < ranges.count && ranges[index].contains(number)
    }

    /// False where it was there already.
    @discardableResult public mutating func insert(_ number: UInt64) -> Bool {
        let index = place(number)
        guard index == ranges.count || !ranges[index].contains(number) else { return false }
        let endsBelow = index > 0 && ranges[index - 1].upperBound == number &- 1
        let beginsAbove = index < ranges.count && ranges[index].lowerBound == number &+ 1
        switch (endsBelow, beginsAbove) {
        case (true, true):
            ranges[index - 1] = ranges[index - 1].lowerBound...ranges[index].upperBound
            ranges.remove(at: index)
        case (true, false): ranges[index - 1] = ranges[index - 1].lowerBound...number
        case (false, true): ranges[index] = number...ranges[index].upperBound
        case (false, false): ranges.insert(number...number, at: index)
        }
        return true
    }
}
