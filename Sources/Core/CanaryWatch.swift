// SPDX-License-Identifier: Apache-2.0

/// When a canary is worse than the version it may replace.
///
/// The rule, over the calls of the present window of 5 minutes and of the one before it, looked at after every 50th call of the canary:
/// - errors: at least 50 calls of the canary; its share of errors is more than 5 points above the primary's; and chance explains so large a difference with a
///   probability below 1 in 100,000 (Fisher's exact test, one-sided).
/// - latency: at least 100 calls of each; the canary's 95th percentile is more than twice the primary's and at least 10 ms longer; and by the same test more of its
///   calls are slower than twice the primary's percentile.
///
/// Where the primary has no call in the windows, its share of errors counts as 0 of as many calls: a canary that gets nearly all calls is still judged.
/// Refused and cancelled calls say nothing of a version and are not counted. Nothing restores a canary but a person: so the rule never flaps.
public struct CanaryRule: Hashable, Sendable {
    public var window: Nanoseconds = .seconds(300)
    /// Calls of the canary from one look to the next; also what the first look needs.
    public var lookEvery: UInt64 = 50
    public var errorMargin = 0.05
    public var latencyCalls: UInt64 = 100
    public var latencyRatio = 2.0
    public var latencyFloor: Nanoseconds = .milliseconds(10)
    /// A look may be wrong with this probability. Many looks follow each other, so it is stricter than what a window as a whole shall keep.
    public var significance = 1e-5
    public init() {}
}

/// What the calls of one version in a canary's windows came to.
public struct CanaryTally: Hashable, Sendable {
    public var calls: UInt64 = 0
    public var errors: UInt64 = 0
    public var latency = LatencyHistogram()
    public init() {}

    public var errorShare: Double { calls == 0 ? 0 : Double(errors) / Double(calls) }

    mutating func add(isError: Bool, ran: Nanoseconds) {
        calls += 1
        if isError { errors += 1 }
        latency.add(ran)
    }

    mutating func add(_ other: CanaryTally) {
        calls += other.calls
        errors += other.errors
        latency.add(other.latency)
    }
}

/// Why a canary ended.
public enum CanaryVerdict: Hashable, Sendable {
    case errors(canary: CanaryTally, primary: CanaryTally)
    case latency(canary: CanaryTally, primary: CanaryTally)
}

extension CanaryVerdict: CustomStringConvertible {
    public var description: String {
        switch self {
        case .errors(let canary, let primary):
            "\(canary.errors) of \(canary.calls) calls of the canary failed, and \(primary.errors) of \(primary.calls) of the primary"
        case .latency(let canary, let primary):
            "the canary's 95th percentile is \((canary.latency.quantile(0.95) ?? 0) / 1_000_000) ms over \(canary.calls) calls, "
                + "and the primary's \((primary.latency.quantile(0.95) ?? 0) / 1_000_000) ms over \(primary.calls)"
        }
    }
}

/// Judges the canary of one alias by ``CanaryRule``. Two windows of tallies; the older one is forgotten when a third begins.
public struct CanaryWatch: Sendable {
    public let rule: CanaryRule
    private var windows: [(begin: Instant, canary: CanaryTally, primary: CanaryTally)]
    private var sinceLook: UInt64 = 0
    private var isOver = false

    public init(rule: CanaryRule = CanaryRule(), at now: Instant) {
        self.rule = rule
        windows = [(now, CanaryTally(), CanaryTally())]
    }

    /// What the present windows hold.
    public var tallies: (canary: CanaryTally, primary: CanaryTally) {
        var sum = (canary: CanaryTally(), primary: CanaryTally())
        for window in windows {
            sum.canary.add(window.canary)
            sum.primary.add(window.primary)
        }
        return sum
    }

    /// A call has ended. The verdict comes at most once.
    public mutating func ended(isCanary: Bool, isError: Bool, ran: Nanoseconds, at now: Instant) -> CanaryVerdict? {
        if now - windows[windows.count - 1].begin >= rule.window {
            // After a long silence the window before says nothing about now.
            windows.removeAll { now - $0.begin >= rule.window * 2 }
            windows.append((now, CanaryTally(), CanaryTally()))
        }
        let last = windows.count - 1
        guard isCanary else {
            windows[last].primary.add(isError: isError, ran: ran)
            return nil
        }
        windows[last].canary.add(isError: isError, ran: ran)
        sinceLook += 1
        guard sinceLook >= rule.lookEvery, !isOver else { return nil }
        sinceLook = 0
        let verdict = judge()
        isOver = verdict != nil
        return verdict
    }

    private func judge() -> CanaryVerdict? {
        let (canary, primary) = tallies
        let others = max(primary.calls, primary.calls == 0 ? canary.calls : 0)
        if canary.calls >= rule.lookEvery, canary.errorShare - primary.errorShare > rule.errorMargin,
            Self.chance(canary.errors, of: canary.calls, against: primary.errors, of: others) < rule.significance
        {
            return .errors(canary: canary, primary: primary)
        }
        guard canary.calls >= rule.latencyCalls, primary.calls >= rule.latencyCalls,
            let slow = canary.latency.quantile(0.95), let usual = primary.latency.quantile(0.95)
        else { return nil }
        let bound = Nanoseconds(Double(usual) * rule.latencyRatio)
        guard slow > bound, slow >= usual + rule.latencyFloor,
            Self.chance(
                canary.latency.count(above: bound), of: canary.calls, against: primary.latency.count(above: bound), of: primary.calls)
                < rule.significance
        else { return nil }
        return .latency(canary: canary, primary: primary)
    }

    /// The probability that `hits` or more of all hits fall on the first `calls`, were both of one kind (Fisher 1922): the tail of the hypergeometric
    /// distribution. Its terms are taken relative to the largest one, so that nothing underflows, and only as far as they weigh anything.
    static func chance(_ hits: UInt64, of calls: UInt64, against otherHits: UInt64, of others: UInt64) -> Double {
        let all = Double(hits + otherHits), n = Double(calls), m = Double(others)
        let lowest = max(0, all - m), highest = min(n, all)
        let mode = min(max(((n + 1) * (all + 1) / (n + m + 2)).rounded(.down), lowest), highest)
        var total = 1.0, tail = mode >= Double(hits) ? 1.0 : 0.0
        var term = 1.0, k = mode
        while k < highest, term > 1e-18 {
            term *= (n - k) * (all - k) / ((k + 1) * (m - all + k + 1))
            k += 1
            total += term
            if k >= Double(hits) { tail += term }
        }
        (term, k) = (1, mode)
        while k > lowest, term > 1e-18 {
            term *= k * (m - all + k) / ((n - k + 1) * (all - k + 1))
            k -= 1
            total += term
            if k >= Double(hits) { tail += term }
        }
        return tail / total
    }
}
