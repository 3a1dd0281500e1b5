// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Kernel
import Store

/// Follows a ``LedgerScript`` until it is killed: `ledger-driver DIRECTORY PROGRESS SEED RUN`. PROGRESS is a file of two words in shared memory, which
/// a pipe would be too slow for: 1 once the ledger is open, and the number of steps that were acknowledged.
@main struct Main {
    static func main() throws {
        let words = CommandLine.arguments
        guard words.count == 5, let seed = UInt64(words[3]), let run = UInt64(words[4]) else { exit(2) }
        let progress = try MappedFile(create: words[2], count: 2)
        var script = LedgerScript(seed: seed, run: run)
        // Small segments, so that many are begun, filled, counted and removed in a short life.
        let ledger = try UsageLedger(directory: words[1], now: script.wallMs, segmentRecords: 40)
        progress.publish(1, at: 0)
        let background = Thread {
            while true {
                do { try ledger.checkpoint() } catch {
                    print("driver: \(error)")
                    exit(3)
                }
            }
        }
        background.start()
        var count: UInt64 = 0
        while true {
            try follow(script.next(), ledger)
            count += 1
            progress.publish(count, at: 1)
        }
    }

    private static func follow(_ step: LedgerScript.Step, _ ledger: UsageLedger) throws {
        switch step.kind {
        case .begin:
            try ledger.begin(step.id, step.function, reserved: step.reserved, memoryBytes: step.memoryBytes, wallMs: step.wallMs)
        case .settle:
            ledger.settle(
                step.id, step.outcome, charged: step.charged, durationUs: step.durationUs, cpuUs: step.cpuUs, wallMs: step.wallMs)
        case .void: ledger.void(step.id, wallMs: step.wallMs)
        }
    }
}
