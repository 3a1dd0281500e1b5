// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Glibc
import NIOCore
import NIOEmbedded
import NIOHTTP1
import Supervision
import Synchronization
import Testing

@testable import Gateway

/// What a connection may do: garbage, slowness, floods, bad manners.
@Suite struct ConnectionTests {
    /// What a peer without a key may hold a connection with: nothing, half a head, a body that it owes to a refused request, to a
    /// control request, to a call.
    static let holds = [
        "", "POST /v1/tenants/acme/func",
        "POST /v1/tenants/nobody/functions/echo/invocations HTTP/1.1\r\nHost: n\r\nContent-Length: 9\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: n\r\nContent-Length: 9\r\n\r\n",
        "POST /v1/tenants/acme/functions/echo/invocations HTTP/1.1\r\nHost: n\r\nContent-Length: 9\r\n\r\n",
    ]

    // The number decides at which of them the last round of making room is.
    @Test("connections that hold without a call shut nobody out, whatever they hold with, and no call is cut", arguments: holds, 199...202)
    func silence(_ hold: String, _ count: Int) async throws {
        try await TestNode.withNode(connectionLimit: 32) { node, _ async throws in
            let served = try node.connect()
            try await served.send(TestNode.request("POST", "/v1/tenants/acme/functions/hang/invocations", body: "x"))
            // It hangs once it has begun, which is what the worker is told.
            while try await node.supervisor.onLoop({ $0.node.tenantView(Name("acme") ?? .unnamed)?.running ?? 0 }) == 0 {
                await Task.yield()
            }
            var silent: [Client] = []
            for _ in 0..<count {
                let client = try node.connect()
                if !hold.isEmpty { try? await client.send(hold) }
                silent.append(client)
            }
            #expect(try await node.invoke("echo", body: "y").status == 200, "the next caller has a place")
            for _ in 0..<50 { #expect(try await node.invoke("echo", body: "y").status == 200) }
            #expect(try await silent[0].untilEnd().isEmpty, "the first of them has ended")
            let open = try await node.supervisor.onLoop { $0.node.tenantView(Name("acme") ?? .unnamed)?.running }
            #expect(open == 1, "the call that runs has not")
        }
    }

    @Test("a body above the limit is refused, whether it is declared or comes in chunks; one at the limit is not")
    func bodies() async throws {
        try await TestNode.withNode { node, service async throws in
            let path = "/v1/tenants/acme/functions/echo/invocations"
            let full = String(repeating: "x", count: service.bodyLimit)
            #expect(try await node.invoke("echo", body: full).body.count == service.bodyLimit)
            let declared = try node.connect()
            try await declared.send(
                "POST \(path) HTTP/1.1\r\nHost: n\r\nContent-Length: \(service.bodyLimit + 1)\r\nExpect: 100-continue\r\n\r\n")
            let refused = try await declared.answer()
            #expect(refused.status == 413 && refused.problem?.code == "tooLarge" && refused.header("connection") == "close")
            #expect(try await declared.untilEnd() == [])
            let chunked = try node.connect()
            try await chunked.send("POST \(path) HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in 0..<5 { try await chunked.send("4000\r\n" + String(repeating: "y", count: 0x4000) + "\r\n") }
            #expect(try await chunked.answer().status == 413)
            let control = try await node.ask("POST", "/v1/tenants/acme/keys", body: String(repeating: "x", count: (1 << 20) + 1))
            #expect(control.status == 413)
            #expect(node.spawner.invoked == ["echo"])
        }
    }

    @Test("a caller that waits for permission gets it")
    func expectation() async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            try await client.send(
                "POST /v1/tenants/acme/functions/echo/invocations HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            #expect(try await client.anyHead().status == 100)
            try await client.send("ok")
            #expect(try await client.answer().text == "ok")
        }
    }

    @Test(
        "garbage is answered with 400 and the end of the connection",
        arguments: [
            "\u{16}\u{3}\u{1}\u{2}\u{0}garbage\r\n\r\n", "GET /healthz HTTP/9.9\r\n\r\n", "GET /healthz\r\n\r\n", "GET  HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", "GET /healthz HTTP/1.1\r\nA b: c\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "POST /healthz HTTP/1.1\r\nContent-Length: 1x\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "POST /healthz HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        ])
    func garbage(bytes: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            try await client.send(bytes)
            let text = String(decoding: try await client.untilEnd(), as: UTF8.self)
            #expect(text.hasPrefix("HTTP/1.1 400 "), "\(text.prefix(200))")
            #expect(text.components(separatedBy: "HTTP/1.1 ").count == 2, "one answer, not more: \(text)")
            #expect(text.contains("application/problem+json") && text.contains("\"code\":\"badRequest\""), "\(text)")
            #expect(try await node.ask("GET", "/healthz").status == 200)
        }
    }

    @Test("header fields that are too large are answered with 431, as a problem", arguments: [1, 2000])
    func largeHeaders(fields: Int) async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            let lines = (0..<fields).map { "X-\($0): \(String(repeating: "x", count: 100_000 / fields))" }
            try await client.send("GET /healthz HTTP/1.1\r\n\(lines.joined(separator: "\r\n"))\r\n\r\n")
            let answer = try await client.answer()
            #expect(answer.status == 431 && answer.problem?.code == "headersTooLarge", "\(answer.status) \(answer.text)")
            #expect(answer.header("connection") == "close")
        }
    }

