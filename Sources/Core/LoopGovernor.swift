// SPDX-License-Identifier: Apache-2.0

/// Bounds what runaway trigger loops can do, and nothing else.
///
/// No rule can tell early whether a recursion will end, so the guarantee is a budget on recurrence: an event that comes back to a function on its own causal path takes a token
/// from its path, its root and its edge. How much work there is does not count: a fan-out of any width, in which every path visits each function once, takes nothing. Statistics only
/// decide how early a suspect is slowed down.
///
/// For the default ``LoopLimits``, from the buckets alone: recurrent invocations of one root in any time t are at most 1,000 + t/60 s, of one edge at most
/// 10,000 + 10,000 t/h, entries of one function on one path at most 17 + t/60 s; a chain that re-enters itself no faster than once a minute is never parked. An event that is not
/// admitted is parked, refused or left at its source: it never vanishes.
///
/// Ask before an event is queued and before an internal event is acknowledged; call ``start(_:through:isSync:)`` and ``finish(_:through:isSync:seatTime:at:)``
/// around a recurrent one's run. Times are ``SteadyTime``.
public struct LoopGovernor: Sendable {
    public let limits: LoopLimits
    public internal(set) var counts = LoopCounts()
    /// Payload bytes in quarantine, of all edges.
    public internal(set) var parkedBytes = 0
    var parkedByTenant: [Name: Int] = [:]
    var latest: Instant
    var edges: [EdgeID: LoopEdge] = [:]
    var roots: RootBudgets
    /// Edges that ``timePassed(at:into:)`` has to look at.
    var attended: Set<EdgeID> = []

    /// - Parameter seed: random; decides which roots share a cell of the sketch.
    public init(limits: LoopLimits = LoopLimits(), seed: UInt64) {
        self.limits = limits
        latest = Instant(nanoseconds: 0)
        roots = RootBudgets(capacity: limits.roots, seed: seed)
    }

    // MARK: admission

    /// Decides on one event. All buckets are asked before one is taken from.
    /// - Parameters:
    ///   - cause: the lineage of the invocation that made the event.
    ///   - isSync: the causing invocation keeps its seat and waits for the answer.
    ///   - bytes: of payload, for the bounds of the quarantine.
    public mutating func admit(
        _ cause: Lineage, through edge: EdgeID, isSync: Bool = false, bytes: Int = 0, at time: Instant, into notes: inout [LoopNote]
    ) -> LoopVerdict {
        let now = advance(time)
        let place = placeOfEdge(edge)
        let spec = edges.values[place].spec
        let function = edges.values[place].function
        var lineage = cause
        lineage.flags.subtract([.recurrent, .declared])
        let visit = lineage.enter(function, isSync: isSync)
        // Where no cycle is deployed only a visit that is certain counts, not one that the table might have forgotten.
        let comesBack = spec.isOnCycle ? lineage.path[visit].count >= 2 : cause.index(of: function) != nil
        if cause.flags.contains(.inferred) { return pass(lineage, isRecurrent: false, armsDetector: comesBack, at: now) }

        if edges.values[place].holdsBack(lineage.root, isRecurrent: comesBack) {
            reopenAfterProbe(place, lineage.root, &notes)
            return park(.edgeBroken, lineage, visit, place, Empty(limit: 0, wait: 0), isSync: isSync, bytes, &notes)
        }
        if isSync, let seats = exhaustedSeats(cause, function, spec) {
            return park(.deadlock, lineage, visit, place, Empty(limit: UInt64(seats), wait: 0), isSync: true, bytes, &notes)
        }
        let declared = comesBack ? spec.recursion : nil
        if declared == nil, comesBack || spec.isOnCycle {
            if let empty = Empty(lineage.hopBucket, limits.hops, now) {
                return park(.hops, lineage, visit, place, empty, isSync: isSync, bytes, &notes)
            }
            lineage.hopBucket.take(limits.hops, at: now)
        }
        guard comesBack else {
            if case .probing(let one, nil, _) = edges.values[place].state.circuit {
                edges.values[place].state.circuit = .probing(one, root: lineage.root, until: now + limits.probeWatch)
                attended.insert(edge)
            }
            return pass(lineage, isRecurrent: false, at: now)
        }
        return admitRecurrent(lineage, visit, place, isSync: isSync, bytes, wasRecurrent: cause.flags.contains(.recurrent), &notes)
    }

