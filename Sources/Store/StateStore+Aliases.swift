// SPDX-License-Identifier: Apache-2.0
public import Core
import GRDB

/// Aliases and their history. Every state that an alias has had is a step; a step knows the one that it followed, so that a rollback goes back and back, and not
/// to and fro between the last two.
extension StateStore {
    /// Steps kept for each alias.
    static let stepsKept = 100

    /// Schema 3. A function of an older schema gets its `latest`, with the versions before it as its history.
    static func addAliases(_ database: Database) throws {
        try database.execute(
            sql: """
                CREATE TABLE aliases (
                    tenant TEXT NOT NULL, function TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL,
                    PRIMARY KEY (tenant, function, name)) WITHOUT ROWID;
                CREATE TABLE alias_steps (
                    tenant TEXT NOT NULL, function TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, parent INTEGER,
                    version INTEGER NOT NULL, canary INTEGER, weight INTEGER, automatic INTEGER NOT NULL,
                    cause TEXT NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL,
                    PRIMARY KEY (tenant, function, name, step)) WITHOUT ROWID;
                INSERT INTO counters VALUES ('step', 0);
                """)
        for row in try Row.fetchAll(
            database, sql: "SELECT tenant, function, number, created FROM versions ORDER BY tenant, function, number")
        {
            guard let tenant = Name(row["tenant"] as String), let function = Name(row["function"] as String) else { continue }
            let number: Int64 = row["number"], created: Int64 = row["created"]
            try move(
                AliasSpec(name: .latest, primary: UInt32(number), isAutomatic: false), FunctionID(tenant: tenant, function: function),
                AliasChange(cause: .deploy, at: UInt64(created)), database)
        }
        try database.execute(sql: "PRAGMA user_version = 3")
    }

    // MARK: reading

    /// Every alias, ordered by tenant, function and name.
    public func aliases() throws(StoreError) -> [AliasRecord] { try readAliases("", []) }

    /// The aliases of one function.
    public func aliases(of function: FunctionID) throws(StoreError) -> [AliasRecord] {
        try readAliases("WHERE a.tenant = ? AND a.function = ?", [function.tenant.text, function.function.text])
    }

    private func readAliases(_ condition: String, _ arguments: StatementArguments) throws(StoreError) -> [AliasRecord] {
        do {
            return try database.read { database in
                try Row.fetchAll(
                    database,
                    sql: "SELECT s.* FROM aliases a JOIN alias_steps s USING (tenant, function, name, step) \(condition) ORDER BY 1, 2, 3",
                    arguments: arguments
                ).compactMap { try Self.record($0, database) }
            }
        } catch { throw StoreError("the aliases cannot be read: \(error)") }
    }

    private static func record(_ row: Row, _ database: Database) throws -> AliasRecord? {
        guard let tenant = Name(row["tenant"] as String), let function = Name(row["function"] as String),
            let name = Name(row["name"] as String), let cause = AliasCause(rawValue: row["cause"] as String)
        else { return nil }
        let id = FunctionID(tenant: tenant, function: function)
        let version: Int64 = row["version"], automatic: Int64 = row["automatic"], at: Int64 = row["at"]
        let canary = (row["canary"] as Int64?).flatMap { canary in
            (row["weight"] as Int64?).flatMap { Canary(version: UInt32(canary), weight: UInt32($0)) }
        }
        return AliasRecord(
            function: id, spec: AliasSpec(name: name, primary: UInt32(version), canary: canary, isAutomatic: automatic != 0),
            step: row["step"], change: AliasChange(cause: cause, reason: row["reason"], at: UInt64(at)),
            previous: try before(id, name, row["step"], version, database).map { UInt32($0.version) })
    }

    private static func current(_ function: FunctionID, _ name: Name, _ database: Database) throws -> AliasRecord? {
        try Row.fetchOne(
            database,
            sql: """
                SELECT s.* FROM aliases a JOIN alias_steps s USING (tenant, function, name, step)
                WHERE a.tenant = ? AND a.function = ? AND a.name = ?
                """, arguments: [function.tenant.text, function.function.text, name.text]
        ).flatMap { try record($0, database) }
    }

