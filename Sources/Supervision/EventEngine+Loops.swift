// SPDX-License-Identifier: Apache-2.0
public import Core
import Dispatch
import Logging
import NIOCore
public import Store

/// An edge as `bulkhead loops` shows it.
public struct LoopView: Sendable, Hashable {
    public var edge: EdgeID
    /// `closed`, `broken`, `probing`, `testing`.
    public var state: String
    public var why: String
    public var parkedEvents: Int
    public var parkedBytes: Int
    /// Milliseconds ago.
    public var sinceMs: UInt64?
    public var alarms: [LoopReason]
    public var isPaused: Bool
    /// Recurrent invocations of the edge since it was quiet.
    public var recurrent: UInt64
    /// When a new version is tried, in milliseconds from now.
    public var probeInMs: UInt64?
    /// The last steps of the path that tripped last; empty where none is known.
    public var way: [LoopStep] = []

    /// An edge that is as it should be.
    public init(edge: EdgeID) {
        self.edge = edge
        (state, why, parkedEvents, parkedBytes, sinceMs, alarms, isPaused, recurrent, probeInMs) = (
            "closed", "", 0, 0, nil, [], false, 0, nil
        )
    }
}

/// How the governor's words become deeds.
extension EventEngine {
    static func sentence(_ trip: LoopTrip) -> String {
        let again = trip.retryAfter > 0 ? "; a token comes back in \(Int((Double(trip.retryAfter) / 1e9).rounded(.up))) s" : ""
        switch trip.reason {
        case .hops: return "loop: \(trip.hops) hops, more than \(trip.limit) at once\(again)"
        case .path:
            return "loop: \(trip.edge.function) was entered \(trip.visits) times on one path, more than \(trip.limit) at once\(again)"
        case .root: return "loop: one root has caused \(trip.limit) recurrent invocations\(again)"
        case .cost: return "loop: the recurrent invocations of one root have used \(trip.limit) seat-seconds\(again)"
        case .edge: return "loop: \(trip.edge) has had \(trip.limit) recurrent invocations\(again)"
        case .edgeBroken: return "loop: the edge \(trip.edge) is broken until somebody resumes it"
        case .deadlock: return "loop: all \(trip.limit) seats are held by the callers that wait for this call"
        }
    }

    /// Remembers where an event went, or the way on which it was held back.
    func mark(_ verdict: LoopVerdict, _ cause: Lineage, _ object: String?, _ function: FunctionID, _ now: Instant) {
        switch verdict {
        case .admit(let pass): trail.note(cause.hops == 0 ? nil : cause, pass.lineage, object, function, at: now)
        case .park(let trip, _): governor.remember(trail.way(cause, object, function), of: trip)
        }
    }

    /// The end of the edge's way, for an alarm.
    private func way(of edge: EdgeID) -> String {
        let steps = governor.state(of: edge)?.way?.suffix(3) ?? []
        return steps.isEmpty ? "" : "; its way: \(steps.flatMap(\.words).joined(separator: " -> "))"
    }

    /// Everything that is known of an edge: from the graph of grants, at each deploy and reload.
    public func configure(_ edges: [EdgeID: EdgeSpec]) {
        for (edge, spec) in edges { governor.configure(edge, spec, at: now()) }
    }

    func obey(_ notes: [LoopNote]) {
        for note in notes {
            switch note {
            case .alarm(let trip):
                count("loop.trips.\(trip.reason.rawValue)")
                tell(.loop, trip.edge, trip.reason.rawValue, Self.sentence(trip) + way(of: trip.edge), isRecovery: false)
            case .recovered(let edge, let reason):
                tell(.loop, edge, reason.rawValue, "\(edge) is quiet again", isRecovery: true)
            case .broke(let edge, let cause, let all):
                count("loop.broken")
                tell(
                    .loopBroken, edge, "broken",
                    "the edge \(edge) is broken (\(cause.rawValue)): \(all ? "all" : "recurrent") events wait in quarantine. See `bulkhead loops`",
                    isRecovery: false)
            case .closed(let edge): tell(.loopBroken, edge, "broken", "the edge \(edge) is closed again", isRecovery: true)
            case .pause(let edge):
                let text = "the quarantine of \(edge) is full: its source waits, or one event stands for what comes"
                tell(.quarantineFull, edge, "full", text, isRecovery: false)
            case .unpause(let edge): tell(.quarantineFull, edge, "full", "the quarantine of \(edge) has room again", isRecovery: true)
            case .replay(let edge, let count): replay(edge, count)
            case .probe(let edge): replay(edge, 1)
            case .suspect(let root, let edge):
                count("loop.suspected")
                logger.notice("a root is suspected of a loop: one seat", metadata: ["root": "\(root)", "edge": "\(edge)"])
            }
        }
        if !notes.isEmpty { armLoops() }
    }

