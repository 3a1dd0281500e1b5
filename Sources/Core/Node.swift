// SPDX-License-Identifier: Apache-2.0
import DequeModule
import HeapModule

/// Every decision of the node: who is admitted, who waits, which worker serves, what is started, ended and refused.
///
/// One value behind one lock. Events go in, actions come out; `now` is an argument, and nothing here can act, wait or read a clock. The invariants
/// that hold after every ``handle(_:at:into:)``: a tenant's and a function's running invocations are at most their caps; the sum of the memory limits of a tenant's
/// live workers is at most its ceiling, and of all workers at most the node's; every invocation that arrived is answered exactly once.
public struct Node: Sendable {
    public let spec: NodeSpec
    var tenants: [Name: Tenant] = [:]
    var pools: [VersionID: Pool] = [:]
    var workers: [WorkerID: Worker] = [:]
    var invocations: [InvocationID: Invocation] = [:]
    var groups: [GroupID: Group] = [:]
    var freeGroups: [GroupID] = []
    var timers = Heap<Timer>()
    var timerSequence: UInt64 = 0
    var nextWorker: UInt64
    var nextGroup: UInt32 = 1
    /// The worker that was started or adopted last, for `explain`.
    var lastStarted: UInt64 = 0
    var memoryCommitted: UInt64 = 0
    var starting = 0
    var queued = 0
    /// Tenants with waiting invocations that could not get a worker; asked again when something is freed.
    var blockedTenants: [Name] = []
    var isConnected = false
    var isDraining = false

    /// `firstWorker` is the first worker number that no earlier run of this state has used.
    public init(spec: NodeSpec, firstWorker: UInt64) {
        self.spec = spec
        nextWorker = firstWorker
    }

    /// When ``Event/timePassed`` is due next; nil where no timer runs.
    public var nextDeadline: Instant? { timers.min?.at }

    /// The only entry: tells the node what happened; appends what to do.
    public mutating func handle(_ event: Event, at now: Instant, into actions: inout [Action]) {
        switch event {
        case .arrived(let id, let version, let timeout): arrive(id, version, timeout: timeout, now, &actions)
        case .finished(let id, let worker, let outcome): finish(id, worker, outcome, now, &actions)
        case .abandoned(let id): abandon(id, now, &actions)
        case .spawned(let id):
            // An empty sandbox says nothing: it can be given away from now on, and the spawner waits for the end of its seal.
            if let worker = workers[id], worker.preparation == .sealed, worker.spec == nil, worker.state == .starting {
                becomeSpare(id, now)
            }
        case .greeted(let id):
            workers[id]?.isGreeted = true
            advance(id, now, &actions)
        case .assigned(let id):
            workers[id]?.hasCode = true
            advance(id, now, &actions)
        case .ready(let id): becomeReady(id, now, &actions)
        case .initFailed(let id, let type, let message):
            failStart(id, .initFailed(type: type, message: message), now, &actions)
            end(id, because: "its code could not be loaded", &actions)
        case .startFailed(let id, let reason):
            failStart(id, .failed(.internal, reason: reason, nil), now, &actions)
            remove(id, .killed, now, &actions)
        case .linkBroken(let id, let reason): breakLink(id, reason, now, &actions)
        case .exited(let id, let cause): remove(id, cause, now, &actions)
        case .timePassed: fireTimers(now, &actions)
        case .tenantConfigured(let spec): configure(spec, now, &actions)
        case .tenantRemoved(let name): removeTenant(name, now, &actions)
        case .versionRegistered(let spec):
            pools[spec.version, default: Pool(spec: spec)].spec = spec
            pools[spec.version]?.isRemoved = false
            keepMinimum(spec.version, now, &actions)
        case .versionRemoved(let version): removeVersion(version, now, &actions)
        case .spawnerConnected:
            isConnected = true
            refillGroups(now, &actions)
            for version in pools.keys.sorted(by: { $0.description < $1.description }) { keepMinimum(version, now, &actions) }
        case .draining: isDraining = true
        }
    }

    // MARK: invocations

