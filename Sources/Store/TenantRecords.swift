// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import GRDB

/// What the state's database knows of one tenant, as `tenant.json` of an exported one. Names of functions are without their tenant's, so that it may get another name.
public struct TenantRecords: Codable, Hashable, Sendable {
    public struct Function: Codable, Hashable, Sendable {
        public var function: String
        /// The number that was given last.
        public var last: UInt32
    }
    public struct Version: Codable, Hashable, Sendable {
        public var function: String
        public var number: UInt32
        public var code: String
        public var bytes: UInt64
        public var manifest: String
        /// Milliseconds since 1970, as all times here.
        public var created: UInt64
    }
    /// One state that an alias has had.
    public struct Step: Codable, Hashable, Sendable {
        public var function: String
        public var alias: String
        public var step: UInt64
        public var parent: UInt64?
        public var version: UInt32
        public var canary: UInt32?
        public var weight: UInt32?
        public var automatic: Bool
        public var cause: String
        public var reason: String
        public var at: UInt64
        public var isPresent: Bool
    }
    public struct Key: Codable, Hashable, Sendable {
        public var id: String
        /// SHA-256, hexadecimal.
        public var hash: String
        public var scopes: [String]
        public var created: UInt64
        public var revoked: Bool
        public var expires: UInt64?
    }
    public var functions: [Function] = []
    public var versions: [Version] = []
    public var steps: [Step] = []
    public var keys: [Key] = []
    public init() {}

    /// The hashes of the code that the versions need, sorted.
    public var codeHashes: [String] { Set(versions.map(\.code)).sorted() }

    /// What is wrong with it, as a sentence; nil for nothing. What comes in an archive may have been written by anybody.
    public var objection: String? {
        let last = Dictionary(functions.map { ($0.function, $0.last) }, uniquingKeysWith: max)
        guard last.count == functions.count, functions.allSatisfy({ Name($0.function) != nil && $0.last > 0 }) else {
            return "a function's name is wrong or there twice"
        }
        for version in versions {
            guard version.number > 0, version.number <= last[version.function] ?? 0, Self.isHex(version.code, 64),
                version.created <= UInt64(Int64.max), version.bytes <= UInt64(Int64.max), version.manifest.utf8.count <= 256 << 10
            else { return "version \(version.number) of a function is impossible" }
        }
        let known = Set(versions.map { "\($0.function)@\($0.number)" })
        guard known.count == versions.count else { return "a version is there twice" }
        var numbers: Set<UInt64> = []
        for step in steps {
            guard last[step.function] != nil, Name(step.alias) != nil, AliasCause(rawValue: step.cause) != nil, step.version > 0,
                step.reason.utf8.count <= 4096, step.at <= UInt64(Int64.max), (step.canary == nil) == (step.weight == nil),
                step.weight ?? 1 > 0, step.weight ?? 1 < AliasSpec.whole, numbers.insert(step.step).inserted
            else { return "a step of an alias is impossible" }
            let named = [step.version, step.canary].compactMap { $0 }
            guard !step.isPresent || named.allSatisfy({ known.contains("\(step.function)@\($0)") }) else {
                return "an alias names a version that is not there"
            }
        }
        let present = steps.filter(\.isPresent).map { "\($0.function):\($0.alias)" }
        guard Set(present).count == present.count, Set(versions.map(\.function)).allSatisfy({ present.contains("\($0):latest") }) else {
            return "a function has no latest, or an alias twice"
        }
        let scopes: Set = ["invoke", "deploy", "admin"]
        guard
            keys.allSatisfy({
                Self.isHex($0.hash, 64) && !$0.scopes.isEmpty && scopes.isSuperset(of: $0.scopes) && $0.id.hasPrefix("k-")
                    && Self.isHex(String($0.id.dropFirst(2)), 12) && max($0.created, $0.expires ?? 0) <= UInt64(Int64.max)
            }), Set(keys.map(\.id)).count == keys.count
        else { return "a key is impossible" }
        return nil
    }

