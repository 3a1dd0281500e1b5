// SPDX-License-Identifier: Apache-2.0

/// Edges that open and close, alarms, and the bounds of the quarantine.
extension LoopGovernor {
    // MARK: configuration

    /// Makes an edge known or changes what is known of it. On a broken edge a new revision earns a probe.
    public mutating func configure(_ edge: EdgeID, _ spec: EdgeSpec, at time: Instant) {
        let now = advance(time)
        let place = placeOfEdge(edge)
        edges.values[place].spec = spec
        guard case .broken(var one) = edges.values[place].state.circuit, one.revision != spec.revision, one.probeAt == nil else { return }
        one.probeAt = max(now, one.since + (edges.values[place].state.probeWait ?? limits.probeWait))
        edges.values[place].state.circuit = .broken(one)
        attended.insert(edge)
    }

    /// Forgets an edge whose trigger is gone. What is parked is the shell's to delete before.
    public mutating func remove(_ edge: EdgeID) {
        guard let gone = edges.removeValue(forKey: edge) else { return }
        count(bytes: -gone.state.parkedBytes, of: edge.function.tenant)
        attended.remove(edge)
    }

    public func state(of edge: EdgeID) -> LoopEdgeState? { edges[edge]?.state }
    /// What bounds the edge's recurrences: the limits, or what its function declares.
    public func rules(of edge: EdgeID) -> LoopRules { LoopRules(limits, edges[edge]?.spec.recursion) }

    /// Keeps the way of an event that was not admitted, for whoever looks at the edge. One that waits because the edge is open already tells nothing of why it was opened.
    public mutating func remember(_ way: [LoopStep], of trip: LoopTrip) {
        guard let place = placeIfKnown(trip.edge) else { return }
        if trip.reason == .edgeBroken, edges.values[place].state.way != nil || way.count < 2 { return }
        // Where it is not known, that of an earlier trip would tell of something else.
        edges.values[place].state.way = way.count > 1 ? way : nil
    }

    // MARK: parking

    mutating func park(
        _ reason: LoopReason, _ lineage: Lineage, _ visit: Int, _ place: Dictionary<EdgeID, LoopEdge>.Index, _ empty: Empty, isSync: Bool,
        _ bytes: Int, _ notes: inout [LoopNote]
    ) -> LoopVerdict {
        let edge = edges.keys[place]
        let trip = LoopTrip(
            edge: edge, reason: reason, root: lineage.root, visits: lineage.path[visit].count, hops: lineage.hops, limit: empty.limit,
            retryAfter: empty.wait)
        counts.trips[reason, default: 0] &+= 1
        if edges.values[place].state.alarms.updateValue(latest, forKey: reason) == nil { notes.append(.alarm(trip)) }
        attended.insert(edge)
        switch reason {
        case .edge: open(place, .edgeBudget, all: false, &notes)
        case .hops, .path, .root, .cost: count(lineage.root, place, &notes)
        case .edgeBroken, .deadlock: break
        }
        let parking = isSync ? Parking.refuse : room(place, bytes, &notes)
        switch parking {
        case .store: counts.stored &+= 1
        case .pause: counts.paused &+= 1
        case .refuse: counts.refused &+= 1
        case .merge: counts.merged &+= 1
        }
        return .park(trip, parking)
    }

    /// Counts the different roots that tripped lately.
    private mutating func count(_ root: InvocationID, _ place: Dictionary<EdgeID, LoopEdge>.Index, _ notes: inout [LoopNote]) {
        let now = latest
        edges.values[place].state.trips.removeAll { $0.root == root || now - $0.at > limits.tripWindow }
        edges.values[place].state.trips.append(LoopTripMark(root: root, at: now))
        if edges.values[place].state.trips.count >= limits.rootsToBreak { open(place, .manyRoots, all: false, &notes) }
    }

    /// Takes a place in quarantine, or says what to do without one.
    private mutating func room(_ place: Dictionary<EdgeID, LoopEdge>.Index, _ bytes: Int, _ notes: inout [LoopNote]) -> Parking {
        // Room may have come from another edge.
        if edges.values[place].state.isPaused, hasRoom(place) {
            edges.values[place].state.isPaused = false
            notes.append(.unpause(edges.keys[place]))
        }
        let state = edges.values[place].state
        let (source, tenant) = (edges.values[place].spec.source, edges.keys[place].function.tenant)
        // The last place is for the event that stands for all that find none.
        let kept = source == .object ? LoopLimits.mergedPlace : (events: 0, bytes: 0)
        let fits =
            state.parkedEvents + kept.events < limits.edgeEvents && state.parkedBytes + kept.bytes + bytes <= limits.edgeBytes
            && parkedBytes(of: tenant) + kept.bytes + bytes <= limits.tenantBytes && parkedBytes + kept.bytes + bytes <= limits.nodeBytes
        if fits, !state.isPaused {
            occupy(place, events: 1, bytes: bytes)
            return .store
        }
        guard source != .push else { return .refuse }
        if !state.isPaused { notes.append(.pause(edges.keys[place])) }
        edges.values[place].state.isPaused = true
        return source == .pull ? .pause : .merge
    }

