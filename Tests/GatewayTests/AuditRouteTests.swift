// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Glibc
import NIOHTTP1
import Store
import Synchronization
import Testing

@testable import Gateway

/// What goes on record of requests over real sockets, and who may read it.
@Suite struct AuditRouteTests {
    private static let root = "/v1/tenants/acme"

    @Test("every control action goes on record once, and nothing else does")
    func actions() async throws {
        try await TestNode.withNode { node, service async throws in
            let id = String(repeating: "0", count: 32)
            let wanted: [(String, String, String, String)] = [
                ("PUT", "\(Self.root)/functions", "archive", "deploy"),
                ("DELETE", "\(Self.root)/functions/f", "", "delete"),
                ("DELETE", "\(Self.root)/functions/f/versions/7", "", "delete version"),
                ("PUT", "\(Self.root)/functions/f/aliases/prod", #"{"targets": [{"version": 7}]}"#, "alias set"),
                ("DELETE", "\(Self.root)/functions/f/aliases/prod", "", "alias delete"),
                ("POST", "\(Self.root)/functions/f/rollback", "", "rollback"),
                ("POST", "\(Self.root)/keys", #"{"scopes": ["invoke"]}"#, "key create"),
                ("POST", "\(Self.root)/keys/k9/rotate", #"{"graceSeconds": 5}"#, "key rotate"),
                ("DELETE", "\(Self.root)/keys/k9", "", "key revoke"),
                ("PUT", "\(Self.root)/buckets/b", "", "bucket create"),
                ("DELETE", "\(Self.root)/buckets/b", "", "bucket delete"),
                ("POST", "\(Self.root)/dead-letters/redrive", #"{"all": true}"#, "dead-letter redrive"),
                ("POST", "\(Self.root)/dead-letters/purge", #"{"function": "f"}"#, "dead-letter purge"),
                ("POST", "\(Self.root)/loops/resume", #"{"edge": "f/t", "mode": "discard"}"#, "loop resume"),
                ("DELETE", "\(Self.root)/invocations/\(id)", "", "event stop"),
                ("POST", "/v1/reload", "", "reload"),
            ]
            for (method, path, body, word) in wanted {
                service.recorded.withLock { $0 = [] }
                let answer = try await node.ask(method, path, body: body)
                let records = service.recorded.withLock { $0 }
                #expect(records.map(\.record.action) == [word], "\(method) \(path): \(answer.status)")
                #expect(records.first?.record.outcome == (answer.status < 400 ? "ok" : answer.problem?.code), "\(word)")
                #expect(records.first?.record.who == "loopback" && records.first?.record.from == "127.0.0.1")
                #expect(records.first?.folder == (path == "/v1/reload" ? "-" : "acme"))
            }
            service.recorded.withLock { $0 = [] }
            for path in ["functions", "keys", "audit", "functions/f/aliases"] { _ = try await node.ask("GET", "\(Self.root)/\(path)") }
            _ = try await node.invoke("echo", body: "x")
            _ = try await node.ask("PUT", "\(Self.root)/buckets/b/objects/k", body: "x")
            _ = try await node.ask("POST", "\(Self.root)/nonsense")
            #expect(service.recorded.withLock { $0.isEmpty })
        }
    }

    @Test("every route that changes something is one of the audit log's actions, or is named here as what functions and their callers do")
    func everyRoute() {
        let others: Set<String> = [
            "POST /v1/tenants/acme/functions/function/invocations", "PUT /v1/tenants/acme/buckets/bucket/objects/key",
            "DELETE /v1/tenants/acme/buckets/bucket/objects/key",
            // A copy that `backup` has read, whose making is on record.
            "DELETE /v1/snapshots/snapshot",
        ]
        var unrecorded: Set<String> = []
        for route in Routes.all where route.method != "GET" && route.path.hasPrefix("/v1/") {
            let path = route.path.replacing("{tenant}", with: "acme").filter { !"{}".contains($0) }
            guard let parts = RequestPath(path) else { Issue.record("\(route.path) is no path"); continue }
            if ControlAction(HTTPMethod(rawValue: route.method), parts) == nil { unrecorded.insert("\(route.method) \(path)") }
        }
        #expect(unrecorded == others)
    }

    private static let id = "0123456789abcdef0123456789abcdef"

    /// By the route, what is asked and what its record says; nil of what was before and is now: then the reason is beside it.
    private static let changes: [String: (body: String, detail: String?)] = [
        "PUT functions": ("archive", "version 6 -> version 1, codeHash "),
        "DELETE functions/f": ("", "versions 6 7 -> none"),
        "DELETE functions/f/versions/7": ("", "version 7, codeHash c7, aliases latest -> none"),
        "PUT functions/f/aliases/prod": (#"{"targets": [{"version": 8}]}"#, "targets 8; version 7, weight 100 -> version 7, weight 100"),
        "DELETE functions/f/aliases/prod": ("", "version 7, weight 100 -> none"),
        "POST functions/f/rollback": (#"{"alias": "prod"}"#, "alias prod; version 7, weight 100 -> version 7, weight 100"),
        "POST keys": (#"{"scopes": ["admin"]}"#, "scopes admin; none -> scopes admin"),
        "POST keys/k9/rotate": (#"{"graceSeconds": 5}"#, "graceSeconds 5; scopes invoke -> key k2, scopes invoke"),
        "DELETE keys/k9": ("", "scopes invoke -> revoked"),
        "PUT buckets/b": ("", "objects 3, bytes 8192 -> objects 0, bytes 0"),
        "DELETE buckets/b": ("", "objects 3, bytes 8192 -> none"),
        "POST dead-letters/redrive": (#"{"all": true}"#, "all 1; dead letters 1 -> redriven 1, scheduled 0, left 0"),
        "POST dead-letters/purge": (#"{"ids": ["\#(id)"]}"#, "ids \(id); dead letters 1 -> purged 1"),
        "POST loops/resume": (
            #"{"edge": "acme/f/t", "mode": "keep"}"#, "edge acme/f/t, mode keep; state broken, parked 4 -> state closed, parked 0"
        ),
        "DELETE invocations/\(id)": ("", "state ready -> state stopped"),
        "POST drain": (#"{"undo": false}"#, "undo 0; draining 0 -> draining 1"),
        "POST imports": (#"{"id": "x", "tenant": "acme"}"#, "none -> functions 1, versions 2, keys 3"),
        // Each change of the configuration has a record of its own: see below.
        "POST reload": ("", nil),
        // Nothing that the node keeps is another afterwards.
        "POST restart": ("", nil), "POST snapshots": ("", nil), "POST exports": (#"{"tenant": "acme", "buckets": false}"#, nil),
        // The record of the import says what it takes back.
        "DELETE imports/acme": ("", nil),
    ]

    private func fill(_ service: StubService) {
        let letter = EventReply(
            id: Self.id, tenant: "acme", function: "f", target: "latest", trigger: "direct", state: "dead", since: 1, createdAt: 1,
            expiresAt: 2, attempts: 3, maxAttempts: 3, crashes: 0, deliveries: 3, contentType: "", payloadBytes: 1)
        service.state.withLock { state in
            state.functions = [
                FunctionReply(tenant: "acme", function: "f", latest: 6, runtime: "native", memoryBytes: 1, deployedAt: 1),
                FunctionReply(tenant: "acme", function: "g", latest: 9, runtime: "native", memoryBytes: 1, deployedAt: 1),
            ]
            state.versions = [6, 7].map {
                VersionReply(
                    tenant: "acme", function: "f", version: $0, runtime: "native", memoryBytes: 1, codeBytes: 1, codeHash: "c\($0)",
                    createdAt: 1)
            }
            state.versions[1].aliases = ["latest"]
            state.keys = [KeyReply(id: "k9", key: nil, tenant: "acme", scopes: ["invoke"], createdAt: 1, revoked: false)]
            state.buckets = [
                BucketReply(tenant: "acme", bucket: "b", objects: 3, bytes: 8192, tenantBytes: 8192, tenantLimitBytes: 1 << 20)
            ]
            state.letters = [letter]
            state.loops = [
                LoopReply(
                    edge: "acme/f/t", tenant: "acme", function: "f", trigger: "t", source: "cron", state: "broken", recurrent: 9, parked: 4,
                    parkedBytes: 4, since: 1, why: "")
            ]
        }
    }

    @Test("every action's record says what was before and what is now, where there is something")
    func beforeAndAfter() async throws {
        var left = Set(Self.changes.keys)
        for route in Routes.all where route.method != "GET" && route.path.hasPrefix("/v1/") {
            var path = route.path.replacing("{tenant}", with: "acme").replacing("{function}", with: "f").replacing("{version}", with: "7")
            for (word, value) in [("alias", "prod"), ("key", "k9"), ("bucket", "b"), ("invocation", Self.id)] {
                path = path.replacing("{\(word)}", with: value)
            }
            guard let parts = RequestPath(path), ControlAction(HTTPMethod(rawValue: route.method), parts) != nil else { continue }
            let key = route.method + " " + path.replacing(Self.root + "/", with: "").replacing("/v1/", with: "")
            guard let (body, detail) = Self.changes[key] else { Issue.record("nobody says what is on record of \(key)"); continue }
            left.remove(key)
            try await TestNode.withNode { node, service async throws in
                fill(service)
                #expect(try await node.ask(route.method, path, body: body).status < 300, "\(key)")
                let record = try #require(service.recorded.withLock { $0.first?.record }, "\(key)")
                if let detail {
                    #expect(
                        record.detail == detail || key == "PUT functions" && record.detail.hasPrefix(detail), "\(key): \(record.detail)")
                } else {
                    #expect(!record.detail.contains("->"), "\(key): \(record.detail)")
                }
            }
        }
        #expect(left.isEmpty, "no route for \(left)")
    }

    @Test("a reload's records say of each setting what it was and what it is")
    func configuration() async throws {
        try await TestNode.withNode { _, service async throws in
            let change = ReloadChange(tenant: "acme", key: "quota.concurrency", before: "8", after: "16")
            await AuditTrail.signalled(ReloadReply(applied: true, changes: [change]), failure: "", service)
            let record = try #require(service.recorded.withLock { $0.last?.record })
            #expect(record.target == "quota.concurrency" && record.detail == "8 -> 16" && record.tenant == "acme")
        }
    }

    @Test("a record says who, from where, what before and after, and never a key's value")
    func words() async throws {
        try await TestNode.withNode { node, service async throws in
            _ = try await node.ask(
                "PUT", Self.root + "/functions/f/aliases/prod", headers: ["Authorization: Bearer good"],
                body: #"{"targets": [{"version": 7, "weight": 90}, {"version": 8, "weight": 10}]}"#)
            _ = try await node.ask("POST", Self.root + "/keys", headers: ["Authorization: Bearer other"], body: #"{"scopes": ["admin"]}"#)
            let control = try node.connectControl()
            try await control.send(TestNode.request("DELETE", Self.root + "/functions/f"))
            _ = try await control.answer()
            let records = service.recorded.withLock { $0.map(\.record) }
            #expect(records.map(\.who) == ["key k-1", "key", "uid \(getuid())"])
            #expect(records.map(\.from) == ["127.0.0.1", "127.0.0.1", "control socket"])
            #expect(records.first?.target == "f:prod" && records.first?.detail.hasPrefix("targets 7@90 8@10; version ") == true)
            #expect(records.first?.detail.contains(" -> version ") == true)
            #expect(records.dropFirst().first?.detail == "scopes admin; none -> scopes admin")
            #expect(records.dropFirst().first?.target == "k1")
            let all = try JSONEncoder().encode(records)
            for secret in ["secret", "good", "other", "Bearer"] {
                #expect(!String(decoding: all, as: UTF8.self).contains(secret), "\(secret)")
            }
        }
    }

    @Test("a stranger leaves no trace that could push out others, a caller who may do something with the tenant does")
    func strangers() async throws {
        try await TestNode.withNode { node, service async throws in
            service.object { _, _, _ in Problem(code: "unauthorized", title: "t", status: 401, detail: "d") }
            #expect(try await node.ask("DELETE", Self.root + "/functions/f").status == 401)
            #expect(service.recorded.withLock { $0.isEmpty })
            service.object { _, _, scope in scope == .invoke ? nil : Problem(code: "forbidden", title: "t", status: 403, detail: "d") }
            #expect(try await node.ask("DELETE", Self.root + "/functions/f").status == 403)
            #expect(service.recorded.withLock { $0.map(\.record.outcome) } == ["forbidden"])
            service.object { _, tenant, _ in tenant == nil ? nil : .notFound("tenant") }
            let control = try node.connectControl()
            try await control.send(TestNode.request("DELETE", "/v1/tenants/nobody/functions/f"))
            _ = try await control.answer()
            #expect(service.recorded.withLock { $0.last?.folder } == "-", "no folder for a tenant that is not there")
        }
    }

    @Test("hostile bodies and names are answered and recorded in bounds")
    func hostile() async throws {
        try await TestNode.withNode { node, service async throws in
            let edge = String(repeating: "x", count: 900_000)
            _ = try await node.ask("POST", Self.root + "/loops/resume", body: #"{"edge": "\#(edge)", "mode": "a\n\u0000"}"#)
            _ = try await node.ask("DELETE", Self.root + "/keys/k%0A%1B%5B2J")
            let records = service.recorded.withLock { $0.map(\.record) }
            #expect(records.map(\.action) == ["loop resume", "key revoke"])
            #expect((records.first?.detail.utf8.count ?? .max) < 70_000)
        }
    }

    @Test("the node's record is the operator's, a tenant's is its admin's; questions are passed on")
    func reading() async throws {
        try await TestNode.withNode { node, service async throws in
            _ = try await node.ask("GET", Self.root + "/audit?since=5&grep=a%20b&tail=7")
            _ = try await node.ask("GET", "/v1/audit")
            #expect(service.calls.suffix(2) == ["audit acme 5 a b 7", "audit - 0 - 100"])
            #expect(try await node.ask("GET", Self.root + "/audit?since=x").status == 400)
            service.object { _, tenant, scope in
                tenant != nil && scope == .admin ? nil : Problem(code: "forbidden", title: "t", status: 403, detail: "\(scope)")
            }
            #expect(try await node.ask("GET", Self.root + "/audit").status == 200)
            #expect(try await node.ask("GET", "/v1/audit").status == 403)
            service.object { _, _, scope in scope == .admin ? Problem(code: "forbidden", title: "t", status: 403, detail: "d") : nil }
            #expect(try await node.ask("GET", Self.root + "/audit").status == 403)
        }
    }

    @Test("a tenant reads its own lines alone")
    func own() async throws {
        try await withDaemon { node, control async throws in
            func ask(_ method: String, _ path: String, body: String = "", headers: [String] = []) async throws -> Answer {
                try await control.send(TestNode.request(method, path, headers: headers, body: body))
                return try await control.answer()
            }
            let made = try await ask("POST", Self.root + "/keys", body: #"{"scopes": ["admin"]}"#)
            #expect(made.status == 201)
            let reply = try JSONDecoder().decode(KeyReply.self, from: Data(made.body))
            let key = try #require(reply.key)
            _ = try await ask("DELETE", "/v1/tenants/nobody/functions/f")
            let header = ["Authorization: Bearer \(key)"]
            let mine = try await node.ask("GET", Self.root + "/audit", headers: header)
            let lines = try mine.body.split(separator: 10).map { try JSONDecoder().decode(AuditRecord.self, from: Data($0)) }
            #expect(lines.map(\.action) == ["key create"] && lines.first?.target == reply.id && !mine.text.contains(key))
            #expect(try await node.ask("GET", "/v1/tenants/beta/audit", headers: header).status == 404)
            #expect(try await node.ask("GET", "/v1/audit", headers: header).status != 200)
            let all = try await ask("GET", "/v1/audit")
            #expect(all.text.split(separator: "\n").count == 2 && all.text.contains("nobody"))
        }
    }
}
