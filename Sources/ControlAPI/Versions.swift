// SPDX-License-Identifier: Apache-2.0

/// One version of an alias with its share of the calls.
public struct AliasTarget: Codable, Hashable, Sendable {
    public var version: UInt32
    /// Percent, with at most two places; nil where it is the only one.
    public var weight: Double?
    public init(version: UInt32, weight: Double? = nil) {
        self.version = version
        self.weight = weight
    }
}

/// The body of `PUT /v1/tenants/T/functions/F/aliases/NAME`.
public struct AliasRequest: Codable, Hashable, Sendable {
    /// One, or the primary and the canary; their weights add up to 100.
    public var targets: [AliasTarget]
    /// Whether a canary that fails or is slow is ended by itself; absent for yes.
    public var automaticRollback: Bool?
    public init(targets: [AliasTarget], automaticRollback: Bool? = nil) {
        self.targets = targets
        self.automaticRollback = automaticRollback
    }
}

/// The body of `POST /v1/tenants/T/functions/F/rollback`; an empty body means `latest`.
public struct RollbackRequest: Codable, Hashable, Sendable {
    public var alias: String?
    public init(alias: String? = nil) { self.alias = alias }
}

/// What one version of a canary's alias came to in the present windows.
public struct CanaryFigures: Codable, Hashable, Sendable {
    public var calls: UInt64
    public var errors: UInt64
    /// Milliseconds; nil where there was no call.
    public var p95: Double?
    public init(calls: UInt64, errors: UInt64, p95: Double?) {
        self.calls = calls
        self.errors = errors
        self.p95 = p95
    }
}

/// An alias, as `GET /v1/tenants/T/functions/F/aliases` lists it. Weights are percent, times milliseconds since 1970.
public struct AliasReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var function: String
    public var alias: String
    /// The primary.
    public var version: UInt32
    public var weight: Double
    public var canary: UInt32?
    public var canaryWeight: Double?
    public var automaticRollback: Bool
    public var changedAt: UInt64
    /// `deploy`, `set`, `rollback`, or `rule` where a canary was ended by itself.
    public var changedBy: String
    /// Why; empty where the cause says it.
    public var reason: String
    /// Where a rollback goes; nil where there is nothing before.
    public var previous: UInt32?
    /// While there is a canary.
    public var primaryFigures: CanaryFigures?
    public var canaryFigures: CanaryFigures?
    public init(
        tenant: String, function: String, alias: String, version: UInt32, weight: Double, canary: UInt32?, canaryWeight: Double?,
        automaticRollback: Bool, changedAt: UInt64, changedBy: String, reason: String, previous: UInt32?
    ) {
        self.tenant = tenant
        self.function = function
        self.alias = alias
        self.version = version
        self.weight = weight
        self.canary = canary
        self.canaryWeight = canaryWeight
        self.automaticRollback = automaticRollback
        self.changedAt = changedAt
        self.changedBy = changedBy
        self.reason = reason
        self.previous = previous
    }
}

/// The functions of a tenant with one application label, since the daemon started: `GET /v1/applications` and `GET /v1/tenants/T/applications`.
public struct ApplicationReply: Codable, Hashable, Sendable {
    public var tenant: String
    /// Empty for functions without a label.
    public var application: String
    public var functions: [String]
    public var calls: UInt64
    /// Calls that were refused by a ceiling; they are among the calls, and in no success rate.
    public var throttles: UInt64
    /// Share of the calls that were not refused, 0 to 1; nil where there was none.
    public var successRate: Double?
    /// Run times in milliseconds, at most 6.25 % off; nil where nothing ran.
    public var p50: Double?
    public var p95: Double?
    public var p99: Double?
    /// What was charged.
    public var gbSeconds: Double
    public init(
        tenant: String, application: String, functions: [String], calls: UInt64, throttles: UInt64, successRate: Double?, p50: Double?,
        p95: Double?, p99: Double?, gbSeconds: Double
    ) {
        self.tenant = tenant
        self.application = application
        self.functions = functions
        self.calls = calls
        self.throttles = throttles
        self.successRate = successRate
        self.p50 = p50
        self.p95 = p95
        self.p99 = p99
        self.gbSeconds = gbSeconds
    }
}
