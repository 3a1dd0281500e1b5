// SPDX-License-Identifier: Apache-2.0
import GRDB

/// Where a database sorts what it has no index for.
enum SortSpace {
    /// In memory, and never in a file: SQLite puts more than its cache into a temporary folder, and the daemon may write below its state only. A question that
    /// grew over that would fail for good, at a start too. Source: sqlite.org/tempfiles.html, sections 2.7 and 4.
    static func inMemory(_ database: Database) throws {
        try database.execute(sql: "PRAGMA temp_store = MEMORY")
        guard try Int.fetchOne(database, sql: "PRAGMA temp_store") == 2 else { throw StoreError("this SQLite cannot sort in memory") }
    }
}
