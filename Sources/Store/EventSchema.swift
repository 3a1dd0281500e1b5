// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB

/// The tables of `events.sqlite` and how a row becomes a value.
package enum EventSchema {
    static let version = 3

    /// What changes is in small rows of their own (`events`), for SQLite writes a row anew as a whole; what never changes is in `bodies`.
    ///
    /// - `due`: for a ready event when it may start, for any other when it came into its state.
    /// - `ends`: when time alone does something to it: a ready event expires, a terminal one is removed. NULL where nothing happens.
    package static let create = """
        CREATE TABLE events (
            id BLOB PRIMARY KEY, state INTEGER NOT NULL, tenant TEXT NOT NULL, function TEXT NOT NULL, class INTEGER NOT NULL,
            due INTEGER NOT NULL, ends INTEGER, token INTEGER NOT NULL, attempts INTEGER NOT NULL, crashes INTEGER NOT NULL,
            deliveries INTEGER NOT NULL, postponements INTEGER NOT NULL, max_attempts INTEGER NOT NULL, max_age INTEGER NOT NULL,
            expires INTEGER NOT NULL, created INTEGER NOT NULL, reason TEXT, body INTEGER NOT NULL) WITHOUT ROWID;
        \(queueIndex);
        \(readyIndex);
        CREATE INDEX events_ends ON events (ends) WHERE ends IS NOT NULL;
        CREATE TABLE bodies (
            number INTEGER PRIMARY KEY, target TEXT NOT NULL, source TEXT NOT NULL, content_type TEXT NOT NULL, idempotency TEXT,
            lineage BLOB NOT NULL, destination BLOB NOT NULL, bytes INTEGER NOT NULL, file TEXT, hash BLOB, payload BLOB, user TEXT, trace TEXT);
        CREATE INDEX bodies_file ON bodies (file) WHERE file IS NOT NULL;
        CREATE TABLE keys (
            tenant TEXT NOT NULL, function TEXT NOT NULL, key TEXT NOT NULL, id BLOB NOT NULL, until INTEGER NOT NULL,
            PRIMARY KEY (tenant, function, key)) WITHOUT ROWID;
        CREATE INDEX keys_until ON keys (until);
        CREATE TABLE destinations (
            number INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL, tenant TEXT NOT NULL, function TEXT NOT NULL,
            destination BLOB NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL, reason TEXT, result BLOB NOT NULL, at INTEGER NOT NULL);
        CREATE INDEX destinations_event ON destinations (event);
        CREATE TABLE counts (state INTEGER PRIMARY KEY, kept INTEGER NOT NULL, removed INTEGER NOT NULL);
        INSERT INTO counts VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0), (5, 0, 0), (6, 0, 0);
        CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
        INSERT INTO counters VALUES ('received', 0), ('token', 0);
        PRAGMA user_version = \(version);
        """

    /// For lists. Not of what is ready: of that every event would pay for it twice, when it comes in and when it is handed out.
    private static let queueIndex = "CREATE INDEX events_queue ON events (state, tenant, class, due) WHERE state > 0"

    /// For claims, which take the functions in turn; and for lists of what is ready. With the state, which is always 0, it alone answers.
    private static let readyIndex = "CREATE INDEX events_ready ON events (tenant, function, class, due, state) WHERE state = 0"

    /// The functions with ready events, found by one look into the index for each: a table `waiting (tenant, function)`, with rows of NULL.
    static let waiting = """
        WITH RECURSIVE waiting_tenants (tenant) AS (
            SELECT min(tenant) FROM events WHERE state = 0
            UNION ALL SELECT (SELECT min(tenant) FROM events WHERE state = 0 AND tenant > waiting_tenants.tenant)
            FROM waiting_tenants WHERE tenant IS NOT NULL),
        waiting (tenant, function) AS (
            SELECT tenant, (SELECT min(function) FROM events WHERE state = 0 AND tenant = waiting_tenants.tenant)
            FROM waiting_tenants WHERE tenant IS NOT NULL
            UNION ALL SELECT tenant, (
                SELECT min(function) FROM events WHERE state = 0 AND tenant = waiting.tenant AND function > waiting.function)
            FROM waiting WHERE function IS NOT NULL)
        """

    static func configuration(synchronous: String) -> Configuration {
        var configuration = Configuration()
        // Nobody else writes: the folder is locked.
        configuration.busyMode = .timeout(5)
        configuration.prepareDatabase { database in
            try database.execute(sql: "PRAGMA journal_mode = WAL")
            try SortSpace.inMemory(database)
            try database.execute(sql: "PRAGMA synchronous = \(synchronous)")
            guard try Int.fetchOne(database, sql: "PRAGMA synchronous") == (synchronous == "FULL" ? 2 : 1) else {
                throw StoreError("SQLite does not keep synchronous=\(synchronous)")
            }
            try database.execute(
                sql: """
                    PRAGMA mmap_size = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cell_size_check = ON; PRAGMA cache_size = -16384;
                    PRAGMA wal_autocheckpoint = \(EventWriter.checkpointBackstop);
                    """)
        }
        return configuration
    }

    /// Makes the tables, or refuses those of a newer release.
    static func prepare(_ database: Database, path: String) throws {
        let found = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        guard found <= version else {
            throw StoreError(
                "\(path) was written by a newer release (schema \(found), this one knows \(version)): install that release again, or use another state directory"
            )
        }
        if found == 0 { try database.execute(sql: create) }
        if found == 1 {
            // The first events had no end user, and the column came without a new version.
            if try !database.columns(in: "bodies").contains(where: { $0.name == "user" }) {
                try database.execute(sql: "ALTER TABLE bodies ADD COLUMN user TEXT")
            }
            try database.execute(sql: readyIndex)
        }
        if found == 1 || found == 2 {
            try database.execute(
                sql: "DROP INDEX events_queue; \(queueIndex); ALTER TABLE bodies ADD COLUMN trace TEXT; PRAGMA user_version = \(version)")
        }
        // By function, so that one with many records hides nobody else's. A release that does not know it keeps it up all the same: no new version.
        try database.execute(sql: "CREATE INDEX IF NOT EXISTS destinations_owner ON destinations (tenant, function)")
        // A write that changes something: a read-only directory or a full disk shows here and not at the first submit.
        try database.execute(sql: "UPDATE counters SET value = value WHERE name = 'received'")
    }

    // MARK: rows

    /// What ``record(_:)`` reads, in its order.
    static let columns = """
        e.id, e.state, e.tenant, e.function, e.class, e.due, e.token, e.attempts, e.crashes, e.deliveries, e.postponements, e.max_attempts,
        e.max_age, e.expires, e.created, e.reason, e.body, b.target, b.source, b.content_type, b.idempotency, b.lineage, b.destination, b.bytes,
        b.user, b.trace
        """
    /// The event of an idempotency key that is not forgotten yet.
    static let known = "SELECT id FROM keys WHERE tenant = ? AND function = ? AND key = ? AND until > ?"
    static let join = "FROM events e JOIN bodies b ON b.number = e.body"

    static func blob(_ id: InvocationID) -> Data {
        var bytes = Data(capacity: 16)
        for word in [id.high, id.low] {
            for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(shift))) }
        }
        return bytes
    }

    static func id(_ bytes: Data) throws -> InvocationID { try id(Array(bytes)) }

    static func id(_ bytes: [UInt8]) throws -> InvocationID {
        guard bytes.count == 16 else { throw damaged("an id of \(bytes.count) bytes") }
        let (high, low) = (bytes[..<8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }, bytes[8...].reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
        return InvocationID(milliseconds: high >> 16, random: (UInt16(truncatingIfNeeded: high), low))
    }

    static func damaged(_ what: String) -> DatabaseError { DatabaseError(resultCode: .SQLITE_CORRUPT, message: "the row holds \(what)") }

    static func function(_ tenant: String, _ function: String) throws -> FunctionID {
        guard let tenant = Name(tenant), let function = Name(function) else { throw damaged("no valid name") }
        return FunctionID(tenant: tenant, function: function)
    }

    static func state(_ number: Int) throws -> EventState {
        guard let state = EventState(rawValue: number) else { throw damaged("the state \(number)") }
        return state
    }

    static func record(_ row: DirectRow) throws -> EventRecord {
        func text(_ column: Int32) throws -> String {
            guard let text = row.text(column) else { throw damaged("no text in column \(column)") }
            return text
        }
        guard let order = EventClass(rawValue: Int(row.integer(4))),
            let retry = RetryPolicy(maxAttempts: UInt8(clamping: row.integer(11)), maxAgeMs: number(row.integer(12)))
        else { throw damaged("a class or a retry policy that is none") }
        var history = RunHistory()
        history.attempts = UInt32(clamping: row.integer(7))
        history.crashes = UInt32(clamping: row.integer(8))
        history.deliveries = UInt32(clamping: row.integer(9))
        history.postponements = UInt32(clamping: row.integer(10))
        return EventRecord(
            id: try id(row.bytes(0) ?? []), function: try function(try text(2), try text(3)), target: try text(17), trigger: try text(18),
            contentType: try text(19), payloadBytes: Int(row.integer(23)), lineage: row.bytes(21) ?? [], destination: row.bytes(22) ?? [],
            order: order, retry: retry, key: row.text(20), user: row.text(24), trace: row.text(25),
            createdAt: number(row.integer(14)), expiresAt: number(row.integer(13)), state: try state(Int(row.integer(1))),
            since: number(row.integer(5)), token: number(row.integer(6)), history: history, reason: row.text(15))
    }

    static func destination(_ row: Row) throws -> DestinationRecord {
        DestinationRecord(
            number: row["number"], event: try id(row["event"]), function: try function(row["tenant"], row["function"]),
            destination: Array(row["destination"] as Data), state: try state(row["state"]),
            attempts: UInt32(clamping: row["attempts"] as Int64),
            reason: row["reason"], result: Array(row["result"] as Data), at: number(row["at"]))
    }

    static func number(_ value: Int64) -> UInt64 { UInt64(clamping: value) }
}
