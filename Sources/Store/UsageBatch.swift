// SPDX-License-Identifier: Apache-2.0
import Core

/// What some records add up to, and which invocations they leave open.
struct UsageBatch: Sendable {
    struct Hour: Hashable {
        var function: FunctionID
        var hour: UInt64
    }
    struct Quarter: Hashable {
        var tenant: Name
        var quarter: UInt64
    }
    struct Sum {
        var invocations: UInt64 = 0
        var errors: UInt64 = 0
        var compute: UInt64 = 0
        var cpuUs: UInt64 = 0
        var durationUs: UInt64 = 0
    }

    private(set) var hours: [Hour: Sum] = [:]
    private(set) var quarters: [Quarter: Sum] = [:]
    /// Begun here and not ended here.
    private(set) var open: [InvocationID: UsageRecord] = [:]
    /// Ended here and begun before.
    private(set) var closed: [InvocationID] = []
    /// The latest time, in milliseconds since 1970.
    var clock: UInt64 = 0

    mutating func add(_ record: UsageRecord) {
        clock = max(clock, record.wallMs)
        switch record.kind {
        case .begin: open[record.id] = record
        case .settle, .void:
            if open.removeValue(forKey: record.id) == nil { closed.append(record.id) }
            if record.kind == .settle { count(record) }
        case .processor: count(record)
        }
    }

    /// Charges an invocation to the time of its end, and processor time to that at which it was seen.
    mutating func count(_ record: UsageRecord) {
        clock = max(clock, record.wallMs)
        let second = record.wallMs / 1000
        Self.add(record, to: &hours[Hour(function: record.function, hour: second / 3600), default: Sum()])
        // Budgets are of invocations and their memory: time of processors counts in none.
        guard record.kind == .settle else { return }
        Self.add(record, to: &quarters[Quarter(tenant: record.function.tenant, quarter: second / 900), default: Sum()])
    }

    private static func add(_ record: UsageRecord, to sum: inout Sum) {
        if record.kind == .settle {
            sum.invocations += 1
            sum.errors += record.outcome == .ok ? 0 : 1
        }
        sum.compute = saturating(sum.compute, record.charged)
        sum.cpuUs = saturating(sum.cpuUs, record.cpuUs)
        sum.durationUs = saturating(sum.durationUs, record.durationUs)
    }

    private static func saturating(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let (sum, overflow) = a.addingReportingOverflow(b)
        return overflow ? .max : sum
    }
}

extension UsageRecord {
    /// How an invocation that ran when the daemon died is charged: for the time until then, at most what was reserved.
    func ended(atCrash crash: UInt64) -> UsageRecord {
        var record = self
        record.kind = .settle
        record.outcome = .internal
        record.wallMs = max(crash, wallMs)
        let milliseconds = min(record.wallMs - wallMs, UInt64.max / 1_000_000)
        record.durationUs = milliseconds * 1000
        record.charged = min(reserved, Compute.microGBSeconds(memoryBytes: memoryBytes, duration: .milliseconds(milliseconds)))
        return record
    }
}
