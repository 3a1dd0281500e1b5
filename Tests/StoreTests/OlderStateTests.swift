// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB
import Testing

@testable import Store

private typealias Fixture = EventFixture

/// States as older releases left them, opened by this one. The tables stand here as they stood there, for what a release has written never changes.
@Suite struct OlderStateTests {
    /// Whoever raises a schema's version finds here that the one before has no test yet.
    @Test("every older schema has its fixture")
    func complete() {
        #expect(StateStore.schemaVersion == 3, "schemas 1 and 2 are in keys() and AliasStoreTests")
        #expect(EventSchema.version == 3, "schema 1, with and without end users, is in events(), schema 2 in EventStoreTests")
        #expect(UsageDatabase.schemaVersion == 1, "it has no older one")
    }

    @Test("keys of schemas 1 and 2 open what they opened, revoked ones nothing; versions keep their code", arguments: [1, 2])
    func keys(schema: Int) throws {
        let folder = try EventFolder()
        let path = folder.path + "/state.sqlite"
        let (live, dead) = (try Self.key("acme"), try Self.key("beta"))
        let times = schema == 1 ? "" : ", expires INTEGER, used INTEGER"
        let rest = schema == 1 ? "" : ", 900, 800"
        let old = try DatabaseQueue(path: path)
        try old.write {
            try $0.execute(
                sql: """
                    CREATE TABLE versions (tenant TEXT NOT NULL, function TEXT NOT NULL, number INTEGER NOT NULL, code TEXT NOT NULL,
                        bytes INTEGER NOT NULL, manifest TEXT NOT NULL, created INTEGER NOT NULL, PRIMARY KEY (tenant, function, number)) WITHOUT ROWID;
                    CREATE TABLE numbers (tenant TEXT NOT NULL, function TEXT NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (tenant, function)) WITHOUT ROWID;
                    CREATE TABLE keys (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, hash BLOB NOT NULL, scopes TEXT NOT NULL, created INTEGER NOT NULL,
                        revoked INTEGER NOT NULL DEFAULT 0\(times)) WITHOUT ROWID;
                    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                    INSERT INTO counters VALUES ('worker', 5);
                    INSERT INTO versions VALUES ('acme', 'hello', 3, 'c0de', 42, 'function: hello', 30);
                    INSERT INTO numbers VALUES ('acme', 'hello', 3);
                    INSERT INTO keys VALUES ('k-live', 'acme', x'\(live.hash)', 'invoke,admin', 10, 0\(rest)),
                        ('k-dead', 'beta', x'\(dead.hash)', 'invoke', 20, 1\(rest));
                    PRAGMA user_version = \(schema);
                    """)
        }
        try old.close()
        try Self.breakOff(path, at: "alias_steps") { _ = try StateStore(path: path) }
        for _ in 0..<2 {
            let store = try StateStore(path: path)
            let records = try store.keys().map(\.record)
            #expect(records.map(\.id) == ["k-live", "k-dead"] && records.map(\.isRevoked) == [false, true])
            #expect(records.map(\.expiresAt) == (schema == 1 ? [nil, nil] : [900, 900]))
            #expect(records.map(\.lastUsedAt) == (schema == 1 ? [nil, nil] : [800, 800]))
            var ring = KeyRing(try store.keys())
            #expect(ring.record(live.text, at: 100)?.scopes == ["invoke", "admin"] && ring.record(dead.text, at: 100) == nil)
            #expect(try ring.hasKeys(#require(Name("beta"))), "a revoked key still shuts out who has none")
            let version = try #require(try store.versions().first)
            #expect(
                version.version.number == 3 && version.codeHash == "c0de" && version.codeBytes == 42
                    && version.manifest == "function: hello" && version.createdAt == 30)
        }
    }

    /// What ends before its last step, with which a table of that name is in the way, has changed nothing: whoever is killed half way opens the same state again.
    private static func breakOff(_ path: String, at last: String, _ open: () throws -> Void) throws {
        func shape() throws -> [String] {
            let queue = try DatabaseQueue(path: path)
            defer { try? queue.close() }
            return try queue.read {
                try String.fetchAll($0, sql: "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name") + [
                    String(try Int.fetchOne($0, sql: "PRAGMA user_version") ?? -1)
                ]
            }
        }
        func execute(_ sql: String) throws {
            let queue = try DatabaseQueue(path: path)
            try queue.write { try $0.execute(sql: sql) }
            try queue.close()
        }
        let before = try shape()
        try execute("CREATE TABLE \(last) (x)")
        #expect(throws: StoreError.self) { try open() }
        try execute("DROP TABLE \(last)")
        #expect(try shape() == before)
    }

    /// A key, and the hexadecimal of its hash, which has been the same in every release.
    private static func key(_ tenant: String) throws -> (text: String, hash: String) {
        let folder = try EventFolder(), store = try StateStore(path: folder.path + "/keys.sqlite")
        let text = try store.createKey(tenant: #require(Name(tenant)), scopes: [], at: 0).key
        return (text, try #require(store.keys().first).hash.map { String(format: "%02x", $0) }.joined())
    }

    /// Schema 1 as it was before an event could have an end user, as it was afterwards, and the present one.
    enum Shape: String, CaseIterable { case withoutUsers, withUsers, present }

    @Test("events of every older schema are all there, in every state, with payloads, keys and outcomes", arguments: Shape.allCases)
    func events(shape: Shape) throws {
        let folder = try EventFolder(), expected = try Self.fill(folder, users: shape != .withoutUsers)
        if shape != .present {
            try Self.age(folder, users: shape == .withUsers)
            try Self.breakOff(folder.path + "/events.sqlite", at: "destinations_owner") { try folder.open().close() }
        }
        for _ in 0..<2 {
            let store = try folder.open(at: Fixture.base + 1_000)
            defer { store.close() }
            #expect(try Self.seen(store) == expected)
            #expect(try store.imbalance() == nil)
        }
        let store = try folder.open(at: Fixture.base + 1_000)
        defer { store.close() }
        // And they are alive: a key is remembered, new events have users, and what waits is handed out.
        var again = Fixture.draft(90)
        again.key = "once"
        #expect(try store.add(again).isDuplicate)
        var new = Fixture.draft(91)
        new.user = "eve"
        try store.add(new)
        let leases = try store.take(at: Fixture.base + 2_000).leases
        #expect(Set(leases.map(\.id)) == Set([Fixture.id(0), Fixture.id(1), Fixture.id(7), Fixture.id(91)]))
        #expect(leases.first { $0.id == Fixture.id(91) }?.event.user == "eve")
    }

    /// Everything that a store tells, in one order.
    private static func seen(_ store: EventStore) throws -> [String] {
        try store.all().map { event in
            let payload = try #require(try store.payload(event.id, of: event.function.tenant)).bytes()
            return "\(event) \(payload.count) \(payload.reduce(0) { $0 &* 31 &+ Int($1) })"
        } + store.destinations().map { "\($0)" } + ["\(try store.counts().received)"]
    }

    /// One event of each kind; what a present store tells of them after a start.
    private static func fill(_ folder: EventFolder, users: Bool) throws -> [String] {
        let store = try folder.open()
        for number in 0..<8 {
            // The last is too large for a row.
            var draft = Fixture.draft(number, payload: [UInt8](repeating: UInt8(number), count: number == 7 ? 100_000 : 10))
            draft.destination = number == 3 ? Array("webhook:x".utf8) : []
            draft.lineage = [1, 2, UInt8(number)]
            draft.key = number == 0 ? "once" : nil
            draft.user = users ? "user \(number)" : nil
            draft.trigger = "orders"
            // One that waits for another time, and one that the governor holds.
            if number == 5 { draft.notBefore = Fixture.base + 60_000 }
            if number == 6 { draft.parked = "loop" }
            try store.add(draft)
        }
        let leases = Dictionary(uniqueKeysWithValues: try store.take().leases.map { ($0.id, $0.token) })
        func token(_ number: Int) throws -> UInt64 { try #require(leases[Fixture.id(number)]) }
        // 0 ran once, 1 stays handed out, 2 is done, 3 dead with an outcome to tell, 4 stopped, 7 given back.
        try store.end(Fixture.id(0), token(0), .retry(.functionError, afterMs: 0, reason: "no", result: []))
        try store.end(Fixture.id(2), token(2), .done(result: []))
        try store.end(Fixture.id(3), token(3), .dead(reason: "poison", result: [9]))
        _ = try store.wait { store.stop(Fixture.id(4), of: Fixture.tenants[0], reason: "enough", at: Fixture.base, completion: $0) }
        try store.end(Fixture.id(7), token(7), .release)
        store.close()
        let again = try folder.open(at: Fixture.base + 1_000)
        defer { again.close() }
        let found = try seen(again)
        #expect(found.count == 8 + 1 + 1)
        return found
    }

    /// Writes the same rows into tables as the first release made them.
    private static func age(_ folder: EventFolder, users: Bool) throws {
        let (present, older) = (folder.path + "/events.sqlite", folder.path + "/older.sqlite")
        let queue = try DatabaseQueue(path: present)
        try queue.writeWithoutTransaction { database in
            try database.execute(sql: "ATTACH '\(older)' AS older")
            let user = users ? ", user TEXT" : ""
            try database.execute(sql: schema1.replacingOccurrences(of: "payload BLOB", with: "payload BLOB\(user)"))
            for table in ["events", "bodies", "keys", "destinations", "counts", "counters"] {
                let columns = try database.columns(in: table, in: "older").map(\.name).joined(separator: ", ")
                try database.execute(
                    sql: "DELETE FROM older.\(table); INSERT INTO older.\(table) (\(columns)) SELECT \(columns) FROM main.\(table)")
            }
        }
        try queue.close()
        for end in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: present + end) }
        try FileManager.default.moveItem(atPath: older, toPath: present)
    }

    /// Of the commit that first kept events.
    private static let schema1 = """
        CREATE TABLE older.events (
            id BLOB PRIMARY KEY, state INTEGER NOT NULL, tenant TEXT NOT NULL, function TEXT NOT NULL, class INTEGER NOT NULL,
            due INTEGER NOT NULL, ends INTEGER, token INTEGER NOT NULL, attempts INTEGER NOT NULL, crashes INTEGER NOT NULL,
            deliveries INTEGER NOT NULL, postponements INTEGER NOT NULL, max_attempts INTEGER NOT NULL, max_age INTEGER NOT NULL,
            expires INTEGER NOT NULL, created INTEGER NOT NULL, reason TEXT, body INTEGER NOT NULL) WITHOUT ROWID;
        CREATE INDEX older.events_queue ON events (state, tenant, class, due);
        CREATE INDEX older.events_ends ON events (ends) WHERE ends IS NOT NULL;
        CREATE TABLE older.bodies (
            number INTEGER PRIMARY KEY, target TEXT NOT NULL, source TEXT NOT NULL, content_type TEXT NOT NULL, idempotency TEXT,
            lineage BLOB NOT NULL, destination BLOB NOT NULL, bytes INTEGER NOT NULL, file TEXT, hash BLOB, payload BLOB);
        CREATE INDEX older.bodies_file ON bodies (file) WHERE file IS NOT NULL;
        CREATE TABLE older.keys (
            tenant TEXT NOT NULL, function TEXT NOT NULL, key TEXT NOT NULL, id BLOB NOT NULL, until INTEGER NOT NULL,
            PRIMARY KEY (tenant, function, key)) WITHOUT ROWID;
        CREATE INDEX older.keys_until ON keys (until);
        CREATE TABLE older.destinations (
            number INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL, tenant TEXT NOT NULL, function TEXT NOT NULL,
            destination BLOB NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL, reason TEXT, result BLOB NOT NULL, at INTEGER NOT NULL);
        CREATE INDEX older.destinations_event ON destinations (event);
        CREATE TABLE older.counts (state INTEGER PRIMARY KEY, kept INTEGER NOT NULL, removed INTEGER NOT NULL);
        CREATE TABLE older.counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
        PRAGMA older.user_version = 1;
        """
}
