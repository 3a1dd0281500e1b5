// SPDX-License-Identifier: Apache-2.0

import CKernel
import Glibc

/// What a file is, without following a link.
public struct FileStatus: Hashable, Sendable {
    public enum Kind: Hashable, Sendable { case file, directory, link, other }
    public var kind: Kind
    public var mode: UInt32
    public var owner: UInt32
    public var group: UInt32
    public var size: UInt64
}

/// A call on the file system that failed.
public struct FileError: Error, Hashable, Sendable, CustomStringConvertible {
    public var path: String
    public var errno: Int32
    public var description: String { "\(escaped(path)): \(errorText(errno))" }
}

/// What strerror(3) says about an error number.
public func errorText(_ number: Int32) -> String {
    guard let text = unsafe strerror(number) else { return "error \(number)" }
    return unsafe String(cString: text)
}

/// An open directory. Names below it are resolved from its descriptor and never through a link, because parts of the state directory belong
/// to the daemon: root must not be led elsewhere by what a daemon of an earlier run left there.
public final class Directory: Sendable {
    public let path: String
    let descriptor: Int32

    private init(path: String, descriptor: Int32) {
        self.path = path
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Opens an existing directory by its path; links in the path are followed.
    public static func open(_ path: String) throws(FileError) -> Directory {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError(path: path, errno: Glibc.errno) }
        return Directory(path: path, descriptor: descriptor)
    }

