// SPDX-License-Identifier: Apache-2.0
public import Core
import Crypto
import Foundation
import GRDB

/// One deployed version, as it is kept.
public struct VersionRecord: Hashable, Sendable {
    public var version: VersionID
    public var codeHash: String
    public var codeBytes: UInt64
    /// The manifest as it was uploaded.
    public var manifest: String
    /// Milliseconds since 1970.
    public var createdAt: UInt64
}

/// An API key without its secret.
public struct KeyRecord: Hashable, Sendable {
    public var id: String
    public var tenant: Name
    public var scopes: [String]
    public var createdAt: UInt64
    public var isRevoked: Bool
    /// When it stops to be valid after a rotation, in milliseconds since 1970; nil for never.
    public var expiresAt: UInt64?
    public var lastUsedAt: UInt64?
}

/// Functions, versions and keys in SQLite. One writer; every call may block for a disk and belongs on no event loop.
public final class StateStore: Sendable {
    let database: DatabaseQueue
    static let schemaVersion = 3

    /// Opens or creates `path`. Throws a sentence where the file is damaged, of a newer release, or not writable.
    public init(path: String) throws(StoreError) {
        do {
            var configuration = Configuration()
            configuration.busyMode = .timeout(5)
            configuration.prepareDatabase { database in
                try database.execute(sql: "PRAGMA journal_mode = WAL")
                try SortSpace.inMemory(database)
                try database.execute(sql: "PRAGMA synchronous = FULL")
                guard try Int.fetchOne(database, sql: "PRAGMA synchronous") == 2 else {
                    throw StoreError("SQLite does not keep synchronous=FULL")
                }
            }
            database = try DatabaseQueue(path: path, configuration: configuration)
            try database.write { database in
                let found = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
                guard found <= Self.schemaVersion else {
                    throw StoreError(
                        "\(path) was written by a newer release (schema \(found), this one knows \(Self.schemaVersion)): install that release again, or use another state directory"
                    )
                }
                if found == 0 { try Self.create(database) }
                if found == 1 { try Self.addKeyTimes(database) }
                if found < 3 { try Self.addAliases(database) }
                // A write that changes something: a read-only directory or a full disk shows here and not at the first deploy.
                try database.execute(sql: "UPDATE counters SET value = value WHERE name = 'worker'")
            }
        } catch let error as StoreError {
            throw error
        } catch {
            throw StoreError(
                "the state \(path) cannot be opened: \(error). Check that the directory is writable, that the disk has room and that the file is whole"
            )
        }
    }

    private static func create(_ database: Database) throws {
        try database.execute(
            sql: """
                CREATE TABLE versions (
                    tenant TEXT NOT NULL, function TEXT NOT NULL, number INTEGER NOT NULL, code TEXT NOT NULL, bytes INTEGER NOT NULL,
                    manifest TEXT NOT NULL, created INTEGER NOT NULL, PRIMARY KEY (tenant, function, number)) WITHOUT ROWID;
                CREATE TABLE numbers (tenant TEXT NOT NULL, function TEXT NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (tenant, function)) WITHOUT ROWID;
                CREATE TABLE keys (
                    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, hash BLOB NOT NULL, scopes TEXT NOT NULL, created INTEGER NOT NULL,
                    revoked INTEGER NOT NULL DEFAULT 0, expires INTEGER, used INTEGER) WITHOUT ROWID;
                CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                INSERT INTO counters VALUES ('worker', 1);
                """)
    }

    func write<T>(_ what: String, _ body: (Database) throws -> T) throws(StoreError) -> T {
        do { return try database.write(body) } catch let error as StoreError { throw error } catch {
            throw StoreError("\(what) failed: \(error). Nothing was changed")
        }
    }

    // MARK: workers

