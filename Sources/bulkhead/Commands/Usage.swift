// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core
import Foundation

struct UsageReport: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "usage", abstract: "Show what tenants used: invocations, GB-seconds, processor time.",
        discussion: """
            Times are 2026-11-21, 2026-11-21T10:00 (UTC), now, or a span before now like -24h. With --json an array of {tenant, function, \
            start, invocations, errors, gbSeconds, cpuSeconds, durationSeconds}; start in milliseconds since 1970, 0 where there is one \
            span only. --billing gives {tenant, function, requests, gbSeconds}, as function clouds bill.

              bulkhead usage
              bulkhead usage --tenant acme --from -24h --by hour
              bulkhead usage --from 2026-11-01 --to 2026-12-01 --billing --csv > bill.csv
            """)

    enum Grouping: String, CaseIterable, ExpressibleByArgument { case day, hour, function, total }

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "Only this tenant (default: all).")
    var tenant: String?
    @Option(
        parsing: .unconditional, help: ArgumentHelp("Beginning, included (default: the beginning of this month, UTC).", valueName: "time"))
    var from: String?
    @Option(parsing: .unconditional, help: ArgumentHelp("End, not included (default: now).", valueName: "time"))
    var to: String?
    @Option(help: "What a line stands for (default: function).")
    var by: Grouping?
    @Flag(help: "Requests and GB-seconds of each function, nothing else.")
    var billing = false
    @Flag(help: "Print CSV (RFC 4180).")
    var csv = false

    func validate() throws {
        if csv, node.json { throw ValidationError("--csv and --json exclude each other; choose one.") }
        if billing, let by, by != .function { throw ValidationError("--billing is by function; leave --by out.") }
    }

    func run() async throws {
        let tenant = try tenant.map(FunctionReference.tenant)
        let span = try span(now: Date())
        let grouping = (by ?? .function).rawValue
        try await NodeClient.with(node) { client in
            let tenants = if let tenant { [tenant] } else { try await client.tenants() }
            var rows: [JSONValue] = []
            for name in tenants {
                rows += try JSONValue(parsing: try await client.bytes(.get, NodePath.usage(name, span, by: grouping))).elements
            }
            if billing { rows = rows.map(UsageTable.bill) }
            if node.json {
                try Console.value(rows)
            } else if csv {
                Console.out(UsageTable.csv(rows, billing ? UsageTable.billingFields : UsageTable.fields))
            } else {
                Console.out(Listing.table(rows, billing ? UsageTable.billing : UsageTable.columns(rows)))
            }
        }
    }

    /// Milliseconds since 1970.
    func span(now: Date) throws(Failure) -> Range<UInt64> {
        let first = if let from { try TimeArgument.parse(from, option: "--from", now: now) } else { TimeArgument.month(of: now) }
        let end = if let to { try TimeArgument.parse(to, option: "--to", now: now) } else { TimeArgument.milliseconds(now) }
        guard first < end else { throw .usage("--from is not before --to; swap them.") }
        return first..<end
    }
}

/// How usage looks to a person, a spreadsheet and a bill.
enum UsageTable {
    static let fields = ["tenant", "function", "start", "invocations", "errors", "gbSeconds", "cpuSeconds", "durationSeconds"]
    static let billingFields = ["tenant", "function", "requests", "gbSeconds"]

    /// Without the columns that say nothing about these rows.
    static func columns(_ rows: [JSONValue]) -> [ListColumn] {
        var columns: [ListColumn] = [.text("TENANT", "tenant")]
        if rows.contains(where: { !$0["function"].text.isEmpty }) { columns.append(.text("FUNCTION", "function")) }
        if rows.contains(where: { ($0["start"].count ?? 0) > 0 }) { columns.append(ListColumn(title: "START") { moment($0["start"]) }) }
        return columns + [
            .count("INVOCATIONS", "invocations"), .count("ERRORS", "errors"), .decimal("GB-S", "gbSeconds", places: 3),
            .decimal("CPU S", "cpuSeconds"), .decimal("TIME S", "durationSeconds"),
        ]
    }

    static let billing: [ListColumn] = [
        .text("TENANT", "tenant"), .text("FUNCTION", "function"), .count("REQUESTS", "requests"), .decimal("GB-S", "gbSeconds", places: 3),
    ]

    static func bill(_ row: JSONValue) -> JSONValue {
        .object([
            "tenant": row["tenant"], "function": row["function"], "requests": row["invocations"], "gbSeconds": row["gbSeconds"],
        ])
    }

    /// A heading and the rows, ended by CR LF (RFC 4180).
    static func csv(_ rows: [JSONValue], _ fields: [String]) -> String {
        let lines = [fields] + rows.map { row in fields.map { $0 == "start" ? moment(row[$0]) : row[$0].text } }
        return lines.map { $0.map(cell).joined(separator: ",") + "\r\n" }.joined()
    }

    private static func cell(_ text: String) -> String {
        guard text.utf8.contains(where: { "\",\r\n".utf8.contains($0) }) else { return text }
        return "\"" + text.replacing("\"", with: "\"\"") + "\""
    }

    /// `2026-01-31T12:00:00Z`; empty where there is one span only.
    private static func moment(_ value: JSONValue) -> String {
        guard (value.count ?? 0) > 0, let date = value.time else { return "" }
        return date.ISO8601Format()
    }
}
