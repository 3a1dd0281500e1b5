// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import GRDB
import Synchronization

/// Which events to list.
public struct EventQuery: Hashable, Sendable {
    public var state: EventState?
    public var tenant: Name?
    public var function: Name?
    /// At most ``EventStore/batchLimit``.
    public var limit: Int
    /// Where the last page ended.
    public var after: EventCursor?

    public init(state: EventState? = nil, tenant: Name? = nil, function: Name? = nil, limit: Int = 100, after: EventCursor? = nil) {
        self.state = state
        self.tenant = tenant
        self.function = function
        self.limit = limit
        self.after = after
    }
}

/// A place in a list, written as text for a URL: `STATE.CLASS.TIME.ID.TENANT.FUNCTION`.
public struct EventCursor: Hashable, Sendable, CustomStringConvertible {
    let state: Int
    let order: Int
    let due: Int64
    let id: InvocationID
    let tenant: String
    let function: String

    public var description: String { "\(state).\(order).\(due).\(id).\(tenant).\(function)" }

    /// Nil unless `text` is what ``description`` writes.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 6, let state = Int(parts[0]), let order = Int(parts[1]), let due = Int64(parts[2]),
            let id = InvocationID(parts[3])
        else { return nil }
        self.init(state: state, order: order, due: due, id: id, tenant: String(parts[4]), function: String(parts[5]))
    }

    private init(state: Int, order: Int, due: Int64, id: InvocationID, tenant: String, function: String) {
        (self.state, self.order, self.due, self.id, self.tenant, self.function) = (state, order, due, id, tenant, function)
    }

    init(_ event: EventRecord) {
        self.init(
            state: event.state.rawValue, order: event.order.rawValue, due: Int64(clamping: event.since), id: event.id,
            tenant: event.function.tenant.text, function: event.function.function.text)
    }
}

/// A part of a list.
public struct EventPage: Sendable {
    /// By state, tenant, class and time; the ready ones by tenant, function, class and time.
    public var events: [EventRecord] = []
    /// Where the next page begins; nil at the end. A page may be short, or empty, and still not be the last: a filter by function looks at a bounded number of events.
    public var next: EventCursor?
}

/// What may be read at any time, beside the writer. Blocks for the disk.
extension EventStore {
    /// Events that a page looks at, at most.
    private static let looks = 5_000

    func read<T>(_ what: String, _ body: (Database) throws -> T) throws(StoreError) -> T { try read(what, reading, reader, body) }

    private func read<T>(_ what: String, _ lock: NSLock, _ queue: DatabaseQueue, _ body: (Database) throws -> T) throws(StoreError) -> T {
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed.load(ordering: .relaxed) else { throw StoreError("\(what) cannot be read: the store is closed") }
        do { return try queue.read(body) } catch { throw StoreError("\(what) cannot be read: \(error)") }
    }

    /// Which of these keys belong to an event that was stored, by their places.
    /// - Parameter now: milliseconds since 1970.
    public func known(_ keys: [EventKey?], at now: UInt64) throws(StoreError) -> Set<Int> {
        try read("the keys of events") { database in
            let statement = try database.cachedStatement(sql: EventSchema.known)
            var known: Set<Int> = []
            for (place, key) in keys.enumerated() {
                guard let key else { continue }
                let owner = key.function
                let arguments: StatementArguments = [owner.tenant.text, owner.function.text, key.key, Int64(clamping: now)]
                if try Row.fetchOne(statement, arguments: arguments) != nil { known.insert(place) }
            }
            return known
        }
    }

    /// An event of a tenant, or nil.
    public func event(_ id: InvocationID, of tenant: Name) throws(StoreError) -> EventRecord? {
        try read("the event \(id)") { database in
            let sql = "SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.id = ? AND e.tenant = ?"
            return try DirectRow.all(database, sql, [EventSchema.blob(id), tenant.text], EventSchema.record).first
        }
    }

    /// An event of whatever tenant, or nil: for the operator.
    public func event(_ id: InvocationID) throws(StoreError) -> EventRecord? {
        try read("the event \(id)") { database in
            let sql = "SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.id = ?"
            return try DirectRow.all(database, sql, [EventSchema.blob(id)], EventSchema.record).first
        }
    }

