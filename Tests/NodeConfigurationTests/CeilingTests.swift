// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NodeConfiguration
import Testing

private func tenant(_ text: String) throws(ConfigurationErrors) -> TenantConfiguration {
    try TenantConfiguration(yaml: Array(text.utf8), file: "acme.yaml", name: "acme")
}

private func function(_ text: String) throws(ConfigurationErrors) -> FunctionManifest {
    try FunctionManifest(yaml: Array(("function: x\nruntime: python3\nhandler: a.b\n" + text).utf8))
}

private func mistakes(_ body: () throws(ConfigurationErrors) -> Void) -> String {
    do throws(ConfigurationErrors) {
        try body()
        return ""
    } catch { return error.description }
}

@Suite struct CeilingTests {
    @Test("every ceiling of a tenant")
    func whole() throws {
        let acme = try tenant(
            """
            tenant: acme
            quota:
              rate: 200/s burst 400
              budget: {compute: 3600 GB-s/hour, invocations: "100000/day", zone: Europe/Berlin}
            weight: 2.5
            users:
              default: {concurrency: 5, rate: 20/s}
              key: "header:X-User"
            """)
        let rate = try #require(acme.rate)
        #expect(rate.count == 200 && rate.period == .seconds(1) && rate.burst == 400 && "\(rate)" == "200/s burst 400")
        #expect(acme.computeBudget?.limit == 3600 * 1_000_000 && acme.invocationBudget?.limit == 100_000)
        #expect(acme.computeBudget?.period != acme.invocationBudget?.period)
        #expect(acme.budgetZone == "Europe/Berlin" && acme.weight == 2.5)
        #expect(acme.users?.concurrency == 5 && acme.users?.rate?.count == 20 && acme.users?.rate?.burst == 20)
        #expect(acme.users?.key == .header("X-User"))
    }

    @Test("what is not said is not limited")
    func defaults() throws {
        let acme = try tenant("tenant: acme\n")
        #expect(acme.rate == nil && acme.computeBudget == nil && acme.invocationBudget == nil && acme.users == nil)
        #expect(acme.weight == 1 && acme.budgetZone == "UTC")
        let users = try tenant("tenant: acme\nusers: {default: {concurrency: 1}}\n").users
        #expect(users?.concurrency == 1 && users?.rate == nil && users?.key == .apiKey)
    }

