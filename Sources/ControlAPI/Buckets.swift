// SPDX-License-Identifier: Apache-2.0

/// A bucket, as `GET /v1/tenants/T/buckets` lists it.
public struct BucketReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var bucket: String
    /// As last counted; what workers wrote since is not in it.
    public var objects: UInt64
    /// What it takes on the disk, at least 4 KiB for each name.
    public var bytes: UInt64
    /// Over all buckets of the tenant, and allowed (quota: buckets).
    public var tenantBytes: UInt64
    public var tenantLimitBytes: UInt64

    public init(tenant: String, bucket: String, objects: UInt64, bytes: UInt64, tenantBytes: UInt64, tenantLimitBytes: UInt64) {
        self.tenant = tenant
        self.bucket = bucket
        self.objects = objects
        self.bytes = bytes
        self.tenantBytes = tenantBytes
        self.tenantLimitBytes = tenantLimitBytes
    }
}

/// An object of a bucket.
public struct ObjectReply: Codable, Hashable, Sendable {
    public var key: String
    public var size: UInt64
    /// Milliseconds since 1970.
    public var modifiedAt: UInt64
    /// Differs where the content may differ.
    public var etag: String

    public init(key: String, size: UInt64, modifiedAt: UInt64, etag: String) {
        self.key = key
        self.size = size
        self.modifiedAt = modifiedAt
        self.etag = etag
    }
}

/// Some objects of a bucket, in no order that means anything.
public struct ObjectPage: Codable, Hashable, Sendable {
    public var objects: [ObjectReply]
    /// For `?after=`; nil on the last page. A page may be short, even empty, and not be the last.
    public var next: String?

    public init(objects: [ObjectReply], next: String?) {
        self.objects = objects
        self.next = next
    }
}
