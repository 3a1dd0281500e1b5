// SPDX-License-Identifier: Apache-2.0
public import Core
import Dispatch
import Glibc
import Logging
import NIOCore
public import Store

/// Durable events on the supervisor's loop: the loop governor is asked, the store keeps what was accepted, and what is due runs through the same node as every call.
///
/// An event is admitted by the governor before it is stored and confirmed after it is on the disk. It runs under a lease; how it ends is written with its destination's record in one
/// transaction. What the governor holds back is stored as parked.
public final class EventEngine {
    /// Leases at a time, over all tenants.
    static let mostRunning = 1_024
    /// The first leases of a tenant or function that has none.
    static let firstShare = 8
    /// Events of a node that wait; beyond, senders are told to come back. A million rows are about a gigabyte.
    static let mostWaiting: UInt64 = 2_000_000

    /// What may wait of one tenant: a share of the node's, so that one that sends without end fills its own and nobody else's.
    static let mostWaitingOfTenant: (events: UInt64, bytes: UInt64) = (500_000, 1 << 30)

    unowned let state: SupervisorState
    public let store: EventStore
    let loop: any EventLoop
    let logger: Logger
    var governor: LoopGovernor
    /// Names for what the governor only counts.
    var trail = LoopTrail()
    let steady: SteadyTime
    /// What a function's target means now.
    public var resolve: (FunctionID, String) -> VersionID?
    /// Told on the loop, once for each alarm and once for its recovery.
    public var alarmed: (Alarm) -> Void = { _ in }
    /// Delivers a destination's record to a webhook or bucket and answers whether it is there.
    public var deliver: ((Delivery, @escaping @Sendable (DeliveryResult) -> Void) -> Void)?

    /// Holds a bucket's mark, lets it go on, or has the bucket looked through again.
    public var markBucket: (BucketID, BucketWatch.Mark) -> Void = { _, _ in }

    struct Run {
        var lease: EventLease
        var lineage: Lineage
        var edge: EdgeID
        var isStarted = false
        /// Whether it is the call: the others of its batch run with it.
        var isCounted = true
        /// All of its call, where that has more than one: the first is the call's own.
        var call: [InvocationID] = []
        /// Settled already: its call may go on for others.
        var isStopped = false
    }
    /// Functions whose events come in batches.
    var batching: [FunctionID: Batching] = [:]
    /// A tenant's events that run, each of a batch counted.
    var leased: [Name: Int] = [:]
    /// Running events that are no call of their own.
    var beside = 0
    var running: [InvocationID: Run] = [:]
    var runningByTenant: [Name: Int] = [:]
    var runningByFunction: [FunctionID: Int] = [:]
    /// Ended leases that the disk did not take yet: they still count against what may run.
    var unsettled: [InvocationID: Unsettled] = [:]
    /// Tenants and functions whose ceilings refused an event, and until when they get no further one, in milliseconds since 1970.
    var pausedUntil: [Name: UInt64] = [:]
    var pausedFunctions: [FunctionID: UInt64] = [:]
    /// The same for functions with an edge that a test has paused: they wait no longer than that.
    var pausedByTest: [FunctionID: UInt64] = [:]
    var retryBudgets: [Name: RetryBudget] = [:]
    var isClaiming = false
    var mayBeMore = false
    var isStopping = false
    /// Whether nothing is handed out for now; events are still taken in.
    var isPaused = false
    var claimTimer: Scheduled<Void>?
    var claimTimerAt = UInt64.max
    private var loopTimer: Scheduled<Void>?
    private var waiting: [UInt64: (EventAcceptance) -> Void] = [:]
    private var nextWaiting: UInt64 = 0
    /// What waits of each tenant as it was counted last, and what it has sent since: never too little.
    var backlog: [Name: (events: UInt64, bytes: UInt64)] = [:]
    var sentSinceCount: [Name: (events: UInt64, bytes: UInt64)] = [:]
    /// Of those, what the disk has: only that can be in a count that begins now.
    var storedSinceCount: [Name: (events: UInt64, bytes: UInt64)] = [:]
    var isCounting = false
    var countAgainAt: UInt64 = 0
    /// Of the store's counters, taken once a second.
    public internal(set) var counts = EventCounts()
    /// Destinations that are on their way, by record, and when one that failed is tried again.
    var delivering: [Int64: DestinationTry] = [:]
    var isLookingForDestinations = false
    var mayBeMoreDestinations = false
    /// Whether the last look left records for want of a place.
    var isShortOfPlaces = false
    /// By tenant: the functions with triggers on others' outcomes.
    var outcomeTriggers: [Name: [(function: Name, trigger: TriggerSpec)]] = [:]
    var objectTriggers: [BucketID: [ObjectTrigger]] = [:]
    var intake = ObjectIntake()
    /// Of events that end badly.
    var endAlarms = EventAlarms()
    /// One for each tenant, so that nobody's writes push out another's.
    var writes: [Name: WriteLedger] = [:]
    /// What this node itself writes, until its event comes.
    var ownWrites: [ObjectPlace: (cause: Lineage?, until: Instant)] = [:]
    /// Objects that callers have written, until an event tells of them.
    var uploads: [Name: [ObjectPlace: Instant]] = [:]
    let ownPID = getpid()
    /// What is known of each edge for tests for loops without lineage; the edges by their function, and those under a test.
    var detectors: [EdgeID: LoopDetector] = [:]
    var edgesOf: [FunctionID: Set<EdgeID>] = [:]
    var tested: Set<EdgeID> = []
    /// Edges that the test has paused: no event of them starts; and how many were handed back in this window.
    var pausedEdges: [EdgeID: Int] = [:]
    /// Events of an edge that have come, less those that have come to an end: only its growth means something.
    var edgeFlows: [EdgeID: Int] = [:]
    /// Functions that were at their ceiling a second ago.
    var wereFull: Set<FunctionID> = []
    /// What is parked by edge, as far as this process knows: what a resume has to look for.
    var replayed: [EdgeID: Int] = [:]
    public internal(set) var counters: [String: UInt64] = [:]

