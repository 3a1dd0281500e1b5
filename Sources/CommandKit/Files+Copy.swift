// SPDX-License-Identifier: Apache-2.0

import Glibc
import Wire

/// Reading of files that somebody may be writing.
extension Directory {
    /// How often a file is read that changes while it is read, and how long is waited in between, in microseconds.
    private static let attempts = 60
    private static let pause: UInt32 = 5000
    /// Who wrote a moment ago may not have done yet, and the clock of a file system has ticks of some milliseconds. In nanoseconds.
    private static let quiet: Int64 = 20_000_000

    /// Reads a regular file of at most `limit` bytes as it was at one moment, with its stamp. Links are followed: configuration management often links its files.
    ///
    /// The stamp is nil for a file that was written in the last second: it may be written again without another one (the clock of a file system has ticks).
    ///
    /// - Parameters:
    ///   - now: seconds since 1970.
    ///   - between: what happens between the two looks at the file; for tests.
    /// - Throws: ``FileError``: `EAGAIN` where the file does not stop to change.
    func settledRead(_ name: String, limit: Int, now: Int, between: () -> Void = {}) throws(FileError) -> (
        bytes: [UInt8], stamp: TenantBundle.Stamp?
    ) {
        let file = unsafe openat(descriptor, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard file >= 0 else { throw failure(name) }
        defer { close(file) }
        for attempt in 0..<Self.attempts {
            if attempt > 0 {
                usleep(Self.pause)
                guard lseek(file, 0, SEEK_SET) == 0 else { throw failure(name) }
            }
            var before = stat(), after = stat()
            guard unsafe fstat(file, &before) == 0 else { throw failure(name) }
            guard before.st_mode & S_IFMT == S_IFREG else {
                throw FileError(path: path + "/" + name, errno: before.st_mode & S_IFMT == S_IFDIR ? EISDIR : EINVAL)
            }
            guard before.st_size <= limit else { throw FileError(path: path + "/" + name, errno: EFBIG) }
            let bytes = try Self.readAll(file, path + "/" + name, limit, expecting: Int(before.st_size) + 1)
            between()
            guard unsafe fstat(file, &after) == 0 else { throw failure(name) }
            if Self.stamp(before) == Self.stamp(after), bytes.count == Int(after.st_size), Self.isQuiet(after) {
                return (bytes, Self.isSettled(after, now) ? Self.stamp(after) : nil)
            }
        }
        throw FileError(path: path + "/" + name, errno: EAGAIN)
    }

    /// The stamp of a file that was not written in the last second; nil for any other. Links are followed.
    func stamp(_ name: String, now: Int) -> TenantBundle.Stamp? {
        var info = stat()
        guard unsafe fstatat(descriptor, name, &info, 0) == 0, info.st_mode & S_IFMT == S_IFREG, Self.isSettled(info, now) else {
            return nil
        }
        return Self.stamp(info)
    }

    private static func isQuiet(_ info: stat) -> Bool {
        var now = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &now)
        let age = nanoseconds(now) - nanoseconds(info.st_mtim)
        // A time that is still to come was set by hand and says nothing.
        return age < 0 || age >= quiet
    }

    private static func isSettled(_ info: stat, _ now: Int) -> Bool { info.st_mtim.tv_sec < now - 1 }

    private static func stamp(_ info: stat) -> TenantBundle.Stamp {
        TenantBundle.Stamp(
            inode: UInt64(info.st_ino), size: UInt64(max(0, info.st_size)), modified: nanoseconds(info.st_mtim),
            changed: nanoseconds(info.st_ctim))
    }

    private static func nanoseconds(_ time: timespec) -> Int64 { Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec) }

    /// Makes a new file of some parts. Copies of a configuration are made anew at every start: a power failure may take them, so nothing is forced to disk.
    func create(_ name: String, _ parts: [ArraySlice<UInt8>], owner: UInt32, group: UInt32) throws(FileError) {
        let file = unsafe openat(descriptor, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw failure(name) }
        defer { close(file) }
        for part in parts {
            var rest = part
            while !rest.isEmpty {
                let count = unsafe rest.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
                if count < 0, Glibc.errno == EINTR { continue }
                guard count > 0 else { throw failure(name) }
                rest = rest.dropFirst(count)
            }
        }
        guard fchown(file, owner, group) == 0 else { throw failure(name) }
    }
}