    /// Worker numbers that no earlier run has used: the first of a block of `count`.
    public func reserveWorkers(_ count: UInt64) throws(StoreError) -> UInt64 {
        try write("reserving worker numbers") { database in
            let first = try Int64.fetchOne(database, sql: "SELECT value FROM counters WHERE name = 'worker'") ?? 1
            try database.execute(sql: "UPDATE counters SET value = ? WHERE name = 'worker'", arguments: [first + Int64(count)])
            return UInt64(first)
        }
    }

    // MARK: versions

    /// Adds the next version of a function and moves `latest` to it. Numbers begin at 1 and are never given twice, also not after
    /// a deletion.
    public func addVersion(_ function: FunctionID, codeHash: String, codeBytes: UInt64, manifest: String, at: UInt64) throws(StoreError)
        -> VersionRecord
    {
        try write("the deploy of \(function)") { database in
            let keys = [function.tenant.text, function.function.text]
            let last =
                try Int64.fetchOne(
                    database, sql: "SELECT last FROM numbers WHERE tenant = ? AND function = ?", arguments: StatementArguments(keys)) ?? 0
            try database.execute(
                sql: "INSERT INTO numbers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last",
                arguments: [keys[0], keys[1], last + 1])
            try database.execute(
                sql: "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)",
                arguments: [keys[0], keys[1], last + 1, codeHash, Int64(codeBytes), manifest, Int64(at)])
            let latest = AliasSpec(name: .latest, primary: UInt32(last + 1), isAutomatic: false)
            try Self.move(latest, function, AliasChange(cause: .deploy, at: at), database)
            return VersionRecord(
                version: VersionID(function: function, number: UInt32(last + 1)), codeHash: codeHash, codeBytes: codeBytes,
                manifest: manifest,
                createdAt: at)
        }
    }

    /// Every version, ordered by tenant, function and number.
    public func versions() throws(StoreError) -> [VersionRecord] {
        do {
            return try database.read { database in
                try Row.fetchAll(database, sql: "SELECT * FROM versions ORDER BY tenant, function, number").compactMap { row in
                    guard let tenant = Name(row["tenant"] as String), let function = Name(row["function"] as String) else { return nil }
                    let number: Int64 = row["number"], bytes: Int64 = row["bytes"], created: Int64 = row["created"]
                    return VersionRecord(
                        version: VersionID(function: FunctionID(tenant: tenant, function: function), number: UInt32(number)),
                        codeHash: row["code"], codeBytes: UInt64(bytes), manifest: row["manifest"], createdAt: UInt64(created))
                }
            }
        } catch { throw StoreError("the versions cannot be read: \(error)") }
    }

    /// Removes a function with all its versions and aliases; false where there is none.
    public func removeFunction(_ function: FunctionID) throws(StoreError) -> Bool {
        try write("the removal of \(function)") { database in
            for table in ["aliases", "alias_steps"] {
                let sql = "DELETE FROM \(table) WHERE tenant = ? AND function = ?"
                try database.execute(sql: sql, arguments: [function.tenant.text, function.function.text])
            }
            try database.execute(
                sql: "DELETE FROM versions WHERE tenant = ? AND function = ?", arguments: [function.tenant.text, function.function.text])
            return database.changesCount > 0
        }
    }

    /// Schema 2: keys that expire after a rotation, and when each was used last.
    private static func addKeyTimes(_ database: Database) throws {
        try database.execute(
            sql: "ALTER TABLE keys ADD COLUMN expires INTEGER; ALTER TABLE keys ADD COLUMN used INTEGER; PRAGMA user_version = 2;")
    }

    // MARK: keys

    /// Makes a key. The key itself is returned once and never kept; only its SHA-256 is.
    public func createKey(tenant: Name, scopes: [String], at: UInt64) throws(StoreError) -> (record: KeyRecord, key: String) {
        let made = Self.newKey(tenant, scopes, at)
        try write("the creation of a key") { try Self.insert(made, $0) }
        return made
    }

