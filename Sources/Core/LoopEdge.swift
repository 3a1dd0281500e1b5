// SPDX-License-Identifier: Apache-2.0

/// Whether an edge lets recurrent events through.
public enum LoopCircuit: Hashable, Codable, Sendable {
    case closed
    case broken(LoopBreak)
    /// Half open: `root` is the probe's, nil until one is admitted; it is watched until `until`.
    case probing(LoopBreak, root: InvocationID?, until: Instant)
}

public struct LoopBreak: Hashable, Codable, Sendable {
    public var cause: BreakCause
    /// All events wait, not only those that recur.
    public var isAll: Bool
    public var since: Instant
    /// ``EdgeSpec/revision`` at the break: only another one is worth a probe.
    public var revision: UInt64
    public var probeAt: Instant?
}

/// Events that were parked and are submitted anew, at a rate.
public struct LoopReplay: Hashable, Codable, Sendable {
    public var remaining: Int
    public var interval: Nanoseconds
    public var nextAt: Instant
    /// At once, when the shell comes late.
    static let most = 100
}

/// A trip of one root, remembered to count different ones.
public struct LoopTripMark: Hashable, Codable, Sendable {
    public var root: InvocationID
    public var at: Instant
}

/// What has to survive a restart of one edge.
public struct LoopEdgeState: Hashable, Codable, Sendable {
    public var bucket = TokenBucket(fullAt: Instant(nanoseconds: 0))
    /// Recurrent invocations since it was last quiet: its bucket whole and no alarm raised. Nil in what an older release stored.
    public var recurrent: UInt64?
    public var circuit = LoopCircuit.closed
    /// The latest trip of each of the last few roots.
    public var trips: [LoopTripMark] = []
    /// Raised alarms, with the last trip of each.
    public var alarms: [LoopReason: Instant] = [:]
    public var replay: LoopReplay?
    public var parkedEvents = 0
    public var parkedBytes = 0
    public var isPaused = false
    /// Of the last break; nil before the first.
    public var probeWait: Nanoseconds?
    public var closedAt: Instant?
    /// The last steps of the path that tripped last. Nil where none is known.
    public var way: [LoopStep]?
    public init() {}

    mutating func took(_ rule: TokenRule, at now: Instant) {
        if bucket.isFull(at: now), alarms.isEmpty { recurrent = 0 }
        recurrent = (recurrent ?? 0) &+ 1
        bucket.take(rule, at: now)
    }
}

/// An edge as the governor keeps it.
struct LoopEdge: Sendable {
    var spec: EdgeSpec
    let function: FunctionKey
    var state = LoopEdgeState()

    /// Whether a broken or half-open edge holds this event back.
    func holdsBack(_ root: InvocationID, isRecurrent: Bool) -> Bool {
        switch state.circuit {
        case .closed: false
        case .broken(let one): isRecurrent || one.isAll
        case .probing(let one, let probe, _):
            // The first event that comes for the first time is the probe.
            if let probe { isRecurrent || (one.isAll && probe != root) } else { isRecurrent }
        }
    }

    /// When ``LoopGovernor/timePassed(at:into:)`` has something to do here.
    func deadline(_ limits: LoopLimits) -> Instant? {
        switch state.circuit {
        case .broken(let one): return one.probeAt
        case .probing(_, let root, let until): return root == nil ? nil : until
        case .closed:
            let quiet = state.alarms.values.min().map { $0 + limits.alarmQuiet }
            guard let quiet, let replay = state.replay?.nextAt else { return quiet ?? state.replay?.nextAt }
            return min(quiet, replay)
        }
    }
}
