// SPDX-License-Identifier: Apache-2.0

/// How the command ends; scripts rely on these numbers.
public enum CommandStatus: Int32, Sendable, CaseIterable {
    case success = 0
    /// The function failed (error, crash, out of memory), or the node failed, or `doctor` found something missing.
    case failed = 1
    /// The command line or the thing that it names is wrong; repeating it does not help.
    case usage = 2
    /// A ceiling refused: throttled, over budget, overloaded, loop.
    case refused = 3
    /// No node answers at the control socket.
    case unreachable = 4
    /// A deadline passed.
    case timedOut = 5

    /// The exit status of an answer of the node. The stable `code` of the problem decides where it is known, the HTTP status otherwise.
    public init(httpStatus: Int, code: String?) {
        switch code {
        case "functionError", "crashed", "outOfMemory", "internal": self = .failed
        case "throttled", "overBudget", "overQuota", "overloaded", "loop": self = .refused
        case "timedOut", "expired": self = .timedOut
        default:
            switch httpStatus {
            case 200..<400: self = .success
            case 408, 504: self = .timedOut
            case 429, 503, 508: self = .refused
            case 400..<500: self = .usage
            default: self = .failed
            }
        }
    }

    /// The table for `--help`.
    public static let help = """
        Exit status: 0 done, 1 the function or the node failed, 2 wrong usage or no such thing, 3 refused by a ceiling \
        (throttled, over budget, overloaded, loop), 4 no node reachable, 5 a deadline passed.
        """
}

/// Why a command could not do what it was asked: one sentence that says what happened, to what, and what to do next.
public struct Failure: Error, Hashable, Sendable {
    public var status: CommandStatus
    /// A stable word for programs.
    public var code: String
    /// For a person; safe for a terminal.
    public var sentence: String
    /// The problem document that the node sent (RFC 9457), verbatim.
    public var problem: String?

    public init(status: CommandStatus, code: String, sentence: String, problem: String? = nil) {
        self.status = status
        self.code = code
        self.sentence = sentence
        self.problem = problem
    }

    public static func usage(_ sentence: String) -> Failure { Failure(status: .usage, code: "usage", sentence: sentence) }
    public static func failed(_ code: String, _ sentence: String) -> Failure { Failure(status: .failed, code: code, sentence: sentence) }

    /// The problem document: the node's own, or one made of this failure.
    public var document: String {
        if let problem { return problem }
        return "{\"type\":\"about:blank\",\"title\":\(jsonString(code)),\"code\":\(jsonString(code)),\"detail\":\(jsonString(sentence))}"
    }
}

/// A JSON string literal (RFC 8259, section 7), control characters and line separators escaped.
func jsonString(_ text: String) -> String {
    var out = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": out += "\\\""
        case "\\": out += "\\\\"
        case "\n": out += "\\n"
        default:
            if scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) || scalar.value == 0x2028 || scalar.value == 0x2029 {
                let digits = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            } else {
                out.unicodeScalars.append(scalar)
            }
        }
    }
    return out + "\""
}
