// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// Deterministic numbers (SplitMix64), so that a failing seed can be run again.
private struct Numbers {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
    mutating func below(_ bound: UInt64) -> UInt64 { next() % bound }
}

/// The account by brute force: every call in a list, every sum made anew.
private struct Model {
    struct Charge {
        var compute: UInt64
        var hour: Int64
        var day: Int64
    }
    var running: [UInt64] = []
    var charges: [Charge] = []
    var hour: Int64 = 0
    var day: Int64 = 0

    func compute(hour: Int64) -> UInt64 { charges.filter { $0.hour == hour }.reduce(0) { $0 + $1.compute } }
    func count(day: Int64) -> UInt64 { UInt64(charges.count { $0.day == day }) }
    func fits(_ asked: UInt64, _ limit: UInt64, _ count: UInt64) -> Bool {
        compute(hour: hour) + running.reduce(0, +) + asked <= limit && self.count(day: day) + UInt64(running.count) + 1 <= count
    }
}

private func open(_ spec: BudgetSpec, at ordinal: Int64 = 1) -> BudgetAccount {
    var account = BudgetAccount(spec)
    for period in BudgetPeriod.allCases { account.openWindow(period, ordinal: ordinal) }
    return account
}

private func hourly(_ limit: UInt64) -> BudgetSpec { BudgetSpec(compute: BudgetCeiling(limit: limit, period: .hour)) }