    /// The part of ``admit(_:through:isSync:bytes:at:into:)`` that concerns an event which comes back to a function on its path.
    private mutating func admitRecurrent(
        _ event: Lineage, _ visit: Int, _ place: Dictionary<EdgeID, LoopEdge>.Index, isSync: Bool, _ bytes: Int, wasRecurrent: Bool,
        _ notes: inout [LoopNote]
    ) -> LoopVerdict {
        let now = latest
        var lineage = event
        let edge = edges.keys[place]
        let declared = edges.values[place].spec.recursion
        let rules = LoopRules(limits, declared)
        if let empty = Empty(lineage.path[visit].bucket, rules.path, now) {
            return park(.path, lineage, visit, place, empty, isSync: isSync, bytes, &notes)
        }
        let budget = roots.findOrAdd(budgetKey(lineage.root, edges.values[place]), at: now)
        if let empty = Empty(roots[budget].count, rules.root, now) {
            return park(.root, lineage, visit, place, empty, isSync: isSync, bytes, &notes)
        }
        if let empty = Empty(roots[budget].cost, rules.cost, now) {
            return park(.cost, lineage, visit, place, empty, isSync: isSync, bytes, &notes)
        }
        if let empty = Empty(edges.values[place].state.bucket, limits.edge, now) {
            return park(.edge, lineage, visit, place, empty, isSync: isSync, bytes, &notes)
        }
        lineage.path[visit].bucket.take(rules.path, at: now)
        roots[budget].count.take(rules.root, at: now)
        edges.values[place].state.took(limits.edge, at: now)
        lineage.flags.insert(declared == nil ? .recurrent : [.recurrent, .declared])
        var notBefore = now
        if let declared, declared.minInterval > 0 {
            notBefore = max(now, lineage.path[visit].enteredAt + declared.minInterval)
            lineage.path[visit].enteredAt = notBefore
        }
        if wasRecurrent, declared == nil { suspect(budget, edge, &notes) }
        return pass(lineage, isRecurrent: true, isThrottled: roots[budget].isSuspect && !isSync, at: notBefore)
    }

    private mutating func pass(
        _ lineage: Lineage, isRecurrent: Bool, isThrottled: Bool = false, armsDetector: Bool = false, at notBefore: Instant
    ) -> LoopVerdict {
        counts.admitted &+= 1
        if isRecurrent { counts.recurrent &+= 1 }
        return .admit(
            LoopPass(
                lineage: lineage, isRecurrent: isRecurrent, isThrottled: isThrottled, notBefore: notBefore, armsDetector: armsDetector))
    }

    /// Seats of a vertex that are all held by the caller and those who wait for it; nil where one can be free.
    private func exhaustedSeats(_ cause: Lineage, _ function: FunctionKey, _ spec: EdgeSpec) -> Int? {
        let held = cause.seatsHeld(of: function)
        if held.function > 0, held.function >= spec.functionSeats { return spec.functionSeats }
        if held.tenant > 0, held.tenant >= spec.tenantSeats { return spec.tenantSeats }
        return held.node > 0 && held.node >= spec.nodeSeats ? spec.nodeSeats : nil
    }

    // MARK: runs

    /// Whether a recurrent event may take a seat now: a suspected root has one. False: try again when one of the same root has finished.
    /// A sync call always may: its caller holds a seat until it is answered.
    public mutating func start(_ lineage: Lineage, through edge: EdgeID, isSync: Bool = false) -> Bool {
        guard lineage.flags.contains(.recurrent), !isSync, let budget = roots.find(budgetKey(lineage, edge)) else { return true }
        if roots[budget].isSuspect, roots[budget].running > 0 { return false }
        roots[budget].running &+= 1
        return true
    }

