// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB

/// One transaction of the event store, which carries the work of many callers. Used by the writer's thread alone.
final class EventTransaction {
    let database: Database
    let files: EventFiles
    let retention: EventRetention
    var waiting: WaitingFunctions
    /// Payload files whose rows this transaction removes.
    private(set) var abandonedFiles: [String] = []
    private var kept: [EventState: Int64] = [:]
    private var removed: [EventState: Int64] = [:]
    private var received: Int64 = 0
    private var token: Int64?
    private let newBody: DirectStatement
    private let newEvent: DirectStatement
    private let newState: DirectStatement
    private let oneEvent: DirectStatement
    let dueEvents: DirectStatement
    let nextDue: DirectStatement

    init(_ database: Database, files: EventFiles, retention: EventRetention, waiting: WaitingFunctions) {
        self.database = database
        self.files = files
        self.retention = retention
        self.waiting = waiting
        newBody = DirectStatement(database, "INSERT INTO bodies VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        newEvent = DirectStatement(
            database, "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, ?, ?, ?, ?, ?, ?)")
        newState = DirectStatement(
            database,
            """
            UPDATE events SET state = ?, due = ?, ends = ?, token = ?, attempts = ?, crashes = ?, deliveries = ?, postponements = ?, \
            expires = ?, reason = ? WHERE id = ?
            """)
        oneEvent = DirectStatement(database, "SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.id = ?")
        dueEvents = DirectStatement(database, Self.due)
        nextDue = DirectStatement(database, Self.nextDue)
    }

    func run(_ sql: String, _ arguments: StatementArguments) throws {
        let statement = try database.cachedStatement(sql: sql)
        try statement.execute(arguments: arguments)
    }

    func rows(_ sql: String, _ arguments: StatementArguments) throws -> [Row] {
        try Row.fetchAll(try database.cachedStatement(sql: sql), arguments: arguments)
    }

    /// Writes the counters. The last thing before the commit.
    func finish() throws {
        for (state, change) in kept where change != 0 {
            try run("UPDATE counts SET kept = kept + ? WHERE state = ?", [change, state.rawValue])
        }
        for (state, change) in removed {
            try run("UPDATE counts SET removed = removed + ? WHERE state = ?", [change, state.rawValue])
        }
        if received != 0 { try run("UPDATE counters SET value = value + ? WHERE name = 'received'", [received]) }
        if let token { try run("UPDATE counters SET value = ? WHERE name = 'token'", [token]) }
    }

    /// A token that no lease has had.
    func nextToken() throws -> Int64 {
        let last = try token ?? Int64.fetchOne(database, sql: "SELECT value FROM counters WHERE name = 'token'") ?? 0
        token = last + 1
        return last + 1
    }

    // MARK: in

    /// Takes an event in, unless its key or its id is known.
    func insert(_ draft: EventDraft, _ stored: EventFiles.Stored?) throws -> EventReceipt {
        let (tenant, function) = (draft.function.tenant.text, draft.function.function.text)
        if let key = draft.key, let first = try known(key, tenant, function, now: draft.createdAt) {
            abandon(stored?.name)
            return EventReceipt(id: first, isDuplicate: true, isOfOtherPayload: try isOther(draft, stored, than: first))
        }
        let state = draft.parked == nil ? EventState.ready : .parked
        let due = state == .ready ? max(draft.notBefore, draft.createdAt) : draft.createdAt
        let body = try insertBody(draft, stored)
        guard try insertEvent(draft, state, due, body) else {
            try run("DELETE FROM bodies WHERE number = ?", [body])
            abandon(stored?.name)
            return EventReceipt(id: draft.id, isDuplicate: true)
        }
        if let key = draft.key {
            let until = Int64(clamping: draft.createdAt + retention.keyMs)
            try run("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)", [tenant, function, key, EventSchema.blob(draft.id), until])
        }
        received += 1
        kept[state, default: 0] += 1
        if state == .ready { waiting.add(draft.function, due: due, now: draft.createdAt) }
        return EventReceipt(id: draft.id, isDuplicate: false)
    }

    /// Returns the row's number.
    private func insertBody(_ draft: EventDraft, _ stored: EventFiles.Stored?) throws -> Int64 {
        try newBody.run { values in
            values.add(draft.target)
            values.add(draft.trigger)
            values.add(draft.contentType)
            values.add(draft.key)
            values.add(draft.lineage)
            values.add(draft.destination)
            values.add(draft.payload.count)
            values.add(stored?.name)
            values.add(stored?.hash)
            values.add(stored == nil ? draft.payload : nil)
            values.add(draft.user)
            values.add(draft.trace)
        }.lastRow
    }

    /// False where there is one with the draft's id.
    private func insertEvent(_ draft: EventDraft, _ state: EventState, _ due: UInt64, _ body: Int64) throws -> Bool {
        let expires = Int64(clamping: draft.expires)
        return try newEvent.run { values in
            values.add(high: draft.id.high, low: draft.id.low)
            values.add(state.rawValue)
            values.add(draft.function.tenant.text)
            values.add(draft.function.function.text)
            values.add(draft.order.rawValue)
            values.add(Int64(clamping: due))
            values.add(state == .ready ? expires : nil)
            values.add(Int64(draft.retry.maxAttempts))
            values.add(Int64(clamping: draft.retry.maxAgeMs))
            values.add(expires)
            values.add(Int64(draft.createdAt))
            values.add(draft.parked)
            values.add(body)
        }.rows == 1
    }

