// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Foundation

struct Explain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show every decision about one invocation: which ceiling, which wait, which start, what ended it.",
        discussion: """
            The id is in the header Bulkhead-Invocation-Id of every answer, and in the logs. The node has the decisions on its last 10,000 invocations in \
            memory. Of those that were refused, failed, took a second or ran an event it also keeps them on the disk, across restarts: the first 20 of a \
            tenant in each second, 8 MiB a tenant, 14 days at most.

              bulkhead explain 0197c0ffee00aabbccddeeff00112233
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The invocation's id, 32 hexadecimal digits.", valueName: "invocation"))
    var invocation: String
    @Option(name: .shortAndLong, help: "The tenant (default: found by the node).")
    var tenant: String?

    func run() async throws {
        let path = try NodePath.explanation(invocation, tenant: try tenant.map(FunctionReference.tenant))
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.get, path)
            if node.json { Console.json(bytes) } else { Console.out(Self.text(try JSONValue(parsing: bytes))) }
        }
    }

    /// The decisions, one a line, with the time since the invocation arrived.
    static func text(_ reply: JSONValue) -> String {
        var table = Table([.init("AFTER", isNumber: true), .init("DECISION"), .init("DETAIL")])
        for entry in reply["entries"].elements {
            let after = entry["afterNanoseconds"].count ?? entry["after"].count ?? 0
            table.add([Units.interval(nanoseconds: after), entry["decision"].text, entry["detail"].text])
        }
        let arrived = reply["arrivedAt"].time.map { " arrived " + LogFormat.stamp($0) } ?? ""
        return escaped("\(reply["invocation"].text) of \(reply["function"].text)\(arrived)") + "\n" + table.rendered()
    }
}
