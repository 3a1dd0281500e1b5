// SPDX-License-Identifier: Apache-2.0

/// More is asked for than can be served: who waits for an answer is then served newest first, for the others' callers have given up the sooner the longer they wait; first come first
/// served would spend every seat on answers that nobody reads. Where it is the node that is full, what has waited longer than a run takes is refused, so that its caller
/// knows at once. After CoDel's standing queue (Nichols, Jacobson 2012) and Facebook's adaptive LIFO (Maurer 2015). Whose turn it is stays as it is, and what is not
/// synchronous is only ever delayed.
extension Node {
    /// How long a queue must have been there without a break to be taken for more than a burst.
    static let standingAfter: Nanoseconds = .milliseconds(100)
    /// The shortest wait that is allowed, however short the runs are.
    static let shortestWait: Nanoseconds = .milliseconds(5)

    /// Invocations wait for room on the node, and have done so for a while.
    func isOverloaded(_ now: Instant) -> Bool { !blockedTenants.isEmpty && now - blockedSince > Self.overloadAfter }
    static let overloadAfter: Nanoseconds = .milliseconds(100)

    /// The version's callers come faster than its workers serve them, and no other worker is on its way.
    func isStanding(_ pool: Pool, _ now: Instant) -> Bool {
        guard let since = pool.standingSince, pool.starting == 0, pool.workers > 0 else { return false }
        return now - since >= Self.standingAfter
    }

    func servesNewest(_ id: InvocationID, _ now: Instant) -> Bool {
        guard let invocation = invocations[id], invocation.service == .sync else { return false }
        return isOverloaded(now) || isStanding(invocation.pool, now)
    }

    /// Refuses what has waited too long at this leaf while the node is full. A tenant that has nothing running waits its time: it is not its load that is too much.
    func shed(_ pool: Pool, at leaf: FairQueue.VertexID, _ now: Instant, _ actions: inout [Action]) {
        let lanes = pool.tenant.lanes
        guard isOverloaded(now) || queue.running(queue.root) >= spec.seats, isStanding(pool, now), queue.running(lanes) > 0 else { return }
        let allowed = max(Self.shortestWait, queue.guess(leaf))
        while let oldest = queue.oldest(leaf), let invocation = invocations[oldest], now - invocation.arrivedAt > allowed {
            let refusal = Refusal(
                outcome: .overloaded, level: .node, ceiling: "wait", limit: allowed / 1_000_000,
                value: (now - invocation.arrivedAt) / 1_000_000,
                retryAfter: retryAfter(
                    oldest, pool, in: .queue(pool.version.function, nil, nil), ahead: queue.queued(leaf), seats: queue.running(lanes),
                    room: pool.tenant.spec.queue, now))
            drop(invocation, .refused(refusal), &actions)
        }
    }
}