    /// Makes a key with the scopes of another, which is valid until `oldUntil` (milliseconds since 1970); nil where there is no such valid key.
    public func rotateKey(_ id: String, tenant: Name, at: UInt64, oldUntil: UInt64) throws(StoreError) -> (record: KeyRecord, key: String)?
    {
        try write("the rotation of \(id)") { database in
            guard
                let scopes = try String.fetchOne(
                    database,
                    sql: "SELECT scopes FROM keys WHERE id = ? AND tenant = ? AND revoked = 0 AND (expires IS NULL OR expires > ?)",
                    arguments: [id, tenant.text, Int64(at)])
            else { return nil }
            let made = Self.newKey(tenant, scopes.split(separator: ",").map(String.init), at)
            try Self.insert(made, database)
            try database.execute(sql: "UPDATE keys SET expires = ? WHERE id = ?", arguments: [Int64(clamping: oldUntil), id])
            return made
        }
    }

    /// When keys were used last, in milliseconds since 1970.
    public func noteUses(_ uses: [String: UInt64]) throws(StoreError) {
        try write("the uses of keys") { database in
            for (id, time) in uses {
                try database.execute(sql: "UPDATE keys SET used = ? WHERE id = ?", arguments: [Int64(clamping: time), id])
            }
        }
    }

    private static func newKey(_ tenant: Name, _ scopes: [String], _ at: UInt64) -> (record: KeyRecord, key: String) {
        var generator = SystemRandomNumberGenerator()
        func hex(_ count: Int) -> String {
            (0..<count).map { _ in String(UInt8.random(in: 0...15, using: &generator), radix: 16) }.joined()
        }
        let id = "k-" + hex(12)
        let key = "bh_\(id.dropFirst(2))_\(hex(48))"
        return (KeyRecord(id: id, tenant: tenant, scopes: scopes, createdAt: at, isRevoked: false), key)
    }

    /// Revoked and expired keys of a tenant that are kept, the newest.
    static let deadKeysKept = 1000

    private static func insert(_ made: (record: KeyRecord, key: String), _ database: Database) throws {
        try database.execute(
            sql: "INSERT INTO keys (id, tenant, hash, scopes, created) VALUES (?, ?, ?, ?, ?)",
            arguments: [
                made.record.id, made.record.tenant.text, Data(SHA256.hash(data: Data(made.key.utf8))),
                made.record.scopes.joined(separator: ","), Int64(made.record.createdAt),
            ])
        // Keys that are good for nothing any more are kept as a record, not for ever.
        try database.execute(
            sql: """
                DELETE FROM keys WHERE tenant = ?1 AND (revoked = 1 OR expires <= ?2) AND id NOT IN
                (SELECT id FROM keys WHERE tenant = ?1 AND (revoked = 1 OR expires <= ?2) ORDER BY created DESC, id LIMIT \(deadKeysKept))
                """, arguments: [made.record.tenant.text, Int64(made.record.createdAt)])
    }

    /// Every key with its hash, for ``KeyRing``; the oldest first.
    ///
    /// - Parameter tenant: whose; nil for all.
    public func keys(of tenant: Name? = nil) throws(StoreError) -> [(record: KeyRecord, hash: [UInt8])] {
        do {
            let found: [(record: KeyRecord, hash: [UInt8])] = try database.read { database in
                let rows =
                    try tenant.map { try Row.fetchAll(database, sql: "SELECT * FROM keys WHERE tenant = ?", arguments: [$0.text]) }
                    ?? Row.fetchAll(database, sql: "SELECT * FROM keys")
                return rows.compactMap { row in
                    guard let tenant = Name(row["tenant"] as String) else { return nil }
                    let created: Int64 = row["created"], revoked: Int64 = row["revoked"], hash: Data = row["hash"],
                        scopes: String = row["scopes"]
                    let record = KeyRecord(
                        id: row["id"], tenant: tenant, scopes: scopes.split(separator: ",").map(String.init), createdAt: UInt64(created),
                        isRevoked: revoked != 0, expiresAt: (row["expires"] as Int64?).map { UInt64($0) },
                        lastUsedAt: (row["used"] as Int64?).map { UInt64($0) })
                    return (record, Array(hash))
                }
            }
            return found.sorted { ($0.record.createdAt, $0.record.id) < ($1.record.createdAt, $1.record.id) }
        } catch { throw StoreError("the keys cannot be read: \(error)") }
    }

