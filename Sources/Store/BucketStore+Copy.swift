// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Glibc
import Kernel

extension BucketStore {
    /// Copies a bucket's objects into a folder of ours that no worker sees. Each is as it was at some moment of the copying; what goes meanwhile is left out, and so is what is no object.
    public func copy(_ bucket: BucketID, to folder: String) throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        var cursor: String?
        repeat {
            let page = try list(bucket, prefix: "", after: cursor, limit: Self.pageLimit)
            for object in page.objects {
                let reader: ObjectReader
                do throws(BucketError) { reader = try read(object.key, in: bucket) } catch {
                    if case .noObject = error { continue }
                    throw error
                }
                try Self.write(reader, to: folder + "/" + object.key.text)
            }
            cursor = page.next
        } while cursor != nil
    }

    private static func write(_ reader: ObjectReader, to path: String) throws {
        let parent = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        try? FileManager.default.createDirectory(atPath: parent, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        let file = unsafe Glibc.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else {
            // A folder became an object, or the other way round, while we looked at others.
            if [ENOTDIR, EEXIST, EISDIR, ENOENT].contains(errno) { return }
            throw StoreError("a bucket cannot be copied: \(KernelError("open")). Check that the disk has room")
        }
        defer { close(file) }
        var offset: UInt64 = 0
        while true {
            let bytes = try reader.read(at: offset, limit: 1 << 20)
            if bytes.isEmpty { return }
            guard unsafe Glibc.write(file, bytes, bytes.count) == bytes.count else {
                throw StoreError("a bucket cannot be copied: \(KernelError("write")). Check that the disk has room")
            }
            offset += UInt64(bytes.count)
        }
    }

    /// Takes a folder of buckets in for a tenant that has none: all of it at once, by its name.
    public func adopt(_ folder: String, for tenant: Name) throws(StoreError) {
        let target = "\(directory)/\(tenant)"
        unsafe rmdir(target)
        guard unsafe rename(folder, target) == 0 else {
            throw StoreError("the buckets of \(tenant) cannot be taken in: \(KernelError("rename"))")
        }
        if let top = try? HostileFiles.top(directory) { try? HostileFiles.flush(top) }
        for bucket in buckets(tenant) { measure(bucket) }
    }

    /// Removes all buckets of a tenant.
    public func removeAll(of tenant: Name) throws(BucketError) {
        for bucket in buckets(tenant) { try delete(bucket, force: true) }
        unsafe rmdir("\(directory)/\(tenant)")
    }
}
