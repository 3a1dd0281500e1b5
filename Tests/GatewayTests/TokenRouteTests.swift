// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Foundation
import NodeConfiguration
import Supervision
import Synchronization
import Testing

@testable import Gateway
@testable import Store
@testable import bulkheadd

/// Tokens of end users at the real daemon.
@Suite struct TokenRouteTests {
    private static let secret = "0123456789abcdef0123456789abcdef"
    private static let tenant = """
        users: {key: claim:sub, default: {concurrency: 2}}
        tokens: {issuer: joe, algorithm: HS256, key: \(secret)}

        """
    private static let triggers = """
        triggers:
        - {http: /open, auth: none}
        - {http: /shaped, auth: none, shape: aws-apigw-v2}
        - {queue: key, name: orders}

        """

    private static func encoded(_ bytes: [UInt8]) -> String {
        Data(bytes).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
    }
    private static func token(_ user: String, header: String = #"{"alg":"HS256"}"#, more: String = "", secret: String = secret) -> String {
        let end = Int(Date().timeIntervalSince1970) + 600
        let claims = #"{"exp":\#(end),"iss":"joe","sub":"\#(user)"\#(more)}"#
        let signed = encoded(Array(header.utf8)) + "." + encoded(Array(claims.utf8))
        return "Bulkhead-User-Token: " + signed + "." + encoded(Signature.mac(Array(signed.utf8), Array(secret.utf8)))
    }

    private func withTokens(_ count: Int = 1, tenant: String = tenant, _ body: (TestNode, Daemon) async throws -> Void) async throws {
        try await VersionRouteTests().withDaemon([("echo", count)], tenant: tenant, extra: Self.triggers) {
            node, daemon, _ async throws in
            try await body(node, daemon)
        }
    }

    /// Every way in, with these headers.
    private func answers(_ node: TestNode, _ headers: [String]) async throws -> [Answer] {
        let calls = "/v1/tenants/acme/functions/echo/invocations"
        return [
            try await node.ask("POST", calls, headers: headers, body: "x"),
            // Past the short way of plain calls.
            try await node.ask("POST", calls + "?version=1", headers: headers, body: "x"),
            try await node.ask("POST", calls, headers: headers + ["Bulkhead-Invocation-Type: async", "Bulkhead-Delay: 3600s"], body: "x"),
            try await node.ask("POST", "/t/acme/open", headers: headers, body: "x"),
            try await node.ask("POST", "/t/acme/shaped", headers: headers, body: "x"),
            try await node.ask("POST", "/q/acme/echo/orders", headers: headers + ["Bulkhead-Delay: 3600s"], body: "x"),
            try await node.ask(
                "POST", "/q/acme/echo/orders", headers: headers + ["Bulkhead-Delay: 3600s", "Content-Type: application/x-ndjson"], body: "1"
            ),
        ]
    }

