// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Store
import Testing

@testable import Gateway
@testable import Supervision
@testable import bulkheadd

private func name(_ text: String) -> Name {
    guard let name = Name(text) else { preconditionFailure("\(text) is no name") }
    return name
}

/// Queues, signatures and lineage tokens at the real daemon.
@Suite struct QueueRouteTests {
    private static let secret = Array("whsec_0123456789".utf8)
    private static let triggers = """
        triggers:
        - {queue: key, name: orders}
        - {queue: "hmac:HOOK", name: hooks}
        - {http: /signed, auth: "hmac:HOOK"}
        - {http: /open/*, auth: none}

        """

    private func withQueues(_ body: (TestNode, Daemon) async throws -> Void) async throws {
        try await VersionRouteTests().withDaemon(
            [("echo", 1)], tenant: "secrets: {HOOK: whsec_0123456789}\n", extra: Self.triggers
        ) { node, daemon, _ async throws in try await body(node, daemon) }
    }

    private func stored(_ daemon: Daemon) async throws -> [EventReply] { try await daemon.events(EventFilter()).events }

    private static func signed(_ body: String, at offset: Int = 0, secret: [UInt8] = secret) -> String {
        "Bulkhead-Signature: " + Signature.value(Array(body.utf8), secret: secret, at: UInt64(Int(Date().timeIntervalSince1970) + offset))
    }

    @Test("a message is an event of its trigger, stored before it is acknowledged, once for each key")
    func single() async throws {
        try await withQueues { node, daemon async throws in
            let path = "/q/acme/echo/orders"
            let first = try await node.ask(
                "POST", path, headers: ["Idempotency-Key: k", "Bulkhead-Delay: 3600s", "Content-Type: text/x"], body: "one")
            #expect(first.status == 202 && first.text.contains(first.header("bulkhead-invocation-id") ?? "-"))
            let again = try await node.ask("POST", path, headers: ["Idempotency-Key: k", "Content-Type: text/x"], body: "one")
            #expect(again.status == 202 && again.header("bulkhead-duplicate") == "true")
            for (type, body) in [("text/x", "two"), ("text/y", "one")] {
                let other = try await node.ask("POST", path, headers: ["Idempotency-Key: k", "Content-Type: \(type)"], body: body)
                let problem = try JSONDecoder().decode(Problem.self, from: Data(other.body))
                #expect(other.status == 422 && problem.code == "keyReused" && problem.invocation == first.header("bulkhead-invocation-id"))
                #expect(problem.detail.contains("another key"))
            }
            let events = try await stored(daemon)
            #expect(events.count == 1 && events[0].trigger == "orders" && events[0].contentType == "text/x" && events[0].state == "ready")
            #expect(try await node.ask("GET", path).header("allow") == "POST")
            #expect(try await node.ask("POST", path, headers: ["Bulkhead-Delay: x"]).status == 400)
            #expect(try await node.ask("POST", path, headers: ["Idempotency-Key: " + String(repeating: "k", count: 256)]).status == 400)
        }
    }

