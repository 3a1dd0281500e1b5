// SPDX-License-Identifier: Apache-2.0
public import Core
import Glibc
import Kernel

/// Why something could not be done to a bucket or an object.
public enum BucketError: Error, Hashable, Sendable, CustomStringConvertible {
    case noBucket(BucketID)
    case noObject(BucketID, ObjectKey)
    case bucketExists(BucketID)
    case notEmpty(BucketID)
    /// Something else has the name, or a worker is changing it right now.
    case conflict(String)
    case tooManyBuckets(limit: Int)
    /// Bytes over all buckets of the tenant.
    case overQuota(tenant: Name, used: UInt64, allowed: UInt64)
    case tooLarge(limit: UInt64)
    case badCursor
    case failed(String)

    public var description: String {
        switch self {
        case .noBucket(let bucket): "there is no bucket \(bucket)"
        case .noObject(let bucket, let key): "there is no object \(bucket)/\(key)"
        case .bucketExists(let bucket): "there is a bucket \(bucket) already"
        case .notEmpty(let bucket): "the bucket \(bucket) is not empty: delete what is in it first, or force it"
        case .conflict(let what): what
        case .tooManyBuckets(let limit): "a tenant has at most \(limit) buckets"
        case .overQuota(let tenant, let used, let allowed):
            "tenant \(tenant) uses \(used) bytes in its buckets and may use \(allowed) (quota: buckets): delete objects"
        case .tooLarge(let limit): "an object has at most \(limit) bytes"
        case .badCursor: "the cursor is none that a listing gave"
        case .failed(let why): why
        }
    }

    /// What a refusal of the kernel means for an object.
    static func of(_ error: KernelError, _ bucket: BucketID, _ key: ObjectKey) -> BucketError {
        switch error.number {
        case ENOENT, ELOOP, ENXIO: .noObject(bucket, key)
        case ENOTDIR, EISDIR, ENOTEMPTY, EEXIST, EXDEV:
            .conflict("\(bucket)/\(key) cannot be an object: a part of its key is an object or a folder already")
        case EACCES, EPERM: .conflict("\(bucket)/\(key) is locked by the permissions that a worker gave it")
        default: .failed("\(bucket)/\(key): \(error)")
        }
    }
}
