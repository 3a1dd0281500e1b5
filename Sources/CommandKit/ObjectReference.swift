// SPDX-License-Identifier: Apache-2.0

public import Core

/// What a person writes to name an object: `acme/photos/in/a.jpg`.
public struct ObjectReference: Hashable, Sendable, CustomStringConvertible {
    public let bucket: BucketID
    public let key: ObjectKey

    /// Reads `TENANT/BUCKET/KEY`.
    public init(parsing text: String) throws(Failure) {
        let parts = text.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3 else {
            throw .usage("'\(escaped(text))' does not name an object; write TENANT/BUCKET/KEY, such as acme/photos/in/a.jpg.")
        }
        bucket = try Self.bucket(parts[0], parts[1])
        guard let key = ObjectKey(parts[2]) else { throw .usage("'\(escaped(String(parts[2])))' is not a key; \(ObjectKey.rule).") }
        self.key = key
    }

    /// Reads `TENANT/BUCKET`.
    public static func bucket(_ text: String) throws(Failure) -> BucketID {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2 else { throw .usage("'\(escaped(text))' does not name a bucket; write TENANT/BUCKET, such as acme/photos.") }
        return try bucket(parts[0], parts[1])
    }

    /// Reads `TENANT/BUCKET` or `TENANT/BUCKET/PREFIX`.
    public static func prefix(_ text: String) throws(Failure) -> (bucket: BucketID, prefix: String) {
        let parts = text.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3 else { return (try bucket(text), "") }
        return (try bucket(parts[0], parts[1]), String(parts[2]))
    }

    private static func bucket(_ tenant: Substring, _ bucket: Substring) throws(Failure) -> BucketID {
        BucketID(tenant: try FunctionReference.name(tenant, of: "tenant"), bucket: try FunctionReference.name(bucket, of: "bucket"))
    }

    public var description: String { "\(bucket)/\(key)" }
}