    @Test("who may not push learns nothing of which queues there are")
    func closed() async throws {
        try await withQueues { node, daemon async throws in
            let own = try await daemon.createKey(name("acme"), scopes: ["invoke"]).key ?? ""
            let foreign = try await daemon.createKey(name("beta"), scopes: ["invoke"]).key ?? ""
            var texts: Set<String> = []
            for path in ["/q/acme/echo/orders", "/q/acme/echo/none", "/q/acme/nobody/orders", "/q/acme/echo/hooks"] {
                let answer = try await node.ask("POST", path, body: "x")
                #expect(answer.status == 401, "\(path)")
                texts.insert(answer.text)
            }
            #expect(texts.count == 1, "\(texts)")
            for key in [foreign, own] {
                let answer = try await node.ask("POST", "/q/acme/echo/none", headers: ["Authorization: Bearer \(key)"], body: "x")
                #expect(answer.status == 404 && answer.problem?.detail == "there is no queue acme/echo/none")
            }
            // To another tenant's key a queue that is there, whatever it takes, looks like one that is not.
            for queue in ["orders", "hooks"] {
                let answer = try await node.ask("POST", "/q/acme/echo/\(queue)", headers: ["Authorization: Bearer \(foreign)"], body: "x")
                #expect(answer.status == 404 && answer.problem?.detail == "there is no queue acme/echo/\(queue)", "\(answer.text)")
            }
            // A key opens no queue that wants a signature.
            #expect(try await node.ask("POST", "/q/acme/echo/hooks", headers: ["Authorization: Bearer \(own)"]).status == 401)
            #expect(try await stored(daemon).isEmpty)
            #expect(try await node.ask("POST", "/q/acme/echo/orders", headers: ["Authorization: Bearer \(own)"]).status == 202)
        }
    }

    @Test("a signed message is taken, and neither an old one nor one of another secret or body")
    func signatures() async throws {
        try await withQueues { node, daemon async throws in
            for path in ["/q/acme/echo/hooks", "/t/acme/signed"] {
                let good = try await node.ask("POST", path, headers: [Self.signed("body")], body: "body")
                #expect(good.status == (path.hasPrefix("/q") ? 202 : 200), "\(good.text)")
                let stripe = Self.signed("body").replacing("Bulkhead-Signature", with: "Stripe-Signature")
                #expect(try await node.ask("POST", path, headers: [stripe], body: "body").status < 300)
                for (line, word) in [
                    (Self.signed("other"), "not of this body"), (Self.signed("body", at: -400), "away"),
                    (Self.signed("body", secret: [1, 2]), "not of this body"), ("Bulkhead-Signature: x", "cannot be read"),
                ] {
                    let answer = try await node.ask("POST", path, headers: [line], body: "body")
                    #expect(answer.status == 401 && answer.text.contains(word), "\(path) \(line) \(answer.text)")
                }
            }
            #expect(try await stored(daemon).count == 2)
        }
    }

    private static let paced = """
        triggers:
        - {queue: key, name: orders, rate: 1/day burst 3}
        - {http: /keyed, rate: 1/day burst 2}
        - {http: /open, auth: none, rate: 1/day burst 1}
        - {outcome: other, on: both, name: after, rate: 1/h burst 2}

        """

    private func withPaced(_ body: (TestNode, Daemon) async throws -> Void) async throws {
        try await VersionRouteTests().withDaemon([("echo", 1)], extra: Self.paced) { node, daemon, _ async throws in
            try await body(node, daemon)
        }
    }

    @Test("beyond its own rate a queue's message is refused by its trigger, alone or as part of a batch, and nothing of it is stored")
    func ratedQueue() async throws {
        try await withPaced { node, daemon async throws in
            let large = try await push(node, "1\n2\n3\n4")
            #expect(large.status == 429 && large.header("retry-after") == nil && large.problem?.value == 4, "\(large.text)")
            #expect(try await push(node, "1\n2").status == 202)
            let second = try await push(node, "3\n4")
            #expect(second.status == 429 && (second.header("retry-after").flatMap { Int($0) } ?? 0) > 86_000, "\(second.text)")
            #expect(try await node.ask("POST", "/q/acme/echo/orders", headers: ["Bulkhead-Delay: 3600s"], body: "3").status == 202)
            let third = try await node.ask("POST", "/q/acme/echo/orders", body: "4")
            #expect(third.status == 429 && third.problem?.code == "throttled" && third.problem?.level == "trigger", "\(third.text)")
            #expect(third.problem?.ceiling == "rate" && third.problem?.limit == 3 && third.problem?.value == 3)
            #expect(third.text.contains("trigger orders of acme/echo is at its limit of rate: 3 of 3"))
            #expect(try await stored(daemon).count == 3)
            // The function's own way in is another one.
            let direct = try await node.ask(
                "POST", "/v1/tenants/acme/functions/echo/invocations",
                headers: ["Bulkhead-Invocation-Type: async", "Bulkhead-Delay: 3600s"])
            #expect(direct.status == 202)
        }
    }

