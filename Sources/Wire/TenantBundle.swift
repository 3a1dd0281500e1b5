// SPDX-License-Identifier: Apache-2.0

/// The files of `tenants.d` in one file, as root copies them for the daemon: 100,000 files take seconds to make one by one, and one file takes none.
///
/// Head, index, then the files' bytes one behind the other in the order of the index. Integers are little-endian.
/// ```
/// head    8 bytes "BHTENANT", u32 format (1), u32 number of files, u32 length of the index
/// file    u8 length of its name, name, u32 length, u64 inode, u64 size, i64 modified, i64 changed (nanoseconds since 1970); all four 0 without a stamp
/// ```
public enum TenantBundle {
    /// What tells a file from what it was before: stat(2) of the original.
    public struct Stamp: Hashable, Sendable {
        public var inode: UInt64
        public var size: UInt64
        public var modified: Int64
        public var changed: Int64
        public init(inode: UInt64, size: UInt64, modified: Int64, changed: Int64) {
            self.inode = inode
            self.size = size
            self.modified = modified
            self.changed = changed
        }
    }
    public struct Entry: Hashable, Sendable {
        /// `acme.yaml`
        public var name: String
        /// Nil where the file may have been written again without another stamp.
        public var stamp: Stamp?
        public var length: Int
        public init(name: String, stamp: Stamp?, length: Int) {
            self.name = name
            self.stamp = stamp
            self.length = length
        }
    }
    /// What stands before the index.
    public struct Head: Hashable, Sendable {
        public var count: Int
        public var indexLength: Int
    }

    public static let headLength = 20
    public static let maximumEntries = 1_000_000
    /// Of one file, in bytes.
    public static let maximumLength = 1 << 20
    /// Of all files together, in bytes.
    public static let maximumContents = 512 << 20
    public static let maximumIndex = 128 << 20
    private static let magic = Array("BHTENANT".utf8)
    private static let format: UInt32 = 1

    /// Whether a file of `tenants.d` with that name is one of a tenant.
    public static func isName(_ name: String) -> Bool {
        let text = name.utf8
        return (1...255).contains(text.count) && name.hasSuffix(".yaml") && text.first != 0x2E && !text.contains { $0 == 0x2F || $0 == 0 }
    }

    /// Head and index. The entries must be legal: in the order of their names, and within the bounds.
    public static func encode(_ entries: [Entry]) throws(WireError) -> [UInt8] {
        var index = ByteWriter(reserving: entries.count * 64)
        for entry in entries {
            let stamp = entry.stamp ?? Stamp(inode: 0, size: 0, modified: 0, changed: 0)
            guard entry.name.utf8.count <= 255 else { throw WireError("a name is longer than 255 bytes") }
            index.integer(UInt8(entry.name.utf8.count))
            index.raw(entry.name.utf8)
            index.integer(UInt32(entry.length))
            for number in [stamp.inode, stamp.size] { index.integer(number) }
            for number in [stamp.modified, stamp.changed] { index.integer(number) }
        }
        var out = ByteWriter(reserving: headLength + index.bytes.count)
        out.raw(magic)
        out.integer(format)
        out.integer(UInt32(entries.count))
        out.integer(UInt32(index.bytes.count))
        out.raw(index.bytes)
        // What is written is what can be read.
        _ = try Self.entries(index.bytes[...], Head(count: entries.count, indexLength: index.bytes.count), contents: nil)
        return out.bytes
    }

    public static func head(_ bytes: ArraySlice<UInt8>) throws(WireError) -> Head {
        var reader = ByteReader(bytes)
        guard try reader.take(magic.count).elementsEqual(magic) else { throw WireError("this is no bundle of tenants' files") }
        let format = try reader.integer(UInt32.self)
        guard format == Self.format else { throw WireError("the bundle has format \(format), and this release knows \(Self.format)") }
        let head = Head(count: Int(try reader.integer(UInt32.self)), indexLength: Int(try reader.integer(UInt32.self)))
        guard head.count <= maximumEntries, head.indexLength <= maximumIndex else { throw WireError("the bundle is too large") }
        try reader.end()
        return head
    }

    /// - Parameter contents: how many bytes follow the index, which must be those of the files; nil where nothing is known of them.
    public static func entries(_ index: ArraySlice<UInt8>, _ head: Head, contents: Int?) throws(WireError) -> [Entry] {
        guard index.count == head.indexLength else { throw WireError("the bundle ends inside its index") }
        var reader = ByteReader(index)
        var entries: [Entry] = []
        var sum = 0
        for _ in 0..<head.count {
            let entry = try entry(&reader)
            guard entries.last.map({ $0.name < entry.name }) ?? true else { throw WireError("names are not in their order, or twice") }
            sum += entry.length
            entries.append(entry)
        }
        try reader.end()
        guard sum <= maximumContents, contents.map({ $0 == sum }) ?? true else { throw WireError("the files have other lengths") }
        return entries
    }

    private static func entry(_ reader: inout ByteReader) throws(WireError) -> Entry {
        let size = Int(try reader.integer(UInt8.self))
        guard let name = String(validating: try reader.take(size), as: UTF8.self), isName(name) else { throw WireError("a name is none") }
        let length = Int(try reader.integer(UInt32.self))
        guard length <= maximumLength else { throw WireError("a file is too long") }
        let stamp = Stamp(
            inode: try reader.integer(), size: try reader.integer(), modified: try reader.integer(), changed: try reader.integer())
        let isNone = stamp == Stamp(inode: 0, size: 0, modified: 0, changed: 0)
        return Entry(name: name, stamp: isNone ? nil : stamp, length: length)
    }
}