    /// The payload of a tenant's event, or nil.
    public func payload(_ id: InvocationID, of tenant: Name) throws(StoreError) -> EventPayload? {
        try read("the payload of \(id)") { database in
            let sql = "SELECT b.bytes, b.file, b.hash, b.payload \(EventSchema.join) WHERE e.id = ? AND e.tenant = ?"
            guard let row = try Row.fetchOne(database, sql: sql, arguments: [EventSchema.blob(id), tenant.text]) else { return nil }
            if let file: String = row[1] {
                return EventPayload(place: .file(path: files.path(file), hash: Array(row[2] as Data? ?? Data())), byteCount: row[0])
            }
            return EventPayload(place: .inline(Array(row[3] as Data? ?? Data())), byteCount: row[0])
        }
    }

    // Two statements, for with a tenant that is fixed SQLite would sort by it all the same.
    static let listOfTenant = """
        SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.state = ?1 AND e.state > 0 AND e.tenant = ?2 AND (e.class, e.due, e.id) > (?3, ?4, ?5) \
        ORDER BY e.class, e.due, e.id LIMIT ?6
        """
    static let listOfAll = """
        SELECT \(EventSchema.columns) \(EventSchema.join) WHERE e.state = ?1 AND e.state > 0 AND (e.tenant, e.class, e.due, e.id) > (?2, ?3, ?4, ?5) \
        ORDER BY e.tenant, e.class, e.due, e.id LIMIT ?6
        """
    // In the index's order, by state (always 0) and id after the time. Named in ORDER BY those two would make SQLite sort what is in order already.
    static let readyOfTenant = """
        SELECT \(EventSchema.columns) \(EventSchema.join) \
        WHERE e.state = 0 AND e.tenant = ? AND (e.function, e.class, e.due, e.state, e.id) > (?, ?, ?, 0, ?) \
        ORDER BY e.function, e.class, e.due LIMIT ?
        """
    static let readyOfAll = """
        SELECT \(EventSchema.columns) \(EventSchema.join) \
        WHERE e.state = 0 AND (e.tenant, e.function, e.class, e.due, e.state, e.id) > (?, ?, ?, ?, 0, ?) \
        ORDER BY e.tenant, e.function, e.class, e.due LIMIT ?
        """

    /// One page of a list.
    public func list(_ query: EventQuery) throws(StoreError) -> EventPage {
        try read("the events") { database in
            var page = EventPage()
            var looks = Self.looks
            let limit = max(1, min(query.limit, Self.batchLimit))
            for state in query.state.map({ [$0] }) ?? EventState.allCases where state.rawValue >= query.after?.state ?? 0 {
                page.next = query.after.flatMap { $0.state == state.rawValue ? $0 : nil }
                while true {
                    let count = min(looks, query.function == nil ? limit - page.events.count : Self.batchLimit)
                    let found = try Self.events(state, query.tenant, after: page.next, limit: count, database)
                    looks -= found.count
                    for event in found {
                        page.next = EventCursor(event)
                        if query.function == nil || query.function == event.function.function { page.events.append(event) }
                        if page.events.count == limit { return page }
                    }
                    if looks == 0 { return page }
                    if found.count < count { break }
                }
            }
            page.next = nil
            return page
        }
    }

    private static func events(_ state: EventState, _ tenant: Name?, after: EventCursor?, limit: Int, _ database: Database) throws
        -> [EventRecord]
    {
        let isReady = state == .ready
        let (all, own) = isReady ? (readyOfAll, readyOfTenant) : (listOfAll, listOfTenant)
        let owner = tenant?.text ?? after?.tenant ?? ""
        let place: StatementArguments = [after?.order ?? 0, after?.due ?? -1, after.map { EventSchema.blob($0.id) } ?? Data(), limit]
        let arguments = (isReady ? [owner, after?.function ?? ""] : [state.rawValue, owner] as StatementArguments) + place
        return try DirectRow.all(database, tenant == nil ? all : own, arguments, EventSchema.record)
    }