    @Test("beyond its own rate a route's request is refused by its trigger; who has no key learns that it is, and when to come back")
    func ratedRoute() async throws {
        try await withPaced { node, _ async throws in
            for left in [1, 0] {
                let admitted = try await node.ask("POST", "/t/acme/keyed", body: "x")
                #expect(admitted.status == 200)
                let id = try #require(admitted.header("bulkhead-invocation-id"))
                let told = try await node.ask("GET", "/v1/tenants/acme/invocations/\(id)/explain").text
                #expect(told.contains("trigger: took 1, \(left) of 2 left") && told.contains("compute: holds "), "\(told)")
                #expect(told.contains("class sync: 1 of "), "\(told)")
            }
            let keyed = try await node.ask("POST", "/t/acme/keyed", body: "x")
            #expect(keyed.status == 429 && keyed.problem?.level == "trigger" && keyed.problem?.ceiling == "rate", "\(keyed.text)")
            #expect(keyed.problem?.limit == 2 && (keyed.header("retry-after").flatMap { Int($0) } ?? 0) > 86_000)
            let id = try #require(keyed.header("bulkhead-invocation-id"))
            let told = try await node.ask("GET", "/v1/tenants/acme/invocations/\(id)/explain").text
            #expect(told.contains("throttled: trigger rate, 2 of 2"), "\(told)")
            #expect(try await node.ask("GET", "/t/acme/open").status == 200)
            let open = try await node.ask("GET", "/t/acme/open")
            #expect(open.status == 429 && open.problem?.level == nil && open.header("retry-after") != nil, "\(open.text)")
        }
    }

    @Test("an event that nobody could send again waits for its turn at its trigger's rate, and does not grow old by that")
    func pacedEvents() async throws {
        try await withPaced { _, daemon async throws in
            var order = EventOrder(function: FunctionID(tenant: name("acme"), function: name("echo")), payload: [])
            (order.trigger, order.delayMs) = (name("after"), 60_000)
            for _ in 0..<5 {
                guard case .accepted = await daemon.accept(order) else {
                    Issue.record("an event was refused")
                    return
                }
            }
            let events = try await stored(daemon).sorted { $0.since < $1.since }
            let waits = events.map { ($0.since - $0.createdAt) / 1000 }
            let expected: [UInt64] = [60, 60, 3600, 7200, 10800]
            #expect(events.count == 5 && zip(waits, expected).allSatisfy { $0 <= $1 && $0 + 50 > $1 }, "\(waits)")
            // Six hours from its turn, and from its creation where it did not wait.
            for event in events {
                let start = event.since - event.createdAt > 100_000 ? event.since : event.createdAt
                #expect(event.expiresAt == start + 6 * 3_600_000)
            }
        }
    }

    private func push(_ node: TestNode, _ body: String, _ headers: [String] = []) async throws -> Answer {
        try await node.ask(
            "POST", "/q/acme/echo/orders",
            headers: ["Content-Type: application/x-ndjson; charset=utf-8", "Bulkhead-Delay: 3600s"] + headers,
            body: body)
    }