    private func tell(_ kind: Alarm.Kind, _ edge: EdgeID, _ subject: String, _ text: String, isRecovery: Bool) {
        logger.log(
            level: isRecovery ? .notice : .warning, "\(isRecovery ? "loop alarm over" : "loop alarm")",
            metadata: ["edge": "\(edge)", "what": "\(text)"])
        alarmed(
            Alarm(kind: kind, tenant: edge.function.tenant, subject: "\(edge) \(subject)", text: text, isRecovery: isRecovery))
    }

    // MARK: quarantine

    /// Before anything is accepted: what the store has in quarantine.
    public func recount(_ stored: [EdgeID: (events: Int, bytes: Int)]) { governor.recount(stored) }

    /// Events left quarantine.
    func released(_ events: [EventRecord]) {
        var notes: [LoopNote] = []
        for event in events {
            let edge = EdgeID(trigger: Name(event.trigger) ?? TriggerSpec.direct, function: event.function)
            governor.released(edge, events: 1, bytes: event.payloadBytes, into: &notes)
        }
        obey(notes)
    }

    /// A draft took its place in quarantine when it was judged: it gives it back where it was not stored.
    func unparked(_ draft: EventDraft, _ acceptance: EventAcceptance) {
        if case .accepted(let receipt) = acceptance, !receipt.isDuplicate { return }
        release(EdgeID(trigger: Name(draft.trigger) ?? TriggerSpec.direct, function: draft.function), draft.payload.count)
    }

    private func release(_ edge: EdgeID, _ bytes: Int) {
        var notes: [LoopNote] = []
        governor.released(edge, events: 1, bytes: bytes, into: &notes)
        obey(notes)
    }

    /// What a sender is told whose event is held back and finds no room in quarantine: it keeps the event and comes back. Room is made by a person, or the bucket fills
    /// again, whichever is later known: a minute at least.
    func quarantineRefusal(_ trip: LoopTrip) -> Refusal {
        let (limits, state) = (governor.limits, governor.state(of: trip.edge))
        let (events, bytes) = (state?.parkedEvents ?? 0, state?.parkedBytes ?? 0)
        let retryAfter = max(60, (Double(trip.retryAfter) / 1e9).rounded(.up))
        func refused(_ level: Level, _ ceiling: String, _ limit: Int, _ value: Int) -> Refusal {
            Refusal(
                outcome: .throttled, level: level, ceiling: ceiling, limit: UInt64(limit), value: UInt64(max(0, value)),
                retryAfter: retryAfter)
        }
        if events >= limits.edgeEvents { return refused(.loop, Refusal.quarantinedEvents, limits.edgeEvents, events) }
        let tenants = governor.parkedBytes(of: trip.edge.function.tenant)
        // Whichever has the least room.
        let bounds = [
            (Level.loop, limits.edgeBytes, bytes), (.tenant, limits.tenantBytes, tenants), (.node, limits.nodeBytes, governor.parkedBytes),
        ]
        let (level, limit, value) = bounds.min { $0.1 - $0.2 < $1.1 - $1.2 } ?? bounds[0]
        return refused(level, Refusal.quarantinedBytes, limit, value)
    }

    private static let parked = DispatchQueue(label: "bulkhead.parked")

    /// The oldest parked events of an edge; off the loop, for it reads the disk.
    private func oldest(_ edge: EdgeID, _ count: Int, _ done: @escaping @Sendable ([EventRecord]) -> Void) {
        let store = store
        Self.parked.async {
            var query = EventQuery(
                state: .parked, tenant: edge.function.tenant, function: edge.function.function, limit: EventStore.batchLimit)
            var found: [EventRecord] = []
            repeat {
                guard let page = try? store.list(query) else { break }
                found += page.events.filter { $0.trigger == edge.trigger.text }.prefix(count - found.count)
                query.after = page.next
            } while found.count < count && query.after != nil
            done(found)
        }
    }

