// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Logging
import NIOCore
import NIOPosix
import Store
import Wire

extension SupervisorState {
    // MARK: from the spawner

    func received(_ event: SpawnerEvent, _ descriptors: [CInt]) {
        switch event {
        case .welcome:
            handle(.spawnerConnected)
            endedEarly = []
        case .spawned(let worker, let pid, let uid, let cgroup, let hasEgress):
            guard descriptors.count == (hasEgress ? 4 : 3) else { return descriptors.forEach { _ = Glibc.close($0) } }
            if let unpacker = unpackers[worker] {
                return unpacker.started(descriptors)
            }
            guard processes[worker] != nil else { return descriptors.forEach { _ = Glibc.close($0) } }
            processes[worker]?.pid = pid
            processes[worker]?.uid = uid
            processes[worker]?.cgroup = cgroup
            workersByCgroup[String(cgroup.drop { $0 == "/" })] = worker
            listen(to: worker, control: descriptors[0], stdout: descriptors[1], stderr: descriptors[2])
            if hasEgress { letOut(worker, through: descriptors[3]) }
            if processes[worker]?.isAdopted == false { passed(.sandbox, worker) }
            handle(.spawned(worker))
        case .assigned(let worker):
            passed(.sandbox, worker)
            handle(.assigned(worker))
        case .failed(let worker, let reason):
            logger.error("a worker could not be started", metadata: ["worker": "\(worker)", "reason": "\(reason)"])
            if let unpacker = unpackers.removeValue(forKey: worker) { return unpacker.failed(reason) }
            close(worker)
            handle(.startFailed(worker, reason: reason))
        case .exited(let worker, let cause, let usage):
            if let unpacker = unpackers.removeValue(forKey: worker) { return unpacker.ended(cause) }
            ended(worker, cause, usage)
        case .posture(let worker, let checks):
            for promise in postures.removeValue(forKey: worker) ?? [] { promise.succeed(checks) }
        case .usage(let entries):
            for entry in entries {
                charge(entry.worker, entry.usage)
                if entry.pid > 0 { processes[entry.worker]?.pid = entry.pid }
            }
            let waiters = usageWaiters
            usageWaiters = []
            for waiter in waiters { waiter.succeed() }
        // From here, on the loop that serves calls: where it hangs there is no answer.
        case .ping(let number, let use):
            spawnerUse = use
            spawner(.alive(number))
        case .spent(let entries): bill(entries)
        // Of the daemon as a whole: `Main` hears it.
        case .succession, .handOver, .handOverFailed, .spawnerReplaced, .kept: descriptors.forEach { _ = Glibc.close($0) }
        case .groupFailed(let group, let reason):
            logger.error("a tenant's group could not be changed", metadata: ["group": "\(group)", "reason": "\(reason)"])
        }
    }

    private func ended(_ worker: WorkerID, _ cause: DeathCause, _ usage: Usage) {
        count("deaths." + Self.word(cause))
        if processes[worker] == nil { endedEarly.insert(worker) }
        charge(worker, usage)
        if let process = processes[worker], let version = process.deployment?.spec.version, cause != .exited(code: 0), cause != .killed {
            logger.info("a worker died", metadata: ["worker": "\(worker)", "version": "\(version)", "cause": "\(cause)"])
            let hits = usage.processLimitHits > 0 ? "; the process limit refused \(usage.processLimitHits) forks" : ""
            let peak = usage.peakMemoryBytes > 0 ? "; peak memory \(usage.peakMemoryBytes >> 20) MiB" : ""
            let text = "worker \(cause)\(hits)\(peak), cpu \(usage.cpuMicroseconds / 1000) ms"
            log(
                LogLine(
                    time: clock.wall(), version: version, worker: worker, invocation: process.lastInvocation, stream: .supervisor,
                    level: 3, bytes: Array(text.utf8)))
        }
        close(worker)
        for promise in postures.removeValue(forKey: worker) ?? [] { promise.succeed([]) }
        handle(.exited(worker, cause))
    }

    /// Notes a worker's use; what is new of its processor time goes to its function, and at once into the ledger, which outlives a kill of the daemon.
    private func charge(_ worker: WorkerID, _ usage: Usage) {
        guard let process = processes[worker] else { return }
        let before = process.usage.cpuMicroseconds
        processes[worker]?.usage = usage
        guard let function = process.deployment?.spec.version.function, usage.cpuMicroseconds > before, figures[function] != nil else {
            return
        }
        bill(function, usage.cpuMicroseconds - before)
    }

