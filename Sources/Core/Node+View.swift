// SPDX-License-Identifier: Apache-2.0

/// A worker as the node sees it.
public struct WorkerView: Sendable, Hashable {
    public var worker: WorkerID
    public var version: VersionID?
    public var runtime: String
    /// `starting`, `spare`, `ready`, `busy`, `draining`, `dying`.
    public var state: String
    public var inFlight: Int
    public var slots: Int
    public var limits: WorkerLimits
}

/// A tenant's present use of its ceilings.
public struct TenantView: Sendable, Hashable {
    public var spec: TenantSpec
    public var running: Int
    public var queued: Int
    public var memoryCommitted: UInt64
    public var processesCommitted: UInt64
    public var workers: Int
    public var budget: BudgetAccount
    public var windowEnds: [BudgetPeriod: Instant]
    /// End users that run, wait, or have used up some of their rate.
    public var users: Int
}

extension Node {
    /// Every live worker, oldest first.
    public var workerViews: [WorkerView] {
        workers.values.sorted { $0.id < $1.id }.map { worker in
            let runtime: String =
                switch worker.preparation {
                case .sealed: worker.spec?.runtime ?? "sealed"
                case .prewarmed(let runtime): runtime
                case .started(let function): function.runtime
                }
            let state: String =
                switch worker.state {
                case .starting: "starting"
                case .spare: "spare"
                case .ready: worker.inFlight > 0 ? "busy" : "ready"
                case .draining: "draining"
                case .dying: "dying"
                }
            return WorkerView(
                worker: worker.id, version: worker.spec?.version, runtime: runtime, state: state, inFlight: worker.inFlight,
                slots: worker.slots.count, limits: worker.limits)
        }
    }

    /// Nil for an unknown tenant.
    public func tenantView(_ name: Name) -> TenantView? {
        guard let tenant = tenants[name] else { return nil }
        return TenantView(
            spec: tenant.spec, running: queue.running(tenant.lanes), queued: queue.queued(tenant.lanes),
            memoryCommitted: tenant.memoryCommitted, processesCommitted: tenant.processesCommitted, workers: tenant.workers,
            budget: tenant.budget,
            windowEnds: tenant.windowEnds, users: tenant.users.count)
    }

    /// What is spent of a tenant's budgets; nil for an unknown tenant.
    public func budget(_ name: Name) -> BudgetAccount? { tenants[name]?.budget }

    /// What runs and waits of a version, and its live workers; nil where it is not registered.
    public func versionView(_ version: VersionID) -> (running: Int, queued: Int, workers: Int, spec: FunctionSpec)? {
        pools[version].map { (queue.running($0.lanes), queue.queued($0.lanes), $0.workers, $0.spec) }
    }
    public var tenantNames: [Name] { tenants.keys.sorted() }
    public var unsortedTenantNames: [Name] { Array(tenants.keys) }
    public var totals: (running: Int, queued: Int, workers: Int, memoryBytes: UInt64) {
        (queue.running(queue.root), queue.queued(queue.root), workers.count, memoryCommitted)
    }

    /// Whether the version may be invoked.
    public func isRegistered(_ version: VersionID) -> Bool { pools[version].map { !$0.isRemoved } ?? false }
    /// Invocations that are queued or running.
    public var activeInvocations: Int { invocations.count }

    /// A worker number for a start outside the pool (the unpacking of an archive).
    public func takeWorkerID() -> WorkerID {
        defer { nextWorker += 1 }
        return WorkerID(nextWorker)
    }
}
