// SPDX-License-Identifier: Apache-2.0

/// A worker that the daemon before this one has left behind: ready, idle, and of a version that is the same as then.
public struct InheritedWorker: Hashable, Sendable {
    public var worker: WorkerID
    public var group: GroupID
    public var version: VersionID
    public var start: StartKind
    /// Whether it has served a call already, which makes the next one a warm one.
    public var hasServed: Bool
    public init(worker: WorkerID, group: GroupID, version: VersionID, start: StartKind, hasServed: Bool) {
        self.worker = worker
        self.group = group
        self.version = version
        self.start = start
        self.hasServed = hasServed
    }
}

extension Node {
    /// Workers that can be left to the next daemon: they are ready, nothing runs in them, and nothing is planned for them.
    public var idleWorkers: [WorkerID] {
        workers.values.filter { $0.state == .ready && $0.inFlight == 0 && !$0.isRetiring && !$0.isKillSent }.map(\.id).sorted()
    }

    /// Whether the invocation is queued or runs.
    public func isActive(_ id: InvocationID) -> Bool { invocations[id] != nil }

    /// Whether the node has this worker.
    public func has(_ worker: WorkerID) -> Bool { workers[worker] != nil }

    /// Takes a worker of the daemon before, as an idle one, or ends it where a ceiling of now has no room for it. It counts like one that was started here.
    func inherit(_ one: InheritedWorker, _ now: Instant, _ actions: inout [Action]) {
        guard workers[one.worker] == nil else { return }
        guard let pool = pools[one.version], hasRoom(for: one, pool) else { return actions.append(.kill(one.worker)) }
        let (tenant, function) = (pool.tenant, pool.spec)
        if tenant.group == nil {
            groups[one.group] = Group(tenant: tenant.name)
            tenant.group = one.group
            nextGroup = max(nextGroup, one.group.number + 1)
            actions.append(.setGroup(one.group, tenant.spec.limits))
        }
        let worker = Worker(id: one.worker, group: one.group, preparation: .started(function), limits: function.limits)
        worker.give(to: pool)
        worker.startKind = one.start
        (worker.isGreeted, worker.hasCode, worker.isInitialized, worker.hasServed) = (true, true, true, one.hasServed)
        worker.becomeReady(now)
        workers[one.worker] = worker
        groups[one.group]?.workers.insert(one.worker)
        pool.workers += 1
        commit(worker, 1)
        offer(worker)
        arm(.idle(one.worker), at: now + idleTime(worker))
        pump(tenant, now, &actions)
    }

    /// Whether the worker fits under every ceiling of now, and into its tenant's own group.
    private func hasRoom(for one: InheritedWorker, _ pool: Pool) -> Bool {
        let (tenant, function) = (pool.tenant, pool.spec)
        guard !pool.isRemoved, tenant.isOpen else { return false }
        // Every group has a number above it for the next one.
        guard one.group.number < .max else { return false }
        guard tenant.group.map({ $0 == one.group }) ?? (groups[one.group] == nil) else { return false }
        return pool.workers < function.maximumWorkers && workers.count < spec.maximumWorkers
            && tenant.memoryCommitted + function.limits.memoryBytes <= tenant.spec.limits.memoryBytes
            && tenant.processesCommitted + UInt64(function.limits.processes) <= UInt64(tenant.spec.limits.processes)
            && memoryCommitted + function.limits.memoryBytes <= spec.memoryBytes
    }

    /// The node admits again after ``Event/draining``.
    func resume(_ now: Instant, _ actions: inout [Action]) {
        guard isDraining else { return }
        isDraining = false
        refillGroups(now, &actions)
        keepMinima(now, &actions)
    }
}
