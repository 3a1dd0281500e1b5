// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

private func spec(_ count: UInt64, per period: Nanoseconds, burst: UInt64) throws -> RateSpec {
    try #require(RateSpec(count: count, period: period, burst: burst))
}

private func at(_ nanoseconds: UInt64) -> Instant { Instant(nanoseconds: nanoseconds) }

@Suite struct RateLimitTests {
    static let day: Nanoseconds = .seconds(86_400)

    /// Rates whose period is no multiple of their count, and the ends of every range.
    static let specs: [RateSpec] = [
        RateSpec(count: 200, period: .seconds(1), burst: 400), RateSpec(count: 3, period: .seconds(1), burst: 1),
        RateSpec(count: 7, period: .seconds(60), burst: 5), RateSpec(count: 1_000_000, period: .seconds(1), burst: 10),
        RateSpec(count: 999_983, period: .seconds(1), burst: 3), RateSpec(count: 1, period: 31 * day, burst: 2),
        RateSpec(count: 1, period: .seconds(1), burst: 1), RateSpec(count: 17, period: 1_000_000_007, burst: 40),
    ].compactMap { $0 }

    @Test("values outside the ranges make no rate")
    func ranges() {
        #expect(RateSpec(count: 0, period: .seconds(1), burst: 1) == nil)
        #expect(RateSpec(count: 1_000_001, period: .seconds(1), burst: 1) == nil)
        #expect(RateSpec(count: 1, period: 999_999_999, burst: 1) == nil)
        #expect(RateSpec(count: 1, period: 31 * Self.day + 1, burst: 1) == nil)
        #expect(RateSpec(count: 1, period: .seconds(1), burst: 0) == nil)
        #expect(RateSpec(count: 1, period: .seconds(1), burst: 10_000_001) == nil)
        #expect(Self.specs.count == 8)
    }

    @Test("no window holds more than burst + rate * length", arguments: 0..<40)
    func window(seed: Int) {
        var random = Seeded(state: UInt64(seed))
        let spec = Self.specs[seed % Self.specs.count]
        let interval = max(1, spec.period / spec.count)
        var meter = RateMeter()
        var now: UInt64 = 1 << UInt64.random(in: 0..<62, using: &random)
        var admitted: [UInt64] = []
        for _ in 0..<400 {
            // Crowds, exact multiples of the interval and long pauses.
            switch Int.random(in: 0..<8, using: &random) {
            case 0: now += spec.period
            case 1..<3: now += interval
            case 3: now += UInt64.random(in: 0...interval * 3, using: &random)
            case 4: now += meter.wait(spec, at: at(now))
            default: break
            }
            if meter.wait(spec, at: at(now)) == 0 {
                meter.take(spec, at: at(now))
                admitted.append(now)
            }
        }
        #expect(admitted.count > 20, "seed \(seed): the run shows nothing")
        for first in admitted.indices {
            for last in first..<admitted.count {
                let length = UInt128(admitted[last] - admitted[first])
                // In units of 1 / period, so that nothing is rounded.
                let allowed = UInt128(spec.burst) * UInt128(spec.period) + length * UInt128(spec.count)
                let taken = UInt128(last - first + 1) * UInt128(spec.period)
                if taken > allowed { Issue.record("seed \(seed) \(spec): \(last - first + 1) in \(length) ns") }
            }
        }
    }

    @Test("wait is exact: admitted when it has passed, not a nanosecond before", arguments: 0..<40)
    func waitIsExact(seed: Int) {
        var random = Seeded(state: UInt64(1000 + seed))
        let spec = Self.specs[seed % Self.specs.count]
        var meter = RateMeter()
        var now: UInt64 = 1 + UInt64.random(in: 0..<1 << 50, using: &random)
        var waits = 0
        for _ in 0..<500 {
            let before = meter
            let wait = meter.wait(spec, at: at(now))
            #expect(meter == before)
            if wait > 0 {
                waits += 1
                #expect(meter.wait(spec, at: at(now + wait)) == 0, "seed \(seed)")
                #expect(meter.wait(spec, at: at(now + wait - 1)) == 1, "seed \(seed)")
                now += Bool.random(using: &random) ? wait : 0
            }
            if meter.wait(spec, at: at(now)) == 0 { meter.take(spec, at: at(now)) }
        }
        #expect(waits > 50, "seed \(seed): the run shows nothing")
    }

    @Test("who always takes what there is gets burst + floor(rate * time), exactly", arguments: 0..<8)
    func nothingIsLost(index: Int) {
        let spec = Self.specs[index]
        let start: UInt64 = 123_456_789
        var meter = RateMeter()
        var now = start
        var taken: UInt64 = 0
        while taken < 20_000, now < UInt64.max / 4 {
            now += meter.wait(spec, at: at(now))
            meter.take(spec, at: at(now))
            taken += 1
            let due = UInt128(spec.burst) + UInt128(now - start) * UInt128(spec.count) / UInt128(spec.period)
            // After the take at the first possible moment there is less than one left.
            if taken > spec.burst, UInt128(taken) != due { Issue.record("\(spec): \(taken) taken, \(due) due") }
        }
    }

    @Test("the largest values do not overflow")
    func extremes() throws {
        let large = try spec(1_000_000, per: 31 * Self.day, burst: 10_000_000)
        var meter = RateMeter()
        for now in [0, 1, UInt64.max / 2, UInt64.max - 1, UInt64.max] {
            #expect(meter.wait(large, at: at(now)) == 0)
            for _ in 0..<100 { meter.take(large, at: at(now)) }
        }
        let slow = try spec(1, per: 31 * Self.day, burst: 10_000_000)
        let fast = try spec(1_000_000, per: .seconds(1), burst: 1)
        var debtor = RateMeter()
        for _ in 0..<10_000 { debtor.take(slow, at: at(.max)) }
        debtor.change(from: slow, to: fast, at: at(5))
        #expect(debtor.wait(fast, at: at(5)) == 1_000)
        debtor.change(from: fast, to: slow, at: at(5))
        #expect(debtor.wait(slow, at: at(5)) == 0)
    }

    @Test("a changed rate keeps what was taken and never gives more than the new burst", arguments: 0..<60)
    func change(seed: Int) {
        var random = Seeded(state: UInt64(seed))
        let old = Self.specs[Int.random(in: 0..<Self.specs.count, using: &random)]
        let new = Self.specs[Int.random(in: 0..<Self.specs.count, using: &random)]
        let now = at(UInt64.random(in: 0..<1 << 60, using: &random))
        var meter = RateMeter()
        let taken = UInt64.random(in: 0...old.burst, using: &random)
        for _ in 0..<taken { meter.take(old, at: now) }
        var forgotten = meter
        meter.change(from: old, to: new, at: now)
        var left: UInt64 = 0
        while meter.wait(new, at: now) == 0 {
            meter.take(new, at: now)
            left += 1
        }
        #expect(left == (new.burst > taken ? new.burst - taken : 0), "seed \(seed) \(old) \(new)")
        // An exhausted bucket opens after one interval of the new rate, whatever the old one was.
        #expect(meter.wait(new, at: now) <= (new.period - 1) / new.count + 1)
        var unchanged: UInt64 = 0
        while forgotten.wait(new, at: now) == 0 {
            forgotten.take(new, at: now)
            unchanged += 1
        }
        #expect(unchanged <= new.burst)
    }
}
