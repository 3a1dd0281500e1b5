// SPDX-License-Identifier: Apache-2.0
public import Core

/// Who is called so among the listeners of a welcome is a queue of file events, of the daemon's own: it ends with the daemon.
public let fileEventsName = "file-events"

/// What the spawner tells the daemon. Descriptors ride on the same datagram (SCM_RIGHTS), in the order that each case states.
public enum SpawnerEvent: Hashable, Sendable {
    /// First message. Descriptors: one for each of `listeners`, in that order: listening sockets (`http`, `control`), and a queue of file events
    /// (``fileEventsName``) where the kernel has one.
    case welcome(version: UInt16, listeners: [String], runtimes: [String])
    /// The worker's processes exist and the seal is under way. Descriptors: the daemon's end of the worker's fd 3, then the read ends of its stdout and stderr.
    /// With `hasEgress` a listening socket follows, on the loopback of the worker's own network namespace.
    /// `pid` is the host's number of the worker's pid 1 (the reaper).
    case spawned(WorkerID, pid: Int32, uid: UInt32, cgroup: String, hasEgress: Bool)
    /// The worker has its code and limits.
    case assigned(WorkerID)
    /// The request was legal and could not be carried out; the worker does not exist (spawn) or is dead (assign).
    case failed(WorkerID, reason: String)
    /// The worker's last process is gone and its cgroup is empty.
    case exited(WorkerID, DeathCause, Usage)
    /// The worker's posture, read from outside. Empty where the worker is gone.
    case posture(WorkerID, [PostureCheck])
    /// Present usage; a worker that is gone is left out.
    case usage([WorkerUsage])
    case groupFailed(GroupID, reason: String)
    /// First message to a daemon that is to take the place of another. Descriptor: a socket from which it reads what that one hands over, to the end.
    case succession(version: UInt16)
    /// The successor is there and reads this format: let go of everything, then end. Descriptor: the other end of that socket.
    case handOver(format: UInt16)
    /// There is no successor, for this reason: go on.
    case handOverFailed(reason: String)
    /// The spawner's process executes a new program from now on; nothing else has changed.
    case spawnerReplaced
    /// To a successor, before its welcome: workers of its predecessor that live.
    case kept([KeptWorker])
    /// Asks for ``SpawnerRequest/alive(_:)`` with the same number, and says what the spawner itself uses. A daemon that does not answer in time is ended, and a new one
    /// started.
    case ping(UInt64, ProcessUse)
    /// Processor time of workers that ended when there was no daemon to be told. Each is told once.
    case spent([AccountUse])
}

/// One line of a posture: what was promised, what is.
public struct PostureCheck: Hashable, Sendable {
    public var name: String
    public var expected: String
    public var actual: String
    public var isHeld: Bool
    public init(name: String, expected: String, actual: String, isHeld: Bool) {
        self.name = name
        self.expected = expected
        self.actual = actual
        self.isHeld = isHeld
    }
}

public struct WorkerUsage: Hashable, Sendable {
    public var worker: WorkerID
    /// The host's number of the worker's main process; 0 while it is not yet known.
    public var pid: Int32
    public var usage: Usage
    public init(worker: WorkerID, pid: Int32, usage: Usage) {
        self.worker = worker
        self.pid = pid
        self.usage = usage
    }
}

extension SpawnerEvent {
    /// How many descriptors ride on the message.
    public var descriptorCount: Int {
        switch self {
        case .welcome(_, let listeners, _): listeners.count
        case .spawned(_, _, _, _, let hasEgress): hasEgress ? 4 : 3
        case .succession, .handOver: 1
        default: 0
        }
    }

