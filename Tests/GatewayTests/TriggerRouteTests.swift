// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Synchronization
import Testing

@testable import Gateway

private func name(_ text: String) -> Name {
    guard let name = Name(text) else { preconditionFailure("\(text) is no name") }
    return name
}

/// Routes of functions over real sockets: who gets in, what reaches the function, and what comes back.
@Suite struct TriggerRouteTests {
    private static func http(
        _ route: String, _ methods: [String] = [], _ authorization: TriggerAuthorization = .none, _ shape: EventShape = .bulkhead
    ) -> TriggerSpec {
        TriggerSpec(
            name: name("http-\(abs(route.hashValue % 100_000))"),
            kind: .http(route: route, methods: methods, authorization: authorization, shape: shape))
    }

    private func withRoutes(_ routes: [(String, TriggerSpec)], _ body: (TestNode, StubService) async throws -> Void) async throws {
        try await TestNode.withNode { node, service async throws in
            var table = RouteTable()
            for (function, triggers) in Dictionary(grouping: routes, by: \.0) { table.set(name(function), triggers.map(\.1)) }
            let made = table
            service.routes.withLock { $0[name("acme")] = made }
            try await body(node, service)
        }
    }

    @Test(
        "a path's function answers, whatever the method where none is named; nothing else does, and a tenant that is not there looks the same"
    )
    func found() async throws {
        try await withRoutes([("echo", Self.http("/a")), ("status", Self.http("/a/*", ["POST", "GET"]))]) { node, _ async throws in
            let answer = try await node.ask("PATCH", "/t/acme/a?x=1", headers: ["Content-Type: text/x"], body: "hello")
            #expect(answer.status == 200 && answer.text == "hello" && answer.header("content-type") == "text/x")
            #expect(try await node.ask("POST", "/t/acme/a/b", body: "418").status == 418)
            let wrong = try await node.ask("PUT", "/t/acme/a/b", body: "418")
            #expect(wrong.status == 405 && wrong.header("allow") == "GET, HEAD, POST" && wrong.problem?.code == "methodNotAllowed")
            let head = try await node.ask("HEAD", "/t/acme/a")
            #expect(head.status == 200 && head.body.isEmpty)
            let none = try await node.ask("GET", "/t/acme/b"), nobody = try await node.ask("GET", "/t/nobody/b")
            #expect(none.status == 404 && none.text == nobody.text && nobody.status == 404 && !none.text.contains("acme"))
            // As they are sent, byte by byte: nothing is decoded into another path.
            for path in ["/t/acme/%61", "/t/acme/a/", "/t/acme//a", "/t/acme/x/../a", "/t/ACME/a"] {
                let answer = try await node.ask("GET", path)
                #expect(answer.status == 404 || path == "/t/acme/a/", "\(path) \(answer.status)")
            }
            #expect(node.spawner.invoked.count { $0 == "echo" } == 2)
        }
    }

