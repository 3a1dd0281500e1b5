// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Synchronization
import Testing

@testable import Gateway

private let id = "0123456789abcdef0123456789abcdef"

extension StubService {
    private func reply(_ id: InvocationID, _ state: String) -> EventReply {
        EventReply(
            id: id.description, tenant: "acme", function: "f", target: "latest", trigger: "direct", state: state, since: 1, createdAt: 1,
            expiresAt: 2, attempts: 0, maxAttempts: 3, crashes: 0, deliveries: 0, contentType: "text/plain", payloadBytes: 1)
    }
    private func shown(_ tenant: Name?) -> String { tenant?.text ?? "-" }

    func events(_ query: EventFilter) async throws -> EventPageReply {
        note(
            "events \(shown(query.tenant)) \(query.function?.text ?? "-") \(query.state ?? "-") \(query.limit) \(query.after ?? "-")")
        return EventPageReply(events: state.withLock { $0.letters }, next: state.withLock { $0.letters.isEmpty ? "x" : nil })
    }
    func event(_ id: InvocationID, tenant: Name?) async throws -> EventReply {
        note("event \(shown(tenant))")
        return reply(id, "ready")
    }
    func payload(_ id: InvocationID, tenant: Name?) async throws -> (contentType: String, bytes: [UInt8]) {
        ("text/x\r\nSet-Cookie: a", Array("body".utf8))
    }
    func stop(_ id: InvocationID, tenant: Name?) async throws -> EventReply {
        note("stop \(shown(tenant))")
        return reply(id, "stopped")
    }
    func redrive(_ letters: DeadLetters, tenant: Name?, ratePerSecond: Double?) async throws -> RedriveReply {
        note("redrive \(shown(tenant)) \(letters) \(ratePerSecond.map { "\($0)" } ?? "-")")
        return RedriveReply(redriven: 1)
    }
    func purge(_ letters: DeadLetters, tenant: Name?) async throws -> PurgeReply {
        note("purge \(shown(tenant)) \(letters)")
        return PurgeReply(purged: 1)
    }
    func loops(tenant: Name?) async throws -> [LoopReply] {
        note("loops \(shown(tenant))")
        return state.withLock { $0.loops }
    }
    func resume(_ edge: EdgeID, _ resume: LoopResume) async throws -> LoopReply {
        note("resume \(edge) \(resume)")
        return LoopReply(
            edge: "acme/f/t", tenant: "acme", function: "f", trigger: "t", source: "cron", state: "closed", recurrent: 0, parked: 0,
            parkedBytes: 0, since: 0, why: "")
    }
    func failures(_ query: FailureFilter) async throws -> FailurePageReply {
        note(
            "failures \(shown(query.tenant)) \(query.function?.text ?? "-") \(query.outcome?.rawValue ?? "-") \(query.since) \(query.until) \(query.limit)"
        )
        return FailurePageReply(failures: [], more: false)
    }
    func triggers(tenant: Name?, function: Name?) async throws -> [TriggerReply] {
        note("triggers \(shown(tenant)) \(function?.text ?? "-")")
        return []
    }
}

@Suite struct EventRouteTests {
    private func noted(_ method: String, _ path: String, _ body: String) async throws -> (Answer, [String]) {
        try await TestNode.withNode { node, service async throws in
            let answer = try await node.ask(method, path, body: body)
            // What the audit log looks at before an action is none of what the action does.
            let looks = method == "GET" ? [] : ["events", "event", "loops"]
            return (answer, service.calls.filter { call in !looks.contains { call.hasPrefix($0 + " ") } })
        }
    }

