// SPDX-License-Identifier: Apache-2.0
public import Core

/// The buckets of its tenant that a worker is to see. What a peer sent is valid by construction: names are names and prefixes are plain paths.
public struct BucketAccess: Hashable, Sendable {
    /// The most buckets that one function may have.
    public static let maximumGrants = 16
    /// The longest prefix, in bytes.
    public static let maximumPrefix = 255

    public let tenant: Name
    /// Never empty; each of another bucket.
    public let grants: [BucketGrant]

    /// Nil where there are no grants.
    public init?(tenant: Name, grants: [BucketGrant]) {
        guard !grants.isEmpty else { return nil }
        self.tenant = tenant
        self.grants = grants
    }

    /// What is wrong with a grant's prefix; nil where nothing is. By bytes, as the kernel reads a path.
    static func objection(toPrefix prefix: String, isWritable: Bool) -> String? {
        guard !prefix.isEmpty else { return nil }
        let bytes = Array(prefix.utf8)
        guard isWritable else { return "a prefix of a bucket that is not writable" }
        guard bytes.count <= maximumPrefix, bytes.last == 0x2F, !bytes.contains(where: { $0 < 0x20 || $0 == 0x7F }) else {
            return "a prefix that is not a directory's"
        }
        let parts = bytes.dropLast().split(separator: 0x2F, omittingEmptySubsequences: false)
        return parts.contains { $0.isEmpty || $0 == [0x2E] || $0 == [0x2E, 0x2E] } ? "a prefix that is not a plain path" : nil
    }
}

extension ByteWriter {
    mutating func buckets(_ access: BucketAccess?) {
        integer(UInt8(clamping: access?.grants.count ?? 0))
        guard let access else { return }
        string(access.tenant.text)
        for grant in access.grants {
            string(grant.bucket.text)
            bool(grant.isWritable)
            string(grant.prefix)
        }
    }
}

extension ByteReader {
    mutating func buckets() throws(WireError) -> BucketAccess? {
        let count = Int(try integer(UInt8.self))
        guard count > 0 else { return nil }
        guard count <= BucketAccess.maximumGrants else { throw WireError("\(count) buckets, at most \(BucketAccess.maximumGrants)") }
        let tenant = try name()
        var grants: [BucketGrant] = []
        for _ in 0..<count {
            let bucket = try name()
            let isWritable = try bool()
            let prefix = try string(maximum: BucketAccess.maximumPrefix)
            if let reason = BucketAccess.objection(toPrefix: prefix, isWritable: isWritable) { throw WireError(reason) }
            guard !grants.contains(where: { $0.bucket == bucket }) else { throw WireError("bucket \(bucket) is given twice") }
            grants.append(BucketGrant(bucket: bucket, isWritable: isWritable, prefix: prefix))
        }
        return BucketAccess(tenant: tenant, grants: grants)
    }

    private mutating func name() throws(WireError) -> Name {
        guard let name = Name(try string(maximum: Name.maximumLength)) else { throw WireError("a tenant or bucket name that is none") }
        return name
    }
}
