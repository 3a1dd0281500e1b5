// SPDX-License-Identifier: Apache-2.0

/// Which bound an event met.
public enum LoopReason: String, Hashable, Codable, Sendable, CaseIterable {
    /// Too deep too fast.
    case hops
    /// One function re-entered too often on one path.
    case path
    /// Too many recurrent invocations of one root.
    case root
    /// They held seats for too long.
    case cost
    /// Too many recurrent invocations of one edge, of all roots.
    case edge
    /// The edge is open since an earlier trip.
    case edgeBroken
    /// A sync call that would wait for a seat which its own waiting ancestors hold.
    case deadlock
}

/// An event that was not admitted, and why: enough to say it to a person.
public struct LoopTrip: Hashable, Sendable {
    public let edge: EdgeID
    public let reason: LoopReason
    public let root: InvocationID
    /// How often the path entered the function, this time included, and how many hops the path has.
    public let visits: UInt32
    public let hops: UInt32
    /// What the bucket holds when it is full (or the seats, for ``LoopReason/deadlock``); 0 for a broken edge.
    public let limit: UInt64
    /// When the same event would pass this bucket, if nothing else is taken from it; 0 where time does not help.
    public let retryAfter: Nanoseconds
}

/// What to do with an event that was not admitted. In no case does it vanish.
public enum Parking: Hashable, Sendable {
    /// Store it in quarantine, durably, before it is acknowledged. It is counted already.
    case store
    /// Quarantine is full: leave it at its source, unacknowledged, and fetch no more.
    case pause
    /// A waiting caller gets 508; a sender gets 429 with Retry-After, where quarantine is full.
    case refuse
    /// Quarantine is full: note bucket, prefix, count and last key in the row that stands for them all.
    case merge
}

/// An admitted event.
public struct LoopPass: Hashable, Sendable {
    /// The invocation's own lineage, of which all that it causes gets a copy.
    public let lineage: Lineage
    /// The function was on the path already.
    public let isRecurrent: Bool
    /// Its root is suspected: ask ``LoopGovernor/start(_:through:at:)`` for its one seat.
    public let isThrottled: Bool
    /// Not to be started before: declared recursion has a pace.
    public let notBefore: Instant
    /// A guessed lineage says loop: begin the test without lineage.
    public let armsDetector: Bool
}

public enum LoopVerdict: Hashable, Sendable {
    case admit(LoopPass)
    case park(LoopTrip, Parking)

    public var pass: LoopPass? { if case .admit(let pass) = self { pass } else { nil } }
    public var trip: LoopTrip? { if case .park(let trip, _) = self { trip } else { nil } }
}

/// Why an edge was opened.
public enum BreakCause: String, Hashable, Codable, Sendable {
    case manyRoots, edgeBudget, detector, probe, `operator`
}

/// What the shell has to tell or do beside the verdict.
public enum LoopNote: Hashable, Sendable {
    /// The first trip of this edge for this reason since it was quiet: tell the owner within 5 s.
    case alarm(LoopTrip)
    /// That reason is over.
    case recovered(EdgeID, LoopReason)
    /// The edge is open. `all`: also for events that recur nowhere.
    case broke(EdgeID, BreakCause, all: Bool)
    case closed(EdgeID)
    /// Quarantine is full: stop fetching from a pull source; objects are merged.
    case pause(EdgeID)
    case unpause(EdgeID)
    /// Submit so many of the edge's oldest parked events, each with ``Lineage/renewed(root:at:)``.
    case replay(EdgeID, count: Int)
    /// Submit one of them; the edge opens again if it recurs.
    case probe(EdgeID)
    /// The root's recurrent events are on one seat from now on.
    case suspect(root: InvocationID, EdgeID)
}

/// How an edge is closed by a person.
public enum LoopResume: Hashable, Sendable {
    /// The shell deletes what is parked and says so with ``LoopGovernor/released(_:events:bytes:into:)``.
    case discard
    /// So many of the oldest, one every `interval`.
    case replay(count: Int, every: Nanoseconds)
    /// Closed, and what is parked stays.
    case keep
}
