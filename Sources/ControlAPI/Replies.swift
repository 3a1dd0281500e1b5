// SPDX-License-Identifier: Apache-2.0

/// A worker, as `GET /v1/workers` lists it. Times are milliseconds since 1970.
public struct WorkerReply: Codable, Hashable, Sendable {
    public var worker: String
    public var tenant: String
    public var function: String
    public var version: UInt32
    public var runtime: String
    public var state: String
    public var pid: Int32
    public var uid: UInt32
    public var cgroup: String
    public var startedAt: UInt64
    public var served: UInt64
    public var inFlight: Int
    public var slots: Int
    public var memoryBytes: UInt64
    public var memoryLimitBytes: UInt64
    public var cpuSeconds: Double
    public var pids: UInt32
    public var pidsLimit: UInt32

    public init(
        worker: String, tenant: String, function: String, version: UInt32, runtime: String, state: String, pid: Int32, uid: UInt32,
        cgroup: String, startedAt: UInt64, served: UInt64, inFlight: Int, slots: Int, memoryBytes: UInt64, memoryLimitBytes: UInt64,
        cpuSeconds: Double, pids: UInt32, pidsLimit: UInt32
    ) {
        self.worker = worker
        self.tenant = tenant
        self.function = function
        self.version = version
        self.runtime = runtime
        self.state = state
        self.pid = pid
        self.uid = uid
        self.cgroup = cgroup
        self.startedAt = startedAt
        self.served = served
        self.inFlight = inFlight
        self.slots = slots
        self.memoryBytes = memoryBytes
        self.memoryLimitBytes = memoryLimitBytes
        self.cpuSeconds = cpuSeconds
        self.pids = pids
        self.pidsLimit = pidsLimit
    }
}

/// One line of a worker's posture.
public struct PostureReply: Codable, Hashable, Sendable {
    public var name: String
    public var expected: String
    public var actual: String
    public var ok: Bool
    public init(name: String, expected: String, actual: String, ok: Bool) {
        self.name = name
        self.expected = expected
        self.actual = actual
        self.ok = ok
    }
}

/// A worker's posture, read from outside. `score` is the number of holes: 0 is as promised.
public struct InspectReply: Codable, Hashable, Sendable {
    public var worker: String
    public var score: Int
    public var holes: [String]
    public var checks: [PostureReply]
    public init(worker: String, checks: [PostureReply]) {
        self.worker = worker
        self.checks = checks
        holes = checks.filter { !$0.ok }.map { "\($0.name): expected \($0.expected), found \($0.actual)" }
        score = holes.count
    }
}

public struct FunctionReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var function: String
    public var latest: UInt32
    public var runtime: String
    public var memoryBytes: UInt64
    public var deployedAt: UInt64
    public init(tenant: String, function: String, latest: UInt32, runtime: String, memoryBytes: UInt64, deployedAt: UInt64) {
        self.tenant = tenant
        self.function = function
        self.latest = latest
        self.runtime = runtime
        self.memoryBytes = memoryBytes
        self.deployedAt = deployedAt
    }
}

public struct VersionReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var function: String
    public var version: UInt32
    public var runtime: String
    public var memoryBytes: UInt64
    public var codeBytes: UInt64
    public var codeHash: String
    public var createdAt: UInt64
    /// The aliases that name it, with their share where they name two: `latest`, `prod 10%`. Only in the list.
    public var aliases: [String]?
    /// What of its manifest is allowed and hardly meant, as sentences. Only in the answer to a deploy, where there is any.
    public var warnings: [String]?
    public init(
        tenant: String, function: String, version: UInt32, runtime: String, memoryBytes: UInt64, codeBytes: UInt64, codeHash: String,
        createdAt: UInt64
    ) {
        self.tenant = tenant
        self.function = function
        self.version = version
        self.runtime = runtime
        self.memoryBytes = memoryBytes
        self.codeBytes = codeBytes
        self.codeHash = codeHash
        self.createdAt = createdAt
    }
}

public struct TenantReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var functions: Int
    public var concurrency: Int
    public var running: Int
    public var queue: Int
    public var queued: Int
    public var workers: Int
    public var memoryBytes: UInt64
    public var memoryCommittedBytes: UInt64
    public var cpuMilli: UInt32
    public var processes: UInt32
    /// Whether the operator has suspended it: no call or event is taken and none is run.
    public var suspended: Bool
    public init(
        tenant: String, functions: Int, concurrency: Int, running: Int, queue: Int, queued: Int, workers: Int, memoryBytes: UInt64,
        memoryCommittedBytes: UInt64, cpuMilli: UInt32, processes: UInt32, suspended: Bool = false
    ) {
        self.tenant = tenant
        self.functions = functions
        self.concurrency = concurrency
        self.running = running
        self.queue = queue
        self.queued = queued
        self.workers = workers
        self.memoryBytes = memoryBytes
        self.memoryCommittedBytes = memoryCommittedBytes
        self.cpuMilli = cpuMilli
        self.processes = processes
        self.suspended = suspended
    }
}

