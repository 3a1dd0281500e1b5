// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Testing

@testable import Gateway

/// The table of routes is what the router does.
@Suite struct RoutesTests {
    private static let names = [
        "tenant": "acme", "function": "echo", "version": "1", "alias": "latest", "bucket": "in", "key": "k1", "worker": "w-1",
        "invocation": "0123456789abcdef0123456789abcdef", "snapshot": "0123456789abcdef",
        "trigger": "in", "path": "x",
    ]

    private func path(_ route: Route) -> String {
        Self.names.reduce(route.path) { $0.replacing("{\($1.key)}", with: $1.value) }
    }

    @Test("every route of the table is one of the router, by its method and no other")
    func known() async throws {
        try await TestNode.withNode { node, _ async throws in
            for route in Routes.all {
                let answer = try await node.ask(route.method, path(route))
                let isMissing = answer.status == 404 && answer.text.contains("such resource")
                #expect(!isMissing && answer.status != 405, "\(route.method) \(route.path): \(answer.status) \(answer.text)")
            }
            let methods = Dictionary(grouping: Routes.all, by: \.path).mapValues { Set($0.map(\.method)) }
            for (template, known) in methods {
                guard let route = Routes.all.first(where: { $0.path == template }) else { continue }
                for method in ["GET", "PUT", "POST", "DELETE"] where !known.contains(method) {
                    let answer = try await node.ask(method, path(route))
                    #expect(answer.status >= 400, "\(method) \(template) is answered with \(answer.status) and not in the table")
                }
            }
        }
    }

    @Test("what is the node's is for operators, all of it; what is a tenant's asks for the scope that the table says")
    func access() async throws {
        try await TestNode.withNode { node, service async throws in
            service.object { _, tenant, _ in
                tenant == nil ? Problem(code: "forbidden", title: "t", status: 403, detail: "d") : nil
            }
            for route in Routes.all where route.access == .operator && route.path != "/metrics" {
                #expect(try await node.ask(route.method, path(route)).status == 403, "\(route.method) \(route.path)")
            }
            #expect(try await node.ask("POST", "/v1/something/new").status == 404)
            for scope in [Scope.invoke, .deploy, .admin] {
                service.object { _, _, asked in
                    asked == scope ? Problem(code: "forbidden", title: "t", status: 403, detail: "d") : nil
                }
                for route in Routes.all where route.path.hasPrefix("/v1/tenants/{tenant}/") {
                    let isRefused = try await node.ask(route.method, path(route)).status == 403
                    #expect(
                        isRefused == (route.access.rawValue == scope.rawValue),
                        "\(route.method) \(route.path) asks for \(scope): \(isRefused)")
                }
            }
        }
    }

    @Test("every parameter of the table is taken, and another one is not")
    func parameters() async throws {
        try await TestNode.withNode { node, service async throws in
            for route in Routes.all
            where route.method == "GET" && route.path.hasPrefix("/v1/") && !route.path.hasSuffix("/objects/{key}") {
                for name in route.query {
                    let answer = try await node.ask("GET", path(route) + "?\(name)=1")
                    #expect(!answer.text.contains("no parameter"), "\(route.path)?\(name)")
                }
                #expect(try await node.ask("GET", path(route) + "?nonsense=1").status == 400, "\(route.path)")
            }
        }
    }

    @Test("a call with a parameter that there is not is refused by its name, before its function runs", arguments: ["", "@1"])
    func parametersOfCalls(version: String) async throws {
        try await TestNode.withNode { node, _ async throws in
            let path = "/v1/tenants/acme/functions/echo\(version)/invocations"
            let answer = try await node.ask("POST", path + "?verison=1", body: "x")
            #expect(answer.status == 400 && answer.text.contains("no parameter `verison`; it takes version, alias"), "\(answer.text)")
            #expect(node.spawner.invoked.isEmpty)
            #expect(try await node.ask("POST", path, body: "x").text == "x")
        }
    }

    @Test("who may call alone is told that a path is not there, or what is wrong with a call, and not that it may not")
    func mistypedPaths() async throws {
        try await TestNode.withNode { node, service async throws in
            service.object { _, _, asked in
                asked == .invoke ? nil : Problem(code: "forbidden", title: "t", status: 403, detail: "d")
            }
            let root = "/v1/tenants/acme"
            for path in ["/functions/echo/invoke", "/nonsense", "/keys/k1/more", "/buckets/in/more", "/audit/more"] {
                #expect(try await node.ask("POST", root + path, body: "x").status == 404, "\(path)")
            }
            for path in ["/functions/echo/invocations?version=x", "/functions/echo/invocations?nonsense=1"] {
                #expect(try await node.ask("POST", root + path, body: "x").status == 400, "\(path)")
            }
            #expect(try await node.ask("POST", root + "/keys", body: "{}").status == 403)
            service.object { _, _, _ in Problem(code: "forbidden", title: "t", status: 403, detail: "d") }
            #expect(try await node.ask("POST", root + "/nonsense", body: "x").status == 403, "who may nothing learns nothing")
        }
    }
}
