// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Foundation

struct Triggers: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List what starts which function, and who may use it.",
        discussion: """
            PATH is where requests from outside reach it, below the node's address.
            ACCESS says who can make it fire: what a caller from outside needs, and the functions of the tenant whose grants let them.
            LOOP says whether a loop could go through the trigger, by what is deployed.

              bulkhead triggers acme
              bulkhead triggers acme/thumbnail --json
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("Whose triggers (default: all).", valueName: "tenant[/function]"))
    var target: String?

    static let columns: [ListColumn] = [
        ListColumn(title: "FUNCTION") { "\($0["tenant"].text)/\($0["function"].text)" }, .text("TRIGGER", "trigger"), .text("KIND", "kind"),
        .text("SOURCE", "source"), ListColumn(title: "ACCESS") { access($0) }, .text("RATE", "rate"), .text("STATE", "state"),
        .text("LOOP", "onCycle"),
        ListColumn(title: "NEXT") { $0["nextAt"].time.map(LogFormat.stamp) ?? "" }, .text("PATH", "url"),
    ]

    /// `key; functions: a b`: everybody who can make it fire.
    private static func access(_ row: JSONValue) -> String {
        let words = row["authorization"].text
        let functions = row["functions"].elements.map(\.text)
        let outside: String? =
            switch words {
            case "none": "anybody"
            case "clock": "the node's clock"
            // Without any, the function that it waits for is not deployed.
            case "function": functions.isEmpty ? "nobody yet" : nil
            default: words
            }
        let own: String? =
            functions.isEmpty ? nil : "functions: \(functions.count > 8 ? "\(functions.count)" : functions.joined(separator: " "))"
        return [outside, own].compactMap(\.self).joined(separator: "; ")
    }

    func run() async throws {
        let path = NodePath.triggers(try EventSelection(target))
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, path), json: node.json, Self.columns)
        }
    }
}
