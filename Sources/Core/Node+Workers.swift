// SPDX-License-Identifier: Apache-2.0
import DequeModule

extension Node {
    /// Starts as many workers as the queue can use now. Returns what stands in the way of more, as a phrase.
    mutating func startWorkers(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) -> String? {
        while let pool = pools[version], let tenant = tenants[version.function.tenant] {
            let function = functionSeats(version)
            let seats = min(tenant.spec.concurrency - queue.running(tenant.lanes), function.cap - function.running)
            // A free worker means that what waits does not wait for one; and who waits for an end user's seat has no use for another.
            let leaves = queue.eligibleChildren(pool.lanes)
            guard pool.available.isEmpty, leaves > 0 else { return nil }
            let perUser = min(tenant.spec.users?.concurrency ?? .max, pool.spec.users?.concurrency ?? .max)
            let wanted = min(queue.queued(pool.lanes), seats, perUser == .max ? .max : leaves * perUser)
            guard wanted > pool.starting * Int(pool.spec.instanceConcurrency) else { return nil }
            guard pool.backoffUntil <= now else { return "the back-off after failed starts" }
            guard pool.workers < pool.spec.maximumWorkers else { return "a worker (at most \(pool.spec.maximumWorkers))" }
            if let blocked = startWorker(pool.spec, now, &actions) { return blocked }
            if let first = pool.waiting.first, let newest = workers[WorkerID(lastStarted)] {
                actions.append(.note(first, .starting(newest.id, newest.startKind)))
            }
        }
        return nil
    }

    /// Starts one worker, from a spare where one fits. Nil on success, else the ceiling in the way as a phrase.
    mutating func startWorker(_ function: FunctionSpec, _ now: Instant, _ actions: inout [Action]) -> String? {
        let name = function.version.function.tenant
        guard isConnected else { return "the spawner" }
        guard let tenant = tenants[name], !tenant.isRemoved else { return "the tenant" }
        guard starting < spec.concurrentStarts else {
            block(name, now)
            return "other starts"
        }
        let need = function.limits
        let spare = takeableSpare(function, in: tenant.group ?? freeGroups.first)
        let memory = tenant.memoryCommitted + need.memoryBytes
        let processes = tenant.processesCommitted + UInt64(need.processes)
        if memory > tenant.spec.limits.memoryBytes || processes > UInt64(tenant.spec.limits.processes) {
            evict(tenant: name, except: function.version, now, &actions)
            return memory > tenant.spec.limits.memoryBytes ? "memory of the tenant" : "processes of the tenant"
        }
        let spareMemory = spare.flatMap { workers[$0]?.limits.memoryBytes } ?? 0
        if memoryCommitted - spareMemory + need.memoryBytes > spec.memoryBytes || (spare == nil && workers.count >= spec.maximumWorkers) {
            evictAnywhere(keeping: spare, now, &actions)
            block(name, now)
            return "memory or workers of the node"
        }
        let group = bindGroup(name, now, &actions)
        if let spare, workers[spare]?.group == group {
            adopt(spare, function, now, &actions)
        } else {
            spawn(.started(function), in: group, limits: need, now, &actions)
        }
        trimSpares(of: name, &actions)
        return nil
    }

    mutating func spawn(
        _ preparation: SparePreparation, in group: GroupID, limits: WorkerLimits, _ now: Instant, _ actions: inout [Action]
    ) {
        let id = WorkerID(nextWorker)
        nextWorker += 1
        var worker = Worker(id: id, group: group, preparation: preparation, limits: limits)
        if case .started(let function) = preparation {
            lastStarted = id.number
            worker.spec = function
            worker.begunAt = now
            worker.hasCode = true
            pools[function.version]?.starting += 1
            pools[function.version]?.workers += 1
            worker.startDeadline = now + function.startTimeout
        } else {
            worker.startDeadline = now + Self.spareStartTimeout
        }
        arm(.start(id), at: worker.startDeadline)
        workers[id] = worker
        groups[group]?.workers.insert(id)
        starting += 1
        commit(worker, 1)
        actions.append(.spawn(SpawnOrder(worker: id, group: group, preparation: preparation, limits: limits)))
    }

