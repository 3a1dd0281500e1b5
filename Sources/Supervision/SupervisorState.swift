// SPDX-License-Identifier: Apache-2.0
public import Core
import DequeModule
import Logging
import NIOCore
public import Store
public import Wire

/// A worker's way out that is being served.
public protocol WorkerEgress {
    /// Of the listening socket, as long as it is open: afterwards the number may be somebody else's.
    var descriptor: CInt? { get }
    /// Ends it, with its connections.
    func close()
}

/// What the supervisor holds, confined to its loop.
public final class SupervisorState {
    let loop: any EventLoop
    public let node: Node
    let logger: Logger
    let spawner: @Sendable (SpawnerRequest) -> Void
    let log: @Sendable (LogLine) -> Void
    let clock: SupervisorClock

    /// A live worker's processes, sockets and counters. A class, as ``Pending`` is: every call looks at both a few times, and copies would be most of the work.
    final class Process {
        var pid: Int32 = 0
        var uid: UInt32 = 0
        var cgroup = ""
        var startedAt: UInt64
        /// Since when it becomes a worker of its function.
        var begunAt = Instant(nanoseconds: 0)
        /// Since when it is in the present stage of that, and whether it was a spare before.
        var stageAt = Instant(nanoseconds: 0)
        var isAdopted = false
        /// How long each has taken, measured once, however often its worker says so.
        var stages: [StartStage: Nanoseconds] = [:]
        var kind = StartKind.cold
        var served: UInt64 = 0
        var link: WorkerLink?
        /// Of its fd 3, as long as the link is open, and of stdout and stderr, each as long as its pipe is: then the number may be somebody else's.
        var control: CInt = -1
        var pipes: [(descriptor: CInt, pipe: LogPipe)] = []
        /// Its way out, where it has one.
        var egress: (any WorkerEgress)?
        var deployment: Deployment?
        var slots: [InvocationID?] = []
        var lastInvocation: InvocationID?
        var usage = Usage()
        var lateAnswers = 0
        /// The deepest lineage that ended here lately: what it wrote may be noticed only now.
        var recent: (lineage: Lineage, endedAt: Instant)?
        /// What structured log lines may still take.
        var logBudget = (tokens: LogPipe.burst, at: Instant(nanoseconds: 0), dropped: 0)

        init(startedAt: UInt64) { self.startedAt = startedAt }
    }

    final class Pending {
        let order: InvocationOrder
        let observer: InvocationObserver
        let arrivedAt: Instant
        var dispatchedAt: Instant?
        var worker: WorkerID?
        var start: StartKind?
        var answer: FunctionAnswer?
        var fault: FunctionFault?
        var hasBegun = false
        var logTail: [String] = []
        /// What led to it, itself included; kept here and never told to the worker.
        let lineage: Lineage?
        /// Events that it has sent.
        var emitted = 0
        /// Calls that it waits for.
        var openCalls = 0
        /// Nil where nobody takes traces.
        let trace: TraceContext?

        init(order: InvocationOrder, observer: InvocationObserver, arrivedAt: Instant, lineage: Lineage?, trace: TraceContext?) {
            self.order = order
            self.observer = observer
            self.arrivedAt = arrivedAt
            self.lineage = lineage
            self.trace = trace
        }
    }

