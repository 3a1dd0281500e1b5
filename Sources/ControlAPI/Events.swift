// SPDX-License-Identifier: Apache-2.0

/// An event, as `GET /v1/tenants/T/events`, `.../dead-letters` and `.../invocations/ID` show it. Times are milliseconds since 1970.
public struct EventReply: Codable, Hashable, Sendable {
    /// Where an event can be.
    public static let states = ["ready", "leased", "done", "dead", "parked", "stopped", "expired"]

    public var id: String
    public var tenant: String
    public var function: String
    /// A version's number or an alias.
    public var target: String
    /// The trigger's name; `direct` for a call.
    public var trigger: String
    /// One of ``states``.
    public var state: String
    /// For a ready event when it may start, for any other when it came into its state.
    public var since: UInt64
    public var createdAt: UInt64
    public var expiresAt: UInt64
    /// Runs that failed, of so many at most; deaths of its worker; how often it was handed out.
    public var attempts: UInt32
    public var maxAttempts: UInt32
    public var crashes: UInt32
    public var deliveries: UInt32
    public var contentType: String
    public var payloadBytes: Int
    public var idempotencyKey: String?
    /// Why it is dead, parked or stopped, or why it failed last.
    public var reason: String?
    /// The invocation that its lineage begins with, and how many hops ago.
    public var root: String?
    public var hops: UInt32?

    public init(
        id: String, tenant: String, function: String, target: String, trigger: String, state: String, since: UInt64, createdAt: UInt64,
        expiresAt: UInt64, attempts: UInt32, maxAttempts: UInt32, crashes: UInt32, deliveries: UInt32, contentType: String,
        payloadBytes: Int, idempotencyKey: String? = nil, reason: String? = nil, root: String? = nil, hops: UInt32? = nil
    ) {
        self.id = id
        self.tenant = tenant
        self.function = function
        self.target = target
        self.trigger = trigger
        self.state = state
        self.since = since
        self.createdAt = createdAt
        self.expiresAt = expiresAt
        self.attempts = attempts
        self.maxAttempts = maxAttempts
        self.crashes = crashes
        self.deliveries = deliveries
        self.contentType = contentType
        self.payloadBytes = payloadBytes
        self.idempotencyKey = idempotencyKey
        self.reason = reason
        self.root = root
        self.hops = hops
    }
}

/// A part of a list of events.
public struct EventPageReply: Codable, Hashable, Sendable {
    public var events: [EventReply]
    /// What `after` takes for the next part; nil at the end. A part may be short, or empty, and still not be the last.
    public var next: String?
    public init(events: [EventReply], next: String? = nil) {
        self.events = events
        self.next = next
    }
}

/// The answer to an asynchronous invocation that was taken, with 202.
public struct AcceptedReply: Codable, Hashable, Sendable {
    public var id: String
    /// The idempotency key was known: `id` is the first one's.
    public var duplicate: Bool
    public init(id: String, duplicate: Bool = false) {
        self.id = id
        self.duplicate = duplicate
    }
}

/// The body of `POST .../dead-letters/redrive` and `.../purge`: which dead letters. Exactly one of the three is given.
public struct DeadLetterRequest: Codable, Hashable, Sendable {
    public var ids: [String]?
    public var function: String?
    public var all: Bool?
    /// For a redrive: events a second; nil for all at once.
    public var ratePerSecond: Double?
    public init(ids: [String]? = nil, function: String? = nil, all: Bool? = nil, ratePerSecond: Double? = nil) {
        self.ids = ids
        self.function = function
        self.all = all
        self.ratePerSecond = ratePerSecond
    }
}

/// How many dead letters are events again, or will be at the rate that was asked for.
public struct RedriveReply: Codable, Hashable, Sendable {
    public var redriven: Int
    public var scheduled: Int
    /// How many stay dead letters: the tenant has as many events as may wait, or a loop is being tried.
    public var left: Int
    public init(redriven: Int, scheduled: Int = 0, left: Int = 0) {
        self.redriven = redriven
        self.scheduled = scheduled
        self.left = left
    }
}

/// How many dead letters are gone.
public struct PurgeReply: Codable, Hashable, Sendable {
    public var purged: Int
    public init(purged: Int) { self.purged = purged }
}

