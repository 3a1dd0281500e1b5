// SPDX-License-Identifier: Apache-2.0

/// How long a version was without a new call, in buckets of bounded number whose widths grow with the gap. Gaps shorter than ``floor`` are left out: no worker goes so soon, so
/// they say nothing, and the thousands of them in one burst would push out what is known of the pauses between bursts.
struct GapHistogram: Hashable, Sendable {
    /// What an idle worker is kept for at least, where the manifest does not say less.
    static let floor: Nanoseconds = .seconds(10)
    /// Two to each doubling: the last one begins at 2 days.
    private static let buckets = 30
    /// At so many all are halved: what has changed is learnt within about as many gaps.
    private static let most: UInt32 = 64
    /// Below so many nothing is known.
    private static let least: UInt32 = 4
    /// A next call is likely where at least one gap in four was short enough to be bridged.
    private static let oneIn: UInt32 = 4

    private var counts: [UInt8] = []
    private var total: UInt32 = 0

    mutating func add(_ gap: Nanoseconds) {
        guard gap >= Self.floor else { return }
        if counts.isEmpty { counts = [UInt8](repeating: 0, count: Self.buckets) }
        if total >= Self.most {
            for index in counts.indices { counts[index] /= 2 }
            total = counts.reduce(0) { $0 + UInt32($1) }
        }
        counts[Self.index(gap)] += 1
        total += 1
    }

    /// How long an idle worker is worth keeping, at most `ceiling`: so long that 95 % of the gaps which a worker could bridge at all are bridged. Where gaps are nearly always
    /// longer than the ceiling, the next call will not find the worker however long it is kept: then only for ``floor``.
    func keep(ceiling: Nanoseconds) -> Nanoseconds {
        guard total >= Self.least, ceiling > Self.floor else { return ceiling }
        var bridged: UInt32 = 0
        for (index, count) in counts.enumerated() where Self.start(index) < ceiling { bridged += UInt32(count) }
        guard bridged * Self.oneIn >= total else { return Self.floor }
        var seen: UInt32 = 0
        for (index, count) in counts.enumerated() {
            seen += UInt32(count)
            if seen * 20 >= bridged * 19 { return min(ceiling, Self.start(index + 1)) }
        }
        return ceiling
    }

    /// Where a bucket begins: 10 s, 14.1 s, 20 s, 28.3 s ...
    private static func start(_ index: Int) -> Nanoseconds {
        let whole = floor << UInt64(index / 2)
        return index % 2 == 0 ? whole : whole / 1000 * 1414
    }

    private static func index(_ gap: Nanoseconds) -> Int {
        let doublings = min(UInt64(buckets / 2 - 1), UInt64(63 - (gap / floor).leadingZeroBitCount))
        let index = Int(doublings) * 2
        return gap >= start(index + 1) ? index + 1 : index
    }
}

/// What a version's calls were like lately: it decides how long idle workers stay, and whether one more is started before it is missed. Fed once a call that gets a worker.
struct Demand: Hashable, Sendable {
    private(set) var gaps = GapHistogram()
    private var last = Instant(nanoseconds: 0)
    /// Smoothed gap, in ns.
    private var gap: Float = 0
    /// Calls within the last second and the last four, older ones fading out.
    private var fast: Float = 0
    private var slow: Float = 0
    /// Up to ``learnt``.
    private var calls: UInt8 = 0
    /// How many calls it takes until the run time that is reckoned with is the function's own, and not the guess that every function begins with.
    private static let learnt: UInt8 = 40
    /// Smoothed time of a start, in ns.
    private(set) var startTime: Float = 0

    mutating func called(_ now: Instant) {
        if last.nanoseconds > 0 {
            let passed = now - last
            gaps.add(passed)
            gap += (Float(passed) - gap) / 4
            fade(Float(passed))
        }
        last = now
        fast += 1
        slow += 1
        if calls < Self.learnt { calls += 1 }
    }

    /// Without exponentials: the shape does not matter, and this runs on every call.
    private mutating func fade(_ passed: Float) {
        fast *= max(0, 1 - passed / 1e9)
        slow *= max(0, 1 - passed / 4e9)
    }

    mutating func started(in time: Nanoseconds) {
        startTime = startTime == 0 ? Float(time) : startTime + (Float(time) - startTime) / 4
    }

    /// Calls that will be in flight when a worker that is started now is ready, with a margin for chance: the rate of then (what the last second shows, and how that differs from
    /// the seconds before) times how long a call takes.
    func expected(runTime: Nanoseconds) -> Float {
        guard calls == Self.learnt else { return 0 }
        let (rate, before) = (fast, slow / 4)
        // The two look back for 1 s and 4 s on average: 3 s lie between them.
        let growth = max(0, rate - before) / 3
        let mean = (rate + growth * (1 + startTime / 1e9)) * Float(runTime) / 1e9
        return mean + 3 * mean.squareRoot()
    }

    /// What it would cost to be without a worker: the time of a start, as likely as a call within the next minute is.
    func worth(_ now: Instant) -> Float {
        let minute: Float = 60e9
        return max(startTime, 1) * minute / (minute + max(gap, Float(now - last)))
    }
}