    public init(
        state: SupervisorState, store: EventStore, governor snapshot: LoopSnapshot?, limits: LoopLimits = LoopLimits(),
        resolve: @escaping (FunctionID, String) -> VersionID?
    ) {
        self.state = state
        self.store = store
        self.resolve = resolve
        loop = state.loop
        logger = state.logger
        let wall = Instant(nanoseconds: state.clock.wall() * 1_000_000)
        steady = SteadyTime(saved: snapshot?.time ?? wall, wall: wall, monotonic: state.clock.now())
        governor =
            snapshot.map { LoopGovernor(limits: limits, restoring: $0) }
            ?? LoopGovernor(limits: limits, seed: UInt64.random(in: 0 ... .max))
    }

    /// What an answer from another thread comes back to, on the loop. What the engine works on is kept until then: the engine itself does not keep it, and an answer may be the
    /// last that knows the engine.
    struct Bound<Value>: Sendable {
        private let content: NIOLoopBound<(value: Value, state: SupervisorState)>

        fileprivate init(_ value: Value, _ state: SupervisorState, _ loop: any EventLoop) {
            content = NIOLoopBound((value, state), eventLoop: loop)
        }

        var value: Value { content.value.value }
    }

    func bound<Value>(_ value: Value) -> Bound<Value> { Bound(value, state, loop) }

    // MARK: time

    func now() -> Instant { steady.now(monotonic: state.clock.now()) }
    func wall() -> UInt64 { state.time() }

    /// What time brings; called once a second, and when it is due.
    public func passTime() {
        let box = bound(self)
        sweep(rounds: 64)
        countBacklog()
        takeHeldObjects()
        passEndAlarms()
        observeBacklogs()
        passLoops()
        let now = now()
        writes = writes.filter { !$0.value.isStale(at: now) }
        trail.forget(at: now)
        forgetAnnouncements(at: now)
        forgetBatching(at: now)
        state.forgetGoneWriters()
        settleAgain()
        lookForDestinations()
        pump()
        let (loop, store) = (loop, store)
        Self.reads.async {
            guard let counts = try? store.counts() else { return }
            loop.execute { box.value.counts = counts }
        }
    }

    /// Removes what is old, as long as there is more of it and not for ever: more may end in a second than one step removes.
    private func sweep(rounds: Int) {
        let box = bound(self)
        let loop = loop
        store.sweep(limit: EventStore.batchLimit, at: wall()) { result in
            guard case .success(let swept) = result else { return }
            loop.execute {
                for event in swept.aged { box.value.gaveUp(event, "\(RetryExhaustion.age)") }
                if swept.count == EventStore.batchLimit, rounds > 1 { box.value.sweep(rounds: rounds - 1) }
            }
        }
    }

    /// The governor's own time: probes, replays, recoveries, and the tests without lineage.
    func passLoops() {
        var notes: [LoopNote] = []
        governor.timePassed(at: now(), into: &notes)
        obey(notes)
        passTests()
        armLoops()
    }

