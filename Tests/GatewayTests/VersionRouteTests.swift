// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NodeConfiguration
import Store
import Supervision
import Testing
import Wire

@testable import bulkheadd

/// Aliases, rollback and versions over real sockets: what the gateway makes of a request, then what the real daemon does with it.
@Suite struct VersionRouteTests {
    private static let root = "/v1/tenants/acme/functions/f"

    @Test("an alias is one version, or two with weights that add up to 100")
    func good() async throws {
        try await TestNode.withNode { node, service async throws in
            for (body, call) in [
                (#"{"targets": [{"version": 7}]}"#, "set acme/f:prod 7"),
                (#"{"targets": [{"version": 7, "weight": 100}]}"#, "set acme/f:prod 7"),
                (#"{"targets": [{"version": 7, "weight": 90}, {"version": 8, "weight": 10}]}"#, "set acme/f:prod 7 8 1000"),
                (
                    #"{"targets": [{"version": 7, "weight": 99.99}, {"version": 8, "weight": 0.01}], "automaticRollback": false}"#,
                    "set acme/f:prod 7 8 1 by hand"
                ),
            ] {
                let answer = try await node.ask("PUT", Self.root + "/aliases/prod", body: body)
                #expect(answer.status == 200 && service.calls.last == call, "\(body): \(answer.text) \(service.calls)")
            }
            #expect(try await node.ask("POST", Self.root + "/rollback").status == 200)
            #expect(service.calls.last == "rollback acme/f:latest")
            _ = try await node.ask("POST", Self.root + "/rollback", body: #"{"alias": "prod"}"#)
            #expect(service.calls.last == "rollback acme/f:prod")
            _ = try await node.ask("DELETE", Self.root + "/versions/7")
            #expect(service.calls.last == "remove acme/f@7")
            _ = try await node.ask("DELETE", Self.root + "/aliases/prod")
            #expect(service.calls.last == "remove acme/f:prod")
        }
    }

    @Test(
        "weights that do not add up, and other nonsense, are refused with a sentence, and nothing is asked for",
        arguments: [
            (#"{"targets": [{"version": 7, "weight": 90}, {"version": 8, "weight": 20}]}"#, 422, "90 and 20 do not add up to 100"),
            (#"{"targets": [{"version": 7, "weight": 90}]}"#, 422, "do not add up"),
            (#"{"targets": [{"version": 7, "weight": 90}, {"version": 8}]}"#, 422, "needs its weight"),
            (#"{"targets": [{"version": 7}, {"version": 8}]}"#, 422, "needs its weight"),
            (#"{"targets": [{"version": 7, "weight": 100}, {"version": 8, "weight": 0}]}"#, 422, "leaves one version nothing"),
            (#"{"targets": [{"version": 7, "weight": -10}, {"version": 8, "weight": 110}]}"#, 422, "from 0 to 100"),
            (#"{"targets": [{"version": 7, "weight": 1e300}, {"version": 8, "weight": 1}]}"#, 422, "from 0 to 100"),
            (#"{"targets": [{"version": 7, "weight": 99.995}, {"version": 8, "weight": 0.005}]}"#, 422, "two places"),
            (#"{"targets": [{"version": 7, "weight": 50}, {"version": 7, "weight": 50}]}"#, 422, "both targets"),
            (#"{"targets": [{"version": 0}]}"#, 422, "from 1"), (#"{"targets": []}"#, 422, "not at 0"),
            (#"{"targets": [{"version": 1}, {"version": 2}, {"version": 3}]}"#, 422, "not at 3"),
            (#"{"targets": [{"version": -1}]}"#, 400, "send"), (#"{"targets": [{"version": 4294967296}]}"#, 400, "send"),
            ("{", 400, "send"), ("", 400, "send"),
        ])
    func bad(body: String, status: Int, part: String) async throws {
        try await TestNode.withNode { node, service async throws in
            let answer = try await node.ask("PUT", Self.root + "/aliases/prod", body: body)
            #expect(answer.status == status && answer.text.contains(part), "\(body): \(answer.text)")
            #expect(service.calls.isEmpty)
        }
    }

    @Test("bad names, numbers and bodies elsewhere")
    func elsewhere() async throws {
        try await TestNode.withNode { node, service async throws in
            for (method, path, body) in [
                ("PUT", "/aliases/Prod", #"{"targets": [{"version": 7}]}"#), ("GET", "/aliases/9a", ""), ("DELETE", "/versions/0", ""),
                ("DELETE", "/versions/x", ""), ("DELETE", "/versions/+1", ""), ("DELETE", "/versions/4294967296", ""),
                ("POST", "/rollback", "{"), ("POST", "/rollback", #"{"alias": "Prod"}"#),
            ] {
                #expect(try await node.ask(method, Self.root + path, body: body).status == 400, "\(method) \(path)")
            }
            #expect(service.calls.isEmpty)
            let long = try await node.invoke("echo", headers: ["Bulkhead-Alias-Key: too-long"])
            #expect(long.status == 400 && node.spawner.invoked.isEmpty)
            #expect(try await node.invoke("echo", body: "x").header("bulkhead-version") == "1")
        }
    }

    // MARK: the real daemon

    /// The manifest of `acme/echo`, whose stand-in workers answer what they get.
    private static func manifest(_ function: String, _ extra: String = "") -> String {
        "function: \(function)\nruntime: native\nhandler: ./x\ntimeout: 3600s\n\(extra)"
    }

    /// A daemon on a state with versions of functions, given as tenant, function and how many. `code`: trees that are there before it starts.
    func withDaemon(
        _ deployed: [(String, Int)], config: String = "workers: 100\n", code: [String] = [], tenant: String = "", extra: String = "",
        isDrained: Bool = false, _ body: (TestNode, Daemon, String) async throws -> Void
    ) async throws {
        let state = NSTemporaryDirectory() + "versions-\(UUID().uuidString)"
        for folder in ["code", "incoming", "logs", "usage", "events", "config/tenants.d"] + code.map({ "code/\($0)" }) {
            try FileManager.default.createDirectory(atPath: "\(state)/\(folder)", withIntermediateDirectories: true)
        }
        defer { try? FileManager.default.removeItem(atPath: state) }
        if isDrained { try Data().write(to: URL(fileURLWithPath: state + "/drained")) }
        let config =
            (try? config.write(toFile: state + "/config/bulkhead.yaml", atomically: true, encoding: .utf8)) == nil ? "" : state + "/config"
        try "tenant: acme\n\(tenant)".write(toFile: "\(config)/tenants.d/acme.yaml", atomically: true, encoding: .utf8)
        let spawner = FakeSpawner()
        let supervisor = try await TestNode.supervisor(spawner)
        // Only what the store knows is there.
        try await supervisor.onLoop { state in
            for function in TestNode.functions.compactMap({ Name($0) }) {
                if let acme = Name("acme") { state.unregister(FunctionID(tenant: acme, function: function)) }
            }
        }
        let store = try StateStore(path: state + "/bulkhead.sqlite")
        for (function, count) in deployed {
            for number in 1...count {
                _ = try store.addVersion(
                    try id(function), codeHash: "\(function)\(number)", codeBytes: 1, manifest: Self.manifest(function, extra),
                    at: UInt64(number))
            }
        }
        let configuration = try NodeConfiguration.load(directory: config)
        let daemon = Daemon(
            supervisor: supervisor, store: store, code: try CodeStore(directory: state + "/code", incoming: state + "/incoming"),
            logs: LogStore(directory: state + "/logs", bytesPerTenant: 1 << 20, age: .max),
            buckets: try BucketStore(directory: state + "/buckets"), runtimes: ["native"], bodyLimit: 1 << 20,
            keys: [], ledger: try UsageLedger(directory: state + "/usage", now: 1_000_000, segmentRecords: 64),
            events: try EventStore(directory: state + "/events", now: 1_000_000), loopsPath: state + "/loops.json",
            configuration: configuration, directory: config, logger: TestNode.quiet)
        try await daemon.start(configuration, .welcome(version: spawnerProtocolVersion, listeners: [], runtimes: ["native"]))
        let node = try await TestNode(supervisor, spawner, daemon)
        do { try await body(node, daemon, state) } catch {
            await node.stop()
            throw error
        }
        await node.stop()
    }

    private func id(_ function: String) throws -> FunctionID {
        FunctionID(tenant: try #require(Name("acme")), function: try #require(Name(function)))
    }

    private func alias(_ node: TestNode, _ name: String, _ body: String, _ function: String = "echo") async throws -> Answer {
        try await node.ask("PUT", "/v1/tenants/acme/functions/\(function)/aliases/\(name)", body: body)
    }
    private func split(_ primary: Int, _ canary: Int, _ weight: Int) -> String {
        #"{"targets": [{"version": \#(primary), "weight": \#(100 - weight)}, {"version": \#(canary), "weight": \#(weight)}]}"#
    }
    /// The version that answers.
    private func version(_ node: TestNode, _ alias: String = "", _ headers: [String] = []) async throws -> String {
        let path = "/v1/tenants/acme/functions/echo/invocations" + (alias.isEmpty ? "" : "?alias=\(alias)")
        let answer = try await node.ask("POST", path, headers: headers, body: "x")
        return answer.header("bulkhead-version") ?? "\(answer.status)"
    }

    @Test("latest goes back with a rollback and says so everywhere; past the first it is refused")
    func rollback() async throws {
        try await withDaemon([("echo", 3)]) { node, _, _ async throws in
            #expect(try await version(node) == "3")
            let back = try await node.ask("POST", "/v1/tenants/acme/functions/echo/rollback")
            let reply = try JSONDecoder().decode(AliasReply.self, from: Data(back.body))
            #expect(back.status == 200 && reply.version == 2 && reply.previous == 1 && reply.changedBy == "rollback")
            #expect(try await version(node) == "2")
            #expect(try await version(node, "latest") == "2")
            #expect(try await node.ask("POST", "/v1/tenants/acme/functions/echo/invocations?version=3", body: "x").status == 200)
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions").text.contains(#""latest":2"#))
            let rows = try JSONDecoder().decode(
                [VersionReply].self, from: Data(try await node.ask("GET", "/v1/tenants/acme/functions/echo/versions").body))
            #expect(rows.map { $0.aliases ?? [] } == [[], ["latest"], []])
            #expect(try await node.ask("POST", "/v1/tenants/acme/functions/echo/rollback").status == 200)
            let past = try await node.ask("POST", "/v1/tenants/acme/functions/echo/rollback")
            #expect(past.status == 409 && past.problem?.code == "nothingBefore" && past.text.contains("version 1"))
            #expect(try await version(node) == "1")
            #expect(try await node.ask("POST", "/v1/tenants/acme/functions/nobody/rollback").status == 404)
        }
    }

    @Test("an alias to a missing version is refused; a version that an alias names cannot be deleted, another one can")
    func names() async throws {
        try await withDaemon([("echo", 4)], code: ["echo1", "echo2", "echo3", "echo4"]) { node, _, state async throws in
            let missing = try await alias(node, "prod", #"{"targets": [{"version": 9}]}"#)
            #expect(
                missing.status == 422 && missing.problem?.code == "badAlias" && missing.text.contains("no version 9"))
            #expect(try await alias(node, "prod", split(1, 9, 10)).status == 422)
            #expect(try await version(node, "prod") == "404")
            #expect(try await alias(node, "latest", #"{"targets": [{"version": 1}]}"#).status == 409)
            #expect(try await alias(node, "prod", #"{"targets": [{"version": 1}]}"#, "nobody").status == 404)
            #expect(try await alias(node, "prod", split(1, 2, 10)).status == 200)
            func delete(_ path: String) async throws -> Int {
                try await node.ask("DELETE", "/v1/tenants/acme/functions/echo/\(path)").status
            }
            for number in [1, 2, 4] { #expect(try await delete("versions/\(number)") == 409, "\(number)") }
            #expect(try await delete("versions/9") == 404)
            #expect(try await delete("versions/3") == 204)
            #expect(try await delete("versions/3") == 404)
            #expect(try await node.invoke("echo@3").status == 404)
            #expect(try FileManager.default.contentsOfDirectory(atPath: state + "/code").sorted() == ["echo1", "echo2", "echo4"])
            #expect(try await delete("aliases/latest") == 409)
            #expect(try await delete("aliases/prod") == 204)
            #expect(try await delete("aliases/prod") == 404)
            #expect(try await version(node, "prod") == "404")
            #expect(try await delete("versions/1") == 204)
        }
    }

    @Test("a caller keeps its version, by the header or as an end user; the others fall on both by weight")
    func split() async throws {
        try await withDaemon([("echo", 2)], tenant: "users: {key: 'header:X-User', default: {concurrency: 100}}\n") {
            node, _, _ async throws in
            #expect(try await alias(node, "prod", split(1, 2, 50)).status == 200)
            for header in ["Bulkhead-Alias-Key", "X-User"] {
                var seen: Set<String> = []
                for user in 0..<12 {
                    let first = try await version(node, "prod", ["\(header): u\(user)"])
                    seen.insert(first)
                    for _ in 0..<3 { #expect(try await version(node, "prod", ["\(header): u\(user)"]) == first) }
                }
                #expect(seen == ["1", "2"], "\(header)")
            }
            var counts: [String: Int] = [:]
            for _ in 0..<60 { counts[try await version(node, "prod"), default: 0] += 1 }
            // Below 1 in 10^9 for a fair split.
            #expect(counts["1", default: 0] >= 8 && counts["2", default: 0] >= 8, "\(counts)")
            #expect(
                try await node.ask(
                    "POST", "/v1/tenants/acme/functions/echo/invocations?alias=prod",
                    headers: ["Bulkhead-Alias-Key: \(String(repeating: "k", count: 257))"]
                ).status == 400)
            #expect(try await alias(node, "prod", #"{"targets": [{"version": 2}]}"#).status == 200)
            for user in 0..<12 { #expect(try await version(node, "prod", ["X-User: u\(user)"]) == "2") }
        }
    }

    @Test("a canary that fails is ended by itself, the reason is shown, and it stays ended after a new start of the routing")
    func rule() async throws {
        try await withDaemon([("status", 2)]) { node, daemon, _ async throws in
            #expect(try await alias(node, "prod", split(1, 2, 50), "status").status == 200)
            let path = "/v1/tenants/acme/functions/status/invocations?alias=prod"
            // Stand-in workers answer with the status that they are sent: the caller makes version 2 alone fail.
            func call() async throws -> Int {
                let dry = try await node.ask("POST", path, headers: ["Bulkhead-Invocation-Type: dry-run", "Bulkhead-Alias-Key: a"])
                #expect(dry.status == 204)
                return Int(dry.header("bulkhead-version") ?? "") ?? 0
            }
            var keys: [Int: String] = [:]
            for user in 0..<100 where keys.count < 2 {
                let dry = try await node.ask("POST", path, headers: ["Bulkhead-Invocation-Type: dry-run", "Bulkhead-Alias-Key: u\(user)"])
                keys[Int(dry.header("bulkhead-version") ?? "") ?? 0] = "u\(user)"
            }
            let good = try #require(keys[1]), bad = try #require(keys[2])
            for _ in 0..<50 {
                _ = try await node.ask("POST", path, headers: ["Bulkhead-Alias-Key: \(good)"], body: "200")
                let live = try await node.ask("POST", path, headers: ["Bulkhead-Alias-Key: \(bad)"], body: "500")
                #expect(live.header("bulkhead-version") == "2")
            }
            let after = try await node.ask("POST", path, headers: ["Bulkhead-Alias-Key: \(bad)"], body: "200")
            #expect(after.header("bulkhead-version") == "1", "at once")
            await daemon.keepEndedCanaries()
            let shown = try await node.ask("GET", "/v1/tenants/acme/functions/status/aliases/prod")
            let reply = try JSONDecoder().decode(AliasReply.self, from: Data(shown.body))
            #expect(reply.version == 1 && reply.canary == nil && reply.weight == 100 && reply.changedBy == "rule")
            #expect(reply.reason == "canary 2 was ended: 50 of 50 calls of the canary failed, and 0 of 50 of the primary")
            #expect(try await call() == 1)
            let lines = try await daemon.audits(AuditQuery()).filter { $0.who == "node" }
            #expect(lines.map { "\($0.tenant) \($0.action) \($0.target) \($0.outcome)" } == ["acme rollback status:prod ok"])
            #expect(lines.first?.detail.hasPrefix("version 1, canary 2 -> version 1; 50 of 50 calls") == true, "\(lines)")
        }
    }

    @Test("an older state of an alias that comes late is not taken")
    func late() async throws {
        try await withDaemon([("echo", 2)]) { node, _, _ async throws in
            #expect(try await alias(node, "prod", #"{"targets": [{"version": 2}]}"#).status == 200)
            let function = try id("echo"), prod = try #require(Name("prod"))
            try await node.supervisor.onLoop { state in
                state.setAlias(function, AliasSpec(name: prod, primary: 1), step: 1)
                state.setAlias(function, AliasSpec(name: .latest, primary: 1), step: 1)
            }
            #expect(try await version(node, "prod") == "2")
            #expect(try await version(node) == "2")
        }
    }

    @Test("with the rule off the same canary stays, and its figures are shown")
    func byHand() async throws {
        try await withDaemon([("status", 2)]) { node, daemon, _ async throws in
            let body = split(1, 2, 99).dropLast() + #", "automaticRollback": false}"#
            #expect(try await alias(node, "prod", String(body), "status").status == 200)
            for _ in 0..<80 { _ = try await node.ask("POST", "/v1/tenants/acme/functions/status/invocations?alias=prod", body: "500") }
            await daemon.keepEndedCanaries()
            let shown = try await node.ask("GET", "/v1/tenants/acme/functions/status/aliases/prod")
            let reply = try JSONDecoder().decode(AliasReply.self, from: Data(shown.body))
            #expect(reply.canary == 2 && !reply.automaticRollback)
            let figures = try #require(reply.canaryFigures)
            #expect(figures.calls >= 50 && figures.errors == figures.calls && figures.calls + (reply.primaryFigures?.calls ?? 0) == 80)
        }
    }

    @Test("retention removes old versions with their code, and keeps what is named, newest, or has workers; loose code goes at the start")
    func retention() async throws {
        let trees = (1...8).map { "echo\($0)" } + ["loose"]
        try await withDaemon([("echo", 8)], config: "retention: {versions: 2, age: 1s}\n", code: trees) {
            node, daemon, state async throws in
            let code = state + "/code"
            #expect(try !FileManager.default.contentsOfDirectory(atPath: code).contains("loose"), "an interrupted publish left it")
            #expect(try FileManager.default.contentsOfDirectory(atPath: code).count == 8)
            #expect(try await alias(node, "prod", #"{"targets": [{"version": 1}]}"#).status == 200)
            #expect(try await alias(node, "prod", split(2, 3, 1)).status == 200)
            // A warm worker of version 5.
            #expect(try await node.invoke("echo@5", body: "x").status == 200)
            await daemon.sweepVersions()
            let rows = try JSONDecoder().decode(
                [VersionReply].self, from: Data(try await node.ask("GET", "/v1/tenants/acme/functions/echo/versions").body))
            // 1 is where a rollback of prod goes, 2 and 3 are prod, 5 has a worker, 7 is where latest goes back to, 8 is latest.
            #expect(rows.map(\.version) == [1, 2, 3, 5, 7, 8])
            #expect(try FileManager.default.contentsOfDirectory(atPath: code).sorted() == [1, 2, 3, 5, 7, 8].map { "echo\($0)" })
            #expect(try await node.invoke("echo@4").status == 404)
            #expect(try await node.invoke("echo@5", body: "x").status == 200)
            await daemon.sweepVersions()
            #expect(try FileManager.default.contentsOfDirectory(atPath: code).count == 6, "a second sweep finds nothing")
        }
    }

    @Test("applications sum up their functions: calls, success, percentiles, throttles and cost")
    func applications() async throws {
        try await withDaemon([("echo", 1), ("fail", 1)], extra: "application: shop\n") { node, _, _ async throws in
            for _ in 0..<3 { #expect(try await node.invoke("echo", body: "x").status == 200) }
            #expect(try await node.invoke("fail").status == 500)
            let answer = try await node.ask("GET", "/v1/tenants/acme/applications")
            let rows = try JSONDecoder().decode([ApplicationReply].self, from: Data(answer.body))
            let shop = try #require(rows.first { $0.application == "shop" })
            #expect(shop.functions == ["echo", "fail"] && shop.calls == 4 && shop.successRate == 0.75 && shop.throttles == 0)
            let (p50, p99) = (try #require(shop.p50), try #require(shop.p99))
            #expect(p50 > 0 && p99 >= p50 && shop.gbSeconds > 0)
            #expect(try await node.ask("GET", "/v1/applications").status == 401)
        }
    }
}
