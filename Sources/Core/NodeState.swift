// SPDX-License-Identifier: Apache-2.0
import DequeModule
import HeapModule

/// What the node remembers: objects of its own that know each other, as one decision touches a tenant, a function, a version and a worker several times each, and to find them by
/// their names each time took most of what a decision takes. None of them leaves the node; what others see of them are copies (``TenantView``, ``WorkerView``).
extension Node {
    final class Tenant {
        let name: Name
        var spec: TenantSpec
        var lanes: Lanes
        var group: GroupID?
        var isRemoved = false
        var isOpen: Bool { !isRemoved && !spec.isSuspended }
        /// Bytes of the bodies that wait.
        var queuedBytes = 0
        var meter = RateMeter()
        var budget: BudgetAccount
        /// When the present window of each period ends.
        var windowEnds: [BudgetPeriod: Instant] = [:]
        var users = UserTable()
        /// Sums over the tenant's live workers, spares of its group left out.
        var memoryCommitted: UInt64 = 0
        var processesCommitted: UInt64 = 0
        /// Live workers, spares of its group left out.
        var workers = 0
        var lastArrival = Instant(nanoseconds: 0)
        /// Versions whose queue is not empty.
        var waiting: [Pool] = []
        /// What was promised to callers that were refused.
        var promised = PromisedLines()

        init(spec: TenantSpec, lanes: Lanes) {
            name = spec.tenant
            self.spec = spec
            self.lanes = lanes
            budget = BudgetAccount(spec.budget)
        }
    }

    /// What all versions of a function share: its cap, its rate and its users. A cap of 1 means one, also while a new version takes over.
    final class Function {
        var lanes: Lanes
        /// Number of the version whose cap counts, the newest.
        var newest: UInt32
        var meter = RateMeter()
        /// Of the triggers that have a rate of their own.
        var triggers: [Name: RateMeter] = [:]
        /// How many that came through each trigger wait.
        var queuedByTrigger: [Name: Int] = [:]
        var users = UserTable()

        init(lanes: Lanes, newest: UInt32) {
            self.lanes = lanes
            self.newest = newest
        }

        func leaveQueue(through trigger: Name) {
            let rest = queuedByTrigger[trigger, default: 0] - 1
            queuedByTrigger[trigger] = rest > 0 ? rest : nil
        }
    }

    /// A version, and the workers that serve it.
    final class Pool {
        let tenant: Tenant
        let function: Function
        @Boxed var spec: FunctionSpec
        /// Ready workers with a free slot; the last one served most recently and is taken first, so that the others can age out.
        var available: [Worker] = []
        var lanes: Lanes
        /// Where invocations without an end user wait.
        var leaves: Lanes
        /// Where those of an end user wait, by both names.
        var userLeaves: [UserLeaf: FairQueue.VertexID] = [:]
        /// Waiting invocations in the order of their arrival, for those that wait too long; what has left meanwhile is passed over.
        var waiting: Deque<Invocation> = []
        var isQueueArmed = false
        /// Since when somebody has always waited for an answer.
        var standingSince: Instant?
        var starting = 0
        /// Live workers of this version, in every state.
        var workers = 0
        var isRemoved = false
        /// Starts that failed since the last one that did not.
        var failures = 0
        var backoffUntil = Instant(nanoseconds: 0)
        var lastFailure: Verdict?
        var demand = Demand()
        var version: VersionID { spec.version }

        init(_ spec: FunctionSpec, of tenant: Tenant, _ function: Function, lanes: Lanes, leaves: Lanes) {
            self.tenant = tenant
            self.function = function
            self.spec = spec
            self.lanes = lanes
            self.leaves = leaves
        }
    }

    enum WorkerState { case starting, spare, ready, draining, dying }

