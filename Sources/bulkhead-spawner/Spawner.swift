// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit
import Wire

import struct SystemPackage.Errno

/// One worker of the registry.
struct LiveWorker {
    let id: WorkerID
    let group: GroupID
    let uid: UInt32
    let path: String
    let pid: Int32
    let pidfd: Int32
    let report: Int32
    let outOfMemoryEvent: Int32?
    var runtime: String
    var limits: WorkerLimits
    /// What its cgroup has now.
    var cgroupLimits: CgroupLimits
    var preparation: Preparation
    var isSealed = false
    var isAssigned = false
    /// The function's `/tmp` has another size than the spare's.
    var isTemporaryResized = false
    var pendingOrder: (runtime: String, command: [String])?
    var buckets: Buckets?
    var layers: Layers?
    var isKilled = false
    var cause: DeathCause?
    var usage: Usage?
    /// For whom it works, as its daemon says; 0 while for nobody.
    var account: UInt64 = 0
    /// Its processor time, as a daemon was told last, in microseconds.
    var toldCPU: UInt64 = 0
    /// Its daemon has ended, and none took it over.
    var isOrphan = false
}

/// The privileged process: one thread, one loop, one table of workers. It is the parent of everything, takes framed requests from the daemon on one socket, and
/// treats that daemon as possibly hostile: an illegal request ends the daemon.
final class Spawner {
    enum Token: UInt64 { case signal = 1, daemon, report, exit, outOfMemory, successor }

    let policy: SpawnerPolicy
    /// What a program in the place of this one is told of where it is.
    let place: Place
    let host: SandboxHost
    let cgroups: CgroupTree
    let signals: SignalFD
    var poller: Poller
    var listeners: [(name: String, descriptor: Int32)]
    var address: String

    var daemonPID: Int32 = 0
    var daemonSocket: Int32 = -1
    var hasGreeted = false
    var wasEverReady = false
    var restartAt: UInt64?
    var restartPause = RestartPause()
    var daemonStartedAt: UInt64 = 0
    var successor: Successor?
    /// A newer program for this process that is tried.
    var trial: ProgramTrial?
    /// When a restart may be tried again.
    var nextHandOver: UInt64 = 0
    /// Set while the daemon lets go and its successor is gone: when it is given up. Another daemon follows its end at once.
    var lonelyDeadline: UInt64?
    /// When a daemon that took over is given up, unless it serves by then.
    var readyDeadline: UInt64?

    var workers: [WorkerID: LiveWorker] = [:]
    /// Reaped, and their cgroup is still busy.
    var leaving: [LiveWorker] = []
    /// How many workers have ended.
    var ends: UInt64 = 0
    var groups: Set<GroupID> = []
    var usedIDs = NumberSet()
    /// Leaf cgroups made ahead.
    var leaves = LeafReserve()
    var uids: UIDPool
    /// Code of assignments that wait for the end of a seal.
    var pendingCode: [WorkerID: String] = [:]
    /// Workers whose cgroup met its memory limit and in which nothing was killed yet.
    var suspects: Set<WorkerID> = []
    var untold = UntoldUse()

    let manager: ServiceManager
    var health: DaemonHealth
    /// What became of the last reload by signal, as a sentence.
    var lastReload = ""

    var stopDeadline: UInt64?
    var isStopping = false
    var exitCode: Int32 = 0

    init(
        policy: SpawnerPolicy, place: Place, host: SandboxHost, cgroups: CgroupTree, signals: consuming SignalFD,
        listeners: [(name: String, descriptor: Int32)], address: String, manager: ServiceManager
    ) throws(KernelError) {
        self.policy = policy
        self.place = place
        self.host = host
        self.cgroups = cgroups
        self.listeners = listeners
        self.address = address
        self.manager = manager
        health = DaemonHealth(watchdog: manager.watchdog)
        uids = UIDPool(first: policy.firstUID, count: policy.uidCount)
        poller = try Poller()
        try poller.add(signals.descriptor.rawValue, token: Token.signal.rawValue << 56)
        self.signals = signals
    }

    /// Serves until a signal ends it. Returns the exit status.
    func run() -> Int32 {
        SandboxHost.forgetStart()
        // A daemon that an earlier program of this process has started goes on; where it ended meanwhile, the next one has its time.
        if daemonPID == 0, restartAt == nil { startDaemon() }
        while true {
            let delay = reserveDelay ?? .max
            let tokens = poller.wait(milliseconds: min(delay, timeout()))
            for token in tokens { handle(token) }
            if delay != .max, tokens.isEmpty { fillReserve() }
            retryLeaving()
            // After the answers were read: one that came while this process was stopped counts.
            watchDaemon()
            let now = MonotonicClock.nanoseconds()
            passSuccessorTime(now)
            passTrialTime(now)
            if let at = restartAt, at <= now, !isStopping {
                restartAt = nil
                startDaemon()
            }
            if isStopping, daemonPID == 0 || stopDeadline.map({ $0 <= now }) == true { break }
        }
        endEverything()
        return exitCode
    }

