// SPDX-License-Identifier: Apache-2.0
import DequeModule

extension Node {
    // MARK: spares

    /// The best spare of the group for this function: a prewarmed one of its runtime, ready before still starting, else a sealed one.
    func takeableSpare(_ function: FunctionSpec, in group: GroupID?) -> Worker? {
        guard let group, let members = groups[group]?.workers, !function.network else { return nil }
        func rank(_ worker: Worker) -> Int? {
            guard worker.spec == nil, worker.state == .spare || worker.state == .starting else { return nil }
            switch worker.preparation {
            // Before its greeting it may not have its root yet, and the code could not be mounted.
            case .prewarmed(function.runtime): return worker.isGreeted ? 0 : nil
            case .sealed: return worker.state == .spare ? 1 : 3
            default: return nil
            }
        }
        return members.sorted().compactMap { workers[$0] }.compactMap { worker in rank(worker).map { (worker, $0) } }.min { $0.1 < $1.1 }?.0
    }

    /// The tenant's group, given to it now if it has none.
    func bindGroup(_ tenant: Tenant, _ now: Instant, _ actions: inout [Action]) -> GroupID {
        if let group = tenant.group { return group }
        let group = freeGroups.isEmpty ? makeGroup(&actions) : freeGroups.removeFirst()
        groups[group]?.tenant = tenant.name
        tenant.group = group
        actions.append(.setGroup(group, tenant.spec.limits))
        for id in groups[group]?.workers ?? [] where workers[id]?.state == .spare { arm(.spare(id), at: now + spec.spareIdle) }
        refillGroups(now, &actions)
        return group
    }

    func makeGroup(_ actions: inout [Action]) -> GroupID {
        let group = GroupID(nextGroup)
        nextGroup += 1
        groups[group] = Group()
        return group
    }

    /// Keeps the promised number of groups without a tenant, each with its spares.
    func refillGroups(_ now: Instant, _ actions: inout [Action]) {
        guard isConnected, !isDraining, !isMemoryShort else { return }
        while freeGroups.count < spec.spareGroups {
            guard hasRoomForSpares else { return }
            let spares = UInt64(spec.sparesOfGroup)
            let group = makeGroup(&actions)
            freeGroups.append(group)
            let limits = GroupLimits(
                memoryBytes: max(spec.spareLimits.memoryBytes * max(1, spares), WorkerLimits.memoryRange.lowerBound),
                cpuMilli: 2000, processes: max(2, spec.spareLimits.processes * UInt32(max(1, spares))))
            actions.append(.setGroup(group, limits))
            fillGroup(group, now, &actions)
        }
    }

    /// Whether the node's lower half has room for all the spares of one group.
    var hasRoomForSpares: Bool {
        memoryCommitted + UInt64(spec.sparesOfGroup) * spec.spareLimits.memoryBytes <= spec.memoryBytes / 2
            && workers.count + spec.sparesOfGroup <= spec.maximumWorkers / 2
    }

    /// Starts the spares that a group without a tenant lacks.
    func fillGroup(_ group: GroupID, _ now: Instant, _ actions: inout [Action]) {
        let members = (groups[group]?.workers ?? []).compactMap { workers[$0] }.filter { $0.state == .starting || $0.state == .spare }
        func fill(_ preparation: SparePreparation, _ count: Int) {
            for _ in 0..<max(0, count - members.count { $0.preparation == preparation }) {
                spawn(preparation, in: group, limits: spec.spareLimits, now, &actions)
            }
        }
        fill(.sealed, spec.sealedSpares)
        for (runtime, count) in spec.prewarmedSpares.sorted(by: { $0.key < $1.key }) { fill(.prewarmed(runtime: runtime), count) }
    }

    /// Replaces a spare that its tenant has used, while the tenant's memory has room for it.
    func refillSpare(like worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard !isDraining, !isMemoryShort, let name = groups[worker.group]?.tenant, let tenant = tenants[name] else { return }
        guard tenant.memoryCommitted + spareMemory(in: worker.group) + spec.spareLimits.memoryBytes <= tenant.spec.limits.memoryBytes,
            memoryCommitted + spec.spareLimits.memoryBytes <= spec.memoryBytes / 2, workers.count < spec.maximumWorkers / 2,
            starting < spec.concurrentStarts
        else { return }
        spawn(worker.preparation, in: worker.group, limits: spec.spareLimits, now, &actions)
    }

    func spareMemory(in group: GroupID) -> UInt64 {
        (groups[group]?.workers ?? []).reduce(0) { $0 + (workers[$1].flatMap { $0.spec == nil ? $0.limits.memoryBytes : nil } ?? 0) }
    }

    /// Ends spares that the tenant's own workers leave no memory for.
    func trimSpares(of tenant: Tenant, _ actions: inout [Action]) {
        guard let group = tenant.group else { return }
        var excess = Int64(tenant.memoryCommitted + spareMemory(in: group)) - Int64(clamping: tenant.spec.limits.memoryBytes)
        for id in (groups[group]?.workers ?? []).sorted() where excess > 0 {
            guard let worker = workers[id], worker.spec == nil, worker.state != .dying else { continue }
            excess -= Int64(worker.limits.memoryBytes)
            end(worker, because: "the tenant's memory is needed", expected: true, &actions)
        }
    }

