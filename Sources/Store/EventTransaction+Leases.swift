// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB

extension EventTransaction {
    static let due = """
        SELECT \(EventSchema.columns), b.file, b.hash, b.payload \(EventSchema.join) \
        WHERE e.state = 0 AND e.tenant = ? AND e.function = ? AND e.class = ? AND e.due <= ? ORDER BY e.due LIMIT ?
        """
    static let nextDue = "SELECT min(due) FROM events WHERE state = 0 AND tenant = ? AND function = ? AND class = ?"

    /// Hands out events that are due, the tenants in turn and the functions of each in turn.
    func claim(limit: Int, _ permission: ClaimPermission, now: UInt64) throws -> EventClaim {
        waiting.advance(to: now)
        var round = ClaimRound()
        var refused: [(tenant: Name, functions: Turns)] = []
        // No tenant takes all while others wait.
        let share = max(1, limit / max(1, waiting.tenants.count))
        while round.leases.count < limit, let (tenant, functions) = waiting.next() {
            let room = permission.allowed(tenant) - round.takenByTenant[tenant, default: 0]
            let wanted = min(room, limit - round.leases.count, share)
            guard wanted > 0 else {
                refused.append((tenant, functions))
                continue
            }
            let left = try take(wanted, of: tenant, functions, permission, now, into: &round)
            waiting.giveBack(left, of: tenant, now: now)
        }
        let askAgainAt = waiting.tenants.count > 0 ? now : waiting.tenants.nextDue
        for (tenant, functions) in refused { waiting.giveBack(functions, of: tenant, now: now) }
        for function in round.refused { waiting.add(function, due: now, now: now) }
        return EventClaim(leases: round.leases, aged: round.aged, askAgainAt: askAgainAt)
    }

    /// Leases events of one tenant, its functions in turn, and returns those of them that may have more.
    private func take(
        _ wanted: Int, of tenant: Name, _ functions: Turns, _ permission: ClaimPermission, _ now: UInt64, into round: inout ClaimRound
    ) throws -> Turns {
        var functions = functions
        functions.advance(to: now)
        let share = max(1, wanted / max(1, functions.count))
        var left = wanted
        while left > 0, let name = functions.next() {
            let function = FunctionID(tenant: tenant, function: name)
            let most = min(permission.allowed(function) - round.takenByFunction[function, default: 0], left, share)
            guard most > 0 else {
                round.refused.append(function)
                continue
            }
            let found = try due(function, most, now)
            for event in found { try lease(event, now, into: &round) }
            left -= found.count
            if found.count == most {
                functions.add(name, due: now, now: now)
            } else if let next = try nextDue(function) {
                functions.add(name, due: next, now: now)
            }
        }
        return functions
    }

    private func due(_ function: FunctionID, _ limit: Int, _ now: UInt64) throws -> [DueEvent] {
        var found: [DueEvent] = []
        for order in EventClass.allCases where found.count < limit {
            found += try dueEvents.rows { values in
                values.add(function.tenant.text)
                values.add(function.function.text)
                values.add(order.rawValue)
                values.add(Int64(clamping: now))
                values.add(limit - found.count)
            } _: { row in
                let event = try EventSchema.record(row)
                return DueEvent(event: event, place: event.expiresAt <= now ? nil : try place(row, event))
            }
        }
        return found
    }

    private func nextDue(_ function: FunctionID) throws -> UInt64? {
        var next: Int64?
        for order in EventClass.allCases {
            try nextDue.run { values in
                values.add(function.tenant.text)
                values.add(function.function.text)
                values.add(order.rawValue)
            } _: { row in
                if let due = row.integerIfAny(0) { next = min(next ?? .max, due) }
            }
        }
        return next.map { UInt64(clamping: $0) }
    }

    /// Leases one ready event, or ends it where its time is over.
    private func lease(_ due: DueEvent, _ now: UInt64, into round: inout ClaimRound) throws {
        let event = due.event
        guard let place = due.place else {
            try endInTime(event, at: now, event.history, reason: event.reason)
            if !event.hasDeadline { round.aged.append(event) }
            return
        }
        var history = event.history
        history.deliver()
        let token = UInt64(clamping: try nextToken())
        try move(event, to: .leased, at: now, history: history, token: token, reason: event.reason)
        round.add(
            EventLease(
                event: event.leased(token, history, now), payload: EventPayload(place: place, byteCount: event.payloadBytes)
            ))
    }

    private func place(_ row: DirectRow, _ event: EventRecord) throws -> EventPayload.Place {
        if let file = row.text(26) { return .file(path: files.path(file), hash: row.bytes(27) ?? []) }
        guard let payload = row.bytes(28), payload.count == event.payloadBytes else { throw EventSchema.damaged("no payload") }
        return .inline(payload)
    }

