// SPDX-License-Identifier: Apache-2.0

import Core
import Crypto
import Foundation
import Glibc

/// What `about.json` of a tenant's archive says.
public struct TenantArchiveAbout: Codable, Hashable, Sendable {
    public var tenant: String
    /// Names of secrets that the tenant has and the archive has not.
    public var secretsLeftOut: [String]
    public var hasBuckets: Bool
    public init(tenant: String, secretsLeftOut: [String], hasBuckets: Bool) {
        self.tenant = tenant
        self.secretsLeftOut = secretsLeftOut
        self.hasBuckets = hasBuckets
    }
}

/// One tenant in one file: `manifest.json`, `about.json`, `quota.yaml`, `tenant.json`, `code/HASH.tar`, `secrets/NAME`, `buckets/BUCKET/KEY`. It is packed as a backup is, and read as
/// what it is: something that anybody may have written.
public enum TenantArchive {
    /// The archive's own schema, in its manifest.
    public static let schemaName = "tenant.json"
    /// Bounds of what is read. In files, and in bytes of the manifest and of any other small file.
    public static let fileLimit = 500_000
    static let manifestLimit: UInt64 = 128 << 20
    static let smallLimit: UInt64 = 64 << 20
    /// What is left of a disk at least, in bytes.
    static let spare: UInt64 = 64 << 20

    /// Unpacks an archive into an empty folder, compared with its manifest entry by entry. Throws a ``Failure`` for an archive that is damaged, cut off, hostile or newer, and where
    /// the disk has no room; the folder is then to be removed.
    public static func unpack(_ path: String, into folder: Directory, schema: Int) throws(Failure) -> TenantArchiveAbout {
        let shown = escaped(path)
        let file = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw .usage("\(shown) cannot be read, \(errorText(errno)); name a tenant's archive.") }
        defer { close(file) }
        do {
            var reader = TarReader(file)
            let manifest = try readManifest(&reader, shown, schema)
            try checkRoom(manifest, folder)
            try copy(&reader, manifest, folder)
            guard
                let about = try? JSONDecoder().decode(
                    TenantArchiveAbout.self, from: Data(try folder.read("about.json", limit: Int(smallLimit)))),
                Name(about.tenant) != nil
            else { throw TarReader.Problem(sentence: "its about.json cannot be read") }
            return about
        } catch let problem as TarReader.Problem {
            throw .failed("badArchive", "\(shown) is refused: \(problem.sentence). Nothing was imported.")
        } catch let error as FileError where [ENOSPC, EDQUOT].contains(error.errno) {
            throw .failed("diskFull", "\(shown) does not fit: the disk is full. Free some space, then try again. Nothing was imported.")
        } catch let failure as Failure {
            throw failure
        } catch {
            throw .failed("badArchive", "\(shown) cannot be unpacked, \(error). Nothing was imported.")
        }
    }

    private static func readManifest(_ reader: inout TarReader, _ shown: String, _ schema: Int) throws -> BackupManifest {
        guard let first = try reader.next(), first.path == BackupManifest.name, !first.isFolder, first.size <= manifestLimit else {
            throw TarReader.Problem(sentence: "it does not begin with a manifest")
        }
        var bytes: [UInt8] = []
        while let part = try reader.read() { bytes += part }
        guard let manifest = try? JSONDecoder().decode(BackupManifest.self, from: Data(bytes)) else {
            throw TarReader.Problem(sentence: "its manifest cannot be read")
        }
        guard let found = manifest.schemas[schemaName] else {
            throw Failure.usage("\(shown) is no tenant's archive; a node's backup is restored with: bulkhead restore")
        }
        guard manifest.format <= BackupManifest.currentFormat, found <= schema else {
            throw Failure.failed(
                "newerArchive",
                "\(shown) was made by a newer release (\(escaped(manifest.release)), form \(manifest.format).\(found)), and this one knows "
                    + "\(BackupManifest.currentFormat).\(schema). Install that release. Nothing was imported.")
        }
        guard manifest.files.count <= fileLimit else {
            throw TarReader.Problem(sentence: "it lists \(manifest.files.count) files, and at most \(fileLimit) are taken")
        }
        for path in ["about.json", "quota.yaml", "tenant.json"] where manifest.files[path] == nil {
            throw TarReader.Problem(sentence: "\(path) is missing")
        }
        for (path, entry) in manifest.files {
            guard isPlace(path), !entry.isLink else {
                throw TarReader.Problem(sentence: "its manifest names \(escaped(path)), which is no part of it")
            }
            guard path.contains("/") || entry.size <= smallLimit else { throw TarReader.Problem(sentence: "\(escaped(path)) is too large") }
        }
        return manifest
    }

    /// What may be in an archive.
    private static func isPlace(_ path: String) -> Bool {
        if ["about.json", "quota.yaml", "tenant.json"].contains(path) { return true }
        let parts = path.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false).map(String.init)
        switch (parts.first, parts.count) {
        case ("code", 2):
            return parts[1].hasSuffix(".tar") && parts[1].utf8.count == 68
                && parts[1].utf8.dropLast(4).allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
        case ("secrets", 2):
            return !parts[1].isEmpty && parts[1].utf8.count <= 200
                && parts[1].utf8.allSatisfy { (48...57).contains($0) || (65...90).contains($0 & 0xDF) || $0 == 0x5F }
        case ("buckets", 3): return Name(parts[1]) != nil && ObjectKey(parts[2]) != nil
        default: return false
        }
    }

    private static func checkRoom(_ manifest: BackupManifest, _ folder: Directory) throws {
        var needed = spare
        for entry in manifest.files.values {
            let (sum, overflow) = needed.addingReportingOverflow((entry.size | 4095) &+ 1)
            guard !overflow, entry.size <= 1 << 50 else { throw TarReader.Problem(sentence: "its manifest names impossible sizes") }
            needed = sum
        }
        var info = statvfs()
        guard unsafe fstatvfs(folder.descriptor, &info) == 0 else { return }
        let free = UInt64(info.f_bavail) * UInt64(info.f_frsize)
        guard free >= needed, UInt64(info.f_favail) > UInt64(manifest.files.count) || info.f_files == 0 else {
            throw Failure.failed(
                "diskFull",
                "The archive needs \(Units.bytes(needed)) of the disk of \(escaped(folder.path)), which has \(Units.bytes(free)) left. "
                    + "Free some space, then try again. Nothing was imported.")
        }
    }

    private static func copy(_ reader: inout TarReader, _ manifest: BackupManifest, _ folder: Directory) throws {
        var missing = manifest.files
        var folders = 0
        while let entry = try reader.next() {
            if entry.isFolder {
                folders += 1
                guard folders <= fileLimit else { throw TarReader.Problem(sentence: "it holds too many folders") }
                continue
            }
            guard let wanted = missing.removeValue(forKey: entry.path) else {
                throw TarReader.Problem(sentence: "\(escaped(entry.path)) is not in its manifest, or there twice")
            }
            guard wanted.size == entry.size else {
                throw TarReader.Problem(sentence: "\(escaped(entry.path)) has another size than its manifest says")
            }
            var hash = SHA256()
            try folder.write(entry.path) {
                guard let part = try reader.read() else { return nil }
                hash.update(data: part)
                return part
            }
            guard wanted.sha256 == hash.finalize().map({ ($0 < 16 ? "0" : "") + String($0, radix: 16) }).joined() else {
                throw TarReader.Problem(sentence: "\(escaped(entry.path)) is damaged: its checksum is wrong")
            }
        }
        if let path = missing.keys.min() { throw TarReader.Problem(sentence: "\(escaped(path)) is missing") }
    }
}

