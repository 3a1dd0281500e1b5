// SPDX-License-Identifier: Apache-2.0

/// A ceiling and what is taken of it now, in the same unit.
public struct Gauge: Codable, Hashable, Sendable {
    public var limit: UInt64
    public var used: UInt64
    public init(limit: UInt64, used: UInt64) {
        self.limit = limit
        self.used = used
    }
}

/// A budget of the current period. `spent` and `reserved` together never exceed `limit`.
public struct BudgetReply: Codable, Hashable, Sendable {
    /// `compute` (the numbers are GB-seconds) or `invocations`.
    public var kind: String
    /// `hour`, `day` or `month`.
    public var period: String
    /// The time zone whose calendar ends the period, like `Europe/Berlin`.
    public var zone: String
    public var limit: Double
    public var spent: Double
    /// Held back for invocations that run or wait now.
    public var reserved: Double
    /// When the next period begins, milliseconds since 1970.
    public var resetsAt: UInt64
    public init(kind: String, period: String, zone: String, limit: Double, spent: Double, reserved: Double, resetsAt: UInt64) {
        self.kind = kind
        self.period = period
        self.zone = zone
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.resetsAt = resetsAt
    }
}

/// The ceilings of each end user of a tenant.
public struct UsersReply: Codable, Hashable, Sendable {
    public var concurrency: Int?
    /// Written as in the configuration: `20/s burst 40`.
    public var rate: String?
    /// End users with an invocation that runs or waits, or a rate that has not recovered.
    public var active: Int
    public init(concurrency: Int? = nil, rate: String? = nil, active: Int) {
        self.concurrency = concurrency
        self.rate = rate
        self.active = active
    }
}

/// A tenant's quota, `GET /v1/tenants/T/quota`.
public struct QuotaReply: Codable, Hashable, Sendable {
    public var tenant: String
    /// The tenant's share where tenants compete, against the others' weights.
    public var weight: Double
    /// Seats: invocations that run.
    public var concurrency: Gauge
    public var queue: Gauge
    /// Bytes.
    public var memory: Gauge
    public var processes: Gauge
    /// Processors.
    public var cpu: Double
    /// Bytes.
    public var storage: Gauge
    /// Bytes in buckets.
    public var buckets = Gauge(limit: 0, used: 0)
    /// Written as in the configuration: `200/s burst 400`.
    public var rate: String?
    public var budgets: [BudgetReply]
    public var users: UsersReply?
    /// Whether the operator has suspended it: no call or event is taken and none is run.
    public var suspended = false
    public init(
        tenant: String, weight: Double, concurrency: Gauge, queue: Gauge, memory: Gauge, processes: Gauge, cpu: Double, storage: Gauge,
        rate: String? = nil, budgets: [BudgetReply] = [], users: UsersReply? = nil
    ) {
        self.tenant = tenant
        self.weight = weight
        self.concurrency = concurrency
        self.queue = queue
        self.memory = memory
        self.processes = processes
        self.cpu = cpu
        self.storage = storage
        self.rate = rate
        self.budgets = budgets
        self.users = users
    }
}

/// What was used in one span of time, an element of `GET /v1/tenants/T/usage?from=MS&to=MS&by=function|day|hour|total`.
public struct UsageReply: Codable, Hashable, Sendable {
    public var tenant: String
    /// Empty where the functions are summed up.
    public var function: String
    /// When the span begins, milliseconds since 1970; 0 where there is only one span.
    public var start: UInt64
    public var invocations: UInt64
    public var errors: UInt64
    public var gbSeconds: Double
    public var cpuSeconds: Double
    public var durationSeconds: Double
    public init(
        tenant: String, function: String, start: UInt64, invocations: UInt64, errors: UInt64, gbSeconds: Double, cpuSeconds: Double,
        durationSeconds: Double
    ) {
        self.tenant = tenant
        self.function = function
        self.start = start
        self.invocations = invocations
        self.errors = errors
        self.gbSeconds = gbSeconds
        self.cpuSeconds = cpuSeconds
        self.durationSeconds = durationSeconds
    }
}

/// The node as a whole. `cpuSeconds`, `invocations` and `refusals` count since its start: two samples make a rate.
public struct TopNode: Codable, Hashable, Sendable {
    public var uptimeSeconds: Double
    public var running: Int
    public var queued: Int
    public var workers: Int
    public var memoryBytes: UInt64
    public var memoryLimitBytes: UInt64
    public var cpuSeconds: Double
    public var invocations: UInt64
    public var refusals: UInt64
    public init(
        uptimeSeconds: Double, running: Int, queued: Int, workers: Int, memoryBytes: UInt64, memoryLimitBytes: UInt64, cpuSeconds: Double,
        invocations: UInt64, refusals: UInt64
    ) {
        self.uptimeSeconds = uptimeSeconds
        self.running = running
        self.queued = queued
        self.workers = workers
        self.memoryBytes = memoryBytes
        self.memoryLimitBytes = memoryLimitBytes
        self.cpuSeconds = cpuSeconds
        self.invocations = invocations
        self.refusals = refusals
    }
}

