// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Testing

@testable import Gateway

/// Buckets and objects over HTTP: against a stand-in for what the routes make of a request, and against the real daemon for the rest.
@Suite struct BucketRouteTests {
    static let objects = "/v1/tenants/acme/buckets/photos/objects/"

    @Test("a key is everything behind objects/, decoded once and to the byte")
    func keys() {
        func key(_ text: String) -> String? {
            guard case .success(let target)? = ObjectTarget.parse(Self.objects + text) else { return nil }
            return target.key.text
        }
        #expect(key("a/b/c") == "a/b/c" && key("a%2Fb") == "a/b" && key("%2561") == "%61" && key("a+b%20c?x=1") == "a+b c")
        #expect(key("%C3%A4") == "\u{E4}" && key("a%3Fb") == "a?b" && key("a/%2e%2e%2e") == "a/...")
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "%2e%2e/x", "a%2F..%2Fb", "a%00", "a%0Ab", "%ff", "%", "a%zz", "a%C2%85"] {
            guard case .failure(let problem)? = ObjectTarget.parse(Self.objects + bad) else {
                Issue.record("\(bad) is a key")
                continue
            }
            #expect(problem.status == 400)
        }
        for other in [
            "/v1/tenants/acme/buckets/photos/objects", "/v1/tenants/acme/buckets/photos", "//v1/tenants/acme/buckets/b/objects/k", "/",
        ] {
            #expect(ObjectTarget.parse(other) == nil, "\(other)")
        }
        #expect(ObjectTarget.parse("/v1/tenants/Acme/buckets/b/objects/k").map { (try? $0.get()) == nil } == true)
    }

    @Test("a listing's bounds are numbers, and its words go through")
    func listing() async throws {
        try await TestNode.withNode { node, service async throws in
            let path = "/v1/tenants/acme/buckets/photos/objects"
            #expect(try await node.ask("GET", path + "?prefix=in%2F&limit=5&after=AbC-_").status == 200)
            #expect(service.calls == ["objects acme/photos in/ AbC-_ 5"])
            for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "prefix=" + String(repeating: "a", count: 1025)] {
                #expect(try await node.ask("GET", path + "?" + query).status == 400, "\(query)")
            }
        }
    }

    @Test("an upload that cannot be stored is told at once; one that breaks off is cancelled; one that is too long is refused")
    func broken() async throws {
        try await TestNode.withNode { node, service async throws in
            let client = try node.connect()
            let head = "PUT \(Self.objects)full HTTP/1.1\r\nHost: node\r\nContent-Length: 3000000\r\n\r\n"
            try await client.send(Array(head.utf8) + [UInt8](repeating: 0xFF, count: 1000))
            let answer = try await client.answer()
            #expect(answer.status == 507 && answer.problem?.code == "overQuota")
            let leaving = try node.connect()
            try await leaving.send("PUT \(Self.objects)left HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\nhalf")
            try await eventually("it began") { service.calls.contains { $0.hasPrefix("write acme/photos/left") } }
            leaving.leave()
            try await eventually("it was cancelled") { service.calls.contains("cancel left") }
            let long = try node.connect()
            try await long.send("PUT \(Self.objects)long HTTP/1.1\r\nHost: node\r\nContent-Length: \(5 << 20)\r\n\r\n")
            #expect(try await long.answer().status == 413)
            #expect(!service.calls.contains { $0.hasPrefix("write acme/photos/long") })
            let chunked = try node.connect()
            try await chunked.send("PUT \(Self.objects)chunks HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n")
            let chunk = "100000\r\n" + String(repeating: "x", count: 1 << 20) + "\r\n"
            for _ in 0..<5 { try await chunked.send(chunk) }
            #expect(try await chunked.answer().status == 413)
            try await eventually("it was cancelled") { service.calls.contains("cancel chunks") }
        }
    }

    @Test("buckets and objects live as they should in the real daemon")
    func daemon() async throws {
        try await withDaemon(quota: "quota: {buckets: 4MiB}\n") { node, control async throws in
            func ask(_ method: String, _ path: String, body: String = "") async throws -> Answer {
                try await node.ask(method, "/v1/tenants/acme/buckets" + path, body: body)
            }
            #expect(try await ask("PUT", "/photos/objects/a", body: "x").status == 404)
            #expect(try await ask("PUT", "/photos").status == 201)
            #expect(try await ask("PUT", "/photos").problem?.code == "exists")
            #expect(try await ask("PUT", "/Photos").status == 400)
            // Larger than any buffer on the way, both ways.
            let large = String(repeating: "0123456789abcdef", count: 3 << 16)
            let put = try await ask("PUT", "/photos/objects/in/%C3%A4.bin", body: large)
            #expect(put.status == 201 && put.header("etag")?.hasPrefix("W/\"") == true)
            let got = try await ask("GET", "/photos/objects/in/%C3%A4.bin")
            #expect(got.status == 200 && got.text == large && got.header("etag") == put.header("etag"))
            #expect(got.header("content-type") == "application/octet-stream" && got.header("x-content-type-options") == "nosniff")
            let head = try await ask("HEAD", "/photos/objects/in/%C3%A4.bin")
            #expect(head.status == 200 && head.header("content-length") == "\(large.utf8.count)")
            #expect(try await ask("PUT", "/photos/objects/empty").status == 201)
            #expect(try await ask("GET", "/photos/objects/empty").body.isEmpty)
            let page = try JSONDecoder().decode(ObjectPage.self, from: Data(try await ask("GET", "/photos/objects?prefix=in/").body))
            #expect(page.objects.map(\.key) == ["in/\u{E4}.bin"] && page.next == nil)
            let full = try await ask("PUT", "/photos/objects/more", body: large)
            #expect(full.status == 507 && full.problem?.code == "overQuota" && full.problem?.limit == 4 << 20)
            #expect(full.problem?.value ?? 0 >= UInt64(large.utf8.count))
            #expect(try await ask("GET", "/photos/objects/more").status == 404)
            #expect(try await ask("PUT", "/photos/objects/in", body: "x").status == 409)
            #expect(try await ask("GET", "/photos/objects?after=%21").status == 400)
            #expect(try await ask("DELETE", "/photos").problem?.code == "notEmpty")
            #expect(try await ask("DELETE", "/photos/objects/in/%C3%A4.bin").status == 204)
            #expect(try await ask("DELETE", "/photos/objects/in/%C3%A4.bin").status == 404)
            #expect(try await ask("PUT", "/photos/objects/more", body: large).status == 201)
            #expect(try await ask("DELETE", "/photos?force=true").status == 204)
            #expect(try await ask("GET", "/photos/objects").status == 404)
            #expect(try await ask("GET", "").text == "[]")
        }
    }

    @Test("one connection takes what comes after an upload and a download; keys of other tenants find nothing")
    func connections() async throws {
        try await withDaemon { node, control async throws in
            try await control.send(TestNode.request("PUT", "/v1/tenants/acme/buckets/photos"))
            #expect(try await control.answer().status == 201)
            let client = try node.connect()
            for round in 0..<3 {
                let text = String(repeating: "\(round)", count: 2_000_000)
                try await client.send(TestNode.request("PUT", Self.objects + "k", body: text) + TestNode.request("GET", Self.objects + "k"))
                #expect(try await client.answer().status == 201)
                #expect(try await client.answer().text == text)
            }
            try await control.send(TestNode.request("POST", "/v1/tenants/globex/keys", body: "{\"scopes\": [\"admin\"]}"))
            let globex = try JSONDecoder().decode(KeyReply.self, from: Data(try await control.answer().body))
            try await control.send(TestNode.request("POST", "/v1/tenants/acme/keys", body: "{\"scopes\": [\"invoke\"]}"))
            let acme = try JSONDecoder().decode(KeyReply.self, from: Data(try await control.answer().body))
            for method in ["GET", "PUT", "DELETE"] {
                let path = Self.objects + "k"
                #expect(try await node.ask(method, path).status == 401)
                #expect(try await node.ask(method, path, headers: ["Authorization: Bearer \(globex.key ?? "")"]).status == 404)
            }
            let mine = ["Authorization: Bearer \(acme.key ?? "")"]
            #expect(try await node.ask("GET", Self.objects + "k", headers: mine).status == 200)
            for method in ["PUT", "DELETE"] {
                #expect(try await node.ask(method, "/v1/tenants/acme/buckets/photos", headers: mine).status == 403)
            }
        }
    }
}
