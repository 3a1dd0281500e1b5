// SPDX-License-Identifier: Apache-2.0
import DequeModule
import HeapModule

/// Every decision of the node: who is admitted, who waits, which worker serves, what is started, ended and refused.
///
/// One object on one event loop. Events go in, actions come out; `now` is an argument, and nothing here can act, wait or read a clock. The invariants
/// that hold after every ``handle(_:at:into:)``: a tenant's and a function's running invocations are at most their caps; the sum of the memory limits of a tenant's
/// live workers is at most its ceiling, and of all workers at most the node's; every invocation that arrived is answered exactly once.
public final class Node {
    public let spec: NodeSpec
    var tenants: [Name: Tenant] = [:]
    var pools: [VersionID: Pool] = [:]
    var functions: [FunctionID: Function] = [:]
    var workers: [WorkerID: Worker] = [:]
    var invocations: [InvocationID: Invocation] = [:]
    var groups: [GroupID: Group] = [:]
    var freeGroups: [GroupID] = []
    /// Who runs next, and every count of what runs and waits.
    var queue: FairQueue
    /// One vertex a class below the root.
    let classes: Lanes
    /// Whose each leaf of an end user is.
    var leafUsers: [FairQueue.VertexID: (pool: Pool, users: UserPair)] = [:]
    var timers = Heap<Timer>()
    var timerSequence: UInt64 = 0
    var nextWorker: UInt64
    var nextGroup: UInt32 = 1
    /// The worker that was started for a function or adopted by one last; a spare is neither.
    var lastStarted: UInt64 = 0
    var memoryCommitted: UInt64 = 0
    var starting = 0
    /// Tenants with waiting invocations for which the node has no room for a worker; asked again, the one that has had least first, when something is freed.
    var blockedTenants: [Tenant] = []
    var blockedSince = Instant(nanoseconds: 0)
    /// Versions whose starts fail, or whose workers die: the node waits between tries.
    public internal(set) var failingVersions: Set<VersionID> = []
    /// Versions whose ready workers died, and nothing has gone well since.
    var deathRows: [VersionID: DeathRow] = [:]
    /// Workers that end so that a blocked tenant can start one.
    var yielding = 0
    /// The machine has less memory than it should: idle workers go, and none is started before it is asked for.
    public internal(set) var isMemoryShort = false
    /// Workers and spares that went for that.
    public internal(set) var pressureEvictions: UInt64 = 0
    var isConnected = false
    /// Whether nothing new is admitted because somebody asked for that.
    public internal(set) var isDraining = false

    /// `firstWorker` is the first worker number that no earlier run of this state has used.
    public init(spec: NodeSpec, firstWorker: UInt64) {
        self.spec = spec
        nextWorker = firstWorker
        queue = FairQueue(seats: spec.seats)
        func vertex(_ service: ServiceClass, in queue: inout FairQueue) -> FairQueue.VertexID {
            queue.addVertex(under: queue.root, cap: spec.seats, weight: Double(service.share) / 100)
        }
        var classes = Lanes(vertex(.sync, in: &queue))
        classes.asynchronous = vertex(.asynchronous, in: &queue)
        classes.background = vertex(.background, in: &queue)
        self.classes = classes
    }

    /// When ``Event/timePassed`` is due next; nil where no timer runs.
    public var nextDeadline: Instant? { timers.min?.at }

