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
            case .prewarmed(function.runtime): return worker.state == .spare ? 0 : 2
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
        guard isConnected, !isDraining else { return }
        while freeGroups.count < spec.spareGroups {
            let spares = UInt64(spec.sealedSpares + spec.prewarmedSpares.values.reduce(0, +))
            guard memoryCommitted + spares * spec.spareLimits.memoryBytes <= spec.memoryBytes / 2,
                workers.count + Int(spares) <= spec.maximumWorkers / 2
            else { return }
            let group = makeGroup(&actions)
            freeGroups.append(group)
            let limits = GroupLimits(
                memoryBytes: max(spec.spareLimits.memoryBytes * max(1, spares), WorkerLimits.memoryRange.lowerBound),
                cpuMilli: 2000, processes: max(2, spec.spareLimits.processes * UInt32(max(1, spares))))
            actions.append(.setGroup(group, limits))
            for _ in 0..<spec.sealedSpares { spawn(.sealed, in: group, limits: spec.spareLimits, now, &actions) }
            for (runtime, count) in spec.prewarmedSpares.sorted(by: { $0.key < $1.key }) {
                for _ in 0..<count { spawn(.prewarmed(runtime: runtime), in: group, limits: spec.spareLimits, now, &actions) }
            }
        }
    }

    /// Replaces a spare that its tenant has used, while the tenant's memory has room for it.
    mutating func refillSpare(like worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard !isDraining, let name = groups[worker.group]?.tenant, let tenant = tenants[name] else { return }
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
        let idle = (groups[group]?.workers ?? []).compactMap { workers[$0] }.filter {
            $0.state == .ready && $0.inFlight == 0 && $0.spec.map { $0.version != version } ?? false
        }
        if let victim = idle.min(by: { ($0.idleSince, $0.id) < ($1.idleSince, $1.id) }) { drain(victim.id, now, &actions) }
    }

    /// Makes room on the node: ends a spare, else drains the longest idle worker of anybody.
    mutating func evictAnywhere(keeping kept: WorkerID?, _ now: Instant, _ actions: inout [Action]) {
        if let spare = workers.values.filter({ $0.state == .spare && $0.id != kept }).min(by: { $0.id < $1.id }) {
            return end(spare.id, because: "the node's memory is needed", expected: true, &actions)
        }
        let idle = workers.values.filter { $0.state == .ready && $0.inFlight == 0 }
        if let victim = idle.min(by: { ($0.idleSince, $0.id) < ($1.idleSince, $1.id) }) { drain(victim.id, now, &actions) }
    }

    mutating func keepMinimum(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        guard isConnected, !isDraining, let pool = pools[version], !pool.isRemoved, pool.backoffUntil <= now else { return }
        for _ in 0..<max(0, pool.spec.minimumWorkers - pool.workers) where startWorker(pool.spec, now, &actions) != nil { return }
    }

    mutating func pumpBlocked(_ now: Instant, _ actions: inout [Action]) {
        let names = blockedTenants
        blockedTenants = []
        for name in names { pump(name, now, &actions) }
        if freeGroups.count < spec.spareGroups { refillGroups(now, &actions) }
    }

    // MARK: configuration

    mutating func configure(_ spec: TenantSpec, _ now: Instant, _ actions: inout [Action]) {
        guard let known = tenants[spec.tenant] else {
            tenants[spec.tenant] = Tenant(spec: spec)
            return
        }
        tenants[spec.tenant]?.spec = spec
        if let group = known.group, known.spec.limits != spec.limits { actions.append(.setGroup(group, spec.limits)) }
        trimSpares(of: spec.tenant, &actions)
        pump(spec.tenant, now, &actions)
    }

    mutating func removeTenant(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        for version in pools.keys where version.function.tenant == name { removeVersion(version, now, &actions) }
        guard let group = tenants[name]?.group else {
            tenants[name] = nil
            return
        }
        groups[group]?.isRetired = true
        for id in (groups[group]?.workers ?? []).sorted() where workers[id]?.spec == nil {
            end(id, because: "its tenant is gone", expected: true, &actions)
        }
        if groups[group]?.workers.isEmpty == true {
            groups[group] = nil
            actions.append(.removeGroup(group))
        }
    }

    mutating func removeVersion(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        guard let pool = pools[version] else { return }
        pools[version]?.isRemoved = true
        for waiting in pool.queue {
            guard let invocation = invocations[waiting] else { continue }
            leaveQueue(invocation)
            reply(waiting, .failed(.cancelled, reason: "version \(version) was removed", nil), &actions)
            invocations[waiting] = nil
        }
        for id in pool.available where workers[id]?.inFlight == 0 { drain(id, now, &actions) }
        if pool.workers == 0 { pools[version] = nil }
    }
}