    public func encoded() -> [UInt8] {
        var out = ByteWriter()
        switch self {
        case .welcome(let version, let listeners, let runtimes):
            out.integer(UInt8(1))
            out.integer(version)
            out.strings(listeners)
            out.strings(runtimes)
        case .spawned(let worker, let pid, let uid, let cgroup, let hasEgress):
            out.integer(UInt8(2))
            out.integer(worker.number)
            out.integer(pid)
            out.integer(uid)
            out.string(cgroup)
            out.bool(hasEgress)
        case .assigned(let worker):
            out.integer(UInt8(3))
            out.integer(worker.number)
        case .failed(let worker, let reason):
            out.integer(UInt8(4))
            out.integer(worker.number)
            out.string(reason)
        case .exited(let worker, let cause, let usage):
            out.integer(UInt8(5))
            out.integer(worker.number)
            out.cause(cause)
            out.usage(usage)
        case .posture(let worker, let checks):
            out.integer(UInt8(6))
            out.integer(worker.number)
            out.integer(UInt16(checks.count))
            for check in checks {
                out.string(check.name)
                out.string(check.expected)
                out.string(check.actual)
                out.bool(check.isHeld)
            }
        case .usage(let entries):
            out.integer(UInt8(7))
            out.integer(UInt16(entries.count))
            for entry in entries {
                out.integer(entry.worker.number)
                out.integer(entry.pid)
                out.usage(entry.usage)
            }
        case .groupFailed(let group, let reason):
            out.integer(UInt8(8))
            out.integer(group.number)
            out.string(reason)
        case .succession(let version):
            out.integer(UInt8(9))
            out.integer(version)
        case .handOver(let format):
            out.integer(UInt8(10))
            out.integer(format)
        case .handOverFailed(let reason):
            out.integer(UInt8(11))
            out.string(reason)
        case .kept(let workers):
            out.integer(UInt8(12))
            out.kept(workers)
        case .spawnerReplaced: out.integer(UInt8(13))
        case .ping(let number, let use):
            out.integer(UInt8(20))
            out.integer(number)
            out.use(use)
        case .spent(let entries):
            out.integer(UInt8(21))
            out.accounts(entries)
        }
        return out.bytes
    }

    public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        var input = ByteReader(bytes)
        switch try input.integer(UInt8.self) {
        case 1:
            self = .welcome(
                version: try input.integer(), listeners: try input.strings(maximumCount: 8, maximum: 64),
                runtimes: try input.strings(maximumCount: 64, maximum: 64))
        case 2:
            self = .spawned(
                WorkerID(try input.integer()), pid: try input.integer(), uid: try input.integer(), cgroup: try input.string(maximum: 4096),
                hasEgress: try input.bool())
        case 3: self = .assigned(WorkerID(try input.integer()))
        case 4: self = .failed(WorkerID(try input.integer()), reason: try input.string(maximum: 4096))
        case 5:
            let (worker, cause, usage) = (WorkerID(try input.integer()), try input.cause(), try input.usage())
            self = .exited(worker, cause.withPeak(usage.peakMemoryBytes), usage)
        case 6:
            let worker = WorkerID(try input.integer())
            var checks: [PostureCheck] = []
            for _ in 0..<(try input.integer(UInt16.self)) {
                checks.append(
                    PostureCheck(
                        name: try input.string(maximum: 256), expected: try input.string(maximum: 4096),
                        actual: try input.string(maximum: 4096), isHeld: try input.bool()))
            }
            self = .posture(worker, checks)
        case 7:
            var entries: [WorkerUsage] = []
            for _ in 0..<(try input.integer(UInt16.self)) {
                entries.append(WorkerUsage(worker: WorkerID(try input.integer()), pid: try input.integer(), usage: try input.usage()))
            }
            self = .usage(entries)
        case 8: self = .groupFailed(GroupID(try input.integer()), reason: try input.string(maximum: 4096))
        case 9: self = .succession(version: try input.integer())
        case 10: self = .handOver(format: try input.integer())
        case 11: self = .handOverFailed(reason: try input.string(maximum: 4096))
        case 12: self = .kept(try input.kept())
        case 13: self = .spawnerReplaced
        case 20: self = .ping(try input.integer(), try input.use())
        case 21: self = .spent(try input.accounts())
        case let kind: throw WireError("unknown event kind \(kind)")
        }
        try input.end()
    }
}

extension ByteWriter {
    mutating func cause(_ cause: DeathCause) {
        switch cause {
        case .exited(let code):
            integer(UInt8(1))
            integer(code)
        case .signalled(let number):
            integer(UInt8(2))
            integer(number)
        case .syscall(let number, let name, let native):
            integer(UInt8(3))
            integer(number)
            string(name)
            bool(native)
        // The peak is in the usage that goes with it.
        case .outOfMemory(let limit, _):
            integer(UInt8(4))
            integer(limit)
        case .setupFailed(let stage, let stageName, let errno):
            integer(UInt8(5))
            integer(stage)
            string(stageName)
            integer(errno)
        case .killed: integer(UInt8(6))
        }
    }
}

extension ByteReader {
    mutating func cause() throws(WireError) -> DeathCause {
        switch try integer(UInt8.self) {
        case 1: .exited(code: try integer())
        case 2: .signalled(try integer())
        case 3: .syscall(number: try integer(), name: try string(maximum: 64), native: try bool())
        case 4: .outOfMemory(limit: try integer(), peak: 0)
        case 5: .setupFailed(stage: try integer(), stageName: try string(maximum: 64), errno: try integer())
        case 6: .killed
        case let kind: throw WireError("unknown cause \(kind)")
        }
    }
}
