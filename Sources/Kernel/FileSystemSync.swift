// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// How what is written gets to the disk.
public struct FileSystemSync: Sendable {
    /// Whether ``all`` tells of everything that could not be written since the file was opened.
    public var tells: @Sendable (_ file: Int32) -> Bool = { ck_sync_tells($0) != 0 }
    /// Writes out one file, or the names in one folder; 0, or -1 with errno. fsync(2).
    public var one: @Sendable (_ file: Int32) -> Int32 = { fsync($0) }
    /// Writes out all that the file's file system has in memory, also that of others: many files at the cost of few; 0, or -1 with errno. syncfs(2).
    public var all: @Sendable (_ file: Int32) -> Int32 = { ck_sync_all($0) }

    public init() {}
}
