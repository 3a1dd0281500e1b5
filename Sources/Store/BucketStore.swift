// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Glibc
public import Kernel
import Synchronization

/// Buckets: directories `TENANT/NAME`, whose files are the objects. Workers that are granted a bucket have it mounted and may at any time do to it whatever file permissions allow,
/// so nothing in it is trusted: see ``HostileFiles``. Every call blocks for the disk.
public final class BucketStore: Sendable {
    /// Buckets of one tenant.
    public static let bucketLimit = 100
    /// The largest object that is put, in bytes.
    public static let objectLimit: UInt64 = 5 << 30

    public let directory: String
    public let usage: BucketUsage
    private let lastNumber = Atomic<UInt64>(0)

    /// - Parameter defaultQuota: bytes over all buckets of a tenant that has no quota of its own.
    public init(directory: String, defaultQuota: UInt64 = 1 << 30) throws(StoreError) {
        self.directory = directory
        usage = BucketUsage(defaultQuota: defaultQuota)
        guard unsafe mkdir(directory, 0o700) == 0 || errno == EEXIST else {
            throw StoreError("the folder \(directory) cannot be made: \(KernelError("mkdir")). Check that the state directory is writable")
        }
        for tenant in tenants() { clean(tenant) }
    }

    /// Where a bucket's files are.
    public func path(_ bucket: BucketID) -> String { "\(directory)/\(bucket.tenant)/\(bucket.bucket)" }

    // MARK: buckets

    private func names(_ path: String) -> [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }

    /// Tenants that have, or had, buckets.
    public func tenants() -> [Name] { names(directory).compactMap { Name($0) } }

    public func buckets(_ tenant: Name) -> [BucketID] {
        names("\(directory)/\(tenant)").compactMap { Name($0) }.map { BucketID(tenant: tenant, bucket: $0) }
    }

    public func exists(_ bucket: BucketID) -> Bool {
        var status = stat()
        return unsafe lstat(path(bucket), &status) == 0
    }

    /// The bucket's directory.
    func open(_ bucket: BucketID) throws(BucketError) -> OwnedFD {
        do throws(KernelError) { return try HostileFiles.top(path(bucket)) } catch {
            if error.number == ENOENT { throw .noBucket(bucket) }
            throw .failed("the bucket \(bucket) cannot be opened: \(error)")
        }
    }

    public func create(_ bucket: BucketID) throws(BucketError) {
        guard buckets(bucket.tenant).count < Self.bucketLimit else { throw .tooManyBuckets(limit: Self.bucketLimit) }
        let folder = "\(directory)/\(bucket.tenant)"
        unsafe mkdir(folder, 0o700)
        guard unsafe mkdir(path(bucket), 0o700) == 0 else {
            if errno == EEXIST { throw .bucketExists(bucket) }
            throw .failed("the bucket \(bucket) cannot be made: \(KernelError("mkdir")). Check that the disk has room")
        }
        do throws(KernelError) {
            for path in [folder, directory] { try HostileFiles.flush(try HostileFiles.top(path)) }
        } catch { throw .failed("the bucket \(bucket) cannot be made: \(error)") }
        usage.finish(bucket, began: 0, bytes: 0, objects: 0, isUnknown: false)
    }

    /// Takes the bucket away at once and then removes what is in it. `force`: whatever that is. Workers that have it mounted find it gone.
    public func delete(_ bucket: BucketID, force: Bool) throws(BucketError) {
        let place = try open(bucket)
        do throws(KernelError) {
            let tenant = try HostileFiles.top("\(directory)/\(bucket.tenant)")
            let name = Array(bucket.bucket.text.utf8)
            if force {
                let trash = Array(".\(bucket.bucket).trash-\(next())".utf8)
                try HostileFiles.rename(name, in: tenant, to: trash, in: tenant)
                Self.empty(place)
                try HostileFiles.remove(trash, in: tenant, isFolder: true)
            } else {
                try HostileFiles.remove(name, in: tenant, isFolder: true)
            }
            try HostileFiles.flush(tenant)
        } catch {
            switch error.number {
            case ENOTEMPTY where force: break  // A worker still writes; the next start finishes.
            case ENOTEMPTY, EEXIST: throw .notEmpty(bucket)
            case ENOENT: throw .noBucket(bucket)
            default: throw .failed("the bucket \(bucket) cannot be deleted: \(error)")
            }
        }
        usage.forget(bucket)
    }

