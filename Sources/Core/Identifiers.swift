// SPDX-License-Identifier: Apache-2.0

/// A tenant's or function's name: 1-63 characters of `a-z 0-9 -`, beginning with a letter and not ending with `-`.
///
/// The same rule as a DNS label (RFC 1035, section 2.3.1), so that a name is safe in a path, a URL, a label of a metric and a log line.
public struct Name: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The longest name, in bytes.
    public static let maximumLength = 63

    /// The text, valid by construction.
    public let text: String
    /// FNV-1a of the text: names are keys of every table on the way of an invocation, and hashing them anew each time is most of a lookup.
    private let code: UInt64

    /// Nil where `text` breaks the rule.
    public init?(_ text: some StringProtocol) { self.init(String(text)) }

    /// Nil where `text` breaks the rule. Of a plain string, without the detour by any collection of characters: each request and each event has two names.
    public init?(_ text: String) {
        let bytes = text.utf8
        guard let first = bytes.first, let last = bytes.last, bytes.count <= Self.maximumLength, (97...122).contains(first), last != 45,
            bytes.allSatisfy({ (97...122).contains($0) || (48...57).contains($0) || $0 == 45 })
        else { return nil }
        self.init(valid: text)
    }

    /// Stands for a name that is not known yet.
    public static let unnamed = Name(valid: "unnamed")
    static let direct = Name(valid: "direct")
    /// The alias that every function has.
    public static let latest = Name(valid: "latest")
    private init(valid text: String) {
        self.text = text
        code = text.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
    }

    public func hash(into hasher: inout Hasher) { hasher.combine(code) }
    public static func == (a: Name, b: Name) -> Bool { a.code == b.code && a.text == b.text }

    public var description: String { text }
    public static func < (a: Name, b: Name) -> Bool { a.text < b.text }
}

extension Name: Codable {
    /// As its text. Throws where that breaks the rule.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let name = Name(try container.decode(String.self)) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "this is no name")
        }
        self = name
    }
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

/// A function of a tenant, written `acme/thumbnail`.
public struct FunctionID: Hashable, Codable, Sendable, Comparable, CustomStringConvertible {
    public let tenant: Name
    public let function: Name
    public init(tenant: Name, function: Name) {
        self.tenant = tenant
        self.function = function
    }
    public var description: String { "\(tenant)/\(function)" }
    public static func < (a: FunctionID, b: FunctionID) -> Bool { (a.tenant, a.function) < (b.tenant, b.function) }
}

/// One immutable deploy of a function, written `acme/thumbnail@7`.
public struct VersionID: Hashable, Sendable, CustomStringConvertible {
    public let function: FunctionID
    /// 1 or more.
    public let number: UInt32
    public init(function: FunctionID, number: UInt32) {
        self.function = function
        self.number = number
    }
    public var description: String { "\(function)@\(number)" }
}

/// A worker's number, unique on this node for the life of the state directory, written `w-7f3a`.
public struct WorkerID: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let number: UInt64
    public init(_ number: UInt64) { self.number = number }
    /// Nil unless `text` is what ``description`` writes.
    public init?(_ text: some StringProtocol) {
        guard text.hasPrefix("w-"), let number = UInt64(text.dropFirst(2), radix: 16) else { return nil }
        self.number = number
    }
    public var description: String { "w-" + String(number, radix: 16) }
    public static func < (a: WorkerID, b: WorkerID) -> Bool { a.number < b.number }
}

/// A tenant's cgroup on this node. A group is given to one tenant, once: prewarmed workers wait in groups that have no tenant yet,
/// because a process that moves between cgroups pays for it and takes no memory charge along.
public struct GroupID: Hashable, Sendable, CustomStringConvertible {
    public let number: UInt32
    public init(_ number: UInt32) { self.number = number }
    public var description: String { "g\(number)" }
}

/// An invocation's id: 48 bits of milliseconds since 1970, then 80 random bits, written as 32 hexadecimal digits (the layout of RFC 9562, version 7,
/// without its version bits), so that ids sort by time.
public struct InvocationID: Hashable, Codable, Sendable, CustomStringConvertible {
    public let high: UInt64
    public let low: UInt64
    public init(milliseconds: UInt64, random: (UInt16, UInt64)) {
        high = milliseconds << 16 | UInt64(random.0)
        low = random.1
    }
    /// Nil unless `text` is 32 hexadecimal digits.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count == 32, let high = UInt64(text.prefix(16), radix: 16), let low = UInt64(text.suffix(16), radix: 16)
        else { return nil }
        self.high = high
        self.low = low
    }
    public var description: String { String(decoding: digits, as: UTF8.self) }
    /// The 32 characters of ``description``: every invocation is written out twice.
    private var digits: [UInt8] {
        var digits = [UInt8](repeating: 0, count: 32)
        for index in 0..<32 {
            let nibble = UInt8(truncatingIfNeeded: (index < 16 ? high : low) >> UInt64(4 * (15 - index % 16))) & 15
            digits[index] = nibble < 10 ? 48 + nibble : 87 + nibble
        }
        return digits
    }
    /// By its random half alone.
    public func hash(into hasher: inout Hasher) { hasher.combine(low) }
}
