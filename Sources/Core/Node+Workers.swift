// SPDX-License-Identifier: Apache-2.0
import DequeModule

extension Node {
    /// Starts as many workers as the queue can use now. Returns what stands in the way of more, as a phrase.
    func startWorkers(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) -> String? {
        let tenant = pool.tenant
        while true {
            let function = functionSeats(pool)
            let seats = min(tenant.spec.concurrency - queue.running(tenant.lanes), function.cap - function.running)
            // A free worker means that what waits does not wait for one; and who waits for an end user's seat has no use for another.
            let leaves = queue.eligibleChildren(pool.lanes)
            guard pool.available.isEmpty, leaves > 0 else { return nil }
            let perUser = min(tenant.spec.users?.concurrency ?? .max, pool.spec.users?.concurrency ?? .max)
            let wanted = min(queue.queued(pool.lanes), seats, perUser == .max ? .max : leaves * perUser)
            guard wanted > pool.starting * Int(pool.spec.instanceConcurrency) else { return nil }
            guard pool.backoffUntil <= now else { return "the back-off after failed starts" }
            guard pool.workers < pool.spec.maximumWorkers else { return "a worker (at most \(pool.spec.maximumWorkers))" }
            if let blocked = startWorker(pool, now, &actions) { return blocked }
            if let first = pool.waiting.first, let newest = workers[WorkerID(lastStarted)] {
                actions.append(.note(first.id, .starting(newest.id, newest.startKind)))
            }
        }
    }

    /// Starts one worker, from a spare where one fits. Nil on success, else the ceiling in the way as a phrase.
    func startWorker(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) -> String? {
        let (tenant, function) = (pool.tenant, pool.spec)
        guard isConnected else { return "the spawner" }
        guard !tenant.isRemoved else { return "the tenant" }
        guard starting < spec.concurrentStarts else {
            block(tenant, now)
            return "other starts"
        }
        let need = function.limits
        let spare = takeableSpare(function, in: tenant.group ?? freeGroups.first)
        let memory = tenant.memoryCommitted + need.memoryBytes
        let processes = tenant.processesCommitted + UInt64(need.processes)
        if memory > tenant.spec.limits.memoryBytes || processes > UInt64(tenant.spec.limits.processes) {
            evict(except: pool, now, &actions)
            return memory > tenant.spec.limits.memoryBytes ? "memory of the tenant" : "processes of the tenant"
        }
        let spareMemory = spare?.limits.memoryBytes ?? 0
        if memoryCommitted - spareMemory + need.memoryBytes > spec.memoryBytes || (spare == nil && workers.count >= spec.maximumWorkers) {
            evictAnywhere(keeping: spare, now, &actions)
            block(tenant, now)
            return "memory or workers of the node"
        }
        let group = bindGroup(tenant, now, &actions)
        if let spare, spare.group == group {
            adopt(spare, for: pool, now, &actions)
        } else {
            spawn(.started(function), for: pool, in: group, limits: need, now, &actions)
        }
        trimSpares(of: tenant, &actions)
        return nil
    }

    func spawn(
        _ preparation: SparePreparation, for pool: Pool? = nil, in group: GroupID, limits: WorkerLimits, _ now: Instant,
        _ actions: inout [Action]
    ) {
        let worker = Worker(id: WorkerID(nextWorker), group: group, preparation: preparation, limits: limits)
        nextWorker += 1
        if let pool {
            begin(worker, for: pool, now)
            worker.hasCode = true
        } else {
            worker.startDeadline = now + Self.spareStartTimeout
        }
        arm(.start(worker.id), at: worker.startDeadline)
        workers[worker.id] = worker
        groups[group]?.workers.insert(worker.id)
        starting += 1
        commit(worker, 1)
        actions.append(.spawn(SpawnOrder(worker: worker.id, group: group, preparation: preparation, limits: limits)))
    }

