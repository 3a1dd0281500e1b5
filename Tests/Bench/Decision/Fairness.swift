// SPDX-License-Identifier: Apache-2.0
import Core
import LoopSimulation

/// How fair the fair queue is, in virtual time: the same on every machine.
enum Fairness {
    struct Row {
        var weights: String
        /// Seat time over weight, in seconds: of the two tenants that came closest to their bound, and what they were allowed.
        var apart: Double
        var bound: Double
        var jain: Double

        var cells: [String] { [weights, fixed(apart), fixed(bound), fixed(apart / bound), fixed(jain)] }
        var json: String {
            "{\"weights\":\"\(weights)\",\"apart_seat_s\":\(apart),\"bound_seat_s\":\(bound),\"jain\":\(jain)}"
        }
    }

    static let head = ["weights", "worst |Wi/wi - Wj/wj|, seat-s", "its bound", "of it", "Jain index of 100"]

    static func measure() -> [Row] {
        let weights: [[Double]] = [[1], [1, 2, 3], [1, 10]]
        return weights.map { weights in
            var worst = (apart: 0.0, bound: 1.0)
            for seed in 0..<4 as Range<UInt64> {
                var machine = FairMachine.backlogged(seed: seed, weights: weights)
                let gap = machine.widestGap(steps: 6_000)
                if gap.apart / gap.bound > worst.apart / worst.bound { worst = gap }
            }
            let jain = FairMachine.hundred(seed: 5, weights: weights).jainIndex()
            let name = weights.map { "\(Int($0))" }.joined(separator: ":")
            return Row(weights: name, apart: worst.apart / 1e9, bound: worst.bound / 1e9, jain: jain)
        }
    }

    private static func fixed(_ value: Double) -> String { "\((value * 10_000).rounded() / 10_000)" }
}
