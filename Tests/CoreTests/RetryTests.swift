// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct RetryTests {
    private func history(_ failures: [RunFailure]) -> RunHistory {
        var history = RunHistory()
        for failure in failures {
            history.deliver()
            history.note(failure)
        }
        return history
    }

    @Test("values outside the ranges make no policy")
    func ranges() {
        #expect(RetryPolicy(maxAttempts: 26) == nil)
        #expect(RetryPolicy(maxAgeMs: 59_999) == nil)
        #expect(RetryPolicy(maxAgeMs: 604_800_001) == nil)
        #expect(RetryPolicy() == .standard)
        #expect(RetryPolicy.standard.maxAttempts == 3 && RetryPolicy.standard.maxAgeMs == 6 * 3_600_000)
    }

    @Test("a function's error waits 1, 2, 4 ... 60 minutes, and never less than half of that", arguments: 1...25)
    func functionErrors(attempt: Int) {
        let history = history([RunFailure](repeating: .functionError, count: attempt))
        let whole: UInt64 = attempt > 6 ? 3_600_000 : 60_000 << UInt64(attempt - 1)
        let low = RetryPolicy.delayMs(after: .functionError, history, random: 0)
        let high = RetryPolicy.delayMs(after: .functionError, history, random: .max)
        #expect(low == whole / 2 && high == whole)
        #expect(RetryPolicy.delayMs(after: .crash, history, random: 1 << 63) == whole * 3 / 4)
    }

    @Test("the system's failures wait 1, 2, 4 ... 300 seconds, or less", arguments: 1...40)
    func systemFailures(count: Int) {
        let history = history([RunFailure](repeating: .system, count: count))
        let whole: UInt64 = count > 9 ? 300_000 : 1000 << UInt64(count - 1)
        #expect(RetryPolicy.delayMs(after: .system, history, random: 0) == 0)
        #expect(RetryPolicy.delayMs(after: .system, history, random: .max) == whole)
        #expect(RetryPolicy.delayMs(after: .system, history, random: 1 << 62) == whole / 4)
        #expect(history.attempts == 0 && RetryPolicy.standard.exhaustion(history) == nil)
        var later = history
        later.note(.functionError)
        later.note(.system)
        #expect(later.postponements == 1, "they are counted in a row")
    }

    @Test("random histories end where the rules say", arguments: 0..<200 as Range<UInt64>)
    func ends(seed: UInt64) throws {
        var random = Seeded(state: seed)
        let policy = try #require(RetryPolicy(maxAttempts: UInt8.random(in: 0...25, using: &random)))
        var (attempts, crashes, silent) = (0, 0, 0)
        var history = RunHistory()
        for _ in 0..<60 {
            let expected: RetryExhaustion? =
                crashes >= 3 ? .poison : attempts >= max(1, Int(policy.maxAttempts)) ? .attempts : silent >= 10 ? .deliveries : nil
            #expect(policy.exhaustion(history) == expected)
            if expected != nil { return }
            history.deliver()
            switch Int.random(in: 0..<20, using: &random) {
            case 0:
                history.note(.crash)
                attempts += 1
                crashes += 1
            case 1:
                history.note(.nodeLost)
                crashes += 1
                silent += 1
            case 2..<6:
                history.note(.functionError)
                attempts += 1
            case 6..<12: history.note(.system)
            default: silent += 1
            }
        }
    }

    @Test("one retry for ten starts; the others wait twice as long")
    func budget() {
        var budget = RetryBudget()
        #expect((0..<10).allSatisfy { _ in budget.delayMs(100) == 100 })
        #expect(budget.delayMs(100) == 200)
        for _ in 0..<9 { budget.start() }
        #expect(budget.delayMs(100) == 200)
        budget.start()
        #expect(budget.delayMs(100) == 100)
        #expect(budget.delayMs(.max) == .max)
        for _ in 0..<1_000_000 { budget.start() }
        #expect((0..<200).count { _ in budget.delayMs(100) == 100 } == 100, "what is saved up is bounded")
    }
}
