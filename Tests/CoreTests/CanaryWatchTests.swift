// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

@Suite struct CanaryWatchTests {
    /// A run of calls: every `per`-th is the canary's.
    private final class Run {
        var watch = CanaryWatch(at: Instant(nanoseconds: 0))
        var now = Instant(nanoseconds: 0)
        var draws: Draws
        var canaryCalls = 0
        init(seed: UInt64 = 1) { draws = Draws(state: seed) }

        /// The first verdict.
        func calls(
            _ count: Int, per: Int = 10, every: Nanoseconds = .milliseconds(10), errors: (canary: Double, primary: Double) = (0, 0),
            ran: (canary: ClosedRange<UInt64>, primary: ClosedRange<UInt64>) = (20...40, 20...40)
        ) -> CanaryVerdict? {
            for call in 0..<count {
                let isCanary = call % per == 0
                if isCanary { canaryCalls += 1 }
                now = now + every
                let isError = Double.random(in: 0..<1, using: &draws) < (isCanary ? errors.canary : errors.primary)
                let ran = Nanoseconds.milliseconds(UInt64.random(in: isCanary ? ran.canary : ran.primary, using: &draws))
                if let verdict = watch.ended(isCanary: isCanary, isError: isError, ran: ran, at: now) { return verdict }
            }
            return nil
        }
    }

    @Test("a canary that fails is ended by its 50th call, with the figures that say why; the verdict comes once")
    func failing() throws {
        let run = Run()
        let verdict = try #require(run.calls(10_000, errors: (1, 0)))
        #expect(run.canaryCalls == 50)
        guard case .errors(let canary, let primary) = verdict else { return #expect(Bool(false), "\(verdict)") }
        #expect(canary.calls == 50 && canary.errors == 50 && primary.errors == 0)
        #expect("\(verdict)".hasPrefix("50 of 50 calls of the canary failed, and 0 of 4"))
        #expect(run.calls(10_000, errors: (1, 0)) == nil, "and is not said again")
    }

    @Test("one that fails 15 % of the time, beside a primary that fails 5 %, is ended within 1,000 calls")
    func worse() {
        for seed in 1...20 as ClosedRange<UInt64> {
            let run = Run(seed: seed)
            #expect(run.calls(20_000, errors: (0.15, 0.05)) != nil)
            #expect(run.canaryCalls <= 1000, "\(run.canaryCalls) with seed \(seed)")
        }
    }

    @Test("a canary as good as the primary stays: no window of 360 ends it, at any share of errors")
    func alike() {
        for share in [0.0, 0.001, 0.01, 0.1, 0.5, 1] {
            var ended = 0
            for seed in 1...60 as ClosedRange<UInt64> {
                let run = Run(seed: seed &* 7919)
                // 2,000 calls of the canary in 200 s: one window and 40 looks.
                if run.calls(20_000, errors: (share, share)) != nil { ended += 1 }
            }
            #expect(ended == 0, "\(ended) of 60 at \(share)")
        }
    }

    @Test("a canary that fails 4 points more often than the primary stays: the margin is 5")
    func margin() {
        let run = Run()
        #expect(run.calls(200_000, errors: (0.04, 0)) == nil)
    }

    @Test("49 calls are too few, whatever became of them; refused calls are never told to the watch")
    func few() {
        let run = Run()
        #expect(run.calls(490, errors: (1, 0)) == nil && run.canaryCalls == 49)
    }

    @Test("a slow canary is ended after 100 calls of each; one that is slow in its ratio alone, or in its time alone, is not")
    func slow() throws {
        var run = Run()
        let verdict = try #require(run.calls(5000, ran: (100...200, 20...40)))
        guard case .latency = verdict else { return #expect(Bool(false), "\(verdict)") }
        #expect(run.canaryCalls == 100)
        #expect("\(verdict)".contains("95th percentile"))
        run = Run()
        #expect(run.calls(20_000, ran: (6...8, 1...2)) == nil, "less than 10 ms longer")
        run = Run()
        #expect(run.calls(20_000, ran: (150...160, 100...110)) == nil, "less than twice as long")
        run = Run()
        #expect(run.calls(950, ran: (100...200, 20...40)) == nil, "fewer than 100 calls of the canary")
    }

    @Test("calls of which a twentieth is slow do not end a canary by the luck of its percentile")
    func bimodal() {
        for seed in 1...200 as ClosedRange<UInt64> {
            var watch = CanaryWatch(at: Instant(nanoseconds: 0))
            var draws = Draws(state: seed &* 104_729)
            for call in 0..<10_000 {
                let isSlow = Double.random(in: 0..<1, using: &draws) < 0.05
                let verdict = watch.ended(
                    isCanary: call % 10 == 0, isError: false, ran: .milliseconds(isSlow ? 300 : 10), at: Instant(nanoseconds: UInt64(call)))
                #expect(verdict == nil, "seed \(seed)")
            }
        }
    }

    @Test("what lies more than two windows back is forgotten, so a long good record hides no new failure")
    func windows() throws {
        let run = Run()
        #expect(run.calls(50_000) == nil)
        run.now = run.now + .seconds(601)
        run.canaryCalls = 0
        #expect(run.calls(2000, errors: (0.5, 0)) != nil)
        #expect(run.canaryCalls <= 100, "\(run.canaryCalls)")
        let other = Run()
        #expect(other.calls(100_000) == nil)
        #expect(other.watch.tallies.canary.calls < 5000 && other.watch.tallies.canary.calls > 2900, "the windows slide")
    }

    @Test("without any call of the primary the canary is still judged")
    func alone() {
        let run = Run()
        #expect(run.calls(500, per: 1, errors: (0.5, 0)) != nil)
    }

    @Test("the exact test agrees with Fisher's own example and with sums by hand")
    func fisher() {
        // The lady tasting tea: 4 of 4 right is 1 in 70, 3 or more 17 in 70.
        #expect(abs(CanaryWatch.chance(4, of: 4, against: 0, of: 4) - 1.0 / 70) < 1e-12)
        #expect(abs(CanaryWatch.chance(3, of: 4, against: 1, of: 4) - 17.0 / 70) < 1e-12)
        #expect(CanaryWatch.chance(0, of: 50, against: 0, of: 50) == 1)
        #expect(CanaryWatch.chance(50, of: 50, against: 50, of: 50) == 1)
        // All 50 errors on 50 of 500 calls: 1 / C(500, 50), far below what a Double of the plain product would hold in between.
        let tiny = CanaryWatch.chance(50, of: 50, against: 0, of: 450)
        #expect(tiny >= 0 && tiny < 1e-18)
        let large = CanaryWatch.chance(50_200, of: 100_000, against: 500_000, of: 1_000_000)
        #expect(large > 0.05 && large < 0.15, "\(large): z = 1.26, so about 0.104")
    }
}