    /// Negative where places are given back; a count never goes below nothing.
    private mutating func occupy(_ place: Dictionary<EdgeID, LoopEdge>.Index, events: Int, bytes: Int) {
        let state = edges.values[place].state
        let left = max(0, state.parkedEvents + events)
        // No event, no bytes: what was counted a little wrong is right again when an edge is empty.
        let size = left == 0 ? 0 : max(0, state.parkedBytes + bytes)
        edges.values[place].state.parkedEvents = left
        edges.values[place].state.parkedBytes = size
        count(bytes: size - state.parkedBytes, of: edges.keys[place].function.tenant)
    }

    /// Counts anew what is in quarantine, by what the store has: a snapshot may be older or newer than it, by a crash or a restored backup, and nothing else would ever mend a
    /// place that nobody has.
    public mutating func recount(_ stored: [EdgeID: (events: Int, bytes: Int)]) {
        for edge in Set(edges.keys).union(stored.keys) {
            let (place, found) = (placeOfEdge(edge), stored[edge] ?? (0, 0))
            let state = edges.values[place].state
            occupy(place, events: found.events - state.parkedEvents, bytes: found.bytes - state.parkedBytes)
        }
        // As after a release.
        for place in edges.indices where edges.values[place].state.isPaused && hasRoom(place) { edges.values[place].state.isPaused = false }
    }

    mutating func count(bytes: Int, of tenant: Name) {
        parkedBytes += bytes
        let sum = (parkedByTenant[tenant] ?? 0) + bytes
        parkedByTenant[tenant] = sum == 0 ? nil : sum
    }

    /// Payload bytes in quarantine, of all edges of a tenant.
    public func parkedBytes(of tenant: Name) -> Int { parkedByTenant[tenant] ?? 0 }

    /// The event that stands for several was stored (`events` 1) or has got another payload (0): it is in quarantine whatever room there is.
    /// - Parameter bytes: more than before.
    public mutating func merged(_ edge: EdgeID, events: Int, bytes: Int) {
        occupy(placeOfEdge(edge), events: events, bytes: bytes)
    }

    /// Events have left quarantine: deleted, expired or submitted again.
    public mutating func released(_ edge: EdgeID, events: Int, bytes: Int, into notes: inout [LoopNote]) {
        guard let place = placeIfKnown(edge) else { return }
        let before = edges.values[place].state
        occupy(place, events: -min(events, before.parkedEvents), bytes: -min(bytes, before.parkedBytes))
        guard before.isPaused, hasRoom(place) else { return }
        edges.values[place].state.isPaused = false
        notes.append(.unpause(edge))
    }

    /// An eighth of room, so that a source is not stopped and started for each event.
    private func hasRoom(_ place: Dictionary<EdgeID, LoopEdge>.Index) -> Bool {
        let state = edges.values[place].state
        return state.parkedEvents <= limits.edgeEvents / 8 * 7 && state.parkedBytes <= limits.edgeBytes / 8 * 7
            && parkedBytes(of: edges.keys[place].function.tenant) <= limits.tenantBytes / 8 * 7 && parkedBytes <= limits.nodeBytes / 8 * 7
    }

    // MARK: opening and closing

    /// Opens an edge by the word of the test without lineage, or of a person; `all`: also for events that recur nowhere.
    public mutating func breakEdge(_ edge: EdgeID, _ cause: BreakCause, all: Bool, at time: Instant, into notes: inout [LoopNote]) {
        _ = advance(time)
        open(placeOfEdge(edge), cause, all: all, &notes)
    }

    private mutating func open(
        _ place: Dictionary<EdgeID, LoopEdge>.Index, _ cause: BreakCause, all: Bool, _ notes: inout [LoopNote]
    ) {
        let now = latest
        let old = edges.values[place].state
        var wait = limits.probeWait
        switch old.circuit {
        case .broken(var one):
            guard all, !one.isAll else { return }
            one.isAll = true
            edges.values[place].state.circuit = .broken(one)
            return notes.append(.broke(edges.keys[place], cause, all: true))
        case .probing: wait = min(2 * (old.probeWait ?? limits.probeWait), limits.longestProbeWait)
        case .closed:
            if let closed = old.closedAt, now - closed < limits.longestProbeWait {
                wait = min(2 * (old.probeWait ?? limits.probeWait), limits.longestProbeWait)
            }
        }
        let one = LoopBreak(cause: cause, isAll: all, since: now, revision: edges.values[place].spec.revision, probeAt: nil)
        edges.values[place].state.circuit = .broken(one)
        edges.values[place].state.probeWait = wait
        edges.values[place].state.replay = nil
        edges.values[place].state.trips = []
        notes.append(.broke(edges.keys[place], cause, all: all))
    }

