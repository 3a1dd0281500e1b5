// SPDX-License-Identifier: Apache-2.0

/// Everything the node decides by about one version of a function. Validated before it gets here.
public struct FunctionSpec: Hashable, Sendable {
    public var version: VersionID
    /// Name of the runtime in the spawner's policy.
    public var runtime: String
    /// Content hash of the code tree.
    public var code: String
    /// The tenant's own program and its arguments, for runtimes without an interpreter.
    public var command: [String]
    public var limits: WorkerLimits
    public var network: Bool
    /// Invocations at a time in one worker, 1-200.
    public var instanceConcurrency: UInt16
    /// Invocations at a time over all workers.
    public var concurrency: Int
    public var minimumWorkers: Int
    public var maximumWorkers: Int
    /// How long a worker may stay idle.
    public var idle: Nanoseconds
    /// How long one invocation may run.
    public var timeout: Nanoseconds
    /// How long loading the code and its initializer may take.
    public var startTimeout: Nanoseconds
    public var rate: RateSpec?
    /// Of triggers that have a rate of their own, by name.
    public var triggerRates: [Name: RateSpec]
    /// Ceilings of each end user of this function.
    public var users: UserSpec?
    /// Buckets that its workers see.
    public var buckets: [BucketGrant]
    /// The operator's layers that its workers see, in the order of their hooks.
    public var layers: [Name]

    public init(
        version: VersionID, runtime: String, code: String, command: [String] = [], limits: WorkerLimits = WorkerLimits(),
        network: Bool = false, instanceConcurrency: UInt16 = 1, concurrency: Int = 100, minimumWorkers: Int = 0, maximumWorkers: Int = 20,
        idle: Nanoseconds = .seconds(300), timeout: Nanoseconds = .seconds(30), startTimeout: Nanoseconds = .seconds(10),
        rate: RateSpec? = nil, triggerRates: [Name: RateSpec] = [:], users: UserSpec? = nil, buckets: [BucketGrant] = [],
        layers: [Name] = []
    ) {
        self.version = version
        self.runtime = runtime
        self.code = code
        self.command = command
        self.limits = limits
        self.network = network
        self.instanceConcurrency = instanceConcurrency
        self.concurrency = concurrency
        self.minimumWorkers = minimumWorkers
        self.maximumWorkers = maximumWorkers
        self.idle = idle
        self.timeout = timeout
        self.startTimeout = startTimeout
        self.rate = rate
        self.triggerRates = triggerRates
        self.users = users
        self.buckets = buckets
        self.layers = layers
    }
}

/// What each end user of a tenant or function may use.
public struct UserSpec: Hashable, Sendable {
    public var concurrency: Int?
    public var rate: RateSpec?
    public init(concurrency: Int? = nil, rate: RateSpec? = nil) {
        self.concurrency = concurrency
        self.rate = rate
    }
}

/// The ceilings of one tenant that the node decides by.
public struct TenantSpec: Hashable, Sendable {
    public var tenant: Name
    /// Invocations at a time over all functions.
    public var concurrency: Int
    /// Invocations that may wait for a seat or a worker.
    public var queue: Int
    /// Sum of the memory limits of all workers, and the group's own limit.
    public var limits: GroupLimits
    public var rate: RateSpec?
    public var budget: BudgetSpec
    /// Share of the seats where tenants compete, against the others' weights.
    public var weight: Double
    /// Ceilings of each end user over all functions.
    public var users: UserSpec?
    /// Whether nothing of it is admitted or started until further notice.
    public var isSuspended: Bool
    public init(
        tenant: Name, concurrency: Int = 50, queue: Int = 1000, limits: GroupLimits, rate: RateSpec? = nil,
        budget: BudgetSpec = BudgetSpec(),
        weight: Double = 1, users: UserSpec? = nil, isSuspended: Bool = false
    ) {
        self.tenant = tenant
        self.concurrency = concurrency
        self.queue = queue
        self.limits = limits
        self.rate = rate
        self.budget = budget
        self.weight = weight
        self.users = users
        self.isSuspended = isSuspended
    }

    /// The largest sum of the bodies of a tenant's waiting invocations, in bytes.
    public static let queueBytes = 16 << 20
}

/// The ceilings of the node and the size of its start pool.
public struct NodeSpec: Hashable, Sendable {
    /// Sum of the memory limits of all workers.
    public var memoryBytes: UInt64
    public var maximumWorkers: Int
    /// Invocations at a time over all tenants.
    public var seats: Int
    /// Invocations that may wait, over all tenants.
    public var queue: Int
    /// How long an invocation may wait for a seat or a worker.
    public var queueWait: Nanoseconds
    /// Groups without a tenant that are kept ready, each with one set of spares.
    public var spareGroups: Int
    /// Sealed, empty sandboxes a group.
    public var sealedSpares: Int
    /// Prewarmed workers a group, by runtime.
    public var prewarmedSpares: [String: Int]
    /// Spares of one group, of every kind.
    var sparesOfGroup: Int { sealedSpares + prewarmedSpares.values.reduce(0, +) }
    /// Limits of a worker that has no function yet.
    public var spareLimits: WorkerLimits
    /// How long an unused spare of a tenant's group is kept.
    public var spareIdle: Nanoseconds
    /// Between `cancel` and the kill of the worker.
    public var cancelGrace: Nanoseconds
    /// How many starts may be under way at once.
    public var concurrentStarts: Int
    /// Whether workers are started before they are missed.
    public var startsAhead: Bool

    public init(
        memoryBytes: UInt64, maximumWorkers: Int = 500, seats: Int = 100_000, queue: Int = 50_000, queueWait: Nanoseconds = .seconds(10),
        spareGroups: Int = 2,
        sealedSpares: Int = 1, prewarmedSpares: [String: Int] = [:],
        spareLimits: WorkerLimits = WorkerLimits(memoryBytes: 64 << 20), spareIdle: Nanoseconds = .seconds(60),
        cancelGrace: Nanoseconds = .milliseconds(500), concurrentStarts: Int = 64, startsAhead: Bool = true
    ) {
        self.memoryBytes = memoryBytes
        self.maximumWorkers = maximumWorkers
        self.seats = seats
        self.queue = queue
        self.queueWait = queueWait
        self.spareGroups = spareGroups
        self.sealedSpares = sealedSpares
        self.prewarmedSpares = prewarmedSpares
        self.spareLimits = spareLimits
        self.spareIdle = spareIdle
        self.cancelGrace = cancelGrace
        self.concurrentStarts = concurrentStarts
        self.startsAhead = startsAhead
    }
}
