// SPDX-License-Identifier: Apache-2.0
import Core
import NodeConfiguration
import Testing

/// What a reload changes, found by place and by name, against what a comparison by names alone finds.
@Suite struct TenantChangeTests {
    private func node(_ tenants: [(String, Int)]) throws -> NodeConfiguration {
        var node = NodeConfiguration()
        node.tenants = try tenants.map { name, seats in
            var tenant = TenantConfiguration(tenant: try #require(Name(name)))
            tenant.concurrency = seats
            return tenant
        }
        return node
    }

    private func lines(_ new: [(String, Int)], _ old: [(String, Int)]) throws -> [String] {
        try node(new).tenantChanges(from: try node(old)).map {
            "\($0.name) \($0.before.map { "\($0.concurrency)" } ?? "-") \($0.after.map { "\($0.concurrency)" } ?? "-")"
        }
    }

    @Test("every tenant that came, went or changed is found once, wherever it stands")
    func all() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<300 {
            var sides: [[(String, Int)]] = []
            for _ in 0..<2 {
                let kept = (0..<12).filter { _ in Int.random(in: 0..<10, using: &random) < 8 }
                let shown = kept.map { ("t\($0)", Int.random(in: 0..<10, using: &random) < 8 ? 5 : 6) }
                // Files stand in their order, but nothing depends on it.
                sides.append(Bool.random(using: &random) ? shown : shown.shuffled(using: &random))
            }
            let (old, new) = (Dictionary(uniqueKeysWithValues: sides[0]), Dictionary(uniqueKeysWithValues: sides[1]))
            let expected = Set(old.keys).union(new.keys).sorted().filter { old[$0] != new[$0] }.map { name in
                "\(name) \(old[name].map(String.init) ?? "-") \(new[name].map(String.init) ?? "-")"
            }
            #expect(try lines(sides[1], sides[0]) == expected, "\(sides)")
        }
    }

    @Test("the ends of the list")
    func ends() throws {
        let old = [("a", 1), ("b", 1), ("c", 1)]
        #expect(try lines(old, old) == [] && lines([], []) == [])
        #expect(try lines([("0", 1)].map { ("z" + $0.0, $0.1) } + old, old) == ["z0 - 1"])
        #expect(try lines(Array(old.dropFirst()), old) == ["a 1 -"] && lines(Array(old.dropLast()), old) == ["c 1 -"])
        #expect(try lines([], old) == ["a 1 -", "b 1 -", "c 1 -"] && lines(old, []) == ["a - 1", "b - 1", "c - 1"])
        #expect(try lines([("a", 1), ("b", 2), ("c", 1)], old) == ["b 1 2"])
    }
}
