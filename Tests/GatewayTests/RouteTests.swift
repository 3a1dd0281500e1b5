// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Testing

@testable import Gateway

/// Every route: who answers, with what, and how mistakes are told.
@Suite struct RouteTests {
    /// Path, the methods that it has, the status of each.
    static let routes: [(String, [String: Int])] = [
        ("/healthz", ["GET": 200]), ("/readyz", ["GET": 200]), ("/metrics", ["GET": 200]), ("/v1/version", ["GET": 200]),
        ("/v1/tenants", ["GET": 200]), ("/v1/functions", ["GET": 200]), ("/v1/workers", ["GET": 200]), ("/v1/workers/w-1f", ["GET": 200]),
        ("/v1/invocations/0123456789abcdef0123456789abcdef/explain", ["GET": 200]), ("/v1/tenants/acme/workers", ["GET": 200]),
        ("/v1/tenants/acme/invocations/0123456789abcdef0123456789abcdef", ["GET": 200, "DELETE": 200]),
        ("/v1/tenants/acme/invocations/0123456789abcdef0123456789abcdef/explain", ["GET": 200]),
        ("/v1/invocations/0123456789abcdef0123456789abcdef", ["GET": 200, "DELETE": 200]), ("/v1/tenants/acme/events", ["GET": 200]),
        ("/v1/tenants/acme/events/0123456789abcdef0123456789abcdef/payload", ["GET": 200]), ("/v1/events", ["GET": 200]),
        ("/v1/tenants/acme/dead-letters", ["GET": 200]), ("/v1/tenants/acme/dead-letters/redrive", ["POST": 200]),
        ("/v1/tenants/acme/dead-letters/purge", ["POST": 200]), ("/v1/tenants/acme/loops", ["GET": 200]), ("/v1/loops", ["GET": 200]),
        ("/v1/tenants/acme/loops/resume", ["POST": 200]), ("/v1/tenants/acme/triggers", ["GET": 200]), ("/v1/triggers", ["GET": 200]),
        ("/v1/tenants/acme/logs", ["GET": 200]), ("/v1/logs", ["GET": 200]), ("/v1/failures", ["GET": 200]),
        ("/v1/tenants/acme/failures", ["GET": 200]),
        ("/v1/tenants/acme/functions", ["GET": 200, "PUT": 201]), ("/v1/tenants/acme/functions/f", ["DELETE": 204]),
        ("/v1/tenants/acme/functions/f/versions", ["GET": 200]), ("/v1/tenants/acme/functions/f/logs", ["GET": 200]),
        ("/v1/tenants/acme/keys", ["GET": 200, "POST": 201]), ("/v1/tenants/acme/keys/k1", ["DELETE": 204]),
        ("/v1/tenants/acme/keys/k1/rotate", ["POST": 201]), ("/v1/tenants/acme/quota", ["GET": 200]),
        ("/v1/tenants/acme/usage", ["GET": 200]), ("/v1/tenants/acme/top", ["GET": 200]), ("/v1/top", ["GET": 200]),
        ("/v1/reload", ["POST": 200]), ("/v1/applications", ["GET": 200]), ("/v1/tenants/acme/applications", ["GET": 200]),
        ("/v1/tenants/acme/functions/f/aliases", ["GET": 200]),
        ("/v1/tenants/acme/functions/f/aliases/prod", ["GET": 200, "PUT": 200, "DELETE": 204]),
        ("/v1/tenants/acme/functions/f/rollback", ["POST": 200]), ("/v1/tenants/acme/functions/f/versions/7", ["DELETE": 204]),
        ("/v1/tenants/acme/buckets", ["GET": 200]), ("/v1/tenants/acme/buckets/photos", ["PUT": 201, "DELETE": 204]),
        ("/v1/tenants/acme/buckets/photos/objects", ["GET": 200]),
        ("/v1/tenants/acme/buckets/photos/objects/in/a.jpg", ["GET": 200, "PUT": 201, "DELETE": 204]),
        ("/v1/tenants/acme/functions/echo/invocations", ["POST": 200]), ("/v1/tenants/acme/functions/echo@1/invocations", ["POST": 200]),
    ]

