// SPDX-License-Identifier: Apache-2.0
import Core

/// Arrivals that do not react to the edge, drawn or schemed beforehand. A test that calls one of them a loop is wrong.
public enum HonestStream: CaseIterable, Sendable {
    case steady, poisson, bursts, trend, growth, periodic, sparse, schemed, daily

    /// Arrivals of one slot, three eighths of a second.
    private func arrivals(_ slot: Int, _ seed: Int, _ random: inout SeededNumbers) -> Int {
        let window = slot / 4
        switch self {
        case .steady: return 1
        case .poisson: return Self.poisson(1.5, &random)
        case .bursts: return Int.random(in: 0..<40, using: &random) == 0 ? 20 + Int.random(in: 0..<40, using: &random) : 0
        case .trend: return Self.poisson(0.2 + Double(slot) / 100, &random)
        case .growth: return min(200, 1 << (slot / 60))
        // Periods from one window to thirteen.
        case .periodic: return window % (1 + seed % 13) == 0 ? 2 : 0
        case .sparse: return Int.random(in: 0..<30, using: &random) == 0 ? 1 : 0
        // Knows the windows but not the coin.
        case .schemed: return window % 2 == 1 ? 2 : 0
        case .daily: return Self.poisson(slot / 160 % 2 == 0 ? 3 : 0.1, &random)
        }
    }

    private static func poisson(_ mean: Double, _ random: inout SeededNumbers) -> Int {
        var left = mean
        var count = 0
        while left > 0, count < 200 {
            left -= random.exponential()
            if left > 0 { count += 1 }
        }
        return count
    }

    /// How many of so many streams would be called loops.
    /// - Parameter coin: how the coins are drawn; a false one shows what they are for.
    public static func falseBreaks(
        _ streams: Int, alpha: Double, seed: UInt64, of kinds: [HonestStream] = HonestStream.allCases,
        coin: (inout SeededNumbers) -> Bool = { Bool.random(using: &$0) }
    ) -> Int {
        var random = SeededNumbers(seed)
        var breaks = 0
        for number in 0..<streams {
            let stream = kinds[number % kinds.count]
            var test = Switchback(alpha: alpha, coin: coin(&random), at: instant(0))
            var verdict: Switchback.Verdict?
            var slot = 0
            while verdict == nil {
                let begin = 0.375 * Double(slot)
                if test.deadline <= instant(begin) { verdict = test.advance(at: instant(begin), coin: coin(&random)) }
                for _ in 0..<stream.arrivals(slot, number / kinds.count, &random) { test.arrived(at: instant(begin + 0.1)) }
                slot += 1
            }
            if verdict == .loop { breaks += 1 }
        }
        return breaks
    }
}