    /// A run has ended, however it ended: what it cost is charged to its root. Call it once for each that started.
    public mutating func finish(
        _ lineage: Lineage, through edge: EdgeID, isSync: Bool = false, seatTime: Nanoseconds, at time: Instant
    ) {
        let now = advance(time)
        guard lineage.flags.contains(.recurrent) else { return }
        let budget = roots.findOrAdd(budgetKey(lineage, edge), at: now)
        if !isSync, roots[budget].running > 0 { roots[budget].running -= 1 }
        roots[budget].cost.charge(limits.cost, billionths: seatTime, at: now)
        // One recurrent parent has ended; those that it made were added when they came.
        roots[budget].suspicion = max(0, roots[budget].suspicion - 0.9)
    }

    /// One recurrent child of a recurrent parent: Wald's sequential test of Poisson offspring, mean 1 against 0.1. Where it falls to 0 it begins anew (Page's rule).
    private mutating func suspect(_ budget: Int, _ edge: EdgeID, _ notes: inout [LoopNote]) {
        roots[budget].suspicion += 2.302_585
        guard roots[budget].suspicion >= limits.suspicion, !roots[budget].isSuspect else { return }
        roots[budget].isSuspect = true
        notes.append(.suspect(root: roots[budget].key.root, edge))
    }

    // MARK: helpers

    /// Time never goes back, whatever the caller says.
    mutating func advance(_ time: Instant) -> Instant {
        latest = max(latest, time)
        return latest
    }

    func placeIfKnown(_ edge: EdgeID) -> Dictionary<EdgeID, LoopEdge>.Index? { edges.index(forKey: edge) }

    /// Where the edge stands; one that was never configured has the defaults.
    mutating func placeOfEdge(_ edge: EdgeID) -> Dictionary<EdgeID, LoopEdge>.Index {
        if let place = edges.index(forKey: edge) { return place }
        edges[edge] = LoopEdge(spec: EdgeSpec(), function: FunctionKey(edge.function))
        return edges.index(forKey: edge) ?? edges.startIndex
    }

    func budgetKey(_ root: InvocationID, _ edge: LoopEdge) -> RootBudget.Key {
        RootBudget.Key(root: root, function: edge.spec.recursion == nil ? 0 : edge.function.bits)
    }

    func budgetKey(_ lineage: Lineage, _ edge: EdgeID) -> RootBudget.Key {
        let isDeclared = lineage.flags.contains(.declared)
        return RootBudget.Key(root: lineage.root, function: isDeclared ? FunctionKey(edge.function).bits : 0)
    }
}

/// What was decided so far. Every event is in exactly one of `admitted`, `stored`, `paused`, `refused`, `merged`.
public struct LoopCounts: Hashable, Sendable {
    public internal(set) var admitted: UInt64 = 0
    /// Of the admitted.
    public internal(set) var recurrent: UInt64 = 0
    public internal(set) var stored: UInt64 = 0
    public internal(set) var paused: UInt64 = 0
    public internal(set) var refused: UInt64 = 0
    public internal(set) var merged: UInt64 = 0
    public internal(set) var trips: [LoopReason: UInt64] = [:]
    public init() {}
}

/// A bucket that has no token.
struct Empty {
    let limit: UInt64
    let wait: Nanoseconds
    init(limit: UInt64, wait: Nanoseconds) {
        self.limit = limit
        self.wait = wait
    }
    init?(_ bucket: TokenBucket, _ rule: TokenRule, _ now: Instant) {
        wait = bucket.wait(rule, at: now)
        limit = rule.burst
        if wait == 0 { return nil }
    }
}

/// The rules for one function's recurrences.
public struct LoopRules: Sendable {
    public let path: TokenRule
    public let root: TokenRule
    public let cost: TokenRule
    init(_ limits: LoopLimits, _ declared: DeclaredRecursion?) {
        guard let declared else {
            (path, root, cost) = (limits.path, limits.root, limits.cost)
            return
        }
        path = TokenRule(burst: declared.maxDepth, every: limits.path.interval)
        root = TokenRule(burst: declared.maxDescendants, every: limits.root.interval)
        let seconds = limits.cost.burst * declared.maxDescendants / max(1, limits.root.burst)
        cost = TokenRule(burst: max(limits.cost.burst, seconds), every: limits.cost.interval)
    }
}
