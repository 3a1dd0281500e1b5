// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What a folder holds, as far as one can tell without reading its files: equal for two looks between which nothing was written.
public struct FolderState: Hashable, Sendable {
    struct Entry: Hashable, Sendable {
        var mode: UInt32
        var inode: UInt64
        var size: Int64
        /// Nobody can put it back, unlike the time that a file says it was changed. Seconds and nanoseconds.
        var changed: [Int]
    }
    private(set) var entries: [String: Entry] = [:]

    /// What a person works on: not what ``CodeArchive`` leaves out, nor what editors keep beside a file while it is open. What goes while this looks is left out.
    public static func read(_ path: String) throws(FileError) -> FolderState {
        var state = FolderState()
        try state.add(try Directory.open(path), below: "")
        return state
    }

    private mutating func add(_ folder: Directory, below prefix: String) throws(FileError) {
        for name in try folder.names() where !CodeArchive.excluded.contains(name) && !Self.isAnEditors(name) {
            var info = stat()
            guard unsafe fstatat(folder.descriptor, name, &info, AT_SYMLINK_NOFOLLOW) == 0 else { continue }
            let isFolder = info.st_mode & S_IFMT == S_IFDIR
            // Of a folder only that it is there: what an editor does in it for a moment changes its time.
            entries[prefix + name] =
                isFolder
                ? Entry(mode: info.st_mode, inode: 0, size: 0, changed: [])
                : Entry(
                    mode: info.st_mode, inode: UInt64(info.st_ino), size: Int64(info.st_size),
                    changed: [info.st_ctim.tv_sec, info.st_ctim.tv_nsec])
            if isFolder, let child = try? folder.directory(name) { try add(child, below: prefix + name + "/") }
        }
    }

    /// Swap and backup files of vi, Emacs and their like.
    private static func isAnEditors(_ name: String) -> Bool {
        name.hasSuffix("~") || name.hasSuffix(".swp") || name.hasSuffix(".swx") || name.hasPrefix(".#") || name == "4913"
    }
}