    /// The only entry: tells the node what happened; appends what to do.
    public func handle(_ event: Event, at now: Instant, into actions: inout [Action]) {
        switch event {
        case .arrived(let arrival): arrive(arrival, now, &actions)
        case .budgetWindow(let name, let period, let ordinal, let ends, let spent): openWindow(name, period, ordinal, ends, spent)
        case .finished(let id, let worker, let outcome): finish(id, worker, outcome, now, &actions)
        case .abandoned(let id): abandon(id, now, &actions)
        case .spawned(let id):
            // An empty sandbox says nothing: it can be given away from now on, and the spawner waits for the end of its seal.
            if let worker = workers[id], worker.preparation == .sealed, worker.spec == nil, worker.state == .starting {
                becomeSpare(worker, now)
            }
        case .greeted(let id):
            guard let worker = workers[id] else { return }
            worker.isGreeted = true
            advance(worker, now, &actions)
        case .assigned(let id):
            guard let worker = workers[id] else { return }
            worker.hasCode = true
            advance(worker, now, &actions)
        case .ready(let id): if let worker = workers[id] { becomeReady(worker, now, &actions) }
        case .initFailed(let id, let type, let message):
            guard let worker = workers[id] else { return }
            failStart(worker, .initFailed(type: type, message: message), now, &actions)
            end(worker, because: "its code could not be loaded", &actions)
        case .startFailed(let id, let reason):
            guard let worker = workers[id] else { return }
            failStart(worker, .failed(.internal, reason: reason, nil), now, &actions)
            remove(worker, .killed, now, &actions)
        case .linkBroken(let id, let reason): if let worker = workers[id] { breakLink(worker, reason, now, &actions) }
        case .exited(let id, let cause): if let worker = workers[id] { remove(worker, cause, now, &actions) }
        case .timePassed: fireTimers(now, &actions)
        case .tenantConfigured(let spec): configure(spec, now, &actions)
        case .tenantRemoved(let name): removeTenant(name, now, &actions)
        case .versionRegistered(let spec):
            guard let pool = register(spec, now) else { return }
            endOutdated(pool, now, &actions)
            keepMinimum(pool, now, &actions)
        case .versionRemoved(let version): if let pool = pools[version] { removeVersion(pool, now, &actions) }
        case .spawnerConnected:
            isConnected = true
            refillGroups(now, &actions)
            keepMinima(now, &actions)
        case .draining: isDraining = true
        case .resumed: resume(now, &actions)
        case .inherited(let worker): inherit(worker, now, &actions)
        case .memoryShort(let bytes): relieve(bytes, now, &actions)
        }
    }

    // MARK: invocations

    func arrive(_ arrival: Arrival, _ now: Instant, _ actions: inout [Action]) {
        let (id, version) = (arrival.id, arrival.version)
        actions.append(.note(id, .arrived))
        guard let pool = pools[version], !pool.isRemoved, pool.tenant.isOpen else { return turnAway(id, version, &actions) }
        guard !isDraining, isConnected else {
            let refusal = Refusal(outcome: .overloaded, level: .node, ceiling: "draining", limit: 0, value: 0, retryAfter: 1)
            return answer(unknown: id, .refused(refusal), &actions)
        }
        if pool.backoffUntil > now, let failure = backoffVerdict(pool, now) { return answer(unknown: id, failure, &actions) }
        let tenant = pool.tenant
        tenant.lastArrival = now
        let users = admitUsers(arrival, pool, now)
        let run = min(arrival.timeout ?? pool.spec.timeout, pool.spec.timeout)
        let reserved = worstCase(pool.spec, timeout: run)
        if let refusal = rateRefusal(arrival, pool, users, now) ?? reserveBudget(tenant, reserved, now) {
            return answer(unknown: id, .refused(refusal), &actions)
        }
        guard var leaf = leaf(of: users, arrival.service, pool) else { return }
        let until = now + spec.queueWait
        func remember(_ ticket: FairQueue.Ticket) -> Invocation {
            let invocation = Invocation(arrival, at: pool, users, timeout: run, reserved: reserved, ticket, until: until, now)
            invocations[id] = invocation
            return invocation
        }
        if let start = queue.start(id, at: leaf) {
            takeRates(arrival, pool, users, reserved: reserved, now, &actions)
            dispatch(remember(start.ticket), start, now, &actions)
            return startAhead(pool, now, &actions)
        }
        if arrival.service == .sync {
            shed(pool, at: leaf, now, &actions)
            // Who was refused may have been the last that waited there, and an end user's leaf goes with the last one.
            leaf = self.leaf(of: users, arrival.service, pool) ?? leaf
        }
        if let refusal = queueRefusal(arrival, pool, users, leaf, now) {
            tenant.budget.release(reserved: reserved)
            forgetLeaf(of: users, arrival.service, pool)
            return answer(unknown: id, .refused(refusal), &actions)
        }
        takeRates(arrival, pool, users, reserved: reserved, now, &actions)
        if queue.queued(pool.lanes) == 0 { tenant.waiting.append(pool) }
        pool.waiting.append(remember(queue.enqueue(id, at: leaf)))
        tenant.queuedBytes += arrival.bytes
        if let trigger = arrival.waitingTrigger { pool.function.queuedByTrigger[trigger, default: 0] += 1 }
        if arrival.service == .sync, pool.standingSince == nil { pool.standingSince = now }
        if !pool.isQueueArmed {
            pool.isQueueArmed = true
            arm(.queueWait(version), at: until)
        }
        let blocked = startWorkers(pool, now, &actions)
        actions.append(
            .note(
                id,
                .queued(
                    position: queue.queued(pool.lanes), arrival.service, behind: behind(tenant, arrival.service),
                    waitsFor: waitReason(pool, users, blocked))))
    }

