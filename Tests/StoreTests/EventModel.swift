// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@testable import Store

/// What an event store must hold, as a dictionary, and a walk of random steps over a real one that is compared with it.
struct EventModel {
    struct Event: Hashable {
        var draft: EventDraft
        var state: EventState
        var since: UInt64
        var expires: UInt64
        var token: UInt64 = 0
        var history = RunHistory()
        /// Used up its age, or is of no use any more by its caller's own word.
        var afterItsTime: EventState { expires < draft.createdAt + draft.retry.maxAgeMs ? .expired : .dead }
    }
    struct Told: Hashable {
        var event: InvocationID
        var state: EventState
    }

    var events: [InvocationID: Event] = [:]
    var removed = 0
    var received = 0
    var keys: [String: (id: InvocationID, until: UInt64)] = [:]
    /// Terminal states that a destination has to hear of.
    var told: [Told] = []
    var lastToken: UInt64 = 0
    /// Leases that were given out, the ended ones too: their tokens must do nothing.
    var leases: [(id: InvocationID, token: UInt64)] = []
    var now = EventFixture.base
    var random: Seeded
    private var count = 0

    init(seed: UInt64) { random = Seeded(state: seed) }

    private mutating func move(_ id: InvocationID, _ state: EventState, since: UInt64? = nil) {
        events[id]?.state = state
        events[id]?.since = since ?? now
        if state.isTerminal, events[id]?.draft.destination.isEmpty == false { told.append(Told(event: id, state: state)) }
    }

    private mutating func any(_ isWanted: (Event) -> Bool = { _ in true }) -> Event? {
        events.values.filter(isWanted).min { ($0.draft.id.low ^ random.state) < ($1.draft.id.low ^ random.state) }
    }

    // MARK: steps

    mutating func step(_ store: EventStore) throws {
        switch random.below(20) {
        case 0..<6: try enqueue(store)
        case 6..<10: try claim(store)
        case 10..<14: try settle(store)
        case 14: try stop(store)
        case 15: try restart(store)
        case 16: try purge(store)
        case 17: try tell(store)
        default: try pass(store)
        }
    }

    private mutating func enqueue(_ store: EventStore) throws {
        count += 1
        let old = random.chance(20) ? any() : nil
        var draft = EventFixture.draft(count, tenant: EventFixture.tenants[random.below(4)], at: now)
        if let old { draft.id = old.draft.id }
        draft.function = FunctionID(tenant: draft.function.tenant, function: EventFixture.functions[random.below(2)])
        draft.payload = [UInt8](repeating: UInt8(random.below(256)), count: random.chance(25) ? 70_000 : random.below(300))
        draft.lineage = [UInt8(random.below(256))]
        draft.order = random.chance(3) ? .background : .asynchronous
        draft.retry = try #require(RetryPolicy(maxAttempts: UInt8(random.below(6)), maxAgeMs: 60_000 + UInt64(random.below(600_000))))
        if random.chance(3) { draft.notBefore = now + UInt64(random.below(100_000)) }
        if random.chance(6) { draft.deadline = now + UInt64(random.below(100_000)) }
        if random.chance(3) { draft.key = "key-\(random.below(30))" }
        if random.chance(2) { draft.destination = [9] }
        if random.chance(10) { draft.parked = "loop" }
        let receipt = try store.add(draft)

        let name = draft.key.map { "\(draft.function)\($0)" }
        if let name, let first = keys[name], first.until > now {
            let isOther = events[first.id].map { $0.draft.payload != draft.payload } ?? false
            #expect(receipt == EventReceipt(id: first.id, isDuplicate: true, isOfOtherPayload: isOther))
        } else if events[draft.id] != nil {
            #expect(receipt == EventReceipt(id: draft.id, isDuplicate: true))
        } else {
            #expect(receipt == EventReceipt(id: draft.id, isDuplicate: false))
            received += 1
            let state: EventState = draft.parked == nil ? .ready : .parked
            let age = draft.createdAt + draft.retry.maxAgeMs
            events[draft.id] = Event(
                draft: draft, state: state, since: state == .ready ? draft.notBefore : now, expires: min(age, draft.deadline ?? .max))
            if let name { keys[name] = (draft.id, now + EventRetention().keyMs) }
        }
    }

