// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit
import Wire

/// A newer program for this process that is tried, in a process of its own that takes nothing over.
struct ProgramTrial {
    /// What a program says that can go on from here.
    static let consent = "ready for " + spawnerStateFormat.dropLast()

    let pid: Int32
    /// What it says.
    let output: Int32
    /// The open program: what was tried is what is executed.
    let program: Int32
    let deadline: UInt64
}

/// A new program in the place of the running one, in the same process: workers, daemon, listeners and the service manager notice nothing. What cannot be made anew goes along as
/// descriptors and a record of what they are (``SpawnerState``); spare cgroups, network namespaces and sockets are thrown away and made again.
extension Spawner {
    /// Where this process's program and its places are.
    struct Place {
        var program: String
        var policy: String
        /// Where the workers' cgroups lie on v2.
        var cgroupParent: String
        /// The lock of the state directory, held open.
        var lock: Int32
    }

    /// How long a program may take to say that it can go on, in nanoseconds.
    static let trialLimit: UInt64 = 20_000_000_000

    // MARK: trying

    /// Has the program on the disk read the present state and make what it needs; what follows is in ``reapTrial()``.
    func tryProgram() {
        do throws(KernelError) {
            let program = try Replacement.open(place.program)
            let state = try Replacement.sealed(state().encoded())
            let probe = try Replacement.startProbe(program.rawValue, state: state.rawValue, name: place.program)
            trial = ProgramTrial(
                pid: probe.pid, output: probe.output, program: program.release(),
                deadline: MonotonicClock.nanoseconds() + Self.trialLimit)
            manager.notify(["STATUS=The spawner's new program is tried."])
        } catch { refuseProgram("\(error)") }
    }

    private func refuseProgram(_ reason: String) {
        manager.notify(["STATUS=Serves on \(address). The spawner's program is not replaced: \(reason)"])
        refuseHandOver("the spawner's new program is refused: \(reason)")
    }

    /// Whether the trial has ended; where it went well, everything after this is done by the new program.
    func reapTrial() {
        guard let present = trial else { return }
        var status: Int32 = 0
        guard unsafe waitpid(present.pid, &status, WNOHANG) == present.pid else { return }
        let said = Self.firstLine(present.output)
        trial = nil
        close(present.output)
        defer { close(present.program) }
        guard !isStopping, daemonPID > 0, health.due != nil else { return refuseProgram("no daemon serves any more") }
        switch status {
        case 0 where said == ProgramTrial.consent: refuseProgram(execute(present.program))
        case 127 << 8: refuseProgram("\(place.program) cannot be executed")
        case _ where status & 0x7F > 0: refuseProgram("it ended with signal \(status & 0x7F)")
        default: refuseProgram(said.isEmpty || status == 0 ? "it does not know this state (exit status \(status >> 8 & 0xFF))" : said)
        }
    }

    /// The first line, as far as it can be shown, without the program's name.
    private static func firstLine(_ output: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = max(0, unsafe read(output, &bytes, bytes.count))
        let line = bytes.prefix(count).prefix { $0 != 0x0A }.map { (0x20..<0x7F).contains($0) ? $0 : 0x3F }
        let text = String(decoding: line.prefix(400), as: UTF8.self)
        let name = "bulkhead-spawner: "
        return text.hasPrefix(name) ? String(text.dropFirst(name.count)) : text
    }

    func passTrialTime(_ now: UInt64) {
        guard let present = trial, present.deadline <= now else { return }
        endTrial()
        refuseProgram("it has not said in \(Self.trialLimit / 1_000_000_000) s that it can go on")
    }

    func endTrial() {
        guard let present = trial else { return }
        trial = nil
        kill(present.pid, SIGKILL)
        waitpid(present.pid, nil, 0)
        close(present.output)
        close(present.program)
    }

    // MARK: replacing

    /// Executes the program. Returns only where that failed, with the reason; nothing has changed then but that spare cgroups are gone.
    private func execute(_ program: Int32) -> String {
        dropAllLeaves()
        let state = state()
        do throws(KernelError) {
            let bytes = state.encoded()
            // What was tried was the state of a moment before.
            guard bytes.count <= SpawnerState.limit, let read = try? SpawnerState(decoding: bytes[...]) else {
                return "what it knows cannot be handed on"
            }
            if let objection = read.objection(firstUID: policy.firstUID, uidCount: policy.uidCount) {
                return "what it knows cannot be handed on: \(objection)"
            }
            let record = try Replacement.sealed(bytes)
            let words = [place.program, "--policy", place.policy, "--resume", "\(record.rawValue)"]
            return "\(Replacement.execute(program, arguments: words, keeping: state.descriptors + [record.rawValue]))"
        } catch { return "\(error)" }
    }

