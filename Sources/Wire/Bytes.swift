// SPDX-License-Identifier: Apache-2.0

/// What a peer may not send. A breach ends the connection; it is never repaired.
public struct WireError: Error, Hashable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// Appends little-endian integers and length-prefixed bytes.
public struct ByteWriter: Sendable {
    public internal(set) var bytes: [UInt8] {
        @inlinable get { storage }
        set { storage = newValue }
    }
    @usableFromInline var storage: [UInt8] = []
    public init(reserving capacity: Int = 64) { storage.reserveCapacity(capacity) }

    // Inlinable, as is what calls it: every frame of every invocation is written through these from other modules.
    @inlinable
    public mutating func integer<T: FixedWidthInteger>(_ value: T) {
        var rest = T.Magnitude(truncatingIfNeeded: value)
        for _ in 0..<(T.bitWidth / 8) {
            storage.append(UInt8(truncatingIfNeeded: rest))
            rest = T.bitWidth == 8 ? 0 : rest >> 8
        }
    }
    @inlinable
    public mutating func raw(_ more: some Sequence<UInt8>) { storage.append(contentsOf: more) }
    @inlinable
    public mutating func prefixed(_ more: some Collection<UInt8>) {
        integer(UInt32(more.count))
        storage.append(contentsOf: more)
    }
    @inlinable
    public mutating func string(_ text: String) { prefixed(text.utf8) }
    public mutating func strings(_ list: [String]) {
        integer(UInt16(list.count))
        for text in list { string(text) }
    }
    public mutating func bool(_ value: Bool) { integer(UInt8(value ? 1 : 0)) }
    mutating func patch(_ value: UInt32, at offset: Int) {
        for i in 0..<4 { storage[offset + i] = UInt8(truncatingIfNeeded: value >> (8 * UInt32(i))) }
    }
}

/// Reads what ``ByteWriter`` wrote; every read is bounded by what is there.
public struct ByteReader: Sendable {
    private let bytes: ArraySlice<UInt8>
    private var position: Int
    public init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }
    public init(_ bytes: [UInt8]) { self.init(bytes[...]) }

    public var remaining: Int { bytes.endIndex - position }

    public mutating func integer<T: FixedWidthInteger>(_ type: T.Type = T.self) throws(WireError) -> T {
        let size = T.bitWidth / 8
        guard remaining >= size else { throw WireError("message ends inside a number") }
        var value: T.Magnitude = 0
        for i in (0..<size).reversed() {
            value = T.bitWidth == 8 ? 0 : value << 8
            value |= T.Magnitude(bytes[position + i])
        }
        position += size
        return T(truncatingIfNeeded: value)
    }
    public mutating func take(_ count: Int) throws(WireError) -> ArraySlice<UInt8> {
        guard count >= 0, remaining >= count else { throw WireError("message ends inside a field") }
        defer { position += count }
        return bytes[position..<(position + count)]
    }
    public mutating func prefixed(maximum: Int) throws(WireError) -> ArraySlice<UInt8> {
        let length = Int(try integer(UInt32.self))
        guard length <= maximum else { throw WireError("field of \(length) bytes is longer than \(maximum)") }
        return try take(length)
    }
    public mutating func string(maximum: Int) throws(WireError) -> String {
        guard let text = String(validating: try prefixed(maximum: maximum), as: UTF8.self) else { throw WireError("text is not UTF-8") }
        return text
    }
    public mutating func strings(maximumCount: Int, maximum: Int) throws(WireError) -> [String] {
        let count = Int(try integer(UInt16.self))
        guard count <= maximumCount else { throw WireError("list of \(count) is longer than \(maximumCount)") }
        var list: [String] = []
        for _ in 0..<count { list.append(try string(maximum: maximum)) }
        return list
    }
    public mutating func bool() throws(WireError) -> Bool {
        switch try integer(UInt8.self) {
        case 0: return false
        case 1: return true
        default: throw WireError("flag is neither 0 nor 1")
        }
    }
    public func end() throws(WireError) {
        guard remaining == 0 else { throw WireError("\(remaining) bytes follow the message") }
    }
}