    @Test("a request reaches its function whole, without what is the connection's or this node's")
    func handedOn() async throws {
        try await withRoutes([("request", Self.http("/r/*", [], .none))]) { node, _ async throws in
            let client = try node.connect()
            try await client.send(
                """
                POST /t/acme/r/x%20y?a=1&a=2 HTTP/1.1\r\nHost: node\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                Proxy-Authorization: Basic x\r\nBulkhead-Lineage: forged\r\nBulkhead-Invocation-Type: async\r\nBULKHEAD-x: 1\r\n\
                Authorization: Bearer theirs\r\nCookie: a=1\r\nX-Twice: 1\r\nX-Twice: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n
                """)
            let answer = try await client.answer()
            #expect(
                answer.text == """
                    :method: POST
                    :path: /r/x%20y
                    :query: a=1&a=2
                    :source: 127.0.0.1
                    :rest: x%20y
                    host: node
                    authorization: Bearer theirs
                    cookie: a=1
                    x-twice: 1
                    x-twice: 2
                    3
                    """, "\(answer.text)")
        }
    }

    @Test("a key opens its route alone and is not handed on; what is another's looks like nothing")
    func keys() async throws {
        try await withRoutes([("request", Self.http("/k", [], .key))]) { node, service async throws in
            service.object { caller, tenant, scope in
                guard tenant == name("acme"), scope == .invoke else { return .storage("asked for \(scope)") }
                switch caller {
                case .network("good", _): return nil
                case .network("foreign", _): return .notFound("tenant or resource for this key")
                case .network("weak", _): return Problem(code: "forbidden", title: "", status: 403, detail: "")
                default: return Problem(code: "unauthorized", title: "", status: 401, detail: "")
                }
            }
            let good = try await node.ask("GET", "/t/acme/k", headers: ["Authorization: Bearer good", "X-A: 1"])
            #expect(good.status == 200 && good.text.contains("x-a: 1") && !good.text.lowercased().contains("authorization"))
            #expect(good.header("bulkhead-worker") != nil)
            let foreign = try await node.ask("GET", "/t/acme/k", headers: ["Authorization: Bearer foreign"])
            let none = try await node.ask("GET", "/t/acme/none")
            #expect(foreign.status == 404 && foreign.text == none.text)
            #expect(try await node.ask("GET", "/t/acme/k", headers: ["Authorization: Bearer weak"]).status == 403)
            #expect(try await node.ask("GET", "/t/acme/k").status == 401)
            #expect(node.spawner.invoked.count == 1)
        }
    }

    @Test("a signature is asked for before the body is read, and checked over all of it")
    func signatures() async throws {
        try await withRoutes([("echo", Self.http("/s", [], .hmac(secret: "HOOK")))]) { node, _ async throws in
            let client = try node.connect()
            // The body is never sent.
            try await client.send("POST /t/acme/s HTTP/1.1\r\nHost: n\r\nContent-Length: 60000\r\nExpect: 100-continue\r\n\r\n")
            #expect(try await client.anyHead().status == 401)
            #expect(try await node.ask("POST", "/t/acme/s", headers: ["Bulkhead-Signature: HOOK 4"], body: "hello").status == 401)
            #expect(node.spawner.invoked.isEmpty)
            #expect(try await node.ask("POST", "/t/acme/s", headers: ["Bulkhead-Signature: HOOK 5"], body: "hello").text == "hello")
        }
    }

    @Test("whoever has no key learns that it failed and under which id, and nothing of why")
    func errors() async throws {
        try await withRoutes([("fail", Self.http("/open")), ("fail", Self.http("/closed", [], .key))]) { node, _ async throws in
            let open = try await node.ask("GET", "/t/acme/open"), closed = try await node.ask("GET", "/t/acme/closed")
            #expect(open.status == 500 && open.problem?.code == "functionError")
            for word in ["ValueError", "no such thing", "line 7", "acme"] { #expect(!open.text.contains(word), "\(word)") }
            #expect(open.problem?.invocation?.count == 32 && open.header("bulkhead-invocation-id") == open.problem?.invocation)
            #expect(
                open.header("bulkhead-worker") == nil && open.header("bulkhead-billed") == nil && open.header("bulkhead-version") == nil)
            #expect(closed.problem?.errorType == "ValueError" && closed.header("bulkhead-worker") != nil)
        }
    }

    @Test("a ceiling answers anybody with 429 and a time, without its name and figures")
    func ceilings() async throws {
        try await TestNode.withNode { node, service async throws in
            var table = RouteTable()
            table.set(name("hang"), [Self.http("/h")])
            table.set(name("echo"), [Self.http("/e")])
            let made = table
            service.routes.withLock { $0[name("small")] = made }
            let first = try node.connect(), second = try node.connect()
            try await first.send(TestNode.request("GET", "/t/small/h"))
            try await eventually("the seat is taken") { node.spawner.invoked == ["hang"] }
            try await second.send(TestNode.request("GET", "/t/small/e"))
            try await eventually("the place to wait is taken") { try await node.queued("small") == 1 }
            let refused = try await node.ask("GET", "/t/small/e")
            #expect(refused.status == 429 && refused.header("retry-after") != nil && refused.problem?.code == "throttled")
            #expect(refused.problem?.ceiling == nil && refused.problem?.limit == nil && !refused.text.contains("small"))
        }
    }

    @Test("more or longer header fields than a frame should carry, and a body over the limit, never reach a worker")
    func bounds() async throws {
        try await withRoutes([("request", Self.http("/r"))]) { node, _ async throws in
            func fields(_ count: Int, _ size: Int = 1) -> [String] { (0..<count).map { "X-\($0): " + String(repeating: "a", count: size) } }
            // Host and Content-Length are there too.
            #expect(try await node.ask("GET", "/t/acme/r", headers: fields(126)).status == 200)
            #expect(try await node.ask("GET", "/t/acme/r", headers: fields(127)).status == 431)
            #expect(try await node.ask("GET", "/t/acme/r", headers: fields(5, 7000)).status == 431)
            let large = String(repeating: "b", count: (64 << 10) + 1)
            #expect(try await node.ask("POST", "/t/acme/r", body: large).status == 413)
            #expect(try await node.ask("GET", "/t/acme/r?" + String(repeating: "q", count: 8000)).status == 200)
            #expect(try await node.ask("GET", "/t/acme/r?" + String(repeating: "q", count: 9000)).status >= 400)
            #expect(node.spawner.invoked.count == 2)
        }
    }

    @Test("bodies of callers without a key have a bound together, and give their place back however they end")
    func bodies() async throws {
        try await withRoutes([("echo", Self.http("/e")), ("echo", Self.http("/k", [], .key)), ("hang", Self.http("/h"))]) {
            node, _ async throws in
            let free = OpenBodies.limit - 1000
            let others = try ["t0", "t1", "t2", "t3"].map { try #require(Name($0)) }
            for other in others.dropFirst() { #expect(node.openBodies.reserve(OpenBodies.share, other)) }
            #expect(node.openBodies.reserve(OpenBodies.share - 1000, others[0]) && !node.openBodies.reserve(1, others[1]))
            for size in [900, 1000] {
                #expect(try await node.ask("POST", "/t/acme/e", body: String(repeating: "b", count: size)).status == 200)
            }
            let refused = try await node.ask("POST", "/t/acme/e", body: String(repeating: "b", count: 1001))
            #expect(refused.status == 503 && refused.header("retry-after") == "1")
            let chunked = try node.connect()
            let piece = "1f5\r\n" + String(repeating: "c", count: 0x1f5) + "\r\n"
            try await chunked.send("POST /t/acme/e HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n\(piece)\(piece)0\r\n\r\n")
            #expect(try await chunked.answer().status == 503, "it has become too long")
            try await eventually("its place is free") { node.openBodies.count == free }
            #expect(try await node.ask("POST", "/t/acme/k", body: String(repeating: "b", count: 1001)).status == 200)
            let halfway = try node.connect()
            try await halfway.send("POST /t/acme/e HTTP/1.1\r\nHost: n\r\nContent-Length: 700\r\n\r\npart")
            try await eventually("a place is taken for what has come") { node.openBodies.count == free + 4 }
            halfway.leave()
            try await eventually("its place is free") { node.openBodies.count == free }
            let gone = try node.connect()
            try await gone.send(TestNode.request("POST", "/t/acme/h", body: String(repeating: "b", count: 700)))
            try await eventually("the function runs") { node.spawner.invoked.contains("hang") }
            #expect(node.openBodies.count == free + 700)
            gone.leave()
            try await eventually("its place is free") { node.openBodies.count == free }
            try await eventually("the worker is told") { node.spawner.cancelled == ["hang"] }
            node.openBodies.release(OpenBodies.share, others[1])
            let acme = try #require(Name("acme"))
            #expect(node.openBodies.reserve(OpenBodies.share - 10, acme))
            #expect(try await node.ask("POST", "/t/acme/e", body: "eleven char").status == 503, "its tenant's share is taken")
        }
    }

    @Test(
        "an announced length that is no number, or none that fits, is refused and harms nobody",
        arguments: [
            "9223372036854775807", "9223372036854775806", "9223372036854775808", "18446744073709551615", "1 ", "7x",
        ])
    func lengths(length: String) async throws {
        try await withRoutes([("echo", Self.http("/e"))]) { node, _ async throws in
            for path in [
                "/", "/t/acme/e", "/q/acme/echo/x", "/v1/tenants/acme/functions/echo/invocations", "/v1/tenants/acme/buckets/in/objects/k",
            ] {
                for method in ["GET", "POST", "PUT"] {
                    let caller = try node.connect()
                    try await caller.send("\(method) \(path) HTTP/1.1\r\nHost: n\r\nContent-Length: \(length)\r\n\r\n")
                    if length == "1 " { try await caller.send("b") }
                    let status = try await caller.answer().status
                    #expect(length == "1 " || status >= 400, "\(method) \(path): \(status)")
                    caller.leave()
                }
            }
            #expect(try await node.ask("GET", "/healthz").status == 200)
        }
    }

    @Test("the last chunk of an answer without a body does not stand before the next answer")
    func headOfAStream() async throws {
        try await withRoutes([("stream", Self.http("/s", ["GET"]))]) { node, _ async throws in
            let caller = try node.connect()
            try await caller.send("HEAD /t/acme/s HTTP/1.1\r\nHost: n\r\n\r\n")
            let text = String(decoding: try await caller.untilEnd(), as: UTF8.self)
            #expect(
                text.hasPrefix("HTTP/1") && text.hasSuffix("\r\n\r\n") && text.components(separatedBy: "\r\n\r\n").count == 2, "\(text)")
        }
    }

    @Test("the events of other platforms are made of the request, and answers of theirs become answers")
    func shapes() async throws {
        let routes = [
            ("echo", Self.http("/aws/*", [], .none, .awsAPIGateway2)), ("echo", Self.http("/fc", [], .none, .functionCompute)),
            ("shaped", Self.http("/s", [], .none, .awsAPIGateway2)),
        ]
        try await withRoutes(routes) { node, _ async throws in
            let aws = try await node.ask(
                "PUT", "/t/acme/aws/o%C3%A4/7?b=2", headers: ["Cookie: c=1", "X-A: 1", "Bulkhead-Delay: 1s"], body: "text")
            let event = try #require(try JSONSerialization.jsonObject(with: Data(aws.body)) as? [String: Any])
            #expect(event["rawPath"] as? String == "/aws/o%C3%A4/7" && event["rawQueryString"] as? String == "b=2")
            #expect((event["pathParameters"] as? [String: String]) == ["proxy": "o\u{e4}/7"] && event["cookies"] as? [String] == ["c=1"])
            #expect((event["headers"] as? [String: String])?["x-a"] == "1" && !aws.text.lowercased().contains("bulkhead-delay"))
            let context = try #require(event["requestContext"] as? [String: Any])
            #expect(context["requestId"] as? String == aws.header("bulkhead-invocation-id") && event["body"] as? String == "text")
            #expect((context["http"] as? [String: String])?["method"] == "PUT")
            #expect((context["timeEpoch"] as? Double).map { abs($0 / 1000 - Date().timeIntervalSince1970) < 60 } == true)
            let fc = try await node.ask("POST", "/t/acme/fc", body: "x")
            #expect(fc.text.contains(#""version":"v1""#) && fc.header("content-type") == "application/json")
            let made = try await node.ask(
                "POST", "/t/acme/s", body: #"{"statusCode": 201, "headers": {"X-B": "2"}, "cookies": ["d=4"], "body": "made"}"#)
            #expect(made.status == 201 && made.text == "made" && made.header("x-b") == "2" && made.header("set-cookie") == "d=4")
            let bad = try await node.ask("POST", "/t/acme/s", body: #"{"statusCode": 1000}"#)
            #expect(bad.status == 500 && bad.problem?.code == "functionError" && !bad.text.contains("statusCode"))
            // Above what is made on the loop.
            let long = String(repeating: "l", count: 50_000)
            let large = try await node.ask("POST", "/t/acme/s", body: #"{"statusCode": 202, "body": "\#(long)"}"#)
            #expect(large.status == 202 && large.text == long)
        }
    }

    @Test("a streamed answer arrives in parts, also through a shape")
    func streams() async throws {
        try await withRoutes([("stream", Self.http("/s")), ("stream", Self.http("/t", [], .none, .awsAPIGateway2))]) {
            node, _ async throws in
            for path in ["/t/acme/s", "/t/acme/t"] {
                let answer = try await node.ask("GET", path)
                #expect(answer.status == 200 && answer.header("transfer-encoding") == "chunked")
                #expect(answer.text == (0..<3).map { "HTTP/1.1 part \($0)\r\n" }.joined())
            }
        }
    }

    @Test("connections are served on after any of it")
    func pipelined() async throws {
        try await withRoutes([("fail", Self.http("/f")), ("echo", Self.http("/e"))]) { node, _ async throws in
            let client = try node.connect()
            for (path, status) in [("/t/acme/f", 500), ("/t/acme/none", 404), ("/t/acme/e", 200), ("/healthz", 200)] {
                try await client.send(TestNode.request("GET", path))
                #expect(try await client.answer().status == status, "\(path)")
            }
            // What a route showed to anybody does not carry over to the next request.
            try await client.send(TestNode.invocation("fail"))
            #expect(try await client.answer().problem?.errorType == "ValueError")
        }
    }
}
