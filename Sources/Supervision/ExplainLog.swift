// SPDX-License-Identifier: Apache-2.0
import Core

/// The decisions about the last invocations, in memory: a ring of records whose memory is used again, because every invocation writes here and few are ever read.
struct ExplainLog {
    /// Records kept.
    static let capacity = 10_000
    /// Decisions kept a record.
    static let entryLimit = 32

    private struct Record {
        var id: InvocationID
        var version: VersionID
        var wall: UInt64
        var at: Instant
        var entries: [ExplainEntry] = []
    }
    private var records: [Record] = []
    private var next = 0
    /// Places of the invocations in the ring.
    private var open: [InvocationID: Int] = [:]

    mutating func begin(_ id: InvocationID, _ version: VersionID, wall: UInt64, at: Instant) {
        if records.count < Self.capacity {
            records.append(Record(id: id, version: version, wall: wall, at: at))
            records[next].entries.reserveCapacity(4)
        } else {
            open[records[next].id] = nil
            records[next].id = id
            records[next].version = version
            records[next].wall = wall
            records[next].at = at
            records[next].entries.removeAll(keepingCapacity: true)
        }
        open[id] = next
        next = (next + 1) % Self.capacity
    }

    mutating func note(_ id: InvocationID, _ decision: Decision, at now: Instant) {
        guard let place = open[id], records[place].entries.count < Self.entryLimit else { return }
        records[place].entries.append(ExplainEntry(after: now - records[place].at, decision: decision))
    }

    /// When the start began that an invocation last waited for, counted from its arrival; nil where it waited for none, or too long ago.
    func startingAfter(_ id: InvocationID) -> Nanoseconds? {
        guard let place = open[id] else { return nil }
        let last = records[place].entries.last { if case .starting = $0.decision { true } else { false } }
        return last?.after
    }

    /// Searches: a person asks.
    func record(_ id: InvocationID) -> ExplainRecord? {
        records.first { $0.id == id }.map { ExplainRecord(id: id, version: $0.version, arrivedAt: $0.wall, entries: $0.entries) }
    }
}
