// SPDX-License-Identifier: Apache-2.0

/// Ready workers that die without the node's doing. Without a tally a function that keeps a least number of workers, and whose code ends just after it said that it is ready, would be
/// started again without end: no invocation, and so no rate and no budget, stands in the way of that.
///
/// Three rows are counted. A worker that dies while nothing runs in it dies of its own code, and after the third in a row the node waits, as after failed starts. One that dies in the
/// middle of a call dies most likely of that call: the others' calls are served at once, and only a long row of such deaths slows the starts down, by a second at most. One that is
/// killed for memory while nothing runs in it may be a victim of its tenant's other workers: only a long row of these slows the starts down too, but as much as its own code would.
extension Node {
    /// Deaths in a row: between two of them no call was answered and no worker lived for ``provenAfter``.
    struct DeathRow: Hashable {
        var idle = 0
        var inCall = 0
        /// Out of memory, with nothing running in the worker.
        var idleOutOfMemory = 0
        /// When the last one was counted. What was ready by then says nothing new: workers that die together are one in the row.
        var last: Instant
        /// Whether the node waits, or has waited, before it starts another.
        var isLong: Bool { idle >= Node.longRow || max(inCall, idleOutOfMemory) >= Node.longRowInCalls }
    }

    static let longRow = 3
    static let longRowInCalls = 10
    /// A worker that has been ready for so long has shown that its code does not end by itself. As long as the longest wait: more starts than that cost nobody anything.
    static let provenAfter: Nanoseconds = .seconds(30)

    /// How long to wait after so many failures beyond those that cost nothing.
    static func backoff(_ beyond: Int, most: Nanoseconds = .seconds(30)) -> Nanoseconds {
        min(most, .milliseconds(100) << UInt64(min(max(0, beyond), 9)))
    }

    /// Counts the end of a worker that was ready, unless the node wanted it. Called while its slots are still filled.
    func tallyDeath(_ worker: Worker, _ cause: DeathCause, _ now: Instant) {
        guard let readyAt = worker.readyAt, let pool = worker.pool, !worker.isEndExpected, !worker.isRetiring,
            !worker.isKillSent || worker.isLinkBroken, !pool.isRemoved
        else { return }
        let version = pool.version
        // A worker that lived long begins a new row.
        var row = now - readyAt >= Self.provenAfter ? DeathRow(last: readyAt) : deathRows[version] ?? DeathRow(last: readyAt)
        guard readyAt >= row.last else { return }
        row.last = now
        if worker.inFlight > 0 {
            row.inCall += 1
        } else if case .outOfMemory = cause {
            row.idleOutOfMemory += 1
        } else {
            row.idle += 1
        }
        deathRows[version] = row
        guard row.isLong else { return }
        let wait = max(
            row.idle < Self.longRow ? 0 : Self.backoff(row.idle - Self.longRow),
            row.inCall < Self.longRowInCalls ? 0 : Self.backoff(row.inCall - Self.longRowInCalls, most: .seconds(1)),
            row.idleOutOfMemory < Self.longRowInCalls ? 0 : Self.backoff(row.idleOutOfMemory - Self.longRowInCalls))
        failingVersions.insert(version)
        pool.backoffUntil = max(pool.backoffUntil, now + wait)
        pool.lastFailure = .refused(
            Refusal(
                outcome: .crashed, level: .function, ceiling: "worker deaths in a row",
                limit: UInt64(row.idle < Self.longRow ? Self.longRowInCalls : Self.longRow),
                value: UInt64(row.idle + row.inCall + row.idleOutOfMemory),
                retryAfter: nil))
        arm(.minimum(version), at: now + wait)
    }

    /// The worker is gone: who waits for one, while the node waits before it starts another, is told so at once.
    func dropDuringBackoff(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        guard !pool.waiting.isEmpty, let verdict = backoffVerdict(pool, now) else { return }
        dropAll(pool, verdict, &actions)
    }

    /// Why no worker of the version is started now; nil where one may be, and where one is there that can serve.
    func backoffVerdict(_ pool: Pool, _ now: Instant) -> Verdict? {
        guard pool.backoffUntil > now, pool.workers == pool.starting, let failure = pool.lastFailure else { return nil }
        guard case .refused(var refusal) = failure else { return failure }
        refusal.retryAfter = max(1, (Double(pool.backoffUntil - now) / 1e9).rounded(.up))
        return .refused(refusal)
    }

    /// A call was answered by this worker, or it has lived for long: the row is over, unless the worker is older than its last death. One that was there before says
    /// nothing of those that are started now.
    func endDeathRow(by worker: Worker) {
        guard let readyAt = worker.readyAt, let pool = worker.pool, let row = deathRows[pool.version], readyAt >= row.last else { return }
        deathRows[pool.version] = nil
        if pool.failures < Self.longRow { failingVersions.remove(pool.version) }
    }
}