    /// Opens the directory `name` in this one; makes it where it does not exist.
    public func directory(_ name: String, creatingWithMode mode: UInt32? = nil) throws(FileError) -> Directory {
        if let mode, unsafe mkdirat(descriptor, name, mode) != 0, Glibc.errno != EEXIST { throw failure(name) }
        let child = unsafe openat(descriptor, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard child >= 0 else { throw failure(name) }
        return Directory(path: path + "/" + name, descriptor: child)
    }

    /// Sets owner, group and permission bits of the directory itself.
    public func own(_ owner: UInt32, _ group: UInt32, mode: UInt32) throws(FileError) {
        guard fchown(descriptor, owner, group) == 0, fchmod(descriptor, mode) == 0 else { throw FileError(path: path, errno: Glibc.errno) }
    }

    /// The status of the directory itself, or of an entry. Nil where there is no such entry.
    public func status(_ name: String? = nil) throws(FileError) -> FileStatus? {
        var info = stat()
        let result = unsafe name.map { unsafe fstatat(descriptor, $0, &info, AT_SYMLINK_NOFOLLOW) } ?? fstat(descriptor, &info)
        guard result == 0 else {
            if Glibc.errno == ENOENT { return nil }
            throw failure(name)
        }
        let kind: FileStatus.Kind =
            switch info.st_mode & S_IFMT {
            case S_IFREG: .file
            case S_IFDIR: .directory
            case S_IFLNK: .link
            default: .other
            }
        return FileStatus(
            kind: kind, mode: info.st_mode & 0o7777, owner: info.st_uid, group: info.st_gid, size: UInt64(max(0, info.st_size)))
    }

    /// Names of the entries, sorted, without `.` and `..`.
    public func names() throws(FileError) -> [String] {
        let copy = unsafe openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard copy >= 0 else { throw failure(nil) }
        guard let stream = unsafe fdopendir(copy) else {
            close(copy)
            throw failure(nil)
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { field in
                unsafe field.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Reads a regular file of at most `limit` bytes.
    public func read(_ name: String, limit: Int) throws(FileError) -> [UInt8] {
        let file = unsafe openat(descriptor, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { throw failure(name) }
        defer { close(file) }
        return try Self.readAll(file, path + "/" + name, limit)
    }

    /// Reads a file of at most `limit` bytes by its path; links are followed.
    public static func followingRead(_ path: String, limit: Int) throws(FileError) -> [UInt8] {
        let file = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { throw FileError(path: path, errno: Glibc.errno) }
        defer { close(file) }
        return try readAll(file, path, limit)
    }

    static func readAll(_ file: Int32, _ path: String, _ limit: Int, expecting size: Int = 64 << 10) throws(FileError) -> [UInt8] {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: min(max(size, 512), 64 << 10))
        while true {
            let count = unsafe Glibc.read(file, &buffer, buffer.count)
            if count < 0, Glibc.errno == EINTR { continue }
            guard count >= 0 else { throw FileError(path: path, errno: Glibc.errno) }
            if count == 0 { return bytes }
            bytes += buffer[..<count]
            guard bytes.count <= limit else { throw FileError(path: path, errno: EFBIG) }
        }
    }

    /// Writes a file whole or not at all: a new file beside it, forced to disk, then renamed over the name.
    public func replace(_ name: String, with bytes: [UInt8], owner: UInt32 = 0, group: UInt32 = 0, mode: UInt32) throws(FileError) {
        let temporary = ".\(name).new"
        if unsafe unlinkat(descriptor, temporary, 0) != 0, Glibc.errno != ENOENT { throw failure(temporary) }
        let file = unsafe openat(descriptor, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw failure(name) }
        defer { close(file) }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
            if count < 0, Glibc.errno == EINTR { continue }
            guard count > 0 else { throw failure(name) }
            rest = rest.dropFirst(count)
        }
        guard fchown(file, owner, group) == 0, fchmod(file, mode) == 0, fsync(file) == 0,
            unsafe renameat(descriptor, temporary, descriptor, name) == 0, fsync(descriptor) == 0
        else { throw failure(name) }
    }

    /// Removes an entry with all below it; a missing one is no error. Links are removed, not followed.
    public func remove(_ name: String) throws(FileError) {
        if unsafe unlinkat(descriptor, name, 0) == 0 || Glibc.errno == ENOENT { return }
        guard Glibc.errno == EISDIR || Glibc.errno == EPERM else { throw failure(name) }
        let child = try directory(name)
        for entry in try child.names() { try child.remove(entry) }
        guard unsafe unlinkat(descriptor, name, AT_REMOVEDIR) == 0 else { throw failure(name) }
    }

    /// Gives an entry another name; an entry that has that name already is replaced.
    public func rename(_ name: String, to other: String) throws(FileError) {
        guard unsafe renameat(descriptor, name, descriptor, other) == 0, fsync(descriptor) == 0 else { throw failure(name) }
    }

    /// Puts each of two entries in the other's place at once: there is no moment without either. renameat2(2).
    ///
    /// Some file systems cannot (ZFS before 2.2, NFS): there `other` is `other.aside` for a moment, and for longer where this process ends in it.
    public func exchange(_ name: String, _ other: String) throws(FileError) {
        try exchange(name, other) { unsafe ck_exchange($0, $1, $2) }
    }

    /// - Parameter atOnce: the system call.
    func exchange(_ name: String, _ other: String, atOnce: (Int32, String, String) -> Int32) throws(FileError) {
        if atOnce(descriptor, name, other) != 0 {
            guard [EINVAL, ENOSYS, EOPNOTSUPP].contains(Glibc.errno) else { throw failure(name) }
            let aside = other + ".aside"
            try remove(aside)
            guard unsafe renameat(descriptor, other, descriptor, aside) == 0 else { throw failure(other) }
            guard unsafe renameat(descriptor, name, descriptor, other) == 0 else {
                let failure = failure(name)
                _ = unsafe renameat(descriptor, aside, descriptor, other)
                throw failure
            }
            guard unsafe renameat(descriptor, aside, descriptor, name) == 0 else { throw failure(aside) }
        }
        guard fsync(descriptor) == 0 else { throw failure(name) }
    }

    /// Gives what belongs to `former` below this directory to another owner; what belongs to anybody else stays as it is.
    public func handOver(from former: UInt32, to owner: UInt32, _ group: UInt32) throws(FileError) {
        for name in try names() {
            guard let status = try status(name) else { continue }
            if status.kind == .directory { try directory(name).handOver(from: former, to: owner, group) }
            guard status.owner == former else { continue }
            guard unsafe fchownat(descriptor, name, owner, group, AT_SYMLINK_NOFOLLOW) == 0 else { throw failure(name) }
        }
    }

    func failure(_ name: String?) -> FileError { FileError(path: name.map { path + "/" + $0 } ?? path, errno: Glibc.errno) }
}

/// A lock on a file (flock(2)), held until the value is gone or the program is replaced.
public final class FileLock {
    private let descriptor: Int32
    private init(_ descriptor: Int32) { self.descriptor = descriptor }
    deinit { close(descriptor) }

    /// Takes the lock `name` in a directory; makes the file where it does not exist.
    ///
    /// - Returns: nil where somebody else holds it and `waiting` is false.
    public static func take(_ name: String, in directory: Directory, waiting: Bool = false) throws(FileError) -> FileLock? {
        try take(unsafe openat(directory.descriptor, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o600), name, directory, waiting)
    }

    /// Waits for the lock of a directory itself, which leaves no file behind.
    public static func take(_ directory: Directory) throws(FileError) -> FileLock? {
        try take(unsafe openat(directory.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), nil, directory, true)
    }

    private static func take(_ file: Int32, _ name: String?, _ directory: Directory, _ waiting: Bool) throws(FileError) -> FileLock? {
        guard file >= 0 else { throw directory.failure(name) }
        let lock = FileLock(file)
        while flock(file, LOCK_EX | (waiting ? 0 : LOCK_NB)) != 0 {
            if Glibc.errno == EINTR { continue }
            if Glibc.errno == EWOULDBLOCK { return nil }
            throw directory.failure(name)
        }
        return lock
    }
}
