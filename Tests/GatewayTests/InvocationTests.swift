// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import ControlAPI
@testable import Gateway
@testable import Supervision

/// What a caller gets for each way in which an invocation ends.
@Suite struct InvocationTests {
    @Test("the function's answer comes back unchanged, with what every answer says of the run")
    func answer() async throws {
        try await TestNode.withNode { node, _ async throws in
            let answer = try await node.invoke("echo", headers: ["Content-Type: text/x-test"], body: "hello")
            #expect(answer.status == 200 && answer.text == "hello")
            #expect(answer.header("content-type") == "text/x-test")
            #expect(answer.header("bulkhead-invocation-id")?.count == 32)
            #expect(answer.header("bulkhead-worker")?.hasPrefix("w-") == true)
            #expect(answer.header("bulkhead-start") == "cold")
            #expect(answer.header("bulkhead-duration")?.hasSuffix("us") == true)
            #expect(answer.header("bulkhead-billed")?.hasSuffix("ms") == true)
            #expect(try await node.invoke("echo").header("bulkhead-start") == "warm")
        }
    }

    @Test(
        "each end of an invocation has its status and code",
        arguments: [
            ("fail", 500, "functionError", "no such thing"), ("later", 500, "functionError", "3 s"), ("crash", 502, "crashed", "SIGSEGV"),
            ("filtered", 502, "crashed", "ptrace"), ("oom", 507, "outOfMemory", "64 MiB"), ("hang", 504, "timedOut", "timeout"),
            ("broken", 500, "initError", "SyntaxError"),
        ])
    func ends(function: String, status: Int, code: String, word: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let answer = try await node.invoke(function, headers: function == "hang" ? ["Bulkhead-Timeout: 50ms"] : [])
            let problem = try #require(answer.problem, "\(answer.text)")
            #expect(answer.status == status && problem.status == status && problem.code == code)
            #expect(problem.detail.contains(word), "\(problem.detail)")
            #expect(problem.invocation == answer.header("bulkhead-invocation-id"))
            if function == "fail" {
                #expect(problem.errorType == "ValueError" && problem.errorMessage == "no such thing" && problem.errorStack == "at line 7")
            }
            #expect((answer.header("retry-after") != nil) == (function == "later"))
        }
    }

    @Test("of an error as much is kept and written as helps a reader, however much a worker says")
    func fault() {
        let short = FunctionFault(type: "ValueError", message: "no such thing", stack: "at line 7\n\nat line 8\n")
        #expect(
            SupervisorState.lines(short).map { String(decoding: $0, as: UTF8.self) } == [
                "ValueError: no such thing", "at line 7", "at line 8",
            ])
        for piece in ["ä\n", "a", "\n", "e\u{301}\u{301}"] {
            let long = String(repeating: piece, count: (8 << 20) / piece.utf8.count)
            let fault = FunctionFault(type: long, message: long, stack: long)
            // One letter may have been cut in two.
            #expect(fault.type.utf8.count <= FunctionFault.typeLimit + 3 && fault.message.utf8.count <= FunctionFault.messageLimit + 3)
            #expect(fault.stack.utf8.count <= FunctionFault.stackLimit + 3)
            let lines = SupervisorState.lines(fault)
            #expect(lines.count <= 64 && lines.allSatisfy { $0.count <= LogPipe.lineLimit })
        }
    }

    @Test("a ceiling answers 429 with its name, limit, value and a time; a node that drains answers 503")
    func refusals() async throws {
        try await TestNode.withNode { node, _ async throws in
            let first = try node.connect()
            try await first.send(TestNode.invocation("hang", tenant: "small"))
            try await eventually("the seat is taken") { node.spawner.invoked == ["hang"] }
            let second = try node.connect()
            try await second.send(TestNode.invocation("echo", tenant: "small"))
            try await eventually("the place to wait is taken") { try await node.queued("small") == 1 }
            let refused = try await node.invoke("echo", tenant: "small")
            let problem = try #require(refused.problem)
            #expect(refused.status == 429 && problem.code == "throttled")
            #expect(problem.level == "tenant" && problem.ceiling == "concurrency" && problem.limit == 1 && problem.value == 1)
            #expect(refused.header("retry-after").flatMap { Int($0) }.map { $0 >= 1 } == true)
            try await node.supervisor.onLoop { $0.beginDraining() }
            let draining = try await node.invoke("echo")
            #expect(draining.status == 503 && draining.problem?.code == "draining")
            #expect(draining.header("retry-after") == "1")
        }
    }

    @Test("every outcome has the status that the documentation names", arguments: Outcome.allCases)
    func mapping(outcome: Outcome) throws {
        let statuses: [Outcome: Int] = [
            .ok: 200, .functionError: 500, .timedOut: 504, .outOfMemory: 507, .crashed: 502, .throttled: 429, .overBudget: 429,
            .overloaded: 503, .loop: 508, .cancelled: 499, .expired: 408, .internal: 500,
        ]
        #expect(OutcomeMapping.status(outcome) == statuses[outcome])
        let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("f")))
        func report(_ verdict: Verdict) -> InvocationReport {
            InvocationReport(
                id: InvocationID(milliseconds: 1, random: (2, 3)), version: VersionID(function: function, number: 1), verdict: verdict,
                duration: 0, billed: 0, logTail: [])
        }
        let refusal = Refusal(outcome: outcome, level: .tenant, ceiling: "rate", limit: 5, value: 6, retryAfter: 0.2)
        for verdict in [Verdict.failed(outcome, reason: "because", nil), .refused(refusal)] {
            let problem = try #require(OutcomeMapping.problem(report(verdict)))
            let answer = ControlAnswer(problem)
            #expect(answer.status == statuses[outcome] && problem.code == outcome.rawValue)
            #expect(!problem.title.isEmpty && !problem.detail.isEmpty && problem.detail.contains("acme"))
            #expect(answer.headers.contains { $0 == ("Content-Type", "application/problem+json") })
            let json = try #require(try JSONSerialization.jsonObject(with: Data(answer.body)) as? [String: Any])
            for key in ["code", "title", "status", "detail", "invocation"] { #expect(json[key] != nil, "\(key)") }
            let retry = answer.headers.first { $0.0 == "Retry-After" }?.1
            if case .refused = verdict { #expect(retry == "1", "a fifth of a second is a whole one") } else { #expect(retry == nil) }
        }
        #expect(OutcomeMapping.problem(report(.completed(.ok))) == nil)
    }

    @Test("a time that is no number of seconds does not end the node", arguments: [0, -3, 1e300, .infinity, -.infinity, .nan])
    func retryAfter(seconds: Double) throws {
        var problem = Problem(code: "throttled", title: "t", status: 429, detail: "d")
        problem.retryAfter = seconds
        let header = try #require(ControlAnswer(problem).headers.first { $0.0 == "Retry-After" }?.1)
        #expect(Int(header).map { $0 >= 1 } == true)
    }

    @Test(
        "Bulkhead-Timeout has a unit and bounds",
        arguments: [
            ("1ms", true), ("2s", true), ("86400s", true), ("86400000ms", true), ("0s", false), ("0ms", false), ("86401s", false),
            ("-1s", false), ("+1s", false), ("1", false), ("s", false), ("ms", false), ("1.5s", false), ("99999999999999999999s", false),
            ("1 s", false), ("1m", false), ("", false),
        ])
    func timeouts(text: String, isLegal: Bool) async throws {
        try await TestNode.withNode { node, _ async throws in
            let answer = try await node.invoke("echo", headers: ["Bulkhead-Timeout: \(text)", "Bulkhead-Invocation-Type: dry-run"])
            #expect(answer.status == (isLegal ? 204 : 400), "\(answer.text)")
            if !isLegal { #expect(answer.problem?.code == "badRequest") }
        }
    }

    @Test("a node that stores no events says so, an unknown type of invocation is refused, and a dry run runs nothing")
    func kinds() async throws {
        try await TestNode.withNode { node, _ async throws in
            let later = try await node.invoke("echo", headers: ["Bulkhead-Invocation-Type: async"])
            #expect(later.status == 500 && later.problem?.code == "storage", "\(later.status) \(later.text)")
            #expect(try await node.invoke("echo", headers: ["Bulkhead-Invocation-Type: perhaps"]).status == 400)
            let dry = try await node.invoke("echo", headers: ["Bulkhead-Invocation-Type: dry-run"])
            #expect(dry.status == 204 && dry.header("bulkhead-version") == "1")
            #expect(node.spawner.invoked.isEmpty)
            #expect(try await node.invoke("echo", headers: ["Content-Type: \(String(repeating: "x", count: 257))"]).status == 400)
        }
    }

    @Test(
        "whatever status a function answers with, the connection's framing holds and the node lives",
        arguments: [0, 1, 99, 100, 101, 102, 103, 199, 200, 204, 205, 299, 304, 404, 599, 600, 999, 1000, 65_535], ["status", "stream"])
    func framing(status: Int, function: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            try await client.send(TestNode.invocation(function, body: "\(status)"))
            let first = try await client.answer()
            if (200...599).contains(status) {
                #expect(first.status == status)
                #expect(first.body.isEmpty == [204, 205, 304].contains(status))
            } else {
                #expect(first.status == 502 && first.problem?.code == "crashed" || first.status == 500)
            }
            if first.header("connection") != "close" {
                try await client.send(TestNode.invocation("echo", body: "mine"))
                let second = try await client.answer()
                #expect(second.text == "mine", "the next answer on the connection is another's: \(second.text)")
            }
            #expect(try await node.ask("GET", "/healthz").status == 200)
        }
    }

    @Test("a worker that asks before anything runs in it is told that nothing was sent, and serves")
    func eager() async throws {
        try await TestNode.withNode { node, _ async throws in
            let answer = try await node.invoke("eager")
            let why = "only a running invocation may ask: nothing was sent"
            #expect(answer.status == 200 && answer.text == "callResult 7: \(why)\nemitResult 8: \(why)", "\(answer.status) \(answer.text)")
        }
    }

    @Test("a function cannot set what frames the answer or what only the gateway says")
    func headers() async throws {
        try await TestNode.withNode { node, _ async throws in
            let hostile = [
                "Content-Length: 1", "transfer-encoding: chunked", "Connection: close", "Bulkhead-Worker: w-0", "X-Ok: yes", "bad name: x",
                ": x",
                "x", "X-Break: a\r\nInjected: 1", "X-Nul: a\0b", "Upgrade: websocket", "Trailer: X", "X-Last:  spaced ",
            ]
            let answer = try await node.invoke("headers", body: hostile.joined(separator: "|"))
            #expect(answer.text == "body")
            #expect(answer.header("content-length") == "4")
            #expect(answer.header("x-ok") == "yes" && answer.header("x-last") == "spaced")
            #expect(answer.headers.filter { $0.name.lowercased() == "bulkhead-worker" }.map(\.value) != ["w-0"])
            for name in ["transfer-encoding", "connection", "injected", "x-break", "x-nul", "upgrade", "trailer"] {
                #expect(answer.header(name) == nil, "\(name)")
            }
        }
    }

    @Test("a streamed answer comes in chunks; to HTTP/1.0 it comes bare and ends with the connection")
    func streams() async throws {
        try await TestNode.withNode { node, _ async throws in
            let whole = "HTTP/1.1 part 0\r\nHTTP/1.1 part 1\r\nHTTP/1.1 part 2\r\n"
            let answer = try await node.invoke("stream")
            #expect(answer.status == 200 && answer.text == whole && answer.header("transfer-encoding") == "chunked")
            let old = try node.connect()
            try await old.send("POST /v1/tenants/acme/functions/stream/invocations HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
            let text = String(decoding: try await old.untilEnd(), as: UTF8.self)
            #expect(!text.lowercased().contains("transfer-encoding"), "HTTP/1.0 knows no chunks")
            #expect(text.hasSuffix("\r\n\r\n" + whole), "\(text)")
        }
    }

    @Test("a caller that leaves ends its invocation: the worker is told to cancel, or the queue forgets it")
    func leaving() async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            try await client.send(TestNode.invocation("hang"))
            try await eventually("the function runs") { node.spawner.invoked == ["hang"] }
            client.leave()
            try await eventually("the worker is told") { node.spawner.cancelled == ["hang"] }
            let (first, second) = (try node.connect(), try node.connect())
            try await first.send(TestNode.invocation("hang", tenant: "small"))
            try await eventually("the seat is taken") { node.spawner.invoked == ["hang", "hang"] }
            try await second.send(TestNode.invocation("echo", tenant: "small"))
            try await eventually("it waits") { try await node.queued("small") == 1 }
            second.leave()
            try await eventually("the queue forgets it") { try await node.queued("small") == 0 }
        }
    }

    @Test("a caller that only says that it sends nothing more gets its answers, the one that waits and those behind it")
    func halfClosed() async throws {
        try await TestNode.withNode { node, _ async throws in
            let second = try node.connect()
            let path = "/v1/tenants/acme/functions/hang/invocations"
            try await second.send(
                TestNode.request("POST", path, headers: ["Bulkhead-Timeout: 500ms"]) + TestNode.request("GET", "/healthz"))
            try await eventually("the function runs") { node.spawner.invoked == ["hang"] }
            second.endSending()
            #expect(try await second.answer().status == 504)
            #expect(try await second.answer().text == "ok\n")
            #expect(try await second.untilEnd() == [], "the connection ends with the last answer")
            let first = try node.connect()
            try await first.send(TestNode.request("POST", path, headers: ["Bulkhead-Timeout: 500ms"]))
            try await eventually("the function runs") { node.spawner.invoked == ["hang", "hang"] }
            first.endSending()
            #expect(try await first.answer().status == 504)
            #expect(try await first.untilEnd() == [])
            let third = try node.connect()
            try await third.send(TestNode.invocation("echo", body: "alone"))
            third.endSending()
            #expect(try await third.answer().text == "alone")
            #expect(try await third.untilEnd() == [])
        }
    }
}
