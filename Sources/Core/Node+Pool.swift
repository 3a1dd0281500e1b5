// SPDX-License-Identifier: Apache-2.0
import DequeModule

extension Node {
    // MARK: spares

    /// The best spare of the group for this function: a prewarmed one of its runtime, ready before still starting, else a sealed one.
    func takeableSpare(_ function: FunctionSpec, in group: GroupID?) -> WorkerID? {
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
        return members.sorted().compactMap { id in workers[id].flatMap(rank).map { (id, $0) } }.min { $0.1 < $1.1 }?.0
    }

    /// The tenant's group, given to it now if it has none.
    mutating func bindGroup(_ name: Name, _ now: Instant, _ actions: inout [Action]) -> GroupID {
        if let group = tenants[name]?.group { return group }
        let group = freeGroups.isEmpty ? makeGroup(&actions) : freeGroups.removeFirst()
        groups[group]?.tenant = name
        tenants[name]?.group = group
        if let limits = tenants[name]?.spec.limits { actions.append(.setGroup(group, limits)) }
        for id in groups[group]?.workers ?? [] where workers[id]?.state == .spare { arm(.spare(id), at: now + spec.spareIdle) }
        refillGroups(now, &actions)
        return group
    }

    mutating func makeGroup(_ actions: inout [Action]) -> GroupID {
        let group = GroupID(nextGroup)
        nextGroup += 1
        groups[group] = Group()
        return group
    }

