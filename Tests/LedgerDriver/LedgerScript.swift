// SPDX-License-Identifier: Apache-2.0
import Core

/// What a driver does with its ledger, step by step from a seed, so that the test knows what step `n` was without being told.
struct LedgerScript {
    struct Step {
        enum Kind { case begin, settle, void }
        var kind: Kind
        var id: InvocationID
        var function: FunctionID
        var reserved: UInt64
        var memoryBytes: UInt64
        /// Sometimes more than is reserved.
        var charged: UInt64
        var durationUs: UInt64
        var cpuUs: UInt64
        var outcome: Outcome
        var wallMs: UInt64
    }

    private var state: UInt64
    private var open: [Step] = []
    private var count: UInt64 = 0
    private let tenant: Name
    private(set) var wallMs: UInt64

    init(seed: UInt64, run: UInt64) {
        state = seed &* 1_000_003 &+ run
        tenant = Name("t\(run)") ?? .unnamed
        wallMs = 1_700_000_000_000 + run * 10_000_000
    }

    private mutating func below(_ bound: UInt64) -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return (z ^ z >> 31) % bound
    }

    mutating func next() -> Step {
        wallMs += below(3)
        if open.isEmpty || (open.count < 8 && below(2) == 0) {
            count += 1
            let step = Step(
                kind: .begin, id: InvocationID(milliseconds: wallMs, random: (UInt16(truncatingIfNeeded: count), below(.max))),
                function: FunctionID(tenant: tenant, function: Name("function-\(below(4))") ?? .unnamed), reserved: below(5000),
                memoryBytes: (1 + below(64)) << 24, charged: 0, durationUs: 0, cpuUs: 0, outcome: .ok, wallMs: wallMs)
            open.append(step)
            return step
        }
        var step = open.remove(at: Int(below(UInt64(open.count))))
        step.kind = below(8) == 0 ? .void : .settle
        step.charged = below(6000)
        step.durationUs = below(1000)
        step.cpuUs = below(500)
        step.outcome = Outcome.allCases[Int(below(UInt64(Outcome.allCases.count)))]
        step.wallMs = wallMs
        return step
    }
}
