// SPDX-License-Identifier: Apache-2.0
import Core
import GRDB

/// The folded part of the usage ledger, `usage.sqlite`. What the records add up to, and how far they are counted, change in one transaction.
struct UsageDatabase: Sendable {
    /// The records before this one are counted.
    struct Position: Hashable {
        /// Beyond every slot of a segment.
        static let end = 1 << 40

        var segment: UInt32 = 0
        var slot = 0
    }

    static let schemaVersion = 1
    private let queue: DatabaseQueue

    init(path: String) throws(StoreError) {
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
            queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.write { database in
                let found = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
                guard found <= Self.schemaVersion else {
                    throw StoreError(
                        "\(path) was written by a newer release (schema \(found), this one knows \(Self.schemaVersion)): install that release again, or use another state directory"
                    )
                }
                if found == 0 { try Self.create(database) }
                // A write that changes something: a read-only directory or a full disk shows here.
                try database.execute(sql: "UPDATE position SET segment = segment")
            }
        } catch let error as StoreError {
            throw error
        } catch {
            throw StoreError(
                "the usage ledger \(path) cannot be opened: \(error). Check that the directory is writable, that the disk has room and that the file is whole"
            )
        }
    }

    /// `usage`: sums over `span` seconds from `start` (3600, later 86400). `spent`: what a tenant's budget is restored from, by quarters of an hour.
    private static func create(_ database: Database) throws {
        try database.execute(
            sql: """
                CREATE TABLE position (segment INTEGER NOT NULL, slot INTEGER NOT NULL, clock INTEGER NOT NULL);
                INSERT INTO position VALUES (0, 0, 0);
                CREATE TABLE usage (
                    tenant TEXT NOT NULL, function TEXT NOT NULL, span INTEGER NOT NULL, start INTEGER NOT NULL, invocations INTEGER NOT NULL,
                    errors INTEGER NOT NULL, compute INTEGER NOT NULL, cpu INTEGER NOT NULL, duration INTEGER NOT NULL,
                    PRIMARY KEY (tenant, function, span, start)) WITHOUT ROWID;
                CREATE INDEX usage_start ON usage (span, start);
                CREATE TABLE spent (
                    tenant TEXT NOT NULL, quarter INTEGER NOT NULL, invocations INTEGER NOT NULL, compute INTEGER NOT NULL,
                    PRIMARY KEY (tenant, quarter)) WITHOUT ROWID;
                CREATE TABLE running (
                    high INTEGER NOT NULL, low INTEGER NOT NULL, tenant TEXT NOT NULL, function TEXT NOT NULL, began INTEGER NOT NULL,
                    reserved INTEGER NOT NULL, memory INTEGER NOT NULL, PRIMARY KEY (high, low)) WITHOUT ROWID;
                PRAGMA user_version = \(schemaVersion);
                """)
    }

    private func transaction<T>(_ what: String, _ body: (Database) throws -> T) throws(StoreError) -> T {
        do { return try queue.write(body) } catch {
            throw StoreError(
                "\(what) failed: \(error). Nothing was changed and nothing is lost, the records stay in their files. Check that the disk has room"
            )
        }
    }

    /// How far records are counted, and the latest time that was counted, in milliseconds.
    func position() throws(StoreError) -> (position: Position, clock: UInt64) {
        try transaction("reading the usage ledger") { database in
            guard let row = try Row.fetchOne(database, sql: "SELECT segment, slot, clock FROM position") else {
                throw StoreError("usage.sqlite has lost its position")
            }
            let segment: Int64 = row["segment"], slot: Int64 = row["slot"], clock: Int64 = row["clock"]
            return (Position(segment: UInt32(truncatingIfNeeded: segment), slot: Int(slot)), UInt64(bitPattern: clock))
        }
    }

    /// Counts the records of a batch up to `position`. With `crashedAt`, everything that is still open ended there.
    func fold(_ batch: UsageBatch, to position: Position, crashedAt: UInt64? = nil) throws(StoreError) {
        var batch = batch
        try transaction("counting usage") { database in
            for id in batch.closed {
                try database.execute(
                    sql: "DELETE FROM running WHERE high = ? AND low = ?",
                    arguments: [Int64(bitPattern: id.high), Int64(bitPattern: id.low)])
            }
            for record in batch.open.values { try Self.keep(record, in: database) }
            if let crashedAt {
                for record in try Self.running(database) { batch.count(record.ended(atCrash: crashedAt)) }
                try database.execute(sql: "DELETE FROM running")
            }
            try Self.add(batch, to: database)
            try database.execute(
                sql: "UPDATE position SET segment = ?, slot = ?, clock = max(clock, ?)",
                arguments: [Int64(position.segment), position.slot, Int64(clamping: batch.clock)])
        }
    }

    private static func keep(_ record: UsageRecord, in database: Database) throws {
        try database.execute(
            sql: "INSERT OR REPLACE INTO running VALUES (?, ?, ?, ?, ?, ?, ?)",
            arguments: [
                Int64(bitPattern: record.id.high), Int64(bitPattern: record.id.low), record.function.tenant.text,
                record.function.function.text, Int64(clamping: record.wallMs), Int64(clamping: record.reserved),
                Int64(clamping: record.memoryBytes),
            ])
    }

    private static func running(_ database: Database) throws -> [UsageRecord] {
        try Row.fetchAll(database, sql: "SELECT * FROM running").compactMap { row in
            guard let tenant = Name(row["tenant"] as String), let function = Name(row["function"] as String) else { return nil }
            let high: Int64 = row["high"], low: Int64 = row["low"], began: Int64 = row["began"], reserved: Int64 = row["reserved"],
                memory: Int64 = row["memory"]
            let bits = UInt64(bitPattern: high)
            return UsageRecord(
                kind: .begin,
                id: InvocationID(milliseconds: bits >> 16, random: (UInt16(truncatingIfNeeded: bits), UInt64(bitPattern: low))),
                function: FunctionID(tenant: tenant, function: function), wallMs: UInt64(clamping: began),
                reserved: UInt64(clamping: reserved), memoryBytes: UInt64(clamping: memory))
        }
    }

    private static func add(_ batch: UsageBatch, to database: Database) throws {
        for (key, sum) in batch.hours {
            try database.execute(
                sql: """
                    INSERT INTO usage VALUES (?, ?, 3600, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                        invocations = invocations + excluded.invocations, errors = errors + excluded.errors,
                        compute = compute + excluded.compute, cpu = cpu + excluded.cpu, duration = duration + excluded.duration
                    """,
                arguments: [
                    key.function.tenant.text, key.function.function.text, Int64(key.hour * 3600), Int64(sum.invocations),
                    Int64(sum.errors), Int64(clamping: sum.compute), Int64(clamping: sum.cpuUs), Int64(clamping: sum.durationUs),
                ])
        }
        for (key, sum) in batch.quarters {
            try database.execute(
                sql: """
                    INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                        invocations = invocations + excluded.invocations, compute = compute + excluded.compute
                    """,
                arguments: [key.tenant.text, Int64(key.quarter), Int64(sum.invocations), Int64(clamping: sum.compute)])
        }
    }

    /// What a tenant spent in the quarters that lie in some seconds, begun ones included.
    func spent(_ tenant: Name, _ seconds: Range<Int64>) throws(StoreError) -> UsageSpent {
        try transaction("reading the usage ledger") { database in
            let row = try Row.fetchOne(
                database,
                sql:
                    "SELECT sum(invocations) AS i, sum(compute) AS c FROM spent WHERE tenant = ? AND quarter * 900 < ? AND quarter * 900 + 900 > ?",
                arguments: [tenant.text, seconds.upperBound, seconds.lowerBound])
            let invocations: Int64? = row?["i"], compute: Int64? = row?["c"]
            return UsageSpent(microGBSeconds: UInt64(clamping: compute ?? 0), invocations: UInt64(clamping: invocations ?? 0))
        }
    }

    /// What every tenant spent in some seconds; those that spent nothing are left out.
    func spent(_ seconds: Range<Int64>) throws(StoreError) -> [Name: UsageSpent] {
        try transaction("reading the usage ledger") { database in
            let rows = try Row.fetchAll(
                database,
                sql: """
                    SELECT tenant, sum(invocations) AS i, sum(compute) AS c FROM spent WHERE quarter * 900 < ? AND quarter * 900 + 900 > ?
                    GROUP BY tenant
                    """, arguments: [seconds.upperBound, seconds.lowerBound])
            return Dictionary(
                rows.compactMap { row in
                    let (invocations, compute): (Int64, Int64) = (row["i"], row["c"])
                    return Name(row["tenant"] as String).map {
                        ($0, UsageSpent(microGBSeconds: UInt64(clamping: compute), invocations: UInt64(clamping: invocations)))
                    }
                }, uniquingKeysWith: { first, _ in first })
        }
    }

    func usage(_ query: UsageQuery) throws(StoreError) -> [UsageRow] {
        let start =
            switch query.grouping {
            case .hour: "start"
            case .day: "start / 86400 * 86400"
            case .function, .total: "min(start)"
            }
        let groups =
            switch query.grouping {
            case .hour, .day: "tenant, \(start)"
            case .function: "tenant, function"
            case .total: "tenant"
            }
        let sql = """
            SELECT tenant, \(query.grouping == .function ? "function" : "NULL AS function"), \(start) AS first, sum(invocations) AS invocations,
                sum(errors) AS errors, sum(compute) AS compute, sum(cpu) AS cpu, sum(duration) AS duration
            FROM usage WHERE start + span > ? AND start < ? AND (? IS NULL OR tenant = ?) GROUP BY \(groups) ORDER BY \(groups)
            """
        return try transaction("reading the usage ledger") { database in
            let tenant = query.tenant?.text
            return try Row.fetchAll(
                database, sql: sql, arguments: [query.seconds.lowerBound, query.seconds.upperBound, tenant, tenant]
            ).compactMap(Self.row)
        }
    }

    private static func row(_ row: Row) -> UsageRow? {
        guard let tenant = Name(row["tenant"] as String) else { return nil }
        let function: String? = row["function"]
        let start: Int64 = row["first"], invocations: Int64 = row["invocations"], errors: Int64 = row["errors"],
            compute: Int64 = row["compute"], cpu: Int64 = row["cpu"], duration: Int64 = row["duration"]
        return UsageRow(
            tenant: tenant, function: function.flatMap { Name($0) }, start: start, invocations: UInt64(clamping: invocations),
            errors: UInt64(clamping: errors), microGBSeconds: UInt64(clamping: compute), cpuUs: UInt64(clamping: cpu),
            durationUs: UInt64(clamping: duration))
    }

    /// Merges hours that are old into days of UTC, and forgets days and quarters that nobody asks for.
    func prune(_ retention: UsageRetention, now second: Int64) throws(StoreError) {
        let day: Int64 = 86_400
        func cutoff(_ days: Int) -> Int64 { max(0, second / day - Int64(days)) * day }
        try transaction("merging old usage") { database in
            try database.execute(
                sql: """
                    INSERT INTO usage SELECT tenant, function, 86400, start / 86400 * 86400, sum(invocations), sum(errors), sum(compute), sum(cpu),
                        sum(duration) FROM usage WHERE span = 3600 AND start < ? GROUP BY tenant, function, start / 86400
                        ON CONFLICT DO UPDATE SET invocations = invocations + excluded.invocations, errors = errors + excluded.errors,
                        compute = compute + excluded.compute, cpu = cpu + excluded.cpu, duration = duration + excluded.duration
                    """, arguments: [cutoff(retention.hoursForDays)])
            try database.execute(
                sql: "DELETE FROM usage WHERE span = 3600 AND start < ?", arguments: [cutoff(retention.hoursForDays)])
            try database.execute(sql: "DELETE FROM usage WHERE start < ?", arguments: [cutoff(retention.daysForDays)])
            try database.execute(
                sql: "DELETE FROM spent WHERE quarter * 900 < ?", arguments: [cutoff(UsageRetention.quartersForDays)])
        }
    }
}