    /// Ends a lease. False where the token is stale: then nothing changes.
    func settle(_ id: InvocationID, token: UInt64, _ settlement: EventSettlement, now: UInt64) throws -> Bool {
        guard let event = try record(id), event.state == .leased, event.token == token else { return false }
        switch settlement {
        case .done(let result): try move(event, to: .done, at: now, reason: nil, result: result)
        case .dead(let reason, let result): try move(event, to: .dead, at: now, reason: reason, result: result)
        case .park(let reason): try move(event, to: .parked, at: now, reason: reason)
        case .release: try again(event, event.history, dueAt: now, now: now, reason: event.reason)
        case .retry(let failure, let afterMs, let reason, let result):
            var history = event.history
            history.note(failure)
            try again(event, history, dueAt: now.addingReportingOverflow(afterMs).partialValue, now: now, reason: reason, result: result)
        }
        return true
    }

    /// Makes an event ready again, unless it may not be tried any more.
    private func again(
        _ event: EventRecord, _ history: RunHistory, dueAt: UInt64, now: UInt64, reason: String?, result: [UInt8] = []
    ) throws {
        if let exhaustion = event.retry.exhaustion(history) {
            try move(event, to: .dead, at: now, history: history, reason: Self.reason(exhaustion, reason), result: result)
        } else if dueAt >= event.expiresAt || dueAt < now {
            try endInTime(event, at: now, history, reason: reason, result: result)
        } else {
            try move(event, to: .ready, at: now, due: dueAt, history: history, reason: reason)
        }
    }

    /// Ends an event whose time is over. Where its caller stated until when it is of use, it expires; where its age is used up, it is given up
    /// like one that has used up its attempts: whoever owns it may want it yet, after whatever held it up.
    func endInTime(_ event: EventRecord, at now: UInt64, _ history: RunHistory, reason: String?, result: [UInt8] = []) throws {
        if event.hasDeadline { return try move(event, to: .expired, at: now, history: history, reason: reason, result: result) }
        try move(event, to: .dead, at: now, history: history, reason: Self.reason(.age, reason), result: result)
    }

    /// Why it was given up, and what went wrong last. Of a redriven one that may be the same words already.
    private static func reason(_ exhaustion: RetryExhaustion, _ last: String?) -> String {
        guard let last, last != exhaustion.rawValue else { return exhaustion.rawValue }
        return last.hasPrefix(exhaustion.rawValue + ": ") ? last : "\(exhaustion.rawValue): \(last)"
    }

    /// What a start finds leased was running when the last daemon ended: it is ready again, and the crash counts, for the event may be what killed the node.
    func recover(now: UInt64) throws -> Int {
        let leased = "SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.state = 1 AND e.state > 0"
        let found = try DirectRow.all(database, leased, [], EventSchema.record)
        for event in found {
            var history = event.history
            history.note(.nodeLost)
            try again(event, history, dueAt: now, now: now, reason: "the node ended while it ran")
        }
        return found.count
    }

    /// Removes payload files that no row names: their submit was never committed, or their row is gone.
    func removeOrphans() throws {
        for name in try files.names() where try rows("SELECT 1 FROM bodies WHERE file = ?", [name]).isEmpty { files.remove(name) }
    }

    /// Finds the functions with ready events, by one look into the index for each of them.
    func findWaiting() throws {
        waiting = WaitingFunctions()
        for row in try rows(EventSchema.waiting + " SELECT tenant, function FROM waiting WHERE function IS NOT NULL", []) {
            waiting.add(try EventSchema.function(row[0], row[1]), due: 0, now: 0)
        }
    }
}

/// A ready event whose time has come.
private struct DueEvent {
    let event: EventRecord
    /// Where its payload is; nil where its time is over: then nobody looks for it.
    let place: EventPayload.Place?
}

/// What a claim has handed out so far.
private struct ClaimRound {
    var leases: [EventLease] = []
    var aged: [EventRecord] = []
    var takenByTenant: [Name: Int] = [:]
    var takenByFunction: [FunctionID: Int] = [:]
    /// Functions that may not have more for now.
    var refused: [FunctionID] = []

    mutating func add(_ lease: EventLease) {
        leases.append(lease)
        takenByTenant[lease.event.function.tenant, default: 0] += 1
        takenByFunction[lease.event.function, default: 0] += 1
    }
}

extension EventRecord {
    func leased(_ token: UInt64, _ history: RunHistory, _ now: UInt64) -> EventRecord {
        EventRecord(
            id: id, function: function, target: target, trigger: trigger, contentType: contentType, payloadBytes: payloadBytes,
            lineage: lineage,
            destination: destination, order: order, retry: retry, key: key, user: user, trace: trace,
            createdAt: createdAt, expiresAt: expiresAt,
            state: .leased,
            since: now,
            token: token, history: history, reason: reason)
    }
}
