// SPDX-License-Identifier: Apache-2.0

/// A rate with a burst: `count` every `period` in the long run, and at most `burst` at once.
public struct RateSpec: Hashable, Sendable {
    public static let counts: ClosedRange<UInt64> = 1...1_000_000
    /// One second to 31 days.
    public static let periods: ClosedRange<Nanoseconds> = 1_000_000_000...2_678_400_000_000_000
    public static let bursts: ClosedRange<UInt64> = 1...10_000_000

    public let count: UInt64
    public let period: Nanoseconds
    public let burst: UInt64

    /// Nil where a value is outside its range; inside, no arithmetic of ``RateMeter`` can overflow.
    public init?(count: UInt64, period: Nanoseconds, burst: UInt64) {
        guard Self.counts.contains(count), Self.periods.contains(period), Self.bursts.contains(burst) else { return nil }
        self.count = count
        self.period = period
        self.burst = burst
    }

    /// In what time so many come back: in whole nanoseconds the longest that is not longer, and the shortest that is not shorter.
    func time(of many: UInt64) -> (down: Nanoseconds, up: Nanoseconds) {
        let (whole, rest) = (UInt128(many) * UInt128(period)).quotientAndRemainder(dividingBy: UInt128(count))
        return (Nanoseconds(clamping: whole), Nanoseconds(clamping: rest == 0 ? whole : whole + 1))
    }

    /// A whole bucket, as time in units of `1 / count` ns: what ``RateMeter`` reckons in.
    var fullDebt: UInt128 { UInt128(burst) * UInt128(period) }
}

/// How far a rate is used up: the generic cell rate algorithm (ITU-T I.371), one timestamp a key and no timer.
///
/// In every closed window of length T it admits at most `burst + count * T / period`. The timestamp is exact: a period that is no multiple of the
/// count (3 a second) is carried in fractions of `1 / count` ns, so neither more nor less is admitted, however long it runs.
public struct RateMeter: Hashable, Sendable {
    /// When the bucket would be whole again: `whole` ns and `part / parts` ns.
    private var whole: UInt64 = 0
    private var part: UInt32 = 0
    private var parts: UInt32 = 1

    public init() {}

    /// Time until `count` more would be admitted at once; 0 if they would be now. Changes nothing, so that several levels can be asked before any is taken from.
    /// More than the burst never are.
    public func wait(_ spec: RateSpec, at now: Instant, count: UInt64 = 1) -> Nanoseconds {
        let present = UInt128(now.nanoseconds) * UInt128(spec.count)
        let free = max(fullAt(spec), present) + UInt128(count) * UInt128(spec.period)
        let reach = present + spec.fullDebt
        guard free > reach else { return 0 }
        return Nanoseconds(clamping: Self.divideUp(free - reach, UInt128(spec.count)))
    }

    /// Whether it holds nothing that a new meter would not: it can be forgotten.
    public func isWhole(_ spec: RateSpec, at now: Instant) -> Bool { fullAt(spec) <= UInt128(now.nanoseconds) * UInt128(spec.count) }

    /// Takes `count`. Where ``wait(_:at:count:)`` says more than 0 for the same `now`, that is how long they have to wait for their turn.
    public mutating func take(_ spec: RateSpec, at now: Instant, count: UInt64 = 1) {
        store(max(fullAt(spec), UInt128(now.nanoseconds) * UInt128(spec.count)) + UInt128(count) * UInt128(spec.period), spec)
    }

    /// How many more would be admitted at once.
    public func left(_ spec: RateSpec, at now: Instant) -> UInt64 {
        let (full, present) = (fullAt(spec), UInt128(now.nanoseconds) * UInt128(spec.count))
        let taken = full > present ? Self.divideUp(full - present, UInt128(spec.period)) : 0
        return taken < UInt128(spec.burst) ? spec.burst - UInt64(taken) : 0
    }

    /// Goes over to another rate: what was taken stays taken, counted in requests, and is at most the new burst. Without this call a meter never admits more than its new
    /// rate either, but one that was exhausted at a slow rate would wait as long as the slow rate asks.
    public mutating func change(from old: RateSpec, to new: RateSpec, at now: Instant) {
        let present = UInt128(now.nanoseconds) * UInt128(old.count)
        let full = fullAt(old)
        // At most 10^7 * 2.7 * 10^15, and times the new period less than 2^127.
        let debt = min(full > present ? full - present : 0, old.fullDebt)
        let scaled = Self.divideUp(debt * UInt128(new.period), UInt128(old.period))
        store(UInt128(now.nanoseconds) * UInt128(new.count) + min(scaled, new.fullDebt), new)
    }

    /// The timestamp in units of `1 / count` ns. A fraction that was kept under another count is rounded up, so that it admits nothing too early.
    private func fullAt(_ spec: RateSpec) -> UInt128 {
        let units = UInt128(whole) * UInt128(spec.count)
        if part == 0 { return units }
        return units + (UInt64(parts) == spec.count ? UInt128(part) : UInt128(spec.count))
    }

    private mutating func store(_ units: UInt128, _ spec: RateSpec) {
        let (quotient, remainder) = units.quotientAndRemainder(dividingBy: UInt128(spec.count))
        whole = UInt64(clamping: quotient)
        part = UInt32(truncatingIfNeeded: remainder)
        parts = UInt32(truncatingIfNeeded: spec.count)
    }

    private static func divideUp(_ a: UInt128, _ b: UInt128) -> UInt128 { a == 0 ? 0 : (a - 1) / b + 1 }
}