    private func timeout() -> Int32 {
        if !leaving.isEmpty { return 1 }
        if !suspects.isEmpty { return 5 }
        let now = MonotonicClock.nanoseconds()
        let next = [restartAt, stopDeadline, health.due, successor?.deadline, trial?.deadline, lonelyDeadline, readyDeadline].compactMap {
            $0
        }.min()
        return next.map { Int32(clamping: ($0 > now ? ($0 - now) / 1_000_000 : 0) + 1) } ?? .max
    }

    private func handle(_ token: UInt64) {
        let worker = WorkerID(token & 0x00FF_FFFF_FFFF_FFFF)
        switch Token(rawValue: token >> 56) {
        case .signal: while let number = signals.next() { received(signal: number) }
        case .daemon: receiveRequest()
        case .successor: receiveFromSuccessor()
        case .report: readReports(worker)
        case .exit: workerExited(worker)
        case .outOfMemory: ranOutOfMemory(worker)
        case nil: break
        }
    }

    // MARK: signals

    func received(signal: Int32) {
        switch signal {
        case SIGCHLD:
            reapSuccessor()
            reapTrial()
            if daemonPID > 0 {
                var status: Int32 = 0
                if unsafe waitpid(daemonPID, &status, WNOHANG) == daemonPID { daemonExited(status) }
            }
        case SIGTERM, SIGINT:
            if isStopping {
                stopDeadline = 0
            } else {
                isStopping = true
                if successor != nil { dropSuccessor("the node stops") }
                manager.notify(["STOPPING=1", "STATUS=Waits for what runs."])
                stopDeadline = MonotonicClock.nanoseconds() + 5_000_000_000
                if daemonPID > 0 { kill(daemonPID, SIGTERM) }
            }
        case SIGHUP: forwardReload()
        case SIGUSR2: beginRestart()
        default: break
        }
    }

    // MARK: the daemon

    func startDaemon() {
        // Two would hold the same listeners and the same state.
        guard daemonPID == 0 else { return }
        do throws(KernelError) {
            (daemonPID, daemonSocket) = try launchDaemon()
            hasGreeted = false
            daemonStartedAt = MonotonicClock.nanoseconds()
            try poller.add(daemonSocket, token: Token.daemon.rawValue << 56)
            welcome()
        } catch {
            say("cannot start the daemon: \(error)")
            scheduleRestart(lived: 0)
        }
    }

    /// A daemon's process and this end of the socket to it. The program is read from the disk anew each time: an upgrade needs no more.
    func launchDaemon() throws(KernelError) -> (pid: Int32, socket: Int32) {
        let pair = try SocketPair.messages().release()
        var size: Int32 = 4 << 20
        unsafe setsockopt(pair.first, SOL_SOCKET, SO_SNDBUF, &size, 4)
        unsafe setsockopt(pair.second, SOL_SOCKET, SO_SNDBUF, &size, 4)
        defer { close(pair.second) }
        _ = fcntl(pair.first, F_SETFL, O_NONBLOCK)
        do throws(KernelError) {
            let pid = try ProcessControl.startDaemon(
                executable: policy.daemonExecutable, environment: policy.daemonEnvironment + ["BULKHEAD_ADDRESS=\(address)"],
                uid: policy.daemonUID, gid: policy.daemonGID, control: pair.second, writable: policy.daemonDirectory)
            return (pid, pair.first)
        } catch {
            close(pair.first)
            throw error
        }
    }

    func welcome() {
        var gifts = listeners
        // A new one for every daemon: nobody reads it meanwhile, and the next daemon looks at everything anyway.
        let events: Int32
        do throws(KernelError) { events = try FileEvents().release() } catch {
            say("the daemon will not hear from the kernel which worker wrote into a bucket: \(error)")
            events = -1
        }
        defer { if events >= 0 { close(events) } }
        if events >= 0 { gifts.append((fileEventsName, events)) }
        tell(
            .welcome(version: spawnerProtocolVersion, listeners: gifts.map(\.name), runtimes: host.runtimes),
            descriptors: gifts.map(\.descriptor))
    }

