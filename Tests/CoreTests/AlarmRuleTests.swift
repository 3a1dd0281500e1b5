// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

private func name(_ text: String) -> Name {
    guard let name = Name(text) else { preconditionFailure("\(text) is no name") }
    return name
}

@Suite struct AlarmRuleTests {
    private let tenant = CoreTests.name("acme")
    private var function: FunctionID { FunctionID(tenant: tenant, function: name("f")) }
    private var version: VersionID { VersionID(function: function, number: 1) }

    private func calls(_ outcomes: [(Outcome, Int)]) -> [FunctionID: RecentCalls] {
        var recent = RecentCalls()
        for (outcome, count) in outcomes { for _ in 0..<count { recent.count(outcome, of: function) } }
        return [function: recent]
    }
    private func at(_ second: UInt64) -> Instant { Instant(nanoseconds: .seconds(1_000_000 + second)) }

    @Test(
        "more than 5 % of a tenant's calls refused, or more than 20 % of 50 calls failed, is an alarm; what is just at the bound is none",
        arguments: [
            ([(Outcome.ok, 95), (.throttled, 5)], 0), ([(.ok, 94), (.throttled, 6)], 1), ([(.ok, 18), (.throttled, 1)], 0),
            ([(.ok, 80), (.functionError, 20)], 0), ([(.ok, 79), (.crashed, 21)], 1), ([(.ok, 0), (.timedOut, 49)], 0),
            ([(.ok, 0), (.outOfMemory, 50)], 1), ([(.loop, 60), (.overloaded, 60), (.overBudget, 60), (.cancelled, 60)], 0),
            // Refused calls do not make the failed share smaller.
            ([(.throttled, 1000), (.functionError, 50)], 2),
        ])
    func bounds(outcomes: [(Outcome, Int)], alarms: Int) {
        var rules = AlarmRules()
        let turns = rules.pass(calls(outcomes), failing: [], at: at(0))
        #expect(turns.count == alarms && turns.allSatisfy { !$0.isRecovery }, "\(turns)")
    }

    @Test("an alarm is told once, and once more when the share has halved; calls of five minutes ago do not count")
    func once() {
        var rules = AlarmRules()
        var turns: [AlarmTurn] = []
        for second in 0..<60 as Range<UInt64> { turns += rules.pass(calls([(.functionError, 10)]), failing: [], at: at(second)) }
        #expect(turns.map(\.isRecovery) == [false] && turns.first?.calls == 50)
        // 600 failed of 3,000: a fifth is neither more than a fifth nor half of it.
        turns = []
        for second in 60..<300 as Range<UInt64> { turns += rules.pass(calls([(.ok, 10)]), failing: [], at: at(second)) }
        #expect(turns.isEmpty, "\(turns)")
        for second in 300..<400 as Range<UInt64> { turns += rules.pass(calls([(.ok, 10)]), failing: [], at: at(second)) }
        #expect(turns.map(\.isRecovery) == [true] && turns.first?.subject == .errors(function), "\(turns)")
    }

    @Test("where nobody calls any more, the alarm is over and nothing is kept")
    func silence() {
        var rules = AlarmRules()
        #expect(rules.pass(calls([(.throttled, 100)]), failing: [], at: at(0)).map(\.subject) == [.throttling(tenant)])
        #expect(rules.pass([:], failing: [], at: at(200)).isEmpty)
        let turns = rules.pass([:], failing: [], at: at(331))
        #expect(turns.map(\.isRecovery) == [true])
        #expect(rules.subjects == 0)
    }

    @Test("the ceiling that refused most within five minutes is told, as it was at last; a tenant's own is one for all its functions")
    func ceilings() {
        let other = FunctionID(tenant: tenant, function: name("g"))
        func refusal(_ level: Level, _ ceiling: String, _ value: UInt64 = 4) -> Refusal {
            Refusal(outcome: .throttled, level: level, ceiling: ceiling, limit: 4, value: value, retryAfter: nil)
        }
        func recent(_ counts: [(FunctionID, Refusal, Int)]) -> [FunctionID: RecentCalls] {
            var all: [FunctionID: RecentCalls] = [:]
            for (function, refusal, count) in counts {
                for _ in 0..<count { all[function, default: RecentCalls()].count(.throttled, by: refusal, of: function) }
            }
            return all
        }
        var rules = AlarmRules()
        #expect(rules.pass(recent([(function, refusal(.function, "workers"), 19)]), failing: [], at: at(0)).isEmpty)
        // Ten minutes later nobody speaks of those.
        let turns = rules.pass(
            recent([
                (function, refusal(.tenant, "rate"), 6), (other, refusal(.tenant, "rate"), 6), (function, refusal(.function, "queue"), 7),
                (other, refusal(.function, "queue"), 7),
            ]), failing: [], at: at(600))
        #expect(turns.count == 1 && turns.first?.ceiling?.count == 12 && turns.first?.ceiling?.refusal == refusal(.tenant, "rate"))
        var later = AlarmRules()
        _ = later.pass(recent([(function, refusal(.function, "workers", 3), 15)]), failing: [], at: at(0))
        let more = recent([(function, refusal(.function, "workers"), 5), (other, refusal(.tenant, "rate"), 9)])
        let late = later.pass(more, failing: [], at: at(40))
        #expect(late.first?.ceiling == RefusingCeiling(count: 20, function: function, refusal: refusal(.function, "workers")))
    }

    @Test("a version whose workers do not start is told once, and once when they do")
    func crashLoop() {
        var rules = AlarmRules()
        #expect(rules.pass([:], failing: [version], at: at(0)).map(\.subject) == [.crashLoop(version)])
        #expect(rules.pass([:], failing: [version], at: at(1)).isEmpty)
        #expect(rules.pass([:], failing: [], at: at(2)).map(\.isRecovery) == [true])
        #expect(rules.pass([:], failing: [], at: at(3)).isEmpty)
    }
}
