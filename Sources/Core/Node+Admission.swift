// SPDX-License-Identifier: Apache-2.0

/// The ceilings that an arrival is asked for, in their order: rate, budget, room in the queue. Nothing is taken from any before all have agreed.
extension Node {
    /// The first rate in the way: it refuses with the time after which it would not. All are asked before any is taken from.
    func rateRefusal(_ arrival: Arrival, _ pool: Pool, _ users: UserPair?, _ now: Instant) -> Refusal? {
        let (tenant, function) = (pool.tenant, pool.function)
        var worst: (wait: Nanoseconds, level: Level, rate: RateSpec)?
        func ask(_ level: Level, _ rate: RateSpec?, _ meter: RateMeter) {
            guard let rate else { return }
            let wait = meter.wait(rate, at: now)
            if wait > 0, wait > worst?.wait ?? 0 { worst = (wait, level, rate) }
        }
        ask(.tenant, tenant.spec.rate, tenant.meter)
        ask(.function, pool.spec.rate, function.meter)
        if let trigger = arrival.trigger {
            ask(.trigger, pool.spec.triggerRates[trigger], function.triggers[trigger] ?? RateMeter())
        }
        if let user = users?.tenant { ask(.user, tenant.spec.users?.rate, tenant.users[user].meter) }
        if let user = users?.function { ask(.user, pool.spec.users?.rate, function.users[user].meter) }
        guard let worst else { return nil }
        var wait = worst.wait
        if arrival.service == .sync {
            let function = worst.level == .tenant ? nil : pool.version.function
            let line = PromisedLines.Line.rate(
                function, worst.level == .trigger ? arrival.trigger : nil, worst.level == .user ? users : nil)
            wait = tenant.promised.wait(at: line, worst.rate, alone: wait, now)
        }
        return Refusal(
            outcome: .throttled, level: worst.level, ceiling: "rate", limit: worst.rate.burst, value: worst.rate.burst,
            retryAfter: Double(wait) / 1e9)
    }

    /// Takes from every rate, now that nothing is in the way, and notes what was taken.
    func takeRates(
        _ arrival: Arrival, _ pool: Pool, _ users: UserPair?, reserved: UInt64, _ now: Instant, _ actions: inout [Action]
    ) {
        let (tenant, function) = (pool.tenant, pool.function)
        var taken = Admission()
        func take(_ level: Level, _ rate: RateSpec?, _ meter: inout RateMeter) {
            guard let rate else { return }
            meter.take(rate, at: now)
            taken.rates.append(Admission.Rate(level: level, spec: rate, meter: meter, at: now))
        }
        take(.tenant, tenant.spec.rate, &tenant.meter)
        take(.function, pool.spec.rate, &function.meter)
        if let trigger = arrival.trigger, let rate = pool.spec.triggerRates[trigger] {
            take(.trigger, rate, &function.triggers[trigger, default: RateMeter()])
        }
        if let user = users?.tenant, let rate = tenant.spec.users?.rate { take(.user, rate, &tenant.users[user].meter) }
        if let user = users?.function, let rate = pool.spec.users?.rate { take(.user, rate, &function.users[user].meter) }
        taken.held = reserved
        taken.compute = tenant.budget.room(.compute)
        taken.invocations = tenant.budget.room(.invocations)
        actions.append(.note(arrival.id, .admitted(taken)))
    }

    /// The seat that an invocation of this version holds now, for `explain`.
    func seat(_ pool: Pool, _ service: ServiceClass, charged: Nanoseconds) -> Seat {
        let (running, cap) = functionSeats(pool)
        let lanes = pool.tenant.lanes
        return Seat(
            service: service, tenant: UInt32(clamping: queue.running(lanes)), tenantCap: UInt32(clamping: queue.cap(lanes.sync)),
            function: UInt32(clamping: running), functionCap: UInt32(clamping: cap), charged: charged)
    }

