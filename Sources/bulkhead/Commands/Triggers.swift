// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Foundation

struct Triggers: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List what starts which function, and who may use it.",
        discussion: """
            PATH is where requests from outside reach it, below the node's address.
            LOOP says whether a loop could go through the trigger, by what is deployed.

              bulkhead triggers acme
              bulkhead triggers acme/thumbnail --json
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("Whose triggers (default: all).", valueName: "tenant[/function]"))
    var target: String?

    static let columns: [ListColumn] = [
        ListColumn(title: "FUNCTION") { "\($0["tenant"].text)/\($0["function"].text)" }, .text("TRIGGER", "trigger"), .text("KIND", "kind"),
        .text("SOURCE", "source"), .text("ACCESS", "authorization"), .text("RATE", "rate"), .text("STATE", "state"),
        .text("LOOP", "onCycle"),
        ListColumn(title: "NEXT") { $0["nextAt"].time.map(LogFormat.stamp) ?? "" }, .text("PATH", "url"),
    ]

    func run() async throws {
        let path = NodePath.triggers(try EventSelection(target))
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, path), json: node.json, Self.columns)
        }
    }
}