extension Directory {
    /// Writes a new file at a path below, with the folders on the way, for its owner alone.
    fileprivate func write(_ path: String, _ next: () throws -> [UInt8]?) throws {
        var parts = path.split(separator: "/").map(String.init)
        let name = parts.removeLast()
        var place = self
        for part in parts { place = try place.directory(part, creatingWithMode: 0o700) }
        let file = unsafe openat(place.descriptor, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw place.failure(name) }
        defer { close(file) }
        while let bytes = try next() {
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(file, $0.baseAddress, $0.count) }
                if count < 0, Glibc.errno == EINTR { continue }
                guard count > 0 else { throw place.failure(name) }
                rest = rest.dropFirst(count)
            }
        }
    }

    /// Gives everything below, and the directory itself, to another owner.
    public func give(to owner: UInt32, _ group: UInt32) throws(FileError) {
        for name in try names() {
            if try status(name)?.kind == .directory { try directory(name).give(to: owner, group) }
            guard unsafe fchownat(descriptor, name, owner, group, AT_SYMLINK_NOFOLLOW) == 0 else { throw failure(name) }
        }
        guard fchown(descriptor, owner, group) == 0 else { throw failure(nil) }
    }

    /// Moves an entry into another directory of the same disk, under a name that is free there.
    public func move(_ name: String, to other: Directory) throws(FileError) {
        guard try other.status(name) == nil else { throw FileError(path: other.path + "/" + name, errno: EEXIST) }
        guard unsafe renameat(descriptor, name, other.descriptor, name) == 0 else { throw failure(name) }
    }
}
