// SPDX-License-Identifier: Apache-2.0
public import Core

/// Quantities as people write them: `256MiB`, `30s`, `2.5`, `200/s burst 400`, `3600 GB-s/hour`. Each returns nil for anything else; overflow is "anything else".
enum Units {
    private static let sizes: [(String, UInt64)] = [
        ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000),
        ("B", 1),
    ]
    private static let spans: [(String, UInt64)] = [
        ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000), ("d", 86_400_000_000_000),
    ]
    private static let periods: [String: Nanoseconds] = [
        "s": .seconds(1), "second": .seconds(1), "m": .seconds(60), "minute": .seconds(60), "h": .seconds(3600), "hour": .seconds(3600),
        "day": .seconds(86_400), "month": .seconds(2_592_000),
    ]

    static func bytes(_ text: String) -> UInt64? { scaled(text, sizes) }
    static func span(_ text: String) -> Nanoseconds? { scaled(text, spans) }

    private static func scaled(_ text: String, _ units: [(String, UInt64)]) -> UInt64? {
        for (suffix, factor) in units where text.hasSuffix(suffix) {
            guard let value = whole(text.dropLast(suffix.count)) else { continue }
            let (product, overflow) = value.multipliedReportingOverflow(by: factor)
            return overflow ? nil : product
        }
        return nil
    }

    /// Digits and nothing else: `UInt64("+5")` would be 5.
    private static func whole(_ text: some StringProtocol) -> UInt64? {
        text.utf8.allSatisfy { (48...57).contains($0) } ? UInt64(text) : nil
    }

    /// Thousandths: `2.0` is 2000.
    static func thousandths(_ text: String) -> UInt64? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count <= 2, let units = whole(parts[0]), units < 1 << 40 else { return nil }
        guard parts.count == 2 else { return units * 1000 }
        guard (1...3).contains(parts[1].count), let fraction = whole(parts[1]) else { return nil }
        return units * 1000 + fraction * [100, 10, 1][parts[1].count - 1]
    }

    /// `200/s burst 400`; without a burst, one second's worth.
    static func rate(_ text: String) -> Rate? {
        let words = text.split(separator: " ")
        guard let head = words.first, words.count == 1 || (words.count == 3 && words[1] == "burst") else { return nil }
        let parts = head.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let count = whole(parts[0]), count > 0, count <= 1_000_000, let period = periods[String(parts[1])] else {
            return nil
        }
        let burst = words.count == 3 ? whole(words[2]) : count
        guard let burst, burst > 0, burst <= 10_000_000 else { return nil }
        return Rate(count: count, period: period, burst: burst)
    }

    /// `3600 GB-s/hour`; a budget's period is hour, day or month.
    static func compute(_ text: String) -> BudgetCeiling? {
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 2, words[1].hasPrefix("GB-s/"), let amount = UInt64(words[0]), amount > 0,
            let period = BudgetPeriod(rawValue: String(words[1].dropFirst(5)))
        else { return nil }
        let (limit, overflow) = amount.multipliedReportingOverflow(by: 1_000_000)
        return overflow ? nil : BudgetCeiling(limit: limit, period: period)
    }

    /// `100000/day`; a budget's period is hour, day or month.
    static func count(_ text: String) -> BudgetCeiling? {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let limit = UInt64(parts[0]), limit > 0, let period = BudgetPeriod(rawValue: String(parts[1])) else {
            return nil
        }
        return BudgetCeiling(limit: limit, period: period)
    }
}

/// A rate with a burst.
public struct Rate: Hashable, Sendable {
    public var count: UInt64
    public var period: Nanoseconds
    public var burst: UInt64
    public init(count: UInt64, period: Nanoseconds, burst: UInt64) {
        self.count = count
        self.period = period
        self.burst = burst
    }
}