    /// What others of the class have had less than this tenant, in seconds of virtual time: so much they are served first.
    func behind(_ tenant: Tenant, _ service: ServiceClass) -> Float {
        guard let lane = tenant.lanes[service], let top = classes[service] else { return 0 }
        return Float(max(0, queue.virtualTime(lane) - queue.childTime(top)) / 1e9)
    }

    /// The longest that a run can hold its memory: its timeout, the grace after the cancel, and the kill.
    func worstCase(_ function: FunctionSpec, timeout: Nanoseconds) -> UInt64 {
        Compute.microGBSeconds(memoryBytes: function.limits.memoryBytes, duration: timeout + spec.cancelGrace + Self.killTime)
    }
    static let killTime: Nanoseconds = .seconds(1)

    /// Holds the worst case of a run, or refuses.
    func reserveBudget(_ tenant: Tenant, _ worstCase: UInt64, _ now: Instant) -> Refusal? {
        // Also without a ceiling: one that is added later must know of the runs that began before it.
        guard let refusal = tenant.budget.reserve(compute: worstCase) else { return nil }
        let ends = tenant.windowEnds[refusal.ceiling.period]
        let value = refusal.spent.addingReportingOverflow(refusal.reserved)
        return Refusal(
            outcome: .overBudget, level: .budget, ceiling: refusal.kind.rawValue, limit: refusal.ceiling.limit,
            value: value.overflow ? .max : value.partialValue,
            // What is larger than the whole budget fits no window: waiting does not help.
            retryAfter: refusal.asked > refusal.ceiling.limit ? nil : ends.map { max(1, (Double($0 - now) / 1e9).rounded(.up)) })
    }

    /// Charges what a run took and tells the ledger.
    func settle(_ invocation: Invocation, _ now: Instant, _ actions: inout [Action]) {
        let (pool, tenant) = (invocation.pool, invocation.pool.tenant)
        let ran = now - invocation.startedAt
        // Billed by the millisecond, rounded up, as AWS Lambda does; never more than was held.
        let billed = max(1, (ran + 999_999) / 1_000_000) * 1_000_000
        let charged = min(invocation.reserved, Compute.microGBSeconds(memoryBytes: pool.spec.limits.memoryBytes, duration: billed))
        actions.append(.settleCharge(invocation.id, pool.version, invocation.outcome, charged: charged, ran: ran))
        tell(tenant, tenant.budget.settle(reserved: invocation.reserved, actual: charged), &actions)
    }

    /// Says which marks of its budgets the tenant has passed.
    func tell(_ tenant: Tenant, _ crossed: BudgetCrossings, _ actions: inout [Action]) {
        if crossed.compute > .below { actions.append(.budgetMark(tenant.name, .compute, crossed.compute)) }
        if crossed.invocations > .below { actions.append(.budgetMark(tenant.name, .invocations, crossed.invocations)) }
    }

    func openWindow(_ name: Name, _ period: BudgetPeriod, _ ordinal: Int64, _ ends: Instant, _ spent: UsageSoFar) {
        guard let tenant = tenants[name] else { return }
        tenant.windowEnds[period] = ends
        for kind in BudgetKind.allCases where tenant.spec.budget[kind]?.period == period {
            // The account adds what it settled itself since; a window that it has open already only grows.
            if tenant.budget.window(kind) == nil {
                tenant.budget.restore(kind, ordinal: ordinal, spent: kind == .compute ? spent.microGBSeconds : spent.invocations)
            }
        }
        tenant.budget.openWindow(period, ordinal: ordinal)
    }

    // MARK: the queue