@Suite struct BudgetTests {
    @Test("never more than the limit in any window, all or none, nothing lost: against brute force", arguments: 0..<200)
    func model(seed: UInt64) {
        var numbers = Numbers(state: seed)
        let limit = 50 + numbers.below(500)
        let count = 3 + numbers.below(20)
        var account = open(
            BudgetSpec(compute: BudgetCeiling(limit: limit, period: .hour), invocations: BudgetCeiling(limit: count, period: .day)), at: 0)
        var model = Model()
        for _ in 0..<600 {
            switch numbers.below(10) {
            case 0...4:
                let asked = numbers.below(limit / 4 + 2)
                let before = account
                let refusal = account.reserve(compute: asked)
                #expect((refusal == nil) == model.fits(asked, limit, count))
                if let refusal {
                    #expect(BudgetKind.allCases.allSatisfy { account.reserved($0) == before.reserved($0) }, "nothing is taken")
                    #expect(refusal.asked == (refusal.kind == .compute ? asked : 1))
                } else {
                    model.running.append(asked)
                }
            case 5...7 where !model.running.isEmpty:
                let reserved = model.running.remove(at: Int(numbers.below(UInt64(model.running.count))))
                // Sometimes more than was reserved: the clamp is the account's.
                let actual = numbers.below(reserved + 5)
                _ = account.settle(reserved: reserved, actual: actual)
                model.charges.append(.init(compute: min(actual, reserved), hour: model.hour, day: model.day))
            case 8 where !model.running.isEmpty:
                account.release(reserved: model.running.remove(at: Int(numbers.below(UInt64(model.running.count)))))
            case 9:
                // The wall clock moves a little forward or back.
                let hour = model.hour + Int64(numbers.below(5)) - 2
                account.openWindow(.hour, ordinal: hour)
                model.hour = max(model.hour, hour)
                account.openWindow(.day, ordinal: hour / 6)
                model.day = max(model.day, hour / 6)
            default: break
            }
            #expect(account.spent(.compute) == model.compute(hour: model.hour))
            #expect(account.spent(.invocations) == model.count(day: model.day))
            #expect(account.reserved(.compute) == model.running.reduce(0, +))
            #expect(account.reserved(.invocations) == UInt64(model.running.count))
            #expect(account.spent(.compute) + account.reserved(.compute) <= limit)
            #expect(account.spent(.invocations) + account.reserved(.invocations) <= count)
        }
        for hour in 0...model.hour { #expect(model.compute(hour: hour) <= limit) }
    }

    @Test("one call too many is refused by the count although compute has room, and takes no compute")
    func allOrNone() {
        var account = open(
            BudgetSpec(compute: BudgetCeiling(limit: 100, period: .hour), invocations: BudgetCeiling(limit: 1, period: .day)))
        #expect(account.reserve(compute: 10) == nil)
        let refusal = account.reserve(compute: 10)
        #expect(refusal?.kind == .invocations && refusal?.isFirst == true)
        #expect(account.reserved(.compute) == 10)
        #expect(account.reserve(compute: 10)?.isFirst == false)
    }

    @Test("the largest numbers neither wrap nor trap")
    func largest() {
        var account = open(hourly(.max))
        #expect(account.reserve(compute: .max) == nil)
        #expect(account.reserve(compute: 1) != nil)
        _ = account.settle(reserved: .max, actual: .max)
        #expect(account.spent(.compute) == .max)
        #expect(account.reserve(compute: .max) != nil)
        account.release(reserved: 5)
        #expect(account.reserved(.compute) == 0, "a release too many is not negative")
        #expect(Compute.microGBSeconds(memoryBytes: .max, duration: .max) == .max)
        var unlimited = open(BudgetSpec())
        for _ in 0..<3 { #expect(unlimited.reserve(compute: .max) == nil) }
    }

    @Test("a GB-second is 2^30 bytes for a second, rounded up")
    func unit() {
        #expect(Compute.microGBSeconds(memoryBytes: 1 << 30, duration: .seconds(1)) == 1_000_000)
        #expect(Compute.microGBSeconds(memoryBytes: 128 << 20, duration: .seconds(8)) == 1_000_000)
        #expect(Compute.microGBSeconds(memoryBytes: 1, duration: 1) == 1)
        #expect(Compute.microGBSeconds(memoryBytes: 0, duration: 9) == 0)
        #expect(Compute.microGBSeconds(memoryBytes: 1 << 30, duration: 1_001) == 2)
    }

    @Test("80 % and 100 % are told once a window, the first refusal too")
    func marks() {
        var account = open(hourly(100))
        func spend(_ amount: UInt64) -> BudgetMark? {
            guard account.reserve(compute: amount) == nil else { return nil }
            return account.settle(reserved: amount, actual: amount).compute
        }
        #expect(spend(79) == .below)
        #expect(spend(1) == .eighty)
        #expect(spend(10) == .below)
        #expect(spend(10) == .hundred)
        #expect(spend(0) == .below)
        #expect(spend(1) == nil)
        account.openWindow(.hour, ordinal: 2)
        #expect(account.reserve(compute: 101)?.isFirst == true)
        #expect(spend(100) == .hundred, "one step over both marks tells the higher one")
    }

    @Test("a clock that steps back reopens nothing")
    func stepBack() {
        var account = open(hourly(10), at: 5)
        #expect(account.reserve(compute: 10) == nil)
        _ = account.settle(reserved: 10, actual: 10)
        account.openWindow(.hour, ordinal: 4)
        #expect(account.window(.compute) == 5 && account.spent(.compute) == 10)
        account.restore(.compute, ordinal: 4, spent: 99)
        #expect(account.spent(.compute) == 10, "what was spent in an older window")
        account.openWindow(.hour, ordinal: 5)
        #expect(account.reserve(compute: 1) != nil)
        account.openWindow(.day, ordinal: 99)
        #expect(account.reserve(compute: 1) != nil, "another period's window")
        account.openWindow(.hour, ordinal: 6)
        #expect(account.reserve(compute: 10) == nil)
    }

    @Test("a lowered limit refuses and is never negative; a raised one gives room; a new one knows of the running calls")
    func reconfigure() {
        var account = open(hourly(100))
        #expect(account.reserve(compute: 60) == nil)
        #expect(account.settle(reserved: 60, actual: 60).compute == .below)
        #expect(account.reserve(compute: 30) == nil)
        #expect(account.reconfigure(hourly(50)).compute == .hundred)
        #expect(account.reserve(compute: 0) != nil)
        #expect(account.settle(reserved: 30, actual: 30).compute == .below)
        #expect(account.spent(.compute) == 90)
        #expect(account.reconfigure(hourly(200)).compute == .below)
        #expect(account.reserve(compute: 110) == nil)

        let monthly = BudgetSpec(compute: BudgetCeiling(limit: 200, period: .month))
        _ = account.reconfigure(monthly)
        #expect(account.reserve(compute: 1) != nil, "closed until the ledger has spoken")
        _ = account.settle(reserved: 110, actual: 50)
        account.restore(.compute, ordinal: 7, spent: 90)
        #expect(account.spent(.compute) == 140, "what settled meanwhile is added")
        #expect(account.reserve(compute: 61) != nil)
        #expect(account.reserve(compute: 60) == nil)

        var late = open(BudgetSpec())
        #expect(late.reserve(compute: 70) == nil)
        _ = late.reconfigure(hourly(100))
        late.restore(.compute, ordinal: 1, spent: 0)
        #expect(late.reserve(compute: 31) != nil)
        #expect(late.reserve(compute: 30) == nil)
        _ = late.settle(reserved: 70, actual: 70)
        #expect(late.reserved(.compute) == 30, "the older call gives back its own reservation alone")
    }

    @Test("after a restart the window goes on where it was, without telling its marks again")
    func restore() {
        var account = BudgetAccount(hourly(100))
        #expect(account.reserve(compute: 1) != nil)
        account.restore(.compute, ordinal: 3, spent: 85)
        #expect(account.reserve(compute: 16) != nil)
        #expect(account.reserve(compute: 5) == nil)
        #expect(account.settle(reserved: 5, actual: 5).compute == .below)
    }
}
