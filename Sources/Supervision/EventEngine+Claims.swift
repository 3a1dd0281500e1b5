// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import Store

/// Handing out what is due: how much, whose, and when to look again.
extension EventEngine {
    /// Hands out what is due, as far as there is room.
    func pump() {
        guard !isStopping, !isPaused, store.failure == nil else { return }
        guard !isClaiming else {
            mayBeMore = true
            return
        }
        let room = Self.mostRunning - (running.count - beside) - unsettled.count
        guard room > 0 else { return }
        isClaiming = true
        mayBeMore = false
        let box = bound(self)
        let loop = loop
        store.claim(limit: room, permission(), at: wall()) { result in loop.execute { box.value.claimed(result) } }
    }

    /// What each may have, those that run taken off: a tenant as many events as seats, a function twice as many, so that its next ones are there when it ends some.
    private func permission() -> ClaimPermission {
        let wall = wall()
        var permission = ClaimPermission(others: Self.firstShare, otherFunctions: Self.firstShare)
        for (tenant, count) in runningByTenant {
            let seats = min(state.node.tenantView(tenant)?.spec.concurrency ?? 0, Self.mostRunning / 4)
            permission.tenants[tenant] = max(0, seats - count)
        }
        for (function, count) in runningByFunction { permission.functions[function] = max(0, 2 * seats(function) - count) }
        permitBatches(&permission)
        for tenant in state.suspended { permission.tenants[tenant] = 0 }
        for (tenant, until) in pausedUntil {
            if until > wall { permission.tenants[tenant] = 0 } else { pausedUntil[tenant] = nil }
        }
        for (function, until) in pausedFunctions {
            if until > wall { permission.functions[function] = 0 } else { pausedFunctions[function] = nil }
        }
        for (function, until) in pausedByTest {
            if until > wall { permission.functions[function] = 0 } else { pausedByTest[function] = nil }
        }
        return permission
    }

    /// How many invocations of a function its newest version allows at a time.
    func seats(_ function: FunctionID) -> Int {
        guard let spec = resolve(function, "latest").flatMap({ state.node.versionView($0) })?.spec else { return Self.firstShare }
        return min(spec.concurrency, spec.maximumWorkers * Int(spec.instanceConcurrency), Self.mostRunning / 4)
    }

    private func claimed(_ result: Result<EventClaim, StoreError>) {
        isClaiming = false
        guard case .success(let claim) = result else { return }
        for event in claim.aged { gaveUp(event, "\(RetryExhaustion.age)") }
        for group in groups(claim.leases) { begin(group) }
        let wall = wall()
        let next = [claim.askAgainAt, pausedUntil.values.min(), pausedFunctions.values.min(), pausedByTest.values.min()].compactMap { $0 }
            .min()
        if mayBeMore || (next ?? .max) <= wall, !claim.leases.isEmpty || mayBeMore {
            pump()
        } else if let next {
            armClaim(max(next, wall + 1), wall)
        }
    }

    private func armClaim(_ at: UInt64, _ wall: UInt64) {
        guard claimTimer == nil || at < claimTimerAt else { return }
        claimTimer?.cancel()
        claimTimerAt = at
        claimTimer = loop.assumeIsolated().scheduleTask(in: .milliseconds(Int64(min(at - wall, 60_000)))) { [weak self] in
            self?.claimTimer = nil
            self?.pump()
        }
    }
}