    var processes: [WorkerID: Process] = [:]
    /// What the workers of each tenant have of the loop together.
    var frameShares: [Name: FrameShare] = [:]
    /// By the cgroup's path below its hierarchy, without a slash at the beginning.
    var workersByCgroup: [String: WorkerID] = [:]
    /// Workers of the daemon before that ended before they were taken over.
    var endedEarly: Set<WorkerID> = []
    /// Workers that ended within the last seconds and may have written into buckets, the oldest first.
    var goneWriters: [Name: [GoneWriter]] = [:]
    var pending: [InvocationID: Pending] = [:]
    /// Whether an invocation has been submitted and has not ended.
    public func isPending(_ id: InvocationID) -> Bool { pending[id] != nil }
    var deployments: [VersionID: Deployment] = [:]
    /// What the alias `latest` of each function names.
    var latest: [FunctionID: VersionID] = [:]
    /// The other aliases, and `latest` once more.
    var routes: [FunctionID: [Name: AliasRoute]] = [:]
    /// Called when the rule has ended a canary; its calls go to the primary already.
    public var canaryEnded: ((CanaryEnd) -> Void)?
    /// Serves the way out of a worker of a tenant: a listening socket, which is adopted. What it calls in return, from any thread, goes to the worker's log.
    public var openEgress: ((Name, CInt, @escaping @Sendable (String) -> Void) -> any WorkerEgress)?
    /// Called with ended invocations whose traces are recorded; nil where nobody takes them.
    public var traced: ((InvocationTrace) -> Void)?
    var explain = ExplainLog()
    var postures: [WorkerID: [EventLoopPromise<[PostureCheck]>]] = [:]
    var usageWaiters: [EventLoopPromise<Void>] = []
    /// Workers outside the pool: they unpack archives.
    var unpackers: [WorkerID: UnpackerEvents] = [:]
    public internal(set) var counters: [String: UInt64] = [:]
    /// What has happened to each function.
    public internal(set) var figures: [FunctionID: FunctionFigures] = [:]
    /// Where charges are written; without one nothing is kept.
    public var ledger: UsageLedger? {
        // It knows how late it was when the last daemon ended.
        didSet { patientTime = nil }
    }
    var patientTime: PatientTime?
    /// The window of a tenant's budget that contains a time in milliseconds since 1970: its number, and its end in seconds since 1970.
    public var calendar: ((Name, BudgetPeriod, UInt64) -> (ordinal: Int64, end: Int64)?)?
    /// Durable events and the loop governor; nil where nothing is stored, then nothing is judged.
    public var events: EventEngine?
    /// Tenants whose buckets take more than they may: their workers see them read-only.
    var bucketsOver: Set<Name> = []
    /// Called when a budget is used up to a mark, and with ``BudgetMark/below`` once that is over.
    public var budgetMarked: ((Name, BudgetKind, BudgetMark) -> Void)?
    /// Tenants whose events wait because they are suspended.
    var suspended: Set<Name> = []
    /// Tenants with budgets.
    var budgets: [Name: TenantWindows] = [:]
    /// When the first window ends, in milliseconds since 1970.
    var nextWindow = UInt64.max
    /// Tenants whose windows are looked at in the round that is under way; empty between two rounds.
    var windowRound: [Name] = []
    /// Budgets that are used up to a mark.
    var markedBudgets: [Name: Set<BudgetKind>] = [:]
    /// What ended since ``takeRecentCalls()``.
    var recentCalls: [FunctionID: RecentCalls] = [:]
    /// From an event to the node's word on it, and from an invocation's arrival to its start.
    public internal(set) var decisions = FixedHistogram(FixedHistogram.decisions)
    public internal(set) var queueTimes = FixedHistogram(FixedHistogram.waits)
    /// How long workers took until they could serve.
    public internal(set) var startTimes: [StartKind: FixedHistogram] = [:]
    public internal(set) var stageTimes: [StartStage.Key: FixedHistogram] = [:]
    /// What the spawner's process uses, as it said last; nil before.
    public internal(set) var spawnerUse: ProcessUse?
    /// Starts that the ledger could not note: they are not made.
    var unnoted: [InvocationID: String] = [:]
    /// Processor time of each function's workers that the ledger had no room for, in microseconds: it goes with the next charge.
    var unbilledCPU: [FunctionID: UInt64] = [:]

    private var inbox: Deque<Event> = []
    private var isHandling = false
    private var actions: [Action] = []
    private var timer: Scheduled<Void>?
    private var timerAt = Instant(nanoseconds: .max)
    var random = RandomReserve()

    init(
        loop: any EventLoop, node: Node, logger: Logger, spawner: @escaping @Sendable (SpawnerRequest) -> Void,
        log: @escaping @Sendable (LogLine) -> Void, clock: SupervisorClock
    ) {
        self.loop = loop
        self.node = node
        self.logger = logger
        self.spawner = spawner
        self.log = log
        self.clock = clock
    }

