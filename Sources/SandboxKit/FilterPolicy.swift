// SPDX-License-Identifier: Apache-2.0
import CSandbox
import Glibc

/// A system call policy, read from `policy/NAME.json`: one rule a line, each with its reason.
public struct FilterPolicy: Sendable, Hashable {
    public enum Action: Sendable, Hashable { case allow, kill, errno(Int32) }
    public struct Condition: Sendable, Hashable {
        public var argument: UInt32
        public var mask: UInt64
        public var value: UInt64
    }
    public struct Rule: Sendable, Hashable {
        public var call: String
        public var number: Int32
        public var action: Action
        public var conditions: [Condition]
        /// Nil: always; true: only where the function has network; false: only where it has none.
        public var network: Bool?
        public var reason: String
    }
    public var rules: [Rule]

    /// What an unlisted call answers.
    public static let defaultErrno = ENOSYS

    /// Throws a sentence with the line: an unknown call, action or key is an error, never a rule that is left out.
    public init(json: [UInt8]) throws(PolicyError) {
        rules = []
        var line = 0
        for raw in json.split(separator: 0x0A, omittingEmptySubsequences: false) {
            line += 1
            var text = raw.drop { $0 == 0x20 }
            while text.last == 0x20 || text.last == 0x2C { text.removeLast() }
            guard !text.isEmpty, text != [0x5B], text != [0x5D] else { continue }
            do throws(PolicyError) {
                var reader = JSONReader(Array(text))
                rules.append(try Self.rule(try reader.object()))
            } catch {
                throw PolicyError("line \(line): \(error.description)")
            }
        }
    }

    private static func rule(_ object: [(String, JSONReader.Value)]) throws(PolicyError) -> Rule {
        var rule = Rule(call: "", number: -1, action: .kill, conditions: [], network: nil, reason: "")
        var hasAction = false
        for (key, value) in object {
            switch (key, value) {
            case ("call", .text(let name)):
                guard let number = SyscallTable.number(name) else { throw PolicyError("there is no system call named \(name)") }
                rule.call = name
                rule.number = number
            case ("action", .text(let word)):
                rule.action = try action(word)
                hasAction = true
            case ("reason", .text(let text)): rule.reason = text
            case ("only", .text("network")): rule.network = true
            case ("only", .text("no-network")): rule.network = false
            case ("when", .list(let entries)):
                for entry in entries {
                    var condition = Condition(argument: 0, mask: 0xFFFF_FFFF, value: 0)
                    for (name, number) in entry {
                        switch name {
                        case "arg" where number < 6: condition.argument = UInt32(number)
                        case "mask": condition.mask = number
                        case "is": condition.value = number
                        default: throw PolicyError("unknown condition \(name)")
                        }
                    }
                    rule.conditions.append(condition)
                }
            default: throw PolicyError("unknown key or value at \(key)")
            }
        }
        guard rule.number >= 0, hasAction, !rule.reason.isEmpty else { throw PolicyError("a rule needs call, action and reason") }
        return rule
    }

    private static let errnos: [String: Int32] = [
        "EPERM": EPERM, "ENOSYS": ENOSYS, "EAFNOSUPPORT": EAFNOSUPPORT, "ENOTTY": ENOTTY, "ENOLCK": ENOLCK, "EOPNOTSUPP": EOPNOTSUPP,
    ]

    /// How a policy writes an action.
    static func word(_ action: Action) -> String {
        switch action {
        case .allow: "allow"
        case .kill: "kill"
        case .errno(let number): "errno:" + (errnos.first { $0.value == number }?.key ?? "\(number)")
        }
    }

    private static func action(_ word: String) throws(PolicyError) -> Action {
        switch word {
        case "allow": return .allow
        case "kill": return .kill
        default:
            guard word.hasPrefix("errno:"), let number = errnos[String(word.dropFirst(6))] else {
                throw PolicyError("unknown action \(word)")
            }
            return .errno(number)
        }
    }

    /// Compiles with libseccomp. The result lives as long as the process.
    func compiled(network: Bool) throws(SandboxFailure) -> sbx_filter {
        guard let builder = unsafe sbx_filter_begin(Self.defaultErrno) else { throw SandboxFailure("begin a filter", errno: ENOMEM) }
        for rule in rules where rule.network == nil || rule.network == network {
            let code: Int32 =
                switch rule.action {
                case .allow: 0
                case .kill: -1
                case .errno(let number): number
                }
            if code == Self.defaultErrno { continue }
            let conditions = rule.conditions.map { sbx_condition(argument: $0.argument, mask: $0.mask, value: $0.value) }
            let error = unsafe sbx_filter_add(builder, rule.number, code, conditions, conditions.count)
            if error != 0 { throw SandboxFailure("compile the rule for \(rule.call)", errno: error) }
        }
        var out = unsafe sbx_filter()
        let error = unsafe sbx_filter_finish(builder, &out)
        if error != 0 { throw SandboxFailure("export the filter", errno: error) }
        return unsafe out
    }
}

/// What is wrong with a policy file.
public struct PolicyError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// The part of JSON that a policy line uses: an object of strings, and one list of objects of numbers.
struct JSONReader {
    enum Value { case text(String), list([[(String, UInt64)]]) }
    private let bytes: [UInt8]
    private var at = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func object() throws(PolicyError) -> [(String, Value)] {
        let members = try members { (reader: inout JSONReader) throws(PolicyError) -> Value in
            reader.peek() == 0x22 ? Value.text(try reader.string()) : Value.list(try reader.list())
        }
        guard at == bytes.count else { throw PolicyError("text follows the object") }
        return members
    }

    private mutating func members<T>(_ value: (inout JSONReader) throws(PolicyError) -> T) throws(PolicyError) -> [(String, T)] {
        var out: [(String, T)] = []
        try expect(0x7B)
        repeat {
            let key = try string()
            try expect(0x3A)
            out.append((key, try value(&self)))
        } while take(0x2C)
        try expect(0x7D)
        return out
    }

    private mutating func list() throws(PolicyError) -> [[(String, UInt64)]] {
        var out: [[(String, UInt64)]] = []
        try expect(0x5B)
        repeat {
            out.append(try members { (reader: inout JSONReader) throws(PolicyError) -> UInt64 in try reader.number() })
        } while take(0x2C)
        try expect(0x5D)
        return out
    }

    private mutating func string() throws(PolicyError) -> String {
        try expect(0x22)
        let start = at
        while at < bytes.count, bytes[at] != 0x22 {
            guard bytes[at] != 0x5C else { throw PolicyError("escapes are not used in policies") }
            at += 1
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        guard at < bytes.count else { throw PolicyError("a string has no end") }
        at += 1
        return text
    }

    private mutating func number() throws(PolicyError) -> UInt64 {
        skip()
        let start = at
        while at < bytes.count, (0x30...0x39).contains(bytes[at]) { at += 1 }
        guard let value = UInt64(String(decoding: bytes[start..<at], as: UTF8.self)) else { throw PolicyError("a number is missing") }
        return value
    }

    private mutating func skip() { while at < bytes.count, bytes[at] == 0x20 { at += 1 } }
    private mutating func peek() -> UInt8? {
        skip()
        return at < bytes.count ? bytes[at] : nil
    }
    private mutating func take(_ byte: UInt8) -> Bool {
        guard peek() == byte else { return false }
        at += 1
        return true
    }
    private mutating func expect(_ byte: UInt8) throws(PolicyError) {
        guard take(byte) else { throw PolicyError("expected \(Character(UnicodeScalar(byte))) at column \(at + 1)") }
    }
}
