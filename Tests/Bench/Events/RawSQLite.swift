// SPDX-License-Identifier: Apache-2.0
import GRDBSQLite
import Store

/// SQLite by its own C interface: one thread that commits so many rows at a time, and nothing between it and the loop: no clients, no completions, no checks.
@safe final class RawSQLite {
    /// What a row is.
    enum Kind: String {
        /// One row of number, time, tenant and payload, with one index.
        case bare
        /// What an event is: the event store's own tables and indexes, the same values in them, and its counters at each commit.
        case events
    }

    private let kind: Kind
    private var database: OpaquePointer?
    private var first: OpaquePointer?
    private var second: OpaquePointer?
    private var number: Int64 = 0
    private let payload = [UInt8](repeating: 7, count: 256)

    init(path: String, kind: Kind) throws {
        self.kind = kind
        guard unsafe sqlite3_open(path, &database) == SQLITE_OK else { throw StoreError("SQLite cannot open \(path)") }
        run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        switch kind {
        case .bare:
            run("CREATE TABLE rows (id INTEGER PRIMARY KEY, due INTEGER, tenant TEXT, body BLOB); CREATE INDEX due ON rows (due);")
            guard unsafe sqlite3_prepare_v2(database, Self.row, -1, &first, nil) == SQLITE_OK else { throw StoreError("cannot prepare") }
        case .events:
            run(EventSchema.create)
            guard unsafe sqlite3_prepare_v2(database, Self.body, -1, &first, nil) == SQLITE_OK,
                unsafe sqlite3_prepare_v2(database, Self.event, -1, &second, nil) == SQLITE_OK
            else { throw StoreError("cannot prepare") }
        }
    }

    private static let row = "INSERT INTO rows VALUES (?, ?, 'tenant', ?)"
    private static let body = """
        INSERT INTO bodies VALUES (NULL, 'latest', '', 'application/octet-stream', NULL, x'', x'', 256, NULL, NULL, ?, NULL, NULL)
        """
    private static let event = "INSERT OR IGNORE INTO events VALUES (?, 0, ?, '-', 0, ?, ?, 0, 0, 0, 0, 0, 3, 21600000, ?, ?, NULL, ?)"

    deinit {
        unsafe sqlite3_finalize(first)
        unsafe sqlite3_finalize(second)
        unsafe sqlite3_close(database)
    }

    private func run(_ sql: String) {
        let result = unsafe sqlite3_exec(database, sql, nil, nil, nil)
        precondition(result == SQLITE_OK, "\(sql): \(result)")
    }

    private func insert() {
        number += 1
        unsafe payload.withUnsafeBytes { bytes in
            _ = unsafe sqlite3_bind_blob(first, kind == .bare ? 3 : 1, bytes.baseAddress, Int32(bytes.count), nil)
            if kind == .bare {
                unsafe sqlite3_bind_int64(first, 1, number)
                unsafe sqlite3_bind_int64(first, 2, number)
            }
            let result = unsafe sqlite3_step(first)
            precondition(result == SQLITE_DONE)
        }
        unsafe sqlite3_reset(first)
        if kind == .events { insertEvent() }
    }

    private func insertEvent() {
        let created = 1_700_000_000_000 as Int64
        let id = (UInt64(created + number / 16).bigEndian, UInt64(number).bigEndian)
        _ = unsafe withUnsafeBytes(of: id) {
            unsafe sqlite3_bind_blob(second, 1, $0.baseAddress, 16, unsafeBitCast(-1, to: sqlite3_destructor_type.self))
        }
        unsafe sqlite3_bind_text(second, 2, "tenant-\(number % 16)", -1, unsafeBitCast(-1, to: sqlite3_destructor_type.self))
        unsafe sqlite3_bind_int64(second, 3, created)
        unsafe sqlite3_bind_int64(second, 4, created + 21_600_000)
        unsafe sqlite3_bind_int64(second, 5, created + 21_600_000)
        unsafe sqlite3_bind_int64(second, 6, created)
        unsafe sqlite3_bind_int64(second, 7, sqlite3_last_insert_rowid(database))
        let result = unsafe sqlite3_step(second)
        precondition(result == SQLITE_DONE)
        unsafe sqlite3_reset(second)
    }

    func insert(rowsPerCommit: Int, seconds: Double) -> Sample {
        var sample = Sample()
        let start = ticks()
        let end = start + UInt64(seconds * 1e9)
        while ticks() < end {
            let begin = ticks()
            run("BEGIN IMMEDIATE")
            for _ in 0..<rowsPerCommit { insert() }
            if kind == .events {
                run("UPDATE counts SET kept = kept + \(rowsPerCommit) WHERE state = 0")
                run("UPDATE counters SET value = value + \(rowsPerCommit) WHERE name = 'received'")
            }
            run("COMMIT")
            sample.latencies.append(ticks() - begin)
            sample.operations += rowsPerCommit
        }
        sample.seconds = Double(ticks() - start) / 1e9
        return sample
    }
}