    /// Makes dead letters events again, each with a lineage of its own and under the governor's word. `done` gets how many are, once the disk has them: the others stay
    /// what they are, because the tenant's events are as many as may wait, because a loop is being tried, or because they are letters no more.
    /// - Parameters:
    ///   - first: how many came before them in the same order.
    ///   - begin: when the very first of those may start; each later one may an interval later. The times are in the store, where an end of the daemon leaves them.
    public func redrive(
        _ events: [EventRecord], first: Int, from begin: UInt64, every interval: Nanoseconds,
        _ done: @escaping @Sendable (Result<Int, StoreError>) -> Void
    ) {
        let count = RedriveCount(open: events.count + 1, done)
        for (index, event) in events.enumerated() {
            let number = UInt64(first + index)
            guard refusal(event.function.tenant, events: number + 1, bytes: 0) == nil,
                (counts.kept[.ready] ?? 0) + number < Self.mostWaiting
            else {
                count.add(.success(0))
                continue
            }
            let (wait, isTooFar) = number.multipliedReportingOverflow(by: interval)
            redrive(event, due: begin + (isTooFar ? UInt64.max : wait) / 1_000_000, count)
        }
        count.add(.success(0))
    }

    private func redrive(_ event: EventRecord, due: UInt64, _ count: RedriveCount) {
        let edge = EdgeID(trigger: Name(event.trigger) ?? TriggerSpec.direct, function: event.function)
        var notes: [LoopNote] = []
        let cause = Lineage(root: state.newID(wall()), born: now())
        guard !isStopping else { return count.add(.success(0)) }
        let verdict = governor.admit(cause, through: edge, at: now(), into: &notes)
        mark(verdict, cause, nil, event.function, now())
        guard let pass = verdict.pass else {
            // It stays a dead letter and takes no place in quarantine.
            if case .park(_, .store) = verdict { release(edge, 0) }
            count.add(.success(0))
            return obey(notes)
        }
        let wall = wall()
        if due > wall { governor.waits(cause.root, through: edge, until: now() + .milliseconds(min(due - wall, 1 << 40))) }
        obey(notes)
        let box = bound((self, count))
        let loop = loop
        store.redrive([event.id], of: event.function.tenant, lineage: pass.lineage.encoded, due: due, at: wall) { result in
            loop.execute {
                let (engine, count) = box.value
                count.add(result)
                if case .success(1) = result { engine.count("events.redriven") }
                engine.pump()
            }
        }
    }

    /// Submits parked events anew, each with a lineage of its own that forgets what was before.
    private func replay(_ edge: EdgeID, _ count: Int) {
        let box = bound(self)
        let loop = loop
        oldest(edge, count) { events in loop.execute { box.value.resubmit(edge, events) } }
    }

    private func resubmit(_ edge: EdgeID, _ events: [EventRecord]) {
        let box = bound(self)
        let loop = loop
        for event in events {
            var notes: [LoopNote] = []
            let root = state.newID(wall())
            let cause = (Lineage(encoded: event.lineage) ?? Lineage(root: event.id, born: now())).renewed(root: root, at: now())
            let verdict = governor.admit(cause, through: edge, at: now(), into: &notes)
            mark(verdict, cause, nil, event.function, now())
            obey(notes)
            guard let pass = verdict.pass else {
                // It has its place in quarantine already.
                if case .park(_, .store) = verdict { release(edge, 0) }
                continue
            }
            store.resume([event.id], of: event.function.tenant, lineage: pass.lineage.encoded, at: wall()) { result in
                loop.execute {
                    guard case .success(1) = result else { return }
                    box.value.count("loop.replayed")
                    box.value.released([event])
                    box.value.pump()
                }
            }
        }
    }

    /// Closes an edge on a person's word. `done` gets how many events were discarded.
    public func resume(_ edge: EdgeID, _ mode: LoopResume, _ done: @escaping @Sendable (Result<Int, StoreError>) -> Void) {
        guard governor.state(of: edge) != nil else { return done(.success(0)) }
        var notes: [LoopNote] = []
        governor.resume(edge, mode, at: now(), into: &notes)
        obey(notes)
        passLoops()
        guard case .discard = mode else { return done(.success(0)) }
        discard(edge, 0, done)
    }

