// SPDX-License-Identifier: Apache-2.0

public import Core

/// What a person writes to name something to invoke: `acme/thumbnail`, `acme/thumbnail@7`, `acme/thumbnail:stable`.
public struct FunctionReference: Hashable, Sendable {
    /// Which version of the function is meant.
    public enum Selector: Hashable, Sendable {
        /// The alias `latest`, which always exists.
        case latest
        /// A version by its number, 1 or more.
        case version(UInt32)
        /// The version that an alias points at.
        case alias(Name)
    }

    public let function: FunctionID
    public let selector: Selector

    public init(function: FunctionID, selector: Selector = .latest) {
        self.function = function
        self.selector = selector
    }

    /// Reads `TENANT/FUNCTION`, with `@VERSION` or `:ALIAS` behind it.
    ///
    /// - Throws: ``Failure`` of kind usage that says which part is wrong and how it should look.
    public init(parsing text: String) throws(Failure) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2 else {
            throw .usage("'\(escaped(text))' does not name a function; write TENANT/FUNCTION, such as acme/thumbnail.")
        }
        let tenant = try Self.name(parts[0], of: "tenant")
        let rest = parts[1]
        guard let mark = rest.firstIndex(where: { $0 == "@" || $0 == ":" }) else {
            self.init(function: FunctionID(tenant: tenant, function: try Self.name(rest, of: "function")))
            return
        }
        let function = FunctionID(tenant: tenant, function: try Self.name(rest[..<mark], of: "function"))
        let tail = rest[rest.index(after: mark)...]
        if rest[mark] == ":" {
            self.init(function: function, selector: .alias(try Self.name(tail, of: "alias")))
            return
        }
        guard tail.utf8.allSatisfy({ (48...57).contains($0) }), let number = UInt32(tail), number > 0 else {
            throw .usage(
                "'\(escaped(String(tail)))' is not a version of \(function); versions are 1, 2, 3 ... (see: bulkhead versions \(function))."
            )
        }
        self.init(function: function, selector: .version(number))
    }

    /// Reads a name, or says what is wrong with it.
    static func name(_ text: some StringProtocol, of kind: String) throws(Failure) -> Name {
        guard let name = Name(text) else {
            throw .usage(
                "'\(escaped(String(text)))' is not a \(kind) name; "
                    + "a name has 1 to 63 of a-z, 0-9 and -, begins with a letter and does not end with -."
            )
        }
        return name
    }

    /// Reads a tenant's name.
    public static func tenant(_ text: String) throws(Failure) -> Name { try name(text, of: "tenant") }
}

extension FunctionReference: CustomStringConvertible {
    public var description: String {
        switch selector {
        case .latest: "\(function)"
        case .version(let number): "\(function)@\(number)"
        case .alias(let name): "\(function):\(name)"
        }
    }
}
