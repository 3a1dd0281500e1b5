// SPDX-License-Identifier: Apache-2.0

import Glibc

/// The folder that holds everything of one node. Prepared by root before the spawner starts:
/// `version`, `lock`, `spawner.policy`, `config.source`, `config/` (root's);
/// `data/` with `code/`, `logs/`, `incoming/`, and `run/` (the daemon's).
public struct StateDirectory {
    /// The version of the layout that this release writes.
    public static let layoutVersion = 1
    static let versionFile = "version"
    static let lockFile = "lock"
    static let policyFile = "spawner.policy"
    /// In `data/`, where the daemon may remove it.
    static let drainedFile = "drained"

    public let directory: Directory
    /// Absolute, without links.
    public var path: String { directory.path }
    public var policyPath: String { path + "/" + Self.policyFile }
    public var codePath: String { path + "/data/code" }
    public var controlSocket: String { path + "/run/control.sock" }
    private let lock: FileLock

    /// Opens or makes the folder, checks that this release may use it, and takes its lock.
    ///
    /// - Throws: ``Failure`` that names the folder and the way out: not a folder, read-only, of a newer release, in use.
    public static func open(_ path: String) throws(Failure) -> StateDirectory {
        try makeFolders(path)
        do {
            let directory = try Directory.open(try canonical(path))
            guard try directory.status()?.kind == .directory else { throw FileError(path: path, errno: ENOTDIR) }
            try checkVersion(directory)
            guard let lock = try FileLock.take(lockFile, in: directory) else {
                throw Failure.failed("stateInUse", "Another node already runs on \(escaped(path)); stop it, or choose another --state DIR.")
            }
            return StateDirectory(directory: directory, lock: lock)
        } catch let error as FileError {
            throw failure(error, path)
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("state", "\(escaped(path)) cannot be used: \(error)")
        }
    }

    /// Whether a node runs on the folder: whether its lock is held.
    public static func isInUse(_ path: String) -> Bool {
        guard let directory = try? Directory.open(path), (try? directory.status(lockFile)) != .some(nil) else { return false }
        guard let lock = try? FileLock.take(lockFile, in: directory) else { return true }
        return withExtendedLifetime(lock) { false }
    }

    /// Makes the layout with its owners and modes.
    public func prepare(daemonUID: UInt32, daemonGID: UInt32) throws(Failure) {
        do {
            try directory.own(geteuid(), getegid(), mode: 0o755)
            let data = try directory.directory("data", creatingWithMode: 0o700)
            if let former = try data.status()?.owner, former != daemonUID, former != geteuid() {
                try data.handOver(from: former, to: daemonUID, daemonGID)
            }
            try data.own(daemonUID, daemonGID, mode: 0o700)
            for (name, mode) in [("code", UInt32(0o755)), ("logs", 0o700), ("incoming", 0o700)] {
                try data.directory(name, creatingWithMode: mode).own(daemonUID, daemonGID, mode: mode)
            }
            try directory.directory("run", creatingWithMode: 0o755).own(daemonUID, daemonGID, mode: 0o755)
            try directory.replace(
                Self.versionFile, with: Array("\(Self.layoutVersion)\n".utf8), owner: geteuid(), group: getegid(), mode: 0o644)
        } catch {
            throw Self.failure(error, path)
        }
    }

    /// Has the node begin drained, at this start and each after it, until `bulkhead drain --undo` removes the mark. After ``prepare(daemonUID:daemonGID:)``, or in what
    /// a backup has become.
    public func markDrained() throws(Failure) {
        do {
            try directory.directory("data").replace(Self.drainedFile, with: [], owner: geteuid(), group: getegid(), mode: 0o644)
        } catch {
            throw Self.failure(error, path)
        }
    }

    /// Writes the policy, whole or not at all, readable by root alone.
    public func write(_ policy: SpawnerPolicy) throws(Failure) {
        let text = try policy.rendered()
        do {
            try directory.replace(Self.policyFile, with: Array(text.utf8), owner: geteuid(), group: getegid(), mode: 0o600)
        } catch {
            throw Self.failure(error, path)
        }
    }

