// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Copies of many small files that are made anew at every start: a power failure may take them, so nothing is forced to disk.
extension Directory {
    /// The directory `name` in this one, if there is one.
    func existing(_ name: String) -> Directory? { try? directory(name) }

    /// Copies a file, with its time of change. Links in the source are followed: configuration management often links its files.
    ///
    /// A file that `former` has with the same size and time of change is not read but linked from there, so that whoever reads the copies knows it again by its inode.
    /// A source that was written in the last second may be written again without another time of change (the clock of a file system has ticks): its copy gets the time 0, which
    /// nothing equals.
    func copy(_ name: String, from source: Directory, unlessIn former: Directory?, owner: UInt32, group: UInt32) throws(FileError) {
        var wanted = stat(), have = stat()
        guard unsafe fstatat(source.descriptor, name, &wanted, 0) == 0 else { throw source.failure(name) }
        if let former, unsafe fstatat(former.descriptor, name, &have, AT_SYMLINK_NOFOLLOW) == 0, have.st_mode & S_IFMT == S_IFREG,
            have.st_size == wanted.st_size, have.st_mtim.tv_sec == wanted.st_mtim.tv_sec, have.st_mtim.tv_nsec == wanted.st_mtim.tv_nsec,
            unsafe linkat(former.descriptor, name, descriptor, name, 0) == 0
        {
            return
        }
        let original = unsafe openat(source.descriptor, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard original >= 0 else { throw source.failure(name) }
        defer { close(original) }
        let bytes = try Self.readAll(original, source.path + "/" + name, 1 << 20, expecting: Int(wanted.st_size))
        let file = unsafe openat(descriptor, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw failure(name) }
        defer { close(file) }
        let written = unsafe bytes.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
        let isRecent = wanted.st_mtim.tv_sec >= time(nil) - 1
        let changed = isRecent ? timespec() : wanted.st_mtim
        guard written == bytes.count, fchown(file, owner, group) == 0, unsafe futimens(file, [changed, changed]) == 0 else {
            throw failure(name)
        }
    }
}