    private func daemonExited(_ status: Int32) {
        let code = (status >> 8) & 0xFF
        let signal = status & 0x7F
        daemonPID = 0
        health.stopped()
        readyDeadline = nil
        let wasLonely = lonelyDeadline != nil
        lonelyDeadline = nil
        if daemonSocket >= 0, successor != nil { drainRequests() }
        closeDaemonSocket()
        if let next = successor, next.isPrepared, !isStopping { return promote(next, isOrderly: signal == 0 && code == 0) }
        if successor != nil { dropSuccessor("the daemon ended before its successor was prepared") }
        killAll()
        guard !isStopping else { return }
        if wasLonely {
            say("the daemon has let go without a successor: another one starts")
            return startDaemon()
        }
        if !wasEverReady, signal == 0, code == 78 {
            // EX_CONFIG, sysexits(3): it has said what is wrong, and saying it again does not help.
            isStopping = true
            // The service manager reads the same from its unit: `RestartPreventExitStatus=78`.
            exitCode = manager.isPresent ? 78 : 1
            return
        }
        let end = signal > 0 ? "signal \(signal)" : "exit code \(code)"
        let pause = scheduleRestart(lived: MonotonicClock.nanoseconds() - daemonStartedAt)
        let reason = "the daemon ended (\(end)); it starts again in \(pause / 1_000_000) ms"
        say(reason)
        manager.notify(["STATUS=\(reason)"])
    }

    @discardableResult private func scheduleRestart(lived: Nanoseconds) -> Nanoseconds {
        let pause = restartPause.take(lived: lived)
        restartAt = MonotonicClock.nanoseconds() + pause
        return pause
    }

    func closeDaemonSocket() {
        guard daemonSocket >= 0 else { return }
        poller.remove(daemonSocket)
        close(daemonSocket)
        daemonSocket = -1
    }

    /// The daemon asked for something that it may not: it is not to be trusted any more. The spawner goes on with a new one.
    func illegal(_ reason: String) {
        say("illegal request of the daemon, which is ended: \(reason)")
        closeDaemonSocket()
        if daemonPID > 0 { kill(daemonPID, SIGKILL) }
    }

    /// Returns whether the daemon has it to read.
    @discardableResult func tell(_ event: SpawnerEvent, descriptors: [Int32] = []) -> Bool {
        guard daemonSocket >= 0 else { return false }
        let bytes = event.encoded()
        for _ in 0..<100 {
            do throws(KernelError) {
                try Datagram.send(daemonSocket, bytes, descriptors: descriptors)
                return true
            } catch {
                guard error.errno == .wouldBlock || error.errno == .resourceTemporarilyUnavailable else { return false }
                var waiting = pollfd(fd: daemonSocket, events: Int16(POLLOUT), revents: 0)
                unsafe poll(&waiting, 1, 20)
            }
        }
        illegal("it reads no events")
        return false
    }

    // MARK: the end

    /// Ends the workers of a daemon that is gone; the next one knows nothing but those that are kept.
    func killAll(except kept: Set<WorkerID> = []) {
        for worker in workers.values where !kept.contains(worker.id) {
            workers[worker.id]?.isKilled = true
            workers[worker.id]?.isOrphan = true
            ProcessControl.signal(pidfd: worker.pidfd, SIGKILL)
        }
        for index in leaving.indices { leaving[index].isOrphan = true }
        let keptGroups = Set(kept.compactMap { workers[$0]?.group })
        for group in groups.subtracting(keptGroups) { dropLeaves(of: group) }
        groups = keptGroups
        usedIDs = NumberSet(kept.map(\.number))
    }

    private func endEverything() {
        if daemonPID > 0 {
            kill(daemonPID, SIGKILL)
            waitpid(daemonPID, nil, 0)
        }
        if successor != nil { dropSuccessor("the node ends") }
        endTrial()
        killAll()
        for worker in workers.values { waitpid(worker.pid, nil, 0) }
        cgroups.removeAll()
        for case (_, .unix(let path)) in policy.listeners { unsafe unlink(path) }
    }

    func say(_ text: String) {
        let line = "bulkhead-spawner: \(text)"
        guard unsafe write(2, line + "\n", line.utf8.count + 1) < 0 else { return }
        // A journal that was stopped has forgotten whose stream this is, and knows it no more when it is started again.
        let name = "JOURNAL_STREAM="
        let stream = policy.daemonEnvironment.first { $0.hasPrefix(name) }?.dropFirst(name.utf8.count)
        Journal(stream: stream.map(String.init))?.write(
            JournalEntry(priority: 6, message: line, fields: [.init("SYSLOG_IDENTIFIER", "bulkhead-spawner")]))
    }
}

/// Host ids of workers. The one that was free for the longest is taken next, so that what an owner might have left has had the most time to go.
struct UIDPool {
    private var free: [UInt32]
    private var head = 0

    init(first: UInt32, count: UInt32) { free = Array(first..<(first + count)) }
    /// These are free, and taken in this order.
    init(free: [UInt32]) { self.free = free }
    var order: ArraySlice<UInt32> { free[head...] }

    mutating func take() -> UInt32? {
        guard head < free.count else { return nil }
        defer {
            head += 1
            if head > 1024, head > free.count / 2 {
                free.removeFirst(head)
                head = 0
            }
        }
        return free[head]
    }

    mutating func give(back uid: UInt32) { free.append(uid) }
    var available: Int { free.count - head }
}