    /// Turns a spare into a worker of `function`.
    mutating func adopt(_ id: WorkerID, _ function: FunctionSpec, _ now: Instant, _ actions: inout [Action]) {
        guard var worker = workers[id] else { return }
        lastStarted = id.number
        commit(worker, -1)
        if worker.state == .spare { starting += 1 }
        worker.state = .starting
        worker.begunAt = now
        worker.spec = function
        worker.limits = function.limits
        if case .prewarmed = worker.preparation { worker.startKind = .prewarmed }
        worker.startDeadline = now + function.startTimeout
        workers[id] = worker
        commit(worker, 1)
        pools[function.version]?.starting += 1
        pools[function.version]?.workers += 1
        arm(.start(id), at: worker.startDeadline)
        actions.append(.assign(id, function))
        refillSpare(like: worker, now, &actions)
    }

    /// `hello` has come, or the code: sends `init` once both are there.
    mutating func advance(_ id: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.state == .starting || worker.state == .spare else { return }
        if let function = worker.spec {
            guard worker.isGreeted, worker.hasCode, !worker.isInitialized else { return }
            workers[id]?.isInitialized = true
            actions.append(.initialize(id, function))
        } else if worker.state == .starting {
            becomeSpare(id, now)
        }
    }

    mutating func becomeSpare(_ id: WorkerID, _ now: Instant) {
        workers[id]?.state = .spare
        workers[id]?.idleSince = now
        starting -= 1
        arm(.spare(id), at: now + spec.spareIdle)
    }

    mutating func becomeReady(_ id: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        guard var worker = workers[id], worker.state == .starting, worker.isInitialized, let function = worker.spec else { return }
        worker.state = .ready
        worker.slots = Array(repeating: nil, count: Int(function.instanceConcurrency))
        worker.readyAt = now
        worker.idleSince = now
        worker.isIdleArmed = true
        workers[id] = worker
        starting -= 1
        pools[function.version]?.starting -= 1
        pools[function.version]?.failures = 0
        pools[function.version]?.demand.started(in: now - worker.begunAt)
        let row = deathRows[function.version]
        if row != nil { arm(.proven(id), at: now + Self.provenAfter) }
        if !failingVersions.isEmpty, row?.isLong != true { failingVersions.remove(function.version) }
        guard !isOutdated(id) else {
            drain(id, now, &actions)
            return pump(function.version.function.tenant, now, &actions)
        }
        offer(id, function.version)
        arm(.idle(id), at: now + idleTime(worker))
        if pools[function.version]?.isRemoved == true { return drain(id, now, &actions) }
        pump(function.version.function.tenant, now, &actions)
        pumpBlocked(now, &actions)
    }

    /// A start failed: back off, and answer those who wait unless another worker can serve them.
    mutating func failStart(_ id: WorkerID, _ verdict: Verdict, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.state == .starting, let function = worker.spec else { return }
        let version = function.version
        leaveStarting(id)
        workers[id]?.state = .dying
        guard var pool = pools[version] else { return }
        pool.failures += 1
        pool.lastFailure = verdict
        if pool.failures >= Self.longRow { pool.backoffUntil = max(pool.backoffUntil, now + Self.backoff(pool.failures - Self.longRow)) }
        if pool.failures >= Self.longRow, !pool.isRemoved { failingVersions.insert(version) }
        let isServed = pool.workers - pool.starting > 1
        pools[version] = pool
        if !isServed { dropAll(version, verdict, &actions) }
        if function.minimumWorkers > 0 { arm(.minimum(version), at: max(pool.backoffUntil, now + .seconds(1))) }
    }

    /// Answers everything that waits for this version.
    mutating func dropAll(_ version: VersionID, _ verdict: Verdict, _ actions: inout [Action]) {
        for waiting in pools[version]?.waiting ?? [] {
            if let invocation = invocations[waiting], isWaiting(waiting) { drop(invocation, verdict, &actions) }
        }
    }

    mutating func leaveStarting(_ id: WorkerID) {
        guard let worker = workers[id], worker.state == .starting else { return }
        starting -= 1
        if let version = worker.spec?.version { pools[version]?.starting -= 1 }
    }

