// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Synchronization
import Testing

@testable import Gateway
@testable import Supervision

private func function(_ tenant: String, _ name: String) throws -> FunctionID {
    FunctionID(tenant: try #require(Name(tenant)), function: try #require(Name(name)))
}

/// Deliveries as a stand-in for the network takes them.
private final class Receiver: Sendable {
    struct State {
        var taken: [FunctionID: Int] = [:]
        var hanging: [@Sendable (DeliveryResult) -> Void] = []
        var answers: [Name: DeliveryResult] = [:]
    }
    let state = Mutex(State())
    /// Nil: no answer comes.
    func answer(_ tenant: Name, _ result: DeliveryResult?) { state.withLock { $0.answers[tenant] = result } }
    func take(_ delivery: Delivery, _ done: @escaping @Sendable (DeliveryResult) -> Void) {
        let answer = state.withLock { state in
            state.taken[delivery.function, default: 0] += 1
            let answer = state.answers[delivery.function.tenant]
            if answer == nil { state.hanging.append(done) }
            return answer
        }
        if let answer { done(answer) }
    }
    func taken(_ function: FunctionID) -> Int { state.withLock { $0.taken[function] ?? 0 } }
    func release() {
        let all = state.withLock { state in
            defer { state.hanging = [] }
            return state.hanging
        }
        for one in all { one(.delivered) }
    }
}

/// The outcomes of events on their way to whom they are for: an engine without a daemon, which is paused at first.
@Suite struct EventOutcomeTests {
    private func withEngine(_ body: (Supervisor, EventStore, Receiver) async throws -> Void) async throws {
        let top = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm/" : NSTemporaryDirectory()
        let path = top + "outcomes-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let store = try EventStore(directory: path, now: 1)
        let receiver = Receiver()
        let supervisor = try await TestNode.supervisor(FakeSpawner())
        try await supervisor.onLoop { state in
            let engine = EventEngine(state: state, store: store, governor: nil) { function, _ in VersionID(function: function, number: 1) }
            engine.deliver = { receiver.take($0, $1) }
            engine.setPaused(true)
            state.events = engine
        }
        try await body(supervisor, store, receiver)
        try await supervisor.onLoop { $0.events?.stop() }
        // What still reads must not find the store closed.
        EventEngine.reads.sync {}
        store.close()
    }

    private func now() -> UInt64 { UInt64(Date().timeIntervalSince1970 * 1000) }

    private func lease(_ store: EventStore, _ function: FunctionID, payload: [UInt8] = []) throws -> EventLease {
        let id = InvocationID(milliseconds: now(), random: (0, UInt64.random(in: 0 ... .max)))
        var draft = EventDraft(id: id, function: function, payload: payload, createdAt: now())
        draft.destination = EventDestinations(AsyncSpec(onFailure: .webhook(url: "x", secret: nil)), followers: []).encoded
        _ = try store.wait { store.enqueue(draft, completion: $0) }
        return try #require(try store.wait { store.claim(limit: 1, ClaimPermission(), at: now(), completion: $0) }.leases.first)
    }

    /// Events that have failed: so many outcomes wait.
    private func fail(_ store: EventStore, _ function: FunctionID, _ count: Int) throws {
        for _ in 0..<count {
            let lease = try lease(store, function)
            _ = try store.wait {
                store.settle(lease.id, token: lease.token, .dead(reason: "x", result: []), at: now(), completion: $0)
            }
        }
    }

    private func pass(_ supervisor: Supervisor) async throws { try await supervisor.onLoop { $0.events?.passTime() } }

    @Test("outcomes of one tenant that nobody takes keep no other tenant's waiting, and go when they are taken")
    func failing() async throws {
        try await withEngine { supervisor, store, receiver async throws in
            let bad = try function("acme", "f"), good = try function("beta", "f")
            receiver.answer(bad.tenant, .failed("500"))
            receiver.answer(good.tenant, .delivered)
            try fail(store, bad, 300)
            try await supervisor.onLoop { $0.events?.setPaused(false) }
            try await eventually("all that may be have failed", within: 60) {
                try await pass(supervisor)
                return receiver.taken(bad) >= DestinationRoom.mostTried
            }
            try fail(store, good, 1)
            try await eventually("the other tenant's is delivered", within: 60) {
                try await pass(supervisor)
                return receiver.taken(good) == 1
            }
            #expect(try store.destinations(limit: 1_000).filter { $0.function == bad }.count == 300, "each is tried again")
            #expect(try await supervisor.onLoop { $0.events?.delivering.count } ?? 0 <= DestinationRoom.mostTried + 1)
            receiver.answer(bad.tenant, .delivered)
            try await eventually("all are delivered", within: 60) {
                try await pass(supervisor)
                return try store.destinations().isEmpty
            }
        }
    }

    @Test("outcomes that hang have a bounded number of places; a pause sends none and waits for those under way")
    func hanging() async throws {
        try await withEngine { supervisor, store, receiver async throws in
            let bad = try ["f", "g", "h"].map { try function("acme", $0) }, good = try function("beta", "f")
            receiver.answer(good.tenant, .delivered)
            for one in bad { try fail(store, one, 40) }
            try fail(store, good, 50)
            try await supervisor.onLoop { $0.events?.lookForDestinations() }
            try await pass(supervisor)
            #expect(try await supervisor.onLoop { $0.events?.isQuiet } == true)
            #expect(receiver.taken(good) == 0, "it is paused")
            // No second passes: what is left goes as soon as there is a place.
            try await supervisor.onLoop { $0.events?.setPaused(false) }
            try await eventually("the other tenant's", within: 60) { receiver.taken(good) == 50 }
            try await eventually("the places", within: 60) { bad.reduce(0) { $0 + receiver.taken($1) } == DestinationRoom.mostOfTenant }
            #expect(bad.allSatisfy { receiver.taken($0) <= DestinationRoom.mostOfFunction })
            try await supervisor.onLoop { $0.events?.setPaused(true) }
            try await eventually("no look", within: 60) { try await supervisor.onLoop { $0.events?.isLookingForDestinations } == false }
            #expect(try await supervisor.onLoop { $0.events?.isQuiet } == false)
            receiver.release()
            try await eventually("quiet", within: 60) { try await supervisor.onLoop { $0.events?.isQuiet } == true }
            #expect(bad.reduce(0) { $0 + receiver.taken($1) } == DestinationRoom.mostOfTenant)
            receiver.answer(bad[0].tenant, .delivered)
            try await supervisor.onLoop { $0.events?.setPaused(false) }
            try await eventually("the rest", within: 60) { try store.destinations().isEmpty }
            #expect(bad.map { receiver.taken($0) } == [40, 40, 40], "each once")
        }
    }

    @Test("what is held back and then refused takes no place in quarantine")
    func refused() async throws {
        try await withEngine { supervisor, store, _ async throws in
            let edge = EdgeID(trigger: TriggerSpec.direct, function: try function("acme", "f"))
            let parked = try await supervisor.onLoop { state -> [Int] in
                guard let engine = state.events else { return [] }
                var notes: [LoopNote] = []
                engine.governor.breakEdge(edge, .operator, all: true, at: engine.now(), into: &notes)
                return ["text/" + String(repeating: "x", count: 300), "text/plain"].map { type in
                    var order = EventOrder(function: edge.function, payload: [1])
                    order.contentType = type
                    engine.accept(order) { _ in }
                    return engine.governor.state(of: edge)?.parkedEvents ?? 0
                }
            }
            #expect(parked == [0, 1])
        }
    }

    @Test("a lease that a full disk did not let end counts as running, and ends when there is room")
    func unsettled() async throws {
        try await withEngine { supervisor, store, _ async throws in
            let lease = try lease(store, try function("acme", "f"))
            let tenant = lease.event.function.tenant
            let counted = try await supervisor.onLoop { state in
                let one = Unsettled(lease: lease, settlement: .done(result: []), end: (true, ""))
                state.events?.settled(one, .failure(StoreError("the disk is full")))
                state.events?.settled(one, .failure(StoreError("the disk is full")))
                return [state.events?.unsettled.count, state.events?.runningByTenant[tenant]]
            }
            #expect(counted == [1, 1])
            try await pass(supervisor)
            try await eventually("it is settled", within: 60) { try await supervisor.onLoop { $0.events?.unsettled.isEmpty } == true }
            #expect(try await supervisor.onLoop { $0.events?.runningByTenant.isEmpty } == true)
            #expect(try store.event(lease.id)?.state == .done)
        }
    }

    @Test("a record holds JSON byte for byte as it came, other text as text and other bytes in base64")
    func records() async throws {
        try await withEngine { _, store, _ async throws in
            for (payload, shown) in [
                (Array(#"{"b": 1.10, "a": [ ], "b": 12345678901234567890}"#.utf8), #"{"b": 1.10, "a": [ ], "b": 12345678901234567890}"#),
                (Array("{\"a\":".utf8), #""{\"a\":""#), ([], "null"), (Array("1\0".utf8), #""1\u0000""#),
                ([0xEF, 0xBB, 0xBF, 0x31], "\"\u{FEFF}1\""), ([0xFF, 0xFE], #""//4=""#),
                (Array(String(repeating: "[", count: 9000).utf8), "\"" + String(repeating: "[", count: 9000) + "\""),
            ] {
                let lease = try lease(store, try function("acme", "f"), payload: payload)
                let result = StoredResult(outcome: "ok", body: Data("{\"x\" :1}".utf8)).encoded
                _ = try store.wait {
                    store.settle(lease.id, token: lease.token, .dead(reason: "x", result: result), at: now(), completion: $0)
                }
                let found = try #require(FoundOutcome.look(store, DestinationRoom([:], at: now())).0.last { $0.record.event == lease.id })
                let text = String(decoding: found.body, as: UTF8.self)
                #expect(text.contains(",\"requestPayload\":\(shown),\"responseContext\":{"), "\(text.prefix(400))")
                #expect(text.contains(",\"responsePayload\":{\"x\" :1},\"timestamp\":\(found.record.at),\"version\":\"1.0\"}"))
                #expect((try JSONSerialization.jsonObject(with: Data(found.body)) as? [String: Any])?.count == 6)
            }
        }
    }
}
