// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOCore
import Synchronization
import Testing

@testable import Gateway
@testable import Store
@testable import Supervision
@testable import bulkheadd

/// Triggers with `batch`: several events in one call, each with an end of its own.
@Suite struct QueueGroupTests {
    private struct Record: Decodable { var messageId: String, body: String, contentType: String, attempt: Int, isBase64Encoded: Bool? }
    private struct Called: Decodable { var Records: [Record] }

    private func name(_ text: String) throws -> Name { try #require(Name(text)) }

    private func withQueue(
        _ function: String = "partial", _ more: String = "", wait: String = "", quota: String = "",
        _ body: (TestNode, Daemon) async throws -> Void
    ) async throws {
        let extra = "triggers: [{queue: key, name: orders, batch: 3\(wait)}, {bucket: photos, name: photos, batch: 3}]\n\(more)"
        try await VersionRouteTests().withDaemon([(function, 1)], tenant: "buckets: [photos]\n\(quota)", extra: extra) {
            node, daemon, _ async throws in
            try await body(node, daemon)
        }
    }

    private func push(_ node: TestNode, _ lines: String, function: String = "partial") async throws -> Answer {
        try await node.ask("POST", "/q/acme/\(function)/orders", headers: ["Content-Type: application/x-ndjson"], body: lines)
    }
    private func events(_ daemon: Daemon) async throws -> [EventReply] { try await daemon.events(EventFilter()).events }
    private func called(_ node: TestNode) throws -> [[Record]] {
        try node.spawner.bodies.map { try JSONDecoder().decode(Called.self, from: Data($0.utf8)).Records }
    }

    @Test("messages come together, at most so many, and only those run again that the answer names")
    func partial() async throws {
        try await withQueue { node, daemon async throws in
            let answer = try await push(node, "1\n\"bad\"\n3\n4\n5\n6\n{\"bad\":7}")
            struct Reply: Decodable { var ids: [String] }
            let ids = try JSONDecoder().decode(Reply.self, from: Data(answer.body)).ids
            try await eventually("all have run") {
                try await events(daemon).allSatisfy { $0.state == "done" || !($0.reason ?? "").isEmpty }
            }
            let calls = try called(node)
            #expect(calls.map(\.count).sorted() == [1, 3, 3] && Set(calls.flatMap { $0.map(\.messageId) }) == Set(ids), "\(calls)")
            let bodies = ["1", "\"bad\"", "3", "4", "5", "6", "{\"bad\":7}"]
            let found = Dictionary(calls.joined().map { ($0.messageId, $0) }, uniquingKeysWith: { first, _ in first })
            for (id, body) in zip(ids, bodies) {
                let record = try #require(found[id])
                #expect(
                    record.body == body && record.contentType == "application/json" && record.attempt == 1 && record.isBase64Encoded == nil)
                let event = try #require(try await events(daemon).first { $0.id == id })
                guard body.contains("bad") else {
                    #expect(event.state == "done", "\(event)")
                    continue
                }
                #expect(event.state == "ready" && event.attempts == 1, "\(event)")
                #expect(event.reason == "BatchItemFailure: the function named it among those that failed", "\(event)")
            }
        }
    }