    private mutating func claim(_ store: EventStore) throws {
        let limit = random.below(6)
        var permission = ClaimPermission(others: random.chance(2) ? .max : random.below(3))
        permission.tenants[EventFixture.tenants[random.below(4)]] = random.below(3)
        if random.chance(2) { permission.otherFunctions = random.below(3) }
        let few = FunctionID(tenant: EventFixture.tenants[random.below(4)], function: EventFixture.functions[random.below(2)])
        permission.functions[few] = random.below(3)
        let claim = try store.take(limit, permission, at: now)
        #expect(claim.leases.count <= limit)
        var given: [Name: Int] = [:]
        var givenTo: [FunctionID: Int] = [:]
        for lease in claim.leases {
            let event = try #require(events[lease.id])
            #expect(event.state == .ready && event.since <= now && event.expires > now, "\(lease.id) must not run")
            #expect(lease.token > lastToken, "tokens grow")
            lastToken = lease.token
            leases.append((lease.id, lease.token))
            given[event.draft.function.tenant, default: 0] += 1
            givenTo[event.draft.function, default: 0] += 1
            #expect(try lease.payload.bytes() == event.draft.payload)
            #expect(lease.event.lineage == event.draft.lineage && lease.attempt == event.history.attempts + 1)
            move(lease.id, .leased)
            events[lease.id]?.token = lease.token
            events[lease.id]?.history.deliver()
            #expect(events[lease.id]?.history == lease.event.history)
        }
        for (tenant, number) in given { #expect(number <= permission.allowed(tenant)) }
        for (function, number) in givenTo { #expect(number <= permission.allowed(function)) }
        for event in events.values where event.state == .ready && event.since <= now {
            let tenant = event.draft.function.tenant
            if event.expires <= now {
                // A claim that meets it ends it; else the next sweep does.
                if try store.event(event.draft.id, of: tenant)?.state == event.afterItsTime { move(event.draft.id, event.afterItsTime) }
            } else if claim.leases.count < limit {
                let (function, byTenant) = (event.draft.function, given[tenant, default: 0])
                let isRefused = byTenant >= permission.allowed(tenant) || givenTo[function, default: 0] >= permission.allowed(function)
                #expect(isRefused, "\(event.draft.id) was due and there was room")
            }
        }
    }

    private mutating func settle(_ store: EventStore) throws {
        guard !leases.isEmpty else { return }
        let lease = leases[random.below(leases.count)]
        let how: EventSettlement
        let delay = UInt64(random.below(90_000))
        switch random.below(8) {
        case 0..<2: how = .done(result: [1])
        case 2: how = .dead(reason: "gave up", result: [2])
        case 3: how = .park(reason: "loop")
        case 4: how = .release
        case 5: how = .retry(.crash, afterMs: delay, reason: "signal 11")
        case 6: how = .retry(.system, afterMs: delay, reason: "throttled")
        default: how = .retry(.functionError, afterMs: delay, reason: "error")
        }
        let isLive = events[lease.id].map { $0.state == .leased && $0.token == lease.token } ?? false
        #expect(try store.end(lease.id, lease.token, how, at: now) == isLive)
        guard isLive else { return }
        switch how {
        case .done: move(lease.id, .done)
        case .dead: move(lease.id, .dead)
        case .park: move(lease.id, .parked)
        case .release: again(lease.id, at: now)
        case .retry(let failure, let afterMs, _, _):
            events[lease.id]?.history.note(failure)
            again(lease.id, at: now + afterMs)
        }
    }

    private mutating func again(_ id: InvocationID, at due: UInt64) {
        guard let event = events[id] else { return }
        // Written anew and not by the policy's own function.
        let isOver =
            event.history.crashes >= 3 || event.history.attempts >= max(1, UInt32(event.draft.retry.maxAttempts))
            || Int64(event.history.deliveries) - Int64(event.history.attempts) >= 10
        if isOver { move(id, .dead) } else if due >= event.expires { move(id, event.afterItsTime) } else { move(id, .ready, since: due) }
    }

    private mutating func stop(_ store: EventStore) throws {
        guard let event = any() else { return }
        let tenant = random.chance(5) ? EventFixture.tenants[random.below(4)] : event.draft.function.tenant
        let found = try store.wait { store.stop(event.draft.id, of: tenant, reason: "asked", at: now, completion: $0) }
        let isStopped = !event.state.isTerminal && tenant == event.draft.function.tenant
        #expect(found?.state == (isStopped ? event.state : nil))
        if isStopped { move(event.draft.id, .stopped) }
    }

    private mutating func restart(_ store: EventStore) throws {
        let isAnyone = random.chance(2)
        guard let event = any({ isAnyone || $0.state == .parked || $0.state == .dead }) else { return }
        let (id, tenant) = (event.draft.id, event.draft.function.tenant)
        if random.chance(3) {
            let gone = try store.wait { store.discard([id], of: tenant, reason: "discarded", at: now, completion: $0) }
            #expect(gone == (event.state == .parked ? [id] : []))
            if gone == [id] { move(id, .stopped) }
            return
        }
        let from: EventState = random.chance(2) ? .dead : .parked
        let lineage: [UInt8]? = random.chance(2) ? [200] : nil
        let count = try store.wait {
            if from == .dead {
                store.redrive([id], of: tenant, lineage: lineage, at: now, completion: $0)
            } else {
                store.resume([id], of: tenant, lineage: lineage, at: now, completion: $0)
            }
        }
        #expect(count == (event.state == from ? 1 : 0))
        guard count == 1 else { return }
        if let lineage { events[id]?.draft.lineage = lineage }
        if from == .dead { events[id]?.history = RunHistory() }
        if event.expires == event.draft.createdAt + event.draft.retry.maxAgeMs || event.expires != event.draft.deadline {
            events[id]?.expires = now + event.draft.retry.maxAgeMs
        }
        move(id, .ready)
    }

    private mutating func purge(_ store: EventStore) throws {
        guard let event = any(\.state.isTerminal) else { return }
        let count = try store.wait { store.purge([event.draft.id], of: event.draft.function.tenant, completion: $0) }
        #expect(count == (told.contains { $0.event == event.draft.id } ? 0 : 1))
        guard count == 1 else { return }
        events[event.draft.id] = nil
        removed += 1
    }

    private mutating func tell(_ store: EventStore) throws {
        let found = try store.destinations(limit: 1_000)
        // Those of one transaction are in any order.
        try #require(told.count < 1_000)
        let heard = found.map { Told(event: $0.event, state: $0.state) }
        #expect(heard.sorted { $0.event.low < $1.event.low } == told.sorted { $0.event.low < $1.event.low })
        guard let first = found.first else { return }
        #expect(try store.wait { store.complete(destination: first.number, with: nil, completion: $0) })
        #expect(try !store.wait { store.complete(destination: first.number, with: EventFixture.draft(0), completion: $0) })
        if let index = told.firstIndex(of: Told(event: first.event, state: first.state)) { told.remove(at: index) }
    }

    private mutating func pass(_ store: EventStore) throws {
        now += UInt64(random.chance(12) ? 4_000_000 + random.below(80_000_000) : random.below(30_000))
        guard random.chance(2) else { return }
        try store.sweepAll(at: now)
        for event in events.values {
            let id = event.draft.id
            if event.state == .ready, event.expires <= now { move(id, event.afterItsTime) }
            let keeps = event.state == .dead ? 1_209_600_000 : 86_400_000 as UInt64
            if event.state.isTerminal, event.since + keeps <= now, try store.event(id, of: event.draft.function.tenant) == nil {
                #expect(!told.contains { $0.event == id }, "removed before its destination was told")
                events[id] = nil
                removed += 1
            }
        }
        keys = keys.filter { $0.value.until > now }
    }

    /// The node ends and starts again.
    mutating func restartNode() {
        for event in events.values where event.state == .leased {
            events[event.draft.id]?.history.note(.nodeLost)
            again(event.draft.id, at: now)
        }
    }

    // MARK: the comparison

    func compare(_ store: EventStore) throws {
        let found = try store.all()
        #expect(Set(found.map(\.id)).count == found.count, "an event in two places")
        #expect(found.count == events.count)
        for record in found {
            let event = try #require(events[record.id], "\(record.id) should not be")
            #expect(record.state == event.state, "\(record.id)")
            #expect(record.since == event.since && record.history == event.history && record.token == event.token)
            #expect(record.expiresAt == event.expires && record.lineage == event.draft.lineage)
        }
        let counts = try store.counts()
        #expect(counts.isBalanced && counts.received == UInt64(received))
        #expect(counts.removed.values.reduce(0, +) == UInt64(removed))
        let imbalance = try store.imbalance()
        #expect(imbalance == nil)
    }
}
