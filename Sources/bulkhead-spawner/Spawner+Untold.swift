// SPDX-License-Identifier: Apache-2.0
import Core
import Wire

/// Processor time of ended workers that no daemon could be told, by whom they worked for.
struct UntoldUse {
    /// The most accounts that are kept; each is one function with a worker that ended without a daemon.
    static let capacity = 4096

    private(set) var microseconds: [UInt64: UInt64] = [:]
    /// What found no room.
    private(set) var lostWorkers = 0
    private(set) var lostMicroseconds: UInt64 = 0

    init(_ entries: [AccountUse] = []) { for entry in entries { add(entry.account, entry.cpuMicroseconds) } }

    mutating func add(_ account: UInt64, _ used: UInt64) {
        guard microseconds[account] != nil || microseconds.count < Self.capacity else {
            lostWorkers += 1
            lostMicroseconds = Self.sum(lostMicroseconds, used)
            return
        }
        microseconds[account] = Self.sum(microseconds[account] ?? 0, used)
    }

    private static func sum(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let (sum, isOver) = a.addingReportingOverflow(b)
        return isOver ? .max : sum
    }

    /// In the order of the accounts.
    var entries: [AccountUse] { microseconds.sorted { $0.key < $1.key }.map { AccountUse(account: $0.key, cpuMicroseconds: $0.value) } }

    mutating func remove(_ told: [AccountUse]) { for entry in told { microseconds[entry.account] = nil } }
    mutating func forgetLost() { (lostWorkers, lostMicroseconds) = (0, 0) }
}

extension Spawner {
    /// The last words about a worker. Where its daemon is gone, or goes now, what it used is kept for the next.
    func tellEnd(_ worker: LiveWorker) {
        let usage = worker.usage ?? Usage()
        if !worker.isOrphan, tell(.exited(worker.id, worker.cause ?? .killed, usage)) { return }
        guard worker.account != 0, usage.cpuMicroseconds > worker.toldCPU else { return }
        untold.add(worker.account, usage.cpuMicroseconds - worker.toldCPU)
    }

    /// Gives a daemon that serves what its predecessors could not be told: one that still starts may end before it reads it.
    func tellUntold() {
        guard health.due != nil, daemonPID > 0 else { return }
        let entries = untold.entries
        for start in stride(from: 0, to: entries.count, by: AccountUse.maximum) {
            let part = Array(entries[start..<min(start + AccountUse.maximum, entries.count)])
            guard tell(.spent(part)) else { return }
            untold.remove(part)
        }
        if untold.lostWorkers > 0 {
            say("\(untold.lostMicroseconds / 1000) ms of processor time of \(untold.lostWorkers) ended workers are on nobody's bill")
            untold.forgetLost()
        }
    }
}