    @Test("every route has its methods; any other is 405 and names them", arguments: routes)
    func methods(path: String, statuses: [String: Int]) async throws {
        try await TestNode.withNode { node, _ async throws in
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"] {
                // HEAD goes wherever GET goes (RFC 9110, section 9.3.2).
                let wanted = statuses[method == "HEAD" ? "GET" : method]
                let bodies = [
                    "keys": #"{"scopes": ["invoke"]}"#, "rotate": #"{"graceSeconds": 60}"#, "reload": #"{"dryRun": true}"#,
                    "rollback": #"{"alias": "prod"}"#, "prod": #"{"targets": [{"version": 7}]}"#,
                    "redrive": #"{"all": true}"#, "purge": #"{"all": true}"#, "resume": #"{"edge": "f/t", "mode": "keep"}"#,
                ]
                let body = method == "POST" || method == "PUT" ? bodies[String(path.split(separator: "/").last ?? "")] ?? "x" : "x"
                let answer = try await node.ask(method, path, body: body)
                #expect(answer.status == wanted ?? 405, "\(method) \(path): \(answer.text)")
                guard wanted == nil else { continue }
                let allowed = Set((answer.header("allow") ?? "").split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) })
                #expect(allowed.subtracting(["HEAD"]) == Set(statuses.keys), "\(method) \(path): Allow")
                if method != "HEAD" { #expect(answer.problem?.code == "methodNotAllowed") }
            }
        }
    }

    @Test(
        "what is not there is 404",
        arguments: [
            "/", "/v1", "/v2/tenants", "/v1/nothing", "/v1/tenants/acme", "/v1/tenants/acme/nothing", "/v1/workers/w-1/x", "/v1/workers/17",
            "/v1/tenants/acme/workers/w-1", "/v1/tenants/acme/functions/f/nothing", "/v1/tenants/acme/functions/f/versions/1/x",
            "/v1/tenants/acme/functions/f/aliases/nobody", "/v1/tenants/acme/functions/f/aliases/a/b", "/v1/applications/x",
            "/v1/tenants/acme/functions/nobody/invocations/x", "/healthz/x", "/v1/version/x", "/metrics/x", "/v1/tenants/acme/keys/a/b",
            "/v1/tenants/acme/buckets/photos/nothing",
        ])
    func unknown(path: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let answer = try await node.ask("GET", path)
            #expect(answer.status == 404 && answer.problem?.code == "notFound", "\(answer.status) \(answer.text)")
            #expect(answer.problem?.status == 404)
        }
    }

    @Test("a function or a version that is not there is 404")
    func missing() async throws {
        try await TestNode.withNode { node, _ async throws in
            for name in ["nobody", "echo@2", "echo@4294967295"] { #expect(try await node.invoke(name).status == 404, "\(name)") }
            #expect(try await node.ask("POST", "/v1/tenants/acme/functions/echo/invocations?version=2").status == 404)
            #expect(try await node.ask("POST", "/v1/tenants/acme/functions/echo/invocations?alias=blue").status == 404)
            #expect(try await node.ask("POST", "/v1/tenants/acme/functions/echo/invocations?version=1").status == 200)
        }
    }

    static let badNames = [
        "Acme", "9a", "-a", "a-", "a_b", "a.b", "..", ".", "%2e%2e", "%2e", "a%2fb", "%2F", "a%00", "a%0d%0ab", "%C3%A4", "a%20b", "a+b",
        "~",
        String(repeating: "a", count: 64), "a%cc%81", "%ff",
    ]

    @Test("a tenant's and a function's name obey the rule, whatever their encoding", arguments: badNames)
    func names(name: String) async throws {
        try await TestNode.withNode { node, service async throws in
            for (method, path) in [
                ("POST", "/v1/tenants/\(name)/functions/echo/invocations"), ("POST", "/v1/tenants/acme/functions/\(name)/invocations"),
                ("GET", "/v1/tenants/\(name)/workers"), ("GET", "/v1/tenants/\(name)/logs"),
                ("DELETE", "/v1/tenants/acme/functions/\(name)"),
                ("PUT", "/v1/tenants/\(name)/functions"), ("GET", "/v1/tenants/\(name)/keys"),
            ] {
                let answer = try await node.ask(method, path, body: "x")
                #expect(answer.status == 400 && answer.problem?.code == "badRequest", "\(method) \(path): \(answer.status) \(answer.text)")
            }
            #expect(service.calls.isEmpty && node.spawner.invoked.isEmpty)
        }
    }

    @Test("encoded letters are letters, doubled slashes are one, and a query does not change the path")
    func encodings() async throws {
        try await TestNode.withNode { node, _ async throws in
            for path in [
                "/v1/tenants/%61cme/functions/%65cho/invocations", "//v1///tenants/acme/functions/echo/invocations/",
                "/v1/tenants/acme/functions/echo/invocations?version=1&version=%31", "/v1/tenants/acme/functions/echo%401/invocations",
            ] { #expect(try await node.ask("POST", path, body: "x").text == "x", "\(path)") }
            for path in [
                "/v1/tenants/acme%2ffunctions/echo/invocations", "/v1/tenants/globex/../acme/functions/echo/invocations",
                "/v1/tenants/acme/functions/echo/%2e%2e/invocations", "/v1/tenants/acme/functions/echo/invocations?x=/../../y",
                "/v1%2ftenants/acme/functions/echo/invocations",
            ] { #expect(try await node.ask("POST", path).status >= 400, "\(path)") }
            for target in ["/%", "/%4", "/%zz", "/a?b=%", "*", "healthz", "/\(String(repeating: "a", count: 4096))"] {
                #expect(try await node.ask("GET", target).status == 400, "\(target.prefix(20))")
            }
            #expect(node.spawner.invoked.count == 4)
        }
    }

    @Test("a path's parts and query are decoded once")
    func parsing() throws {
        let path = try #require(RequestPath("/a/%2e%2e/b%2Fc/d+e//%25?x=1&y=a+b%26c&z&x=2"))
        #expect(path.parts == ["a", "..", "b/c", "d+e", "%"])
        #expect(path.query == ["x": "2", "y": "a b&c", "z": ""])
        #expect(RequestPath("/\u{301}a/\u{301}")?.parts.count == 2, "a slash is a byte, whatever comes behind it")
        #expect(RequestPath("/a?\u{301}=1")?.parts == ["a"])
        for bad in ["", "a", "?", "/%", "/%f", "/%fg", "/%ff", "/?%", "http://x/"] { #expect(RequestPath(bad) == nil, "\(bad)") }
    }

    @Test(
        "a parameter that a route does not know is refused with its name, not overlooked",
        arguments: [
            ("tenants/acme/usage?form=1", "form"), ("tenants/acme/events?functoin=f", "functoin"), ("events?tenant=acme", "tenant"),
            ("tenants/acme/dead-letters?state=dead", "state"), ("tenants/acme/workers?function=f", "function"), ("top?x", "x"),
            ("tenants/acme/functions/f/logs?function=g", "function"), ("tenants/acme/buckets/photos/objects?prefx=a", "prefx"),
            ("workers/w-1?a=b", "a"), ("logs?after=1-2", "after"), ("logs?version=1", "version"),
            ("tenants/acme/functions/f/versions?n=1", "n"), ("tenants/acme/keys?x=1", "x"),
        ])
    func unknownParameters(path: String, name: String) async throws {
        try await TestNode.withNode { node, service async throws in
            let answer = try await node.ask("GET", "/v1/" + path)
            #expect(answer.status == 400 && answer.problem?.detail.contains("`\(name)`") == true, "\(answer.text)")
            #expect(service.calls.isEmpty)
            #expect(try await node.ask("GET", "/healthz?x=1").status == 200)
            #expect(try await node.ask("GET", "/v1/nothing?x=1").status == 404)
        }
    }

    @Test("a tenant's logs are narrowed to a function as a function's are")
    func logsOfFunction() async throws {
        try await TestNode.withNode { node, service async throws in
            #expect(try await node.ask("GET", "/v1/tenants/acme/logs?function=f&tail=5").status == 200)
            #expect(service.calls == ["logs acme f tail=5 since=0 grep=-"])
            #expect(try await node.ask("GET", "/v1/tenants/acme/logs?function=F").status == 400)
        }
    }

    @Test("filters of the logs are numbers within bounds")
    func logs() async throws {
        try await TestNode.withNode { node, service async throws in
            let good = try await node.ask("GET", "/v1/tenants/acme/functions/f/logs?tail=99999&since=5&grep=a%20b")
            #expect(good.status == 200 && good.header("content-type") == "application/x-ndjson")
            #expect(good.text.split(separator: "\n").count == 2)
            #expect(service.calls == ["logs acme f tail=10000 since=5 grep=a b"])
            for query in ["tail=x", "since=-1", "version=4294967296", "until=1e3"] {
                #expect(try await node.ask("GET", "/v1/tenants/acme/logs?\(query)").status == 400, "\(query)")
            }
        }
    }

    @Test("logs of all tenants are asked for without a place to go on from, and say where that may not be all")
    func logsOfAll() async throws {
        try await TestNode.withNode { node, service async throws in
            let some = try await node.ask("GET", "/v1/logs?function=f&tail=5&since=5&until=5")
            #expect(some.status == 200 && some.header("bulkhead-log-more") == nil && some.header("bulkhead-log-position") == nil)
            #expect(try await node.ask("GET", "/v1/logs?grep=more").header("bulkhead-log-more") == "true")
            #expect(service.calls == ["logs - f tail=5 since=5 grep=-", "logs - - tail=100 since=0 grep=more"])
            for (query, said) in [
                ("since=2&until=1", "until is before since"), ("since=x", "since must be"), ("level=loud", "level must be"),
                ("invocation=xyz", "invocation must be"), ("function=F", "a function's name"), ("tail=-x", "tail must be"),
            ] {
                let answer = try await node.ask("GET", "/v1/logs?\(query)")
                #expect(answer.status == 400 && answer.problem?.detail.contains(said) == true, "\(query): \(answer.text)")
            }
        }
    }

    @Test("bad numbers and bodies are told as such")
    func values() async throws {
        try await TestNode.withNode { node, _ async throws in
            for target in [
                "/v1/tenants/acme/functions/echo@x/invocations", "/v1/tenants/acme/functions/echo@/invocations",
                "/v1/tenants/acme/functions/echo@1@1/invocations", "/v1/tenants/acme/functions/echo@4294967296/invocations",
                "/v1/tenants/acme/functions/echo/invocations?version=x",
            ] { #expect(try await node.ask("POST", target).status == 400, "\(target)") }
            for body in ["", "{}", "{\"scopes\": []}", "{\"scopes\": [\"root\"]}", "[1]", "\u{0}"] {
                #expect(try await node.ask("POST", "/v1/tenants/acme/keys", body: body).status == 400, "\(body)")
            }
            #expect(try await node.ask("GET", "/v1/tenants/acme/invocations/xyz").status == 400)
        }
    }

    @Test("readiness says no while the node starts")
    func readiness() async throws {
        try await TestNode.withNode { node, service async throws in
            service.setReady(false)
            #expect(try await node.ask("GET", "/readyz").status == 503)
            #expect(try await node.ask("GET", "/healthz").status == 200)
        }
    }
}
