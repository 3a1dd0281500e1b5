// SPDX-License-Identifier: Apache-2.0
public import Core

/// Version of the protocol between daemon and spawner. Raise it on any change of a message; the two are released together and
/// the spawner refuses a daemon of another version.
public let spawnerProtocolVersion: UInt16 = 6

/// The longest message, in bytes. One message is one datagram of a `SOCK_SEQPACKET` socket pair.
public let spawnerMessageLimit = 64 << 10

/// How far a worker is taken before it knows its function.
public enum Preparation: UInt8, Sendable {
    /// Sealed and empty: everything up to `execve` is done, then it waits.
    case sealed = 1
    /// Sealed, and the runtime's interpreter is loaded and waits on fd 3.
    case prewarmed = 2
    /// Started at once with its function's code.
    case started = 3
}

/// What the daemon asks of the spawner. Payloads, environment and secrets never pass through it, and a tenant's name only where it is a folder of buckets.
public enum SpawnerRequest: Hashable, Sendable {
    /// First message: the daemon's protocol version.
    case hello(version: UInt16)
    /// The daemon serves; `text` is the line for the operator (`READY ...`).
    case ready(text: String)
    /// Creates a group or changes its limits.
    case setGroup(GroupID, GroupLimits)
    /// Removes an empty group.
    case removeGroup(GroupID)
    /// Starts a worker. `runtime` names an entry of the spawner's policy. `code` is a content hash (64 hexadecimal digits) under the policy's code root.
    /// `command` is a path relative to the code and its arguments, for runtimes that execute the tenant's own program; else empty.
    case spawn(SpawnRequest)
    /// Gives a sealed or prewarmed worker its code, buckets, layers and limits, and for a sealed one starts its runtime.
    case assign(WorkerID, runtime: String, limits: WorkerLimits, code: String, command: [String], buckets: BucketAccess?, layers: [Name])
    /// Ends a worker at once, with everything in it.
    case kill(WorkerID)
    /// Asks for the worker's posture, read from outside.
    case inspect(WorkerID)
    /// Asks for the present usage of up to 1,024 workers.
    case usage([WorkerID])
    /// Answers a ``SpawnerEvent/ping(_:)`` from the loop that serves calls: that loop turns.
    case alive(UInt64)
    /// Asks for a new daemon in this one's place, without an end of the service.
    case restart
    /// The same, and a new program for the spawner's process before it, also where the file is the one that it executes.
    case restartWhole
    /// Of a successor: it can take over, and reads this format of what its predecessor hands over (``HandOverMessage``).
    case prepared(format: UInt16)
    /// Of the predecessor: these workers live on when it has ended. Up to 1,024 a message; the list counts when its last part has come.
    case keep([WorkerID], isLast: Bool)
    /// What became of the SIGHUP that the spawner forwarded, as a sentence for the operator.
    case reloaded(text: String)
    /// Whose processor time the worker uses from now on, as a number that means something to daemons alone: what no daemon could be told at the worker's end comes back
    /// under it (``SpawnerEvent/spent(_:)``).
    case account(WorkerID, UInt64)
}

public struct SpawnRequest: Hashable, Sendable {
    public var worker: WorkerID
    public var group: GroupID
    public var runtime: String
    public var preparation: Preparation
    public var limits: WorkerLimits
    public var network: Bool
    public var code: String
    public var command: [String]
    /// Only for ``Preparation/started``: who starts empty has no tenant yet.
    public var buckets: BucketAccess?
    /// The operator's layers that it is to see; the same.
    public var layers: [Name]
    public init(
        worker: WorkerID, group: GroupID, runtime: String, preparation: Preparation, limits: WorkerLimits, network: Bool = false,
        code: String = "", command: [String] = [], buckets: BucketAccess? = nil, layers: [Name] = []
    ) {
        self.worker = worker
        self.group = group
        self.runtime = runtime
        self.preparation = preparation
        self.limits = limits
        self.network = network
        self.code = code
        self.command = command
        self.buckets = buckets
        self.layers = layers
    }
}

extension SpawnerRequest {
    static let maximumWord = 4096
    static let maximumWords = 64
    static let maximumWorkers = 1024