    @Test(
        "the smallest and the largest",
        arguments: [
            "quota: {concurrency: 1}", "quota: {concurrency: 100000}", "quota: {queue: 0}", "quota: {rate: 1/s}",
            "quota: {rate: 1000000/s burst 10000000}", "quota: {rate: 1/month burst 1}", "quota: {budget: {compute: 1 GB-s/hour}}",
            "quota: {budget: {compute: 1000000000000 GB-s/month}}", "quota: {budget: {invocations: 1/month}}",
            "quota: {budget: {zone: UTC}}", "weight: 0.001", "weight: 1000", "users: {default: {rate: 1/s}, key: key}",
        ])
    func bounds(line: String) { #expect(mistakes { () throws(ConfigurationErrors) in _ = try tenant("tenant: acme\n\(line)\n") } == "") }

    @Test(
        "a ceiling that makes no sense is refused where it stands",
        arguments: [
            ("quota: {concurrency: 0}", "2:22: `concurrency` must be from 1 to 100000"),
            ("quota: {concurrency: -1}", "2:22: `concurrency` must be from 1 to 100000"),
            ("quota: {concurrency: 99999999999999999999}", "2:22: `concurrency` must be written as a whole number"),
            ("quota: {concurrency: 1.5}", "whole number"), ("quota: {concurrency: many}", "whole number"),
            ("quota: {queue: -1}", "from 0 to 1000000"), ("quota: {cpu: 0}", "from 0.01 to 1024"), ("quota: {cpu: 1.+5}", "`cpu` must be"),
            ("quota: {memory: +4GiB}", "`memory` must be"), ("quota: {memory: 18446744073709551615GiB}", "`memory` must be"),
            ("quota: {rate: 0/s}", "2:15: `rate` must be written as a rate like 200/s"), ("quota: {rate: -1/s}", "`rate` must be"),
            ("quota: {rate: +1/s}", "`rate` must be"), ("quota: {rate: 1000001/s}", "`rate` must be"),
            ("quota: {rate: 99999999999999999999/s}", "`rate` must be"), ("quota: {rate: 5}", "`rate` must be"),
            ("quota: {rate: 5/fortnight}", "`rate` must be"), ("quota: {rate: 5//s}", "`rate` must be"),
            ("quota: {rate: 5/s burst 0}", "`rate` must be"), ("quota: {rate: 5/s burst}", "`rate` must be"),
            ("quota: {rate: 5/s bust 9}", "`rate` must be"), ("quota: {rate: [5/s]}", "not `a list`"),
            ("quota: {rate: 5/s, rate: 6/s}", "given twice"),
            ("quota: {budget: {compute: 1 GB-s/day, compute: 2 GB-s/day}}", "given twice"),
            ("quota: {budget: 5}", "`key: value` pairs"), ("quota: {budget: {compute: 3600}}", "`compute` must be"),
            ("quota: {budget: {compute: 3600 GB-s/minute}}", "2:27: `compute` must be written as an amount a period"),
            ("quota: {budget: {compute: 3600 GB-s/s}}", "hour, day or month"),
            ("quota: {budget: {compute: 0 GB-s/day}}", "`compute` must be"),
            ("quota: {budget: {compute: -1 GB-s/day}}", "`compute` must be"),
            ("quota: {budget: {compute: 5 MB-s/day}}", "`compute` must be"),
            ("quota: {budget: {compute: 1000000000001 GB-s/day}}", "at most 1000000000000"),
            ("quota: {budget: {compute: 99999999999999999999 GB-s/day}}", "`compute` must be"),
            ("quota: {budget: {invocations: 18446744073709551615/day}}", "at most 1000000000000"),
            ("quota: {budget: {invocations: 100/week}}", "hour, day or month"),
            ("quota: {budget: {invocations: 0/day}}", "`invocations` must be"),
            ("quota: {budget: {zone: Mars/Olympus}}", "2:24: `zone` must be a time zone"),
            ("quota: {budget: {compte: 1 GB-s/day}}", "did you mean `compute`?"),
            ("weight: 0", "2:9: `weight` must be from 0.001 to 1000"), ("weight: 0.0", "from 0.001 to 1000"),
            ("weight: -1", "2:9: `weight` must be written as a number"), ("weight: 1000.001", "from 0.001 to 1000"),
            ("weight: 1e300", "`weight` must be"), ("weight: 99999999999999999999999", "`weight` must be"),
            ("weight: .inf", "`weight` must be"),
            ("weight: nan", "`weight` must be"), ("weight: heavy", "`weight` must be"), ("weight: 1\nweight: 2", "given twice"),
            ("users: 5", "`key: value` pairs"), ("users: {default: {concurrency: 0}}", "from 1 to 100000"),
            ("users: {default: {rate: 0/s}}", "`rate` must be"), ("users: {concurrency: 5}", "unknown key `concurrency`"),
            ("users: {key: \"header:\"}", "`key` must be written as key"), ("users: {key: \"header:A B\"}", "`key` must be written as key"),
            ("users: {key: cookie}", "`key` must be written as key"), ("users: {default: {concurency: 5}}", "did you mean `concurrency`?"),
        ])
    func refused(line: String, sentence: String) {
        let text = mistakes { () throws(ConfigurationErrors) in _ = try tenant("tenant: acme\n\(line)\n") }
        #expect(text.hasPrefix("acme.yaml:2:") || text.hasPrefix("acme.yaml:3:") || text.hasPrefix("acme.yaml:1:"), "\(text)")
        #expect(text.contains(sentence), "\(text)")
    }

    @Test("the ceilings of a function")
    func manifest() throws {
        let manifest = try function("rate: 5/minute burst 7\nusers: {concurrency: 5, rate: 2/s, key: header:X-User}\n")
        #expect(manifest.rate?.count == 5 && manifest.rate?.period == .seconds(60) && manifest.rate?.burst == 7)
        #expect(manifest.users == UserCeilings(concurrency: 5, rate: manifest.users?.rate, key: .header("X-User")))
        #expect(manifest.users?.rate?.count == 2)
        let plain = try function("")
        #expect(plain.rate == nil && plain.users == nil)
    }

    @Test(
        "mistakes in the ceilings of a function",
        arguments: [
            ("rate: 0/s", "function.yaml:4:7: `rate` must be"), ("users: {concurrency: 0}", "from 1 to 100000"),
            ("users: {key: header:X-User}", "4:8: `users` needs a ceiling"), ("users: {}", "`users` needs a ceiling"),
            ("users: {concurrency: 1, key: 5}", "`key` must be written as key"),
            ("users: {default: {concurrency: 1}}", "unknown key `default`"),
        ])
    func manifestMistakes(line: String, sentence: String) {
        let text = mistakes { () throws(ConfigurationErrors) in _ = try function(line + "\n") }
        #expect(text.contains(sentence), "\(text)")
    }
}

@Suite struct DifferenceTests {
    private func node(_ tenants: String...) throws -> NodeConfiguration {
        var node = NodeConfiguration()
        node.tenants = try tenants.map { text in
            try TenantConfiguration(yaml: Array(text.utf8), file: "t", name: String(text.split(whereSeparator: \.isWhitespace)[1]))
        }
        return node
    }

    private func lines(_ changes: [NodeConfiguration.Difference]) -> [String] {
        changes.map { "\($0.tenant) \($0.key): \($0.before) -> \($0.after)" }
    }