/// One function. `cpuSeconds`, `invocations` and `refusals` count since the node's start.
public struct TopRow: Codable, Hashable, Sendable {
    public var tenant: String
    public var function: String
    public var running: Int
    /// The function's cap.
    public var concurrency: Int
    public var queued: Int
    public var workers: Int
    public var invocations: UInt64
    public var refusals: UInt64
    public var cpuSeconds: Double
    public var memoryBytes: UInt64
    public var memoryLimitBytes: UInt64
    public init(
        tenant: String, function: String, running: Int, concurrency: Int, queued: Int, workers: Int, invocations: UInt64, refusals: UInt64,
        cpuSeconds: Double, memoryBytes: UInt64, memoryLimitBytes: UInt64
    ) {
        self.tenant = tenant
        self.function = function
        self.running = running
        self.concurrency = concurrency
        self.queued = queued
        self.workers = workers
        self.invocations = invocations
        self.refusals = refusals
        self.cpuSeconds = cpuSeconds
        self.memoryBytes = memoryBytes
        self.memoryLimitBytes = memoryLimitBytes
    }
}

/// One tenant. `cpuSeconds`, `invocations` and `refusals` count since the node's start.
public struct TopTenant: Codable, Hashable, Sendable {
    public var tenant: String
    /// Whether the operator has suspended it.
    public var suspended: Bool
    public var running: Int
    /// Its seats.
    public var concurrency: Int
    public var queued: Int
    public var queue: Int
    /// Its ceiling, written as in the configuration: `200/s burst 400`.
    public var rate: String?
    public var workers: Int
    public var invocations: UInt64
    public var refusals: UInt64
    public var cpuSeconds: Double
    /// Processors that it may use.
    public var cpuLimit: Double
    public var memoryBytes: UInt64
    public var memoryLimitBytes: UInt64
    public init(
        tenant: String, suspended: Bool, running: Int, concurrency: Int, queued: Int, queue: Int, rate: String?, workers: Int,
        invocations: UInt64, refusals: UInt64, cpuSeconds: Double, cpuLimit: Double, memoryBytes: UInt64, memoryLimitBytes: UInt64
    ) {
        self.tenant = tenant
        self.suspended = suspended
        self.running = running
        self.concurrency = concurrency
        self.queued = queued
        self.queue = queue
        self.rate = rate
        self.workers = workers
        self.invocations = invocations
        self.refusals = refusals
        self.cpuSeconds = cpuSeconds
        self.cpuLimit = cpuLimit
        self.memoryBytes = memoryBytes
        self.memoryLimitBytes = memoryLimitBytes
    }
}

/// `GET /v1/top` (control socket only) and `GET /v1/tenants/T/top`.
public struct TopReply: Codable, Hashable, Sendable {
    public var node: TopNode
    /// Those that have functions.
    public var tenants: [TopTenant]
    public var rows: [TopRow]
    public init(node: TopNode, tenants: [TopTenant] = [], rows: [TopRow]) {
        self.node = node
        self.tenants = tenants
        self.rows = rows
    }
}

/// The body of `POST /v1/reload` (control socket only).
public struct ReloadRequest: Codable, Hashable, Sendable {
    /// Read and compare, but change nothing.
    public var dryRun: Bool
    public init(dryRun: Bool) { self.dryRun = dryRun }
}

/// One setting that a reload changes.
public struct ReloadChange: Codable, Hashable, Sendable {
    public var tenant: String
    /// As in the file, like `quota.rate`; `tenant` where a whole tenant comes or goes.
    public var key: String
    public var before: String
    public var after: String
    public init(tenant: String, key: String, before: String, after: String) {
        self.tenant = tenant
        self.key = key
        self.before = before
        self.after = after
    }
}

/// What a reload did. A configuration with a mistake is a ``Problem`` with the code `configuration` instead.
public struct ReloadReply: Codable, Hashable, Sendable {
    public var applied: Bool
    public var changes: [ReloadChange]
    public init(applied: Bool, changes: [ReloadChange]) {
        self.applied = applied
        self.changes = changes
    }
}

/// The body of `POST /v1/tenants/T/keys/ID/rotate`; the answer holds `id` and `key` of the new key.
public struct KeyRotationRequest: Codable, Hashable, Sendable {
    /// How long the old key still works.
    public var graceSeconds: UInt64
    public init(graceSeconds: UInt64) { self.graceSeconds = graceSeconds }
}