    /// The nearest step before `step` whose version is another one and still there.
    private static func before(_ function: FunctionID, _ name: Name, _ step: Int64, _ version: Int64, _ database: Database) throws
        -> (step: Int64, version: Int64)?
    {
        let keys = [function.tenant.text, function.function.text]
        var next = try parent(function, name, step, database)
        while let step = next {
            guard
                let row = try Row.fetchOne(
                    database, sql: "SELECT parent, version FROM alias_steps WHERE tenant = ? AND function = ? AND name = ? AND step = ?",
                    arguments: [keys[0], keys[1], name.text, step])
            else { return nil }
            let found: Int64 = row["version"]
            if found != version, try hasVersion(function, UInt32(found), database) { return (step, found) }
            next = row["parent"]
        }
        return nil
    }

    private static func parent(_ function: FunctionID, _ name: Name, _ step: Int64, _ database: Database) throws -> Int64? {
        try Int64.fetchOne(
            database, sql: "SELECT parent FROM alias_steps WHERE tenant = ? AND function = ? AND name = ? AND step = ?",
            arguments: [function.tenant.text, function.function.text, name.text, step])
    }

    private static func hasVersion(_ function: FunctionID, _ number: UInt32, _ database: Database) throws -> Bool {
        try Bool.fetchOne(
            database, sql: "SELECT EXISTS (SELECT 1 FROM versions WHERE tenant = ? AND function = ? AND number = ?)",
            arguments: [function.tenant.text, function.function.text, Int64(number)]) ?? false
    }

    // MARK: moving

