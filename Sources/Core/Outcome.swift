// SPDX-License-Identifier: Apache-2.0

/// The one taxonomy of how an invocation ends.
public enum Outcome: String, Sendable, CaseIterable {
    case ok, functionError, timedOut, outOfMemory, crashed, throttled, overBudget, overloaded, loop, cancelled, expired, `internal`

    /// Its place in ``allCases``.
    public var ordinal: Int {
        switch self {
        case .ok: 0
        case .functionError: 1
        case .timedOut: 2
        case .outOfMemory: 3
        case .crashed: 4
        case .throttled: 5
        case .overBudget: 6
        case .overloaded: 7
        case .loop: 8
        case .cancelled: 9
        case .expired: 10
        case .internal: 11
        }
    }
}

/// Why a worker's process tree is gone, as the spawner saw it.
public enum DeathCause: Hashable, Sendable {
    /// The main process ended by itself.
    case exited(code: Int32)
    /// A signal that nobody here sent.
    case signalled(Int32)
    /// The filter met a system call that no worker has a reason to make. `native` is false for another ABI (i386, x32).
    case syscall(number: Int32, name: String, native: Bool)
    /// Killed for memory, in bytes: what the worker may have, and the most that it had; 0 where the kernel does not say.
    case outOfMemory(limit: UInt64, peak: UInt64)
    /// The start was aborted at a stage of the ordered list (`Sandbox/README.md`).
    case setupFailed(stage: UInt32, stageName: String, errno: Int32)
    /// Killed on the supervisor's request.
    case killed
}

extension DeathCause: CustomStringConvertible {
    /// One phrase for a person: `exited with code 3`, `killed by the filter: system call ptrace`.
    public var description: String {
        switch self {
        case .exited(let code): "exited with code \(code)"
        case .signalled(let number): "killed by signal \(number) (\(Self.signalName(number)))"
        case .syscall(let number, let name, true): "killed by the filter: system call \(name.isEmpty ? "\(number)" : name)"
        case .syscall(let number, _, false): "killed by the filter: system call \(number) of a foreign ABI"
        case .outOfMemory(let limit, 0): "out of memory at its limit of \(Self.mebibytes(limit)) MiB"
        case .outOfMemory(let limit, let peak):
            "out of memory: used \(Self.mebibytes(peak)) of \(Self.mebibytes(limit)) MiB"
                + (Self.isOwn(limit, peak) ? "" : " when its tenant or the machine had no more")
        case .setupFailed(let stage, let name, let errno): "start aborted at stage \(stage) (\(name)): \(Self.errorText(errno))"
        case .killed: "killed by the supervisor"
        }
    }

    /// With one decimal place: what is used is seldom whole.
    private static func mebibytes(_ bytes: UInt64) -> String {
        let tenths = max(1, (bytes * 10 + (1 << 19)) >> 20)
        return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
    }

    /// The same, with what is known of the most memory that the worker had.
    public func withPeak(_ bytes: UInt64) -> DeathCause {
        if case .outOfMemory(let limit, _) = self { .outOfMemory(limit: limit, peak: bytes) } else { self }
    }

    /// Whether a worker that was killed for memory had used its own. Nearly all of it: the kernel takes pages for every processor in advance.
    private static func isOwn(_ limit: UInt64, _ peak: UInt64) -> Bool { peak >= limit - limit / 8 }

    /// Why the tenant's own program, the first word of `command`, was not executed: the kernel's words and what to do. Nil where the start ended elsewhere, or the program
    /// is the runtime's and so the node's matter.
    func programFault(_ command: [String]) -> String? {
        guard case .setupFailed(Self.execution, _, let errno) = self, let word = command.first else { return nil }
        let path = "/function/" + (word.hasPrefix("./") ? String(word.dropFirst(2)) : word)
        let mend: String? =
            switch errno {
            case 2:
                "; if the file is there, what it is started with is not (the loader of a dynamic program, or the interpreter in its #! line)"
            case 8: "; it is for another processor, or a script without a #! line"
            case 13: "; it must be executable (`chmod +x`), and what it is started with, too"
            case 1, 7, 20, 21, 22, 40: ""
            // Memory, descriptors, a disk that fails: the machine's, and the next try may do.
            default: nil
            }
        guard let mend else { return nil }
        return "\(path): \(Self.errorText(errno))\(mend)"
    }

    /// The number of the stage that executes the program.
    public static let execution: UInt32 = 45

    /// As strerror(3) says it, of the errors that a start meets.
    static func errorText(_ number: Int32) -> String {
        switch number {
        case 1: "Operation not permitted"
        case 2: "No such file or directory"
        case 5: "Input/output error"
        case 7: "Argument list too long"
        case 8: "Exec format error"
        case 11: "Resource temporarily unavailable"
        case 12: "Cannot allocate memory"
        case 13: "Permission denied"
        case 16: "Device or resource busy"
        case 20: "Not a directory"
        case 22: "Invalid argument"
        case 23: "Too many open files in system"
        case 24: "Too many open files"
        case 26: "Text file busy"
        case 28: "No space left on device"
        case 38: "Function not implemented"
        case 40: "Too many levels of symbolic links"
        default: "error \(number)"
        }
    }

    static func signalName(_ number: Int32) -> String {
        switch number {
        case 1: "SIGHUP"
        case 2: "SIGINT"
        case 3: "SIGQUIT"
        case 4: "SIGILL"
        case 5: "SIGTRAP"
        case 6: "SIGABRT"
        case 7: "SIGBUS"
        case 8: "SIGFPE"
        case 9: "SIGKILL"
        case 11: "SIGSEGV"
        case 13: "SIGPIPE"
        case 14: "SIGALRM"
        case 15: "SIGTERM"
        case 24: "SIGXCPU"
        case 25: "SIGXFSZ"
        case 31: "SIGSYS"
        default: "signal"
        }
    }
}
