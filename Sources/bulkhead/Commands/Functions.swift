// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit

struct Functions: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List the functions of a tenant.",
        discussion: "\n  bulkhead functions --tenant acme")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant (default: all of them).")
    var tenant: String?

    static let columns: [ListColumn] = [
        .text("TENANT", "tenant"), .text("FUNCTION", "function"), .count("LATEST", "latest"), .text("RUNTIME", "runtime"),
        .bytes("MEMORY", "memoryBytes"), .age("DEPLOYED", "deployedAt"),
    ]

    func run() async throws {
        let tenant = try tenant.map(FunctionReference.tenant)
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.functions(tenant)), json: node.json, Self.columns)
        }
    }
}

struct Versions: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List the versions of a function.",
        discussion: "\n  bulkhead versions acme/thumbnail")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function.", valueName: "tenant/function"))
    var function: String

    static let columns: [ListColumn] = [
        .count("VERSION", "version"), .text("RUNTIME", "runtime"), .bytes("MEMORY", "memoryBytes"), .bytes("CODE", "codeBytes"),
        .age("DEPLOYED", "createdAt"), .text("ALIASES", "aliases"), .text("HASH", "codeHash"),
    ]

    func run() async throws {
        let reference = try FunctionReference(parsing: function)
        guard reference.selector == .latest else {
            throw Failure.usage("'\(escaped(function))' names one version; write \(reference.function) to list all of them.")
        }
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.get, NodePath.versions(reference.function))
            try Listing.show(bytes, json: node.json, Self.columns)
        }
    }
}

struct Delete: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Delete a function with all its versions, or one version.",
        discussion: """
            Its workers finish what they do and end. There is no way back. A version that an alias names is not deleted.

              bulkhead delete acme/thumbnail
              bulkhead delete acme/thumbnail@3
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("What to delete.", valueName: "tenant/function[@version]"))
    var function: String

    func run() async throws {
        let reference = try FunctionReference(parsing: function)
        let path = try NodePath.deletion(reference)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.delete, path)
            if node.json {
                Console.json(bytes.isEmpty ? Array("{\"deleted\":\"\(reference)\"}".utf8) : bytes)
            } else {
                Console.out("Deleted \(reference)\n")
            }
        }
    }
}