    /// Gives an alias its next state. `parent`: the step that a later rollback begins behind; nil for the present one.
    @discardableResult static func move(
        _ spec: AliasSpec, _ function: FunctionID, _ change: AliasChange, parent: Int64?? = .none, _ database: Database
    ) throws -> AliasRecord? {
        let keys = [function.tenant.text, function.function.text, spec.name.text]
        let step = (try Int64.fetchOne(database, sql: "SELECT value FROM counters WHERE name = 'step'") ?? 0) + 1
        try database.execute(sql: "UPDATE counters SET value = ? WHERE name = 'step'", arguments: [step])
        let present = try Int64.fetchOne(
            database, sql: "SELECT step FROM aliases WHERE tenant = ? AND function = ? AND name = ?", arguments: StatementArguments(keys))
        try database.execute(
            sql: "INSERT INTO alias_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            arguments: [
                keys[0], keys[1], keys[2], step, parent ?? present, Int64(spec.primary), spec.canary.map { Int64($0.version) },
                spec.canary.map { Int64($0.weight) }, spec.isAutomatic ? 1 : 0, change.cause.rawValue, change.reason,
                Int64(clamping: change.at),
            ])
        try database.execute(
            sql: "INSERT INTO aliases VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET step = excluded.step",
            arguments: [keys[0], keys[1], keys[2], step])
        try database.execute(
            sql: """
                DELETE FROM alias_steps WHERE tenant = ?1 AND function = ?2 AND name = ?3 AND step <=
                    (SELECT step FROM alias_steps WHERE tenant = ?1 AND function = ?2 AND name = ?3 ORDER BY step DESC LIMIT 1 OFFSET \(stepsKept))
                """, arguments: StatementArguments(keys))
        return try current(function, spec.name, database)
    }

    /// Makes or moves an alias.
    public func setAlias(_ spec: AliasSpec, _ function: FunctionID, at: UInt64) throws(StoreError) -> Result<AliasRecord, AliasFault> {
        try write("the change of alias \(spec.name)") { database in
            guard spec.name != .latest else { return .failure(.isLatest) }
            guard try Self.current(function, .latest, database) != nil else { return .failure(.noFunction) }
            for version in [spec.primary, spec.canary?.version].compactMap({ $0 }) {
                guard try Self.hasVersion(function, version, database) else { return .failure(.noVersion(version)) }
            }
            let change = AliasChange(cause: .set, at: at)
            return try Self.move(spec, function, change, database).map { .success($0) } ?? .failure(.noAlias)
        }
    }

    /// Ends the canary, or goes back to the version before where there is none. Nothing else of the alias's history is lost: a second rollback goes further back.
    public func rollBack(_ name: Name, _ function: FunctionID, at: UInt64) throws(StoreError) -> Result<AliasRecord, AliasFault> {
        try write("the rollback of \(function)") { database in
            guard try Self.current(function, .latest, database) != nil else { return .failure(.noFunction) }
            guard let present = try Self.current(function, name, database) else { return .failure(.noAlias) }
            var spec = present.spec
            if spec.canary != nil {
                spec.canary = nil
                let change = AliasChange(cause: .rollback, reason: "its canary was ended by hand", at: at)
                return try Self.move(spec, function, change, database).map { .success($0) } ?? .failure(.noAlias)
            }
            guard let target = try Self.before(function, name, present.step, Int64(spec.primary), database) else {
                return .failure(.nothingBefore(spec.primary))
            }
            let change = AliasChange(cause: .rollback, reason: "from version \(spec.primary)", at: at)
            spec.primary = UInt32(target.version)
            let parent = try Self.parent(function, name, target.step, database)
            return try Self.move(spec, function, change, parent: .some(parent), database).map { .success($0) } ?? .failure(.noAlias)
        }
    }

    /// Ends a canary that the rule found wanting; nil where the alias was changed since `step`.
    public func endCanary(_ name: Name, _ function: FunctionID, step: Int64, reason: String, at: UInt64) throws(StoreError) -> AliasRecord?
    {
        try write("the end of the canary of \(function):\(name)") { database in
            guard let present = try Self.current(function, name, database), present.step == step else { return nil }
            var spec = present.spec
            spec.canary = nil
            return try Self.move(spec, function, AliasChange(cause: .rule, reason: reason, at: at), database)
        }
    }

    public func removeAlias(_ name: Name, _ function: FunctionID) throws(StoreError) -> AliasFault? {
        try write("the removal of alias \(name)") { database in
            guard name != .latest else { return .isLatest }
            let keys = [function.tenant.text, function.function.text, name.text]
            try database.execute(
                sql: "DELETE FROM aliases WHERE tenant = ? AND function = ? AND name = ?", arguments: StatementArguments(keys))
            guard database.changesCount > 0 else { return .noAlias }
            try database.execute(
                sql: "DELETE FROM alias_steps WHERE tenant = ? AND function = ? AND name = ?", arguments: StatementArguments(keys))
            return nil
        }
    }

    // MARK: versions

    /// Removes one version; the fault says why it stays.
    public func removeVersion(_ version: VersionID) throws(StoreError) -> AliasFault? {
        try write("the removal of \(version)") { database in
            let function = version.function
            guard try Self.hasVersion(function, version.number, database) else { return .noVersion(version.number) }
            let names = try String.fetchAll(
                database,
                sql: """
                    SELECT a.name FROM aliases a JOIN alias_steps s USING (tenant, function, name, step)
                    WHERE a.tenant = ?1 AND a.function = ?2 AND (s.version = ?3 OR s.canary = ?3) ORDER BY a.name
                    """, arguments: [function.tenant.text, function.function.text, Int64(version.number)])
            guard names.isEmpty else { return .inUse(names.compactMap { Name($0) }) }
            try database.execute(
                sql: "DELETE FROM versions WHERE tenant = ? AND function = ? AND number = ?",
                arguments: [function.tenant.text, function.function.text, Int64(version.number)])
            return nil
        }
    }

    /// The hashes of all code that a version uses.
    public func codeHashes() throws(StoreError) -> Set<String> {
        do {
            return try database.read { Set(try String.fetchAll($0, sql: "SELECT DISTINCT code FROM versions")) }
        } catch { throw StoreError("the versions cannot be read: \(error)") }
    }
}
