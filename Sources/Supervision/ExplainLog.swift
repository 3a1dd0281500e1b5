// SPDX-License-Identifier: Apache-2.0
import Core

/// The decisions about the last invocations, in memory: a ring of records whose memory is used again, because every invocation writes here and few are ever read.
struct ExplainLog {
    /// Records kept.
    static let capacity = 10_000
    /// Decisions kept a record.
    static let entryLimit = 32
    /// As many as most invocations need, which each record has room for.
    private static let usualEntries = 5

    private struct Record {
        var id: InvocationID
        var version: VersionID
        var wall: UInt64
        var at: Instant
        var entries: [ExplainEntry] = []
    }
    private var records: [Record] = []
    private var next = 0
    /// Ended invocations that are to be kept longer than the ring is, until ``takeEnded()``.
    private var ended: [ExplainRecord] = []
    private var endedByShare: [Share: Int] = [:]
    /// How many are kept of each take, which is once a second, and how many of one tenant: one that fails much pushes out its own alone.
    static let endedLimit = 2_000
    static let endedOfTenant = 20

    /// What went well leaves the tenant's failures their room.
    private struct Share: Hashable {
        var tenant: Name
        var isFailure: Bool
    }
    /// Places of the invocations in the ring.
    private var open: [InvocationID: Int] = [:]

    mutating func begin(_ id: InvocationID, _ version: VersionID, wall: UInt64, at: Instant) {
        if records.count < Self.capacity {
            records.append(Record(id: id, version: version, wall: wall, at: at))
            records[next].entries.reserveCapacity(Self.usualEntries)
        } else {
            // An event that is tried again has its id in two places, and the newer one counts.
            if open[records[next].id] == next { open[records[next].id] = nil }
            records[next].id = id
            records[next].version = version
            records[next].wall = wall
            records[next].at = at
            // Sooner or later each place has held a long record: what that took would be kept for ever, in all of them.
            let isLarge = records[next].entries.capacity > 2 * Self.usualEntries
            records[next].entries.removeAll(keepingCapacity: !isLarge)
            if isLarge { records[next].entries.reserveCapacity(Self.usualEntries) }
        }
        open[id] = next
        next = (next + 1) % Self.capacity
    }

    mutating func note(_ id: InvocationID, _ decision: Decision, at now: Instant) {
        guard let place = open[id] else { return }
        if records[place].entries.count >= Self.entryLimit {
            // How it ended is never what is left out.
            guard case .replied = decision else { return }
            records[place].entries.removeLast()
        }
        records[place].entries.append(ExplainEntry(after: now - records[place].at, decision: decision))
    }

    /// An invocation that somebody may ask about tomorrow has ended. Copied here: in a flood the ring comes round within a second.
    /// - Parameter bare: what is known of it without the ring, which may have come round since it arrived.
    mutating func end(_ id: InvocationID, isFailure: Bool, bare: @autoclosure () -> ExplainRecord) {
        guard ended.count < Self.endedLimit else { return }
        let record = record(id) ?? bare()
        let share = Share(tenant: record.version.function.tenant, isFailure: isFailure)
        let count = endedByShare[share] ?? 0
        guard count < Self.endedOfTenant else { return }
        endedByShare[share] = count + 1
        ended.append(record)
    }

    /// What is to be kept of the invocations that have ended since the last time: of each tenant the first ones.
    mutating func takeEnded() -> [ExplainRecord] {
        defer {
            ended = []
            endedByShare = [:]
        }
        return ended
    }

    /// When the start began that an invocation last waited for, counted from its arrival; nil where it waited for none, or too long ago.
    func startingAfter(_ id: InvocationID) -> Nanoseconds? {
        guard let place = open[id] else { return nil }
        let last = records[place].entries.last { if case .starting = $0.decision { true } else { false } }
        return last?.after
    }

    /// Decisions that there is memory for.
    var roomForEntries: Int { records.reduce(0) { $0 + $1.entries.capacity } }

    func record(_ id: InvocationID) -> ExplainRecord? {
        open[id].map { ExplainRecord(id: id, version: records[$0].version, arrivedAt: records[$0].wall, entries: records[$0].entries) }
    }
}