    mutating func arrive(_ id: InvocationID, _ version: VersionID, timeout: Nanoseconds?, _ now: Instant, _ actions: inout [Action]) {
        actions.append(.note(id, .arrived))
        let name = version.function.tenant
        guard let pool = pools[version], !pool.isRemoved, let tenant = tenants[name] else {
            return answer(unknown: id, .failed(.internal, reason: "version \(version) is not loaded", nil), &actions)
        }
        guard !isDraining, isConnected else {
            let refusal = Refusal(outcome: .overloaded, level: .node, ceiling: "draining", limit: 0, value: 0, retryAfter: 1)
            return answer(unknown: id, .refused(refusal), &actions)
        }
        if pool.available.isEmpty, pool.backoffUntil > now, let failure = pool.lastFailure {
            return answer(unknown: id, failure, &actions)
        }
        tenants[name]?.lastArrival = now
        let run = min(timeout ?? pool.spec.timeout, pool.spec.timeout)
        let until = now + spec.queueWait
        invocations[id] = Invocation(id: id, version: version, timeout: run, arrivedAt: now, place: .queued(until: until))
        if pool.queue.isEmpty, tenant.running < tenant.spec.concurrency, pool.running < pool.spec.concurrency,
            let worker = pool.available.last
        {
            return dispatch(id, to: worker, now, &actions)
        }
        if tenant.queued >= tenant.spec.queue || queued >= spec.queue {
            invocations[id] = nil
            return answer(unknown: id, .refused(refusal(version, queueFull: true, now)), &actions)
        }
        if pool.queue.isEmpty { tenants[name]?.waiting.append(version) }
        pools[version]?.queue.append(id)
        tenants[name]?.queued += 1
        queued += 1
        if !pool.isQueueArmed {
            pools[version]?.isQueueArmed = true
            arm(.queueWait(version), at: until)
        }
        let blocked = startWorkers(version, now, &actions)
        actions.append(.note(id, .queued(position: pool.queue.count + 1, waitsFor: waitReason(version, blocked))))
    }