    @Test(
        "an answer that says nothing against any of them is a success of all; one that cannot be understood, or names another, fails all",
        arguments: [
            ("", nil), ("null", nil), ("{}", nil), (#"{"batchItemFailures":[]}"#, nil), (#"{"batchItemFailures":null}"#, nil),
            ("ok", "no JSON"), ("7", "another value"), ("[]", "another value"), (#"{"batchItemFailures":{}}"#, "is no list"),
            (#"{"batchItemFailures":"x"}"#, "is no list"), (#"{"batchItemFailures":["x"]}"#, "no itemIdentifier"),
            (#"{"batchItemFailures":[{"itemIdentifier":7}]}"#, "no itemIdentifier"),
            (#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, "no itemIdentifier"),
            (#"{"batchItemFailures":[{"id":"x"}]}"#, "no itemIdentifier"), (#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, "names ``"),
            (#"{"batchItemFailures":[{"itemIdentifier":"stranger"}]}"#, "names `stranger`, which is no messageId"),
            ("\"" + String(repeating: "x", count: 257 << 10) + "\"", "longer than 262144 bytes"),
        ] as [(String, String?)])
    func answers(answer: String, words: String?) async throws {
        try await withQueue("partial", "async: {attempts: 1}\n") { node, daemon async throws in
            node.spawner.verdict.withLock { $0 = answer }
            #expect(try await push(node, "1\n2\n3").status == 202)
            try await eventually("all have ended") { try await events(daemon).allSatisfy { $0.state == "done" || $0.state == "dead" } }
            #expect(try called(node).map(\.count) == [3])
            for event in try await events(daemon) {
                #expect(event.state == (words == nil ? "done" : "dead"), "\(event)")
                if let words {
                    #expect(event.reason?.contains(words) == true, "\(event)")
                    #expect(event.reason?.contains("the whole batch counts as failed") == true, "\(event)")
                }
            }
        }
    }

    @Test("single messages of the same seconds come together; one that is too large for a batch is refused")
    func gathered() async throws {
        try await withQueue(wait: ", wait: 2s") { node, daemon async throws in
            let begin = ContinuousClock.now
            for index in 0..<3 { #expect(try await node.ask("POST", "/q/acme/partial/orders", body: "m\(index)").status == 202) }
            let windows = Int((ContinuousClock.now - begin) / .seconds(2)) + 1
            try await eventually("all have run") { try await events(daemon).allSatisfy { $0.state == "done" } }
            // One more where the seconds ended between them.
            let calls = try called(node)
            #expect(calls.count <= windows + 1 && calls.joined().map(\.body).sorted() == ["m0", "m1", "m2"], "\(calls)")
            let large = try await node.ask("POST", "/q/acme/partial/orders", body: String(repeating: "x", count: (64 << 10) + 1))
            #expect(large.status == 413 && large.problem?.code == "tooLarge" && large.text.contains("65536"), "\(large.text)")
        }
    }

    @Test(
        "a worker that ends in a batch fails each of it as its own, and they run alone from then on; bytes that are no text come as base64")
    func crash() async throws {
        try await withQueue("crash") { node, daemon async throws in
            #expect(try await push(node, "1\n2\n3", function: "crash").status == 202)
            try await eventually("each has failed") { try await events(daemon).allSatisfy { $0.attempts == 1 && $0.state == "ready" } }
            #expect(node.spawner.invoked == ["crash"])
            let function = FunctionID(tenant: try name("acme"), function: try name("crash"))
            var history = RunHistory()
            let fresh = (1...4).map { Self.lease(function, UInt64($0), RunHistory()) }
            history.note(.crash)
            let crashed = [Self.lease(function, 5, history), Self.lease(function, 6, history)]
            let direct = Self.lease(function, 9, RunHistory(), trigger: "direct")
            let mixed = [fresh[0], crashed[0], fresh[1], crashed[1], direct]
            let found = try await node.supervisor.onLoop { state in
                (state.events?.groups(fresh).map(\.leases.count), state.events?.groups(mixed).map { "\($0.leases.count) \($0.isBatch)" })
            }
            #expect(found.0 == [3, 1] && found.1 == ["2 true", "1 true", "1 true", "1 false"])
            let bytes = BatchRecords.encoded([fresh[0]], [[0xFF, 0]])
            let record = try JSONDecoder().decode(Called.self, from: Data(bytes)).Records[0]
            #expect(record.body == "/wA=" && record.isBase64Encoded == true)
        }
    }

    private static func lease(_ function: FunctionID, _ number: UInt64, _ history: RunHistory, trigger: String = "orders") -> EventLease {
        let id = InvocationID(milliseconds: number, random: (0, number))
        let event = EventRecord(
            id: id, function: function, target: "latest", trigger: trigger, contentType: "x/y", payloadBytes: 1, lineage: [],
            destination: [],
            order: .asynchronous, retry: .standard, key: nil, user: nil, trace: nil, createdAt: 1, expiresAt: .max, state: .leased,
            since: 1,
            token: number, history: history, reason: nil)
        return EventLease(event: event, payload: EventPayload(place: .inline([1]), byteCount: 1))
    }

    @Test("what a batch causes comes from the deepest of its members: a loop does not look young beside honest work")
    func lineage() async throws {
        try await withQueue("hang") { node, daemon async throws in
            let function = FunctionID(tenant: try name("acme"), function: try name("hang"))
            var deep = Lineage(root: InvocationID(milliseconds: 1, random: (1, 1)), born: Instant(nanoseconds: 1))
            var (governor, notes) = (LoopGovernor(limits: LoopLimits(), seed: 1), [LoopNote]())
            for place in 0..<5 {
                let other = EdgeID(
                    trigger: TriggerSpec.direct, function: FunctionID(tenant: try name("acme"), function: try name("f\(place)")))
                let verdict = governor.admit(deep, through: other, at: Instant(nanoseconds: 2), into: &notes)
                deep = try #require(verdict.pass?.lineage)
            }
            let trigger = try name("photos")
            let orders = [nil, deep, nil].map { cause -> EventOrder in
                var order = EventOrder(function: function, payload: Array("{}".utf8))
                (order.trigger, order.cause) = (trigger, cause)
                return order
            }
            try await node.supervisor.onLoop { state in state.events?.accept(batch: orders) { _ in } }
            try await eventually("it runs") { node.spawner.invoked == ["hang"] }
            let (calls, hops) = try await node.supervisor.onLoop { state in
                (state.pending.count, state.pending.values.map { $0.lineage?.hops ?? 0 })
            }
            #expect(calls == 1 && hops == [6])
            // A stop of one that is not the first ends that one; the others run on.
            let last = try #require(try await events(daemon).map(\.id).max().flatMap { InvocationID($0) })
            let acme = try name("acme")
            try await node.supervisor.onLoop { state in state.events?.stop(last, of: acme, reason: "enough") { _ in } }
            try await eventually("it is stopped") { try await events(daemon).map(\.state).sorted() == ["leased", "leased", "stopped"] }
            // Nor where it is the first: its call is theirs.
            let first = try #require(try await events(daemon).filter { $0.state == "leased" }.map(\.id).min().flatMap { InvocationID($0) })
            try await node.supervisor.onLoop { state in state.events?.stop(first, of: acme, reason: "enough") { _ in } }
            try await eventually("it is stopped, too") {
                try await events(daemon).map(\.state).sorted() == ["leased", "stopped", "stopped"]
            }
            #expect(node.spawner.cancelled.isEmpty && node.spawner.invoked == ["hang"])
            // When nobody wants it any more it is ended.
            let other = try #require(try await events(daemon).first { $0.state == "leased" }.flatMap { InvocationID($0.id) })
            try await node.supervisor.onLoop { state in state.events?.stop(other, of: acme, reason: "enough") { _ in } }
            try await eventually("its call is cancelled") { !node.spawner.cancelled.isEmpty }
        }
    }

    @Test("a tenant's batches take no more of what the node hands out than one batch beside its seats, however many wait")
    func share() async throws {
        try await withQueue("hang", quota: "quota: {concurrency: 4}\n") { node, _ async throws in
            let acme = try name("acme")
            // However many functions of others are known, there is room for one more.
            let (hang, other) = (FunctionID(tenant: acme, function: try name("hang")), try name("other"))
            let others = try (0..<256).map { FunctionID(tenant: other, function: try name("f\($0)")) }
            try await node.supervisor.onLoop { state in
                guard let engine = state.events else { return }
                for function in others { engine.batching[function] = Batching(size: 1, fill: 1, until: engine.now() + .seconds(1)) }
            }
            for round in 1...3 {
                #expect(try await push(node, (1...50).map(String.init).joined(separator: "\n"), function: "hang").status == 202)
                try await eventually("nothing more is handed out in round \(round)") {
                    try await node.supervisor.onLoop { state in
                        guard let engine = state.events, !engine.isClaiming, !engine.mayBeMore else { return false }
                        return engine.leased[acme] ?? 0 > 0
                    }
                }
                let (leased, calls) = try await node.supervisor.onLoop { state in (state.events?.leased[acme], state.pending.count) }
                let known = try await node.supervisor.onLoop { state in
                    (state.events?.batching[hang] != nil, state.events?.batching.count ?? 0)
                }
                #expect(known.0 && known.1 <= 256)
                #expect(leased ?? 0 <= 7 && calls <= 4, "\(String(describing: leased)) events in \(calls) calls")
            }
        }
    }

    @Test("events beside calls take none of the node's calls; where they are as many as those, a tenant has no more of them than seats")
    func nodeWide() async throws {
        try await withQueue("hang", quota: "quota: {concurrency: 2}\n") { node, _ async throws in
            let acme = try name("acme")
            let others = FunctionID(tenant: try name("other"), function: try name("many"))
            try await node.supervisor.onLoop { state in
                guard let engine = state.events else { return }
                let edge = EdgeID(trigger: TriggerSpec.direct, function: others)
                for number in 1...UInt64(EventEngine.mostRunning) {
                    let lease = Self.lease(others, number, RunHistory())
                    let lineage = Lineage(root: lease.id, born: engine.now())
                    engine.running[lease.id] = EventEngine.Run(lease: lease, lineage: lineage, edge: edge, isCounted: false)
                }
                engine.beside = EventEngine.mostRunning
            }
            #expect(try await push(node, (1...50).map(String.init).joined(separator: "\n"), function: "hang").status == 202)
            try await eventually("nothing more is handed out") {
                try await node.supervisor.onLoop { state in
                    guard let engine = state.events, !engine.isClaiming, !engine.mayBeMore else { return false }
                    return engine.leased[acme] ?? 0 > 0
                }
            }
            // Another look, as each event that ends anywhere makes one.
            try await node.supervisor.onLoop { state in state.events?.pump() }
            try await eventually("that has found nothing") {
                try await node.supervisor.onLoop { state in state.events.map { !$0.isClaiming && !$0.mayBeMore } ?? false }
            }
            let leased = try await node.supervisor.onLoop { state in state.events?.leased[acme] }
            #expect(leased == 2)
        }
    }

    @Test("batches of one function leave its tenant's others their seats")
    func others() async throws {
        let extra = "concurrency: 2\ntriggers: [{queue: key, name: orders, batch: 3}]\n"
        let quota = "buckets: [photos]\nquota: {concurrency: 4}\n"
        try await VersionRouteTests().withDaemon([("hang", 1), ("echo", 1)], tenant: quota, extra: extra) { node, daemon, _ async throws in
            let acme = try name("acme")
            #expect(try await push(node, (1...50).map(String.init).joined(separator: "\n"), function: "hang").status == 202)
            try await eventually("no more of them is handed out") {
                try await node.supervisor.onLoop { state in
                    guard let engine = state.events, !engine.isClaiming, !engine.mayBeMore else { return false }
                    return engine.leased[acme] ?? 0 > 3 && engine.beside > 0
                }
            }
            let path = "/v1/tenants/acme/functions/echo/invocations"
            #expect(try await node.ask("POST", path, headers: ["Bulkhead-Invocation-Type: async"], body: "1").status == 202)
            try await eventually("the other one's event runs") {
                try await events(daemon).contains { $0.function == "echo" && $0.state == "done" }
            }
        }
    }

    @Test("an event that waits for its batch is not too old when it may run")
    func age() async throws {
        try await withQueue("hang", "async: {age: 60s}\n", wait: ", wait: 5m") { node, _ async throws in
            // The five minutes may be over just now.
            try await node.supervisor.onLoop { $0.events?.setPaused(true) }
            #expect(try await push(node, "1\n2", function: "hang").status == 202)
            let store = try #require(try await node.supervisor.onLoop { state in state.events?.store })
            let stored = try store.list(EventQuery(state: .ready)).events
            #expect(stored.count == 2)
            for event in stored {
                #expect(event.since % 300_000 == 0 && event.expiresAt == event.since + 60_000, "\(event.since) \(event.expiresAt)")
            }
        }
    }

    @Test("a record of more bytes than a worker takes is given up with a sentence, and ends no worker")
    func tooLarge() async throws {
        try await withQueue { node, daemon async throws in
            // Stored before its trigger had a batch.
            var order = EventOrder(
                function: FunctionID(tenant: try name("acme"), function: try name("partial")),
                payload: [UInt8](repeating: 0xFF, count: 6 << 20))
            order.trigger = try name("orders")
            let large = order
            try await node.supervisor.onLoop { state in state.events?.accept(large) { _ in } }
            try await eventually("it is given up") {
                try await events(daemon).first.map { $0.state == "dead" && $0.reason?.contains("as a record of a batch it has") == true }
                    == true
            }
            #expect(node.spawner.invoked.isEmpty)
        }
    }
}
