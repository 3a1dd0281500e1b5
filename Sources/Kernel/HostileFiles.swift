// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// What the kernel says of a file.
public struct FileFacts: Hashable, Sendable {
    public var inode: UInt64
    /// Bytes of content.
    public var size: UInt64
    /// Bytes on the disk; a file with holes has fewer than its size.
    public var allocated: UInt64
    /// Last change of the content, in nanoseconds since 1970. Its owner may set it to anything.
    public var modified: UInt64
    /// Last change of anything, names included, in nanoseconds since 1970. Nobody can set it.
    public var changed: UInt64
    public var mode: UInt32
    public var isRegular: Bool { mode & S_IFMT == S_IFREG }
    public var isFolder: Bool { mode & S_IFMT == S_IFDIR }

    init(_ facts: ck_facts) {
        inode = facts.inode
        size = facts.size
        allocated = facts.allocated
        modified = facts.modified
        changed = facts.changed
        mode = facts.mode
    }
}

/// A file that is open, with what it was when it was opened.
public struct OpenedFile: ~Copyable {
    public let descriptor: OwnedFD
    public let facts: FileFacts
    public consuming func release() -> OwnedFD { descriptor }
}

/// Directories that somebody hostile changes at the same time. Paths are bytes, relative to an open directory; no step leaves it or follows a link, nothing blocks
/// on a FIFO, and only regular files are ever opened. openat2(2), Linux 5.6.
public enum HostileFiles {
    /// The longest path that the kernel takes, in bytes.
    public static let pathLimit = 4095

    /// A regular file for reading; `ENOENT` also where there is anything else.
    public static func open(_ path: [UInt8], in top: borrowing OwnedFD) throws(KernelError) -> OpenedFile {
        var facts = ck_facts()
        let number = unsafe withPath(path) { unsafe ck_open_object(top.rawValue, $0, &facts) }
        guard number >= 0 else { throw KernelError("open an object") }
        return OpenedFile(descriptor: OwnedFD(number), facts: FileFacts(facts))
    }

    /// A directory; the empty path is the top itself. Its owner's permissions are restored where a worker took them away.
    public static func folder(_ path: [UInt8], in top: borrowing OwnedFD) throws(KernelError) -> OwnedFD {
        let number = unsafe withPath(path.isEmpty ? [0x2E] : path) { unsafe ck_open_folder(top.rawValue, $0) }
        guard number >= 0 else { throw KernelError("open a folder") }
        return OwnedFD(number)
    }

    /// A directory by its absolute path, which nobody hostile can change.
    public static func top(_ path: String) throws(KernelError) -> OwnedFD {
        let number = unsafe ck_open_top(path)
        guard number >= 0 else { throw KernelError("open \(path)") }
        return OwnedFD(number)
    }

    /// A directory, made with its parents where they are missing and flushed.
    public static func makeFolder(_ path: [UInt8], in top: borrowing OwnedFD) throws(KernelError) -> OwnedFD {
        let number = unsafe withPath(path) { unsafe ck_make_folder(top.rawValue, $0) }
        guard number >= 0 else { throw KernelError("make a folder") }
        return OwnedFD(number)
    }

    /// What a name in a directory is; nil where it is gone.
    public static func look(_ name: [UInt8], in folder: borrowing OwnedFD) -> FileFacts? {
        var facts = ck_facts()
        return unsafe withPath(name) { unsafe ck_look(folder.rawValue, $0, &facts) } == 0 ? FileFacts(facts) : nil
    }

    public static func facts(_ file: borrowing OwnedFD) throws(KernelError) -> FileFacts {
        var facts = ck_facts()
        guard unsafe ck_facts_of(file.rawValue, &facts) == 0 else { throw KernelError("look at a file") }
        return FileFacts(facts)
    }

    /// Whether anybody has the file open for writing. Only its owner may ask.
    public static func isWritten(_ file: borrowing OwnedFD) -> Bool { ck_is_written(file.rawValue) == 1 }

    /// A new file for reading and writing; `EEXIST` where there is one.
    public static func create(_ name: [UInt8], in folder: borrowing OwnedFD) throws(KernelError) -> OwnedFD {
        let number = unsafe withPath(name) { unsafe openat(folder.rawValue, $0, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600) }
        guard number >= 0 else { throw KernelError("create a file") }
        return OwnedFD(number)
    }

    /// Renames within a file system, whatever the new name was before, unless `keeps`.
    public static func rename(
        _ old: [UInt8], in from: borrowing OwnedFD, to new: [UInt8], in to: borrowing OwnedFD, keeps: Bool = false
    ) throws(KernelError) {
        let result = unsafe withPath(old) { old in
            unsafe withPath(new) { new in unsafe ck_rename(from.rawValue, old, to.rawValue, new, keeps ? 1 : 0) }
        }
        guard result == 0 else { throw KernelError("rename") }
    }

    /// Removes one name: of a file or link, or of an empty directory.
    public static func remove(_ name: [UInt8], in folder: borrowing OwnedFD, isFolder: Bool = false) throws(KernelError) {
        let result = unsafe withPath(name) { unsafe unlinkat(folder.rawValue, $0, isFolder ? AT_REMOVEDIR : 0) }
        guard result == 0 else { throw KernelError("remove") }
    }

    public static func flush(_ file: borrowing OwnedFD) throws(KernelError) {
        guard fsync(file.rawValue) == 0 else { throw KernelError("flush") }
    }

    /// Writes all of it.
    public static func write(_ bytes: [UInt8], to file: borrowing OwnedFD) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes[done...].withUnsafeBytes { unsafe Glibc.write(file.rawValue, $0.baseAddress, $0.count) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw KernelError("write") }
            done += count
        }
    }

    /// Up to `limit` bytes from `offset`; empty at the end.
    public static func read(_ file: borrowing OwnedFD, at offset: UInt64, limit: Int) throws(KernelError) -> [UInt8] {
        var failure: KernelError?
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
            var result = 0
            repeat { result = unsafe pread(file.rawValue, buffer.baseAddress, limit, off_t(offset)) } while result < 0 && errno == EINTR
            if result < 0 { failure = KernelError("read") }
            count = max(0, result)
        }
        if let failure { throw failure }
        return bytes
    }

    static func withPath<R>(_ path: [UInt8], _ body: (UnsafePointer<CChar>) -> R) -> R {
        unsafe (path + [0]).withUnsafeBufferPointer { bytes in
            unsafe bytes.withMemoryRebound(to: CChar.self) { words in
                guard let base = words.baseAddress else { preconditionFailure("a path has its end at least") }
                return unsafe body(base)
            }
        }
    }
}
