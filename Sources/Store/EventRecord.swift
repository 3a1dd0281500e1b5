// SPDX-License-Identifier: Apache-2.0
public import Core

/// Where an event is. Every event that was received is in exactly one of these.
public enum EventState: Int, Hashable, Sendable, CaseIterable {
    /// Waits for its time and for a seat.
    case ready = 0
    /// Handed out under a token.
    case leased = 1
    /// Its function answered.
    case done = 2
    /// Given up: a dead letter.
    case dead = 3
    /// Held back by the loop governor until somebody resumes or discards it.
    case parked = 4
    /// Ended by its owner.
    case stopped = 5
    /// Too old to start.
    case expired = 6

    /// Whether only a redrive could make it run again.
    public var isTerminal: Bool { self == .done || self == .dead || self == .stopped || self == .expired }
}

/// Which share of the node's seats an event runs in. Within a tenant the first goes before the second.
public enum EventClass: Int, Hashable, Sendable, CaseIterable {
    case asynchronous = 0
    case background = 1
}

/// What an event is, as it was submitted.
public struct EventDraft: Hashable, Sendable {
    /// The longest payload, in bytes.
    public static let payloadLimit = 6 << 20
    /// The longest of the other fields, in bytes.
    public static let fieldLimit = 8192
    /// The longest idempotency key, in bytes.
    public static let keyLimit = 255

    public var id: InvocationID
    public var function: FunctionID
    /// A version's number or an alias.
    public var target: String
    /// The trigger's name; empty for a direct call.
    public var trigger = ""
    public var contentType = "application/octet-stream"
    public var payload: [UInt8] = []
    /// The lineage's wire form; the store does not look into it.
    public var lineage: [UInt8] = []
    /// Who gets the outcome, in the caller's own form; where it is not empty, every terminal state leaves one ``DestinationRecord``.
    public var destination: [UInt8] = []
    public var order = EventClass.asynchronous
    public var retry = RetryPolicy.standard
    /// The last moment at which it may start, beside its age; milliseconds since 1970.
    public var deadline: UInt64?
    /// The submits of one tenant's function with the same key are one event, for as long as the key is remembered.
    public var key: String?
    /// The end user that it runs for, in the caller's own form.
    public var user: String?
    /// The place in the trace of whoever caused it, as W3C Trace Context writes it; nil for none.
    public var trace: String?
    /// Milliseconds since 1970.
    public var createdAt: UInt64
    /// The first moment at which it may start; milliseconds since 1970.
    public var notBefore: UInt64
    /// When its age begins, if that is not its creation: an event that its trigger's rate makes wait must not grow old by that. Milliseconds since 1970.
    public var agesFrom: UInt64?
    /// Where the loop governor holds it back: why. It is stored parked.
    public var parked: String?

    public init(id: InvocationID, function: FunctionID, target: String = "latest", payload: [UInt8] = [], createdAt: UInt64) {
        self.id = id
        self.function = function
        self.target = target
        self.payload = payload
        self.createdAt = createdAt
        notBefore = createdAt
    }

    /// When it is too old to start.
    var expires: UInt64 { min((agesFrom ?? createdAt).addingReportingOverflow(retry.maxAgeMs).partialValue, deadline ?? .max) }

    /// What is wrong with it, or nil: it would never be taken.
    public var fault: String? {
        if payload.count > Self.payloadLimit { return "the payload has \(payload.count) bytes, more than \(Self.payloadLimit)" }
        if let key, key.isEmpty || key.utf8.count > Self.keyLimit { return "an idempotency key has 1 to \(Self.keyLimit) bytes" }
        // No array: every event comes by here.
        let longest = max(
            max(target.utf8.count, trigger.utf8.count), max(contentType.utf8.count, lineage.count),
            max(destination.count, parked?.utf8.count ?? 0), max(user?.utf8.count ?? 0, trace?.utf8.count ?? 0))
        if longest > Self.fieldLimit { return "a field is longer than \(Self.fieldLimit) bytes" }
        if max(createdAt, notBefore) > UInt64(Int64.max / 2) { return "a time is out of range" }
        return nil
    }
}

/// The idempotency key of an event, which is its function's.
public struct EventKey: Hashable, Sendable {
    public let function: FunctionID
    public let key: String
    public init(function: FunctionID, key: String) { (self.function, self.key) = (function, key) }
}

/// What became of a submit.
public struct EventReceipt: Hashable, Sendable {
    /// The event's id; the first one's, where the key or the id is known already.
    public let id: InvocationID
    public let isDuplicate: Bool
    /// Whether the first one, as far as it is still kept, has another payload or content type: the key was used for two things.
    public var isOfOtherPayload = false
}

/// What became of several that are taken together or not at all.
public enum BatchReceipt: Hashable, Sendable {
    /// In their order.
    case stored([EventReceipt])
    /// None is stored: the key of the one at `index` is that of `first`, which has another payload or content type.
    case ofOtherPayload(index: Int, first: InvocationID)
}

/// What became of an event that stands for several.
public struct MergeReceipt: Hashable, Sendable {
    public let id: InvocationID
    /// Of the payload that is kept now, in bytes.
    public let payloadBytes: Int
    /// Of the one that was there before; nil where there was no such event and this one is new.
    public let bytesBefore: Int?
}

