// SPDX-License-Identifier: Apache-2.0

/// What may happen to an object of a bucket.
public enum ObjectChange: String, Hashable, Sendable, CaseIterable {
    /// Its content is whole: written and closed, or moved in under its name.
    case created
    case removed
    /// It has another key in the same bucket; the event names the old one too.
    case renamed
}

/// A bucket of the function's own tenant that its workers see at `/buckets/NAME`.
public struct BucketGrant: Hashable, Sendable {
    public var bucket: Name
    public var isWritable: Bool
    /// The directory of the bucket that is writable, with a `/` at its end; empty for the whole bucket. The rest is read-only.
    public var prefix: String
    public init(bucket: Name, isWritable: Bool, prefix: String = "") {
        self.bucket = bucket
        self.isWritable = isWritable
        self.prefix = prefix
    }
}

/// The form of the event that a function gets from an HTTP route.
public enum EventShape: String, Hashable, Sendable, CaseIterable {
    /// The body as it came; method, path, query and headers beside it.
    case bulkhead
    /// API Gateway HTTP API, payload format 2.0.
    case awsAPIGateway2 = "aws-apigw-v2"
    /// Function Compute's HTTP trigger event.
    case functionCompute = "fc-http"
}

/// Who may use an HTTP route or a queue's endpoint.
public enum TriggerAuthorization: Hashable, Sendable {
    case none
    /// A key of the tenant with the scope `invoke`.
    case key
    /// HMAC-SHA-256 of the body under a secret of the tenant, by name.
    case hmac(secret: String)
}

/// What a cron trigger does when its time comes while its last run has not ended.
public enum CronOverlap: String, Hashable, Sendable, CaseIterable { case skip, queue, allow }

/// How many events of a trigger its function is called with at once.
public struct BatchSpec: Hashable, Sendable {
    public static let sizes = 1...100
    /// In seconds.
    public static let waits = 1...300

    /// At most.
    public var size: Int
    /// Events of the same so many milliseconds become due together; 0 for at once.
    public var waitMs: UInt64
    public init(size: Int, waitMs: UInt64 = 0) {
        self.size = size
        self.waitMs = waitMs
    }

    /// When an event may run that would otherwise at `time`, in milliseconds since 1970: at the end of its window, which is the same for all.
    public func due(_ time: UInt64) -> UInt64 {
        guard waitMs > 0, time < .max - waitMs else { return time }
        return (time / waitMs + 1) * waitMs
    }
}

/// One trigger of a function. Direct calls need none.
public struct TriggerSpec: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// `methods` empty for all; a route is a path below the tenant's root whose last segment may be `*`.
        case http(route: String, methods: [String], authorization: TriggerAuthorization, shape: EventShape)
        /// `schedule`: five or six fields, or `every 10m`; `timeZone`: an IANA name.
        case cron(schedule: String, timeZone: String, payload: String, overlap: CronOverlap)
        case bucket(Name, prefix: String, suffix: String, changes: Set<ObjectChange>)
        /// The end of another function's asynchronous invocations, of the same tenant.
        case outcome(of: Name, onSuccess: Bool, onFailure: Bool)
        /// A push endpoint that stores each message as an event.
        case queue(authorization: TriggerAuthorization)
    }
    /// One of its function's; by default the kind with a number: `bucket-1`.
    public var name: Name
    public var kind: Kind
    /// How often it may start its function; nil without a ceiling of its own.
    public var rate: RateSpec?
    /// Of a bucket or a queue; nil where each event is a call of its own.
    public var batch: BatchSpec?
    public init(name: Name, kind: Kind, rate: RateSpec? = nil, batch: BatchSpec? = nil) {
        self.batch = batch
        self.name = name
        self.kind = kind
        self.rate = rate
    }

    /// The trigger that stands for direct calls, of callers and of functions, and for what destinations send.
    public static let direct = Name.direct
}

/// Where the outcome of an asynchronous invocation goes.
public enum Destination: Hashable, Codable, Sendable {
    /// A function of the same tenant.
    case function(Name)
    /// POST to an URL, signed where a secret of the tenant is named.
    case webhook(url: String, secret: String?)
    /// An object of a bucket of the tenant, named by the invocation.
    case bucket(Name, prefix: String)
}

/// How asynchronous invocations of a function are tried, and who hears of their end.
public struct AsyncSpec: Hashable, Sendable {
    public var retry: RetryPolicy
    public var onSuccess: Destination?
    public var onFailure: Destination?
    public init(retry: RetryPolicy = .standard, onSuccess: Destination? = nil, onFailure: Destination? = nil) {
        self.retry = retry
        self.onSuccess = onSuccess
        self.onFailure = onFailure
    }
}
