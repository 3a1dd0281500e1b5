// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Glibc
import NIOCore
import NIOEmbedded
import NIOHTTP1
import Testing

@testable import Gateway

/// Requests that are refused while they are being sent.
@Suite struct LingerTests {
    private static let call = "POST /v1/tenants/acme/functions/echo/invocations HTTP/1.1\r\nHost: n\r\n"
    private static let large = "Content-Length: 200000000\r\n\r\n"

    /// What is refused early, with what, and the pieces in which the rest comes; `x` where nobody may call.
    static let refusals: [(begin: String, status: Int, piece: String)] = [
        ("\(call)\(large)", 413, ""),
        ("\(call)Expect: 100-continue\r\n\(large)", 413, ""),
        ("\(call)Transfer-Encoding: chunked\r\n\r\n10001\r\n" + String(repeating: "a", count: 0x10001) + "\r\n", 413, "10000\r\n"),
        ("\(call)Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400, ""),
        ("PUT /v1/tenants/x/functions HTTP/1.1\r\nHost: n\r\n\(large)", 401, ""),
        ("PUT /v1/tenants/acme/functions HTTP/1.1\r\nHost: n\r\nContent-Length: 300000000\r\n\r\n", 413, ""),
        ("PUT /v1/tenants/acme/buckets/b/objects/k HTTP/1.1\r\nHost: n\r\n\(large)", 413, ""),
        ("PUT /v1/tenants/x/buckets/b/objects/k HTTP/1.1\r\nHost: n\r\n\(large)", 401, ""),
        ("POST /t/nobody/hook HTTP/1.1\r\nHost: n\r\n\(large)", 404, ""),
    ]

    private func withNode(_ body: (TestNode, StubService) async throws -> Void) async throws {
        try await TestNode.withNode { node, service async throws in
            service.object { _, tenant, _ in
                tenant?.text == "x" ? Problem(code: "unauthorized", title: "No", status: 401, detail: "no key") : nil
            }
            try await body(node, service)
        }
    }

    @Test("a caller that sends on after a refusal, and reads only then, reads the refusal", arguments: refusals.indices)
    func slowSender(_ index: Int) async throws {
        let (begin, status, piece) = Self.refusals[index]
        try await withNode { node, _ in
            let client = try node.connect()
            try await client.send(begin)
            try await client.untilReadable()
            let part = Array(piece.utf8) + [UInt8](repeating: 0x61, count: 64 << 10) + (piece.isEmpty ? [] : [0x0D, 0x0A])
            let sent = try await client.sendOn(part, upTo: 20_000_000)
            guard sent >= 20_000_000 else { throw ClientError(description: "cut after \(sent) bytes") }
            let answer = try await client.answer()
            #expect(answer.status == status && answer.header("connection") == "close", "\(answer.status) \(answer.text)")
            #expect(try await client.untilEnd() == [], "one answer, then the end")
            #expect(try await node.invoke("echo", body: "y").status == 200)
        }
    }

    @Test("a refused body in chunks is answered before its end, which may never come")
    func endless() async throws {
        try await withNode { node, _ in
            let client = try node.connect()
            try await client.send("POST /v1/tenants/x/functions/echo/invocations HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n")
            let chunk = "10000\r\n" + String(repeating: "a", count: 0x10000) + "\r\n"
            for _ in 0...(HTTPHandler.refusedLimit / 0x10000) { try await client.send(chunk) }
            #expect(try await client.answer().status == 401)
        }
    }

    @Test("nobody may send on for ever: what is thrown away is bounded")
    func bytes() async throws {
        try await withNode { node, _ in
            let client = try node.connect()
            try await client.send(Self.call + Self.large)
            try await client.untilReadable()
            let part = [UInt8](repeating: 0x61, count: 1 << 20)
            let sent = try await client.sendOn(part, upTo: 200_000_000)
            #expect(sent >= HTTPHandler.lingerLimit - part.count, "\(sent)")
            // What the kernel takes for both sides is sent, too.
            #expect(sent < HTTPHandler.lingerLimit + (32 << 20), "\(sent)")
        }
    }

    @Test("nobody may send on for ever: neither in silence nor byte by byte", arguments: [(false, 5), (true, 30)])
    func time(trickles: Bool, seconds: Int) async throws {
        try await TestNode.withNode { node, service async throws in
            try await onThread {
                let channel = EmbeddedChannel()
                let boundary = RequestBoundary()
                try channel.pipeline.syncOperations.addHandlers(HalfClosing(), boundary)
                try channel.pipeline.syncOperations.configureHTTPServerPipeline(withPipeliningAssistance: true, withErrorHandling: false)
                try channel.pipeline.syncOperations.addHandler(
                    HTTPHandler(
                        service: service, supervisor: node.supervisor, isControl: false, room: BodyRoom(), logger: TestNode.quiet,
                        boundary: boundary))
                try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
                try channel.writeInbound(ByteBuffer(string: Self.call + Self.large))
                for second in 0..<seconds {
                    #expect(channel.isActive, "cut after \(second) s")
                    if trickles { try channel.writeInbound(ByteBuffer(string: "a")) }
                    channel.embeddedEventLoop.advanceTime(by: .seconds(1))
                }
                channel.embeddedEventLoop.advanceTime(by: .seconds(1))
                #expect(!channel.isActive)
                _ = try? channel.finish(acceptAlreadyClosed: true)
            }
        }
    }

    @Test("whoever sends on after its refusal is the first to make room, before those that are silent longer")
    func places() async throws {
        try await TestNode.withNode(connectionLimit: 32) { node, _ async throws in
            let silent = try (0..<16).map { _ in try node.connect() }
            // A place is taken before the one after it asks for one.
            for client in silent { try await client.send("POST ") }
            var refused: [Client] = []
            for _ in 0..<16 {
                let client = try node.connect()
                try await client.send(Self.call + Self.large)
                try await client.untilReadable()
                refused.append(client)
            }
            var callers: [Client] = []
            for _ in 0..<12 {
                let client = try node.connect()
                try await client.send(TestNode.invocation("echo", body: "y"))
                #expect(try await client.answer().status == 200)
                for refused in refused { _ = try await refused.sendSome([0x61]) }
                callers.append(client)
            }
            for client in silent { #expect(client.isOpen) }
        }
    }
}

/// An ``EmbeddedChannel`` has no two sides: it closes where only one is to be.
private final class HalfClosing: ChannelOutboundHandler {
    typealias OutboundIn = Never

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        if mode == .all { context.close(mode: mode, promise: promise) } else { promise?.succeed() }
    }
}

extension Client {
    /// Waits until something is here to be read, which stays there.
    fileprivate func untilReadable() async throws {
        try await onThread { [socket] in
            var byte: UInt8 = 0
            guard unsafe recv(socket, &byte, 1, CInt(MSG_PEEK)) == 1 else { throw ClientError(description: "nothing came") }
        }
    }

    /// Sends it in one piece; returns how much the server's side has taken, fewer or -1 once it has closed.
    fileprivate func sendSome(_ bytes: [UInt8]) async throws -> Int {
        try await onThread { [socket] in
            unsafe bytes.withUnsafeBytes { unsafe Glibc.send(socket, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
        }
    }

    /// Sends it again and again until so much is sent, or the server has closed; returns how much it has taken. On one thread: whoever is silent for seconds is cut off, and with
    /// a thread for each piece a busy machine makes it so.
    fileprivate func sendOn(_ part: [UInt8], upTo end: Int) async throws -> Int {
        try await onThread { [socket] in
            var sent = 0
            while sent < end, unsafe Glibc.send(socket, part, part.count, CInt(MSG_NOSIGNAL)) == part.count { sent += part.count }
            return sent
        }
    }

    /// Whether the server has neither ended nor said anything.
    fileprivate var isOpen: Bool {
        var byte: UInt8 = 0
        return unsafe recv(socket, &byte, 1, CInt(MSG_PEEK | MSG_DONTWAIT)) < 0 && errno == EAGAIN
    }
}
