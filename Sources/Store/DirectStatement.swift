// SPDX-License-Identifier: Apache-2.0
import GRDB
import GRDBSQLite

/// A statement that is bound and run by SQLite's own interface, for what every event does: GRDB boxes each value on its way, and that was most of an event's time.
///
/// The statement is one of GRDB's cache, which ends it with the connection. To be used on the connection's queue, and not beyond a transaction.
@safe final class DirectStatement {
    /// Bytes of short values that need no memory of their own; so much is taken from the stack.
    private static let space = 1024

    private let database: Database
    private let sql: String
    private var prepared: Statement?

    init(_ database: Database, _ sql: String) { (self.database, self.sql) = (database, sql) }

    /// What one run did.
    struct Effect {
        /// How many rows it changed.
        let rows: Int
        /// The number of the row that was inserted last.
        let lastRow: Int64
    }

    /// Runs it with the values that `bind` gives; what it does not give is NULL. Inlined, or what the closures capture is copied for them: a whole event.
    /// - Parameter read: gets each row of the result. It must not run the same statement.
    @discardableResult @inline(__always)
    func run(_ bind: (inout DirectBindings) -> Void, _ read: (DirectRow) throws -> Void = { _ in }) throws -> Effect {
        let statement = try prepared ?? database.cachedStatement(sql: sql)
        prepared = statement
        let pointer = unsafe statement.sqliteStatement
        return try unsafe withUnsafeTemporaryAllocation(byteCount: Self.space, alignment: 1) { space in
            var bindings = unsafe DirectBindings(pointer, space)
            bind(&bindings)
            // The statement must not know the space any more when that is gone.
            defer { unsafe sqlite3_clear_bindings(pointer) }
            guard bindings.failure == SQLITE_OK else {
                throw DatabaseError(resultCode: ResultCode(rawValue: bindings.failure), message: database.lastErrorMessage)
            }
            try unsafe DirectRow.each(of: pointer, database, read)
            let connection = unsafe sqlite3_db_handle(pointer)
            return unsafe Effect(rows: Int(sqlite3_changes(connection)), lastRow: sqlite3_last_insert_rowid(connection))
        }
    }

    /// The rows of its result.
    @inline(__always) func rows<T>(_ bind: (inout DirectBindings) -> Void, _ read: (DirectRow) throws -> T) throws -> [T] {
        var found: [T] = []
        try run(bind) { found.append(try read($0)) }
        return found
    }
}

/// The row that a statement is at, read without a copy of it in between. Columns count from 0.
@safe struct DirectRow {
    private let statement: OpaquePointer

    /// Runs a statement to its end, which has its values.
    fileprivate static func each(of statement: OpaquePointer, _ database: Database, _ read: (DirectRow) throws -> Void) throws {
        defer { unsafe sqlite3_reset(statement) }
        var result = unsafe sqlite3_step(statement)
        while result == SQLITE_ROW {
            try read(unsafe DirectRow(statement: statement))
            result = unsafe sqlite3_step(statement)
        }
        // Before the reset: it would be overwritten.
        if result != SQLITE_DONE { throw DatabaseError(resultCode: ResultCode(rawValue: result), message: database.lastErrorMessage) }
    }

    /// The rows of a statement whose values GRDB binds, because their number depends on what is asked.
    static func all<T>(_ database: Database, _ sql: String, _ arguments: StatementArguments, _ read: (DirectRow) throws -> T) throws -> [T]
    {
        let statement = try database.cachedStatement(sql: sql)
        try statement.setArguments(arguments)
        var found: [T] = []
        try unsafe each(of: statement.sqliteStatement, database) { found.append(try read($0)) }
        return found
    }

    /// 0 where it is NULL.
    func integer(_ column: Int32) -> Int64 { unsafe sqlite3_column_int64(statement, column) }

    func integerIfAny(_ column: Int32) -> Int64? {
        unsafe sqlite3_column_type(statement, column) == SQLITE_NULL ? nil : integer(column)
    }

    /// Nil where it is NULL. What is no UTF-8 in it is replaced.
    func text(_ column: Int32) -> String? {
        guard let start = unsafe sqlite3_column_text(statement, column) else { return nil }
        let count = Int(unsafe sqlite3_column_bytes(statement, column))
        return unsafe String(decoding: UnsafeBufferPointer(start: start, count: count), as: UTF8.self)
    }

    /// Nil where it is NULL.
    func bytes(_ column: Int32) -> [UInt8]? {
        guard unsafe sqlite3_column_type(statement, column) != SQLITE_NULL else { return nil }
        let start = unsafe sqlite3_column_blob(statement, column)
        return unsafe [UInt8](UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(statement, column))))
    }
}

/// Values of one run, in the statement's order.
@safe struct DirectBindings {
    private let statement: OpaquePointer
    /// Where short values lie until the statement has run: for each that SQLite copies it takes memory and gives it back.
    private let space: UnsafeMutableRawBufferPointer
    private var used = 0
    private var index: Int32 = 0
    private(set) var failure = SQLITE_OK

    init(_ statement: OpaquePointer, _ space: UnsafeMutableRawBufferPointer) {
        unsafe self.statement = statement
        unsafe self.space = space
    }

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
        value.withUTF8 { text in
            let kept = unsafe keep(UnsafeRawBufferPointer(text))
            // A pointer to nothing would be NULL.
            guard let start = unsafe kept ?? UnsafeRawPointer(text.baseAddress) else {
                return note(unsafe sqlite3_bind_text(statement, index, "", 0, nil))
            }
            let pointer = unsafe start.assumingMemoryBound(to: CChar.self)
            note(unsafe sqlite3_bind_text(statement, index, pointer, Int32(text.count), kept == nil ? Self.copied : nil))
        }
    }

    mutating func add(_ value: String?) { if let value { add(value) } else { index += 1 } }

    mutating func add(_ value: [UInt8]) {
        index += 1
        unsafe value.withUnsafeBytes { unsafe add(blob: $0) }
    }

    mutating func add(_ value: [UInt8]?) { if let value { add(value) } else { index += 1 } }

    /// 16 bytes, the high ones first.
    mutating func add(high: UInt64, low: UInt64) {
        index += 1
        unsafe withUnsafeBytes(of: (high.bigEndian, low.bigEndian)) { unsafe add(blob: $0) }
    }

    private mutating func add(blob bytes: UnsafeRawBufferPointer) {
        let kept = unsafe keep(bytes)
        guard let start = unsafe kept ?? bytes.baseAddress, bytes.count > 0 else {
            return note(unsafe sqlite3_bind_zeroblob(statement, index, 0))
        }
        note(unsafe sqlite3_bind_blob(statement, index, start, Int32(bytes.count), kept == nil ? Self.copied : nil))
    }

    /// Where the bytes lie in the space now; nil where it has no room for them, and SQLite has to copy them.
    private mutating func keep(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawPointer? {
        let isRoom = unsafe bytes.count <= space.count - used
        guard isRoom, let base = unsafe space.baseAddress, let source = bytes.baseAddress else { return nil }
        let start = unsafe base + used
        unsafe start.copyMemory(from: source, byteCount: bytes.count)
        used += bytes.count
        return UnsafeRawPointer(start)
    }

    /// SQLite copies the bytes before the call returns.
    private static var copied: sqlite3_destructor_type { unsafe unsafeBitCast(-1, to: sqlite3_destructor_type.self) }
}