    /// The bound in the way of one more that waits.
    func queueRefusal(_ arrival: Arrival, _ pool: Pool, _ users: UserPair?, _ leaf: FairQueue.VertexID, _ now: Instant) -> Refusal? {
        let tenant = pool.tenant
        func wait(_ trigger: Name? = nil, _ users: UserPair? = nil, ahead: Int, seats: Int, room: Int) -> Double {
            let line = arrival.service == .sync ? PromisedLines.Line.queue(pool.version.function, trigger, users) : nil
            return retryAfter(arrival.id, pool, in: line, ahead: ahead, seats: seats, room: room, now)
        }
        // Beyond the free seats, where one waits for a worker alone, what waits is bounded.
        let seats = functionSeats(pool)
        let free = max(0, min(tenant.spec.concurrency - queue.running(tenant.lanes), seats.cap - seats.running))
        let room = tenant.spec.queue + free - queue.queued(tenant.lanes)
        // One user may take half of what the others leave, so none can fill the tenant's queue alone.
        let share = min(Self.userQueue, max(1, room))
        if let users, queue.queued(leaf) >= share {
            let full = userRefusal(users, pool)
            return Refusal(
                outcome: .throttled, level: .user, ceiling: full == nil ? "queue" : "concurrency", limit: UInt64(full?.limit ?? share),
                value: UInt64(full?.running ?? queue.queued(leaf)),
                retryAfter: wait(nil, users, ahead: queue.queued(leaf), seats: full?.limit ?? tenant.spec.concurrency, room: share))
        }
        // Nor can one route fill it, whoever comes through.
        if let trigger = arrival.waitingTrigger, let waiting = pool.function.queuedByTrigger[trigger], waiting >= Self.triggerQueue {
            return Refusal(
                outcome: .throttled, level: .trigger, ceiling: "queue", limit: UInt64(Self.triggerQueue), value: UInt64(waiting),
                retryAfter: wait(trigger, ahead: waiting, seats: tenant.spec.concurrency, room: Self.triggerQueue))
        }
        if room <= 0 || queue.queued(queue.root) >= spec.queue {
            return refusal(arrival.id, pool, arrival.service, queueFull: true, now)
        }
        if tenant.queuedBytes + arrival.bytes > TenantSpec.queueBytes, queue.queued(tenant.lanes) > 0 {
            return Refusal(
                outcome: .throttled, level: .tenant, ceiling: "queued bytes", limit: UInt64(TenantSpec.queueBytes),
                value: UInt64(tenant.queuedBytes),
                retryAfter: wait(ahead: queue.queued(leaf), seats: tenant.spec.concurrency, room: 1))
        }
        return nil
    }
    /// How many invocations of one end user may wait at a function.
    static let userQueue = 100
    /// How many invocations may wait that came through one trigger.
    static let triggerQueue = 100

    /// Seconds until one more is likely to get a seat: those ahead, times how long a run takes, over the seats; whole seconds, as the header wants them; never less than a run, after
    /// which at least one of those who run now has ended. Who was refused before comes before (``PromisedReturns``). Where nothing is promised, up to a fifth more or less, so that
    /// those who are refused together do not come back together.
    ///
    /// - Parameter room: how many may wait there.
    func retryAfter(
        _ id: InvocationID, _ pool: Pool, in line: PromisedLines.Line?, ahead: Int, seats: Int, room: Int, _ now: Instant
    ) -> Double {
        let seats = max(1, min(seats, pool.spec.maximumWorkers * Int(pool.spec.instanceConcurrency)))
        let (run, spread) = (Double(queue.guess(pool.leaves.sync)) / 1e9, Self.spread(id))
        let alone = min(120, max(1, max(run * max(1, spread), Double(ahead + 1) * run / Double(seats) * spread).rounded(.up)))
        guard let line else { return alone }
        let each = run / Double(seats)
        // Who comes before a seat is free waits in the queue, half of which is for what was guessed wrong; and where runs are shorter than the header can say all seats are free by then.
        let slack = Double(room / 2 + (run <= 1 ? seats - 1 : 0)) * each
        let wait = pool.tenant.promised.wait(
            at: line, alone: Nanoseconds(alone * 1e9), each: Nanoseconds(each * 1e9), slack: Nanoseconds(min(slack, 1e9) * 1e9), now)
        return Double(wait) / 1e9
    }