    final class Worker {
        let id: WorkerID
        let group: GroupID
        let preparation: SparePreparation
        /// Whom it serves; nil for a spare. Set together with ``spec``.
        private(set) var pool: Pool?
        /// Of its version as it was when the worker was given to it.
        @Boxed private(set) var spec: FunctionSpec?
        var limits: WorkerLimits
        var state = WorkerState.starting
        var startDeadline = Instant(nanoseconds: 0)
        /// Since when it has been on its way to its function.
        var begunAt = Instant(nanoseconds: 0)
        /// Started before anybody missed it, and not used yet.
        var isAhead = false
        /// Since when it could serve; nil for one that never could.
        var readyAt: Instant?
        var startKind = StartKind.cold
        var isGreeted = false
        var hasCode = false
        var isInitialized = false
        var hasServed = false
        var slots: [Invocation?] = []
        var inFlight = 0
        var idleSince = Instant(nanoseconds: 0)
        /// One timer a worker and kind, re-armed when it fires early: timers are bounded by workers, not by invocations.
        var isIdleArmed = false
        var deadlineArmed: Instant?
        var isOverrunArmed = false
        /// Ends so that a tenant that waits for the node's memory can start one.
        var isYielding = false
        /// Why the node itself ended the worker.
        var endReason: String?
        var isEndExpected = false
        var isKillSent = false
        /// It broke the protocol or closed its end before anybody asked it to end.
        var isLinkBroken = false
        /// Ended as soon as nothing runs in it.
        var isRetiring = false

        init(id: WorkerID, group: GroupID, preparation: SparePreparation, limits: WorkerLimits) {
            self.id = id
            self.group = group
            self.preparation = preparation
            self.limits = limits
        }

        func give(to pool: Pool) {
            self.pool = pool
            spec = pool.spec
        }

        /// It can serve from now on.
        func becomeReady(_ now: Instant) {
            state = .ready
            slots = Array(repeating: nil, count: Int(spec?.instanceConcurrency ?? 1))
            readyAt = now
            idleSince = now
            isIdleArmed = true
        }
    }

    final class Invocation {
        enum Place: Equatable {
            case queued(until: Instant)
            case running(WorkerID, slot: UInt16)
        }
        let id: InvocationID
        let pool: Pool
        let timeout: Nanoseconds
        let arrivedAt: Instant
        let bytes: Int
        let users: UserPair?
        let trigger: Name?
        let service: ServiceClass
        let ticket: FairQueue.Ticket
        /// What of the budget is held for it, in millionths of a GB-second.
        let reserved: UInt64
        /// Seat time that the fair queue has charged.
        var charged: Nanoseconds = 0
        var startedAt = Instant(nanoseconds: 0)
        var deadline = Instant(nanoseconds: .max)
        var isCancelSent = false
        var place: Place
        var isReplied = false
        var outcome = Outcome.internal
        var version: VersionID { pool.version }
        var isWaiting: Bool {
            if case .queued = place { !isReplied } else { false }
        }

        init(
            _ arrival: Arrival, at pool: Pool, _ users: UserPair?, timeout: Nanoseconds, reserved: UInt64, _ ticket: FairQueue.Ticket,
            until: Instant, _ now: Instant
        ) {
            id = arrival.id
            self.pool = pool
            self.timeout = timeout
            arrivedAt = now
            bytes = arrival.bytes
            self.users = users
            trigger = arrival.waitingTrigger
            service = arrival.service
            self.ticket = ticket
            self.reserved = reserved
            place = .queued(until: until)
        }
    }

    struct Group {
        var tenant: Name?
        var workers: Set<WorkerID> = []
        var isRetired = false
    }

    struct Timer: Comparable {
        enum Kind: Equatable {
            case queueWait(VersionID)
            case deadline(WorkerID)
            case cancelGrace(InvocationID, WorkerID)
            case start(WorkerID)
            case idle(WorkerID)
            case drainGrace(WorkerID)
            case spare(WorkerID)
            case minimum(VersionID)
            case proven(WorkerID)
            case overrun(WorkerID)
        }
        let at: Instant
        let sequence: UInt64
        let kind: Kind
        static func < (a: Timer, b: Timer) -> Bool { (a.at, a.sequence) < (b.at, b.sequence) }
    }
}
