// SPDX-License-Identifier: Apache-2.0
public import Core

/// One deployed version with everything a worker is told in `init`.
public struct Deployment: Sendable, Hashable {
    @Boxed public var spec: FunctionSpec
    /// `main.handler`, or a command and its arguments.
    public var handler: [String]
    public var environment: [String: String]
    public var secrets: [String: String]
    public var triggers: [TriggerSpec]
    public var asynchronous: AsyncSpec
    /// The functions of its tenant that it may call and send events to; nil for all.
    public var calls: [Name]?
    /// Layers that its manifest names and its tenant has not, or not any more: it does not start without them.
    public var missingLayers: [Name]
    public init(
        spec: FunctionSpec, handler: [String], environment: [String: String], secrets: [String: String] = [:], triggers: [TriggerSpec] = [],
        asynchronous: AsyncSpec = AsyncSpec(), calls: [Name]? = nil, missingLayers: [Name] = []
    ) {
        self.triggers = triggers
        self.asynchronous = asynchronous
        self.calls = calls
        self.missingLayers = missingLayers
        self.spec = spec
        self.handler = handler
        self.environment = environment
        self.secrets = secrets
    }
}

/// One line that a worker wrote.
public struct LogLine: Sendable, Hashable {
    public enum Stream: String, Sendable { case stdout, stderr, log, supervisor }
    /// Milliseconds since 1970.
    public var time: UInt64
    public var version: VersionID
    public var worker: WorkerID
    public var invocation: InvocationID?
    public var stream: Stream
    /// 0 debug, 1 info, 2 warning, 3 error.
    public var level: UInt8
    /// Raw bytes as the worker wrote them; whoever stores or shows them escapes them.
    public var bytes: [UInt8]
}

/// One timed decision about an invocation.
public struct ExplainEntry: Sendable, Hashable {
    /// Nanoseconds since the invocation arrived.
    public var after: Nanoseconds
    public var decision: Decision
}

/// Every decision about one invocation.
public struct ExplainRecord: Sendable, Hashable {
    public var id: InvocationID
    public var version: VersionID
    /// Milliseconds since 1970.
    public var arrivedAt: UInt64
    public var entries: [ExplainEntry]
}

/// A worker as `ps` shows it.
public struct WorkerReport: Sendable, Hashable {
    public var worker: WorkerID
    public var version: VersionID?
    public var runtime: String
    public var state: String
    public var pid: Int32
    public var uid: UInt32
    public var cgroup: String
    /// Milliseconds since 1970.
    public var startedAt: UInt64
    public var served: UInt64
    public var inFlight: Int
    public var slots: Int
    public var limits: WorkerLimits
    public var usage: Usage
}
