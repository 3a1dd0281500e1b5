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
    var leafUsers: [FairQueue.VertexID: (version: VersionID, users: UserPair)] = [:]
    var timers = Heap<Timer>()
    var timerSequence: UInt64 = 0
    var nextWorker: UInt64
    var nextGroup: UInt32 = 1
    /// The worker that was started for a function or adopted by one last; a spare is neither.
    var lastStarted: UInt64 = 0
    var memoryCommitted: UInt64 = 0
    var starting = 0
    /// Tenants with waiting invocations for which the node has no room for a worker; asked again, the one that has had least first, when something is freed.
    var blockedTenants: [Name] = []
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
    public mutating func handle(_ event: Event, at now: Instant, into actions: inout [Action]) {
        switch event {
        case .arrived(let arrival): arrive(arrival, now, &actions)
        case .budgetWindow(let name, let period, let ordinal, let ends, let spent): openWindow(name, period, ordinal, ends, spent)
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
            register(spec, now)
            endOutdated(spec.version, now, &actions)
            keepMinimum(spec.version, now, &actions)
        case .versionRemoved(let version): removeVersion(version, now, &actions)
        case .spawnerConnected:
            isConnected = true
            refillGroups(now, &actions)
            for version in pools.keys.sorted(by: { $0.description < $1.description }) { keepMinimum(version, now, &actions) }
        case .draining: isDraining = true
        case .resumed: resume(now, &actions)
        case .inherited(let worker): inherit(worker, now, &actions)
        case .memoryShort(let bytes): relieve(bytes, now, &actions)
        }
    }

    // MARK: invocations

    mutating func arrive(_ arrival: Arrival, _ now: Instant, _ actions: inout [Action]) {
        let (id, version) = (arrival.id, arrival.version)
        actions.append(.note(id, .arrived))
        let name = version.function.tenant
        // Not the tenant itself: whoever holds it makes the first change of its table of users a copy of the whole.
        guard let pool = pools[version], !pool.isRemoved, tenants[name]?.isOpen == true else { return turnAway(id, version, &actions) }
        guard !isDraining, isConnected else {
            let refusal = Refusal(outcome: .overloaded, level: .node, ceiling: "draining", limit: 0, value: 0, retryAfter: 1)
            return answer(unknown: id, .refused(refusal), &actions)
        }
        if pool.backoffUntil > now, let failure = backoffVerdict(pool, now) { return answer(unknown: id, failure, &actions) }
        tenants[name]?.lastArrival = now
        let users = admitUsers(arrival, now)
        let run = min(arrival.timeout ?? pool.spec.timeout, pool.spec.timeout)
        let reserved = worstCase(pool.spec, timeout: run)
        if let refusal = rateRefusal(arrival, users, now) ?? reserveBudget(name, reserved, now) {
            return answer(unknown: id, .refused(refusal), &actions)
        }
        guard let leaf = leaf(of: users, arrival.service, version) else { return }
        let until = now + spec.queueWait
        func invocation(_ ticket: FairQueue.Ticket) -> Invocation {
            Invocation(
                id: id, version: version, timeout: run, arrivedAt: now, bytes: arrival.bytes, users: users, trigger: arrival.waitingTrigger,
                service: arrival.service, ticket: ticket, reserved: reserved, place: .queued(until: until))
        }
        if let start = queue.start(id, at: leaf) {
            takeRates(arrival, users, reserved: reserved, now, &actions)
            invocations[id] = invocation(start.ticket)
            dispatch(start, now, &actions)
            return startAhead(version, now, &actions)
        }
        if arrival.service == .sync { shed(version, at: leaf, now, &actions) }
        if let refusal = queueRefusal(arrival, users, leaf) {
            releaseBudget(name, reserved)
            forgetLeaf(of: users, arrival.service, version)
            return answer(unknown: id, .refused(refusal), &actions)
        }
        takeRates(arrival, users, reserved: reserved, now, &actions)
        if queue.queued(pool.lanes) == 0 { tenants[name]?.waiting.append(version) }
        invocations[id] = invocation(queue.enqueue(id, at: leaf))
        tenants[name]?.queuedBytes += arrival.bytes
        if let trigger = arrival.waitingTrigger { functions[version.function]?.queuedByTrigger[trigger, default: 0] += 1 }
        if arrival.service == .sync, pool.standingSince == nil { pools[version]?.standingSince = now }
        pools[version]?.waiting.append(id)
        if !pool.isQueueArmed {
            pools[version]?.isQueueArmed = true
            arm(.queueWait(version), at: until)
        }
        let blocked = startWorkers(version, now, &actions)
        actions.append(
            .note(
                id,
                .queued(
                    position: queue.queued(pool.lanes), arrival.service, behind: behind(name, arrival.service),
                    waitsFor: waitReason(version, users, blocked))))
    }

    /// Gives every free seat to whom it is due.
    mutating func serve(_ now: Instant, _ actions: inout [Action]) {
        while let turn = queue.next(), let start = queue.dispatch(newestFirst: servesNewest(turn.invocation, now)) {
            if let invocation = invocations[start.invocation] { leftQueue(invocation) }
            dispatch(start, now, &actions)
        }
    }

    /// Sends an invocation that has got a seat to a worker that has a free slot: its version was ready, so there is one.
    private mutating func dispatch(_ start: FairQueue.Start, _ now: Instant, _ actions: inout [Action]) {
        let id = start.invocation
        guard let invocation = invocations[id], let workerID = pools[invocation.version]?.available.last, var worker = workers[workerID],
            let slot = worker.slots.firstIndex(of: nil)
        else {
            // Would mean that readiness and free slots disagree: the seat must not be lost with the invocation.
            queue.finish(start.ticket, actual: 0)
            return reply(id, .failed(.internal, reason: "no worker has a free slot", nil), &actions)
        }
        let version = invocation.version
        pools[version]?.demand.called(now)
        worker.slots[slot] = id
        worker.inFlight += 1
        let kind = worker.hasServed ? StartKind.warm : worker.startKind
        worker.hasServed = true
        worker.isAhead = false
        workers[workerID] = worker
        if worker.inFlight == worker.slots.count { withdraw(workerID, version) }
        let deadline = now + invocation.timeout
        invocations[id]?.place = .running(workerID, slot: UInt16(slot))
        invocations[id]?.startedAt = now
        invocations[id]?.charged = start.charged
        invocations[id]?.deadline = deadline
        countLanes(version)
        countUsers(invocation.users, version, 1)
        armDeadline(workerID, deadline)
        armOverrun(workerID, now)
        actions.append(.note(id, .seated(seat(version, invocation.service, charged: start.charged))))
        actions.append(.note(id, .dispatched(workerID, slot: UInt16(slot), kind)))
        actions.append(.beginCharge(id, version, reserved: invocation.reserved))
        actions.append(.invoke(workerID, slot: UInt16(slot), id, deadline: deadline, kind))
    }

    mutating func finish(_ id: InvocationID, _ workerID: WorkerID, _ outcome: Outcome, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], case .running(workerID, let slot) = invocation.place else { return }
        reply(id, .completed(outcome), &actions)
        release(id, workerID, slot, now, &actions)
        // What ran past its deadline may have left processes or threads that go on: that worker serves nobody any more.
        if invocation.isCancelSent { workers[workerID]?.isRetiring = true } else if !deathRows.isEmpty { endDeathRow(by: workerID) }
        if workers[workerID]?.isRetiring == true { retire(workerID, &actions) }
        if workers[workerID]?.inFlight == 0 {
            if pools[invocation.version]?.isRemoved == true || isOutdated(workerID) { drain(workerID, now, &actions) }
            if mustYield(invocation.version.function.tenant, invocation.service, now) { yield(workerID, now, &actions) }
        }
        pump(invocation.version.function.tenant, now, &actions)
    }

    /// Frees the seat, charges the run, and frees the slot; the worker is available again unless it is on its way out.
    mutating func release(_ id: InvocationID, _ workerID: WorkerID, _ slot: UInt16, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations.removeValue(forKey: id) else { return }
        queue.finish(invocation.ticket, actual: now - invocation.startedAt)
        settle(invocation, now, &actions)
        countLanes(invocation.version)
        countUsers(invocation.users, invocation.version, -1)
        forgetLeaf(of: invocation.users, invocation.service, invocation.version)
        guard var worker = workers[workerID] else { return }
        let wasFull = worker.inFlight == worker.slots.count
        worker.slots[Int(slot)] = nil
        worker.inFlight -= 1
        if worker.inFlight == 0 {
            worker.idleSince = now
            if worker.state == .ready, !worker.isIdleArmed {
                worker.isIdleArmed = true
                arm(.idle(workerID), at: now + idleTime(worker))
            }
        }
        workers[workerID] = worker
        if worker.state == .ready, wasFull, !worker.isRetiring, !isOutdated(workerID) { offer(workerID, invocation.version) }
    }

    /// The worker has a free slot.
    mutating func offer(_ worker: WorkerID, _ version: VersionID) {
        pools[version]?.available.append(worker)
        if let lanes = pools[version]?.lanes { queue.setReady(lanes, true) }
    }

    /// The worker takes nothing more.
    mutating func withdraw(_ worker: WorkerID, _ version: VersionID) {
        // The last one is the likeliest: it was taken from the end.
        guard let place = pools[version]?.available.lastIndex(of: worker) else { return }
        pools[version]?.available.remove(at: place)
        if let pool = pools[version], pool.available.isEmpty { queue.setReady(pool.lanes, false) }
    }

    mutating func abandon(_ id: InvocationID, _ now: Instant, _ actions: inout [Action]) {
        guard let invocation = invocations[id], !invocation.isReplied else { return }
        actions.append(.note(id, .callerLeft))
        switch invocation.place {
        case .queued:
            drop(invocation, .completed(.cancelled), &actions)
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
        invocations[id]?.outcome = verdict.outcome
        actions.append(.note(id, .replied(verdict)))
        actions.append(.reply(id, verdict))
    }

    func answer(unknown id: InvocationID, _ verdict: Verdict, _ actions: inout [Action]) {
        actions.append(.note(id, .replied(verdict)))
        actions.append(.reply(id, verdict))
    }

    /// Answers an invocation that waits, and forgets it: it ran not at all and costs nothing.
    mutating func drop(_ invocation: Invocation, _ verdict: Verdict, _ actions: inout [Action]) {
        guard queue.leave(invocation.ticket) else { return }
        leftQueue(invocation)
        releaseBudget(invocation.version.function.tenant, invocation.reserved)
        reply(invocation.id, verdict, &actions)
        invocations[invocation.id] = nil
        forgetLeaf(of: invocation.users, invocation.service, invocation.version)
    }

    private mutating func leftQueue(_ invocation: Invocation) {
        let version = invocation.version
        let name = version.function.tenant
        tenants[name]?.queuedBytes -= invocation.bytes
        if let trigger = invocation.trigger { functions[version.function]?.leaveQueue(through: trigger) }
        guard let pool = pools[version] else { return }
        if queue.queued(pool.lanes.sync) == 0 { pools[version]?.standingSince = nil }
        if queue.queued(pool.lanes) == 0 {
            tenants[name]?.waiting.removeAll { $0 == version }
            pools[version]?.waiting.removeAll(keepingCapacity: true)
        } else {
            // What has left meanwhile goes as soon as it comes to the head.
            while let head = pools[version]?.waiting.first, !isWaiting(head) || head == invocation.id {
                pools[version]?.waiting.removeFirst()
            }
        }
    }

    func isWaiting(_ id: InvocationID) -> Bool {
        if case .queued? = invocations[id]?.place { true } else { false }
    }

    /// Serves whoever can be served, then starts workers for what of this tenant still waits.
    mutating func pump(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        serve(now, &actions)
        for version in tenants[name]?.waiting ?? [] { _ = startWorkers(version, now, &actions) }
    }
}