    private func bill(_ function: FunctionID, _ microseconds: UInt64) {
        figures[function]?.cpuMicroseconds += microseconds
        let unbilled = (unbilledCPU[function] ?? 0) + microseconds
        let isNoted = ledger?.used(function, cpuUs: unbilled, wallMs: time()) ?? false
        unbilledCPU[function] = isNoted ? nil : unbilled
    }

    /// A worker that becomes one of a function has come so far; a spare is measured when it is given one.
    private func passed(_ stage: StartStage, _ worker: WorkerID) {
        guard let process = processes[worker], process.deployment != nil, process.stages[stage] == nil else { return }
        let now = clock.now()
        process.stages[stage] = now - process.stageAt
        process.stageAt = now
    }

    /// Its start is over: the whole of it counts, and its parts. One that ends before is no start.
    private func started(_ worker: WorkerID) {
        guard let process = processes[worker], process.stages[.code] == nil else { return }
        passed(.code, worker)
        guard process.stages[.code] != nil else { return }
        startTimes[process.kind, default: FixedHistogram(FixedHistogram.waits)].add(process.stageAt - process.begunAt)
        for (stage, time) in process.stages {
            stageTimes[StartStage.Key(kind: process.kind, stage: stage), default: FixedHistogram(FixedHistogram.waits)].add(time)
        }
    }

    /// What workers of daemons before this one used and nobody was told.
    private func bill(_ entries: [AccountUse]) {
        var used = Dictionary(entries.map { ($0.account, $0.cpuMicroseconds) }, uniquingKeysWith: &+)
        // One pass, and nothing built of a hundred thousand functions for one entry.
        let functions = figures.keys.filter { used[Self.account($0)] != nil }
        for function in functions { used.removeValue(forKey: Self.account(function)).map { bill(function, $0) } }
        for microseconds in used.values {
            logger.warning(
                "processor time of a function that is no more is on nobody's bill", metadata: ["microseconds": "\(microseconds)"])
        }
    }

    /// The number under which the spawner keeps what workers of a function used: the same in every daemon, and no name.
    static func account(_ function: FunctionID) -> UInt64 { FunctionKey(function).bits }

    static func word(_ cause: DeathCause) -> String {
        switch cause {
        case .exited: "exited"
        case .signalled: "signalled"
        case .syscall: "syscall"
        case .outOfMemory: "outOfMemory"
        case .setupFailed: "setupFailed"
        case .killed: "killed"
        }
    }

    private func close(_ worker: WorkerID) {
        rememberWriter(worker)
        guard let process = processes.removeValue(forKey: worker) else { return }
        let path = String(process.cgroup.drop { $0 == "/" })
        if workersByCgroup[path] == worker { workersByCgroup[path] = nil }
        process.link?.close()
        process.egress?.close()
    }

    /// Serves a worker's way out; what is said of it stands in the function's log.
    func letOut(_ worker: WorkerID, through listener: CInt) {
        guard let version = processes[worker]?.deployment?.spec.version, let openEgress else { return _ = Glibc.close(listener) }
        let (log, clock) = (log, clock)
        processes[worker]?.egress = openEgress(version.function.tenant, listener) { text in
            log(
                LogLine(
                    time: clock.wall(), version: version, worker: worker, invocation: nil, stream: .supervisor, level: 1,
                    bytes: Array(text.utf8)))
        }
    }

    /// Takes the daemon's ends of a worker's fd 3, stdout and stderr, and reads from them.
    func listen(to worker: WorkerID, control: CInt, stdout: CInt?, stderr: CInt?) {
        processes[worker]?.control = control
        connect(worker, control: control)
        if let stdout { follow(worker, .stdout, stdout) }
        if let stderr { follow(worker, .stderr, stderr) }
    }

