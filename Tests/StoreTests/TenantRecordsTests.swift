// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Testing

/// A tenant's records on their way from one store to another.
@Suite struct TenantRecordsTests {
    private let acme: Name
    private let other: Name
    private let folder = NSTemporaryDirectory() + "records-\(UUID().uuidString)"

    init() throws {
        acme = try #require(Name("acme"))
        other = try #require(Name("other"))
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    private func store(_ name: String) throws -> StateStore { try StateStore(path: "\(folder)/\(name).sqlite") }
    private func code(_ digit: Character) -> String { String(repeating: digit, count: 64) }

    /// Two functions; `f` has lost version 1, and its alias `prod` has a canary and a history.
    private func filled(_ name: String) throws -> StateStore {
        let store = try store(name)
        let f = FunctionID(tenant: acme, function: try #require(Name("f"))), g = FunctionID(tenant: acme, function: try #require(Name("g")))
        for number in 1...3 { _ = try store.addVersion(f, codeHash: code("a"), codeBytes: 7, manifest: "m\(number)", at: UInt64(number)) }
        _ = try store.addVersion(g, codeHash: code("b"), codeBytes: 8, manifest: "g", at: 9)
        let prod = try #require(Name("prod"))
        for version in [2, 3] as [UInt32] { _ = try store.setAlias(AliasSpec(name: prod, primary: version, isAutomatic: false), f, at: 5) }
        let canary = try #require(Canary(version: 3, weight: 1000))
        _ = try store.setAlias(AliasSpec(name: prod, primary: 2, canary: canary, isAutomatic: true), f, at: 6)
        #expect(try store.removeVersion(VersionID(function: f, number: 1)) == nil)
        let gone = try store.createKey(tenant: acme, scopes: ["admin"], at: 1)
        _ = try store.revokeKey(gone.record.id, tenant: acme)
        return store
    }

    @Test("what is taken in is what was there, under another name, with numbers, aliases, their way back and keys")
    func roundTrip() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let from = try filled("from"), to = try store("to")
        let made = try from.createKey(tenant: acme, scopes: ["invoke", "deploy"], at: 2)
        // Numbers of steps are the node's: others stand before.
        _ = try to.addVersion(FunctionID(tenant: acme, function: acme), codeHash: code("c"), codeBytes: 1, manifest: "x", at: 1)
        let records = try from.records(of: acme)
        #expect(records.objection == nil)
        let read = try JSONDecoder().decode(TenantRecords.self, from: try JSONEncoder().encode(records))
        #expect(try to.add(read, as: other) == 0)
        let f = FunctionID(tenant: other, function: try #require(Name("f")))
        #expect(
            try to.versions().filter { $0.version.function.tenant == other }.map { "\($0.version) \($0.manifest) \($0.codeBytes)" } == [
                "other/f@2 m2 7", "other/f@3 m3 7", "other/g@1 g 8",
            ])
        let prod = try #require(try to.aliases(of: f).first { $0.spec.name.text == "prod" })
        #expect(prod.spec.primary == 2 && prod.spec.canary?.weight == 1000 && prod.spec.isAutomatic && prod.previous == 3)
        // A rollback ends the canary, and the next one goes back in the history that came along.
        _ = try to.rollBack(prod.spec.name, f, at: 9)
        #expect(try to.rollBack(prod.spec.name, f, at: 9).get().spec.primary == 3)
        // A number is never given twice, here as there.
        #expect(try to.addVersion(f, codeHash: code("a"), codeBytes: 7, manifest: "m4", at: 1).version.number == 4)
        var ring = KeyRing(try to.keys())
        #expect(ring.record(made.key)?.tenant == other && ring.record(made.key)?.scopes == ["invoke", "deploy"])
        #expect(try to.keys().filter { $0.record.tenant == other && $0.record.isRevoked }.count == 1)
    }

    @Test("a key that another tenant of the node has stays that one's, and the copy still needs a key")
    func keysStay() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try filled("both")
        let made = try store.createKey(tenant: acme, scopes: ["invoke"], at: 2)
        #expect(try store.add(try store.records(of: acme), as: other) == 1)
        var ring = KeyRing(try store.keys())
        #expect(ring.record(made.key)?.tenant == acme)
        #expect(ring.hasKeys(other))
    }

    @Test("a name with records is refused, and a refusal leaves nothing; removal removes all and only of that tenant")
    func allOrNothing() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try filled("one")
        let records = try store.records(of: acme)
        #expect(throws: StoreError.self) { try store.add(records, as: acme) }
        var broken = records
        // Two rows of one key: the last insert fails, after all others.
        broken.keys.append(broken.keys[0])
        broken.keys[1].id = "k-000000000000"
        _ = try store.add(broken, as: other)
        #expect(try store.hasRecords(of: other))
        try store.removeRecords(of: other)
        #expect(try !store.hasRecords(of: other) && store.hasRecords(of: acme))
        #expect(try store.records(of: acme) == records)
    }

    private static func later(_ version: TenantRecords.Version) -> TenantRecords.Version {
        var version = version
        version.number = 4
        return version
    }

    @Test("impossible records are refused")
    func hostile() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try filled("from")
        let good = try store.records(of: acme)
        let changes: [(String, (inout TenantRecords) -> Void)] = [
            ("a name", { $0.functions[0].function = "../x" }), ("a number of nothing", { $0.versions[0].number = 0 }),
            ("a number past the last", { $0.versions.append(Self.later($0.versions[0])) }),
            ("a version twice", { $0.versions[1] = $0.versions[0] }),
            ("a function twice", { $0.functions.append($0.functions[0]) }), ("code that is a path", { $0.versions[0].code = "../../etc" }),
            ("code in capitals", { $0.versions[0].code = String(repeating: "A", count: 64) }),
            ("a time past 2^63", { $0.versions[0].created = .max }), ("no latest", { $0.steps.removeAll { $0.alias == "latest" } }),
            (
                "an alias of a missing version",
                { records in
                    records.steps = records.steps.map { step in
                        var step = step; step.version = 1; return step
                    }
                }
            ),
            (
                "a whole canary",
                { records in
                    records.steps = records.steps.map { step in
                        var step = step; (step.canary, step.weight) = (3, 10_000); return step
                    }
                }
            ),
            ("a cause", { $0.steps[0].cause = "x" }), ("a step twice", { $0.steps[1].step = $0.steps[0].step }),
            ("a scope", { $0.keys[0].scopes = ["root"] }), ("a short hash", { $0.keys[0].hash = "00" }), ("an id", { $0.keys[0].id = "x" }),
            ("a version without a function", { $0.versions[0].function = "h" }),
        ]
        for (name, change) in changes {
            var records = good
            change(&records)
            #expect(records.objection != nil, "\(name)")
            #expect(throws: StoreError.self, "\(name)") { try store.add(records, as: other) }
        }
        #expect(try !store.hasRecords(of: other))
    }
}