    mutating func dispatch(_ id: InvocationID, to workerID: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], var worker = workers[workerID], let slot = worker.slots.firstIndex(of: nil) else { return }
        let version = invocation.version
        worker.slots[slot] = id
        worker.inFlight += 1
        let kind = worker.hasServed ? StartKind.warm : worker.startKind
        worker.hasServed = true
        if worker.inFlight == worker.slots.count { pools[version]?.available.removeAll { $0 == workerID } }
        workers[workerID] = worker
        invocations[id]?.place = .running(workerID, slot: UInt16(slot))
        invocations[id]?.startedAt = now
        pools[version]?.running += 1
        tenants[version.function.tenant]?.running += 1
        let deadline = now + invocation.timeout
        invocations[id]?.deadline = deadline
        armDeadline(workerID, deadline)
        actions.append(.note(id, .dispatched(workerID, slot: UInt16(slot), kind)))
        actions.append(.invoke(workerID, slot: UInt16(slot), id, deadline: deadline, kind))
    }

    mutating func finish(_ id: InvocationID, _ workerID: WorkerID, _ outcome: Outcome, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], case .running(workerID, let slot) = invocation.place else { return }
        reply(id, .completed(outcome), &actions)
        let run = now - invocation.startedAt
        if let average = pools[invocation.version]?.averageRun { pools[invocation.version]?.averageRun = average / 8 * 7 + run / 8 }
        release(invocation, workerID, slot, now)
        // What ran past its deadline may have left processes or threads that go on: that worker serves nobody any more.
        if invocation.isCancelSent { workers[workerID]?.isRetiring = true }
        if workers[workerID]?.isRetiring == true { retire(workerID, &actions) }
        if pools[invocation.version]?.isRemoved == true, workers[workerID]?.inFlight == 0 { drain(workerID, now, &actions) }
        pump(invocation.version.function.tenant, now, &actions)
    }

    /// Frees the seat and the slot; the worker is available again unless it is on its way out.
    mutating func release(_ invocation: Invocation, _ workerID: WorkerID, _ slot: UInt16, _ now: Instant) {
        invocations[invocation.id] = nil
        pools[invocation.version]?.running -= 1
        tenants[invocation.version.function.tenant]?.running -= 1
        guard var worker = workers[workerID] else { return }
        let wasFull = worker.inFlight == worker.slots.count
        worker.slots[Int(slot)] = nil
        worker.inFlight -= 1
        if worker.inFlight == 0 {
            worker.idleSince = now
            if worker.state == .ready, !worker.isIdleArmed, let idle = worker.spec?.idle {
                worker.isIdleArmed = true
                arm(.idle(workerID), at: now + idle)
            }
        }
        workers[workerID] = worker
        if worker.state == .ready, wasFull, !worker.isRetiring { pools[invocation.version]?.available.append(workerID) }
    }

    mutating func abandon(_ id: InvocationID, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], !invocation.isReplied else { return }
        actions.append(.note(id, .callerLeft))
        switch invocation.place {
        case .queued:
            leaveQueue(invocation)
            reply(id, .completed(.cancelled), &actions)
            invocations[id] = nil
        case .running(let worker, let slot):
            reply(id, .completed(.cancelled), &actions)
            actions.append(.note(id, .cancelSent(worker)))
            actions.append(.cancel(worker, slot: slot))
        }
    }

    /// Answers once; later answers are dropped.
    mutating func reply(_ id: InvocationID, _ verdict: Verdict, _ actions: inout [Action]) {
        guard let invocation = invocations[id], !invocation.isReplied else { return }
        invocations[id]?.isReplied = true
        actions.append(.note(id, .replied(verdict)))
        actions.append(.reply(id, verdict))
    }

    func answer(unknown id: InvocationID, _ verdict: Verdict, _ actions: inout [Action]) {
        actions.append(.note(id, .replied(verdict)))
        actions.append(.reply(id, verdict))
    }

    mutating func leaveQueue(_ invocation: Invocation) {
        let version = invocation.version
        let name = version.function.tenant
        guard let position = pools[version]?.queue.firstIndex(of: invocation.id) else { return }
        pools[version]?.queue.remove(at: position)
        if pools[version]?.queue.isEmpty == true { tenants[name]?.waiting.removeAll { $0 == version } }
        tenants[name]?.queued -= 1
        queued -= 1
    }

    /// Serves the tenant's queues, oldest head first, as far as seats and workers reach.
    mutating func pump(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        while let tenant = tenants[name], tenant.running < tenant.spec.concurrency {
            let next = tenant.waiting.compactMap { version -> (Invocation, WorkerID)? in
                guard let pool = pools[version], pool.running < pool.spec.concurrency, let head = pool.queue.first,
                    let worker = pool.available.last, let invocation = invocations[head]
                else { return nil }
                return (invocation, worker)
            }.min { $0.0.arrivedAt < $1.0.arrivedAt }
            guard let (invocation, worker) = next else { break }
            leaveQueue(invocation)
            dispatch(invocation.id, to: worker, now, &actions)
        }
        for version in tenants[name]?.waiting ?? [] { _ = startWorkers(version, now, &actions) }
    }

    /// The ceiling that stands in the way of one more invocation of this version.
    func refusal(_ version: VersionID, queueFull: Bool, _ now: Instant) -> Refusal {
        guard let pool = pools[version], let tenant = tenants[version.function.tenant] else {
            return Refusal(outcome: .internal, level: .node, ceiling: "unknown", limit: 0, value: 0, retryAfter: nil)
        }
        let seats = max(1, min(tenant.spec.concurrency, pool.spec.concurrency))
        let wait = max(1, (Double(pool.queue.count + 1) * Double(pool.averageRun) / Double(seats) / 1e9).rounded(.up))
        func throttled(_ level: Level, _ ceiling: String, _ limit: UInt64, _ value: UInt64) -> Refusal {
            Refusal(outcome: .throttled, level: level, ceiling: ceiling, limit: limit, value: value, retryAfter: wait)
        }
        if tenant.running >= tenant.spec.concurrency {
            return throttled(.tenant, "concurrency", UInt64(tenant.spec.concurrency), UInt64(tenant.running))
        }
        if pool.running >= pool.spec.concurrency {
            return throttled(.function, "concurrency", UInt64(pool.spec.concurrency), UInt64(pool.running))
        }
        if pool.workers >= pool.spec.maximumWorkers {
            return throttled(.function, "workers", UInt64(pool.spec.maximumWorkers), UInt64(pool.workers))
        }
        if tenant.memoryCommitted + pool.spec.limits.memoryBytes > tenant.spec.limits.memoryBytes {
            return throttled(.tenant, "memory", tenant.spec.limits.memoryBytes, tenant.memoryCommitted)
        }
        if tenant.processesCommitted + UInt64(pool.spec.limits.processes) > UInt64(tenant.spec.limits.processes) {
            return throttled(.tenant, "processes", UInt64(tenant.spec.limits.processes), tenant.processesCommitted)
        }
        if queueFull, tenant.queued >= tenant.spec.queue {
            return throttled(.tenant, "queue", UInt64(tenant.spec.queue), UInt64(tenant.queued))
        }
        let (ceiling, limit, value) =
            memoryCommitted + pool.spec.limits.memoryBytes > spec.memoryBytes
            ? ("memory", spec.memoryBytes, memoryCommitted)
            : workers.count >= spec.maximumWorkers
                ? ("workers", UInt64(spec.maximumWorkers), UInt64(workers.count)) : ("queue", UInt64(spec.queue), UInt64(queued))
        return Refusal(outcome: .overloaded, level: .node, ceiling: ceiling, limit: limit, value: value, retryAfter: wait)
    }

    func waitReason(_ version: VersionID, _ blocked: String?) -> String {
        guard let pool = pools[version], let tenant = tenants[version.function.tenant] else { return "" }
        if tenant.running >= tenant.spec.concurrency { return "a seat of the tenant" }
        if pool.running >= pool.spec.concurrency { return "a seat of the function" }
        return blocked ?? "a worker"
    }
}