    // MARK: the node

    /// Tells the node, then obeys it. An action that makes something happen at once queues that event: the node is never re-entered.
    func handle(_ event: Event) {
        inbox.append(event)
        guard !isHandling else { return }
        isHandling = true
        while let next = inbox.popFirst() {
            actions.removeAll(keepingCapacity: true)
            let began = clock.now()
            node.handle(next, at: began, into: &actions)
            let now = clock.now()
            decisions.add(now - began)
            for action in actions { perform(action, now) }
        }
        isHandling = false
        armTimer()
    }

    private func armTimer() {
        guard let next = node.nextDeadline else { return }
        guard timer == nil || next < timerAt else { return }
        timer?.cancel()
        timerAt = next
        timer = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(next.nanoseconds)) { [weak self] in
            self?.timer = nil
            self?.handle(.timePassed)
        }
    }

    // MARK: tenants and versions

    /// Makes a version invocable; the highest number of a function is its `latest` until ``setAlias(_:_:step:)`` says otherwise.
    public func register(_ deployment: Deployment) {
        let version = deployment.spec.version
        deployments[version] = deployment
        if figures[version.function] == nil { figures[version.function] = FunctionFigures() }
        if routes[version.function]?[.latest] == nil, version.number >= latest[version.function]?.number ?? 0 {
            latest[version.function] = version
        }
        tellNode(version)
    }

    public func unregister(_ function: FunctionID) {
        latest[function] = nil
        routes[function] = nil
        figures[function] = nil
        unbilledCPU[function] = nil
        for version in deployments.keys where version.function == function {
            deployments[version] = nil
            handle(.versionRemoved(version))
        }
    }

    public func latestVersion(_ function: FunctionID) -> VersionID? { latest[function] }
    public func deployment(_ version: VersionID) -> Deployment? { deployments[version] }
    public func versions(of function: FunctionID) -> [VersionID] { deployments.keys.filter { $0.function == function } }

    // MARK: invocations

    func submit(_ order: InvocationOrder, _ observer: InvocationObserver) -> InvocationID {
        let wall = passTime()
        openWindows(of: order.version.function.tenant, wall)
        let id = order.event?.id ?? order.id ?? newID(wall)
        var refusal: Refusal?
        var lineage = order.event?.lineage
        if order.depth > InvocationOrder.maximumDepth {
            refusal = Refusal(
                outcome: .loop, level: .loop, ceiling: "depth", limit: UInt64(InvocationOrder.maximumDepth), value: UInt64(order.depth),
                retryAfter: nil)
        } else if order.event == nil, let events {
            let verdict = events.judge(order, id)
            lineage = verdict.pass?.lineage
            refusal = verdict.trip.map(EventEngine.refusal)
        }
        var order = order
        let trace = trace(&order)
        pending[id] = Pending(order: order, observer: observer, arrivedAt: clock.now(), lineage: lineage, trace: trace)
        explain.begin(id, order.version, wall: wall, at: clock.now())
        if let refusal {
            explain.note(id, .replied(.refused(refusal)), at: clock.now())
            answer(id, .refused(refusal))
        } else {
            handle(
                .arrived(
                    Arrival(
                        id, order.version, timeout: order.timeout, bytes: order.body.readableBytes, tenantUser: order.tenantUser,
                        functionUser: order.functionUser, service: order.event?.service ?? .sync,
                        // An event was asked when it was accepted.
                        trigger: order.event == nil ? order.through : nil)))
        }
        return id
    }

    func newID(_ wall: UInt64) -> InvocationID { InvocationID(milliseconds: wall, random: (random.next(), random.next())) }

    func answer(_ id: InvocationID, _ verdict: Verdict) {
        guard let invocation = pending.removeValue(forKey: id) else { return }
        if let worker = invocation.worker { processes[worker]?.link?.release() }
        let now = clock.now()
        if let lineage = invocation.lineage { leave(invocation, lineage, now) }
        countForAlarms(invocation.order.version.function, verdict)
        queueTimes.add((invocation.dispatchedAt ?? now) - invocation.arrivedAt)
        if traced != nil { report(invocation, id, verdict, now) }
        let took = now - invocation.arrivedAt
        if verdict.outcome != .ok || invocation.order.event != nil || took >= Self.slow {
            explain.end(
                id, isFailure: verdict.outcome != .ok,
                bare: ExplainRecord(
                    id: id, version: invocation.order.version, arrivedAt: time() - took / 1_000_000,
                    entries: [ExplainEntry(after: took, decision: .replied(verdict))]))
        }
        tellFailure(id, invocation, verdict)
        if let alias = invocation.order.alias { countForCanary(alias, invocation, verdict.outcome, now) }
        figures[invocation.order.version.function, default: FunctionFigures()].ended(
            verdict, start: invocation.start, queued: (invocation.dispatchedAt ?? now) - invocation.arrivedAt,
            ran: invocation.dispatchedAt.map { now - $0 } ?? 0)
        invocation.observer.ended(
            InvocationReport(
                id: id, version: invocation.order.version, verdict: verdict, answer: invocation.answer, fault: invocation.fault,
                worker: invocation.worker, start: invocation.start, duration: now - invocation.arrivedAt,
                billed: invocation.dispatchedAt.map { now - $0 } ?? 0, logTail: invocation.logTail))
    }

    /// How long an invocation takes whose decisions are kept although it succeeded.
    static let slow: Nanoseconds = .seconds(1)

    /// What an invocation leaves behind: its cost for its root, and its lineage for writes that are noticed late.
    private func leave(_ invocation: Pending, _ lineage: Lineage, _ now: Instant) {
        if invocation.order.event == nil {
            events?.finished(invocation.order, lineage, ran: invocation.dispatchedAt.map { now - $0 } ?? 0)
        }
        guard let worker = invocation.worker, let process = processes[worker], process.deployment?.spec.buckets.isEmpty == false
        else { return }
        if let recent = process.recent, now - recent.endedAt < Self.writeDelay, recent.lineage.hops > lineage.hops { return }
        process.recent = (lineage, now)
    }

    /// How long after an invocation's end a write of its worker may be its own.
    static let writeDelay: Nanoseconds = .seconds(5)

    func count(_ name: String) { counters[name, default: 0] += 1 }

    // MARK: buckets

    /// Buckets that some worker may write into.
    public var writableBuckets: Set<BucketID> {
        var found: Set<BucketID> = []
        for process in processes.values {
            guard let spec = process.deployment?.spec, !spec.buckets.isEmpty, !bucketsOver.contains(spec.version.function.tenant) else {
                continue
            }
            for grant in spec.buckets where grant.isWritable {
                found.insert(BucketID(tenant: spec.version.function.tenant, bucket: grant.bucket))
            }
        }
        return found
    }

    func access(_ function: FunctionSpec) -> BucketAccess? {
        let tenant = function.version.function.tenant
        let isOver = bucketsOver.contains(tenant)
        return BucketAccess(
            tenant: tenant, grants: isOver ? function.buckets.map { BucketGrant(bucket: $0.bucket, isWritable: false) } : function.buckets)
    }

    /// The tenant's buckets have grown beyond their quota, or are within it again. Workers that may write end: the kernel has no quota for a directory, so
    /// whoever writes on must not be there any more.
    public func setBuckets(of tenant: Name, areOver isOver: Bool) {
        guard bucketsOver.contains(tenant) != isOver else { return }
        if isOver { bucketsOver.insert(tenant) } else { bucketsOver.remove(tenant) }
        let text = "was ended: the buckets of tenant \(tenant) \(isOver ? "are over their quota and read-only now" : "are writable again")"
        logger.warning("a tenant's buckets", metadata: ["tenant": "\(tenant)", "areOver": "\(isOver)"])
        for (worker, process) in processes {
            guard let spec = process.deployment?.spec, spec.version.function.tenant == tenant, spec.buckets.contains(where: \.isWritable)
            else { continue }
            process.link?.close()
            handle(.linkBroken(worker, reason: "the worker " + text))
        }
    }
}
