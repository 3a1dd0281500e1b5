// SPDX-License-Identifier: Apache-2.0
import CSandbox
public import Core
import Glibc

/// The buckets of a tenant that one worker is to see, each at `/buckets/NAME`.
public struct Buckets: Hashable, Sendable {
    /// The directory that all buckets are in, as `TENANT/NAME`.
    public var root: String
    /// Who owns every file and directory in them, on the disk.
    public var ownerUID: UInt32
    public var ownerGID: UInt32
    public var tenant: Name
    public var grants: [BucketGrant]

    public init(root: String, ownerUID: UInt32, ownerGID: UInt32, tenant: Name, grants: [BucketGrant]) {
        self.root = root
        self.ownerUID = ownerUID
        self.ownerGID = ownerGID
        self.tenant = tenant
        self.grants = grants
    }

    /// One mount of a worker: `path` is inside the bucket.
    struct Mount: Hashable {
        var bucket: Name
        var path: String
        var isWritable: Bool
        var target: String { "/buckets/\(bucket)" + (path.isEmpty ? "" : "/" + path) }
    }

    /// In the order in which they are made. A writable directory of a bucket is a mount of its own on top of a read-only one.
    static func mounts(_ grants: [BucketGrant]) -> [Mount] {
        grants.flatMap { grant in
            let whole = Mount(bucket: grant.bucket, path: "", isWritable: grant.isWritable && grant.prefix.isEmpty)
            guard !grant.prefix.isEmpty else { return [whole] }
            // By bytes, as the kernel reads it; a prefix ends with a slash.
            let path = String(decoding: grant.prefix.utf8.dropLast(), as: UTF8.self)
            return [whole, Mount(bucket: grant.bucket, path: path, isWritable: grant.isWritable)]
        }
    }
}

/// A worker's buckets as mounts that nobody sees yet; closed with the value.
@safe final class BucketMounts {
    let list: UnsafeMutablePointer<sbx_bucket>
    let count: Int
    private var folder: Int32 = -1

    /// Of no buckets where there are none.
    init(_ buckets: Buckets?, for worker: UInt32, failStage: UInt32) throws(SandboxFailure) {
        let mounts = Buckets.mounts(buckets?.grants ?? [])
        count = mounts.count
        unsafe list = .allocate(capacity: max(1, mounts.count))
        for (index, mount) in mounts.enumerated() {
            let source = "\(buckets?.tenant.text ?? "")/\(mount.bucket)" + (mount.path.isEmpty ? "" : "/" + mount.path)
            unsafe list[index] = unsafe sbx_bucket(
                source: strdup(source), target: strdup(mount.target), is_writable: mount.isWritable ? 1 : 0, tree_fd: -1)
        }
        guard let buckets, !mounts.isEmpty else { return }
        let root = unsafe open(buckets.root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard root >= 0 else { throw SandboxFailure("open the folder of all buckets", errno: errno) }
        defer { close(root) }
        var ids = sbx_bucket_ids(uid: buckets.ownerUID, gid: buckets.ownerGID, worker: worker)
        var which = 0
        let stage = unsafe sbx_buckets_open(root, &ids, list, count, failStage, &which)
        guard stage == 0 else {
            let error = errno
            let mount = mounts[min(which, mounts.count - 1)]
            throw SandboxFailure(stage: stage, errno: error, subject: "\(mount.bucket)" + (mount.path.isEmpty ? "" : "/" + mount.path))
        }
    }

    /// The small file system that has their mount points; stays this value's.
    func folder(failStage: UInt32) throws(SandboxFailure) -> Int32 {
        let error = failStage == SBX_BUCKET_FOLDER.rawValue ? EREMOTEIO : unsafe sbx_bucket_folder(list, count, &folder)
        guard error == 0 else { throw SandboxFailure(stage: SBX_BUCKET_FOLDER.rawValue, errno: error) }
        return folder
    }

    deinit {
        if folder >= 0 { close(folder) }
        for index in 0..<count {
            let bucket = unsafe list[index]
            if unsafe bucket.tree_fd >= 0 { unsafe close(bucket.tree_fd) }
            unsafe free(UnsafeMutablePointer(mutating: bucket.source))
            unsafe free(UnsafeMutablePointer(mutating: bucket.target))
        }
        unsafe list.deallocate()
    }
}
