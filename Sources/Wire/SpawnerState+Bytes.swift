// SPDX-License-Identifier: Apache-2.0
import Core

extension SpawnerState {
    private static let maximumPath = 4096

    public func encoded() -> [UInt8] {
        var out = ByteWriter(reserving: 4096 + freeUIDs.count * 4 + workers.count * 512)
        out.raw(spawnerStateFormat.utf8)
        out.integer(protocolVersion)
        for text in [policy, program, policyPath, cgroupParent, address, lastReload] { out.string(text) }
        out.integer(lock)
        out.integer(UInt16(listeners.count))
        for listener in listeners {
            out.string(listener.name)
            out.integer(listener.descriptor)
        }
        out.daemon(daemon)
        out.integer(nextHandOver)
        out.integer(UInt32(workers.count))
        for worker in workers { out.worker(worker) }
        out.integer(UInt32(leaving.count))
        for worker in leaving { out.worker(worker) }
        out.integer(UInt32(groups.count))
        for group in groups { out.integer(group.number) }
        out.integer(UInt32(usedIDs.ranges.count))
        for range in usedIDs.ranges {
            out.integer(range.lowerBound)
            out.integer(range.upperBound)
        }
        out.integer(UInt32(freeUIDs.count))
        for uid in freeUIDs { out.integer(uid) }
        out.integer(nextLeaf)
        out.accounts(untold)
        return out.bytes
    }

    /// Throws for a record of another format before it reads anything of it.
    public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        var input = ByteReader(bytes)
        let format = Array(spawnerStateFormat.utf8)
        guard input.remaining >= format.count, Array(try input.take(format.count)) == format else {
            throw WireError("the running spawner's state is \(Self.formatName(bytes)), this program reads \(Self.formatName(format[...]))")
        }
        protocolVersion = try input.integer()
        policy = try input.string(maximum: 1 << 20)
        program = try input.string(maximum: Self.maximumPath)
        policyPath = try input.string(maximum: Self.maximumPath)
        cgroupParent = try input.string(maximum: Self.maximumPath)
        address = try input.string(maximum: 256)
        lastReload = try input.string(maximum: Self.maximumPath)
        lock = try input.integer()
        listeners = []
        for _ in 0..<(try input.integer(UInt16.self)) {
            listeners.append(Listener(name: try input.string(maximum: 64), descriptor: try input.integer()))
        }
        daemon = try input.daemon()
        nextHandOver = try input.integer()
        workers = []
        for _ in 0..<(try input.integer(UInt32.self)) { workers.append(try input.worker()) }
        leaving = []
        for _ in 0..<(try input.integer(UInt32.self)) { leaving.append(try input.worker()) }
        groups = []
        for _ in 0..<(try input.integer(UInt32.self)) { groups.append(GroupID(try input.integer())) }
        var ranges: [ClosedRange<UInt64>] = []
        for _ in 0..<(try input.integer(UInt32.self)) {
            let first = try input.integer(UInt64.self), last = try input.integer(UInt64.self)
            guard first <= last else { throw WireError("a range that ends before it begins") }
            ranges.append(first...last)
        }
        guard let numbers = NumberSet(ranges: ranges) else { throw WireError("ranges that do not rise") }
        usedIDs = numbers
        freeUIDs = []
        for _ in 0..<(try input.integer(UInt32.self)) { freeUIDs.append(try input.integer()) }
        nextLeaf = try input.integer()
        untold = try input.accounts()
        try input.end()
    }

    /// The first line, where it is one that somebody can read.
    private static func formatName(_ bytes: ArraySlice<UInt8>) -> String {
        let line = bytes.prefix(64).prefix { $0 != 0x0A }
        guard !line.isEmpty, line.allSatisfy({ (0x20..<0x7F).contains($0) }) else { return "of an unknown format" }
        return "\"\(String(decoding: line, as: UTF8.self))\""
    }
}

extension ByteWriter {
    fileprivate mutating func time(_ value: UInt64?) {
        bool(value != nil)
        integer(value ?? 0)
    }

    fileprivate mutating func daemon(_ daemon: SpawnerState.Daemon) {
        integer(daemon.pid)
        integer(daemon.socket)
        integer(daemon.startedAt)
        integer(daemon.restartDelay)
        integer(daemon.question)
        time(daemon.askedAt)
        time(daemon.nextAt)
    }

    fileprivate mutating func worker(_ worker: SpawnerState.Worker) {
        integer(worker.id.number)
        integer(worker.group.number)
        integer(worker.uid)
        string(worker.path)
        for number in [worker.pid, worker.pidfd, worker.report, worker.outOfMemoryEvent] { integer(number) }
        string(worker.runtime)
        limits(worker.limits)
        integer(worker.cgroupMemory)
        integer(worker.cgroupCPU)
        integer(worker.cgroupProcesses)
        integer(worker.preparation.rawValue)
        for flag in [worker.isSealed, worker.isAssigned, worker.isTemporaryResized, worker.isKilled, worker.isSuspect, worker.isOrphan] {
            bool(flag)
        }
        integer(worker.account)
        integer(worker.toldCPU)
        bool(worker.order != nil)
        if let order = worker.order {
            string(order.runtime)
            strings(order.command)
            string(order.code)
        }
        buckets(worker.buckets)
        layers(worker.layers)
        bool(worker.cause != nil)
        if let present = worker.cause { cause(present) }
        bool(worker.usage != nil)
        if let present = worker.usage { usage(present) }
    }
}

extension ByteReader {
    fileprivate mutating func time() throws(WireError) -> UInt64? {
        let isThere = try bool(), value = try integer(UInt64.self)
        return isThere ? value : nil
    }

    fileprivate mutating func daemon() throws(WireError) -> SpawnerState.Daemon {
        SpawnerState.Daemon(
            pid: try integer(), socket: try integer(), startedAt: try integer(), restartDelay: try integer(), question: try integer(),
            askedAt: try time(), nextAt: try time())
    }

    fileprivate mutating func worker() throws(WireError) -> SpawnerState.Worker {
        let id = WorkerID(try integer()), group = GroupID(try integer()), uid = try integer(UInt32.self)
        let path = try string(maximum: 4096), pid = try integer(Int32.self)
        let descriptors = (pid: try integer(Int32.self), report: try integer(Int32.self), event: try integer(Int32.self))
        let runtime = try string(maximum: 64), limits = try limits()
        let cgroup = (memory: try integer(UInt64.self), cpu: try integer(UInt32.self), processes: try integer(UInt32.self))
        guard let preparation = Preparation(rawValue: try integer()) else { throw WireError("unknown preparation") }
        var worker = SpawnerState.Worker(
            id: id, group: group, uid: uid, path: path, pid: pid, descriptors: descriptors, runtime: runtime, limits: limits,
            cgroup: cgroup,
            preparation: preparation)
        worker.isSealed = try bool()
        worker.isAssigned = try bool()
        worker.isTemporaryResized = try bool()
        worker.isKilled = try bool()
        worker.isSuspect = try bool()
        worker.isOrphan = try bool()
        worker.account = try integer()
        worker.toldCPU = try integer()
        if try bool() {
            worker.order = SpawnerState.Order(
                runtime: try string(maximum: 64),
                command: try strings(maximumCount: SpawnerRequest.maximumWords, maximum: SpawnerRequest.maximumWord),
                code: try string(maximum: 64))
        }
        worker.buckets = try buckets()
        worker.layers = try layers()
        worker.cause = try bool() ? try cause() : nil
        worker.usage = try bool() ? try usage() : nil
        return worker
    }
}
