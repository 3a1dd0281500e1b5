// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
import Glibc

/// What is in a backup: `manifest.json` at the top of the archive.
public struct BackupManifest: Codable, Hashable, Sendable {
    /// One file, by its path in the archive.
    public struct Entry: Codable, Hashable, Sendable {
        public var size: UInt64
        /// Hexadecimal; of a link, of what it points at.
        public var sha256: String
        public var isLink: Bool
    }

    public static let name = "manifest.json"
    /// The form of archives that this release writes.
    public static let currentFormat = 1

    public var format: Int
    public var release: String
    /// Of the state directory: ``StateDirectory/layoutVersion``.
    public var layout: Int
    /// Of each database, by its path.
    public var schemas: [String: Int]
    /// Milliseconds since 1970.
    public var createdAt: UInt64
    public var files: [String: Entry]

    public init(release: String, schemas: [String: Int], createdAt: UInt64, files: [String: Entry]) {
        format = Self.currentFormat
        layout = StateDirectory.layoutVersion
        self.release = release
        self.schemas = schemas
        self.createdAt = createdAt
        self.files = files
    }

    /// Why this release cannot restore it, or nil.
    public func objection(knownSchemas: [String: Int]) -> String? {
        if format > Self.currentFormat { return "its form is \(format), and this release knows up to \(Self.currentFormat)" }
        if layout > StateDirectory.layoutVersion {
            return "its state has layout \(layout), and this release knows up to \(StateDirectory.layoutVersion)"
        }
        for (path, schema) in schemas.sorted(by: { $0.key < $1.key }) where schema > knownSchemas[path] ?? 0 {
            return "\(escaped(path)) has schema \(schema), and this release knows up to \(knownSchemas[path] ?? 0)"
        }
        return nil
    }

    /// The first difference between the manifest and what is there, or nil.
    public func difference(from found: [String: Entry]) -> String? {
        for (path, entry) in files.sorted(by: { $0.key < $1.key }) {
            guard let there = found[path] else { return "\(escaped(path)) is missing" }
            if there.size != entry.size { return "\(escaped(path)) has \(there.size) bytes instead of \(entry.size)" }
            if there != entry { return "\(escaped(path)) is damaged: its checksum is wrong" }
        }
        return found.keys.sorted().first { files[$0] == nil }.map { "\(escaped($0)) is not in its manifest" }
    }
}

extension Directory {
    /// Every file and link below, with its size and checksum; `prefix` stands before each path.
    public func measure(_ prefix: String = "") throws -> [String: BackupManifest.Entry] {
        var found: [String: BackupManifest.Entry] = [:]
        for name in try names() {
            guard let status = try status(name) else { continue }
            switch status.kind {
            case .directory: found.merge(try directory(name).measure(prefix + name + "/")) { first, _ in first }
            case .file: found[prefix + name] = try measureFile(name)
            case .link:
                var target = [UInt8](repeating: 0, count: 4096)
                let count = unsafe target.withUnsafeMutableBytes { bytes in
                    guard let base = bytes.baseAddress else { return -1 }
                    return unsafe readlinkat(descriptor, name, base, bytes.count)
                }
                guard count >= 0 else { throw failure(name) }
                found[prefix + name] = BackupManifest.Entry(
                    size: UInt64(count), sha256: Self.hex(SHA256.hash(data: target.prefix(count))), isLink: true)
            case .other: throw FileError(path: path + "/" + name, errno: EINVAL)
            }
        }
        return found
    }

