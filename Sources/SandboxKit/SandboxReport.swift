import CSandbox
// SPDX-License-Identifier: Apache-2.0
public import Core
public import Kernel

/// A started worker: its processes and the spawner's ends.
public struct Launched: ~Copyable, Sendable {
    /// The host's number of the reaper, pid 1 of the worker.
    public let pid: Int32
    public let pidfd: OwnedFD
    /// Reports come here; one message each (``SandboxReport``).
    public let report: OwnedFD
    /// The supervisor's end of the worker's fd 3, and the read ends of its stdout and stderr.
    public let control: OwnedFD
    public let stdout: OwnedFD
    public let stderr: OwnedFD
    /// A listening socket in the worker's network namespace, where it has network: what leaves it leaves through who accepts there.
    public let egress: OwnedFD?

    /// Takes the value apart: what stays with the spawner, what goes to the daemon.
    public consuming func split() -> (
        pid: Int32, pidfd: Int32, report: Int32, control: Int32, stdout: Int32, stderr: Int32, egress: Int32?
    ) {
        let way: Int32? =
            switch consume egress {
            case .some(let socket): socket.release()
            case nil: nil
            }
        return (pid, pidfd.release(), report.release(), control.release(), stdout.release(), stderr.release(), way)
    }
}

/// What a worker's own setup code says about it.
public enum SandboxReport: Hashable, Sendable {
    case failed(stage: UInt32, errno: Int32)
    case sealed
    case ended(DeathCause)
    case syscall(number: Int32, name: String, native: Bool)

    /// The size of one message, in bytes.
    public static let size = MemoryLayout<sbx_report>.size

    /// Nil for anything that is not a report.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.size else { return nil }
        let report = unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(as: sbx_report.self) }
        switch report.kind {
        case UInt32(SBX_REPORT_FAILED.rawValue): self = .failed(stage: report.first, errno: report.second)
        case UInt32(SBX_REPORT_SEALED.rawValue): self = .sealed
        case UInt32(SBX_REPORT_ENDED.rawValue):
            // CLD_EXITED is 1; CLD_KILLED and CLD_DUMPED are 2 and 3. waitid(2).
            self = .ended(report.first == 1 ? .exited(code: report.second) : .signalled(report.second))
        case UInt32(SBX_REPORT_SYSCALL.rawValue):
            let number = Int32(bitPattern: report.first)
            self = .syscall(number: number, name: SyscallTable.name(number), native: report.second == 1)
        default: return nil
        }
    }
}
