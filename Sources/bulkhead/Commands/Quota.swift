// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import ControlAPI
import Core
import Foundation

struct Quota: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show and change the ceilings of a tenant.",
        discussion: """
              bulkhead quota show
              bulkhead quota show acme
              bulkhead quota set acme concurrency=80 'rate=200/s burst 400' 'budget.compute=3600 GB-s/hour'
            """,
        subcommands: [QuotaShow.self, QuotaSet.self])
}

struct QuotaShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show what a tenant may use, and what it uses now.",
        discussion: """
            Without a tenant one line for each. With --json the object of the tenant, or an array of all: {tenant, weight, concurrency, \
            queue, memory, processes, storage, buckets: {limit, used}, cpu, rate, \
            budgets: [{kind, period, zone, limit, spent, reserved, resetsAt}], users}; memory, storage and buckets in bytes, compute in GB-seconds.
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: "The tenant (default: all).")
    var tenant: String?

    func run() async throws {
        let tenant = try tenant.map(FunctionReference.tenant)
        try await NodeClient.with(node) { client in
            if let tenant {
                let bytes = try await client.bytes(.get, NodePath.quota(tenant))
                if node.json { Console.json(bytes) } else { Console.out(QuotaTable.one(try JSONValue(parsing: bytes), now: Date())) }
                return
            }
            var quotas: [JSONValue] = []
            for name in try await client.tenants() {
                quotas.append(try JSONValue(parsing: try await client.bytes(.get, NodePath.quota(name))))
            }
            if node.json { try Console.value(quotas) } else { Console.out(Listing.table(quotas, QuotaTable.columns)) }
        }
    }
}

/// How a quota looks to a person.
enum QuotaTable {
    static let columns: [ListColumn] = [
        .text("TENANT", "tenant"), ListColumn(title: "WEIGHT", isNumber: true) { number($0["weight"]) }, .gauge("SEATS", "concurrency"),
        .gauge("QUEUE", "queue"), bytes("MEMORY", "memory"), .gauge("PIDS", "processes"),
        ListColumn(title: "CPU", isNumber: true) { number($0["cpu"]) }, bytes("STORAGE", "storage"), bytes("BUCKETS", "buckets"),
        ListColumn(title: "RATE") { word($0["rate"]) },
        ListColumn(title: "STATE") { state($0) },
        ListColumn(title: "BUDGETS") { quota in
            let budgets = quota["budgets"].elements.map { "\(spent($0)) \(unit($0))/\($0["period"].text)" }
            return budgets.isEmpty ? "none" : budgets.joined(separator: ", ")
        },
    ]

    /// One ceiling a line.
    static func one(_ quota: JSONValue, now: Date) -> String {
        var table = Table([.init("CEILING"), .init("USED", isNumber: true), .init("LIMIT", isNumber: true), .init("NOTE")])
        for key in ["concurrency", "queue", "processes"] {
            let gauge = quota[key]
            table.add([key, Units.count(gauge["used"].count ?? 0), Units.count(gauge["limit"].count ?? 0)])
        }
        for key in ["memory", "storage", "buckets"] {
            let gauge = quota[key]
            table.add([key, Units.bytes(gauge["used"].count ?? 0), Units.bytes(gauge["limit"].count ?? 0)])
        }
        table.add(["cpu", "", number(quota["cpu"]), "processors"])
        table.add(["rate", "", word(quota["rate"])])
        table.add(["weight", "", number(quota["weight"])])
        for budget in quota["budgets"].elements {
            let reserved = (budget["reserved"].double ?? 0) > 0 ? ", \(number(budget["reserved"])) reserved" : ""
            let reset = budget["resetsAt"].time.map { Units.duration(seconds: max(0, $0.timeIntervalSince(now))) } ?? "-"
            table.add([
                "budget.\(budget["kind"].text)", number(budget["spent"]), number(budget["limit"]),
                "\(unit(budget)) a \(budget["period"].text)\(reserved); resets in \(reset) (\(budget["zone"].text))",
            ])
        }
        let users = quota["users"]
        if users != .null {
            table.add(["users.concurrency", "", word(users["concurrency"]), "each; \(Units.count(users["active"].count ?? 0)) active"])
            table.add(["users.rate", "", word(users["rate"]), "each"])
        }
        let state = state(quota) == "suspended" ? ", suspended: nothing of it is taken or run" : ""
        return "Quota of \(escaped(quota["tenant"].text))\(state)\n" + table.rendered()
    }

    /// Also of a node that does not know the word yet.
    static func state(_ tenant: JSONValue) -> String { tenant["suspended"] == .bool(true) ? "suspended" : "open" }

    private static func bytes(_ title: String, _ key: String) -> ListColumn {
        ListColumn(title: title, isNumber: true) { Units.usage($0[key]["used"].count ?? 0, of: $0[key]["limit"].count ?? 0) }
    }

    private static func spent(_ budget: JSONValue) -> String { "\(number(budget["spent"]))/\(number(budget["limit"]))" }
    private static func unit(_ budget: JSONValue) -> String { budget["kind"].text == "compute" ? "GB-s" : "calls" }
    private static func word(_ value: JSONValue) -> String { value == .null ? "none" : value.text }

    /// A number with at most three places, none where it is whole.
    static func number(_ value: JSONValue) -> String {
        guard let number = value.double else { return value.text }
        var text = Units.rounded(number, places: 3)
        guard text.contains(".") else { return text }
        while text.last == "0" { text.removeLast() }
        if text.last == "." { text.removeLast() }
        return text
    }
}

struct QuotaSet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change ceilings in the tenant's file, and have the node take them at once.",
        discussion: """
            KEY is \(QuotaSetting.paths.map(\.key).joined(separator: ", ")); the value 'none' removes a ceiling. Only the named lines of \
            tenants.d/TENANT.yaml change. A value that the node refuses leaves the file as it was, and nothing is half applied.

              bulkhead quota set acme concurrency=80 memory=8GiB
              bulkhead quota set acme 'rate=200/s burst 400' 'budget.compute=3600 GB-s/hour' budget.zone=Europe/Berlin
              bulkhead quota set acme rate=none
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: "The tenant.")
    var tenant: String
    @Argument(help: ArgumentHelp("What to change.", valueName: "key=value"))
    var settings: [String]

    func run() async throws {
        let tenant = try FunctionReference.tenant(tenant)
        let settings = try QuotaSetting.parse(settings)
        try await NodeClient.with(node) { client in
            let folder = try await client.configurationFolder(node)
            let lock = try folder.lock()
            let edit = try QuotaEdit(folder, tenant: tenant, settings)
            // From here on the file and the node must end alike, so Ctrl-C has to wait.
            Interrupts.ignore()
            try edit.make()
            let reply: [UInt8]
            do { reply = try await client.reload(dryRun: false) } catch {
                try edit.putBack()
                throw Self.refusal(error, edit.file)
            }
            try edit.keep()
            withExtendedLifetime(lock) {}
            try Reload.show(reply, json: node.json, dryRun: false)
        }
    }

    /// The error of the node, and what became of the file.
    static func refusal(_ error: any Error, _ file: String) -> any Error {
        guard var failure = error as? Failure else { return error }
        let place = escaped(file)
        failure.sentence =
            failure.status == .unreachable || failure.status == .timedOut
            ? "\(place) is as it was, but whether the node took the change is not known; see bulkhead quota show. \(failure.sentence)"
            : "Nothing was changed, \(place) is as it was: \(failure.sentence)"
        return failure
    }
}
