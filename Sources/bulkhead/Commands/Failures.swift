// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core
import Foundation

struct Failures: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List calls that failed or were refused, by time: of all tenants, of one, or of a function.",
        discussion: """
            When it ended, which function and version, the invocation's id, the outcome and why; 'bulkhead explain ID' has every decision about one. Kept are \
            the first 20 of a tenant in each second, 8 MiB a tenant, 14 days at most. With --json one object {failures, more}.

              bulkhead failures --since 03:10 --until 03:15
              bulkhead failures acme/thumbnail --since -24h --outcome timedOut
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("Whose (default: all).", valueName: "tenant[/function]"))
    var target: String?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Only what ended from this time on: 10m (before now), 2026-11-21, 2026-11-21T10:00 (UTC), 03:10.", valueName: "time"))
    var since: String?
    @Option(parsing: .unconditional, help: ArgumentHelp("Only what ended up to this time.", valueName: "time"))
    var until: String?
    @Option(help: ArgumentHelp("Only this outcome, for example timedOut.", valueName: "outcome"))
    var outcome: String?
    @Option(help: ArgumentHelp("How many of the newest, at most 1,000.", valueName: "number"))
    var limit = 100

    private static let outcomes = Outcome.allCases.filter { $0 != .ok }.map(\.rawValue)

    func validate() throws {
        guard (1...1000).contains(limit) else { throw ValidationError("--limit is a number from 1 to 1000.") }
        if let outcome, !Self.outcomes.contains(outcome) {
            throw ValidationError("--outcome is one of \(Self.outcomes.joined(separator: ", ")).")
        }
    }

    func run() async throws {
        let span = try TimeArgument.span(since: since, until: until, now: Date())
        let path = NodePath.failures(try EventSelection(target), since: span.since, until: span.until, outcome: outcome, limit: limit)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.get, path)
            guard !node.json else { return Console.json(bytes) }
            let page = try JSONValue(parsing: bytes)
            Console.out(Listing.table(page["failures"].elements, Self.columns))
            if case .bool(true) = page["more"] {
                Console.note("these may not be all of that time: choose a shorter one, a tenant, or a higher --limit.")
            }
        }
    }

    static let columns: [ListColumn] = [
        ListColumn(title: "ENDED") { $0["failedAt"].time.map(LogFormat.stamp) ?? $0["failedAt"].text },
        ListColumn(title: "FUNCTION") { "\($0["tenant"].text)/\($0["function"].text)@\($0["version"].text)" },
        .text("INVOCATION", "invocation"), .text("OUTCOME", "outcome"), .summary("REASON", "reason"),
    ]
}