    @Test("the same configuration differs in nothing")
    func same() throws { #expect(try node("tenant: acme\n").difference(from: node("tenant: acme\n")).isEmpty) }

    @Test("every setting of a tenant is compared, in the file's words")
    func settings() throws {
        let old = try node("tenant: acme\n")
        let new = try node(
            """
            tenant: acme
            quota:
              {concurrency: 5, rate: 200/s burst 400, queue: 7, memory: 1536MiB, cpu: 2.5, processes: 99, storage: 1048577B,
               budget: {compute: 3600 GB-s/hour, invocations: 100000/day, zone: Europe/Berlin}}
            weight: 0.25
            users: {default: {concurrency: 5, rate: 20/minute}, key: header:X-User}
            retention: {versions: 3}
            """)
        #expect(
            lines(new.difference(from: old)) == [
                "acme quota.concurrency: 50 -> 5", "acme quota.rate: none -> 200/s burst 400", "acme quota.queue: 1000 -> 7",
                "acme quota.memory: 4GiB -> 1536MiB", "acme quota.cpu: 2 -> 2.5", "acme quota.processes: 1024 -> 99",
                "acme quota.storage: 2GiB -> 1048577B", "acme quota.budget.compute: none -> 3600 GB-s/hour",
                "acme quota.budget.invocations: none -> 100000/day", "acme quota.budget.zone: UTC -> Europe/Berlin",
                "acme weight: 1 -> 0.25", "acme users.default.concurrency: none -> 5", "acme users.default.rate: none -> 20/minute",
                "acme users.key: none -> header:X-User", "acme retention.versions: none -> 3", "acme retention.age: none -> 30d",
            ])
        #expect(new.difference(from: old).map(\.after) == old.difference(from: new).map(\.before))
    }

    @Test("tenants that come and go, and the node's own settings")
    func tenants() throws {
        var new = try node("tenant: acme\n", "tenant: beta\n")
        new.memoryBytes = 8 << 30
        new.logAge = .seconds(3600)
        new.seats = 4
        let changes = lines(new.difference(from: try node("tenant: gone\n", "tenant: acme\n")))
        #expect(
            changes == [
                " memory: none -> 8GiB", " seats: 100000 -> 4", " logs.age: 7d -> 1h", "beta tenant:  -> added", "gone tenant:  -> removed",
            ])
    }
}

@Suite struct LoadTests {
    @Test(
        "the retention rule is read with its units, what it leaves out has its default, and nonsense is a mistake",
        arguments: [
            ("", RetentionRule()), ("retention: {versions: 3, age: 7d}\n", RetentionRule(versions: 3, age: .seconds(7 * 86_400))),
            ("retention: {age: 1s}\n", RetentionRule(versions: 10, age: .seconds(1))), ("retention: {versions: 0}\n", nil),
            ("retention: {age: 0s}\n", nil), ("retention: {age: 7}\n", nil), ("retention: {keep: 3}\n", nil), ("retention: 3\n", nil),
        ])
    func retention(text: String, expected: RetentionRule?) throws {
        let top = NSTemporaryDirectory() + "bulkhead-load-" + UUID().uuidString.prefix(8)
        defer { try? FileManager.default.removeItem(atPath: top) }
        try FileManager.default.createDirectory(atPath: top, withIntermediateDirectories: false)
        try "workers: 9\n\(text)".write(toFile: top + "/bulkhead.yaml", atomically: false, encoding: .utf8)
        #expect((try? NodeConfiguration.load(directory: top))?.retention == expected)
    }

    @Test(
        "the node's seats are read, and none or too many are a mistake",
        arguments: [("4", 4), ("100000", 100_000), ("0", nil), ("100001", nil)])
    func seats(text: String, expected: Int?) throws {
        let top = NSTemporaryDirectory() + "bulkhead-load-" + UUID().uuidString.prefix(8)
        defer { try? FileManager.default.removeItem(atPath: top) }
        try FileManager.default.createDirectory(atPath: top, withIntermediateDirectories: false)
        try "seats: \(text)\n".write(toFile: top + "/bulkhead.yaml", atomically: false, encoding: .utf8)
        #expect((try? NodeConfiguration.load(directory: top))?.seats == expected)
    }

    @Test("a folder of tenants that cannot be read is a mistake, not an absence")
    func unreadable() throws {
        let top = NSTemporaryDirectory() + "bulkhead-load-" + UUID().uuidString.prefix(8)
        defer { try? FileManager.default.removeItem(atPath: top) }
        try FileManager.default.createDirectory(atPath: top, withIntermediateDirectories: false)
        #expect(try NodeConfiguration.load(directory: top).tenants.map(\.tenant.text) == ["default"])
        #expect(try NodeConfiguration.load(directory: top + "/none").tenants.map(\.tenant.text) == ["default"])
        // Not a folder: stands for any folder that cannot be listed, which root always can.
        try "".write(toFile: top + "/tenants.d", atomically: false, encoding: .utf8)
        #expect(throws: ConfigurationErrors.self) { try NodeConfiguration.load(directory: top) }
    }
}
