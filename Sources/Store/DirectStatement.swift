// SPDX-License-Identifier: Apache-2.0
import GRDB
import GRDBSQLite

/// A statement that is bound and run by SQLite's own interface, for what every event does: GRDB boxes each value on its way, and that was most of an event's time.
///
/// The statement is one of GRDB's cache, which ends it with the connection. To be used on the connection's queue, and not beyond a transaction.
@safe struct DirectStatement {
    private let database: Database
    private let sql: String
    private var prepared: Statement?

    init(_ database: Database, _ sql: String) { (self.database, self.sql) = (database, sql) }

    /// Runs it with the values that `bind` gives; what it does not give is NULL. Returns how many rows it changed.
    @discardableResult mutating func run(_ bind: (inout DirectBindings) -> Void) throws -> Int {
        let statement = try prepared ?? database.cachedStatement(sql: sql)
        prepared = statement
        let pointer = unsafe statement.sqliteStatement
        var bindings = unsafe DirectBindings(pointer)
        bind(&bindings)
        let result = unsafe bindings.failure == SQLITE_OK ? sqlite3_step(pointer) : bindings.failure
        // Before the reset: it would be overwritten.
        let error =
            result == SQLITE_DONE ? nil : DatabaseError(resultCode: ResultCode(rawValue: result), message: database.lastErrorMessage)
        unsafe sqlite3_reset(pointer)
        unsafe sqlite3_clear_bindings(pointer)
        if let error { throw error }
        return database.changesCount
    }
}

/// Values of one run, in the statement's order.
@safe struct DirectBindings {
    private let statement: OpaquePointer
    private var index: Int32 = 0
    private(set) var failure = SQLITE_OK

    init(_ statement: OpaquePointer) { unsafe self.statement = statement }

    private mutating func note(_ result: Int32) { if result != SQLITE_OK { failure = result } }

    mutating func add(_ value: Int64) {
        index += 1
        note(unsafe sqlite3_bind_int64(statement, index, value))
    }

    mutating func add(_ value: Int) { add(Int64(value)) }

    mutating func add(_ value: Int64?) { if let value { add(value) } else { index += 1 } }

    mutating func add(_ value: String) {
        index += 1
        var value = value
        note(
            value.withUTF8 { bytes in
                // A pointer to nothing would be NULL.
                guard let first = bytes.baseAddress else { return unsafe sqlite3_bind_text(statement, index, "", 0, nil) }
                return unsafe first.withMemoryRebound(to: CChar.self, capacity: bytes.count) {
                    unsafe sqlite3_bind_text(statement, index, $0, Int32(bytes.count), Self.copied)
                }
            })
    }

    mutating func add(_ value: String?) { if let value { add(value) } else { index += 1 } }

    mutating func add(_ value: [UInt8]) {
        index += 1
        note(
            unsafe value.withUnsafeBytes { bytes in
                guard let first = bytes.baseAddress, bytes.count > 0 else { return unsafe sqlite3_bind_zeroblob(statement, index, 0) }
                return unsafe sqlite3_bind_blob(statement, index, first, Int32(bytes.count), Self.copied)
            })
    }

    mutating func add(_ value: [UInt8]?) { if let value { add(value) } else { index += 1 } }

    /// 16 bytes, the high ones first.
    mutating func add(high: UInt64, low: UInt64) {
        index += 1
        let words = (high.bigEndian, low.bigEndian)
        note(unsafe withUnsafeBytes(of: words) { unsafe sqlite3_bind_blob(statement, index, $0.baseAddress, 16, Self.copied) })
    }

    /// SQLite copies the bytes before the call returns.
    private static var copied: sqlite3_destructor_type { unsafe unsafeBitCast(-1, to: sqlite3_destructor_type.self) }
}