    func armLoops() {
        let tests = tested.compactMap { detectors[$0]?.nextDeadline }.min()
        guard let next = [governor.nextDeadline, tests].compactMap({ $0 }).min() else { return }
        let wait = next - now()
        guard wait < .seconds(1) else { return }
        loopTimer?.cancel()
        loopTimer = loop.assumeIsolated().scheduleTask(in: .nanoseconds(Int64(wait) + 1_000_000)) { [weak self] in self?.passLoops() }
    }

    static func sentence(_ refusal: Refusal, _ tenant: Name) -> String {
        if refusal.ceiling == Node.suspended { return "tenant \(tenant) is suspended by the operator" }
        return "tenant \(tenant) has \(refusal.value) \(refusal.ceiling) waiting and may have \(refusal.limit): let them run first"
    }

    // MARK: calls that wait

    /// The governor's word on a call whose caller waits.
    func judge(_ order: InvocationOrder, _ id: InvocationID) -> LoopVerdict {
        var notes: [LoopNote] = []
        let now = now()
        let edge = EdgeID(trigger: order.through, function: order.version.function)
        let verdict = governor.admit(order.cause ?? Lineage(root: id, born: now), through: edge, isSync: true, at: now, into: &notes)
        // A call that no function made is the beginning of all ways from it: nothing is asked for it.
        if let cause = order.cause { mark(verdict, cause, nil, edge.function, now) }
        if !notes.isEmpty { obey(notes) }
        return verdict
    }

    func finished(_ order: InvocationOrder, _ lineage: Lineage, ran: Nanoseconds) {
        governor.finish(
            lineage, through: EdgeID(trigger: order.through, function: order.version.function), isSync: true, seatTime: ran, at: now())
    }

    static func refusal(_ trip: LoopTrip) -> Refusal {
        Refusal(
            outcome: .loop, level: .loop, ceiling: trip.reason.rawValue, limit: trip.limit,
            value: trip.reason == .hops ? UInt64(trip.hops) : UInt64(trip.visits),
            retryAfter: trip.retryAfter > 0 ? Double(trip.retryAfter) / 1e9 : nil)
    }

    static func plain(_ outcome: Outcome) -> Refusal {
        Refusal(outcome: outcome, level: .node, ceiling: "events", limit: 0, value: 0, retryAfter: nil)
    }

    // MARK: events

    /// Takes an event in. `done` is called on the loop, after the disk has it or with why it was not stored.
    public func accept(_ order: EventOrder, _ done: @escaping (EventAcceptance) -> Void) {
        guard let draft = draft(order, done) else { return }
        keep(draft, done)
    }

    /// The governor's word and the event as it is stored; nil where it is refused, then `done` was called.
    func draft(_ order: EventOrder, _ done: (EventAcceptance) -> Void) -> EventDraft? {
        if let failure = store.failure {
            done(.refused(.internal, "events are not stored: \(failure)", nil))
            return nil
        }
        guard !isStopping else {
            done(.refused(.overloaded, "the node stops: try again in a second", Self.plain(.overloaded)))
            return nil
        }
        let edge = EdgeID(trigger: order.trigger, function: order.function)
        let ready = counts.kept[.ready] ?? 0
        guard ready < Self.mostWaiting else {
            let refusal = Refusal(
                outcome: .overloaded, level: .node, ceiling: "events", limit: Self.mostWaiting, value: ready, retryAfter: 30)
            abandonTest(edge)
            done(.refused(.overloaded, "\(Self.mostWaiting) events wait on this node already", refusal))
            return nil
        }
        if let refusal = refusal(order.function.tenant, bytes: order.payload.count) {
            abandonTest(edge)
            done(.refused(.throttled, Self.sentence(refusal, order.function.tenant), refusal))
            return nil
        }
        let wall = wall()
        let now = now()
        let id = state.newID(wall)
        var draft = EventDraft(id: id, function: order.function, target: order.target, payload: order.payload, createdAt: wall)
        draft.contentType = order.contentType.isEmpty ? "application/octet-stream" : order.contentType
        draft.trigger = order.trigger.text
        draft.key = order.key
        draft.user = order.user
        draft.trace = order.traceparent.isEmpty ? nil : order.traceparent
        draft.notBefore = wall.addingReportingOverflow(order.delayMs).partialValue
        let version = resolve(order.function, order.target)
        if let version, let deployment = state.deployment(version) {
            draft.retry = deployment.asynchronous.retry
            draft.destination = EventDestinations(deployment.asynchronous, followers: followers(of: order.function)).encoded
        }
        // Before the governor's word, which may take a place in quarantine.
        if let fault = draft.faultForCaller {
            done(.refused(.functionError, fault, nil))
            return nil
        }
        if let refusal = version.flatMap({ pushRefusal(order, $0) }) {
            abandonTest(edge)
            done(.refused(.throttled, Self.sentence(refusal, order), refusal))
            return nil
        }
        var notes: [LoopNote] = []
        let cause = order.cause ?? Lineage(root: id, born: now)
        let verdict = governor.admit(cause, through: edge, bytes: order.payload.count, at: now, into: &notes)
        if order.cause != nil || order.object != nil { mark(verdict, cause, order.object, edge.function, now) }
        defer { if !notes.isEmpty { obey(notes) } }
        switch verdict {
        case .admit(let pass):
            draft.lineage = pass.lineage.encoded
            if pass.notBefore > now { draft.notBefore = max(draft.notBefore, wall + (pass.notBefore - now) / 1_000_000) }
            if let version { pace(&draft, order, version, wall) }
            gather(&draft)
            if draft.notBefore > wall { governor.waits(cause.root, through: edge, until: now + .milliseconds(draft.notBefore - wall)) }
            if pass.lineage.flags.contains(.recurrent) { count("loop.recurrent") }
            if cause.hops == 0 || pass.armsDetector { observe(edge, order.subject, arms: pass.armsDetector) }
        case .park(let trip, .store):
            draft.lineage = cause.encoded
            draft.parked = Self.sentence(trip)
            count("loop.parked")
        case .park(let trip, _):
            count("loop.refused")
            let refusal = quarantineRefusal(trip)
            done(.refused(.throttled, "\(Self.sentence(trip)), and quarantine is full: resume or discard what is in it", refusal))
            return nil
        }
        return draft
    }

