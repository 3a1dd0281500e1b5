// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core
import Foundation

struct Audit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print who changed what: deploys, aliases, keys, quotas, buckets, reloads.",
        discussion: """
            One line each: time, who, from where, tenant, action, target, what it came to, and what was before and is now. Kept for 400 \
            days, at most 8 MiB for each tenant and for the node. With --json one JSON object a line.

              bulkhead audit --since -24h
              bulkhead audit --tenant acme --since 2026-11-21T03:00 --until 2026-11-21T03:30
              bulkhead audit --grep "key revoke"
            """)

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "Only of this tenant (default: of all, and of the node).")
    var tenant: String?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Only from this time on: 2026-11-21, 2026-11-21T10:00 (UTC), -24h.", valueName: "time"))
    var since: String?
    @Option(parsing: .unconditional, help: ArgumentHelp("Only up to this time.", valueName: "time"))
    var until: String?
    @Option(help: ArgumentHelp("Only lines with a field that holds this text.", valueName: "text"))
    var grep: String?
    @Option(help: ArgumentHelp("How many of the newest lines, at most 10,000.", valueName: "lines"))
    var tail: UInt32 = 1000

    func run() async throws {
        let span = try TimeArgument.span(since: since, until: until, now: Date())
        let name = try tenant.map { try FunctionReference.tenant($0) }
        let path = NodePath.audit(name, since: span.since, until: span.until, grep: grep, tail: tail)
        try await NodeClient.with(node) { client in
            for line in try await client.bytes(.get, path).split(separator: 10).map(Array.init) {
                if node.json { Console.json(line) } else { Console.out(Self.line(try JSONValue(parsing: line)) + "\n") }
            }
        }
    }

    /// A record for a person.
    static func line(_ record: JSONValue) -> String {
        let time = record["time"].time.map(LogFormat.stamp) ?? record["time"].text
        let tenant = record["tenant"].text
        let words = [
            time, record["who"].text, record["from"].text, tenant.isEmpty ? "node" : tenant, record["action"].text, record["target"].text,
            record["outcome"].text,
        ]
        let detail = record["detail"].text
        return escaped(words.filter { !$0.isEmpty }.joined(separator: "  ") + (detail.isEmpty ? "" : "  (\(detail))"))
    }
}