    /// Removes everything in a directory, however deep: each directory below is first moved to the top, so that no path grows.
    private static func empty(_ top: borrowing OwnedFD) {
        var moved = 0
        // A worker that goes on making names must not keep us here for ever.
        let end = FileClock.nanoseconds() + 300_000_000_000
        while FileClock.nanoseconds() < end {
            var folders: [[UInt8]] = [], found = 0
            var walk = FolderWalk()
            while !walk.isDone, folders.count < 10_000 {
                walk.step(in: top, limit: 1000) { path, _ in
                    found += 1
                    folders.append(path)
                    return .skip
                } file: { path, _ in
                    found += 1
                    try? HostileFiles.remove(path, in: top)
                    return true
                }
            }
            if found == 0 { return }
            for name in folders { flatten(name, in: top, &moved) }
        }
    }

    private static func flatten(_ name: [UInt8], in top: borrowing OwnedFD, _ moved: inout Int) {
        guard let folder = try? HostileFiles.folder(name, in: top) else { return }
        var number = moved
        var walk = FolderWalk()
        while !walk.isDone {
            walk.step(in: folder, limit: 1000) { path, _ in
                number += 1
                try? HostileFiles.rename(path, in: folder, to: Array(".moved-\(number)-\(UInt64.random(in: 0 ... .max))".utf8), in: top)
                return .skip
            } file: { path, _ in
                try? HostileFiles.remove(path, in: folder)
                return true
            }
        }
        moved = number
        try? HostileFiles.remove(name, in: top, isFolder: true)
    }

    /// What a crash left: unfinished writes and deletions.
    private func clean(_ tenant: Name) {
        for name in names("\(directory)/\(tenant)") where name.hasPrefix(".") {
            guard let folder = try? HostileFiles.top("\(directory)/\(tenant)/\(name)") else { continue }
            Self.empty(folder)
            unsafe rmdir("\(directory)/\(tenant)/\(name)")
        }
    }

    // MARK: objects

    func next() -> UInt64 { lastNumber.add(1, ordering: .relaxed).newValue }

    /// Begins to write an object, which shows only when it is whole.
    /// - Parameter length: bytes where they are known, so that what cannot fit is refused at once.
    public func write(_ key: ObjectKey, in bucket: BucketID, length: UInt64? = nil) throws(BucketError) -> ObjectWriter {
        try ObjectWriter(self, bucket, key, length)
    }

    @discardableResult public func put(_ bytes: [UInt8], _ key: ObjectKey, in bucket: BucketID) throws(BucketError) -> FileFacts {
        let writer = try write(key, in: bucket, length: UInt64(bytes.count))
        try writer.write(bytes)
        return try writer.commit()
    }

    /// Opens an object. What was opened is read to its end whatever becomes of its name.
    public func read(_ key: ObjectKey, in bucket: BucketID) throws(BucketError) -> ObjectReader {
        let top = try open(bucket)
        do throws(KernelError) { return ObjectReader(try HostileFiles.open(key.bytes, in: top)) } catch { throw .of(error, bucket, key) }
    }

    /// Makes a directory of the bucket where it is missing, with those above it; `prefix` may end with a slash.
    public func makeDirectory(_ prefix: String, in bucket: BucketID) throws(BucketError) {
        let top = try open(bucket)
        let parts = prefix.utf8.split(separator: 0x2F)
        for count in 1...max(1, parts.count) where !parts.isEmpty {
            let path = Array(parts.prefix(count).joined(separator: [0x2F]))
            do throws(KernelError) { _ = try HostileFiles.makeFolder(path, in: top) } catch {
                throw .failed("the directory \(prefix) of the bucket \(bucket) cannot be made: \(error)")
            }
        }
    }

    public func remove(_ key: ObjectKey, in bucket: BucketID) throws(BucketError) {
        let top = try open(bucket)
        do throws(KernelError) {
            let folder = try HostileFiles.folder(key.folder, in: top)
            guard let facts = HostileFiles.look(key.name, in: folder), facts.isRegular else { throw KernelError("look", number: ENOENT) }
            try HostileFiles.remove(key.name, in: folder)
            try HostileFiles.flush(folder)
            usage.add(-Int64(clamping: max(BucketUsage.leastCharge, facts.allocated)), to: bucket)
        } catch { throw .of(error, bucket, key) }
    }

    /// Gives an object another key in its bucket; what had that key before is gone.
    public func move(_ key: ObjectKey, to new: ObjectKey, in bucket: BucketID) throws(BucketError) {
        let top = try open(bucket)
        do throws(KernelError) {
            let from = try HostileFiles.folder(key.folder, in: top)
            guard let facts = HostileFiles.look(key.name, in: from), facts.isRegular else { throw KernelError("look", number: ENOENT) }
            let to = try HostileFiles.makeFolder(new.folder, in: top)
            try HostileFiles.rename(key.name, in: from, to: new.name, in: to)
            try HostileFiles.flush(to)
            try HostileFiles.flush(from)
        } catch { throw .of(error, bucket, key) }
    }
}