    @Test("a batch is an event a line; sent again under its key it is the same events")
    func batches() async throws {
        try await withQueues { node, daemon async throws in
            let answer = try await push(node, "{\"a\":1}\r\n\n  \n\"two\"\n3", ["Idempotency-Key: b"])
            struct Reply: Decodable { var ids: [String], duplicates: Int }
            let reply = try JSONDecoder().decode(Reply.self, from: Data(answer.body))
            #expect(answer.status == 202 && reply.ids.count == 3 && reply.duplicates == 0)
            #expect(Set(try await stored(daemon).map(\.id)) == Set(reply.ids))
            var payloads: [String] = []
            for id in reply.ids {
                let found = try await daemon.payload(try #require(InvocationID(id)), tenant: name("acme"))
                payloads.append("\(found.contentType) \(String(decoding: found.bytes, as: UTF8.self))")
            }
            #expect(payloads == ["application/json {\"a\":1}", "application/json \"two\"", "application/json 3"])
            let again = try JSONDecoder().decode(
                Reply.self, from: Data(try await push(node, "{\"a\":1}\r\n\n  \n\"two\"\n3\n4", ["Idempotency-Key: b"]).body))
            #expect(Array(again.ids.prefix(3)) == reply.ids && again.duplicates == 3 && again.ids.count == 4)
            #expect(try await stored(daemon).count == 4)
            let other = try await push(node, "{\"a\":1}\n5\n\n3\n", ["Idempotency-Key: b"])
            let problem = try JSONDecoder().decode(Problem.self, from: Data(other.body))
            #expect(other.status == 422 && problem.code == "keyReused" && problem.detail.hasPrefix("line 4: event \(reply.ids[1]) "))
            #expect(try await stored(daemon).count == 4)
        }
    }

    @Test("one line that cannot be taken is named, and none of the others is stored")
    func badBatches() async throws {
        try await withQueues { node, daemon async throws in
            let long = "\"" + String(repeating: "x", count: 64 << 10) + "\""
            let lines = (1...1001).map { "\($0)" }
            for (body, status, word) in [
                ("1\n2\n{\"a\":\n4", 400, "line 3 is not JSON"), ("1\n\n\(long)", 413, "line 3 has 65538 bytes"),
                ("\n \n", 400, "has none"), ("", 400, "has none"),
                (lines.joined(separator: "\n"), 400, "at most 1000 lines"),
                (String(repeating: "[", count: 60_000), 400, "line 1 is not JSON"),
            ] {
                let answer = try await push(node, body)
                #expect(
                    answer.status == status && answer.text.contains(word) && answer.text.contains("Nothing of it was stored"),
                    "\(answer.text)")
            }
            #expect(try await push(node, "1", ["Idempotency-Key: " + String(repeating: "k", count: 241)]).status == 400)
            #expect(try await stored(daemon).isEmpty)
            #expect(try await push(node, lines.dropLast().joined(separator: "\n")).status == 202)
            #expect(try await daemon.supervisor.onLoop { $0.events?.counters["events.accepted"] } == 1000)
        }
    }

    @Test("a batch that would cross the tenant's share is refused as a whole")
    func share() async throws {
        try await withQueues { node, daemon async throws in
            try await daemon.supervisor.onLoop { state in
                state.events?.sentSinceCount[name("acme")] = (EventEngine.mostWaitingOfTenant.events - 2, 0)
            }
            let refused = try await push(node, "1\n2\n3")
            #expect(refused.status == 429 && refused.problem?.ceiling == "events" && refused.header("retry-after") != nil)
            #expect(try await push(node, "1\n2").status == 202)
            #expect(try await push(node, "1").status == 429)
        }
    }

