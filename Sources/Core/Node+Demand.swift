// SPDX-License-Identifier: Apache-2.0

/// What the node does ahead of the next call: how long an idle worker waits for it, and when one more is started before it is missed.
extension Node {
    /// How long a worker may stay idle: what the version's gaps say, at most what its manifest says.
    func idleTime(_ worker: Worker) -> Nanoseconds {
        guard let function = worker.spec, let pool = worker.pool else { return 0 }
        // Nobody has come: it is no more than a spare.
        if worker.isAhead { return min(function.idle, spec.spareIdle) }
        return pool.demand.gaps.keep(ceiling: function.idle)
    }

    /// A call has taken the last free worker of its version: starts one more where calls come so fast that it will be missed before it could be ready. It takes nothing that
    /// somebody waits for, and nothing beyond a ceiling: the version's workers, its seats and its tenant's, the tenant's memory, and three quarters of the node's.
    func startAhead(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        // One call at a time never needs a second worker, however fast they follow each other.
        guard spec.startsAhead, !isMemoryShort, pool.available.isEmpty, queue.running(pool.lanes) > 1 else { return }
        let slots = pool.workers * Int(pool.spec.instanceConcurrency)
        guard pool.demand.expected(runTime: queue.guess(pool.leaves.sync)) > Float(slots), hasRoomAhead(pool, slots: slots, now)
        else { return }
        if startWorker(pool, now, &actions) == nil { workers[WorkerID(lastStarted)]?.isAhead = true }
    }

    private func hasRoomAhead(_ pool: Pool, slots: Int, _ now: Instant) -> Bool {
        let (tenant, need) = (pool.tenant, pool.spec.limits)
        let ofOthers = queue.running(tenant.lanes) - queue.running(pool.lanes)
        let function = functionSeats(pool)
        let seats = min(
            tenant.spec.concurrency - ofOthers, function.cap - (function.running - queue.running(pool.lanes)),
            spec.seats - (queue.running(queue.root) - queue.running(pool.lanes)))
        return slots < seats && pool.workers < pool.spec.maximumWorkers && pool.backoffUntil <= now && !pool.isRemoved
            && deathRows[pool.version] == nil && tenant.waiting.isEmpty && blockedTenants.isEmpty
            && starting < spec.concurrentStarts / 2 && workers.count < spec.maximumWorkers / 4 * 3
            && tenant.memoryCommitted + need.memoryBytes <= tenant.spec.limits.memoryBytes
            && tenant.processesCommitted + UInt64(need.processes) <= UInt64(tenant.spec.limits.processes)
            && memoryCommitted + need.memoryBytes <= spec.memoryBytes / 4 * 3
    }

    /// Ends one worker that was started ahead and that nobody has used or waits for. False where there is none.
    func endAhead(among candidates: some Sequence<Worker>, _ actions: inout [Action]) -> Bool {
        let unused = candidates.filter { worker in
            guard worker.isAhead, let pool = worker.pool else { return false }
            return worker.state == .ready && worker.inFlight == 0 || worker.state == .starting && queue.queued(pool.lanes) == 0
        }
        guard let victim = unused.min(by: { $0.id < $1.id }) else { return false }
        end(victim, because: "it was started ahead, and its memory is needed", expected: true, &actions)
        return true
    }
}