    /// How many events there are and were, from the counters.
    public func counts() throws(StoreError) -> EventCounts {
        try read("the counters") { database in
            var counts = EventCounts()
            counts.received = EventSchema.number(
                try Int64.fetchOne(database, sql: "SELECT value FROM counters WHERE name = 'received'") ?? 0)
            for row in try Row.fetchAll(database, sql: "SELECT state, kept, removed FROM counts") {
                let state = try EventSchema.state(row[0])
                counts.kept[state] = EventSchema.number(row[1])
                counts.removed[state] = EventSchema.number(row[2])
            }
            return counts
        }
    }

    /// What waits to run, by tenant: events and bytes of their payloads. Looks at every one of them, and keeps no other reader waiting meanwhile.
    public func backlog() throws(StoreError) -> [Name: (events: UInt64, bytes: UInt64)] {
        try read("what waits", counting, counter) { database in
            let sql = "SELECT e.tenant, count(*), sum(b.bytes) \(EventSchema.join) WHERE e.state = 0 GROUP BY e.tenant"
            var found: [Name: (events: UInt64, bytes: UInt64)] = [:]
            for row in try Row.fetchAll(database, sql: sql) {
                guard let tenant = Name(row[0] as String) else { throw EventSchema.damaged("no valid name") }
                found[tenant] = (EventSchema.number(row[1]), EventSchema.number(row[2]))
            }
            return found
        }
    }

    /// What is in quarantine, by edge: events and bytes of their payloads. Looks at every one of them.
    public func quarantine() throws(StoreError) -> [EdgeID: (events: Int, bytes: Int)] {
        try read("what is in quarantine") { database in
            let sql = """
                SELECT e.tenant, e.function, b.source, count(*), sum(b.bytes) \(EventSchema.join) WHERE e.state = \(EventState.parked.rawValue)
                GROUP BY e.tenant, e.function, b.source
                """
            var found: [EdgeID: (events: Int, bytes: Int)] = [:]
            for row in try Row.fetchAll(database, sql: sql) {
                guard let tenant = Name(row[0] as String), let function = Name(row[1] as String) else {
                    throw EventSchema.damaged("no valid name")
                }
                let edge = EdgeID(
                    trigger: Name(row[2] as String) ?? TriggerSpec.direct, function: FunctionID(tenant: tenant, function: function))
                let before = found[edge] ?? (0, 0)
                found[edge] = (before.events + (row[3] as Int), before.bytes + (row[4] as Int))
            }
            return found
        }
    }

    /// How long the event has waited that has been due longest, in milliseconds; 0 where none is due. Looks at one entry of the index for each function with events that wait.
    public func oldestDue(at now: UInt64) throws(StoreError) -> UInt64 {
        try read("the oldest event") { database in
            let sql = """
                \(EventSchema.waiting) SELECT min((
                    SELECT min(due) FROM events WHERE state = 0 AND tenant = waiting.tenant AND function = waiting.function AND class = ?))
                FROM waiting WHERE function IS NOT NULL
                """
            let oldest = try EventClass.allCases.compactMap { try Int64.fetchOne(database, sql: sql, arguments: [$0.rawValue]) }.min()
            return oldest.map { now - min(now, EventSchema.number($0)) } ?? 0
        }
    }

    /// Nil where the counters agree with each other and with the rows, else a sentence. Looks at every event's entry in an index.
    public func imbalance() throws(StoreError) -> String? {
        try read("the counters") { database in
            let sql = """
                SELECT group_concat(what, '; ') FROM (
                    SELECT 'received ' || value || ', found ' || (SELECT sum(kept + removed) FROM counts) AS what FROM counters
                        WHERE name = 'received' AND value <> (SELECT sum(kept + removed) FROM counts)
                    UNION ALL SELECT 'state ' || state || ': counted ' || kept || ', found ' || found FROM (
                        SELECT state, kept, CASE WHEN state = 0 THEN (SELECT count(*) FROM events e WHERE e.state = 0)
                            ELSE (SELECT count(*) FROM events e WHERE e.state = counts.state AND e.state > 0) END AS found FROM counts)
                        WHERE kept <> found)
                """
            return try String.fetchOne(database, sql: sql)
        }
    }
}