public struct ExplainEntryReply: Codable, Hashable, Sendable {
    /// Since the arrival.
    public var afterNanoseconds: UInt64
    public var decision: String
    public var detail: String
    public init(afterNanoseconds: UInt64, decision: String, detail: String) {
        self.afterNanoseconds = afterNanoseconds
        self.decision = decision
        self.detail = detail
    }
}

public struct ExplainReply: Codable, Hashable, Sendable {
    public var invocation: String
    public var function: String
    public var arrivedAt: UInt64
    public var entries: [ExplainEntryReply]
    public init(invocation: String, function: String, arrivedAt: UInt64, entries: [ExplainEntryReply]) {
        self.invocation = invocation
        self.function = function
        self.arrivedAt = arrivedAt
        self.entries = entries
    }
}

/// A call that failed or was refused, of those that are kept: of each tenant the first 20 in a second.
public struct FailureReply: Codable, Hashable, Sendable {
    public var invocation: String
    public var tenant: String
    public var function: String
    public var version: UInt32
    public var arrivedAt: UInt64
    public var failedAt: UInt64
    public var outcome: String
    /// What brought it about; empty where the outcome says it all.
    public var reason: String
    public init(
        invocation: String, tenant: String, function: String, version: UInt32, arrivedAt: UInt64, failedAt: UInt64, outcome: String,
        reason: String
    ) {
        self.invocation = invocation
        self.tenant = tenant
        self.function = function
        self.version = version
        self.arrivedAt = arrivedAt
        self.failedAt = failedAt
        self.outcome = outcome
        self.reason = reason
    }
}

public struct FailurePageReply: Codable, Hashable, Sendable {
    /// By the time of their ends.
    public var failures: [FailureReply]
    /// Whether some of that time may have been left out, for their number or for what would have had to be read.
    public var more: Bool
    public init(failures: [FailureReply], more: Bool) {
        self.failures = failures
        self.more = more
    }
}

public struct LogReply: Codable, Hashable, Sendable {
    public var time: UInt64
    /// Only where lines of all tenants are asked for.
    public var tenant: String?
    public var function: String
    public var version: UInt32
    public var worker: String
    public var invocation: String
    public var stream: String
    public var level: String
    public var text: String
    public init(
        time: UInt64, tenant: String? = nil, function: String, version: UInt32, worker: String, invocation: String, stream: String,
        level: String, text: String
    ) {
        self.time = time
        self.tenant = tenant
        self.function = function
        self.version = version
        self.worker = worker
        self.invocation = invocation
        self.stream = stream
        self.level = level
        self.text = text
    }
}

public struct KeyReply: Codable, Hashable, Sendable {
    public var id: String
    /// Only in the answer to the creation.
    public var key: String?
    public var tenant: String
    public var scopes: [String]
    public var createdAt: UInt64
    public var revoked: Bool
    /// Milliseconds since 1970; nil where it was never used.
    public var lastUsedAt: UInt64?
    public init(
        id: String, key: String?, tenant: String, scopes: [String], createdAt: UInt64, revoked: Bool, lastUsedAt: UInt64? = nil
    ) {
        self.id = id
        self.key = key
        self.tenant = tenant
        self.scopes = scopes
        self.createdAt = createdAt
        self.revoked = revoked
        self.lastUsedAt = lastUsedAt
    }
}

public struct KeyRequest: Codable, Hashable, Sendable {
    public var scopes: [String]
    public init(scopes: [String]) { self.scopes = scopes }
}

public struct NodeReply: Codable, Hashable, Sendable {
    public var version: String
    public var runtimes: [String]
    /// The folder that the daemon reads its configuration from.
    public var configuration: String?
    /// Where it serves HTTP: `127.0.0.1:8080`.
    public var http: String?
    public init(version: String, runtimes: [String], configuration: String? = nil, http: String? = nil) {
        self.version = version
        self.runtimes = runtimes
        self.configuration = configuration
        self.http = http
    }
}

/// An error, RFC 9457 `application/problem+json`.
public struct Problem: Codable, Hashable, Sendable, Error {
    /// Stable; scripts may rely on it.
    public var code: String
    public var title: String
    public var status: Int
    public var detail: String
    public var level: String?
    public var ceiling: String?
    public var limit: UInt64?
    public var value: UInt64?
    /// Seconds.
    public var retryAfter: Double?
    public var invocation: String?
    public var errorType: String?
    public var errorMessage: String?
    public var errorStack: String?
    /// Every mistake of a refused configuration: `tenants.d/acme.yaml:4:12: sentence`.
    public var errors: [String]?
    public init(code: String, title: String, status: Int, detail: String) {
        self.code = code
        self.title = title
        self.status = status
        self.detail = detail
    }
}