    /// Keeps the promised number of groups without a tenant, each with its spares.
    mutating func refillGroups(_ now: Instant, _ actions: inout [Action]) {
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
    mutating func fillGroup(_ group: GroupID, _ now: Instant, _ actions: inout [Action]) {
        let members = (groups[group]?.workers ?? []).compactMap { workers[$0] }.filter { $0.state == .starting || $0.state == .spare }
        func fill(_ preparation: SparePreparation, _ count: Int, _ node: inout Node) {
            for _ in 0..<max(0, count - members.count { $0.preparation == preparation }) {
                node.spawn(preparation, in: group, limits: node.spec.spareLimits, now, &actions)
            }
        }
        fill(.sealed, spec.sealedSpares, &self)
        for (runtime, count) in spec.prewarmedSpares.sorted(by: { $0.key < $1.key }) { fill(.prewarmed(runtime: runtime), count, &self) }
    }

    /// Replaces a spare that its tenant has used, while the tenant's memory has room for it.
    mutating func refillSpare(like worker: Worker, _ now: Instant, _ actions: inout [Action]) {
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
    mutating func trimSpares(of name: Name, _ actions: inout [Action]) {
        guard let tenant = tenants[name], let group = tenant.group else { return }
        var excess = Int64(tenant.memoryCommitted + spareMemory(in: group)) - Int64(clamping: tenant.spec.limits.memoryBytes)
        for id in (groups[group]?.workers ?? []).sorted() where excess > 0 {
            guard let worker = workers[id], worker.spec == nil, worker.state != .dying else { continue }
            excess -= Int64(worker.limits.memoryBytes)
            end(id, because: "the tenant's memory is needed", expected: true, &actions)
        }
    }

    // MARK: eviction

    /// Makes room within a tenant: drains the longest idle worker of another version.
    mutating func evict(tenant: Name, except version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        guard let group = tenants[tenant]?.group else { return }
        let others = (groups[group]?.workers ?? []).compactMap { workers[$0] }.filter { $0.spec.map { $0.version != version } ?? false }
        if endAhead(among: others, &actions) { return }
        let idle = others.filter { $0.state == .ready && $0.inFlight == 0 }
        if let victim = idle.min(by: { ($0.idleSince, $0.id) < ($1.idleSince, $1.id) }) { drain(victim.id, now, &actions) }
    }

    /// Makes room on the node: ends what was started ahead or a spare, else drains the longest idle worker of anybody.
    mutating func evictAnywhere(keeping kept: WorkerID?, _ now: Instant, _ actions: inout [Action]) {
        if endAhead(among: workers.values, &actions) { return }
        if let spare = workers.values.filter({ $0.state == .spare && $0.id != kept }).min(by: { $0.id < $1.id }) {
            return end(spare.id, because: "the node's memory is needed", expected: true, &actions)
        }
        let idle = workers.values.filter { $0.state == .ready && $0.inFlight == 0 }
        if let victim = idle.min(by: { ($0.idleSince, $0.id) < ($1.idleSince, $1.id) }) { drain(victim.id, now, &actions) }
    }

    mutating func keepMinimum(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        guard isConnected, !isDraining, let pool = pools[version], !pool.isRemoved, pool.backoffUntil <= now,
            tenants[version.function.tenant]?.isOpen == true
        else { return }
        for _ in 0..<max(0, pool.spec.minimumWorkers - pool.workers) where startWorker(pool.spec, now, &actions) != nil { return }
    }

    // MARK: blocked tenants

    /// Remembers that the node has no room for a worker of this tenant.
    mutating func block(_ name: Name, _ now: Instant) {
        guard !blockedTenants.contains(name) else { return }
        if blockedTenants.isEmpty { blockedSince = now }
        blockedTenants.append(name)
    }

    /// Something was freed: those that wait for it are asked, the one that has had the least seat time first, until the node is full again.
    mutating func pumpBlocked(_ now: Instant, _ actions: inout [Action]) {
        var names = blockedTenants
        let since = blockedSince
        blockedTenants = []
        while let next = names.min(by: { isBefore($0, $1) }) {
            names.removeAll { $0 == next }
            pump(next, now, &actions)
            if blockedTenants.contains(next) { break }
        }
        for name in names where !blockedTenants.contains(name) { blockedTenants.append(name) }
        if !blockedTenants.isEmpty { blockedSince = since }
        if freeGroups.count < spec.spareGroups { refillGroups(now, &actions) }
    }

    /// A tenant for which nothing waits any more is asked first: that costs nothing and takes it off the list.
    private func isBefore(_ one: Name, _ other: Name) -> Bool {
        guard let first = turn(one) else { return turn(other) != nil }
        return turn(other).map { first.isBefore($0) } ?? false
    }

    /// Whether a worker of this tenant, idle now after a run of this class, should make room for a tenant that has had less and waits for the node's memory: otherwise whoever
    /// came first would keep the whole node for as long as it has work. A warm worker is worth some virtual time: a start costs more than a short run.
    func mustYield(_ name: Name, _ service: ServiceClass, _ now: Instant) -> Bool {
        guard isOverloaded(now), yielding < blockedTenants.count, let own = turn(name, in: service) else { return false }
        return blockedTenants.contains { other in
            other != name && turn(other).map { $0.isBefore(own, by: Self.warmPreference) } ?? false
        }
    }

    mutating func yield(_ id: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        guard workers[id]?.state == .ready else { return }
        workers[id]?.isYielding = true
        yielding += 1
        drain(id, now, &actions)
    }

    // MARK: configuration

    mutating func configure(_ spec: TenantSpec, _ now: Instant, _ actions: inout [Action]) {
        guard let known = tenants[spec.tenant] else {
            let vertex = queue.addVertex(under: classes.sync, cap: spec.concurrency, weight: spec.weight)
            tenants[spec.tenant] = Tenant(spec: spec, lanes: Lanes(vertex), budget: BudgetAccount(spec.budget))
            return
        }
        let name = spec.tenant
        tenants[name]?.spec = spec
        tenants[name]?.isRemoved = false
        queue.setCap(known.lanes, spec.concurrency)
        queue.setWeight(known.lanes, spec.weight)
        countTenantLanes(name)
        if let old = known.spec.rate, let new = spec.rate, old != new { tenants[name]?.meter.change(from: old, to: new, at: now) }
        if known.spec.budget != spec.budget, let crossed = tenants[name]?.budget.reconfigure(spec.budget) {
            if crossed.compute > .below { actions.append(.budgetMark(name, .compute, crossed.compute)) }
            if crossed.invocations > .below { actions.append(.budgetMark(name, .invocations, crossed.invocations)) }
        }
        if known.spec.users != spec.users { refreshLeaves(of: name) }
        if let group = known.group, groups[group]?.isRetired == true {
            // It was removed and has come back before its last worker was gone: the old group still goes.
            tenants[name]?.group = nil
        } else if let group = known.group, known.spec.limits != spec.limits {
            actions.append(.setGroup(group, spec.limits))
        }
        trimSpares(of: name, &actions)
        if spec.isSuspended, !known.spec.isSuspended { suspend(name, now, &actions) }
        if known.spec.isSuspended, !spec.isSuspended { unsuspend(name, now, &actions) }
        pump(name, now, &actions)
    }

    mutating func removeTenant(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        guard tenants[name] != nil else { return }
        tenants[name]?.isRemoved = true
        for version in pools.keys where version.function.tenant == name { removeVersion(version, now, &actions) }
        if let group = tenants[name]?.group {
            groups[group]?.isRetired = true
            for id in (groups[group]?.workers ?? []).sorted() where workers[id]?.spec == nil {
                end(id, because: "its tenant is gone", expected: true, &actions)
            }
            if groups[group]?.workers.isEmpty == true {
                groups[group] = nil
                actions.append(.removeGroup(group))
            }
        }
        forgetTenantIfGone(name)
    }

    /// Forgets a removed tenant when its last worker is gone.
    mutating func forgetTenantIfGone(_ name: Name) {
        guard let tenant = tenants[name], tenant.isRemoved, tenant.group.map({ groups[$0] == nil }) ?? true,
            !pools.keys.contains(where: { $0.function.tenant == name }), removeLanes(ofTenant: name)
        else { return }
        tenants[name] = nil
        blockedTenants.removeAll { $0 == name }
    }

    mutating func register(_ spec: FunctionSpec, _ now: Instant) {
        guard let tenant = tenants[spec.version.function.tenant] else { return }
        let id = spec.version.function
        let function =
            functions[id]
            ?? Function(
                lanes: Lanes(queue.addVertex(under: tenant.lanes.sync, cap: spec.concurrency, weight: 1)), newest: spec.version.number)
        if functions[id] == nil { functions[id] = function }
        if spec.version.number >= function.newest {
            if let old = pools[VersionID(function: id, number: function.newest)]?.spec.rate, let new = spec.rate, old != new {
                functions[id]?.meter.change(from: old, to: new, at: now)
            }
            changeTriggers(id, from: pools[VersionID(function: id, number: function.newest)]?.spec, to: spec, now)
            functions[id]?.newest = spec.version.number
            queue.setCap(function.lanes, spec.concurrency)
            countFunctionLanes(id)
        }
        if pools[spec.version] == nil {
            let vertex = queue.addVertex(under: function.lanes.sync, cap: Int(Int32.max), weight: 1)
            let leaf = queue.addVertex(under: vertex, cap: Int(Int32.max), weight: 1)
            queue.setReady(vertex, false)
            pools[spec.version] = Pool(spec: spec, lanes: Lanes(vertex), leaves: Lanes(leaf))
        }
        pools[spec.version]?.spec = spec
        pools[spec.version]?.isRemoved = false
    }

    /// Whether a worker has other layers than its version has now: the operator has changed what the tenant has.
    func isOutdated(_ id: WorkerID) -> Bool {
        guard let spec = workers[id]?.spec, let pool = pools[spec.version] else { return false }
        return spec.layers != pool.spec.layers
    }

    /// Ends what has other layers: idle workers now, busy ones when they are done, and those that start when they are ready. What waits is served by new ones.
    mutating func endOutdated(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        for id in (pools[version]?.available ?? []) where isOutdated(id) {
            if workers[id]?.inFlight == 0 { drain(id, now, &actions) } else { withdraw(id, version) }
        }
    }

    mutating func removeVersion(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        guard let pool = pools[version] else { return }
        pools[version]?.isRemoved = true
        failingVersions.remove(version)
        deathRows[version] = nil
        dropAll(version, .failed(.cancelled, reason: "version \(version) was removed", nil), &actions)
        for id in pool.available where workers[id]?.inFlight == 0 { drain(id, now, &actions) }
        forgetPoolIfGone(version)
    }

    /// Forgets a removed version when its last worker is gone.
    mutating func forgetPoolIfGone(_ version: VersionID) {
        guard let pool = pools[version], pool.isRemoved, pool.workers == 0 else { return }
        for (key, leaf) in pool.userLeaves where queue.removeVertex(leaf) {
            leafUsers[leaf] = nil
            let users = key.users
            if let user = users.tenant { tenants[version.function.tenant]?.users[user].leaves.removeAll { $0 == leaf } }
            if let user = users.function { functions[version.function]?.users[user].leaves.removeAll { $0 == leaf } }
        }
        guard removeLanes(ofPool: version) else { return }
        pools[version] = nil
        removeLanes(ofFunction: version.function)
        forgetTenantIfGone(version.function.tenant)
    }
}