    /// Copies the node's configuration to where the daemon may read it, in place of the copy of the former start, and notes where it
    /// came from.
    ///
    /// - Returns: the copy's path.
    public func copyConfiguration(from source: String, daemonUID: UInt32, daemonGID: UInt32) throws(Failure) -> String {
        let copy = ConfigurationCopy(state: path, source: source)
        try copy.install(daemonUID: daemonUID, daemonGID: daemonGID)
        try copy.keep()
        try note(source: source)
        return copy.path
    }

    /// Where the administrator's configuration is, for commands that change it; nil where it is in the state directory itself.
    public func note(source: String?) throws(Failure) {
        do {
            guard let source else { return try directory.remove(ConfigurationCopy.sourceFile) }
            try directory.replace(
                ConfigurationCopy.sourceFile, with: Array((source + "\n").utf8), owner: geteuid(), group: getegid(), mode: 0o644)
        } catch {
            throw Self.failure(error, path)
        }
    }

    static func checkVersion(_ directory: Directory) throws {
        guard try directory.status(versionFile) != nil else { return }
        let text = String(decoding: try directory.read(versionFile, limit: 4096), as: UTF8.self)
        guard let version = Int(text.split(whereSeparator: \.isWhitespace).first ?? "") else {
            throw Failure.failed(
                "stateVersion",
                "\(escaped(directory.path))/version holds no number, so this is no state directory of Bulkhead; choose another --state DIR."
            )
        }
        guard version <= layoutVersion else {
            throw Failure.failed(
                "stateVersion",
                "\(escaped(directory.path)) was written by a newer release (layout \(version), this one knows \(layoutVersion)); "
                    + "install that release, or choose another --state DIR.")
        }
    }

    private static func failure(_ error: FileError, _ path: String) -> Failure {
        let shown = escaped(path)
        switch error.errno {
        case ENOTDIR where error.path == path || error.path.hasPrefix(path):
            return .failed("state", "\(escaped(error.path)) is not a folder; choose another --state DIR.")
        case EROFS:
            return .failed("state", "\(shown) is on a read-only file system; choose a --state DIR that can be written.")
        case ENOSPC, EDQUOT:
            return .failed("state", "\(shown) is full (\(errorText(error.errno))); free some space, or choose another --state DIR.")
        case ELOOP:
            return .failed("state", "\(escaped(error.path)) is a symbolic link, which is not followed inside a state directory; remove it.")
        default:
            return .failed("state", "The state directory \(shown) cannot be prepared, \(error); mend this, or choose another --state DIR.")
        }
    }

    /// Makes the folder and the ones above it, mode 0755.
    private static func makeFolders(_ path: String) throws(Failure) {
        guard !path.isEmpty else { throw .usage("--state is empty; name a folder.") }
        var end = path.startIndex
        while end < path.endIndex {
            end = path[end...].dropFirst().firstIndex(of: "/") ?? path.endIndex
            let part = String(path[..<end])
            if unsafe mkdir(part, 0o755) != 0, errno != EEXIST, errno != EISDIR {
                let error = FileError(path: part, errno: errno)
                // A parent that exists on a read-only file system says EROFS, not EEXIST.
                if unsafe access(part, F_OK) != 0 { throw failure(error, path) }
            }
        }
    }
}

/// The absolute path without links (realpath(3)).
public func canonical(_ path: String) throws(FileError) -> String {
    guard let resolved = unsafe realpath(path, nil) else { throw FileError(path: path, errno: errno) }
    defer { unsafe free(resolved) }
    return unsafe String(cString: resolved)
}

/// The first folder above `path` (or `path` itself) that the user may not enter, or nil.
///
/// - Parameter path: absolute, without links.
public func barrier(to path: String, uid: UInt32, gid: UInt32) -> (path: String, mode: UInt32)? {
    var parts: [Substring] = []
    for part in [Substring("")] + path.split(separator: "/") {
        parts.append(part)
        let folder = parts.count == 1 ? "/" : parts.joined(separator: "/")
        var info = stat()
        guard unsafe stat(folder, &info) == 0, info.st_mode & S_IFMT == S_IFDIR else { continue }
        let bit: UInt32 = info.st_uid == uid ? 0o100 : info.st_gid == gid ? 0o010 : 0o001
        if info.st_mode & bit == 0 { return (folder, info.st_mode & 0o7777) }
    }
    return nil
}
