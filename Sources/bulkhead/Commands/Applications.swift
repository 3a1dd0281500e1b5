// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core

extension NodePath {
    static func applications(_ name: Name?) -> String { (name.map(tenant) ?? "/v1") + "/applications" }
}

struct Applications: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what became of the calls of each application.",
        discussion: """
            An application is a label in function.yaml (application: NAME) that groups functions; functions without one are the line \
            without a name. The figures begin with the node's start. SUCCESS leaves out what a ceiling refused, which THROTTLED counts; \
            the percentiles are run times. With --json an array of {tenant, application, functions, calls, throttles, successRate, p50, \
            p95, p99, gbSeconds}; times in milliseconds, successRate 0 to 1.

              bulkhead applications --tenant acme
            """)

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant (default: all of them).")
    var tenant: String?

    static let columns: [ListColumn] = [
        .text("TENANT", "tenant"), .text("APPLICATION", "application"),
        ListColumn(title: "FUNCTIONS", isNumber: true) { "\($0["functions"].elements.count)" }, .count("CALLS", "calls"),
        ListColumn(title: "SUCCESS", isNumber: true) { row in
            row["successRate"].double.map { Units.rounded($0 * 100, places: 2) + "%" } ?? ""
        },
        milliseconds("P50", "p50"), milliseconds("P95", "p95"), milliseconds("P99", "p99"), .count("THROTTLED", "throttles"),
        .decimal("GB-S", "gbSeconds", places: 3),
    ]

    private static func milliseconds(_ title: String, _ key: String) -> ListColumn {
        ListColumn(title: title, isNumber: true) { row in row[key].double.map { Units.rounded($0, places: 1) + " ms" } ?? "" }
    }

    func run() async throws {
        let tenant = try tenant.map(FunctionReference.tenant)
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.applications(tenant)), json: node.json, Self.columns)
        }
    }
}