    /// The worker is of no further use: its callers are answered now, its seats are freed when it is gone.
    mutating func breakLink(_ id: WorkerID, _ reason: String, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.state != .dying, worker.state != .draining else { return }
        // The spawner's `exited` follows at once where the process ended by itself, and knows the cause better: give it a moment.
        workers[id]?.endReason = worker.endReason ?? reason
        workers[id]?.isLinkBroken = true
        if worker.state == .ready, let version = worker.spec?.version { withdraw(id, version) }
        if worker.state == .ready { workers[id]?.state = .draining }
        arm(.drainGrace(id), at: now + .milliseconds(100))
    }

    mutating func drain(_ id: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.state == .ready else { return }
        workers[id]?.state = .draining
        workers[id]?.isEndExpected = true
        if let version = worker.spec?.version { withdraw(id, version) }
        actions.append(.drain(id))
        arm(.drainGrace(id), at: now + .seconds(2))
    }

    /// Gives the worker nothing more, and ends it when nothing runs in it.
    mutating func retire(_ id: WorkerID, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.state == .ready else { return }
        if let version = worker.spec?.version { withdraw(id, version) }
        if worker.inFlight == 0 { end(id, because: "an invocation in it ran past its deadline", expected: true, &actions) }
    }

    /// Ends a worker at once.
    mutating func end(_ id: WorkerID, because reason: String, expected: Bool = false, _ actions: inout [Action]) {
        guard let worker = workers[id] else { return }
        if worker.state == .dying, worker.endReason != nil, worker.isEndExpected == expected, worker.isKillSent { return }
        leaveStarting(id)
        if worker.state == .ready, let version = worker.spec?.version { withdraw(id, version) }
        workers[id]?.state = .dying
        workers[id]?.isKillSent = true
        workers[id]?.isEndExpected = worker.isEndExpected || expected
        workers[id]?.endReason = worker.endReason ?? reason
        for case let invocation? in worker.slots { actions.append(.note(invocation, .killSent(id, reason: reason))) }
        actions.append(.kill(id))
    }

    /// The last process is gone: answers who still waits, frees seats, memory and the group's place.
    mutating func remove(_ id: WorkerID, _ cause: DeathCause, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id] else { return }
        if worker.state == .starting, worker.spec != nil { failStart(id, Self.verdict(worker, cause), now, &actions) }
        leaveStarting(id)
        tallyDeath(worker, cause, now)
        for (slot, entry) in worker.slots.enumerated() {
            guard let running = entry else { continue }
            reply(running, Self.verdict(worker, cause), &actions)
            release(running, id, UInt16(slot), now, &actions)
        }
        if let version = worker.spec?.version {
            withdraw(id, version)
            pools[version]?.workers -= 1
            dropDuringBackoff(version, now, &actions)
            forgetPoolIfGone(version)
        }
        if worker.isYielding { yielding -= 1 }
        commit(worker, -1)
        workers[id] = nil
        groups[worker.group]?.workers.remove(id)
        if groups[worker.group]?.isRetired == true, groups[worker.group]?.workers.isEmpty == true {
            let owner = groups[worker.group]?.tenant
            groups[worker.group] = nil
            actions.append(.removeGroup(worker.group))
            if let owner { forgetTenantIfGone(owner) }
        }
        if let version = worker.spec?.version { keepMinimum(version, now, &actions) }
        // Who waits for the node's memory comes before the tenant whose worker freed it.
        pumpBlocked(now, &actions)
        if let tenant = worker.spec?.version.function.tenant { pump(tenant, now, &actions) }
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
    mutating func commit(_ worker: Worker, _ sign: Int) {
        let memory = worker.limits.memoryBytes
        let processes = UInt64(worker.limits.processes)
        memoryCommitted = sign > 0 ? memoryCommitted + memory : memoryCommitted - memory
        guard let tenant = worker.spec?.version.function.tenant else { return }
        if sign > 0 {
            tenants[tenant]?.memoryCommitted += memory
            tenants[tenant]?.processesCommitted += processes
            tenants[tenant]?.workers += 1
        } else {
            tenants[tenant]?.memoryCommitted -= memory
            tenants[tenant]?.processesCommitted -= processes
            tenants[tenant]?.workers -= 1
        }
    }
}
