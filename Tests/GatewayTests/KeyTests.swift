// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NodeConfiguration
import Store
import Supervision
import Synchronization
import Testing
import Wire

@testable import Gateway
@testable import bulkheadd

/// The real daemon behind the real gateway: its store, its keys, no workers. `quota`: lines for the tenants' files.
func withDaemon(quota: String = "", acceptsKeyless: Bool = true, _ body: (TestNode, Client) async throws -> Void) async throws {
    let state = NSTemporaryDirectory() + "keys-\(UUID().uuidString)"
    for folder in ["code", "incoming", "logs", "usage", "events"] {
        try FileManager.default.createDirectory(atPath: "\(state)/\(folder)", withIntermediateDirectories: true)
    }
    defer { try? FileManager.default.removeItem(atPath: state) }
    let spawner = FakeSpawner()
    let supervisor = try await TestNode.supervisor(spawner)
    let store = try StateStore(path: state + "/bulkhead.sqlite")
    let config = state + "/config"
    try FileManager.default.createDirectory(atPath: config + "/tenants.d", withIntermediateDirectories: true)
    for tenant in ["acme", "globex"] {
        try "tenant: \(tenant)\n\(quota)".write(toFile: "\(config)/tenants.d/\(tenant).yaml", atomically: true, encoding: .utf8)
    }
    let configuration = try NodeConfiguration.load(directory: config)
    let daemon = Daemon(
        supervisor: supervisor, store: store, code: try CodeStore(directory: state + "/code", incoming: state + "/incoming"),
        logs: LogStore(directory: state + "/logs", bytesPerTenant: 1 << 20, age: .max),
        buckets: try BucketStore(directory: state + "/buckets"), runtimes: ["native"], bodyLimit: 1 << 20,
        keys: [], ledger: try UsageLedger(directory: state + "/usage", now: 1_000_000, segmentRecords: 64),
        events: try EventStore(directory: state + "/events", now: 1_000_000), loopsPath: state + "/loops.json",
        configuration: configuration,
        directory: config, acceptsKeyless: acceptsKeyless, logger: TestNode.quiet)
    try await daemon.start(configuration, .welcome(version: spawnerProtocolVersion, listeners: [], runtimes: ["native"]))
    let node = try await TestNode(supervisor, spawner, daemon)
    let control = try node.connectControl()
    do { try await body(node, control) } catch {
        await node.stop()
        throw error
    }
    await node.stop()
}

/// Who may what, as the real daemon decides it: its store, its keys, no workers.
@Suite struct KeyTests {
    private func key(_ control: Client, _ tenant: String, _ scope: String) async throws -> KeyReply {
        try await control.send(TestNode.request("POST", "/v1/tenants/\(tenant)/keys", body: "{\"scopes\": [\"\(scope)\"]}"))
        return try JSONDecoder().decode(KeyReply.self, from: Data(try await control.answer().body))
    }

    private func bearer(_ key: String?) -> [String] { ["Authorization: Bearer \(key ?? "")"] }

    @Test("before a tenant has keys, loopback needs none; from its first key on, also after its revocation, it does")
    func firstKey() async throws {
        try await withDaemon { node, control async throws in
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions").status == 200)
            let made = try await key(control, "acme", "invoke")
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions").status == 401)
            #expect(try await node.ask("GET", "/v1/tenants/globex/functions").status == 200)
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions", headers: bearer(made.key)).status == 200)
            try await control.send(TestNode.request("DELETE", "/v1/tenants/acme/keys/\(made.id)"))
            #expect(try await control.answer().status == 204)
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions", headers: bearer(made.key)).status == 401)
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions").status == 401)
        }
    }

    @Test("with a key, another tenant's things and what is nowhere look alike, byte for byte")
    func alike() async throws {
        try await withDaemon { node, control async throws in
            let mine = try await key(control, "acme", "invoke").key
            _ = try await key(control, "globex", "invoke")
            for (method, end) in [
                ("GET", "functions"), ("GET", "workers"), ("GET", "logs"), ("GET", "functions/f/versions"),
                ("POST", "functions/echo/invocations"),
                ("GET", "invocations/0123456789abcdef0123456789abcdef"), ("GET", "keys"), ("PUT", "functions"), ("DELETE", "functions/f"),
            ] {
                let foreign = try await node.ask(method, "/v1/tenants/globex/\(end)", headers: bearer(mine), body: "x")
                let nowhere = try await node.ask(method, "/v1/tenants/nobody/\(end)", headers: bearer(mine), body: "x")
                #expect(foreign.status == 404 && foreign.body == nowhere.body, "\(method) \(end): \(foreign.text) \(nowhere.text)")
                #expect(foreign.headers.map(\.name) == nowhere.headers.map(\.name))
                #expect(!foreign.text.contains("globex") && !foreign.text.contains("nobody"))
            }
        }
    }

