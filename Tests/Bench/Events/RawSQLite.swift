// SPDX-License-Identifier: Apache-2.0
import GRDBSQLite
import Store

/// SQLite by its own C interface: one table with an index, one thread, and nothing between it and the loop.
@safe final class RawSQLite {
    private var database: OpaquePointer?
    private var insert: OpaquePointer?
    private var number: Int64 = 0
    private let payload = [UInt8](repeating: 7, count: 256)

    init(path: String) throws {
        guard unsafe sqlite3_open(path, &database) == SQLITE_OK else { throw StoreError("SQLite cannot open \(path)") }
        run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        run("CREATE TABLE rows (id INTEGER PRIMARY KEY, due INTEGER, tenant TEXT, body BLOB); CREATE INDEX due ON rows (due);")
        guard unsafe sqlite3_prepare_v2(database, "INSERT INTO rows VALUES (?, ?, 'tenant', ?)", -1, &insert, nil) == SQLITE_OK else {
            throw StoreError("SQLite cannot prepare")
        }
    }

    deinit {
        unsafe sqlite3_finalize(insert)
        unsafe sqlite3_close(database)
    }

    private func run(_ sql: String) {
        let result = unsafe sqlite3_exec(database, sql, nil, nil, nil)
        precondition(result == SQLITE_OK, "\(sql): \(result)")
    }

    func insert(rowsPerCommit: Int, seconds: Double) -> Sample {
        var sample = Sample()
        let start = ticks()
        let end = start + UInt64(seconds * 1e9)
        while ticks() < end {
            let begin = ticks()
            run("BEGIN IMMEDIATE")
            for _ in 0..<rowsPerCommit {
                number += 1
                unsafe sqlite3_bind_int64(insert, 1, number)
                unsafe sqlite3_bind_int64(insert, 2, number)
                unsafe payload.withUnsafeBytes { bytes in
                    _ = unsafe sqlite3_bind_blob(insert, 3, bytes.baseAddress, Int32(bytes.count), nil)
                    let result = unsafe sqlite3_step(insert)
                    precondition(result == SQLITE_DONE)
                }
                unsafe sqlite3_reset(insert)
            }
            run("COMMIT")
            sample.latencies.append(ticks() - begin)
            sample.operations += rowsPerCommit
        }
        sample.seconds = Double(ticks() - start) / 1e9
        return sample
    }
}
