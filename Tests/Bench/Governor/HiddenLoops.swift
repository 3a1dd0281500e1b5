// SPDX-License-Identifier: Apache-2.0
import Core
import LoopSimulation

/// How long loops through somebody outside run until their edge is broken, in virtual time.
enum HiddenLoops {
    static let seeds = 24

    static func rows() -> [String] {
        var rows: [String] = []
        for delay in [0.1, 2, 10, 30] {
            for offspring in [1, 1.5, 2, 3] {
                var loop = OutsideLoop()
                (loop.delay, loop.offspring, loop.spread) = (delay, offspring, 0.01)
                if offspring == 1 { loop.circulating = max(1, Int(2 * delay)) }
                rows.append(row("m = \(offspring), \(delay) s a turn, \(loop.circulating) at first", loop))
            }
        }
        for share in [0.25, 0.5, 0.75] {
            var loop = OutsideLoop()
            // Six go round three times a second.
            (loop.delay, loop.circulating, loop.foreign) = (0.3, 6, 17 * share / (1 - share))
            rows.append(row("m = 1, 0.3 s a turn, \(Int(share * 100)) % of the events from elsewhere", loop))
        }
        for (offspring, delay, spread) in [(1.0, 2.0, 0.1), (2, 2, 0.1), (1, 10, 0.1), (2, 10, 0.1), (2, 30, 0.1), (1, 10, 0.3)] {
            var loop = OutsideLoop()
            (loop.offspring, loop.delay, loop.spread) = (offspring, delay, spread)
            if offspring == 1 { loop.circulating = Int(2 * delay) }
            rows.append(row("m = \(offspring), \(delay) s a turn give or take \(Int(spread * 100)) %, \(loop.circulating) at first", loop))
        }
        for (offspring, delay) in [(1.5, 2.0), (2, 2), (2, 30)] {
            var loop = OutsideLoop()
            (loop.delay, loop.offspring, loop.hasKey, loop.spread) = (delay, offspring, false, 0.01)
            rows.append(row("m = \(offspring), \(delay) s a turn, never the same twice", loop))
        }
        for delay in [10.0, 30] {
            var loop = OutsideLoop()
            loop.delay = delay
            rows.append(row("m = 1, \(delay) s a turn, one alone", loop))
        }
        return rows
    }

    private static func row(_ name: String, _ loop: OutsideLoop) -> String {
        let endings = (0..<seeds).map { loop.run(seed: UInt64($0), seconds: 1_500, events: 150_000) }
        let cut = endings.filter { $0.cutAt != nil }
        guard !cut.isEmpty else { return "\(name): never cut in \(Int(1_500)) s, \(endings.map(\.ran).max() ?? 0) runs" }
        let arming = Set(cut.compactMap { $0.arming?.rawValue }).sorted().joined(separator: "/")
        let missed = cut.count < seeds ? ", \(seeds - cut.count) never cut" : ""
        return
            "\(name): \(spread(cut.compactMap { e in e.cutAt.flatMap { c in e.armedAt.map { c - $0 } } })) s after the test began (\(arming)), "
            + "\(spread(cut.compactMap(\.cutAt))) s in all, \(spread(cut.map { Double($0.ran) })) runs\(missed)"
    }

    private static func spread(_ values: [Double]) -> String {
        let sorted = values.sorted()
        return [0.5, 0.9, 1].map { "\(Int(sorted[Int(Double(sorted.count - 1) * $0)].rounded()))" }.joined(separator: "/")
    }
}
