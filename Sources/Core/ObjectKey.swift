// SPDX-License-Identifier: Apache-2.0

/// The name of an object in its bucket, which is also its path there: `in/2026/a.jpg`.
///
/// 1 to 1,024 bytes of UTF-8 without control characters, in at most 64 parts of at most 255 bytes with one `/` between them; no part is empty, `.` or `..`. A file of
/// a bucket whose path breaks the rule is no object.
public struct ObjectKey: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The longest key, in bytes.
    public static let maximumLength = 1024
    public static let maximumParts = 64
    public static let rule =
        "a key is 1 to 1024 bytes of UTF-8 without control characters, in at most 64 parts of at most 255 bytes; no part is empty, . or .."

    /// Valid by construction.
    public let text: String

    /// Nil where `text` breaks the rule.
    public init?(_ text: some StringProtocol) { self.init(bytes: Array(text.utf8)) }

    /// Nil where the bytes break the rule.
    public init?(bytes: [UInt8]) {
        guard !bytes.isEmpty, bytes.count <= Self.maximumLength, let text = String(validating: bytes, as: UTF8.self) else { return nil }
        var parts = 0
        for part in bytes.split(separator: 0x2F, omittingEmptySubsequences: false) {
            parts += 1
            guard (1...255).contains(part.count), part != [0x2E], part != [0x2E, 0x2E], parts <= Self.maximumParts else { return nil }
        }
        // C0, DEL and C1.
        guard text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) }) else { return nil }
        self.text = text
    }

    public var bytes: [UInt8] { Array(text.utf8) }
    /// The path of the folder that it is in; empty for the bucket itself.
    public var folder: [UInt8] {
        let bytes = bytes
        return bytes.lastIndex(of: 0x2F).map { Array(bytes[..<$0]) } ?? []
    }
    /// Its last part.
    public var name: [UInt8] {
        let bytes = bytes
        return bytes.lastIndex(of: 0x2F).map { Array(bytes[($0 + 1)...]) } ?? bytes
    }
    public var description: String { text }
    /// By bytes: two spellings of one letter are two keys.
    public static func == (a: ObjectKey, b: ObjectKey) -> Bool { a.text.utf8.elementsEqual(b.text.utf8) }
    public func hash(into hasher: inout Hasher) { for byte in text.utf8 { hasher.combine(byte) } }
    public static func < (a: ObjectKey, b: ObjectKey) -> Bool { a.text.utf8.lexicographicallyPrecedes(b.text.utf8) }
}

/// A bucket of a tenant, written `acme/photos`.
public struct BucketID: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let tenant: Name
    public let bucket: Name
    public init(tenant: Name, bucket: Name) {
        self.tenant = tenant
        self.bucket = bucket
    }
    public var description: String { "\(tenant)/\(bucket)" }
    public static func < (a: BucketID, b: BucketID) -> Bool { (a.tenant, a.bucket) < (b.tenant, b.bucket) }
}
