// SPDX-License-Identifier: Apache-2.0
public import Core

/// The format of ``HandOverMessage`` that this release writes and reads. Raise it on any change of a message: a successor of another format gets no worker and no connection,
/// which costs warm starts and nothing else.
public let handOverFormat: UInt16 = 2

/// A worker that outlived its daemon, as the spawner knows it.
public struct KeptWorker: Hashable, Sendable {
    /// The most in one message.
    public static let maximum = 100

    public var worker: WorkerID
    public var group: GroupID
    /// The host's number of the worker's pid 1.
    public var pid: Int32
    public var uid: UInt32
    public var cgroup: String
    public init(worker: WorkerID, group: GroupID, pid: Int32, uid: UInt32, cgroup: String) {
        self.worker = worker
        self.group = group
        self.pid = pid
        self.uid = uid
        self.cgroup = cgroup
    }
}

/// What a daemon says of a worker that it hands over: idle, and all of its frames read to their end.
public struct WorkerRecord: Hashable, Sendable {
    /// The longest ``terms``, in bytes. A worker with more (many large secrets) is not handed over.
    public static let maximumTerms = 48 << 10

    public var worker: WorkerID
    public var version: VersionID
    public var start: StartKind
    public var served: UInt64
    /// Processor time that is charged already.
    public var cpuMicroseconds: UInt64
    /// The host's number of its main process; 0 where it is not known.
    public var pid: Int32
    /// Milliseconds since 1970.
    public var startedAt: UInt64
    /// Whether it has not closed its stdout and stderr.
    public var hasOutput: Bool
    public var hasErrors: Bool
    /// Whether it has a way out, which is listened to.
    public var hasEgress: Bool
    /// Everything that the worker and the spawner were told when it got its function: limits, code, buckets, environment, secrets. It lives on only where the successor
    /// would tell it the same, byte for byte.
    public var terms: [UInt8]
    public init(
        worker: WorkerID, version: VersionID, start: StartKind, served: UInt64, cpuMicroseconds: UInt64, pid: Int32, startedAt: UInt64,
        hasOutput: Bool, hasErrors: Bool, hasEgress: Bool, terms: [UInt8]
    ) {
        self.worker = worker
        self.version = version
        self.start = start
        self.served = served
        self.cpuMicroseconds = cpuMicroseconds
        self.pid = pid
        self.startedAt = startedAt
        self.hasOutput = hasOutput
        self.hasErrors = hasErrors
        self.hasEgress = hasEgress
        self.terms = terms
    }
}

/// What a daemon hands to its successor over a `SOCK_SEQPACKET` socket between both, past the spawner. Descriptors ride on the same datagram.
public enum HandOverMessage: Hashable, Sendable {
    /// Descriptors: the daemon's end of the worker's fd 3, then the read ends of its stdout and stderr where it has them, then its
    /// listening socket where it has a way out.
    case worker(WorkerRecord)
    /// A caller's connection between two requests. Descriptor: its socket.
    case connection(isControl: Bool)
    /// Everything was sent; without it nothing of the rest counts. `since`: when the daemon accepted nothing more, in milliseconds since 1970.
    case end(since: UInt64)

    /// How many descriptors ride on the message.
    public var descriptorCount: Int {
        switch self {
        case .worker(let record): 1 + (record.hasOutput ? 1 : 0) + (record.hasErrors ? 1 : 0) + (record.hasEgress ? 1 : 0)
        case .connection: 1
        case .end: 0
        }
    }

    public func encoded() -> [UInt8] {
        var out = ByteWriter()
        switch self {
        case .worker(let record):
            out.integer(UInt8(1))
            out.integer(record.worker.number)
            out.string(record.version.function.tenant.text)
            out.string(record.version.function.function.text)
            out.integer(record.version.number)
            out.string(record.start.rawValue)
            out.integer(record.served)
            out.integer(record.cpuMicroseconds)
            out.integer(record.pid)
            out.integer(record.startedAt)
            out.bool(record.hasOutput)
            out.bool(record.hasErrors)
            out.bool(record.hasEgress)
            out.prefixed(record.terms)
        case .connection(let isControl):
            out.integer(UInt8(2))
            out.bool(isControl)
        case .end(let since):
            out.integer(UInt8(3))
            out.integer(since)
        }
        return out.bytes
    }

    public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        var input = ByteReader(bytes)
        switch try input.integer(UInt8.self) {
        case 1:
            let worker = WorkerID(try input.integer())
            guard let tenant = Name(try input.string(maximum: Name.maximumLength)),
                let function = Name(try input.string(maximum: Name.maximumLength))
            else { throw WireError("a tenant's or function's name that is none") }
            let version = VersionID(function: FunctionID(tenant: tenant, function: function), number: try input.integer())
            guard let start = StartKind(rawValue: try input.string(maximum: 16)) else { throw WireError("unknown kind of start") }
            self = .worker(
                WorkerRecord(
                    worker: worker, version: version, start: start, served: try input.integer(), cpuMicroseconds: try input.integer(),
                    pid: try input.integer(), startedAt: try input.integer(), hasOutput: try input.bool(), hasErrors: try input.bool(),
                    hasEgress: try input.bool(),
                    terms: Array(try input.prefixed(maximum: WorkerRecord.maximumTerms))))
        case 2: self = .connection(isControl: try input.bool())
        case 3: self = .end(since: try input.integer())
        case let kind: throw WireError("unknown hand-over message \(kind)")
        }
        try input.end()
    }
}

extension ByteWriter {
    mutating func kept(_ workers: [KeptWorker]) {
        integer(UInt16(workers.count))
        for worker in workers {
            integer(worker.worker.number)
            integer(worker.group.number)
            integer(worker.pid)
            integer(worker.uid)
            string(worker.cgroup)
        }
    }
}

extension ByteReader {
    mutating func kept() throws(WireError) -> [KeptWorker] {
        let count = Int(try integer(UInt16.self))
        guard count <= KeptWorker.maximum else { throw WireError("\(count) kept workers, at most \(KeptWorker.maximum) a message") }
        var workers: [KeptWorker] = []
        for _ in 0..<count {
            workers.append(
                KeptWorker(
                    worker: WorkerID(try integer()), group: GroupID(try integer()), pid: try integer(), uid: try integer(),
                    cgroup: try string(maximum: 512)))
        }
        return workers
    }
}
