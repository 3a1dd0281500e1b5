// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB

/// What an owner or operator does with events, and what time does.
extension EventTransaction {
    private func record(_ id: InvocationID, of tenant: Name) throws -> EventRecord? {
        try record(id).flatMap { $0.function.tenant == tenant ? $0 : nil }
    }

    /// Ends an event for good. Returns it as it was, or nil where it has ended already or is not the tenant's.
    func stop(_ id: InvocationID, _ tenant: Name, reason: String, now: UInt64) throws -> EventRecord? {
        guard let event = try record(id, of: tenant), !event.state.isTerminal else { return nil }
        try move(event, to: .stopped, at: now, reason: reason)
        return event
    }

    /// Makes dead letters or parked events ready again, as if they were new: with all attempts, a new age and the lineage that is given.
    func restart(_ ids: [InvocationID], _ tenant: Name, from state: EventState, lineage: [UInt8]?, due: UInt64, now: UInt64) throws -> Int {
        var count = 0
        for id in ids {
            guard let event = try record(id, of: tenant), event.state == state else { continue }
            if let lineage {
                try run(
                    "UPDATE bodies SET lineage = ? WHERE number = (SELECT body FROM events WHERE id = ?)",
                    [Data(lineage), EventSchema.blob(id)])
            }
            // A deadline that was stated still holds; an age begins anew.
            let age = due + event.retry.maxAgeMs
            try move(
                event, to: .ready, at: now, due: due, history: state == .dead ? RunHistory() : event.history,
                expires: event.hasDeadline ? event.expiresAt : age, reason: event.reason)
            count += 1
        }
        return count
    }

    /// Removes events that are in one of these states.
    func purge(_ ids: [InvocationID], _ tenant: Name, _ states: Set<EventState>) throws -> Int {
        var count = 0
        for id in ids {
            guard let event = try record(id, of: tenant), states.contains(event.state), try !hasDestination(id) else { continue }
            try remove(event)
            count += 1
        }
        return count
    }

    private func hasDestination(_ id: InvocationID) throws -> Bool {
        try !rows("SELECT 1 FROM destinations WHERE event = ? LIMIT 1", [EventSchema.blob(id)]).isEmpty
    }

    static let ended = """
        SELECT \(EventSchema.columns) FROM events e JOIN bodies b ON b.number = e.body WHERE e.ends <= ? ORDER BY e.ends LIMIT ?
        """
    static let endedKeys = "SELECT tenant, function, key FROM keys WHERE until <= ? ORDER BY until LIMIT ?"

    /// Does what time does: ready events end whose time is over, old ones and old keys are removed; at most `limit` of each.
    func sweep(limit: Int, now: UInt64) throws -> EventSweep {
        var aged: [EventRecord] = []
        let events = try DirectRow.all(database, Self.ended, [Int64(clamping: now), limit], EventSchema.record)
        for event in events {
            if event.state == .ready {
                try endInTime(event, at: now, event.history, reason: event.reason)
                if !event.hasDeadline { aged.append(event) }
            } else if try hasDestination(event.id) {
                // Its record is not delivered yet and may need the payload.
                try run("UPDATE events SET ends = ? WHERE id = ?", [Int64(clamping: now + 3_600_000), EventSchema.blob(event.id)])
            } else {
                try remove(event)
            }
        }
        let keys = try rows(Self.endedKeys, [Int64(clamping: now), limit])
        for row in keys {
            try run(
                "DELETE FROM keys WHERE tenant = ? AND function = ? AND key = ?", [row[0] as String, row[1] as String, row[2] as String])
        }
        return EventSweep(count: max(events.count, keys.count), aged: aged)
    }

    /// Forgets a destination's record, and takes the event that delivers it. False where there is no such record any more: then nothing changes.
    func deliver(_ number: Int64, _ draft: EventDraft?, _ stored: EventFiles.Stored?) throws -> Bool {
        try run("DELETE FROM destinations WHERE number = ?", [number])
        guard database.changesCount == 1 else { return false }
        if let draft { _ = try insert(draft, stored) }
        return true
    }
}