    /// Between 0.8 and 1.2, by the invocation's own random bits (SplitMix64's last step, for ids that are only counted).
    static func spread(_ id: InvocationID) -> Double {
        var bits = id.low &+ 0x9E37_79B9_7F4A_7C15
        bits = (bits ^ (bits >> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
        return 0.8 + Double((bits ^ (bits >> 31)) >> 11) / Double(UInt64(1) << 53) * 0.4
    }

    /// The ceiling that stands in the way of one more invocation of this version.
    func refusal(_ id: InvocationID, _ pool: Pool, _ service: ServiceClass, queueFull: Bool, _ now: Instant) -> Refusal {
        let tenant = pool.tenant
        let wait = retryAfter(
            id, pool, in: service == .sync ? .queue(pool.version.function, nil, nil) : nil, ahead: queue.queued(pool.lanes),
            seats: min(tenant.spec.concurrency, pool.spec.concurrency), room: tenant.spec.queue, now)
        func throttled(_ level: Level, _ ceiling: String, _ limit: UInt64, _ value: UInt64) -> Refusal {
            Refusal(outcome: .throttled, level: level, ceiling: ceiling, limit: limit, value: value, retryAfter: wait)
        }
        let running = queue.running(tenant.lanes)
        if running >= tenant.spec.concurrency {
            return throttled(.tenant, "concurrency", UInt64(tenant.spec.concurrency), UInt64(running))
        }
        let (used, cap) = functionSeats(pool)
        if used >= cap { return throttled(.function, "concurrency", UInt64(cap), UInt64(used)) }
        let queued = queue.queued(tenant.lanes)
        if queueFull, queued >= tenant.spec.queue { return throttled(.tenant, "queue", UInt64(tenant.spec.queue), UInt64(queued)) }
        if pool.workers >= pool.spec.maximumWorkers {
            return throttled(.function, "workers", UInt64(pool.spec.maximumWorkers), UInt64(pool.workers))
        }
        if tenant.memoryCommitted + pool.spec.limits.memoryBytes > tenant.spec.limits.memoryBytes {
            return throttled(.tenant, "memory", tenant.spec.limits.memoryBytes, tenant.memoryCommitted)
        }
        if tenant.processesCommitted + UInt64(pool.spec.limits.processes) > UInt64(tenant.spec.limits.processes) {
            return throttled(.tenant, "processes", UInt64(tenant.spec.limits.processes), tenant.processesCommitted)
        }
        let (ceiling, limit, value) =
            memoryCommitted + pool.spec.limits.memoryBytes > spec.memoryBytes
            ? ("memory", spec.memoryBytes, memoryCommitted)
            : workers.count >= spec.maximumWorkers
                ? ("workers", UInt64(spec.maximumWorkers), UInt64(workers.count))
                : ("queue", UInt64(spec.queue), UInt64(queue.queued(queue.root)))
        return Refusal(outcome: .overloaded, level: .node, ceiling: ceiling, limit: limit, value: value, retryAfter: wait)
    }

    /// Running invocations of all versions of the function, and how many may.
    func functionSeats(_ pool: Pool) -> (running: Int, cap: Int) {
        let lanes = pool.function.lanes
        return (queue.running(lanes), queue.cap(lanes.sync))
    }

    func waitReason(_ pool: Pool, _ users: UserPair?, _ blocked: String?) -> String {
        let tenant = pool.tenant
        if queue.running(tenant.lanes) >= tenant.spec.concurrency { return "a seat of the tenant" }
        let (used, cap) = functionSeats(pool)
        if used >= cap { return "a seat of the function" }
        if let users, isBlocked(users, pool) { return "a seat of the end user" }
        return blocked ?? "a worker"
    }
}

extension Arrival {
    /// The trigger whose queue it would wait in; nil for a caller's own call, which has the tenant's whole.
    var waitingTrigger: Name? { trigger == TriggerSpec.direct ? nil : trigger }
}