    @Test("pipelined requests are answered in their order, slow ones too")
    func pipelining() async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            let requests =
                TestNode.invocation("echo", body: "first") + TestNode.request("GET", "/v1/version") + TestNode.invocation("fail")
                + TestNode.invocation("echo", body: "fourth") + TestNode.request("GET", "/nothing") + TestNode.request("GET", "/healthz")
            try await client.send(requests)
            #expect(try await client.answer().text == "first")
            #expect(try await client.answer().text.contains("runtimes"))
            #expect(try await client.answer().status == 500)
            #expect(try await client.answer().text == "fourth")
            #expect(try await client.answer().status == 404)
            #expect(try await client.answer().text == "ok\n")
        }
    }

    @Test("a connection is kept, unless its caller says otherwise or is of HTTP/1.0")
    func keepAlive() async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            for number in 0..<50 {
                try await client.send(TestNode.invocation("echo", body: "\(number)"))
                #expect(try await client.answer().text == "\(number)")
            }
            for request in ["GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n", "GET /healthz HTTP/1.0\r\n\r\n"] {
                let one = try node.connect()
                try await one.send(request)
                let answer = try await one.answer()
                #expect(answer.status == 200 && answer.header("connection") == "close")
                #expect(try await one.untilEnd() == [])
            }
        }
    }

    @Test("an answer to HEAD has no body, so that the next answer is not taken for it", arguments: ["/healthz", "/v1/version", "/nothing"])
    func heads(path: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            try await client.send(TestNode.request("HEAD", path) + TestNode.request("GET", "/healthz"))
            _ = try await client.answer(toHead: true)
            #expect(try await client.answer().text == "ok\n")
        }
    }

    @Test("requests on the control socket are served to the node's own user")
    func control() async throws {
        try await TestNode.withNode { node, service async throws in
            service.object { caller, _, _ in caller == .operator ? nil : .notFound("you") }
            let client = try node.connectControl()
            try await client.send(TestNode.request("GET", "/v1/version"))
            #expect(try await client.answer().status == 200)
            #expect(try await node.ask("GET", "/v1/version").status == 404)
        }
    }

    @Test("a thousand idle connections stop nobody")
    func crowd() async throws {
        var limit = rlimit()
        unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        if limit.rlim_cur < 4096 {
            limit.rlim_cur = min(4096, limit.rlim_max)
            unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        }
        try await TestNode.withNode { node, _ async throws in
            let idle = try await onThread { try (0..<1000).map { _ in try node.connect() } }
            // A third of them has begun a request and does not go on.
            for (number, client) in idle.enumerated() where number % 3 == 0 { try await client.send("POST /v1/tenants/acme/func") }
            let answer = try await node.invoke("echo", body: "still here")
            #expect(answer.text == "still here")
            #expect(idle.count == 1000)
            // Of a listening socket, this field is how many may wait (inet_diag, tcp_get_info).
            var info = tcp_info()
            var size = socklen_t(MemoryLayout<tcp_info>.size)
            unsafe getsockopt(node.listener, Int32(IPPROTO_TCP), TCP_INFO, &info, &size)
            #expect(info.tcpi_sacked >= 1000, "a burst of a thousand connections does not fit into the queue")
        }
    }

    @Test("an upload is written out, deployed once, and thrown away where its sender leaves")
    func uploads() async throws {
        try await TestNode.withNode { node, service async throws in
            let answer = try await node.ask("PUT", "/v1/tenants/acme/functions", body: String(repeating: "a", count: 100_000))
            #expect(answer.status == 201 && answer.text.contains("\"codeBytes\":100000"))
            #expect(service.calls == ["deploy acme 100000", "discard"])
            #expect(try await node.ask("PUT", "/v1/tenants/acme/functions").status == 400)
            let client = try node.connect()
            try await client.send("PUT /v1/tenants/acme/functions HTTP/1.1\r\nHost: n\r\nContent-Length: 1000\r\n\r\npart")
            client.leave()
            try await eventually("the part is thrown away") { service.calls.filter { $0 == "discard" }.count == 3 }
            #expect(service.calls.filter { $0.hasPrefix("deploy") }.count == 1)
            #expect(try await node.ask("PUT", "/v1/tenants/acme/functions", headers: ["Content-Length: 999999999999"]).status == 400)
            let large = try node.connect()
            try await large.send("PUT /v1/tenants/acme/functions HTTP/1.1\r\nHost: n\r\nContent-Length: 999999999999\r\n\r\n")
            #expect(try await large.answer().status == 413)
        }
    }

    // MARK: time

    /// A connection without a socket, on a clock that the test turns.
    private func embedded(_ node: TestNode, _ service: StubService, _ body: @escaping @Sendable (EmbeddedChannel) throws -> Void)
        async throws
    {
        try await onThread {
            let channel = EmbeddedChannel()
            try channel.pipeline.syncOperations.configureHTTPServerPipeline(withPipeliningAssistance: true, withErrorHandling: false)
            try channel.pipeline.syncOperations.addHandler(
                HTTPHandler(
                    service: service, supervisor: node.supervisor, isControl: false, room: BodyRoom(), logger: TestNode.quiet))
            try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
            try body(channel)
            _ = try? channel.finish(acceptAlreadyClosed: true)
        }
    }

    @Test("whoever is slow is cut: before a request, in its headers, in its body, in an upload; but not earlier")
    func slowness() async throws {
        try await TestNode.withNode { node, service async throws in
            let path = "/v1/tenants/acme/functions/echo/invocations"
            let cases: [(String, Int64)] = [
                ("", 75), ("POST \(path) HTTP/1.1\r\nX: y\r\n", 75), ("POST \(path) HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 60),
                ("POST \(path) HTTP/1.1\r\nContent-Length: 99\r\n\r\n", 60), ("POST /nothing HTTP/1.1\r\nContent-Length: 99\r\n\r\n", 60),
                ("PUT /v1/tenants/acme/functions HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", 600),
            ]
            for (begin, seconds) in cases {
                let isCut = try await self.cut(node, service, begin, seconds)
                #expect(isCut == [false, true], "\(begin.prefix(60)) after \(seconds) s")
            }
        }
    }

    /// Sends `begin`, then a byte a second; whether the connection is closed a second before and a second after its time.
    private func cut(_ node: TestNode, _ service: StubService, _ begin: String, _ seconds: Int64) async throws -> [Bool] {
        let found = Box<[Bool]>([])
        try await embedded(node, service) { channel in
            try channel.writeInbound(ByteBuffer(string: begin))
            let trickles = !begin.isEmpty
            for _ in 0..<(seconds - 1) {
                channel.embeddedEventLoop.advanceTime(by: .seconds(1))
                if trickles, channel.isActive, begin.contains("9") == false || seconds == 600 {
                    try channel.writeInbound(ByteBuffer(string: "x"))
                }
            }
            var states = [!channel.isActive]
            channel.embeddedEventLoop.advanceTime(by: .seconds(2))
            states.append(!channel.isActive)
            found.value = states
        }
        return found.value
    }
}

final class Box<T: Sendable>: Sendable {
    private let content: Mutex<T>
    init(_ value: T) { content = Mutex(value) }
    var value: T {
        get { content.withLock { $0 } }
        set { content.withLock { $0 = newValue } }
    }
}