    public func encoded() -> [UInt8] {
        var out = ByteWriter()
        switch self {
        case .hello(let version):
            out.integer(UInt8(1))
            out.integer(version)
        case .ready(let text):
            out.integer(UInt8(2))
            out.string(text)
        case .setGroup(let group, let limits):
            out.integer(UInt8(3))
            out.integer(group.number)
            out.integer(limits.memoryBytes)
            out.integer(limits.cpuMilli)
            out.integer(limits.processes)
        case .removeGroup(let group):
            out.integer(UInt8(4))
            out.integer(group.number)
        case .spawn(let request):
            out.integer(UInt8(5))
            out.integer(request.worker.number)
            out.integer(request.group.number)
            out.string(request.runtime)
            out.integer(request.preparation.rawValue)
            out.limits(request.limits)
            out.bool(request.network)
            out.string(request.code)
            out.strings(request.command)
            out.buckets(request.buckets)
            out.layers(request.layers)
        case .assign(let worker, let runtime, let limits, let code, let command, let buckets, let layers):
            out.integer(UInt8(6))
            out.integer(worker.number)
            out.string(runtime)
            out.limits(limits)
            out.string(code)
            out.strings(command)
            out.buckets(buckets)
            out.layers(layers)
        case .kill(let worker):
            out.integer(UInt8(7))
            out.integer(worker.number)
        case .inspect(let worker):
            out.integer(UInt8(8))
            out.integer(worker.number)
        case .usage(let workers):
            out.integer(UInt8(9))
            out.workers(workers)
        case .restart: out.integer(UInt8(10))
        case .restartWhole: out.integer(UInt8(13))
        case .prepared(let format):
            out.integer(UInt8(11))
            out.integer(format)
        case .keep(let workers, let isLast):
            out.integer(UInt8(12))
            out.workers(workers)
            out.bool(isLast)
        case .alive(let number):
            out.integer(UInt8(20))
            out.integer(number)
        case .reloaded(let text):
            out.integer(UInt8(21))
            out.string(text)
        case .account(let worker, let account):
            out.integer(UInt8(22))
            out.integer(worker.number)
            out.integer(account)
        }
        return out.bytes
    }

    public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        var input = ByteReader(bytes)
        switch try input.integer(UInt8.self) {
        case 1: self = .hello(version: try input.integer())
        case 2: self = .ready(text: try input.string(maximum: Self.maximumWord))
        case 3:
            let group = GroupID(try input.integer())
            self = .setGroup(
                group,
                GroupLimits(memoryBytes: try input.integer(), cpuMilli: try input.integer(), processes: try input.integer()))
        case 4: self = .removeGroup(GroupID(try input.integer()))
        case 5:
            let worker = WorkerID(try input.integer())
            let group = GroupID(try input.integer())
            let runtime = try input.string(maximum: 64)
            guard let preparation = Preparation(rawValue: try input.integer()) else { throw WireError("unknown preparation") }
            self = .spawn(
                SpawnRequest(
                    worker: worker, group: group, runtime: runtime, preparation: preparation, limits: try input.limits(),
                    network: try input.bool(), code: try input.string(maximum: 64),
                    command: try input.strings(maximumCount: Self.maximumWords, maximum: Self.maximumWord), buckets: try input.buckets(),
                    layers: try input.layers()))
        case 6:
            let worker = WorkerID(try input.integer())
            let runtime = try input.string(maximum: 64)
            self = .assign(
                worker, runtime: runtime, limits: try input.limits(), code: try input.string(maximum: 64),
                command: try input.strings(maximumCount: Self.maximumWords, maximum: Self.maximumWord), buckets: try input.buckets(),
                layers: try input.layers())
        case 7: self = .kill(WorkerID(try input.integer()))
        case 8: self = .inspect(WorkerID(try input.integer()))
        case 9: self = .usage(try input.workers(maximum: Self.maximumWorkers))
        case 10: self = .restart
        case 13: self = .restartWhole
        case 11: self = .prepared(format: try input.integer())
        case 12: self = .keep(try input.workers(maximum: Self.maximumWorkers), isLast: try input.bool())
        case 20: self = .alive(try input.integer())
        case 21: self = .reloaded(text: try input.string(maximum: Self.maximumWord))
        case 22: self = .account(WorkerID(try input.integer()), try input.integer())
        case let kind: throw WireError("unknown request kind \(kind)")
        }
        try input.end()
    }
}

extension ByteWriter {
    fileprivate mutating func workers(_ workers: [WorkerID]) {
        integer(UInt16(workers.count))
        for worker in workers { integer(worker.number) }
    }
    mutating func limits(_ limits: WorkerLimits) {
        integer(limits.memoryBytes)
        integer(limits.cpuMilli)
        integer(limits.processes)
        integer(limits.temporaryBytes)
        integer(limits.openFiles)
    }
    mutating func usage(_ usage: Usage) {
        integer(usage.cpuMicroseconds)
        integer(usage.memoryBytes)
        integer(usage.peakMemoryBytes)
        integer(usage.processes)
        integer(usage.processLimitHits)
    }
}

extension ByteReader {
    fileprivate mutating func workers(maximum: Int) throws(WireError) -> [WorkerID] {
        let count = Int(try integer(UInt16.self))
        guard count <= maximum else { throw WireError("a list of \(count) workers, at most \(maximum)") }
        var workers: [WorkerID] = []
        for _ in 0..<count { workers.append(WorkerID(try integer())) }
        return workers
    }
    mutating func limits() throws(WireError) -> WorkerLimits {
        WorkerLimits(
            memoryBytes: try integer(), cpuMilli: try integer(), processes: try integer(), temporaryBytes: try integer(),
            openFiles: try integer())
    }
    mutating func usage() throws(WireError) -> Usage {
        Usage(
            cpuMicroseconds: try integer(), memoryBytes: try integer(), peakMemoryBytes: try integer(), processes: try integer(),
            processLimitHits: try integer())
    }
}