    @Test("calls of a foreign function that is there, of one that is not and of no tenant are answered alike, and none is looked up")
    func unseen() async throws {
        let paths = ["globex/functions/echo", "globex/functions/nothing", "nobody/functions/echo"].map { "/v1/tenants/\($0)/invocations" }
        func isAlike(_ answers: [Answer]) -> Bool {
            answers.allSatisfy { answer in
                answer.status == 404 && answer.body == answers[0].body
                    && answer.headers.map { "\($0.name): \($0.value)" } == answers[0].headers.map { "\($0.name): \($0.value)" }
            }
        }
        try await withDaemon { node, control async throws in
            let mine = try await key(control, "acme", "invoke").key
            let theirs = try await key(control, "globex", "invoke").key
            guard let globex = Name("globex"), let echo = Name("echo") else { return }
            let version = VersionID(function: FunctionID(tenant: globex, function: echo), number: 1)
            try await node.supervisor.onLoop {
                $0.register(Deployment(spec: FunctionSpec(version: version, runtime: "native", code: ""), handler: ["x"], environment: [:]))
            }
            for extra in [[], ["Bulkhead-Invocation-Type: async"], ["Bulkhead-Invocation-Type: dry-run"]] {
                var answers: [Answer] = []
                for path in paths { answers.append(try await node.ask("POST", path, headers: bearer(mine) + extra, body: "1")) }
                #expect(isAlike(answers), "\(answers.map(\.text))")
            }
            #expect(try await node.ask("POST", paths[0], headers: bearer(theirs), body: "1").status == 200, "it is there")
        }
        // One way for all three: what is there or not is not asked before the caller is known.
        try await TestNode.withNode { node, service async throws in
            service.object { _, tenant, _ in tenant?.text == "acme" ? nil : .notFound("tenant or resource for this key") }
            var answers: [Answer] = []
            for path in paths { answers.append(try await node.ask("POST", path, body: "1")) }
            #expect(isAlike(answers) && service.sought.withLock { $0.isEmpty } && service.calls.isEmpty)
            #expect(try await node.invoke("echo", body: "1").status == 200)
            #expect(service.sought.withLock { $0.count } == 1, "it would have been seen")
        }
    }

    @Test("objects of a foreign bucket, of none and of no tenant are answered alike, and of a foreign call memory says nothing")
    func unseenByName() async throws {
        try await withDaemon { node, control async throws in
            let mine = try await key(control, "acme", "admin").key
            try await control.send(TestNode.request("PUT", "/v1/tenants/globex/buckets/box"))
            #expect(try await control.answer().status < 300, "it is there")
            var answers: [Answer] = []
            for path in ["globex/buckets/box", "globex/buckets/nope", "nobody/buckets/box"] {
                answers.append(try await node.ask("GET", "/v1/tenants/\(path)/objects/one", headers: bearer(mine)))
            }
            #expect(answers.allSatisfy { $0.status == 404 && $0.body == answers[0].body }, "\(answers.map(\.text))")
        }
        // The way is the same, and not only the words: what another tenant's call is known by in memory is not what answers.
        try await VersionRouteTests().withDaemon([("echo", 1)]) { node, daemon, _ async throws in
            let beta = try #require(Name("beta"))
            let call = try await node.invoke("echo", body: "1")
            let id = try #require(call.header("bulkhead-invocation-id").flatMap { InvocationID($0) })
            #expect(try await daemon.explain(id, tenant: Name("acme")).invocation == id.description)
            await #expect(throws: Problem.self) { try await daemon.explain(id, tenant: beta) }
            let kept = ExplainReply(invocation: id.description, function: "beta/kept@1", arrivedAt: 1, entries: [])
            try daemon.explanations.append([.init(tenant: beta, id: id, json: try JSONEncoder().encode(kept))])
            #expect(try await daemon.explain(id, tenant: beta).function == "beta/kept@1", "the disk was not asked")
        }
    }