    static func isHex(_ text: String, _ count: Int) -> Bool {
        text.utf8.count == count && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
    }
}

extension StateStore {
    /// All that is kept of a tenant, as of one moment.
    public func records(of tenant: Name) throws(StoreError) -> TenantRecords {
        do {
            return try database.read { database in
                var records = TenantRecords()
                func rows(_ sql: String) throws -> [Row] { try Row.fetchAll(database, sql: sql, arguments: [tenant.text]) }
                records.versions = try rows("SELECT * FROM versions WHERE tenant = ? ORDER BY function, number").map { row in
                    TenantRecords.Version(
                        function: row["function"], number: UInt32(row["number"] as Int64), code: row["code"],
                        bytes: UInt64(row["bytes"] as Int64), manifest: row["manifest"], created: UInt64(row["created"] as Int64))
                }
                let kept = Set(records.versions.map(\.function))
                records.functions = try rows("SELECT function, last FROM numbers WHERE tenant = ? ORDER BY function").map { row in
                    TenantRecords.Function(function: row["function"], last: UInt32(row["last"] as Int64))
                }.filter { kept.contains($0.function) }
                records.steps = try rows(
                    """
                    SELECT s.*, a.step AS present FROM alias_steps s JOIN aliases a USING (tenant, function, name)
                    WHERE s.tenant = ? ORDER BY s.step
                    """
                ).map(Self.step).filter { kept.contains($0.function) }
                records.keys = try rows("SELECT * FROM keys WHERE tenant = ? ORDER BY created, id").map { row in
                    TenantRecords.Key(
                        id: row["id"], hash: (row["hash"] as Data).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(),
                        scopes: (row["scopes"] as String).split(separator: ",").map(String.init), created: UInt64(row["created"] as Int64),
                        revoked: (row["revoked"] as Int64) != 0, expires: (row["expires"] as Int64?).map { UInt64(max(0, $0)) })
                }
                return records
            }
        } catch { throw StoreError("the records of \(tenant) cannot be read: \(error)") }
    }

    private static func step(_ row: Row) -> TenantRecords.Step {
        TenantRecords.Step(
            function: row["function"], alias: row["name"], step: UInt64(row["step"] as Int64),
            parent: (row["parent"] as Int64?).map { UInt64($0) }, version: UInt32(row["version"] as Int64),
            canary: (row["canary"] as Int64?).map { UInt32($0) }, weight: (row["weight"] as Int64?).map { UInt32($0) },
            automatic: (row["automatic"] as Int64) != 0, cause: row["cause"], reason: row["reason"], at: UInt64(row["at"] as Int64),
            isPresent: (row["present"] as Int64) == (row["step"] as Int64))
    }

    /// Whether anything is kept under a name: functions, also removed ones, whose numbers are never given again, and keys.
    public func hasRecords(of tenant: Name) throws(StoreError) -> Bool {
        do {
            return try database.read { database in
                try Bool.fetchOne(
                    database,
                    sql: "SELECT EXISTS (SELECT 1 FROM numbers WHERE tenant = ?1) OR EXISTS (SELECT 1 FROM keys WHERE tenant = ?1)",
                    arguments: [tenant.text]) ?? false
            }
        } catch { throw StoreError("the records of \(tenant) cannot be read: \(error)") }
    }