    /// Adds to the payload of the event with the draft's key, as long as that waits where the draft would; else takes the draft in, and the key is the new one's.
    func merge(_ draft: EventDraft, _ add: ([UInt8], [UInt8]) -> [UInt8]) throws -> MergeReceipt {
        guard let key = draft.key else {
            return MergeReceipt(id: try insert(draft, nil).id, payloadBytes: draft.payload.count, bytesBefore: nil)
        }
        let (tenant, function) = (draft.function.tenant.text, draft.function.function.text)
        let state = draft.parked == nil ? EventState.ready : .parked
        if let first = try known(key, tenant, function, now: draft.createdAt), let event = try record(first),
            event.state == state, event.trigger == draft.trigger, event.key == key,
            let row = try rows("SELECT b.number, b.payload \(EventSchema.join) WHERE e.id = ?", [EventSchema.blob(first)]).first,
            let old = row[1] as Data?
        {
            let payload = add(Array(old), draft.payload)
            try run("UPDATE bodies SET payload = ?, bytes = ? WHERE number = ?", [Data(payload), payload.count, row[0] as Int64])
            // The key lives as long as what it stands for.
            try run(
                "UPDATE keys SET until = ? WHERE tenant = ? AND function = ? AND key = ?",
                [Int64(clamping: draft.createdAt + retention.keyMs), tenant, function, key])
            return MergeReceipt(id: first, payloadBytes: payload.count, bytesBefore: old.count)
        }
        try run("DELETE FROM keys WHERE tenant = ? AND function = ? AND key = ?", [tenant, function, key])
        return MergeReceipt(id: try insert(draft, nil).id, payloadBytes: draft.payload.count, bytesBefore: nil)
    }

    /// Takes all of them in, or none where a key is that of an event with another payload.
    func insert(_ drafts: [EventDraft]) throws -> BatchReceipt {
        for (index, draft) in drafts.enumerated() {
            let (tenant, function) = (draft.function.tenant.text, draft.function.function.text)
            guard let key = draft.key, let first = try known(key, tenant, function, now: draft.createdAt) else { continue }
            if try isOther(draft, nil, than: first) { return .ofOtherPayload(index: index, first: first) }
        }
        return .stored(try drafts.map { try insert($0, nil) })
    }

    /// Whether an event has another payload or content type than the draft. Of one that is not kept any more nobody can say it: then it is taken for the same.
    private func isOther(_ draft: EventDraft, _ stored: EventFiles.Stored?, than first: InvocationID) throws -> Bool {
        // A payload is in its row or in a file by its length alone, so that two of the same bytes are in the same place.
        let isSame = "b.content_type = ? AND b.bytes = ? AND b.hash IS ? AND b.payload IS ?"
        let found = try rows(
            "SELECT \(isSame) \(EventSchema.join) WHERE e.id = ?",
            [
                draft.contentType, draft.payload.count, stored.map { Data($0.hash) }, stored == nil ? Data(draft.payload) : nil,
                EventSchema.blob(first),
            ])
        return found.first.map { !($0[0] as Bool) } ?? false
    }

    private func known(_ key: String, _ tenant: String, _ function: String, now: UInt64) throws -> InvocationID? {
        try rows(EventSchema.known, [tenant, function, key, Int64(now)]).first.map { try EventSchema.id($0[0]) }
    }

    private func abandon(_ file: String?) { if let file { abandonedFiles.append(file) } }

    // MARK: from state to state

    func record(_ id: InvocationID) throws -> EventRecord? {
        try oneEvent.rows({ $0.add(high: id.high, low: id.low) }, EventSchema.record).first
    }

    /// The one place where an event changes its state. A terminal one leaves its destination record in the same transaction.
    func move(
        _ event: EventRecord, to state: EventState, at now: UInt64, due: UInt64? = nil, history: RunHistory? = nil, expires: UInt64? = nil,
        token: UInt64? = nil, reason: String?, result: [UInt8] = []
    ) throws {
        let history = history ?? event.history
        let expires = expires ?? event.expiresAt
        let since = due ?? now
        let ends: UInt64? = state == .ready ? expires : state.isTerminal ? now + retention.keeps(state) : nil
        let why = reason.map { Self.shortened($0) }
        try newState.run { values in
            values.add(state.rawValue)
            values.add(Int64(clamping: since))
            values.add(ends.map { Int64(clamping: $0) })
            values.add(Int64(clamping: token ?? event.token))
            values.add(Int64(history.attempts))
            values.add(Int64(history.crashes))
            values.add(Int64(history.deliveries))
            values.add(Int64(history.postponements))
            values.add(Int64(clamping: expires))
            values.add(why)
            values.add(high: event.id.high, low: event.id.low)
        }
        kept[event.state, default: 0] -= 1
        kept[state, default: 0] += 1
        if state == .ready { waiting.add(event.function, due: since, now: now) }
        guard state.isTerminal, !event.destination.isEmpty else { return }
        try run(
            "INSERT INTO destinations VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                EventSchema.blob(event.id), event.function.tenant.text, event.function.function.text, Data(event.destination),
                state.rawValue,
                Int64(history.attempts), why, Data(result), Int64(clamping: now),
            ])
    }

    /// Reasons come from functions' errors, which may be long.
    private static func shortened(_ text: String) -> String {
        text.utf8.count <= 1024 ? text : String(decoding: text.utf8.prefix(256), as: UTF8.self)
    }

    /// Removes an event with its payload.
    func remove(_ event: EventRecord) throws {
        for row in try rows("SELECT e.body, b.file \(EventSchema.join) WHERE e.id = ?", [EventSchema.blob(event.id)]) {
            try run("DELETE FROM bodies WHERE number = ?", [row[0] as Int64])
            abandon(row[1])
        }
        try run("DELETE FROM events WHERE id = ?", [EventSchema.blob(event.id)])
        kept[event.state, default: 0] -= 1
        removed[event.state, default: 0] += 1
    }
}