    /// Everything that a program in this one's place must know.
    func state() -> SpawnerState {
        var state = SpawnerState(
            policy: policy.text, program: place.program, policyPath: place.policy, cgroupParent: place.cgroupParent, lock: place.lock,
            address: address, listeners: listeners.map { SpawnerState.Listener(name: $0.name, descriptor: $0.descriptor) },
            daemon: SpawnerState.Daemon(
                pid: daemonPID, socket: daemonSocket, startedAt: daemonStartedAt, restartDelay: restartPause.next, question: health.number,
                askedAt: health.askedAt, nextAt: health.nextAt),
            nextHandOver: nextHandOver, lastReload: lastReload, workers: workers.values.map(record), leaving: leaving.map(record),
            groups: groups.sorted { $0.number < $1.number }, usedIDs: usedIDs, freeUIDs: Array(uids.order), nextLeaf: leaves.nextNumber)
        state.untold = untold.entries
        return state
    }

    private func record(_ worker: LiveWorker) -> SpawnerState.Worker {
        let isLive = workers[worker.id]?.pid == worker.pid
        var out = SpawnerState.Worker(
            id: worker.id, group: worker.group, uid: worker.uid, path: worker.path, pid: worker.pid,
            descriptors: isLive ? (worker.pidfd, worker.report, worker.outOfMemoryEvent ?? -1) : (-1, -1, -1), runtime: worker.runtime,
            limits: worker.limits,
            cgroup: (worker.cgroupLimits.memoryBytes, worker.cgroupLimits.cpuMilli, worker.cgroupLimits.processes),
            preparation: worker.preparation)
        out.isSealed = worker.isSealed
        out.isAssigned = worker.isAssigned
        out.isTemporaryResized = worker.isTemporaryResized
        out.isKilled = worker.isKilled
        (out.isOrphan, out.account, out.toldCPU) = (worker.isOrphan, worker.account, worker.toldCPU)
        out.isSuspect = suspects.contains(worker.id)
        out.order = worker.pendingOrder.map {
            SpawnerState.Order(runtime: $0.runtime, command: $0.command, code: pendingCode[worker.id] ?? "")
        }
        out.buckets = worker.buckets.flatMap { BucketAccess(tenant: $0.tenant, grants: $0.grants) }
        out.layers = worker.layers?.names ?? []
        (out.cause, out.usage) = (worker.cause, worker.usage)
        return out
    }

    // MARK: going on

    /// Takes the record's place, tells the daemon, and goes on with what the record was made for: a new daemon.
    func resume(_ state: SpawnerState) throws(KernelError) {
        (daemonPID, daemonSocket) = (state.daemon.pid, state.daemon.socket)
        (hasGreeted, wasEverReady) = (true, true)
        (daemonStartedAt, restartPause) = (state.daemon.startedAt, RestartPause(next: state.daemon.restartDelay))
        health.resume(number: state.daemon.question, askedAt: state.daemon.askedAt, nextAt: state.daemon.nextAt)
        (nextHandOver, lastReload) = (state.nextHandOver, state.lastReload)
        groups = Set(state.groups)
        usedIDs = state.usedIDs
        uids = UIDPool(free: state.freeUIDs)
        leaves = LeafReserve(nextNumber: state.nextLeaf)
        untold = UntoldUse(state.untold)
        leaving = state.leaving.map(worker)
        try poller.add(daemonSocket, token: Token.daemon.rawValue << 56)
        for record in state.workers {
            let worker = worker(record)
            workers[worker.id] = worker
            if record.isSuspect { suspects.insert(worker.id) }
            if let order = record.order { pendingCode[worker.id] = order.code }
            try watch(worker)
        }
        say("a new program goes on with \(workers.count) worker\(workers.count == 1 ? "" : "s")")
        tell(.spawnerReplaced)
        // What has ended meanwhile.
        received(signal: SIGCHLD)
        guard daemonPID > 0 else { return }
        beginHandOver()
    }

    private func worker(_ record: SpawnerState.Worker) -> LiveWorker {
        LiveWorker(
            id: record.id, group: record.group, uid: record.uid, path: record.path, pid: record.pid, pidfd: record.pidfd,
            report: record.report, outOfMemoryEvent: record.outOfMemoryEvent >= 0 ? record.outOfMemoryEvent : nil, runtime: record.runtime,
            limits: record.limits,
            cgroupLimits: CgroupLimits(
                memoryBytes: record.cgroupMemory, cpuMilli: record.cgroupCPU, processes: record.cgroupProcesses),
            preparation: record.preparation, isSealed: record.isSealed, isAssigned: record.isAssigned,
            isTemporaryResized: record.isTemporaryResized, pendingOrder: record.order.map { ($0.runtime, $0.command) },
            buckets: buckets(record.buckets), layers: layers(record.layers), isKilled: record.isKilled, cause: record.cause,
            usage: record.usage,
            account: record.account, toldCPU: record.toldCPU, isOrphan: record.isOrphan)
    }
}