    // MARK: eviction

    /// Makes room within a tenant: drains the longest idle worker of another version.
    func evict(except pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        guard let group = pool.tenant.group else { return }
        let others = (groups[group]?.workers ?? []).compactMap { workers[$0] }.filter { $0.pool != nil && $0.pool !== pool }
        if endAhead(among: others, &actions) { return }
        let idle = others.filter { $0.state == .ready && $0.inFlight == 0 }
        if let victim = idle.min(by: { ($0.idleSince, $0.id) < ($1.idleSince, $1.id) }) { drain(victim, now, &actions) }
    }

    /// Makes room on the node: ends what was started ahead or a spare, else drains the longest idle worker of anybody.
    func evictAnywhere(keeping kept: Worker?, _ now: Instant, _ actions: inout [Action]) {
        if endAhead(among: workers.values, &actions) { return }
        if let spare = workers.values.filter({ $0.state == .spare && $0 !== kept }).min(by: { $0.id < $1.id }) {
            return end(spare, because: "the node's memory is needed", expected: true, &actions)
        }
        let idle = workers.values.filter { $0.state == .ready && $0.inFlight == 0 }
        if let victim = idle.min(by: { ($0.idleSince, $0.id) < ($1.idleSince, $1.id) }) { drain(victim, now, &actions) }
    }

    func keepMinimum(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        guard isConnected, !isDraining, !pool.isRemoved, pool.backoffUntil <= now, pool.tenant.isOpen else { return }
        for _ in 0..<max(0, pool.spec.minimumWorkers - pool.workers) where startWorker(pool, now, &actions) != nil { return }
    }

    /// Of all versions, in the order of their names.
    func keepMinima(_ now: Instant, _ actions: inout [Action]) {
        for pool in sorted(pools.values) { keepMinimum(pool, now, &actions) }
    }

    func sorted(_ pools: some Sequence<Pool>) -> [Pool] {
        // Each name is written once, not at every comparison.
        pools.map { ($0.version.description, $0) }.sorted { $0.0 < $1.0 }.map(\.1)
    }

    // MARK: blocked tenants

    /// Remembers that the node has no room for a worker of this tenant.
    func block(_ tenant: Tenant, _ now: Instant) {
        guard !isBlocked(tenant) else { return }
        if blockedTenants.isEmpty { blockedSince = now }
        blockedTenants.append(tenant)
    }

    private func isBlocked(_ tenant: Tenant) -> Bool { blockedTenants.contains { $0 === tenant } }

    /// Something was freed: those that wait for it are asked, the one that has had the least seat time first, until the node is full again.
    func pumpBlocked(_ now: Instant, _ actions: inout [Action]) {
        var asked = blockedTenants
        let since = blockedSince
        blockedTenants = []
        while let next = asked.min(by: { isBefore($0, $1) }) {
            asked.removeAll { $0 === next }
            pump(next, now, &actions)
            if isBlocked(next) { break }
        }
        for tenant in asked where !isBlocked(tenant) { blockedTenants.append(tenant) }
        if !blockedTenants.isEmpty { blockedSince = since }
        if freeGroups.count < spec.spareGroups { refillGroups(now, &actions) }
    }

    /// A tenant for which nothing waits any more is asked first: that costs nothing and takes it off the list.
    private func isBefore(_ one: Tenant, _ other: Tenant) -> Bool {
        guard let first = turn(one) else { return turn(other) != nil }
        return turn(other).map { first.isBefore($0) } ?? false
    }

    /// Whether a worker of this tenant, idle now after a run of this class, should make room for a tenant that has had less and waits for the node's memory: otherwise whoever
    /// came first would keep the whole node for as long as it has work. A warm worker is worth some virtual time: a start costs more than a short run.
    func mustYield(_ tenant: Tenant, _ service: ServiceClass, _ now: Instant) -> Bool {
        guard isOverloaded(now), yielding < blockedTenants.count, let own = turn(tenant, in: service) else { return false }
        return blockedTenants.contains { other in
            other !== tenant && turn(other).map { $0.isBefore(own, by: Self.warmPreference) } ?? false
        }
    }

    func yield(_ worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state == .ready else { return }
        worker.isYielding = true
        yielding += 1
        drain(worker, now, &actions)
    }

    // MARK: configuration

