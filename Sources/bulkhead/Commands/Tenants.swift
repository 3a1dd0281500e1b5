// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit

struct Tenants: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List the tenants of the node and their ceilings.")

    @OptionGroup var node: NodeOptions

    static let columns: [ListColumn] = [
        .text("TENANT", "tenant"), .count("FUNCTIONS", "functions"), .count("SEATS", "concurrency"), .count("QUEUE", "queue"),
        .bytes("MEMORY", "memoryBytes"),
        ListColumn(title: "CPU", isNumber: true) { $0["cpuMilli"].count.map { Units.decimal($0, places: 3) } ?? $0["cpu"].text },
        .count("PIDS", "processes"),
    ]

    func run() async throws {
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.tenants), json: node.json, Self.columns)
        }
    }
}

struct Keys: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Create, list and revoke the API keys of a tenant.",
        discussion: """
            HTTP takes a key as 'Authorization: Bearer KEY'. Only a hash of it is kept, so it is printed once.

              bulkhead keys create --tenant acme --scope invoke
              bulkhead keys list --tenant acme
              bulkhead keys revoke ID --tenant acme
            """,
        subcommands: [KeysCreate.self, KeysList.self, KeysRevoke.self])
}

struct KeysCreate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Create a key and print it, once.",
        discussion: "With --json prints {\"id\", \"key\"}.\n\n  KEY=$(bulkhead keys create --tenant acme --scope invoke)")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String
    @Option(help: ArgumentHelp("What the key may do; may be repeated.", valueName: "scope"))
    var scope: [String] = ["invoke"]

    func run() async throws {
        let path = NodePath.keys(try FunctionReference.tenant(tenant))
        let body = NodePath.keyRequest(scopes: scope)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.post, path, headers: [("Content-Type", "application/json")], body: .bytes(body))
            if node.json {
                Console.json(bytes)
                return
            }
            let reply = try JSONValue(parsing: bytes)
            Console.out(escaped(reply["key"].text) + "\n")
            if Console.errorIsTerminal { Console.note("the key's id is \(escaped(reply["id"].text)); the key is not shown again.") }
        }
    }
}

struct KeysList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List a tenant's keys, without their secrets.")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String

    static let columns: [ListColumn] = [
        .text("ID", "id"), ListColumn(title: "SCOPE") { $0["scope"].text.isEmpty ? $0["scopes"].text : $0["scope"].text },
        .age("AGE", "createdAt"),
    ]

    func run() async throws {
        let path = NodePath.keys(try FunctionReference.tenant(tenant))
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, path), json: node.json, Self.columns)
        }
    }
}

struct KeysRevoke: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "revoke", abstract: "Revoke a key: calls with it are refused at once.")

    @OptionGroup var node: NodeOptions
    @Argument(help: "The key's id, as 'bulkhead keys list' shows it.")
    var id: String
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String

    func run() async throws {
        let path = NodePath.keys(try FunctionReference.tenant(tenant)) + "/" + percentEncoded(id)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.delete, path)
            if node.json {
                if bytes.isEmpty { try Console.value(["revoked": id]) } else { Console.json(bytes) }
            } else {
                Console.out("Revoked \(escaped(id))\n")
            }
        }
    }
}