/// An event as it is kept, without its payload.
public struct EventRecord: Hashable, Sendable {
    public let id: InvocationID
    public let function: FunctionID
    public let target: String
    public let trigger: String
    public let contentType: String
    public let payloadBytes: Int
    public let lineage: [UInt8]
    public let destination: [UInt8]
    public let order: EventClass
    public let retry: RetryPolicy
    public let key: String?
    public let user: String?
    public let trace: String?
    /// All times in milliseconds since 1970.
    public let createdAt: UInt64
    public let expiresAt: UInt64
    /// Whether its caller stated until when it is of use, and that is sooner than its age ends.
    var hasDeadline: Bool { expiresAt < createdAt.addingReportingOverflow(retry.maxAgeMs).partialValue }
    public let state: EventState
    /// For a ready event when it may start, for any other when it came into its state.
    public let since: UInt64
    /// The lease it has or had last; 0 where it never had one.
    public let token: UInt64
    public let history: RunHistory
    /// Why it is dead, parked or stopped, or why it failed last.
    public let reason: String?
}

/// An event that is handed out. The lease ends with ``EventStore/settle(_:_:at:completion:)`` under its token.
public struct EventLease: Sendable {
    /// As it is now: leased, this delivery counted.
    public let event: EventRecord
    public let payload: EventPayload
    public var id: InvocationID { event.id }
    /// Grows with every lease of the store, also across restarts.
    public var token: UInt64 { event.token }
    /// Its run's number, from 1.
    public var attempt: UInt32 { event.history.attempts + 1 }
}

/// How a lease ends.
public enum EventSettlement: Hashable, Sendable {
    /// The function answered; `result` goes to the destination.
    case done(result: [UInt8])
    /// To be run again `after` so many milliseconds, unless that exhausts its attempts or its age: then `result` goes to the destination.
    case retry(RunFailure, afterMs: UInt64, reason: String, result: [UInt8] = [])
    case dead(reason: String, result: [UInt8])
    case park(reason: String)
    /// Given back by a daemon that stops in order. Counts as a delivery and as nothing else.
    case release
}

/// Which tenants and functions may be given events, and how many.
public struct ClaimPermission: Hashable, Sendable {
    public var tenants: [Name: Int]
    /// For every tenant that is not named.
    public var others: Int
    public var functions: [FunctionID: Int]
    /// For every function that is not named.
    public var otherFunctions: Int
    public init(tenants: [Name: Int] = [:], others: Int = .max, functions: [FunctionID: Int] = [:], otherFunctions: Int = .max) {
        (self.tenants, self.others, self.functions, self.otherFunctions) = (tenants, others, functions, otherFunctions)
    }
    func allowed(_ tenant: Name) -> Int { tenants[tenant] ?? others }
    func allowed(_ function: FunctionID) -> Int { functions[function] ?? otherFunctions }
}

/// What a claim brought.
public struct EventClaim: Sendable {
    public var leases: [EventLease] = []
    /// Events whose age was used up: they are dead letters now.
    public var aged: [EventRecord] = []
    /// When to ask again with the same permission: at once where there may be more, at this time (milliseconds since 1970), or nil: after the next submit or settlement.
    public var askAgainAt: UInt64?
}

/// What one step of ``EventStore/sweep(limit:at:completion:)`` did.
public struct EventSweep: Sendable {
    /// How many there were; where that is the limit, there may be more.
    public var count = 0
    /// Events whose age was used up: they are dead letters now.
    public var aged: [EventRecord] = []
}

/// Who gets the outcome of an event: written with the event's terminal state, in one transaction, and kept until it is delivered.
public struct DestinationRecord: Hashable, Sendable {
    /// Grows with every record.
    public let number: Int64
    public let event: InvocationID
    public let function: FunctionID
    public let destination: [UInt8]
    public let state: EventState
    public let attempts: UInt32
    public let reason: String?
    public let result: [UInt8]
    /// Milliseconds since 1970.
    public let at: UInt64
}

/// How long things are remembered, in milliseconds.
public struct EventRetention: Hashable, Sendable {
    /// Events that are done, stopped or of no use to their caller any more.
    public var finishedMs: UInt64 = 86_400_000
    /// Dead letters.
    public var deadMs: UInt64 = 1_209_600_000
    /// Idempotency keys.
    public var keyMs: UInt64 = 86_400_000
    public init() {}
    func keeps(_ state: EventState) -> UInt64 { state == .dead ? deadMs : finishedMs }
}

/// How many events there are and were. `received` is the sum of all the others.
public struct EventCounts: Hashable, Sendable {
    public var received: UInt64 = 0
    /// Events that are kept, by state.
    public var kept: [EventState: UInt64] = [:]
    /// Events that were removed after their retention or by a purge, by their last state.
    public var removed: [EventState: UInt64] = [:]
    public init() {}
    public subscript(_ state: EventState) -> UInt64 { kept[state, default: 0] + removed[state, default: 0] }
    /// Whether nothing is lost and nothing is counted twice.
    public var isBalanced: Bool { received == EventState.allCases.reduce(0) { $0 + self[$1] } }
}