    private func measureFile(_ name: String) throws -> BackupManifest.Entry {
        let file = unsafe openat(descriptor, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { throw failure(name) }
        defer { close(file) }
        var hash = SHA256()
        var size: UInt64 = 0
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        while true {
            let count = unsafe Glibc.read(file, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure(name) }
            if count == 0 { break }
            hash.update(data: buffer[..<count])
            size += UInt64(count)
        }
        return BackupManifest.Entry(size: size, sha256: Self.hex(hash.finalize()), isLink: false)
    }

    private static func hex(_ digest: SHA256.Digest) -> String { digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
}

/// Packs a copy of a state into one file, and makes a state of it again.
public struct BackupArchive: Sendable {
    private let tar: String
    private static let environment = ["LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]

    /// - Parameter tar: the program that packs and unpacks.
    public init(tar: String?) throws(Failure) {
        guard let tar else { throw .failed("tar", "The program tar, which packs the backup, is missing; run: apt-get install tar") }
        self.tar = tar
    }

    /// Packs `folder` (`data/`, `config/`) with its manifest. The file appears under its name when all of it is on the disk, mode 0600, or not at all.
    ///
    /// - Returns: how many bytes it has.
    public func pack(
        _ folder: String, release: String, schemas: [String: Int], createdAt: UInt64, to path: String
    ) throws(Failure) -> UInt64 {
        let shown = escaped(path)
        guard !fileExists(path) else { throw .failed("backup", "\(shown) exists already; name another file, or remove it.") }
        let partial = path + ".partial"
        do {
            let top = try Directory.open(folder)
            let manifest = BackupManifest(release: release, schemas: schemas, createdAt: createdAt, files: try top.measure())
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
            try top.replace(BackupManifest.name, with: Array(try encoder.encode(manifest)), owner: geteuid(), group: getegid(), mode: 0o600)
            let parent = try Directory.open(NodePaths.parent(of: absolute(path)))
            let before = umask(0o077)
            defer { umask(before) }
            unsafe unlink(partial)
            let child = try ChildProgram(
                [
                    tar, "--create", "--file=\(partial)", "--format=pax", "--numeric-owner", "--no-acls", "--no-selinux", "--no-xattrs",
                    "--hard-dereference", "--directory=\(folder)", "--",
                ] + [BackupManifest.name] + (try top.names().filter { $0 != BackupManifest.name }), environment: Self.environment)
            while try child.read() != nil {}
            guard child.wait() == 0 else {
                throw Failure.failed(
                    "backup", "\(shown) cannot be written (tar's words are above); see that its disk has room, then try again.")
            }
            return try parent.finish(partial, path)
        } catch let error as Failure {
            unsafe unlink(partial)
            throw error
        } catch {
            unsafe unlink(partial)
            throw .failed("backup", "\(shown) cannot be written, \(error); see that its disk has room, then try again.")
        }
    }

    /// Makes a state directory of a backup. Everything is unpacked beside, compared with the manifest, and only then moved to its place: a
    /// backup that is refused leaves nothing. The configuration comes to `restored-config/`, for ``NodeStart/configuration``.
    public func restore(_ file: String, state: String, knownSchemas: [String: Int]) throws(Failure) -> BackupManifest {
        let shown = escaped(file)
        guard fileExists(file) else { throw .usage("\(shown) does not exist; name a backup.") }
        var status = stat()
        if unsafe stat(absolute(file), &status) == 0, status.st_mode & S_IFMT != S_IFREG {
            throw .usage("\(shown) is no regular file, and is read twice; write the backup into one, and restore that.")
        }
        // What tar says of a file that it may not open would be taken for damage.
        do { _ = try FileReader(absolute(file)) } catch {
            throw .failed("restore", "\(shown) cannot be read, \(error); restore as its owner or as root.")
        }
        let folder = absolute(state)
        guard !StateDirectory.isInUse(folder) else {
            throw .failed("stateInUse", "A node runs on \(escaped(folder)); stop it, and restore into an empty folder.")
        }
        let present = ((try? Directory.open(folder).names()) ?? []).filter { $0 != "lock" && $0 != "lost+found" }
        guard present.isEmpty else {
            throw .failed(
                "stateNotEmpty",
                "\(escaped(folder)) is not empty (\(escaped(present[0]))); restore into an empty folder, or move this one away.")
        }
        // Holds the lock: no node starts on it meanwhile.
        let directory = try StateDirectory.open(folder)
        do {
            let staging = try directory.directory.directory(".restoring", creatingWithMode: 0o700)
            let manifest: BackupManifest
            do { manifest = try unpack(file, staging, knownSchemas) } catch {
                try? directory.directory.remove(".restoring")
                throw error
            }
            if try staging.status("config") != nil {
                try staging.directory("config").keepToRoot()
                try directory.directory.adopt("config", from: staging, as: "restored-config")
            }
            try directory.directory.adopt("data", from: staging, as: "data")
            try directory.directory.remove(".restoring")
            return manifest
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("restore", "\(shown) cannot be restored, \(error); nothing is to be used of \(escaped(folder)): remove it.")
        }
    }

    private func unpack(_ file: String, _ staging: Directory, _ knownSchemas: [String: Int]) throws -> BackupManifest {
        let shown = escaped(file)
        let noBackup = Failure.failed(
            "badBackup",
            "\(shown) is no backup of Bulkhead, or it is damaged: it has no manifest. One is made by: bulkhead backup FILE. Nothing was restored."
        )
        // Whether it has a manifest is asked first: tar's words about what is no archive at all help nobody.
        let listed = try ChildProgram.run(
            [tar, "--list", "--file=\(absolute(file))", "--occurrence=1", "--", BackupManifest.name], environment: Self.environment)
        guard listed.output == BackupManifest.name + "\n" else { throw noBackup }
        let child = try ChildProgram(
            [
                tar, "--extract", "--file=\(absolute(file))", "--numeric-owner", "--same-owner", "--preserve-permissions", "--no-acls",
                "--no-selinux", "--no-xattrs", "--directory=\(staging.path)",
            ], environment: Self.environment)
        while try child.read() != nil {}
        let code = child.wait()
        guard let bytes = try? staging.read(BackupManifest.name, limit: 256 << 20),
            let manifest = try? JSONDecoder().decode(BackupManifest.self, from: Data(bytes))
        else { throw noBackup }
        guard manifest.schemas[TenantArchive.schemaName] == nil else {
            throw Failure.usage("\(shown) is the archive of one tenant; take it in with: bulkhead import")
        }
        if let objection = manifest.objection(knownSchemas: knownSchemas) {
            throw Failure.failed(
                "newerBackup",
                "\(shown) was made by a newer release (\(escaped(manifest.release))): \(objection). Install that release. "
                    + "Nothing was restored.")
        }
        guard code == 0 else {
            throw Failure.failed(
                "badBackup",
                "\(shown) cannot be unpacked whole (tar's words are above): it is damaged, or the disk is full. Nothing was restored.")
        }
        try staging.remove(BackupManifest.name)
        if let difference = manifest.difference(from: try staging.measure()) {
            throw Failure.failed("badBackup", "\(shown) is damaged: \(difference). Nothing was restored.")
        }
        guard manifest.files["data/bulkhead.sqlite"] != nil else {
            throw Failure.failed("badBackup", "\(shown) holds no state: data/bulkhead.sqlite is missing. Nothing was restored.")
        }
        return manifest
    }
}

extension Directory {
    /// Forces a file to the disk and gives it its name. Returns its size.
    fileprivate func finish(_ partial: String, _ path: String) throws -> UInt64 {
        let file = unsafe Glibc.open(partial, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw FileError(path: partial, errno: errno) }
        defer { close(file) }
        // link(2) and not rename(2): a file that has come under the name meanwhile stays.
        guard fsync(file) == 0, unsafe Glibc.link(partial, path) == 0 else { throw FileError(path: path, errno: errno) }
        unsafe unlink(partial)
        guard fsync(descriptor) == 0 else { throw FileError(path: path, errno: errno) }
        return UInt64(max(0, lseek(file, 0, SEEK_END)))
    }

    /// Moves an entry of another directory here.
    fileprivate func adopt(_ name: String, from other: Directory, as new: String) throws(FileError) {
        guard unsafe renameat(other.descriptor, name, descriptor, new) == 0, fsync(descriptor) == 0 else { throw other.failure(name) }
    }

    /// A configuration holds secrets.
    fileprivate func keepToRoot() throws(FileError) {
        try own(geteuid(), getegid(), mode: 0o700)
        for name in try names() {
            if try status(name)?.kind == .directory {
                try directory(name).keepToRoot()
            } else {
                guard unsafe fchownat(descriptor, name, geteuid(), getegid(), AT_SYMLINK_NOFOLLOW) == 0 else { throw failure(name) }
            }
        }
    }
}
