// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI

struct Tenants: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List the tenants of the node: what they use, and their ceilings.",
        discussion: "MEMORY counts the limits of the workers that run; CPU is in processors.")

    @OptionGroup var node: NodeOptions

    static let columns: [ListColumn] = [
        .text("TENANT", "tenant"), .count("FUNCTIONS", "functions"), .count("WORKERS", "workers"),
        ListColumn(title: "SEATS", isNumber: true) { "\($0["running"].text)/\($0["concurrency"].text)" },
        ListColumn(title: "QUEUE", isNumber: true) { "\($0["queued"].text)/\($0["queue"].text)" },
        ListColumn(title: "MEMORY", isNumber: true) {
            Units.usage($0["memoryCommittedBytes"].count ?? 0, of: $0["memoryBytes"].count ?? 0)
        },
        ListColumn(title: "CPU", isNumber: true) { Units.decimal(($0["cpuMilli"].count ?? 0) / 10, places: 2) },
        .count("PIDS", "processes"), ListColumn(title: "STATE") { QuotaTable.state($0) },
    ]

    func run() async throws {
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.tenants), json: node.json, Self.columns)
        }
    }
}

struct Keys: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Create, list, rotate and revoke the API keys of a tenant.",
        discussion: """
            HTTP takes a key as 'Authorization: Bearer KEY'. Only a hash of it is kept, so it is printed once.

              bulkhead keys create --tenant acme --scope invoke
              bulkhead keys list --tenant acme
              bulkhead keys rotate ID --tenant acme --grace 24h
              bulkhead keys revoke ID --tenant acme
            """,
        subcommands: [KeysCreate.self, KeysList.self, KeysRotate.self, KeysRevoke.self])
}

struct KeysCreate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Create a key and print it, once.",
        discussion: "With --json prints {\"id\", \"key\"}.\n\n  KEY=$(bulkhead keys create --tenant acme --scope invoke)")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String
    @Option(
        help: ArgumentHelp(
            "What the key may do, and no more; may be repeated. With admin, everything of its tenant.", valueName: "invoke|deploy|admin"))
    var scope: [String] = ["invoke"]

    func run() async throws {
        let path = NodePath.keys(try FunctionReference.tenant(tenant))
        let body = try NodePath.keyRequest(scopes: scope)
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

struct KeysRotate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rotate", abstract: "Replace a key: print a new one with the same scopes, once; the old one ends after a time.",
        discussion: "With --json prints {\"id\", \"key\"}.\n\n  bulkhead keys rotate ID --tenant acme --grace 1h")

    @OptionGroup var node: NodeOptions
    @Argument(help: "The key's id, as 'bulkhead keys list' shows it.")
    var id: String
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String
    @Option(help: ArgumentHelp("How long the old key still works: 0s, 30m, 24h, 7d.", valueName: "time"))
    var grace = "24h"

    func run() async throws {
        let path = NodePath.rotation(try FunctionReference.tenant(tenant), key: id)
        guard let seconds = TimeArgument.seconds(grace) else {
            throw Failure.usage("--grace '\(escaped(grace))' is not a time; write it like 0s, 30m, 24h or 7d.")
        }
        let body = try NodePath.body(KeyRotationRequest(graceSeconds: seconds))
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.post, path, headers: [("Content-Type", "application/json")], body: .bytes(body))
            if node.json {
                Console.json(bytes)
                return
            }
            let reply = try JSONValue(parsing: bytes)
            Console.out(escaped(reply["key"].text) + "\n")
            if Console.errorIsTerminal {
                let end = seconds == 0 ? "no longer works" : "works for \(Units.duration(seconds: Double(seconds))) more"
                Console.note("the new key's id is \(escaped(reply["id"].text)); it is not shown again. \(escaped(id)) \(end).")
            }
        }
    }
}

struct KeysList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List a tenant's keys, without their secrets.")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String

    static let columns: [ListColumn] = [
        .text("ID", "id"), .text("SCOPES", "scopes"), .age("AGE", "createdAt"), .text("REVOKED", "revoked"),
        // How long ago; empty where it was never used.
        .age("LAST USED", "lastUsedAt"),
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