    /// Turns a spare into a worker of the version.
    func adopt(_ worker: Worker, for pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        commit(worker, -1)
        if worker.state == .spare { starting += 1 }
        worker.state = .starting
        begin(worker, for: pool, now)
        worker.limits = pool.spec.limits
        if case .prewarmed = worker.preparation { worker.startKind = .prewarmed }
        commit(worker, 1)
        arm(.start(worker.id), at: worker.startDeadline)
        actions.append(.assign(worker.id, pool.spec))
        refillSpare(like: worker, now, &actions)
    }

    /// From now on it is on its way to its version.
    private func begin(_ worker: Worker, for pool: Pool, _ now: Instant) {
        worker.give(to: pool)
        worker.begunAt = now
        worker.startDeadline = now + pool.spec.startTimeout
        lastStarted = worker.id.number
        pool.starting += 1
        pool.workers += 1
    }

    /// `hello` has come, or the code: sends `init` once both are there.
    func advance(_ worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state == .starting || worker.state == .spare else { return }
        if let function = worker.spec {
            guard worker.isGreeted, worker.hasCode, !worker.isInitialized else { return }
            worker.isInitialized = true
            actions.append(.initialize(worker.id, function))
        } else if worker.state == .starting {
            becomeSpare(worker, now)
        }
    }

    func becomeSpare(_ worker: Worker, _ now: Instant) {
        worker.state = .spare
        worker.idleSince = now
        starting -= 1
        arm(.spare(worker.id), at: now + spec.spareIdle)
    }

    func becomeReady(_ worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state == .starting, worker.isInitialized, let pool = worker.pool else { return }
        worker.becomeReady(now)
        starting -= 1
        pool.starting -= 1
        pool.failures = 0
        pool.demand.started(in: now - worker.begunAt)
        let row = deathRows[pool.version]
        if row != nil { arm(.proven(worker.id), at: now + Self.provenAfter) }
        if !failingVersions.isEmpty, row?.isLong != true { failingVersions.remove(pool.version) }
        guard !isOutdated(worker) else {
            drain(worker, now, &actions)
            return pump(pool.tenant, now, &actions)
        }
        offer(worker)
        arm(.idle(worker.id), at: now + idleTime(worker))
        if pool.isRemoved { return drain(worker, now, &actions) }
        pump(pool.tenant, now, &actions)
        pumpBlocked(now, &actions)
    }

    /// A start failed: back off, and answer those who wait unless another worker can serve them.
    func failStart(_ worker: Worker, _ verdict: Verdict, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state == .starting, let pool = worker.pool else { return }
        leaveStarting(worker)
        worker.state = .dying
        pool.failures += 1
        pool.lastFailure = verdict
        if pool.failures >= Self.longRow { pool.backoffUntil = max(pool.backoffUntil, now + Self.backoff(pool.failures - Self.longRow)) }
        if pool.failures >= Self.longRow, !pool.isRemoved { failingVersions.insert(pool.version) }
        if pool.workers - pool.starting <= 1 { dropAll(pool, verdict, &actions) }
        if worker.spec?.minimumWorkers ?? 0 > 0 { arm(.minimum(pool.version), at: max(pool.backoffUntil, now + .seconds(1))) }
    }

    /// Answers everything that waits for this version.
    func dropAll(_ pool: Pool, _ verdict: Verdict, _ actions: inout [Action]) {
        for invocation in pool.waiting where invocation.isWaiting { drop(invocation, verdict, &actions) }
    }

    func leaveStarting(_ worker: Worker) {
        guard worker.state == .starting else { return }
        starting -= 1
        worker.pool?.starting -= 1
    }

    /// The worker is of no further use: its callers are answered now, its seats are freed when it is gone.
    func breakLink(_ worker: Worker, _ reason: String, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state != .dying, worker.state != .draining else { return }
        // The spawner's `exited` follows at once where the process ended by itself, and knows the cause better: give it a moment.
        worker.endReason = worker.endReason ?? reason
        worker.isLinkBroken = true
        if worker.state == .ready {
            withdraw(worker)
            worker.state = .draining
        }
        arm(.drainGrace(worker.id), at: now + .milliseconds(100))
    }

