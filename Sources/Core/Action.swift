// SPDX-License-Identifier: Apache-2.0

/// What the shell does next. Imperative: the shell obeys and decides nothing.
public enum Action: Hashable, Sendable {
    case setGroup(GroupID, GroupLimits)
    case removeGroup(GroupID)
    indirect case spawn(SpawnOrder)
    /// Gives a spare its function.
    indirect case assign(WorkerID, FunctionSpec)
    /// Sends `init` over the worker's fd 3.
    indirect case initialize(WorkerID, FunctionSpec)
    /// Sends `invoke`.
    case invoke(WorkerID, slot: UInt16, InvocationID, deadline: Instant, StartKind)
    /// Writes into the ledger that the invocation starts, with its worst case in millionths of a GB-second; before ``invoke(_:slot:_:deadline:_:)``.
    case beginCharge(InvocationID, VersionID, reserved: UInt64)
    /// Writes what it really took, once, when its seat is free.
    case settleCharge(InvocationID, VersionID, Outcome, charged: UInt64, ran: Nanoseconds)
    /// A budget is used up to four fifths or to the end, once a window.
    case budgetMark(Name, BudgetKind, BudgetMark)
    /// Sends `cancel`.
    case cancel(WorkerID, slot: UInt16)
    case drain(WorkerID)
    case kill(WorkerID)
    /// Answers the caller, once.
    case reply(InvocationID, Verdict)
    /// Remembers a decision for `explain`.
    case note(InvocationID, Decision)
}

/// How the worker that serves an invocation came to be.
public enum StartKind: String, Sendable { case warm, prewarmed, cold }

/// How far a worker is taken before it knows its function.
public enum SparePreparation: Hashable, Sendable {
    case sealed
    case prewarmed(runtime: String)
    indirect case started(FunctionSpec)
}

public struct SpawnOrder: Hashable, Sendable {
    public var worker: WorkerID
    public var group: GroupID
    public var preparation: SparePreparation
    public var limits: WorkerLimits
}

/// Where a ceiling stands.
public enum Level: String, Sendable { case node, tenant, function, trigger, user, loop, budget }

/// A refusal that helps: what refused, its limit, the present value, and when to come back.
public struct Refusal: Hashable, Sendable {
    public var outcome: Outcome
    public var level: Level
    /// Which ceiling: `concurrency`, `queue`, `memory`, `workers` ...
    public var ceiling: String
    public var limit: UInt64
    public var value: UInt64
    /// Seconds; nil where waiting does not help.
    public var retryAfter: Double?
    public init(outcome: Outcome, level: Level, ceiling: String, limit: UInt64, value: UInt64, retryAfter: Double?) {
        self.outcome = outcome
        self.level = level
        self.ceiling = ceiling
        self.limit = limit
        self.value = value
        self.retryAfter = retryAfter
    }
}

/// How an invocation ended, for its caller.
public enum Verdict: Hashable, Sendable {
    /// The worker answered; the shell holds the answer.
    case completed(Outcome)
    case refused(Refusal)
    /// The worker did not answer. `reason` is a phrase for a person.
    case failed(Outcome, reason: String, DeathCause?)
    /// The code could not be loaded.
    case initFailed(type: String, message: String)

    /// The word of the outcome taxonomy.
    public var outcome: Outcome {
        switch self {
        case .completed(let outcome): outcome
        case .refused(let refusal): refusal.outcome
        case .failed(let outcome, _, _): outcome
        case .initFailed: .functionError
        }
    }
}

/// What an admitted invocation took from each ceiling that was asked, and what it left there: numbers alone, which become words only where somebody reads them.
public struct Admission: Hashable, Sendable {
    /// One rate, as it stood right after this invocation was taken from it.
    public struct Rate: Hashable, Sendable {
        public var level: Level
        public var spec: RateSpec
        var meter: RateMeter
        var at: Instant
        /// How many more could have come at once.
        public var left: UInt64 { meter.left(spec, at: at) }
    }
    public var rates: [Rate] = []
    /// What of the budget is held for its worst case, in millionths of a GB-second.
    public var held: UInt64 = 0
    /// What is left of each budget, this invocation's worst case taken off; nil where the tenant has none.
    public var compute: BudgetRoom?
    public var invocations: BudgetRoom?
    public init() {}
}

/// The seat that an invocation got, itself counted.
public struct Seat: Hashable, Sendable {
    public var service: ServiceClass
    public var tenant: UInt32
    public var tenantCap: UInt32
    public var function: UInt32
    public var functionCap: UInt32
    /// The run time that the tenant's virtual time is charged with beforehand, until the end settles it.
    public var charged: Nanoseconds
}

/// One line of `explain`.
public enum Decision: Hashable, Sendable {
    case arrived
    case admitted(Admission)
    /// `behind` is how much virtual time, in seconds, other tenants of the class are served before it is this one's turn.
    case queued(position: Int, ServiceClass, behind: Float, waitsFor: String)
    case seated(Seat)
    case starting(WorkerID, StartKind)
    case dispatched(WorkerID, slot: UInt16, StartKind)
    case deadlinePassed
    case cancelSent(WorkerID)
    case killSent(WorkerID, reason: String)
    case callerLeft
    case replied(Verdict)
}