    /// Revokes a key of the tenant for good; false where there is none.
    public func revokeKey(_ id: String, tenant: Name) throws(StoreError) -> Bool {
        try write("the revocation of \(id)") { database in
            try database.execute(sql: "UPDATE keys SET revoked = 1 WHERE id = ? AND tenant = ?", arguments: [id, tenant.text])
            return database.changesCount > 0
        }
    }
}

/// The keys that are valid now, in memory: a request is judged without a disk.
public struct KeyRing: Sendable {
    private var byHash: [[UInt8]: KeyRecord] = [:]
    /// How many valid keys each tenant has that ever had one.
    private var counts: [Name: Int] = [:]
    private var uses: [String: UInt64] = [:]

    /// The most valid keys of a tenant: one for each of its own users is meant to be possible.
    public static let limit = 10_000

    public init(_ keys: [(record: KeyRecord, hash: [UInt8])]) { insert(keys) }

    /// The keys of one tenant are these from now on. The others' stay as they are here: what became of one of them a moment ago may not be on the disk yet, or never come there.
    public mutating func replace(_ tenant: Name, _ keys: [(record: KeyRecord, hash: [UInt8])]) {
        byHash = byHash.filter { $0.value.tenant != tenant }
        counts[tenant] = nil
        insert(keys)
    }

    private mutating func insert(_ keys: [(record: KeyRecord, hash: [UInt8])]) {
        for (record, hash) in keys {
            // A revoked key still shows that the tenant has begun to use keys: calls without one stay refused.
            counts[record.tenant, default: 0] += record.isRevoked ? 0 : 1
            if !record.isRevoked { byHash[hash] = record }
        }
    }

    public func hasKeys(_ tenant: Name) -> Bool { counts[tenant] != nil }

    /// Whether the tenant may have one more; what has expired makes room.
    /// - Parameter now: milliseconds since 1970.
    public mutating func hasRoom(_ tenant: Name, at now: UInt64) -> Bool {
        guard counts[tenant, default: 0] >= Self.limit else { return true }
        byHash = byHash.filter { $0.value.tenant != tenant || ($0.value.expiresAt ?? .max) > now }
        counts[tenant] = byHash.values.count { $0.tenant == tenant }
        return counts[tenant, default: 0] < Self.limit
    }

    public mutating func add(_ record: KeyRecord, _ key: String) {
        counts[record.tenant, default: 0] += 1
        byHash[Array(SHA256.hash(data: Data(key.utf8)))] = record
    }

    /// The key is good for nothing from now on, whatever becomes of the disk's word.
    public mutating func revoke(_ id: String, _ tenant: Name) {
        guard let hash = hash(id, tenant) else { return }
        byHash[hash] = nil
        counts[tenant, default: 1] -= 1
    }

    /// The key is good until then: milliseconds since 1970.
    public mutating func end(_ id: String, _ tenant: Name, at end: UInt64) {
        if let hash = hash(id, tenant) { byHash[hash]?.expiresAt = end }
    }

    private func hash(_ id: String, _ tenant: Name) -> [UInt8]? { byHash.first { $0.value.id == id && $0.value.tenant == tenant }?.key }

    /// The key's record, or nil. Looked up by its SHA-256, so that the time says nothing about how much of a guess was right.
    /// - Parameter now: milliseconds since 1970; the use is noted where it is given.
    public mutating func record(_ key: String, at now: UInt64? = nil) -> KeyRecord? {
        guard let record = byHash[Array(SHA256.hash(data: Data(key.utf8)))] else { return nil }
        guard let now else { return record }
        if let end = record.expiresAt, end <= now { return nil }
        uses[record.id] = now
        return record
    }

    /// When keys were used since the last call of this.
    public mutating func takeUses() -> [String: UInt64] {
        defer { uses = [:] }
        return uses
    }
}