    private func connect(_ worker: WorkerID, control: CInt) {
        let tenant = processes[worker]?.deployment?.spec.version.function.tenant
        let link = WorkerLink(
            worker: worker, share: tenant.map(frameShare) ?? FrameShare(loop),
            received: { [weak self] frame in self?.received(frame, from: worker) },
            broken: { [weak self] reason, isFault in self?.linkBroke(worker, reason, isFault) })
        processes[worker]?.link = link
        let handler = NIOLoopBound(link, eventLoop: loop)
        ClientBootstrap(group: loop)
            .channelOption(.autoRead, value: false)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler.value) }
            }
            .withConnectedSocket(control)
            .assumeIsolated().whenFailure { [weak self] error in
                self?.handle(.linkBroken(worker, reason: "its connection could not be set up: \(error)"))
            }
    }

    private func follow(_ worker: WorkerID, _ stream: LogLine.Stream, _ descriptor: CInt) {
        let pipe = LogPipe(
            stream,
            line: { [weak self] bytes in self?.wrote(worker, stream, stream == .stderr ? 2 : 1, bytes) },
            dropped: { [weak self] count in
                self?.wrote(worker, .supervisor, 2, Array("\(count) bytes of \(stream.rawValue) dropped: more than 64 KiB/s".utf8))
            })
        processes[worker]?.pipes.append((descriptor, pipe))
        let handler = NIOLoopBound(pipe, eventLoop: loop)
        NIOPipeBootstrap(group: loop)
            .channelOption(.autoRead, value: false)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler.value) }
            }
            .takingOwnershipOfDescriptor(input: descriptor)
            .assumeIsolated().whenFailure { [weak self] error in
                self?.logger.error("a worker's log could not be followed", metadata: ["worker": "\(worker)", "error": "\(error)"])
            }
    }

    /// Puts a failed invocation on record, for whoever looks later: the caller has the error, but the owner may not be the caller. The end of a worker is told by ``ended(_:_:_:)``.
    func tellFailure(_ id: InvocationID, _ invocation: Pending, _ verdict: Verdict) {
        guard let worker = invocation.worker else { return }
        switch verdict {
        case .completed(.functionError) where invocation.fault?.retryAfter == nil:
            let fault = invocation.fault ?? FunctionFault(type: "Error", message: "the function reported an error", stack: "")
            logged(worker, 3, Self.lines(fault), as: .supervisor, of: id)
        case .failed(.timedOut, let reason, _): logged(worker, 3, [Array(reason.utf8)], as: .supervisor, of: id)
        default: break
        }
    }

    /// An error as lines of a log, at most 64.
    static func lines(_ fault: FunctionFault) -> [[UInt8]] {
        "\(fault.type): \(fault.message)\n\(fault.stack)".utf8.split(separator: UInt8(ascii: "\n"), maxSplits: 64).prefix(64)
            .map { Array($0.prefix(LogPipe.lineLimit)) }
    }

    private func wrote(_ worker: WorkerID, _ stream: LogLine.Stream, _ level: UInt8, _ bytes: [UInt8], of invocation: InvocationID? = nil) {
        guard let version = processes[worker]?.deployment?.spec.version else { return }
        let invocation = invocation ?? processes[worker]?.lastInvocation
        if let invocation, pending[invocation]?.order.wantsLog == true {
            pending[invocation]?.logTail.append(String(decoding: bytes, as: UTF8.self))
            if let count = pending[invocation]?.logTail.count, count > Self.logTailLimit { pending[invocation]?.logTail.removeFirst() }
        }
        log(
            LogLine(
                time: clock.wall(), version: version, worker: worker, invocation: invocation, stream: stream, level: level, bytes: bytes))
    }

    /// Lines that came by frame, under the same budget as what goes through a pipe: all of them or none.
    private func logged(
        _ worker: WorkerID, _ level: UInt8, _ lines: [[UInt8]], as stream: LogLine.Stream, of invocation: InvocationID? = nil
    ) {
        let now = clock.now()
        guard var budget = processes[worker]?.logBudget else { return }
        let gained = (now - budget.at) / 1_000_000 * UInt64(LogPipe.refill) / 1000
        if gained > 0 {
            budget.tokens = min(LogPipe.burst, budget.tokens + Int(min(gained, UInt64(LogPipe.burst))))
            budget.at = now
            if budget.dropped > 0 {
                wrote(worker, .supervisor, 2, Array("\(budget.dropped) structured log lines dropped: more than 64 KiB/s".utf8))
                budget.dropped = 0
            }
        }
        let size = lines.reduce(0) { $0 + $1.count }
        if budget.tokens >= size {
            budget.tokens -= size
            for line in lines { wrote(worker, stream, level, line, of: invocation) }
        } else {
            budget.dropped += lines.count
        }
        processes[worker]?.logBudget = budget
    }

    /// Lines of log that ride on an answer.
    static let logTailLimit = 50

    // MARK: from a worker

    func received(_ frame: Frame, from worker: WorkerID) {
        switch frame.kind {
        case .hello:
            guard frame.integer(.protocolVersion, as: UInt16.self) == workerProtocolVersion else {
                return breakLink(worker, "speaks another version of the worker protocol; this supervisor speaks \(workerProtocolVersion)")
            }
            passed(.runtime, worker)
            handle(.greeted(worker))
        case .ready:
            started(worker)
            handle(.ready(worker))
        case .initError:
            let fault = Self.fault(frame)
            logged(worker, 3, Self.lines(fault), as: .supervisor)
            handle(.initFailed(worker, type: fault.type, message: fault.message))
        case .result, .error, .retryLater: finished(frame, worker)
        case .chunk: streamed(frame, worker)
        case .log:
            guard let message = frame.bytes(.message) else { return }
            logged(worker, min(frame.integer(.level) ?? 1, 3), [Array(message.prefix(LogPipe.lineLimit))], as: .log)
        case .call: call(frame, worker)
        case .emit:
            emit(frame, worker)
        default: breakLink(worker, "sent a frame that only the supervisor may send")
        }
    }

    private func breakLink(_ worker: WorkerID, _ reason: String) {
        processes[worker]?.link?.close()
        linkBroke(worker, "the worker " + reason, true)
    }

    /// What it did wrong stands in its function's log: of its end nothing else would.
    private func linkBroke(_ worker: WorkerID, _ reason: String, _ isFault: Bool) {
        if isFault { wrote(worker, .supervisor, 3, Array(reason.utf8)) }
        handle(.linkBroken(worker, reason: reason))
    }

    /// What all workers of a tenant have together.
    func frameShare(_ tenant: Name) -> FrameShare {
        if let share = frameShares[tenant] { return share }
        let share = FrameShare(loop)
        frameShares[tenant] = share
        return share
    }

    /// The invocation in a slot, or nil for a late or second answer, which is dropped and counted.
    func invocation(_ frame: Frame, _ worker: WorkerID) -> InvocationID? {
        guard let process = processes[worker], Int(frame.slot) < process.slots.count, let id = process.slots[Int(frame.slot)] else {
            processes[worker]?.lateAnswers += 1
            count("answers.late")
            return nil
        }
        return id
    }

    private func finished(_ frame: Frame, _ worker: WorkerID) {
        guard let id = invocation(frame, worker) else { return }
        if let process = processes[worker] {
            // Else each answer would bring it one more invocation that is never read.
            guard process.link?.hasTaken(frame.slot) ?? true else {
                return breakLink(worker, "answered an invocation that it has not read")
            }
            process.slots[Int(frame.slot)] = nil
            process.served += 1
        }
        switch frame.kind {
        case .result:
            pending[id]?.answer = Self.answer(frame)
            handle(.finished(id, worker, .ok))
        case .retryLater:
            let seconds = min(frame.integer(.after, as: UInt32.self) ?? 1, Self.longestRetryLater)
            pending[id]?.fault = FunctionFault(
                type: "RetryLater", message: "the function asks to be called again in \(seconds) s", stack: "", retryAfter: seconds)
            handle(.finished(id, worker, .functionError))
        default:
            pending[id]?.fault = Self.fault(frame)
            handle(.finished(id, worker, .functionError))
        }
    }

    private static func fault(_ frame: Frame) -> FunctionFault {
        FunctionFault(
            type: frame.text(.errorType) ?? "Error", message: frame.text(.errorMessage) ?? "", stack: frame.text(.errorStack) ?? "")
    }

    /// The longest that a function may put its event off, in seconds.
    static let longestRetryLater: UInt32 = 86_400

    private static func answer(_ frame: Frame) -> FunctionAnswer {
        FunctionAnswer(
            status: frame.integer(.status), contentType: frame.text(.contentType) ?? "", headers: frame.texts(.header),
            body: ByteBuffer(bytes: frame.bytes(.body) ?? []), isStreamed: frame.flags & Frame.lastFlag != 0)
    }

    private func streamed(_ frame: Frame, _ worker: WorkerID) {
        guard let id = invocation(frame, worker), let invocation = pending[id] else { return }
        if !invocation.hasBegun {
            pending[id]?.hasBegun = true
            invocation.observer.began(Self.answer(frame))
        }
        guard let body = frame.bytes(.body), !body.isEmpty else { return }
        if !invocation.observer.chunk(ByteBuffer(bytes: body)) { processes[worker]?.link?.hold() }
    }
}
