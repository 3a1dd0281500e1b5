// SPDX-License-Identifier: Apache-2.0
public import Core

/// What a tenant's budget is restored from.
public struct UsageSpent: Hashable, Sendable {
    public var microGBSeconds: UInt64
    public var invocations: UInt64
}

/// How long sums are kept, in days; this bounds the disk.
public struct UsageRetention: Hashable, Sendable {
    /// A month and what may lie around it: the longest window of a budget.
    static let quartersForDays = 40
    /// Sums by the hour; older ones are merged into days of UTC.
    public var hoursForDays: Int
    /// Sums by the day; older ones are forgotten.
    public var daysForDays: Int
    public init(hoursForDays: Int = 35, daysForDays: Int = 730) {
        self.hoursForDays = hoursForDays
        self.daysForDays = daysForDays
    }
}

/// What to sum up.
public struct UsageQuery: Hashable, Sendable {
    public enum Grouping: String, Hashable, Sendable, CaseIterable { case hour, day, function, total }
    /// Nil: each tenant.
    public var tenant: Name?
    /// Since 1970. An hour, or a day that its hours were merged into, counts whole where any of its seconds lies in here.
    public var seconds: Range<Int64>
    public var grouping: Grouping
    public init(tenant: Name? = nil, seconds: Range<Int64> = 0..<Int64.max, by grouping: Grouping = .total) {
        self.tenant = tenant
        self.seconds = seconds
        self.grouping = grouping
    }
}

/// A sum of invocations that have ended.
public struct UsageRow: Hashable, Sendable {
    public var tenant: Name
    /// Nil unless grouped by function.
    public var function: Name?
    /// The first second (since 1970) of the hour or the day, else of the first hour that counts.
    public var start: Int64
    public var invocations: UInt64
    /// Those whose outcome was not `ok`.
    public var errors: UInt64
    public var microGBSeconds: UInt64
    public var cpuUs: UInt64
    public var durationUs: UInt64

    public var gbSeconds: Double { Double(microGBSeconds) / 1e6 }
    public var cpuSeconds: Double { Double(cpuUs) / 1e6 }
    public var durationSeconds: Double { Double(durationUs) / 1e6 }
}