    @Test("without a key, and with a wrong one, a tenant with keys answers 401 in the same words for all of its things")
    func wrong() async throws {
        try await withDaemon { node, control async throws in
            _ = try await key(control, "acme", "invoke")
            var bodies: Set<[UInt8]> = []
            for end in ["functions", "functions/f/versions", "logs", "keys", "workers"] {
                let answer = try await node.ask("GET", "/v1/tenants/acme/\(end)")
                #expect(answer.status == 401 && answer.header("www-authenticate") == "Bearer")
                bodies.insert(answer.body)
            }
            #expect(bodies.count == 1)
            for headers in [bearer("wrong"), bearer(""), bearer(String(repeating: "k", count: 5000))] {
                for tenant in ["acme", "globex", "nobody"] {
                    #expect(try await node.ask("GET", "/v1/tenants/\(tenant)/functions", headers: headers).status == 401, "\(tenant)")
                }
            }
        }
    }

    @Test("who speaks for another, as a proxy on this machine does, needs a key though it comes from loopback")
    func proxies() async throws {
        try await withDaemon { node, _ async throws in
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions").status == 200, "a tenant without keys")
            for header in [
                "Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1", "x-real-ip: 192.0.2.1", "Via: 1.1 front", "Bulkhead-Webhook: 1",
            ] {
                #expect(try await node.ask("GET", "/v1/tenants/acme/functions", headers: [header]).status == 401, "\(header)")
                #expect(try await node.ask("GET", "/metrics", headers: [header]).status == 401, "\(header)")
                #expect(try await node.invoke("f", headers: [header], body: "x").status == 401, "\(header)")
            }
        }
    }

    @Test("as a service nothing of a tenant is answered without a key, and which tenants there are is not told")
    func service() async throws {
        try await withDaemon(acceptsKeyless: false) { node, control async throws in
            var bodies: Set<[UInt8]> = []
            for tenant in ["acme", "globex", "nobody"] {
                for (method, end) in [("GET", "functions"), ("POST", "functions/f/invocations"), ("POST", "keys")] {
                    let answer = try await node.ask(method, "/v1/tenants/\(tenant)/\(end)", body: method == "POST" ? "{}" : "")
                    #expect(answer.status == 401, "\(tenant) \(end)")
                    bodies.insert(answer.body)
                }
            }
            #expect(bodies.count == 1)
            let mine = try await key(control, "acme", "admin").key
            #expect(try await node.ask("GET", "/v1/tenants/acme/functions", headers: bearer(mine)).status == 200)
        }
    }

    @Test("a key does what its scope says: 403 within its own tenant", arguments: ["invoke", "deploy", "admin"])
    func scopes(scope: String) async throws {
        try await withDaemon { node, control async throws in
            let mine = try await key(control, "acme", scope).key
            let invoked = try await node.invoke("nobody", headers: bearer(mine)).status
            let deleted = try await node.ask("DELETE", "/v1/tenants/acme/functions/nobody", headers: bearer(mine))
            let listed = try await node.ask("GET", "/v1/tenants/acme/keys", headers: bearer(mine)).status
            #expect(invoked == (scope == "deploy" ? 403 : 404))
            #expect(deleted.status == (scope == "invoke" ? 403 : 404))
            let says = deleted.text.contains("its scopes are invoke; create one with --scope deploy")
            #expect(says == (scope == "invoke"), "\(deleted.text)")
            #expect(listed == (scope == "admin" ? 200 : 403))
            let failures = try await node.ask("GET", "/v1/tenants/acme/failures", headers: bearer(mine)).status
            #expect(failures == (scope == "invoke" ? 403 : 200), "reasons are told to who deploys")
            #expect(try await node.ask("GET", "/v1/tenants/globex/failures", headers: bearer(mine)).status == 404)
        }
    }

    @Test(
        "what concerns the whole node is refused on TCP, with any key",
        arguments: [
            "/v1/version", "/v1/tenants", "/v1/functions", "/v1/workers", "/v1/workers/w-1", "/v1/top", "/v1/failures",
            "/v1/logs", "/v1/invocations/0123456789abcdef0123456789abcdef/explain",
        ])
    func nodeWide(path: String) async throws {
        try await withDaemon { node, control async throws in
            let mine = try await key(control, "acme", "admin").key
            #expect(try await node.ask("GET", path).status == 401)
            #expect(try await node.ask("GET", path, headers: bearer(mine)).status == 404)
            try await control.send(TestNode.request("GET", path))
            #expect([200, 404].contains(try await control.answer().status))
            let figures = try await node.ask("GET", "/metrics")
            #expect(figures.status == 200 && !figures.text.contains("acme"))
        }
    }
}
