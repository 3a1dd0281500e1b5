// SPDX-License-Identifier: Apache-2.0

/// What a runaway loop may use. The defaults are the published ones.
public struct LoopLimits: Hashable, Sendable {
    private static let minute: Nanoseconds = .seconds(60)

    /// Hops of one path. One a minute is legal for ever: a schedule may do as much.
    public var hops = TokenRule(burst: 64, every: minute)
    /// Re-entries of one function on one path.
    public var path = TokenRule(burst: 16, every: minute)
    /// Recurrent invocations of one root.
    public var root = TokenRule(burst: 1_000, every: minute)
    /// Seat-seconds of one root's recurrent invocations, charged when they end: 60 an hour.
    public var cost = TokenRule(burst: 3_600, every: minute)
    /// Recurrent invocations of one edge, whatever their roots: 10,000 an hour.
    public var edge = TokenRule(burst: 10_000, every: .milliseconds(360))

    /// So many different roots that trip within ``tripWindow`` break the edge.
    public var rootsToBreak = 8
    public var tripWindow: Nanoseconds = .seconds(600)
    /// ln(10^6): at this log likelihood ratio a root's recurrent events are put on one seat.
    public var suspicion: Float = 13.8

    /// Quarantine of one edge, in events and in bytes of payload.
    public var edgeEvents = 10_000
    public var edgeBytes = 64 << 20
    /// Quarantine of all edges of a tenant, in bytes of payload: no tenant fills the node's.
    public var tenantBytes = 256 << 20
    /// Quarantine of the node, in bytes of payload.
    public var nodeBytes = 1 << 30
    /// Of an edge with objects: kept for the event that stands for all that find no place.
    static let mergedPlace = (events: 1, bytes: 8 << 10)

    /// A reason that has not tripped for so long is over.
    public var alarmQuiet: Nanoseconds = .seconds(600)
    /// From a break to the probe of a new revision; doubles with each break that follows within ``longestProbeWait``.
    public var probeWait: Nanoseconds = .seconds(900)
    public var longestProbeWait: Nanoseconds = .seconds(86_400)
    /// How long a probe must not recur.
    public var probeWatch: Nanoseconds = .seconds(900)

    /// Roots whose budget is known exactly; beyond, the least recently used is kept as an upper estimate.
    public var roots = 65_536
    /// Events that one invocation may emit: acyclic amplification is no loop, but it has a bound too. The emit beyond it fails.
    public static let emitsPerInvocation = 10_000

    public init() {}
}

/// What a manifest declares of a function that is meant to re-enter itself: `recursion: {maxDepth, maxDescendants, minInterval}`.
/// It replaces the bounds on hops, path and root for its recurrences; the cost grows with it, 3.6 seat-seconds a descendant; the edge's bound stays.
public struct DeclaredRecursion: Hashable, Sendable {
    public static let ceiling: UInt64 = 1_000_000
    /// Re-entries of the function on one path.
    public let maxDepth: UInt64
    /// Its recurrent invocations under one root.
    public let maxDescendants: UInt64
    /// From one entry to the next on the same path.
    public let minInterval: Nanoseconds
    /// Nil where a count is not within 1...1,000,000 or the interval is longer than a day.
    public init?(maxDepth: UInt64, maxDescendants: UInt64, minInterval: Nanoseconds = 0) {
        let counts = 1...Self.ceiling
        guard counts.contains(maxDepth), counts.contains(maxDescendants), minInterval <= .seconds(86_400) else { return nil }
        self.maxDepth = maxDepth
        self.maxDescendants = maxDescendants
        self.minInterval = minInterval
    }
}

/// A trigger and the function that it starts: what a loop breaker opens. Direct calls are a trigger too.
public struct EdgeID: Hashable, Codable, Sendable, CustomStringConvertible {
    public let trigger: Name
    public let function: FunctionID
    public init(trigger: Name, function: FunctionID) {
        self.trigger = trigger
        self.function = function
    }
    public var description: String { "\(trigger) -> \(function)" }
}

/// What becomes of an event that a full quarantine has no room for.
public enum EdgeSource: Hashable, Sendable {
    /// Fetched by us: it is not fetched any more.
    case pull
    /// Sent to us: 429, and the sender keeps it.
    case push
    /// Tells of objects: one event for all of a prefix.
    case object
}

/// What the governor must know of an edge.
public struct EdgeSpec: Hashable, Sendable {
    public var source: EdgeSource
    /// False where the deployed grants prove that nothing which the function does can come back to it: then the edge costs nothing.
    public var isOnCycle: Bool
    public var recursion: DeclaredRecursion?
    /// Concurrency of the function, of its tenant, and of the node.
    public var functionSeats: Int
    public var tenantSeats: Int
    public var nodeSeats: Int
    /// Another number after each change of the function's version or of the trigger.
    public var revision: UInt64

    public init(
        source: EdgeSource = .push, isOnCycle: Bool = true, recursion: DeclaredRecursion? = nil, functionSeats: Int = .max,
        tenantSeats: Int = .max, nodeSeats: Int = .max, revision: UInt64 = 0
    ) {
        self.source = source
        self.isOnCycle = isOnCycle
        self.recursion = recursion
        self.functionSeats = functionSeats
        self.tenantSeats = tenantSeats
        self.nodeSeats = nodeSeats
        self.revision = revision
    }
}