    /// The probe itself came back: the loop is still there.
    mutating func reopenAfterProbe(_ place: Dictionary<EdgeID, LoopEdge>.Index, _ root: InvocationID, _ notes: inout [LoopNote]) {
        guard case .probing(let one, root, _) = edges.values[place].state.circuit else { return }
        open(place, .probe, all: one.isAll, &notes)
    }

    /// Closes an edge on a person's word.
    /// - Parameter newBudget: fills the edge's bucket; without it an edge that broke for lack of tokens breaks again at once.
    public mutating func resume(
        _ edge: EdgeID, _ mode: LoopResume, newBudget: Bool = true, at time: Instant, into notes: inout [LoopNote]
    ) {
        let now = advance(time)
        guard let place = placeIfKnown(edge) else { return }
        if newBudget { edges.values[place].state.bucket = TokenBucket(fullAt: now) }
        close(place, &notes)
        edges.values[place].state.replay = nil
        if case .replay(let count, let interval) = mode, count > 0 {
            edges.values[place].state.replay = LoopReplay(remaining: count, interval: max(1, interval), nextAt: now)
            attended.insert(edge)
        }
    }

    /// An admitted event does not start before: where it is the probe of a broken edge, it is watched from then on, and not while it waits.
    public mutating func waits(_ root: InvocationID, through edge: EdgeID, until start: Instant) {
        guard let place = placeIfKnown(edge), case .probing(let one, root, let until) = edges.values[place].state.circuit else { return }
        edges.values[place].state.circuit = .probing(one, root: root, until: max(until, start + limits.probeWatch))
    }

    private mutating func close(_ place: Dictionary<EdgeID, LoopEdge>.Index, _ notes: inout [LoopNote]) {
        let edge = edges.keys[place]
        edges.values[place].state.trips = []
        if edges.values[place].state.circuit != .closed {
            edges.values[place].state.circuit = .closed
            edges.values[place].state.closedAt = latest
            notes.append(.closed(edge))
        }
        for reason in LoopReason.allCases where edges.values[place].state.alarms.removeValue(forKey: reason) != nil {
            notes.append(.recovered(edge, reason))
        }
    }

    // MARK: time

    /// When ``timePassed(at:into:)`` is due.
    public var nextDeadline: Instant? { attended.compactMap { edges[$0]?.deadline(limits) }.min() }

    public mutating func timePassed(at time: Instant, into notes: inout [LoopNote]) {
        let now = advance(time)
        for edge in attended {
            guard let place = placeIfKnown(edge) else { continue }
            switch edges.values[place].state.circuit {
            case .broken(var one):
                guard let due = one.probeAt, due <= now else { break }
                one.probeAt = nil
                edges.values[place].state.circuit = .probing(one, root: nil, until: now)
                notes.append(.probe(edge))
            case .probing(_, let root, let until): if root != nil, until <= now { close(place, &notes) }
            case .closed:
                recover(place, &notes)
                replay(place, &notes)
            }
            if edges.values[place].deadline(limits) == nil { attended.remove(edge) }
        }
    }

    private mutating func recover(_ place: Dictionary<EdgeID, LoopEdge>.Index, _ notes: inout [LoopNote]) {
        for reason in LoopReason.allCases {
            guard let last = edges.values[place].state.alarms[reason], last + limits.alarmQuiet <= latest else { continue }
            edges.values[place].state.alarms[reason] = nil
            notes.append(.recovered(edges.keys[place], reason))
        }
    }

    private mutating func replay(_ place: Dictionary<EdgeID, LoopEdge>.Index, _ notes: inout [LoopNote]) {
        guard var replay = edges.values[place].state.replay, replay.nextAt <= latest else { return }
        let due = (latest - replay.nextAt) / replay.interval + 1
        let count = min(replay.remaining, LoopReplay.most, Int(clamping: due))
        notes.append(.replay(edges.keys[place], count: count))
        replay.remaining -= count
        // Who came later than a batch does not catch up.
        let behind = due > UInt64(LoopReplay.most)
        replay.nextAt = (behind ? latest : replay.nextAt + UInt64(count - 1) * replay.interval) + replay.interval
        edges.values[place].state.replay = replay.remaining > 0 ? replay : nil
    }
}