    private func discard(_ edge: EdgeID, _ before: Int, _ done: @escaping @Sendable (Result<Int, StoreError>) -> Void) {
        let box = bound(self)
        let (loop, store, wall) = (loop, store, wall())
        oldest(edge, EventStore.batchLimit) { events in
            guard !events.isEmpty else { return done(.success(before)) }
            store.discard(events.map(\.id), of: edge.function.tenant, reason: "discarded by its owner", at: wall) { result in
                loop.execute {
                    switch result {
                    case .success(let gone):
                        // Somebody else may have let one go meanwhile: its place was given back then.
                        box.value.released(events.filter { gone.contains($0.id) })
                        box.value.discard(edge, before + gone.count, done)
                    case .failure(let error): done(.failure(error))
                    }
                }
            }
        }
    }

    // MARK: views

    /// Edges that have something to show: broken, under test, with alarms or with parked events.
    public func loops(of tenant: Name?) -> [LoopView] {
        let now = now()
        return governor.snapshot.edges.compactMap { edge, state in
            guard tenant == nil || edge.function.tenant == tenant else { return nil }
            let isTested = detectors[edge]?.test != nil
            guard state.circuit != .closed || !state.alarms.isEmpty || state.parkedEvents > 0 || isTested else { return nil }
            var view = LoopView(edge: edge)
            view.state = isTested ? "testing" : "closed"
            let rules = governor.rules(of: edge)
            view.why = state.alarms.keys.map { Self.word($0, governor.limits, rules) }.sorted().joined(separator: ", ")
            (view.parkedEvents, view.parkedBytes, view.isPaused) = (state.parkedEvents, state.parkedBytes, state.isPaused)
            view.sinceMs = state.alarms.values.min().map { (now - $0) / 1_000_000 }
            view.alarms = state.alarms.keys.sorted { $0.rawValue < $1.rawValue }
            view.recurrent = state.recurrent ?? 0
            view.way = state.way ?? []
            switch state.circuit {
            case .closed: break
            case .broken(let one), .probing(let one, _, _):
                if case .broken = state.circuit { view.state = "broken" } else { view.state = "probing" }
                view.probeInMs = one.probeAt.map { ($0 - now) / 1_000_000 }
                view.why = Self.cause(one, view.why)
                view.sinceMs = (now - one.since) / 1_000_000
            }
            return view
        }.sorted { ($0.edge.function, $0.edge.trigger) < ($1.edge.function, $1.edge.trigger) }
    }

    private static func word(_ reason: LoopReason, _ limits: LoopLimits, _ rules: LoopRules) -> String {
        switch reason {
        case .hops: "hop bucket empty: \(limits.hops.burst) hops of one path"
        case .path: "path bucket empty: one path came back \(rules.path.burst) times"
        case .root: "root bucket empty: \(rules.root.burst) recurrences of one root"
        case .cost: "cost bucket empty: \(rules.cost.burst) seat-seconds of one root"
        case .edge: "edge bucket empty: \(limits.edge.burst) recurrences"
        case .edgeBroken: "held back since it broke"
        case .deadlock: "a call would have waited for its own callers' seats"
        }
    }

    private static func cause(_ one: LoopBreak, _ alarms: String) -> String {
        let word: String =
            switch one.cause {
            case .manyRoots: "8 roots tripped within 10 minutes"
            case .edgeBudget: "the edge's budget is used up"
            case .detector: "its events follow from its own runs (test without lineage)"
            case .probe: "the probe came back"
            case .operator: "opened by an operator"
            }
        return alarms.isEmpty ? word : "\(word) (\(alarms))"
    }

    public var loopCounts: LoopCounts { governor.counts }
    /// What has to survive a restart.
    public var loopSnapshot: LoopSnapshot { governor.snapshot }
    public func recurrences(of edge: EdgeID) -> LoopEdgeState? { governor.state(of: edge) }
}

/// Counts what comes back of a redrive's letters.
private final class RedriveCount {
    private var open: Int
    private var redriven = 0
    private var failure: StoreError?
    private let done: @Sendable (Result<Int, StoreError>) -> Void

    init(open: Int, _ done: @escaping @Sendable (Result<Int, StoreError>) -> Void) {
        self.open = open
        self.done = done
    }

    func add(_ result: Result<Int, StoreError>) {
        switch result {
        case .success(let count): redriven += count
        case .failure(let error): failure = error
        }
        open -= 1
        // A failure of all is told; of some, by what is missing in the count.
        if open == 0 { done(redriven == 0 ? failure.map { .failure($0) } ?? .success(0) : .success(redriven)) }
    }
}
