// SPDX-License-Identifier: Apache-2.0

/// Tenants that the operator has suspended: nothing of theirs is admitted or started, what runs ends as it would, and their events wait.
extension Node {
    /// The ceiling that a suspended tenant's refusals name.
    public static let suspended = "suspended"

    public static var suspendedRefusal: Refusal {
        Refusal(outcome: .throttled, level: .tenant, ceiling: suspended, limit: 0, value: 0, retryAfter: nil)
    }

    public func isSuspended(_ name: Name) -> Bool { tenants[name]?.spec.isSuspended == true }

    /// Answers a call whose tenant or version is not open.
    func turnAway(_ id: InvocationID, _ version: VersionID, _ actions: inout [Action]) {
        guard let pool = pools[version], !pool.isRemoved, !pool.tenant.isRemoved, pool.tenant.spec.isSuspended else {
            return answer(unknown: id, .failed(.internal, reason: "version \(version) is not loaded", nil), &actions)
        }
        answer(unknown: id, .refused(Self.suspendedRefusal), &actions)
    }

    /// What waits is refused and idle workers end; those that run something end when they have been idle for as long as ever.
    func suspend(_ tenant: Tenant, _ now: Instant, _ actions: inout [Action]) {
        for pool in tenant.waiting { dropAll(pool, .refused(Self.suspendedRefusal), &actions) }
        for pool in versions(of: tenant) { drainIdle(pool, now, &actions) }
    }

    func unsuspend(_ tenant: Tenant, _ now: Instant, _ actions: inout [Action]) {
        for pool in versions(of: tenant) { keepMinimum(pool, now, &actions) }
    }

    private func versions(of tenant: Tenant) -> [Pool] { sorted(pools.values.filter { $0.tenant === tenant }) }
}
