// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule

/// The decisions about the last invocations, in memory. Bounded: the oldest record goes first.
struct ExplainLog {
    /// Records kept.
    static let capacity = 10_000
    /// Decisions kept a record.
    static let entryLimit = 32

    private var records: [InvocationID: (version: VersionID, wall: UInt64, at: Instant, entries: [ExplainEntry])] = [:]
    private var order: Deque<InvocationID> = []

    mutating func begin(_ id: InvocationID, _ version: VersionID, wall: UInt64, at: Instant) {
        if order.count >= Self.capacity, let oldest = order.popFirst() { records[oldest] = nil }
        order.append(id)
        records[id] = (version, wall, at, [])
    }

    mutating func note(_ id: InvocationID, _ decision: Decision, at now: Instant) {
        guard let index = records.index(forKey: id), records.values[index].entries.count < Self.entryLimit else { return }
        let after = now - records.values[index].at
        records.values[index].entries.append(ExplainEntry(after: after, decision: decision))
    }

    func record(_ id: InvocationID) -> ExplainRecord? {
        records[id].map { ExplainRecord(id: id, version: $0.version, arrivedAt: $0.wall, entries: $0.entries) }
    }
}
