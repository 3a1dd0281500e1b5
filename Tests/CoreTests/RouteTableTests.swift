// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

private func http(_ name: String, _ route: String, _ methods: [String] = []) throws -> TriggerSpec {
    TriggerSpec(
        name: try #require(Name(name)), kind: .http(route: route, methods: methods, authorization: .none, shape: .bulkhead))
}

@Suite struct RouteTableTests {
    private func table() throws -> RouteTable {
        var table = RouteTable()
        table.set(try #require(Name("site")), [try http("all", "/*"), try http("home", "/", ["GET"])])
        table.set(
            try #require(Name("shop")),
            [try http("list", "/orders", ["GET"]), try http("new", "/orders", ["POST"]), try http("one", "/orders/*", ["GET", "DELETE"])])
        table.set(try #require(Name("deep")), [try http("deep", "/orders/old/*"), try http("me", "/orders/me", ["GET"])])
        return table
    }

    private func found(_ table: RouteTable, _ method: String, _ path: String) -> String {
        switch table.match(method, path) {
        case .route(let route): "\(route.function).\(route.trigger.name)"
        case .otherMethods(let methods): methods.joined(separator: ",")
        case .none: "none"
        }
    }

    @Test(
        "the longest literal that takes the method wins",
        arguments: [
            ("GET", "/", "site.home"), ("POST", "/", "site.all"), ("GET", "/x", "site.all"), ("GET", "/orders", "shop.list"),
            ("POST", "/orders", "shop.new"), ("GET", "/orders/", "shop.one"), ("GET", "/orders/7", "shop.one"),
            ("GET", "/orders/7/lines", "shop.one"), ("PUT", "/orders/7", "site.all"), ("GET", "/orders/me", "deep.me"),
            ("DELETE", "/orders/me", "shop.one"), ("GET", "/orders/old/1", "deep.deep"), ("GET", "/orders/old", "shop.one"),
            ("HEAD", "/orders", "shop.list"), ("GET", "/ordersX", "site.all"), ("GET", "/orders%2F7", "site.all"),
            ("GET", "/orders/*", "shop.one"), ("GET", "/orders/\u{301}x", "shop.one"),
        ])
    func longest(method: String, path: String, expected: String) throws { #expect(found(try table(), method, path) == expected) }

    @Test("without a route for all, other methods are told, and then nothing")
    func none() throws {
        var table = try table()
        table.set(try #require(Name("site")), [])
        #expect(found(table, "PUT", "/orders/me") == "DELETE,GET" && found(table, "PUT", "/orders") == "GET,POST")
        #expect(found(table, "GET", "/") == "none" && found(table, "GET", "/order") == "none" && found(table, "GET", "") == "none")
        table.set(try #require(Name("shop")), [])
        #expect(found(table, "GET", "/orders") == "none" && found(table, "GET", "/orders/me") == "deep.me")
    }

    @Test("two functions that take the same are refused with both names; parted methods and longer paths are not")
    func conflicts() throws {
        let table = try table()
        let new = try #require(Name("new"))
        #expect(
            table.conflicts(of: new, [try http("a", "/orders", ["POST", "PUT"])]) == [
                "new (trigger a) and shop (trigger new) both take POST of the route /orders: "
                    + "give one of them another path, or part the methods between them"
            ])
        #expect(table.conflicts(of: new, [try http("a", "/orders")]).count == 2)
        #expect(table.conflicts(of: new, [try http("a", "/*")]).first?.contains("all methods of the route /*") == true)
        #expect(table.conflicts(of: new, [try http("a", "/orders", ["PUT"]), try http("b", "/orders/x/*")]).isEmpty)
        // Its own routes are replaced, so they stand against nothing but each other.
        #expect(table.conflicts(of: try #require(Name("shop")), [try http("list", "/orders", ["GET"])]).isEmpty)
        #expect(table.conflicts(of: new, [try http("a", "/x"), try http("b", "/x", ["GET"])]).first?.contains("a and b of new") == true)
    }
}
