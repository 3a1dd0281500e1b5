// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import Wire

/// Where the tenants' files are: in the folder `tenants.d`, or in root's copy of it, which is one file (``Wire/TenantBundle``).
enum TenantSource: Sendable {
    case folder(String, names: [String])
    case bundle(BundleFile)

    /// What tells a file from what it was before.
    enum Stamp: Hashable, Sendable {
        case file(inode: UInt64, size: Int64, seconds: Int64, nanoseconds: Int64)
        case copy(TenantBundle.Stamp)
    }

    /// Nil where there is neither. One that cannot be read is not taken for one that is not there: that would drop every tenant.
    static func open(_ path: String) -> Result<TenantSource?, ConfigurationError> {
        var info = stat()
        guard unsafe stat(path, &info) == 0 else {
            return errno == ENOENT ? .success(nil) : .failure(unreadable(path))
        }
        if info.st_mode & S_IFMT == S_IFREG {
            do throws(WireError) { return .success(.bundle(try BundleFile(path))) } catch {
                return .failure(
                    ConfigurationError(file: path, sentence: "\(error): have the node's configuration copied anew with `bulkhead reload`"))
            }
        }
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: path) else { return .failure(unreadable(path)) }
        return .success(.folder(path, names: names.filter { $0.hasSuffix(".yaml") }.sorted()))
    }

    private static func unreadable(_ path: String) -> ConfigurationError {
        ConfigurationError(file: path, sentence: "the folder cannot be read: check its permissions")
    }

    var names: [String] {
        switch self {
        case .folder(_, let names): names
        case .bundle(let file): file.entries.map(\.name)
        }
    }

    /// The stamp of the file at a place, and whether it can be told by that from what it may become.
    func stamp(_ index: Int, now: Int) -> (stamp: Stamp, isSettled: Bool)? {
        switch self {
        case .folder(let path, let names):
            var info = stat()
            guard unsafe stat(path + "/" + names[index], &info) == 0 else { return nil }
            let stamp = Stamp.file(
                inode: UInt64(info.st_ino), size: Int64(info.st_size), seconds: Int64(info.st_mtim.tv_sec),
                nanoseconds: Int64(info.st_mtim.tv_nsec))
            return (stamp, info.st_mtim.tv_sec < now - 1)
        case .bundle(let file): return file.entries[index].stamp.map { (.copy($0), true) }
        }
    }

    /// What the file at a place says.
    func bytes(_ index: Int) -> Result<[UInt8], ConfigurationError> {
        switch self {
        case .folder(let path, let names): TenantFiles.read(path + "/" + names[index])
        case .bundle(let file):
            if let bytes = file.bytes(index) {
                .success(bytes)
            } else {
                .failure(ConfigurationError(file: file.path, sentence: "the file is empty or cannot be read"))
            }
        }
    }
}

/// An open bundle: its index, and its contents as they are asked for.
final class BundleFile: Sendable {
    let path: String
    let entries: [TenantBundle.Entry]
    /// Where the contents of each begin in the file.
    private let places: [Int]
    private let descriptor: Int32

    init(_ path: String) throws(WireError) {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { throw WireError("the file cannot be read") }
        do throws(WireError) {
            guard let first = Self.read(file, 0, TenantBundle.headLength) else { throw WireError("this is no bundle of tenants' files") }
            let head = try TenantBundle.head(first[...])
            let start = TenantBundle.headLength + head.indexLength
            guard let index = Self.read(file, TenantBundle.headLength, head.indexLength) else {
                throw WireError("the bundle ends inside its index")
            }
            entries = try TenantBundle.entries(index[...], head, contents: Int(lseek(file, 0, SEEK_END)) - start)
            var places: [Int] = [], place = start
            places.reserveCapacity(entries.count)
            for entry in entries {
                places.append(place)
                place += entry.length
            }
            self.places = places
        } catch {
            close(file)
            throw error
        }
        descriptor = file
        self.path = path
    }
    deinit { close(descriptor) }

    func bytes(_ index: Int) -> [UInt8]? { Self.read(descriptor, places[index], entries[index].length) }

    /// Exactly so many bytes from a place on; nil where there are less.
    private static func read(_ file: Int32, _ place: Int, _ count: Int) -> [UInt8]? {
        var info = stat()
        // Before memory is taken for them.
        guard count > 4096 ? unsafe fstat(file, &info) == 0 && info.st_size >= place + count : true else { return nil }
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let part = unsafe bytes.withUnsafeMutableBytes { all in
                unsafe pread(file, all.baseAddress.map { unsafe $0 + done }, count - done, off_t(place + done))
            }
            if part < 0, errno == EINTR { continue }
            guard part > 0 else { return nil }
            done += part
        }
        return bytes
    }
}

/// Root's copy of `tenants.d` as files again, for people.
public enum TenantCopy {
    /// Puts a folder with the files in the place of a bundle, where there is one.
    public static func unpack(_ path: String) throws {
        let source = try TenantSource.open(path).get()
        guard case .bundle(let file) = source else { return }
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
        for (index, entry) in file.entries.enumerated() {
            guard let bytes = file.bytes(index),
                FileManager.default.createFile(
                    atPath: path + "/" + entry.name, contents: Data(bytes), attributes: [.posixPermissions: 0o600])
            else { throw CocoaError(.fileWriteUnknown) }
        }
    }
}
