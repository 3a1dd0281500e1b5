// SPDX-License-Identifier: Apache-2.0

/// How the end user of a call is told from the others.
public enum UserKey: Hashable, Sendable, CustomStringConvertible {
    /// Each API key is one user.
    case apiKey
    /// Each value of this header is one user; as written, so compare without regard to case (RFC 9110, section 5.1).
    case header(String)
    /// Each value of this claim of the caller's JSON Web Token is one user (``TokenRules``).
    case claim(String)

    /// Reads `key`, `header:NAME` or `claim:NAME`; nil for anything else.
    init?(_ text: String) {
        if text == "key" {
            self = .apiKey
        } else if text.hasPrefix("header:"), Self.isHeader(text.dropFirst(7)) {
            self = .header(String(text.dropFirst(7)))
        } else if text.hasPrefix("claim:"), Self.isClaim(text.dropFirst(6)) {
            self = .claim(String(text.dropFirst(6)))
        } else {
            return nil
        }
    }

    /// As in the file.
    public var description: String {
        switch self {
        case .apiKey: "key"
        case .header(let name): "header:\(name)"
        case .claim(let name): "claim:\(name)"
        }
    }

    /// Whether this can be the name of a header.
    static func isHeader(_ name: some StringProtocol) -> Bool {
        (1...64).contains(name.utf8.count) && name.utf8.allSatisfy(Self.isToken)
    }

    /// Whether this is taken for the name of a claim: `sub`, or an URL where an issuer has claims of its own.
    private static func isClaim(_ name: Substring) -> Bool {
        (1...128).contains(name.utf8.count) && name.utf8.allSatisfy { (0x21...0x7E).contains($0) }
    }

    /// RFC 9110, section 5.6.2.
    private static func isToken(_ byte: UInt8) -> Bool {
        switch byte {
        case 48...57, 65...90, 97...122: true
        default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
    }
}

/// The ceilings of each end user, inside a tenant or a function.
public struct UserCeilings: Hashable, Sendable {
    /// Seats of one end user; nil for no ceiling.
    public var concurrency: Int?
    public var rate: Rate?
    public var key: UserKey

    public init(concurrency: Int? = nil, rate: Rate? = nil, key: UserKey = .apiKey) {
        self.concurrency = concurrency
        self.rate = rate
        self.key = key
    }

    /// `{default: {concurrency: 5, rate: 20/s}, key: header:X-User}` of a tenant.
    static func ofTenant(_ users: Mapping) -> UserCeilings {
        var value = UserCeilings()
        if let ceilings = users.mapping("default") {
            value.readCeilings(ceilings)
            ceilings.finish()
        }
        value.readKey(users)
        users.finish()
        return value
    }

    /// `{concurrency: 5, rate: 20/s, key: header:X-User}` of a function.
    static func ofFunction(_ users: Mapping) -> UserCeilings {
        var value = UserCeilings()
        value.readCeilings(users)
        value.readKey(users)
        if value.concurrency == nil, value.rate == nil, users.keys.allSatisfy({ $0 == "key" }) {
            users.document.fail(users.node, "`users` needs a ceiling: `concurrency` or `rate`")
        }
        users.finish()
        return value
    }

    private mutating func readCeilings(_ mapping: Mapping) {
        concurrency = mapping.integer("concurrency", 1...100_000)
        rate = mapping.rate("rate")
    }

    private mutating func readKey(_ mapping: Mapping) {
        key = mapping.parsed("key", "key (each API key is a user), header:NAME or claim:NAME", UserKey.init) ?? key
    }
}

extension Mapping {
    /// `200/s burst 400`.
    func rate(_ key: String) -> Rate? {
        let example = "a rate like 200/s or 200/s burst 400, per s, m, h, day or month"
        return parsed(key, "\(example), with 1 to 1000000 calls and a burst of 1 to 10000000", Units.rate)
    }
}
