// SPDX-License-Identifier: Apache-2.0
import Core
import Dispatch
import NIOCore
import Store

/// What waits of each tenant, counted beside the loop, and the bound it is held to.
extension EventEngine {
    /// Counts what waits, every five seconds or, where there is much of it, so seldom that it takes a twentieth of the time.
    func countBacklog() {
        let wall = wall()
        guard !isCounting, wall >= countAgainAt else { return }
        isCounting = true
        let sent = storedSinceCount
        let box = bound(self)
        let (loop, store, clock) = (loop, store, state.clock)
        Self.counting.async {
            let began = clock.now()
            let found = try? store.backlog()
            let took = (clock.now() - began) / 1_000_000
            loop.execute { box.value.counted(found, sent, nextAt: wall + max(5_000, 20 * took)) }
        }
    }

    /// What was not on the disk when the count began may be in it or not: it stays in `sentSinceCount` until the next.
    private func counted(
        _ found: [Name: (events: UInt64, bytes: UInt64)]?, _ sent: [Name: (events: UInt64, bytes: UInt64)], nextAt: UInt64
    ) {
        isCounting = false
        countAgainAt = nextAt
        guard let found else { return }
        backlog = found
        for (tenant, before) in sent {
            sentSinceCount[tenant] = Self.rest(sentSinceCount[tenant], before)
            storedSinceCount[tenant] = Self.rest(storedSinceCount[tenant], before)
        }
    }

    private static func rest(_ now: (events: UInt64, bytes: UInt64)?, _ before: (events: UInt64, bytes: UInt64)) -> (
        events: UInt64, bytes: UInt64
    )? {
        guard let now, now.events > before.events else { return nil }
        return (now.events - before.events, now.bytes - before.bytes)
    }

    /// The tenant's bound in the way of more events.
    func refusal(_ tenant: Name, events more: UInt64 = 1, bytes: Int) -> Refusal? {
        if state.suspended.contains(tenant) { return Node.suspendedRefusal }
        let (counted, sent) = (backlog[tenant] ?? (0, 0), sentSinceCount[tenant] ?? (0, 0))
        let (events, size) = (counted.events + sent.events, counted.bytes + sent.bytes)
        let most = Self.mostWaitingOfTenant
        func refused(_ ceiling: String, _ limit: UInt64, _ value: UInt64) -> Refusal {
            Refusal(outcome: .throttled, level: .tenant, ceiling: ceiling, limit: limit, value: value, retryAfter: 10)
        }
        if events + more > most.events { return refused("events", most.events, events) }
        if size + UInt64(bytes) > most.bytes { return refused("event bytes", most.bytes, size) }
        return nil
    }
}