    @Test(
        "what is asked reaches the daemon",
        arguments: [
            ("GET", "/v1/tenants/acme/events?state=dead&function=f&limit=7&after=c", "", "events acme f dead 7 c"),
            ("GET", "/v1/tenants/acme/events", "", "events acme - - 100 -"), ("GET", "/v1/events", "", "events - - - 100 -"),
            ("GET", "/v1/tenants/acme/dead-letters?function=f", "", "events acme f dead 100 -"),
            ("GET", "/v1/dead-letters", "", "events - - dead 100 -"), ("GET", "/v1/tenants/acme/invocations/" + id, "", "event acme"),
            ("DELETE", "/v1/tenants/acme/invocations/" + id, "", "stop acme"), ("DELETE", "/v1/invocations/" + id, "", "stop -"),
            ("POST", "/v1/tenants/acme/dead-letters/redrive", #"{"all": true, "ratePerSecond": 2.5}"#, "redrive acme all 2.5"),
            ("POST", "/v1/dead-letters/purge", #"{"ids": ["\#(id)"]}"#, "purge - these([\(id)])"),
            ("POST", "/v1/tenants/acme/dead-letters/purge", #"{"function": "f"}"#, "purge acme function(f)"),
            ("GET", "/v1/loops", "", "loops -"), ("GET", "/v1/tenants/acme/triggers?function=f", "", "triggers acme f"),
            ("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "f/t", "mode": "discard"}"#, "resume t -> acme/f discard"),
            (
                "POST", "/v1/loops/resume", #"{"edge": "acme/f/t", "mode": "replay", "count": 5, "ratePerSecond": 10}"#,
                "resume t -> acme/f replay(count: 5, every: 100000000)"
            ),
            ("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "acme/f/t", "mode": "keep"}"#, "resume t -> acme/f keep"),
        ])
    func passed(method: String, path: String, body: String, note: String) async throws {
        let (answer, notes) = try await noted(method, path, body)
        #expect(answer.status == 200, "\(answer.text)")
        #expect(notes.map { $0.replacing("Core.", with: "") }.contains(note), "\(notes)")
    }

    @Test(
        "what makes no sense is 400 and reaches nobody",
        arguments: [
            ("GET", "/v1/tenants/acme/events?state=running", ""), ("GET", "/v1/tenants/acme/events?limit=0", ""),
            ("GET", "/v1/tenants/acme/events?limit=1001", ""), ("GET", "/v1/tenants/acme/events?function=F", ""),
            ("GET", "/v1/failures?since=x", ""), ("GET", "/v1/failures?until=-1", ""), ("GET", "/v1/failures?since=2&until=1", ""),
            ("GET", "/v1/failures?outcome=ok", ""), ("GET", "/v1/failures?limit=0", ""), ("GET", "/v1/failures?limit=1001", ""),
            ("GET", "/v1/failures?tail=1", ""), ("GET", "/v1/tenants/acme/failures?function=F", ""),
            ("GET", "/v1/tenants/acme/invocations/xyz", ""), ("POST", "/v1/tenants/acme/dead-letters/redrive", "{}"),
            ("POST", "/v1/tenants/acme/dead-letters/redrive", #"{"all": false}"#), ("POST", "/v1/tenants/acme/dead-letters/purge", "x"),
            ("POST", "/v1/tenants/acme/dead-letters/purge", #"{"all": true, "function": "f"}"#),
            ("POST", "/v1/tenants/acme/dead-letters/purge", #"{"ids": []}"#),
            ("POST", "/v1/dead-letters/purge", #"{"function": "f"}"#),
            ("POST", "/v1/tenants/acme/dead-letters/redrive", #"{"all": true, "ratePerSecond": 0}"#),
            ("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "t", "mode": "keep"}"#),
            ("POST", "/v1/loops/resume", #"{"edge": "f/t", "mode": "keep"}"#),
            ("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "f/t", "mode": "drop"}"#),
            ("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "f/t", "mode": "replay", "ratePerSecond": 1e9}"#),
            ("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "f/t", "mode": "replay", "count": 0}"#),
        ])
    func refused(method: String, path: String, body: String) async throws {
        let (answer, notes) = try await noted(method, path, body)
        #expect(answer.status == 400 && answer.problem?.code == "badRequest", "\(answer.status) \(answer.text)")
        #expect(notes.isEmpty)
    }

    @Test("another tenant's edge looks like none")
    func foreign() async throws {
        let (answer, notes) = try await noted("POST", "/v1/tenants/acme/loops/resume", #"{"edge": "beta/f/t", "mode": "discard"}"#)
        #expect(answer.status == 404 && notes.isEmpty)
    }

    @Test("a payload's own content type cannot add a header")
    func payload() async throws {
        let (answer, _) = try await noted("GET", "/v1/tenants/acme/events/\(id)/payload", "")
        #expect(answer.status == 200 && answer.text == "body" && answer.header("content-type") == "application/octet-stream")
        #expect(answer.header("set-cookie") == nil)
    }

    @Test("a key that only invokes sees and stops single events, and nothing else of them")
    func scopes() {
        #expect(EventRoutes.scope(["invocations", id]) == .invoke)
        for rest in [
            ["events"], ["events", id, "payload"], ["dead-letters"], ["dead-letters", "purge"], ["failures"], ["loops"], ["triggers"],
        ] {
            #expect(EventRoutes.scope(rest) == .deploy)
        }
    }
}