    /// Gives every free seat to whom it is due.
    func serve(_ now: Instant, _ actions: inout [Action]) {
        while let turn = queue.next(), let start = queue.dispatch(newestFirst: servesNewest(turn.invocation, now)) {
            // The queue holds nothing that the node does not know.
            guard let invocation = invocations[start.invocation] else {
                queue.finish(start.ticket, actual: 0)
                continue
            }
            leftQueue(invocation)
            dispatch(invocation, start, now, &actions)
        }
    }

    /// Sends an invocation that has got a seat to a worker that has a free slot: its version was ready, so there is one.
    private func dispatch(_ invocation: Invocation, _ start: FairQueue.Start, _ now: Instant, _ actions: inout [Action]) {
        let (id, pool) = (invocation.id, invocation.pool)
        guard let worker = pool.available.last, let slot = worker.slots.firstIndex(where: { $0 == nil }) else {
            // Would mean that readiness and free slots disagree: the seat must not be lost with the invocation.
            queue.finish(start.ticket, actual: 0)
            return reply(invocation, .failed(.internal, reason: "no worker has a free slot", nil), &actions)
        }
        pool.demand.called(now)
        worker.slots[slot] = invocation
        worker.inFlight += 1
        let kind = worker.hasServed ? StartKind.warm : worker.startKind
        worker.hasServed = true
        worker.isAhead = false
        if worker.inFlight == worker.slots.count { withdraw(worker) }
        let deadline = now + invocation.timeout
        invocation.place = .running(worker.id, slot: UInt16(slot))
        invocation.startedAt = now
        invocation.charged = start.charged
        invocation.deadline = deadline
        countLanes(pool)
        countUsers(invocation, 1)
        armDeadline(worker, deadline)
        armOverrun(worker, now)
        actions.append(.note(id, .seated(seat(pool, invocation.service, charged: start.charged))))
        actions.append(.note(id, .dispatched(worker.id, slot: UInt16(slot), kind)))
        actions.append(.beginCharge(id, pool.version, reserved: invocation.reserved))
        actions.append(.invoke(worker.id, slot: UInt16(slot), id, deadline: deadline, kind))
    }