/// An edge that the loop governor watches or has opened, an element of `GET /v1/tenants/T/loops`.
public struct LoopReply: Codable, Hashable, Sendable {
    /// What resumes it: `TENANT/FUNCTION/TRIGGER`.
    public var edge: String
    public var tenant: String
    public var function: String
    public var trigger: String
    /// What the trigger listens to, like `bucket:photos/in/`.
    public var source: String
    /// `closed`, `broken` or `probing`.
    public var state: String
    /// Recurrent invocations since it was quiet.
    public var recurrent: UInt64
    /// Events that wait for somebody's decision.
    public var parked: UInt64
    public var parkedBytes: UInt64
    /// When it came into its state, milliseconds since 1970.
    public var since: UInt64
    /// A sentence.
    public var why: String
    /// When a new version is tried, milliseconds since 1970.
    public var probeAt: UInt64?
    /// A way round as the grants allow it: what is listened to and functions in turn.
    public var cycle: [String]
    /// The last steps of the path that was cut last, the oldest first: keys of objects, with their buckets, and functions in turn. Empty where none is known.
    public var way: [String]
    public init(
        edge: String, tenant: String, function: String, trigger: String, source: String, state: String, recurrent: UInt64, parked: UInt64,
        parkedBytes: UInt64, since: UInt64, why: String, probeAt: UInt64? = nil, cycle: [String] = [],
        way: [String] = []
    ) {
        self.edge = edge
        self.tenant = tenant
        self.function = function
        self.trigger = trigger
        self.source = source
        self.state = state
        self.recurrent = recurrent
        self.parked = parked
        self.parkedBytes = parkedBytes
        self.since = since
        self.why = why
        self.probeAt = probeAt
        self.cycle = cycle
        self.way = way
    }
}

/// The body of `POST .../loops/resume`.
public struct LoopResumeRequest: Codable, Hashable, Sendable {
    /// `TENANT/FUNCTION/TRIGGER`, or `FUNCTION/TRIGGER` below a tenant.
    public var edge: String
    /// What becomes of the parked events: `discard`, `replay` or `keep`.
    public var mode: String
    /// For a replay: so many of the oldest (nil: all), so many a second (nil: one).
    public var count: Int?
    public var ratePerSecond: Double?
    public init(edge: String, mode: String, count: Int? = nil, ratePerSecond: Double? = nil) {
        self.edge = edge
        self.mode = mode
        self.count = count
        self.ratePerSecond = ratePerSecond
    }
}

/// A trigger of a function, an element of `GET /v1/tenants/T/triggers`.
public struct TriggerReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var function: String
    public var trigger: String
    /// `http`, `cron`, `bucket`, `outcome`, `queue` or `direct`.
    public var kind: String
    /// What it listens to: a route with its methods, a schedule, objects of a bucket, another function.
    public var source: String
    /// What who uses it needs: `none`, `key` (of a bucket's trigger: to put the objects) or `hmac:NAME`; `clock` where only the node's clock fires it, `function` where only the
    /// end of a function does.
    public var authorization: String
    /// The functions whose own grants let them make it fire: by `calls`, buckets that they may write, destinations, or their end. All of its tenant; no other's can.
    public var functions: [String]
    /// `closed`, `broken` or `probing`.
    public var state: String
    /// Whether a loop can go through it, by what is deployed.
    public var onCycle: Bool
    /// When a schedule fires next, milliseconds since 1970.
    public var nextAt: UInt64?
    /// Where requests from outside reach it, below the node's address: `/t/TENANT/ROUTE` or `/q/TENANT/FUNCTION/TRIGGER`; nil where they do not.
    public var url: String?
    /// How often it may start its function, as the manifest says: `200/s burst 400`; nil for no ceiling of its own.
    public var rate: String?
    public init(
        tenant: String, function: String, trigger: String, kind: String, source: String, authorization: String, functions: [String] = [],
        state: String = "closed", onCycle: Bool = false, nextAt: UInt64? = nil, url: String? = nil, rate: String? = nil
    ) {
        self.tenant = tenant
        self.function = function
        self.trigger = trigger
        self.kind = kind
        self.source = source
        self.authorization = authorization
        self.functions = functions
        self.state = state
        self.onCycle = onCycle
        self.nextAt = nextAt
        self.url = url
        self.rate = rate
    }
}