    @Test("every way in serves a good token, the first time and again, and refuses another with what is documented")
    func ways() async throws {
        try await withTokens { node, daemon async throws in
            let good = Self.token("ann")
            for _ in 0..<2 {
                #expect(try await answers(node, [good]).map(\.status) == [200, 200, 202, 200, 200, 202, 202])
            }
            #expect(daemon.verifiedTokens.count == 1)
            let cases: [([String], Int, String)] = [
                ([], 401, "there is none"), (["Bulkhead-User-Token: x"], 401, "no JSON Web Token"),
                ([Self.token("ann", secret: String(Self.secret.reversed()))], 401, "not signed"),
                ([Self.token("ann", header: #"{"alg":"none"}"#)], 401, "not signed"),
                ([Self.token("ann", header: #"{"alg":"RS256"}"#)], 401, "not signed"),
                ([Self.token("ann", more: #","aud":"shop""#)], 401, "another audience"),
                ([Self.token("")], 403, "no claim `sub`"),
                (["Bulkhead-User-Token: " + String(repeating: "x", count: 8193)], 401, "longer than 8192"),
            ]
            for (headers, status, words) in cases {
                for answer in try await answers(node, headers) {
                    #expect(answer.status == status && answer.problem?.code == "badToken", "\(answer.status) \(answer.text)")
                    #expect(answer.text.contains(words), "\(answer.text)")
                }
            }
            let long = Self.token(String(repeating: "u", count: 257))
            for answer in try await answers(node, [long]) {
                #expect(answer.status == 400 && answer.text.contains("claim:sub"), "\(answer.text)")
            }
        }
    }

    @Test("a new token is verified beside the loop: a desk that is busy keeps its own callers waiting, at most so many, and nobody else")
    func aside() async throws {
        try await withTokens { node, daemon async throws in
            let (acme, ann) = (try #require(Name("acme")), Self.token("ann"))
            #expect(try await node.invoke("echo", headers: [ann], body: "1").status == 200)
            let (gate, holder) = (DispatchSemaphore(value: 0), try #require(Name("holder")))
            for _ in 0..<TenantDesk.threads { #expect(daemon.tokenDesk.take(holder) { gate.wait() }) }
            let waiting = try node.connect()
            try await waiting.send(TestNode.request("POST", "/t/acme/open", headers: [Self.token("ben")], body: "late"))
            try await eventually("its token waits for the desk") { daemon.tokenDesk.count == TenantDesk.threads + 1 }
            // The loop serves those who need no new token, among them who has shown the same before.
            #expect(try await node.ask("GET", "/healthz").status == 200)
            #expect(try await node.invoke("echo", headers: [ann], body: "1").status == 200)
            #expect(try await node.invoke("echo", body: "1").status == 401)
            while daemon.tokenDesk.take(acme, {}) {}
            for answer in try await answers(node, [Self.token("cid")]) {
                #expect(
                    answer.status == 429 && answer.problem?.code == "throttled" && answer.header("retry-after") == "1", "\(answer.text)")
            }
            for _ in 0..<TenantDesk.threads { gate.signal() }
            let late = try await waiting.answer()
            #expect(late.status == 200 && late.text == "late", "\(late.text)")
            try await eventually("the desk is empty") { daemon.tokenDesk.count == 0 }
            #expect(try await node.invoke("echo", headers: [Self.token("cid")], body: "1").status == 200)
        }
    }

    @Test("a caller that goes while its token is verified leaves nothing")
    func gone() async throws {
        try await withTokens { node, daemon async throws in
            let gate = DispatchSemaphore(value: 0)
            for _ in 0..<TenantDesk.threads { #expect(daemon.tokenDesk.take(try #require(Name("holder"))) { gate.wait() }) }
            var client: Client? = try node.connect()
            try await client?.send(TestNode.request("POST", "/t/acme/open", headers: [Self.token("ben")], body: "gone"))
            try await eventually("its token waits for the desk") { daemon.tokenDesk.count == TenantDesk.threads + 1 }
            // The last one who holds it closes it.
            client = nil
            try await eventually("the loop has heard of it") { node.openBodies.count == 0 }
            for _ in 0..<TenantDesk.threads { gate.signal() }
            try await eventually("the desk is empty") { daemon.tokenDesk.count == 0 }
            #expect(try await node.invoke("echo", headers: [Self.token("ann")], body: "1").status == 200)
            #expect(node.spawner.invoked == ["echo"])
        }
    }

    @Test("where two versions are served, an end user whose token is new sees the same one as with the next token")
    func sticky() async throws {
        try await withTokens(2) { node, _ async throws in
            let split = #"{"targets": [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]}"#
            let set = try await node.ask("PUT", "/v1/tenants/acme/functions/echo/aliases/live", body: split)
            #expect(set.status == 200, "\(set.text)")
            var seen: [Set<String>] = []
            for user in 0..<8 {
                var versions: Set<String> = []
                for round in 0..<5 {
                    let answer = try await node.ask(
                        "POST", "/v1/tenants/acme/functions/echo/invocations?alias=live",
                        headers: [Self.token("u\(user)", more: ",\"jti\":\(round)")], body: "x")
                    versions.insert(answer.header("bulkhead-version") ?? "\(answer.status)")
                }
                seen.append(versions)
            }
            #expect(seen.allSatisfy { $0.count == 1 } && Set(seen).count == 2, "\(seen)")
        }
    }

    @Test("where two versions are served, a bad token is verified once: its caller waits for one turn at the desk")
    func once() async throws {
        try await withTokens(2) { node, daemon async throws in
            let split = #"{"targets": [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]}"#
            let set = try await node.ask("PUT", "/v1/tenants/acme/functions/echo/aliases/live", body: split)
            #expect(set.status == 200, "\(set.text)")
            let (acme, before, behind) = (
                try #require(Name("acme")), DispatchSemaphore(value: 0), DispatchSemaphore(value: 0)
            )
            defer { for _ in 0..<TenantDesk.threads { behind.signal() } }
            for _ in 0..<TenantDesk.threads { #expect(daemon.tokenDesk.take(try #require(Name("holder"))) { before.wait() }) }
            let waiting = try node.connect()
            let bad = Self.token("ann", secret: String(Self.secret.reversed()))
            try await waiting.send(
                TestNode.request("POST", "/v1/tenants/acme/functions/echo/invocations?alias=live", headers: [bad], body: "x"))
            try await eventually("its token waits for the desk") { daemon.tokenDesk.count == TenantDesk.threads + 1 }
            for _ in 0..<TenantDesk.threads { #expect(daemon.tokenDesk.take(acme) { behind.wait() }) }
            for _ in 0..<TenantDesk.threads { before.signal() }
            let answer = try await waiting.answer()
            #expect(answer.status == 401 && answer.problem?.code == "badToken", "\(answer.text)")
        }
    }

    @Test("where two versions are served, each one's own rule decides whether a bad token is refused")
    func ownRule() async throws {
        try await withTokens(2, tenant: "tokens: {issuer: joe, algorithm: HS256, key: \(Self.secret)}\n") { node, daemon async throws in
            let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("echo")))
            daemon.functionRules.withLock { $0[VersionID(function: function, number: 1)] = .claim("sub") }
            let split = #"{"targets": [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]}"#
            let set = try await node.ask("PUT", "/v1/tenants/acme/functions/echo/aliases/live", body: split)
            #expect(set.status == 200, "\(set.text)")
            let bad = Self.token("ann", secret: String(Self.secret.reversed()))
            var seen: [Int: Set<String>] = [:]
            try await eventually("both versions were chosen") {
                let answer = try await node.ask("POST", "/v1/tenants/acme/functions/echo/invocations?alias=live", headers: [bad], body: "x")
                seen[answer.status, default: []].insert(answer.header("bulkhead-version") ?? "none")
                return seen.count > 1
            }
            #expect(seen == [200: ["2"], 401: ["none"]])
        }
    }
}
