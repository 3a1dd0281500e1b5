// SPDX-License-Identifier: Apache-2.0
import CSandbox

/// A call that the filter would have refused, with its arguments: what a start that learns reports beside ``SandboxReport``.
public struct LearnedCall: Hashable, Sendable {
    public var number: Int32
    public var arguments: [UInt64]

    public init(number: Int32, arguments: [UInt64]) { (self.number, self.arguments) = (number, arguments) }

    /// The size of one message, in bytes.
    public static let size = MemoryLayout<sbx_learned>.size

    /// Nil for anything that is no such report.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.size else { return nil }
        let report = unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(as: sbx_learned.self) }
        guard report.kind == UInt32(SBX_REPORT_LEARNED.rawValue) else { return nil }
        number = report.number
        let given = report.arguments
        arguments = [given.0, given.1, given.2, given.3, given.4, given.5]
    }
}

/// What a program would have needed beyond a policy: gathered while it runs, told as lines that a policy file takes.
public struct FilterLesson {
    private struct Need: Hashable {
        var number: Int32
        var conditions: [FilterPolicy.Condition]
    }

    /// How many different needs are kept: a program may call anything with anything.
    public static let limit = 1000

    private let rules: [FilterPolicy.Rule]
    private var order: [Need] = []
    private var counts: [Need: Int] = [:]
    private var errors: [Need: String] = [:]
    /// Numbers without a name, and needs beyond the limit.
    public private(set) var unnamed: Set<Int32> = []
    public private(set) var dropped = 0

    /// - Parameter file: the policy, as ``SandboxHost`` reads it.
    public init(file: String, network: Bool) throws(PolicyError) {
        guard let bytes = readFile(file) else { throw PolicyError("\(file) cannot be read") }
        rules = try FilterPolicy(json: bytes).rules.filter { $0.network == nil || $0.network == network }
    }

    public mutating func note(_ call: LearnedCall) {
        guard !SyscallTable.name(call.number).isEmpty else {
            if unnamed.count < Self.limit { unnamed.insert(call.number) }
            return
        }
        let rules = rules.filter { $0.number == call.number }
        // Where the policy looks at arguments, what is needed is the call with these, and not with any.
        var masks: [UInt32: UInt64] = [:]
        for condition in rules.flatMap(\.conditions) { masks[condition.argument, default: 0] |= condition.mask }
        let conditions = masks.sorted { $0.key < $1.key }.map { argument, mask in
            FilterPolicy.Condition(argument: argument, mask: mask, value: call.arguments[Int(argument)] & mask)
        }
        let need = Need(number: call.number, conditions: conditions)
        guard counts[need] != nil || order.count < Self.limit else { return dropped += 1 }
        if counts[need] == nil {
            order.append(need)
            let met = rules.first { rule in
                rule.action != .allow && rule.conditions.allSatisfy { call.arguments[Int($0.argument)] & $0.mask == $0.value }
            }
            errors[need] = met.map { "\(FilterPolicy.word($0.action)): \($0.reason)" } ?? "not listed: errno:ENOSYS"
        }
        counts[need, default: 0] += 1
    }

    /// One rule a line, as in `policy/NAME.json`, in the order of the first calls. Whoever takes one over writes its reason.
    public var lines: [String] {
        order.map { need in
            let when = need.conditions.map { condition in
                let mask = condition.mask == 0xFFFF_FFFF ? "" : ", \"mask\": \(condition.mask)"
                return "{\"arg\": \(condition.argument)\(mask), \"is\": \(condition.value)}"
            }
            let conditions = when.isEmpty ? "" : ", \"when\": [\(when.joined(separator: ", "))]"
            let times = counts[need] == 1 ? "once" : "\(counts[need] ?? 0) times"
            return "  {\"call\": \"\(SyscallTable.name(need.number))\", \"action\": \"allow\"\(conditions), "
                + "\"reason\": \"WHY, AND WHO NEEDS IT? Called \(times); the filter says \(errors[need] ?? "")\"},"
        }
    }
}