    func drain(_ worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state == .ready else { return }
        worker.state = .draining
        worker.isEndExpected = true
        withdraw(worker)
        actions.append(.drain(worker.id))
        arm(.drainGrace(worker.id), at: now + .seconds(2))
    }

    /// Gives the worker nothing more, and ends it when nothing runs in it.
    func retire(_ worker: Worker, _ actions: inout [Action]) {
        guard worker.state == .ready else { return }
        withdraw(worker)
        if worker.inFlight == 0 { end(worker, because: "an invocation in it ran past its deadline", expected: true, &actions) }
    }

    /// Ends a worker at once.
    func end(_ worker: Worker, because reason: String, expected: Bool = false, _ actions: inout [Action]) {
        if worker.state == .dying, worker.endReason != nil, worker.isEndExpected == expected, worker.isKillSent { return }
        leaveStarting(worker)
        if worker.state == .ready { withdraw(worker) }
        worker.state = .dying
        worker.isKillSent = true
        worker.isEndExpected = worker.isEndExpected || expected
        worker.endReason = worker.endReason ?? reason
        for case let invocation? in worker.slots { actions.append(.note(invocation.id, .killSent(worker.id, reason: reason))) }
        actions.append(.kill(worker.id))
    }

    /// The last process is gone: answers who still waits, frees seats, memory and the group's place.
    func remove(_ worker: Worker, _ cause: DeathCause, _ now: Instant, _ actions: inout [Action]) {
        if worker.state == .starting, worker.pool != nil { failStart(worker, Self.verdict(worker, cause), now, &actions) }
        leaveStarting(worker)
        tallyDeath(worker, cause, now)
        for (slot, entry) in worker.slots.enumerated() {
            guard let invocation = entry else { continue }
            reply(invocation, Self.verdict(worker, cause), &actions)
            release(invocation, worker, UInt16(slot), now, &actions)
        }
        if let pool = worker.pool {
            withdraw(worker)
            pool.workers -= 1
            dropDuringBackoff(pool, now, &actions)
            forgetPoolIfGone(pool)
        }
        if worker.isYielding { yielding -= 1 }
        commit(worker, -1)
        workers[worker.id] = nil
        groups[worker.group]?.workers.remove(worker.id)
        if let group = groups[worker.group], group.isRetired, group.workers.isEmpty {
            groups[worker.group] = nil
            actions.append(.removeGroup(worker.group))
            if let owner = group.tenant.flatMap({ tenants[$0] }) { forgetTenantIfGone(owner) }
        }
        if let pool = worker.pool, pools[pool.version] === pool { keepMinimum(pool, now, &actions) }
        // Who waits for the node's memory comes before the tenant whose worker freed it.
        pumpBlocked(now, &actions)
        if let pool = worker.pool { pump(pool.tenant, now, &actions) }
    }

    static func verdict(_ worker: Worker, _ cause: DeathCause) -> Verdict {
        // Not the node's failure: the code cannot be loaded.
        if let fault = cause.programFault(worker.spec?.command ?? []) { return .initFailed(type: "ProgramError", message: fault) }
        return switch cause {
        case .outOfMemory: .failed(.outOfMemory, reason: cause.description, cause)
        case .setupFailed: .failed(.internal, reason: cause.description, cause)
        case .killed: .failed(.crashed, reason: worker.endReason ?? cause.description, cause)
        default: .failed(.crashed, reason: "the worker " + cause.description, cause)
        }
    }

    /// Adds (`+1`) or takes (`-1`) a worker's limits to the sums. A spare counts for the node alone: it runs none of the tenant's code yet.
    func commit(_ worker: Worker, _ sign: Int) {
        let memory = worker.limits.memoryBytes
        let processes = UInt64(worker.limits.processes)
        memoryCommitted = sign > 0 ? memoryCommitted + memory : memoryCommitted - memory
        guard let tenant = worker.pool?.tenant else { return }
        if sign > 0 {
            tenant.memoryCommitted += memory
            tenant.processesCommitted += processes
            tenant.workers += 1
        } else {
            tenant.memoryCommitted -= memory
            tenant.processesCommitted -= processes
            tenant.workers -= 1
        }
    }
}
