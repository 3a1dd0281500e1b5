// SPDX-License-Identifier: Apache-2.0
public import Core
import NIOCore
public import Wire

extension SupervisorState {
    /// Every worker, oldest first, with the usage that was asked for last.
    public var workerReports: [WorkerReport] {
        node.workerViews.map { view in
            let process = processes[view.worker]
            return WorkerReport(
                worker: view.worker, version: view.version, runtime: view.runtime, state: view.state, pid: process?.pid ?? 0,
                uid: process?.uid ?? 0, cgroup: process?.cgroup ?? "", startedAt: process?.startedAt ?? 0, served: process?.served ?? 0,
                inFlight: view.inFlight, slots: view.slots, limits: view.limits, usage: process?.usage ?? Usage())
        }
    }

    /// The node's time.
    public var now: Instant { clock.now() }

    /// The decisions about an invocation; nil where it is unknown or too long ago.
    public func explainRecord(_ id: InvocationID) -> ExplainRecord? { explain.record(id) }

    /// Decisions on invocations that ended since the last call and are worth keeping: those that were refused or failed, took a second, or were an event's.
    public func takeExplanations() -> [ExplainRecord] { explain.takeEnded() }

    /// Admits nothing new.
    public func beginDraining() { handle(.draining) }
}

extension Supervisor {
    /// Asks the spawner for every worker's present usage.
    public func refreshUsage() async throws {
        let promise = loop.makePromise(of: Void.self)
        try await onLoop { state in
            // A message holds 1,024 workers; the last answer is the one that is waited for.
            let all = state.node.workerViews.map(\.worker)
            for start in stride(from: 0, to: all.count, by: 1000) {
                state.spawner(.usage(Array(all[start..<min(start + 1000, all.count)])))
            }
            if all.isEmpty { promise.succeed() } else { state.usageWaiters.append(promise) }
        }
        try await promise.futureResult.get()
    }

    /// The worker's posture, read from outside; empty where there is no such worker.
    public func posture(_ worker: WorkerID) async throws -> [PostureCheck] {
        let promise = loop.makePromise(of: [PostureCheck].self)
        try await onLoop { state in
            state.postures[worker, default: []].append(promise)
            state.spawner(.inspect(worker))
        }
        return try await promise.futureResult.get()
    }
}
