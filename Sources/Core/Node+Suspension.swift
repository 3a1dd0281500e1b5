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
    mutating func turnAway(_ id: InvocationID, _ version: VersionID, _ actions: inout [Action]) {
        let name = version.function.tenant
        guard let pool = pools[version], !pool.isRemoved, tenants[name]?.isRemoved == false, isSuspended(name) else {
            return answer(unknown: id, .failed(.internal, reason: "version \(version) is not loaded", nil), &actions)
        }
        answer(unknown: id, .refused(Self.suspendedRefusal), &actions)
    }

    /// What waits is refused and idle workers end; those that run something end when they have been idle for as long as ever.
    mutating func suspend(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        for version in tenants[name]?.waiting ?? [] { dropAll(version, .refused(Self.suspendedRefusal), &actions) }
        for version in versions(of: name) {
            for id in pools[version]?.available ?? [] where workers[id]?.inFlight == 0 { drain(id, now, &actions) }
        }
    }

    mutating func unsuspend(_ name: Name, _ now: Instant, _ actions: inout [Action]) {
        for version in versions(of: name) { keepMinimum(version, now, &actions) }
    }

    private func versions(of name: Name) -> [VersionID] {
        pools.keys.filter { $0.function.tenant == name }.sorted { $0.description < $1.description }
    }
}