    @Test("a batch that quarantine has no room for takes none of it")
    func quarantine() async throws {
        try await withQueues { node, daemon async throws in
            let edge = EdgeID(trigger: name("orders"), function: FunctionID(tenant: name("acme"), function: name("echo")))
            try await daemon.supervisor.onLoop { state in
                guard let engine = state.events else { return }
                var notes: [LoopNote] = []
                engine.governor.breakEdge(edge, .operator, all: true, at: engine.now(), into: &notes)
            }
            func lines(_ count: Int) -> String { (1...count).map { "\($0)" }.joined(separator: "\n") }
            for _ in 0..<9 { #expect(try await push(node, lines(1000)).status == 202) }
            #expect(try await push(node, lines(600)).status == 202)
            let refused = try await push(node, lines(401))
            #expect(refused.status == 429 && refused.problem?.detail.hasPrefix("line 401: ") == true, "\(refused.text)")
            #expect(try await push(node, lines(400)).status == 202, "the places of the batch that was refused are free")
            let full = try await push(node, "1")
            #expect(full.status == 429 && full.header("retry-after") == "60", "\(full.text)")
            let problem = try #require(full.problem)
            #expect(problem.code == "throttled" && problem.level == "loop" && problem.ceiling == "quarantined events", "\(full.text)")
            #expect(problem.limit == 10_000 && problem.value == 10_000, "\(full.text)")
            #expect(try await daemon.supervisor.onLoop { $0.events?.governor.state(of: edge)?.parkedEvents } == 10_000)
        }
    }

    // MARK: lineage

    /// A token of what comes after an event that has entered `echo` so many times, as a webhook would carry it.
    private func token(_ daemon: Daemon, entries: Int, tenant: String = "acme", at offset: Int64 = 0) async throws -> String {
        let lineage = try await daemon.supervisor.onLoop { state -> Lineage? in
            guard let engine = state.events else { return nil }
            var lineage = Lineage(root: supervisorID(entries), born: engine.now())
            for _ in 0..<entries {
                lineage = lineage.child(entering: FunctionKey(FunctionID(tenant: name("acme"), function: name("echo"))), isSync: false)
            }
            return lineage
        }
        let now = Int64(Date().timeIntervalSince1970 * 1000) + offset
        return daemon.lineageTokens.sign(try #require(lineage), of: name(tenant), at: UInt64(now))
    }

    @Test("a token continues its lineage: what comes back through it is cut, at a route, a queue and a direct call alike")
    func continued() async throws {
        try await withQueues { node, daemon async throws in
            for (path, headers) in [
                ("/t/acme/open/x", []), ("/q/acme/echo/orders", ["Bulkhead-Delay: 3600s"]),
                ("/v1/tenants/acme/functions/echo/invocations", []),
                ("/v1/tenants/acme/functions/echo/invocations", ["Bulkhead-Invocation-Type: async", "Bulkhead-Delay: 3600s"]),
            ] {
                var token = try await token(daemon, entries: 1)
                var lineage = try #require(daemon.lineage(token, of: name("acme")))
                #expect(lineage.flags.contains(.external))
                var statuses: [Int] = []
                // What a receiver would be told each time: the lineage of the run that its call has made.
                for _ in 0..<17 {
                    statuses.append(try await node.ask("POST", path, headers: headers + ["Bulkhead-Lineage: \(token)"], body: "x").status)
                    let edge = EdgeID(
                        trigger: path.hasPrefix("/t") ? name("http-2") : path.hasPrefix("/q") ? name("orders") : TriggerSpec.direct,
                        function: FunctionID(tenant: name("acme"), function: name("echo")))
                    let cause = lineage
                    lineage = try await daemon.supervisor.onLoop { state in
                        var notes: [LoopNote] = []
                        guard let engine = state.events else { return cause }
                        // A copy judges, so that nothing is taken twice.
                        var governor = engine.governor
                        return governor.admit(cause, through: edge, at: engine.now(), into: &notes).pass?.lineage ?? cause
                    }
                    token = daemon.lineageTokens.sign(lineage, of: name("acme"), at: UInt64(Date().timeIntervalSince1970 * 1000))
                }
                if path.hasPrefix("/q") || headers.count == 2 {
                    #expect(statuses == Array(repeating: 202, count: 17))
                } else {
                    #expect(statuses == Array(repeating: 200, count: 16) + [508], "\(path) \(statuses)")
                }
            }
            #expect(try await stored(daemon).count { $0.state == "parked" } == 2)
        }
    }

    @Test("a function with one seat that its own webhook's receiver calls again is no deadlock: nobody waits out there")
    func seats() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1)], extra: "maxConcurrency: 1\ntriggers: [{http: /open, auth: none}]\n") {
            node, daemon, _ async throws in
            let lineage = try #require(
                daemon.lineage(try await token(daemon, entries: 1), of: name("acme")))
            #expect(lineage.path.allSatisfy { $0.waiting == 0 })
            let token = try await token(daemon, entries: 1)
            #expect(try await node.ask("POST", "/t/acme/open", headers: ["Bulkhead-Lineage: \(token)"], body: "x").status == 200)
        }
    }

    @Test("what is forged or too old continues nothing, harms nobody and is counted")
    func notBelieved() async throws {
        try await withQueues { node, daemon async throws in
            let good = try await token(daemon, entries: 17)
            let tokens = [
                ("forged", String(good.dropLast(2)) + (good.hasSuffix("AA") ? "AE" : "AA")), ("malformed", "x"),
                ("expired", try await token(daemon, entries: 17, at: -Int64(LineageTokens.lifetime) - 1000)),
            ]
            for (_, token) in tokens {
                #expect(try await node.ask("POST", "/t/acme/open/x", headers: ["Bulkhead-Lineage: \(token)"], body: "x").status == 200)
            }
            let counts = daemon.lineageTokens.counts
            for (result, _) in tokens { #expect(counts[result] == 1, "\(result) \(counts)") }
            #expect(counts["accepted"] == nil)
            _ = try await node.ask("POST", "/t/acme/open/x", headers: ["Bulkhead-Lineage: \(good)"], body: "x")
            _ = try await node.ask("POST", "/t/acme/open/x", headers: ["Bulkhead-Lineage: \(good)"], body: "x")
            #expect(daemon.lineageTokens.counts["accepted"] == 1 && daemon.lineageTokens.counts["reused"] == 1)
            #expect(try await daemon.metrics(detailed: false).contains("bulkhead_lineage_tokens_total{result=\"forged\"} 1\n"))
        }
    }

    @Test("another tenant's token tells where a function was before, and brings none of what its root has used up")
    func crosses() async throws {
        try await withQueues { node, daemon async throws in
            let (acme, beta) = (name("acme"), name("beta"))
            let there = try #require(daemon.lineage(try await token(daemon, entries: 3, tenant: "beta"), of: acme))
            let echo = FunctionKey(FunctionID(tenant: acme, function: name("echo")))
            #expect(there.visits(of: echo) == 3 && there.flags.contains(.external) && there.path.allSatisfy { $0.waiting == 0 })
            #expect(there.crossing(from: acme, to: beta).crossing(from: beta, to: acme).root == there.root)
            #expect(daemon.lineageTokens.counts["foreign"] == 1)
            // It goes on from there: what its run would tell a receiver has one entry more.
            let answer = try await node.ask(
                "POST", "/q/acme/echo/orders",
                headers: ["Bulkhead-Delay: 3600s", "Bulkhead-Lineage: \(try await token(daemon, entries: 3, tenant: "beta"))"],
                body: "x")
            #expect(answer.status == 202)
            #expect(try await stored(daemon).first?.hops == 4)
        }
    }

    @Test("the paths of triggers are listed, and who may use them")
    func listed() async throws {
        try await withQueues { _, daemon async throws in
            let found = try await daemon.triggers(tenant: name("acme"), function: nil).map {
                "\($0.trigger) \($0.url ?? "-") \($0.authorization) \($0.functions.joined(separator: ","))"
            }
            #expect(
                found == [
                    "direct - key echo", "orders /q/acme/echo/orders key echo", "hooks /q/acme/echo/hooks hmac:HOOK echo",
                    "http-1 /t/acme/signed hmac:HOOK ", "http-2 /t/acme/open/* none ",
                ])
        }
    }
}

private func supervisorID(_ number: Int) -> InvocationID {
    InvocationID(milliseconds: UInt64.random(in: 1...1_000_000), random: (UInt16(number), UInt64.random(in: 0 ... .max)))
}
