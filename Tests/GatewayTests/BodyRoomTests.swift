// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Glibc
import Store
import Supervision
import Synchronization
import Testing

@testable import Gateway

/// What callers may fill of the node's memory: with bodies that are not whole yet or not answered, and with answers that they do not read.
@Suite struct BodyRoomTests {
    private static let path = "/v1/tenants/acme/functions/echo/invocations"
    /// With this field a call comes through NIO's decoder.
    private static let long = ["TE: trailers"]

    private func body(_ count: Int) -> String { String(repeating: "b", count: count) }
    private func acme() throws -> Name { try #require(Name("acme")) }

    @Test(
        "a tenant's bodies fill its share and no more, on both ways; small ones need no room, and others have theirs",
        arguments: [[], long])
    func share(way: [String]) async throws {
        try await TestNode.withNode { node, _ async throws in
            let known = node.room.known
            #expect(known.reserve(known.share - 20_000, try self.acme()))
            let before = known.count
            let client = try node.connect()
            // The more comes, the more is read at once: the last ones are plain calls.
            for _ in 0..<8 {
                try await client.send(TestNode.request("POST", Self.path, headers: way, body: self.body(20_000)))
                #expect(try await client.answer().status == 200)
            }
            try await client.send(TestNode.request("POST", Self.path, headers: way, body: self.body(20_001)))
            let refused = try await client.answer()
            #expect(refused.status == 503 && refused.header("retry-after") == "1" && refused.problem?.code == "overloaded")
            #expect(known.reserve(20_000, try self.acme()))
            #expect(try await node.ask("POST", Self.path, headers: way, body: self.body(OpenBodies.free)).status == 200)
            #expect(try await node.invoke("echo", tenant: "small", headers: way, body: self.body(60_000)).status == 200)
            known.release(20_000, try self.acme())
            #expect(known.count == before, "each gave its room back")
        }
    }

    @Test("all tenants together have a bound, too")
    func all() async throws {
        try await TestNode.withNode { node, _ async throws in
            let known = node.room.known
            var left = known.limit - 20_000
            while left > 0 {
                let part = min(left, known.share)
                #expect(known.reserve(part, Name("t\(left)")))
                left -= part
            }
            #expect(try await node.ask("POST", Self.path, headers: Self.long, body: self.body(20_001)).status == 503)
            #expect(try await node.ask("POST", Self.path, body: self.body(20_001)).status == 503)
            #expect(try await node.ask("POST", Self.path, headers: Self.long, body: self.body(20_000)).status == 200)
        }
    }

    @Test("bytes take room as they come, whatever was announced, and a body that outgrows it is the connection's last")
    func growing() async throws {
        try await TestNode.withNode { node, _ async throws in
            let known = node.room.known
            let halfway = try node.connect()
            try await halfway.send("POST \(Self.path) HTTP/1.1\r\nHost: n\r\nContent-Length: 40000\r\n\r\n" + self.body(30_000))
            try await eventually("room is taken") { known.count == 30_000 }
            halfway.leave()
            try await eventually("its room is free") { known.count == 0 }
            #expect(known.reserve(known.share - 20_000, try self.acme()))
            let chunked = try node.connect()
            let piece = "3000\r\n" + self.body(0x3000) + "\r\n"
            try await chunked.send("POST \(Self.path) HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n\(piece)\(piece)")
            let answer = try await chunked.answer()
            #expect(answer.status == 503 && answer.header("connection") == "close")
            try await eventually("its room is free") { known.count == known.share - 20_000 }
        }
    }

    @Test("a stranger's control request is refused by its head; who may other things of the tenant is refused on record")
    func strangers() async throws {
        try await TestNode.withNode { node, service async throws in
            let closed = Problem(code: "unauthorized", title: "Unauthorized", status: 401, detail: "send a key")
            service.object { _, _, _ in closed }
            for path in ["/v1/tenants/acme/keys", "/v1/tenants/acme/dead-letters/redrive", "/v1/reload", "/v1/drain"] {
                let client = try node.connect()
                // Whose body is wanted hears 100 first.
                try await client.send("POST \(path) HTTP/1.1\r\nHost: n\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
                #expect(try await client.anyHead().status == 401, "\(path)")
            }
            #expect(service.recorded.withLock { $0.isEmpty })
            service.object { _, tenant, scope in
                tenant != nil && scope == .invoke ? nil : Problem(code: "forbidden", title: "Forbidden", status: 403, detail: "no")
            }
            #expect(try await node.ask("POST", "/v1/tenants/acme/keys", body: "{\"scopes\":[\"admin\"]}").status == 403)
            #expect(service.recorded.withLock { $0.map(\.record.outcome) } == ["forbidden"])
        }
    }

    @Test("control requests are counted: of a tenant's callers in its share, of anybody in nobody's; an operator's are not")
    func control() async throws {
        try await TestNode.withNode { node, _ async throws in
            let part = self.body(30_000)
            for (path, room) in [("/v1/tenants/acme/keys", node.room.known), ("/healthz", node.room.anybody), ("/no", node.room.anybody)] {
                let client = try node.connect()
                try await client.send("POST \(path) HTTP/1.1\r\nHost: n\r\nContent-Length: 40000\r\n\r\n\(part)")
                try await eventually("room is taken for \(path)") { room.count == 30_000 }
                client.leave()
                try await eventually("its room is free") { room.count == 0 }
            }
            let `operator` = try node.connectControl()
            #expect(node.room.known.reserve(node.room.known.share, try self.acme()))
            try await `operator`.send(TestNode.request("POST", "/v1/tenants/acme/keys", body: self.body(30_000)))
            #expect(try await `operator`.answer().status == 400)
        }
    }

    @Test("what comes before a call's answer has room in its tenant's share, or ends the connection")
    func early() async throws {
        try await TestNode.withNode { node, _ async throws in
            let known = node.room.known
            let (client, other) = (try node.connect(), try node.connect())
            try await client.send(TestNode.invocation("hang"))
            try await eventually("the function runs") { node.spawner.invoked == ["hang"] }
            try await client.send(self.body(40_000))
            try await eventually("room is taken") { known.count > 0 }
            #expect(known.reserve(known.share - known.count, try self.acme()))
            try await other.send(TestNode.invocation("hang"))
            try await eventually("the function runs") { node.spawner.invoked == ["hang", "hang"] }
            try await other.send(self.body(40_000))
            _ = try? await other.untilEnd()
            try await eventually("its worker is told") { node.spawner.cancelled == ["hang"] }
        }
    }

    @Test("answers that nobody reads fill a share and no more, and give their room back when they are out", arguments: [[], long])
    func answers(way: [String]) async throws {
        try await TestNode.withNode { node, _ async throws in
            let answers = node.room.answers
            #expect(answers.reserve(answers.share - 20_000, try self.acme()))
            let before = answers.count
            for (size, status) in [(20_000, 200), (20_001, 503), (20_000, 200)] {
                let answer = try await node.ask("POST", Self.path, headers: way, body: self.body(size))
                #expect(answer.status == status && (status == 200) == (answer.body.count == size))
                try await eventually("its room is free") { answers.count == before }
            }
            #expect(try await node.invoke("echo", tenant: "small", headers: way, body: self.body(60_000)).status == 200)
        }
    }

    @Test("a node's room follows its memory, and the largest body has room in every share")
    func sizes() {
        for (memory, limit, share) in [(64 << 30, 1 << 30, 256 << 20), (2 << 30, 256 << 20, 64 << 20), (128 << 20, 64 << 20, 16 << 20)] {
            let room = BodyRoom(memory: memory)
            #expect(room.known.limit == limit && room.known.share == share && room.answers.limit == limit && room.answers.share == share)
        }
        let room = BodyRoom(memory: 8 << 30)
        #expect(room.anybody.limit == 256 << 20 && room.publicAnswers.limit == 512 << 20 && room.publicAnswers.share == 128 << 20)
    }
}
