// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Foundation
import Glibc
import NIOCore
import NIOHTTP1
import Supervision
import Synchronization
import Testing

@testable import Gateway

/// The short way of plain calls beside the long one through NIO's decoder and encoder.
@Suite struct PlainCallTests {
    private static let path = "/v1/tenants/acme/functions/echo/invocations"

    private func take(_ text: String, limit: Int = 1000) -> (call: PlainCall?, rest: Int) {
        var bytes = ByteBuffer(string: text)
        var line = PlainCall.Line()
        let call = PlainCall(&bytes, bodyLimit: limit, line: &line)
        return (call, bytes.readableBytes)
    }

    @Test("a plain call is taken to its last byte and no further")
    func plain() throws {
        let text =
            "POST \(Self.path) HTTP/1.1\r\nHost: n\r\nContent-Length: 3\r\nX-A:b c\r\nEmpty:\r\nConnection: Keep-Alive\r\n\r\nabcPOST"
        let (found, rest) = take(text)
        let call = try #require(found)
        #expect(call.function.description == "acme/echo" && rest == 4)
        #expect(call.body == ByteBuffer(string: "abc") && call.head.uri == Self.path && call.head.method == .POST)
        #expect(
            call.head.headers.map { "\($0.name)=\($0.value)" } == [
                "Host=n", "Content-Length=3", "X-A=b c", "Empty=", "Connection=Keep-Alive",
            ])
        #expect(take("POST \(Self.path) HTTP/1.1\r\n\r\n").call?.body.readableBytes == 0)
        #expect(take("POST \(Self.path) HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", limit: 3).call != nil)
    }

    @Test(
        "anything else is left as it is, for the decoder to judge",
        arguments: [
            "", "P", "POST \(path) HTTP/1.1\r\n", "POST \(path) HTTP/1.1\r\nHost: n\r\n",
            "POST \(path) HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
            "PUT \(path) HTTP/1.1\r\n\r\n", "POST \(path) HTTP/1.0\r\n\r\n", "POST \(path)?version=1 HTTP/1.1\r\n\r\n",
            "POST \(path)/ HTTP/1.1\r\n\r\n", "POST /v1/tenants/acme/functions/echo@1/invocations HTTP/1.1\r\n\r\n",
            "POST /v1/tenants/acme/functions/-echo/invocations HTTP/1.1\r\n\r\n",
            "POST /v1/tenants//functions/echo/invocations HTTP/1.1\r\n\r\n",
            "POST /v1/tenants/Acme/functions/echo/invocations HTTP/1.1\r\n\r\n",
            "POST /v1/tenants/\(String(repeating: "a", count: 64))/functions/echo/invocations HTTP/1.1\r\n\r\n",
            "POST \(path) HTTP/1.1\n\n", "POST \(path) HTTP/1.1\r\n\n", "POST \(path) HTTP/1.1\r\nA: b\n\r\n\r\n",
            "POST \(path) HTTP/1.1\r\n A: b\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "POST \(path) HTTP/1.1\r\nA : b\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nA: b \r\n\r\n",
            "POST \(path) HTTP/1.1\r\nA:\tb\r\n\r\n", "POST \(path) HTTP/1.1\r\nA: \u{e9}\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nA: \u{0}\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nno colon\r\n\r\n", "POST \(path) HTTP/1.1\r\n: a\r\n\r\n", "POST \(path) HTTP/1.1\r\nA_b: c\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\na",
            "POST \(path) HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
            "POST \(path) HTTP/1.1\r\nContent-Length:\r\n\r\n", "POST \(path) HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
            "POST \(path) HTTP/1.1\r\nContent-Length: 1001\r\n\r\n\(String(repeating: "a", count: 1001))",
            "POST \(path) HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nTRANSFER-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", "POST \(path) HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nTE: trailers\r\n\r\n", "POST \(path) HTTP/1.1\r\nTrailer: A\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nConnection: close\r\n\r\n", "POST \(path) HTTP/1.1\r\nConnection: keep-alive, te\r\n\r\n",
            "POST \(path) HTTP/1.1\r\nA: \(String(repeating: "x", count: 9000))\r\n\r\n",
            "POST \(path) HTTP/1.1\r\n\(String(repeating: "A: b\r\n", count: 65))\r\n",
        ])
    func other(text: String) {
        let (call, rest) = take(text)
        #expect(call == nil && rest == text.utf8.count)
    }

    @Test("a remembered line serves for its own function alone")
    func line() {
        var line = PlainCall.Line()
        for name in ["echo", "echo", "echo2", "ech", "echo"] {
            var bytes = ByteBuffer(string: "POST /v1/tenants/acme/functions/\(name)/invocations HTTP/1.1\r\n\r\n")
            #expect(PlainCall(&bytes, bodyLimit: 0, line: &line)?.function.description == "acme/\(name)")
        }
        var bytes = ByteBuffer(string: "POST /v1/tenants/acme/functions/echo/invocations HTTP/1.0\r\n\r\n")
        #expect(PlainCall(&bytes, bodyLimit: 0, line: &line) == nil)
    }

    /// What a caller sees beside ids, names and times.
    private func seen(_ answer: Answer) -> String {
        let own = ["bulkhead-invocation-id", "bulkhead-duration", "bulkhead-worker", "bulkhead-start", "bulkhead-billed"]
        let headers = answer.headers.map { own.contains($0.name.lowercased()) ? $0.name : "\($0.name): \($0.value)" }.sorted()
        let id = answer.header("bulkhead-invocation-id") ?? "-"
        return "\(answer.status) \(headers) \(answer.text.replacing(id, with: "ID"))"
    }

    @Test(
        "both ways answer alike",
        arguments: [
            ("echo", "text"), ("echo", ""), ("fail", ""), ("status", "201"), ("status", "204"), ("status", "205"), ("status", "304"),
            ("status", "404"),
            ("status", "199"), ("status", "299"),
            ("headers", "X-A: 1|Set-Cookie: a|Content-Length: 3|Bulkhead-X: y|Transfer-Encoding: chunked|A b: c"),
            ("stream", ""), ("stream", "202"), ("stream", "99"), ("crash", ""), ("broken", ""), ("nothing", ""),
        ])
    func alike(function: String, body: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let path = "/v1/tenants/acme/functions/\(function)/invocations"
            let (short, long) = (try node.connect(), try node.connect())
            for round in 0..<2 {
                try await short.send(TestNode.request("POST", path, headers: ["Content-Type: text/plain"], body: body))
                let one = try await short.answer()
                // With this field it is no plain call.
                try await long.send(TestNode.request("POST", path, headers: ["Content-Type: text/plain", "TE: trailers"], body: body))
                let other = try await long.answer()
                #expect(self.seen(one) == self.seen(other), "round \(round)")
                if one.header("connection") == "close" { return }
            }
            // Nothing is left over, on neither.
            for client in [short, long] {
                try await client.send(TestNode.request("GET", "/healthz"))
                #expect(try await client.answer().text == "ok\n")
            }
        }
    }

    @Test("what comes before an answer waits for it, whatever it is, and a caller's last word too")
    func order() async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            let parts = [
                TestNode.invocation("echo", body: "1"), TestNode.invocation("stream"), TestNode.invocation("echo", body: "2"),
                TestNode.request("GET", "/healthz"),
                TestNode.invocation("echo", body: "3"), TestNode.request("HEAD", "/healthz"), TestNode.invocation("fail"),
                TestNode.invocation("echo", body: "4"),
            ]
            try await client.send(parts.joined())
            client.endSending()
            var texts: [String] = []
            for index in parts.indices { texts.append(try await client.answer(toHead: index == 5).text) }
            #expect(
                texts[0] == "1" && texts[1].contains("part 2") && texts[2] == "2" && texts[3] == "ok\n" && texts[4] == "3"
                    && texts[7] == "4")
            #expect(try await client.untilEnd() == [])
        }
    }

    @Test("of what the loop finds at once each tenant is served in turn, not the first caller first")
    func turns() async throws {
        try await TestNode.withNode { node, service async throws in
            // Fewer than a loop that has had little to do asks the kernel for at once: 64.
            let flood = try await onThread { try (0..<40).map { _ in try node.connect() } }
            let quiet = try node.connect()
            for client in flood + [quiet] {
                try await client.send(TestNode.request("GET", "/healthz"))
                #expect(try await client.answer().status == 200)
            }
            let (held, sent) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
            node.supervisor.loop.execute {
                held.signal()
                sent.wait()
            }
            try await onThread { held.wait() }
            for client in flood { try await client.send(TestNode.invocation("nothing")) }
            try await quiet.send(TestNode.invocation("nothing", tenant: "small"))
            sent.signal()
            for client in flood + [quiet] { #expect(try await client.answer().status == 404) }
            let tenants = service.sought.withLock { $0.map(\.tenant.text) }
            #expect(tenants.count == 41)
            #expect(try #require(tenants.firstIndex(of: "small")) < 20, "\(tenants)")
        }
    }

    @Test("a caller that sends on and on before its answer is not read on and on")
    func bound() async throws {
        try await TestNode.withNode { node, _ async throws in
            let client = try node.connect()
            try await client.send(TestNode.invocation("hang"))
            try await eventually("it runs") { node.spawner.invoked == ["hang"] }
            let sent = try await onThread {
                let block = [UInt8](repeating: 0x41, count: 1 << 20)
                var sent = 0, idle = 0
                // Twice a second without room: nobody reads.
                while sent < 64 << 20, idle < 5 {
                    let count = unsafe send(client.socket, block, block.count, CInt(MSG_NOSIGNAL) | CInt(MSG_DONTWAIT))
                    if count > 0 { (sent, idle) = (sent + count, 0) } else { idle += 1; usleep(200_000) }
                }
                return sent
            }
            #expect(sent < 32 << 20, "\(sent) bytes were taken")
        }
    }

    @Test("a problem is written as the encoder writes it, or by it")
    func problems() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let texts = ["", "plain", "with \"quotes\" and \\ and / and é\u{1F600}\u{7F}\u{2028}", "line\nbreak", "\u{1}"]
        let numbers: [Double?] = [nil, 0, 1, 120, 1.5, 1e12, -3]
        for (index, text) in texts.enumerated() {
            for number in numbers {
                var problem = Problem(code: "throttled", title: text, status: 429, detail: text)
                problem.retryAfter = number
                #expect(ControlAnswer(problem).body == Array(try encoder.encode(problem)))
                (problem.level, problem.ceiling, problem.limit, problem.value) = ("tenant", text, .max, 0)
                (problem.invocation, problem.errorType, problem.errorMessage, problem.errorStack) = ("id", text, text, text)
                #expect(ControlAnswer(problem).body == Array(try encoder.encode(problem)))
                #expect((problem.quickJSON != nil) == (index < 3 && number != 1.5 && number != 1e12))
                problem.errors = [text]
                #expect(ControlAnswer(problem).body == Array(try encoder.encode(problem)))
                #expect(ControlAnswer(problem).headers.first?.1 == "application/problem+json")
            }
        }
    }

    @Test("a head that ends a field of its own early loses that field")
    func fields() {
        let headers = [("A", "b\r\nEvil: 1"), ("C\nD", "e"), ("F", "g\th")]
        let bytes = PlainAnswer.bytes(299, headers, ByteBuffer(string: "x"), keepsAlive: false, ByteBufferAllocator())
        #expect(String(buffer: bytes) == "HTTP/1.1 299 \r\nF: g\th\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
    }
}