    /// Takes all of it in, under a name that has nothing yet. A key that this node knows already stays with its tenant: here it becomes one that is revoked, so that the tenant still
    /// counts as one whose callers need a key.
    ///
    /// - Returns: how many keys were left out so.
    public func add(_ records: TenantRecords, as tenant: Name) throws(StoreError) -> Int {
        if let objection = records.objection { throw StoreError("the records are refused: \(objection)") }
        guard try !hasRecords(of: tenant) else { throw StoreError("there are records of \(tenant) already") }
        return try write("the import of \(tenant)") { database in
            for function in records.functions {
                try database.execute(
                    sql: "INSERT INTO numbers VALUES (?, ?, ?)", arguments: [tenant.text, function.function, Int64(function.last)])
            }
            for version in records.versions {
                try database.execute(
                    sql: "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)",
                    arguments: [
                        tenant.text, version.function, Int64(version.number), version.code, Int64(version.bytes), version.manifest,
                        Int64(version.created),
                    ])
            }
            try Self.add(records.steps, tenant, database)
            return try Self.add(records.keys, tenant, database)
        }
    }

    /// Steps get numbers of this node, in the same order.
    private static func add(_ steps: [TenantRecords.Step], _ tenant: Name, _ database: Database) throws {
        let first = (try Int64.fetchOne(database, sql: "SELECT value FROM counters WHERE name = 'step'") ?? 0) + 1
        let ordered = steps.sorted { $0.step < $1.step }
        let numbers = Dictionary(uniqueKeysWithValues: ordered.enumerated().map { ($1.step, first + Int64($0)) })
        for step in ordered {
            guard let number = numbers[step.step] else { continue }
            // A parent that is no longer kept is the end of the way back, as it was.
            try database.execute(
                sql: "INSERT INTO alias_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                arguments: [
                    tenant.text, step.function, step.alias, number, step.parent.flatMap { numbers[$0] }.flatMap { $0 < number ? $0 : nil },
                    Int64(step.version), step.canary.map { Int64($0) }, step.weight.map { Int64($0) }, step.automatic ? 1 : 0, step.cause,
                    step.reason, Int64(step.at),
                ])
            if step.isPresent {
                try database.execute(
                    sql: "INSERT INTO aliases VALUES (?, ?, ?, ?)", arguments: [tenant.text, step.function, step.alias, number])
            }
        }
        try database.execute(sql: "UPDATE counters SET value = ? WHERE name = 'step'", arguments: [first - 1 + Int64(ordered.count)])
    }

    private static func add(_ keys: [TenantRecords.Key], _ tenant: Name, _ database: Database) throws -> Int {
        var leftOut = 0
        for key in keys {
            var hash = bytes(key.hash), id = key.id, revoked = key.revoked
            let isKnown = try Bool.fetchOne(
                database, sql: "SELECT EXISTS (SELECT 1 FROM keys WHERE id = ? OR hash = ?)", arguments: [id, hash])
            if isKnown == true {
                leftOut += revoked ? 0 : 1
                var generator = SystemRandomNumberGenerator()
                hash = Data((0..<32).map { _ in UInt8.random(in: 0...255, using: &generator) })
                id = "k-" + (0..<12).map { _ in String(UInt8.random(in: 0...15, using: &generator), radix: 16) }.joined()
                revoked = true
            }
            try database.execute(
                sql: "INSERT INTO keys (id, tenant, hash, scopes, created, revoked, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
                arguments: [
                    id, tenant.text, hash, key.scopes.joined(separator: ","), Int64(key.created), revoked ? 1 : 0,
                    key.expires.map { Int64($0) },
                ])
        }
        return leftOut
    }

    private static func bytes(_ hex: String) -> Data {
        let digits = Array(hex.utf8).map { $0 < 58 ? $0 - 48 : $0 - 87 }
        return Data(stride(from: 0, to: digits.count - 1, by: 2).map { digits[$0] << 4 | digits[$0 + 1] })
    }

    /// Removes all that is kept of a tenant, as if it had never been.
    public func removeRecords(of tenant: Name) throws(StoreError) {
        try write("the removal of \(tenant)") { database in
            for table in ["aliases", "alias_steps", "versions", "numbers", "keys"] {
                try database.execute(sql: "DELETE FROM \(table) WHERE tenant = ?", arguments: [tenant.text])
            }
        }
    }
}
