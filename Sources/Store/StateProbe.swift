// SPDX-License-Identifier: Apache-2.0
import GRDB
import Glibc
import Kernel

/// Whether a daemon could go on with the state that another one is using now. Changes nothing.
public enum StateProbe {
    /// Throws a sentence where a database is of a newer release or cannot be read, or nothing can be written to the state directory.
    public static func check(_ state: String) throws(StoreError) {
        try checkSchema("\(state)/bulkhead.sqlite", known: StateStore.schemaVersion)
        try checkSchema("\(state)/events/events.sqlite", known: EventSchema.version)
        try checkSchema("\(state)/usage/usage.sqlite", known: UsageDatabase.schemaVersion)
        try checkWriting("\(state)/start-probe")
    }

    private static func checkSchema(_ path: String, known: Int) throws(StoreError) {
        // What is not there is made at the start.
        guard unsafe access(path, F_OK) == 0 else { return }
        do {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.busyMode = .timeout(5)
            let database = try DatabaseQueue(path: path, configuration: configuration)
            defer { try? database.close() }
            let found = try database.read { try Int.fetchOne($0, sql: "PRAGMA user_version") ?? 0 }
            guard found <= known else {
                throw StoreError(
                    "\(path) was written by a newer release (schema \(found), this one knows \(known)): install that release again, or use another state directory"
                )
            }
        } catch let error as StoreError { throw error } catch {
            throw StoreError("\(path) cannot be read: \(error). Check its owner, and that the file is whole")
        }
    }

    private static func checkWriting(_ path: String) throws(StoreError) {
        func failure(_ what: String) -> StoreError {
            StoreError("\(KernelError("\(what) \(path)")). Check that the directory is writable and that the disk has room")
        }
        let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw failure("make") }
        defer {
            close(file)
            unsafe unlink(path)
        }
        let bytes = [UInt8](repeating: 0x2E, count: 4096)
        guard unsafe write(file, bytes, bytes.count) == bytes.count, fsync(file) == 0 else { throw failure("write to") }
    }
}