    /// The functions of the tenant that have a trigger on how this one's events end.
    private func followers(of function: FunctionID) -> [EventDestinations.Follower] {
        (outcomeTriggers[function.tenant] ?? []).compactMap { follower, trigger in
            guard case .outcome(function.function, let onSuccess, let onFailure) = trigger.kind else { return nil }
            return EventDestinations.Follower(function: follower, trigger: trigger.name, onSuccess: onSuccess, onFailure: onFailure)
        }
    }

    /// Stores an event and says so.
    func keep(_ draft: EventDraft, _ done: @escaping (EventAcceptance) -> Void) {
        let (tenant, size) = (draft.function.tenant, UInt64(draft.payload.count))
        sentSinceCount[tenant, default: (0, 0)].events += 1
        sentSinceCount[tenant, default: (0, 0)].bytes += size
        nextWaiting &+= 1
        let number = nextWaiting
        waiting[number] = { [weak self] acceptance in
            self?.storedSinceCount[tenant, default: (0, 0)].events += 1
            self?.storedSinceCount[tenant, default: (0, 0)].bytes += size
            // One that was held back and is not new takes no place in quarantine.
            if draft.parked != nil { self?.unparked(draft, acceptance) }
            done(acceptance)
        }
        let box = bound(self)
        let loop = loop
        store.enqueue(draft) { result in loop.execute { box.value.stored(number, result) } }
    }

    private func stored(_ number: UInt64, _ result: Result<EventReceipt, StoreError>) {
        guard let done = waiting.removeValue(forKey: number) else { return }
        switch result {
        case .success(let receipt):
            count(receipt.isDuplicate ? "events.duplicate" : "events.accepted")
            done(.accepted(receipt))
            pump()
        case .failure(let error): done(.refused(.overloaded, error.description, Self.plain(.overloaded)))
        }
    }

    func count(_ name: String) { counters[name, default: 0] += 1 }

    /// The triggers of a tenant's functions on how others end.
    public func follow(_ tenant: Name, _ triggers: [(function: Name, trigger: TriggerSpec)]) {
        outcomeTriggers[tenant] = triggers.isEmpty ? nil : triggers
    }

    /// Whether no event runs, and neither an event nor an outcome is on its way out of the store.
    public var isQuiet: Bool { running.isEmpty && !isClaiming && !isDelivering }

    /// Hands out nothing for now; what comes in waits in the store.
    public func setPaused(_ isPaused: Bool) {
        self.isPaused = isPaused
        guard !isPaused else { return }
        lookForDestinations()
        pump()
    }

    /// Hands out nothing more.
    public func stop() { isStopping = true }

    /// What still runs when the node ends is to run again and has not failed.
    public func giveBack(at wall: UInt64) {
        isStopping = true
        settleAgain()
        for run in running.values { store.settle(run.lease.id, token: run.lease.token, .release, at: wall) { _ in } }
        (running, leased, beside) = ([:], [:], 0)
    }
}