    func finish(_ id: InvocationID, _ workerID: WorkerID, _ outcome: Outcome, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], case .running(workerID, let slot) = invocation.place, let worker = workers[workerID] else {
            return
        }
        let pool = invocation.pool
        reply(invocation, .completed(outcome), &actions)
        release(invocation, worker, slot, now, &actions)
        // What ran past its deadline may have left processes or threads that go on: that worker serves nobody any more.
        if invocation.isCancelSent { worker.isRetiring = true } else if !deathRows.isEmpty { endDeathRow(by: worker) }
        if worker.isRetiring { retire(worker, &actions) }
        if worker.inFlight == 0 {
            if pool.isRemoved || isOutdated(worker) { drain(worker, now, &actions) }
            if mustYield(pool.tenant, invocation.service, now) { yield(worker, now, &actions) }
        }
        pump(pool.tenant, now, &actions)
    }

    /// Frees the seat, charges the run, and frees the slot; the worker is available again unless it is on its way out.
    func release(_ invocation: Invocation, _ worker: Worker, _ slot: UInt16, _ now: Instant, _ actions: inout [Action]) {
        invocations[invocation.id] = nil
        queue.finish(invocation.ticket, actual: now - invocation.startedAt)
        settle(invocation, now, &actions)
        countLanes(invocation.pool)
        countUsers(invocation, -1)
        forgetLeaf(of: invocation.users, invocation.service, invocation.pool)
        let wasFull = worker.inFlight == worker.slots.count
        worker.slots[Int(slot)] = nil
        worker.inFlight -= 1
        if worker.inFlight == 0 {
            worker.idleSince = now
            if worker.state == .ready, !worker.isIdleArmed {
                worker.isIdleArmed = true
                arm(.idle(worker.id), at: now + idleTime(worker))
            }
        }
        if worker.state == .ready, wasFull, !worker.isRetiring, !isOutdated(worker) { offer(worker) }
    }

    /// The worker has a free slot.
    func offer(_ worker: Worker) {
        guard let pool = worker.pool else { return }
        pool.available.append(worker)
        queue.setReady(pool.lanes, true)
    }

    /// The worker takes nothing more.
    func withdraw(_ worker: Worker) {
        // The last one is the likeliest: it was taken from the end.
        guard let pool = worker.pool, let place = pool.available.lastIndex(where: { $0 === worker }) else { return }
        pool.available.remove(at: place)
        if pool.available.isEmpty { queue.setReady(pool.lanes, false) }
    }

    func abandon(_ id: InvocationID, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], !invocation.isReplied else { return }
        actions.append(.note(id, .callerLeft))
        switch invocation.place {
        case .queued:
            drop(invocation, .completed(.cancelled), &actions)
        case .running(let worker, let slot):
            reply(invocation, .completed(.cancelled), &actions)
            actions.append(.note(id, .cancelSent(worker)))
            actions.append(.cancel(worker, slot: slot))
        }
    }

    /// Answers once; later answers are dropped.
    func reply(_ invocation: Invocation, _ verdict: Verdict, _ actions: inout [Action]) {
        guard !invocation.isReplied else { return }
        invocation.isReplied = true
        invocation.outcome = verdict.outcome
        answer(unknown: invocation.id, verdict, &actions)
    }

    func answer(unknown id: InvocationID, _ verdict: Verdict, _ actions: inout [Action]) {
        actions.append(.note(id, .replied(verdict)))
        actions.append(.reply(id, verdict))
    }

    /// Answers an invocation that waits, and forgets it: it ran not at all and costs nothing.
    func drop(_ invocation: Invocation, _ verdict: Verdict, _ actions: inout [Action]) {
        guard queue.leave(invocation.ticket) else { return }
        leftQueue(invocation)
        invocation.pool.tenant.budget.release(reserved: invocation.reserved)
        reply(invocation, verdict, &actions)
        invocations[invocation.id] = nil
        forgetLeaf(of: invocation.users, invocation.service, invocation.pool)
    }

    private func leftQueue(_ invocation: Invocation) {
        let (pool, tenant) = (invocation.pool, invocation.pool.tenant)
        tenant.queuedBytes -= invocation.bytes
        if let trigger = invocation.trigger { pool.function.leaveQueue(through: trigger) }
        if queue.queued(pool.lanes.sync) == 0 { pool.standingSince = nil }
        if queue.queued(pool.lanes) == 0 {
            tenant.waiting.removeAll { $0 === pool }
            pool.waiting.removeAll(keepingCapacity: true)
        } else {
            // What has left meanwhile goes as soon as it comes to the head.
            while let head = pool.waiting.first, !head.isWaiting || head === invocation { pool.waiting.removeFirst() }
        }
    }

    /// Serves whoever can be served, then starts workers for what of this tenant still waits.
    func pump(_ tenant: Tenant, _ now: Instant, _ actions: inout [Action]) {
        serve(now, &actions)
        for pool in tenant.waiting { _ = startWorkers(pool, now, &actions) }
    }
}