    func configure(_ spec: TenantSpec, _ now: Instant, _ actions: inout [Action]) {
        guard let tenant = tenants[spec.tenant] else {
            let vertex = queue.addVertex(under: classes.sync, cap: spec.concurrency, weight: spec.weight)
            tenants[spec.tenant] = Tenant(spec: spec, lanes: Lanes(vertex))
            return
        }
        let known = tenant.spec
        tenant.spec = spec
        tenant.isRemoved = false
        queue.setCap(tenant.lanes, spec.concurrency)
        queue.setWeight(tenant.lanes, spec.weight)
        countLanes(tenant.lanes)
        if let old = known.rate, let new = spec.rate, old != new { tenant.meter.change(from: old, to: new, at: now) }
        if known.budget != spec.budget { tell(tenant, tenant.budget.reconfigure(spec.budget), &actions) }
        if known.users != spec.users { refreshLeaves(of: tenant) }
        if let group = tenant.group, groups[group]?.isRetired == true {
            // It was removed and has come back before its last worker was gone: the old group still goes.
            tenant.group = nil
        } else if let group = tenant.group, known.limits != spec.limits {
            actions.append(.setGroup(group, spec.limits))
        }
        trimSpares(of: tenant, &actions)
        if spec.isSuspended, !known.isSuspended { suspend(tenant, now, &actions) }
        if known.isSuspended, !spec.isSuspended { unsuspend(tenant, now, &actions) }
        pump(tenant, now, &actions)
    }

    func removeTenant(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        guard let tenant = tenants[name] else { return }
        tenant.isRemoved = true
        for pool in pools.values where pool.tenant === tenant { removeVersion(pool, now, &actions) }
        if let group = tenant.group {
            groups[group]?.isRetired = true
            for id in (groups[group]?.workers ?? []).sorted() {
                if let worker = workers[id], worker.pool == nil { end(worker, because: "its tenant is gone", expected: true, &actions) }
            }
            if groups[group]?.workers.isEmpty == true {
                groups[group] = nil
                actions.append(.removeGroup(group))
            }
        }
        forgetTenantIfGone(tenant)
    }

    /// Forgets a removed tenant when its last worker is gone.
    func forgetTenantIfGone(_ tenant: Tenant) {
        guard tenant.isRemoved, tenants[tenant.name] === tenant, tenant.group.map({ groups[$0] == nil }) ?? true,
            !pools.values.contains(where: { $0.tenant === tenant }), queue.remove(&tenant.lanes)
        else { return }
        tenants[tenant.name] = nil
        blockedTenants.removeAll { $0 === tenant }
    }

    /// The version's pool, made or changed; nil where its tenant is not there.
    func register(_ spec: FunctionSpec, _ now: Instant) -> Pool? {
        let id = spec.version.function
        guard let tenant = tenants[id.tenant] else { return nil }
        func add() -> Function {
            let vertex = queue.addVertex(under: tenant.lanes.sync, cap: spec.concurrency, weight: 1)
            return Function(lanes: Lanes(vertex), newest: spec.version.number)
        }
        let function = functions[id] ?? add()
        functions[id] = function
        if spec.version.number >= function.newest {
            let before = pools[VersionID(function: id, number: function.newest)]?.spec
            if let old = before?.rate, let new = spec.rate, old != new { function.meter.change(from: old, to: new, at: now) }
            changeTriggers(function, from: before, to: spec, now)
            function.newest = spec.version.number
            queue.setCap(function.lanes, spec.concurrency)
            countLanes(function.lanes)
        }
        guard let pool = pools[spec.version] else {
            let vertex = queue.addVertex(under: function.lanes.sync, cap: Int(Int32.max), weight: 1)
            let leaf = queue.addVertex(under: vertex, cap: Int(Int32.max), weight: 1)
            queue.setReady(vertex, false)
            let pool = Pool(spec, of: tenant, function, lanes: Lanes(vertex), leaves: Lanes(leaf))
            pools[spec.version] = pool
            return pool
        }
        pool.spec = spec
        pool.isRemoved = false
        return pool
    }

    /// Whether a worker has other layers than its version has now: the operator has changed what the tenant has.
    func isOutdated(_ worker: Worker) -> Bool {
        guard let spec = worker.spec, let pool = worker.pool else { return false }
        return spec.layers != pool.spec.layers
    }

    /// Ends what has other layers: idle workers now, busy ones when they are done, and those that start when they are ready. What waits is served by new ones.
    func endOutdated(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        for worker in pool.available where isOutdated(worker) {
            if worker.inFlight == 0 { drain(worker, now, &actions) } else { withdraw(worker) }
        }
    }

    func removeVersion(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        pool.isRemoved = true
        failingVersions.remove(pool.version)
        deathRows[pool.version] = nil
        dropAll(pool, .failed(.cancelled, reason: "version \(pool.version) was removed", nil), &actions)
        drainIdle(pool, now, &actions)
        forgetPoolIfGone(pool)
    }

    func drainIdle(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        for worker in pool.available where worker.inFlight == 0 { drain(worker, now, &actions) }
    }

    /// Forgets a removed version when its last worker is gone.
    func forgetPoolIfGone(_ pool: Pool) {
        guard pool.isRemoved, pool.workers == 0, pools[pool.version] === pool else { return }
        for (key, leaf) in pool.userLeaves where queue.removeVertex(leaf) { forget(leaf, of: key.users, pool) }
        guard removeLanes(of: pool) else { return }
        pools[pool.version] = nil
        removeFunction(pool.version.function)
        forgetTenantIfGone(pool.tenant)
    }
}
