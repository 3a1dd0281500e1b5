// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core
import Foundation

struct Reload: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Have the node read its configuration again, and print what changed.",
        discussion: """
            All or nothing: with one mistake in one file the node runs on as before, and every mistake is shown with file, line and \
            column. With --json {applied, changes: [{tenant, key, before, after}]}.

              bulkhead reload --dry-run
              bulkhead reload
            """)

    @OptionGroup var node: NodeOptions
    @Flag(help: "Only show what would change.")
    var dryRun = false

    func run() async throws {
        try await NodeClient.with(node) { client in
            guard let copy = try Self.copy(state: NodePaths.current().state(node.state)) else {
                try Self.show(try await client.reload(dryRun: dryRun), json: node.json, dryRun: dryRun)
                return
            }
            // The daemon may not read the original: it gets a new copy, and the former one again where it did not take the new one.
            let lock = try ConfigurationFolder(path: copy.source, copy: copy, isEmbedded: false).lock()
            Interrupts.ignore()
            try copy.install()
            let reply: [UInt8]
            do { reply = try await client.reload(dryRun: dryRun) } catch {
                try copy.putBack()
                throw error
            }
            if dryRun { try copy.putBack() } else { try copy.keep() }
            withExtendedLifetime(lock) {}
            try Self.show(reply, json: node.json, dryRun: dryRun)
        }
    }

    private static func copy(state: String?) throws(Failure) -> ConfigurationCopy? {
        guard let state else { return nil }
        do { return try ConfigurationCopy.of(state: absolute(state)) } catch {
            throw .failed("configuration", "The folder of the node's configuration cannot be found, \(error); run the command with sudo.")
        }
    }

    static func show(_ bytes: [UInt8], json: Bool, dryRun: Bool) throws {
        if json { Console.json(bytes) } else { Console.out(text(try JSONValue(parsing: bytes), dryRun: dryRun)) }
    }

    /// The changes, one a line.
    static func text(_ reply: JSONValue, dryRun: Bool) -> String {
        let changes: [JSONValue] = reply["changes"].elements
        guard !changes.isEmpty else { return "Nothing changed.\n" }
        var table = Table([.init("TENANT"), .init("KEY"), .init("BEFORE"), .init("AFTER")])
        for change in changes {
            let tenant = change["tenant"].text
            table.add([tenant.isEmpty ? "(node)" : tenant, change["key"].text, change["before"].text, change["after"].text])
        }
        return table.rendered() + (dryRun ? "Nothing was applied: this was a dry run.\n" : "")
    }
}

extension NodeClient {
    /// Posts `/v1/reload`.
    func reload(dryRun: Bool) async throws -> [UInt8] {
        let body = try NodePath.body(ReloadRequest(dryRun: dryRun))
        return try await bytes(.post, NodePath.reload, headers: [("Content-Type", "application/json")], body: .bytes(body))
    }

    /// Where the node's configuration is edited.
    func configurationFolder(_ node: NodeOptions) async throws -> ConfigurationFolder {
        let reply = try JSONValue(parsing: try await bytes(.get, NodePath.version))
        return try ConfigurationFolder.locate(state: NodePaths.current().state(node.state), reported: reply["configuration"].string)
    }

    /// The names of all tenants, sorted.
    func tenants() async throws -> [Name] {
        try JSONValue(parsing: try await bytes(.get, NodePath.tenants)).elements.compactMap { Name($0["tenant"].text) }.sorted()
    }
}
