// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

/// Numbers that are the same in every run (SplitMix64).
struct Draws: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

@Suite struct AliasTests {
    static func alias(_ weight: UInt32, name: String = "prod") throws -> AliasSpec {
        AliasSpec(name: try #require(Name(name)), primary: 1, canary: Canary(version: 2, weight: weight))
    }
    static func function() throws -> FunctionID {
        FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("f")))
    }

    @Test(
        "of 10^5 calls the canary gets its share, to 1 % of all calls, with keys and without",
        arguments: [1, 100, 1000, 5000, 9999])
    func split(weight: UInt32) throws {
        let alias = try Self.alias(weight), function = try Self.function()
        var draws = Draws(state: 7)
        for isKeyed in [false, true] {
            var canary = 0
            for call in 0..<100_000 {
                let point =
                    isKeyed ? AliasSpec.point(function, alias.name, key: "user-\(call)") : AliasSpec.point(random: draws.next())
                if alias.version(at: point) == 2 { canary += 1 }
            }
            #expect(abs(canary - 10 * Int(weight)) <= 1000, "\(canary) of 100,000 at \(weight), keys: \(isKeyed)")
        }
    }

    @Test("a caller keeps its version; a growing weight moves callers to the canary alone; another alias splits otherwise")
    func stable() throws {
        let function = try Self.function()
        let small = try Self.alias(1000), large = try Self.alias(3000), other = try Self.alias(1000, name: "beta")
        var differ = 0
        for user in 0..<2000 {
            let point = AliasSpec.point(function, small.name, key: "u\(user)")
            #expect(AliasSpec.point(function, small.name, key: "u\(user)") == point && point < AliasSpec.whole)
            if small.version(at: point) == 2 { #expect(large.version(at: point) == 2) }
            if small.version(at: point) != other.version(at: AliasSpec.point(function, other.name, key: "u\(user)")) { differ += 1 }
        }
        // Two independent tenths differ for 18 of 100 callers.
        #expect((200...520).contains(differ), "\(differ) of 2000")
    }

    @Test("weights that leave one of two nothing are no canary")
    func weights() {
        #expect(Canary(version: 2, weight: 0) == nil && Canary(version: 2, weight: 10_000) == nil && Canary(version: 0, weight: 1) == nil)
        #expect(Canary(version: 2, weight: 1) != nil && Canary(version: 2, weight: 9999) != nil)
    }

    @Test("quantiles are at most 6.25 % off, in a bounded number of counters")
    func histogram() {
        var histogram = LatencyHistogram(), half = LatencyHistogram(), rest = LatencyHistogram()
        #expect(histogram.quantile(0.5) == nil)
        var values: [UInt64] = []
        var draws = Draws(state: 3)
        for index in 0..<20_000 {
            let value = (UInt64(1) << UInt64.random(in: 0..<46, using: &draws)) + UInt64.random(in: 0..<1000, using: &draws)
            values.append(value)
            histogram.add(value)
            if index % 2 == 0 { half.add(value) } else { rest.add(value) }
        }
        half.add(rest)
        #expect(half == histogram && histogram.count == 20_000)
        values.sort()
        for share in [0.1, 0.5, 0.95, 0.99, 1] {
            let exact = Double(values[Int((share * 20_000).rounded(.up)) - 1] / 1000),
                found = Double((histogram.quantile(share) ?? 0) / 1000)
            #expect(abs(found - exact) <= exact * 0.0625 + 1, "\(share): \(found) instead of \(exact)")
        }
        histogram.add(.max)
        #expect(histogram.quantile(1).map { $0 > .seconds(86_400) } == true)
        #expect(MemoryLayout<LatencyHistogram>.size <= 16)
    }

    @Test("counting above a duration agrees with the values")
    func above() {
        var histogram = LatencyHistogram()
        for milliseconds in 1...100 { histogram.add(.milliseconds(UInt64(milliseconds))) }
        #expect(histogram.count(above: .milliseconds(200)) == 0)
        #expect(abs(Int(histogram.count(above: .milliseconds(50))) - 50) <= 4)
        #expect(histogram.count(above: 0) == 100)
    }
}

@Suite struct RetentionTests {
    private func versions(_ held: Set<UInt32> = [], old: UInt32) -> [RetentionRule.Candidate] {
        (1...20).map { .init(number: $0, age: $0 <= old ? .seconds(100) : .seconds(1), isHeld: held.contains($0)) }
    }

    @Test("only what is old, not among the newest and not held may go")
    func removable() {
        let rule = RetentionRule(versions: 3, age: .seconds(50))
        #expect(rule.removable(versions(old: 20)) == Array(1...17))
        #expect(rule.removable(versions(old: 5)) == Array(1...5))
        #expect(rule.removable(versions([1, 4, 20], old: 20)) == [2, 3] + Array(5...17))
        #expect(rule.removable(versions(old: 0)).isEmpty && rule.removable([]).isEmpty)
        #expect(RetentionRule(versions: 50, age: 0).removable(versions(old: 20)).isEmpty)
        #expect(rule.removable(versions(old: 20).reversed()) == Array(1...17), "the order does not matter")
        #expect(
            RetentionRule(versions: 1, age: .seconds(100)).removable(versions(old: 20)).isEmpty, "exactly as old as the rule is not older")
    }
}
