// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core
import Foundation

extension NodePath {
    static func aliases(_ id: FunctionID) -> String { function(id) + "/aliases" }
    static func alias(_ id: FunctionID, _ name: Name) -> String { aliases(id) + "/\(name)" }
    static func rollback(_ id: FunctionID) -> String { function(id) + "/rollback" }
}

/// How an alias looks to a person.
enum AliasTable {
    static let columns: [ListColumn] = [
        .text("ALIAS", "alias"), .count("VERSION", "version"), ListColumn(title: "WEIGHT", isNumber: true) { percent($0["weight"]) },
        .count("CANARY", "canary"), ListColumn(title: "WEIGHT", isNumber: true) { percent($0["canaryWeight"]) },
        ListColumn(title: "CALLS", isNumber: true) { figures($0, "calls") },
        ListColumn(title: "ERRORS", isNumber: true) { figures($0, "errors") }, .count("PREVIOUS", "previous"), .age("CHANGED", "changedAt"),
        .text("BY", "changedBy"), .summary("REASON", "reason"),
    ]

    static func percent(_ value: JSONValue) -> String { value.double == nil ? "" : QuotaTable.number(value) + "%" }

    /// Of the primary and of the canary, while there is one.
    private static func figures(_ alias: JSONValue, _ key: String) -> String {
        guard alias["canaryFigures"] != .null else { return "" }
        return "\(alias["primaryFigures"][key].text)+\(alias["canaryFigures"][key].text)"
    }

    /// `acme/f:prod is version 7 (90%), canary 8 (10%)`.
    static func sentence(_ alias: JSONValue) -> String {
        let name = "\(alias["tenant"].text)/\(alias["function"].text):\(alias["alias"].text)"
        guard alias["canary"] != .null else { return escaped("\(name) is version \(alias["version"].text)") + "\n" }
        return escaped(
            "\(name) is version \(alias["version"].text) (\(percent(alias["weight"]))), "
                + "canary \(alias["canary"].text) (\(percent(alias["canaryWeight"])))") + "\n"
    }

    static func show(_ bytes: [UInt8], json: Bool) throws {
        if json { Console.json(bytes) } else { Console.out(sentence(try JSONValue(parsing: bytes))) }
    }
}

struct Alias: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Give versions names, and try a new version on a share of the calls.",
        discussion: """
              bulkhead alias list acme/thumbnail
              bulkhead alias set acme/thumbnail prod 7
              bulkhead alias set acme/thumbnail prod 7=90 8=10
              bulkhead invoke acme/thumbnail:prod --header Bulkhead-Alias-Key=customer-17
            """,
        subcommands: [AliasList.self, AliasSet.self, AliasDelete.self])

    /// A function without a version or an alias behind it.
    static func function(_ text: String) throws(Failure) -> FunctionID {
        let reference = try FunctionReference(parsing: text)
        guard reference.selector == .latest else {
            throw .usage("'\(escaped(text))' names a part of \(reference.function); write \(reference.function).")
        }
        return reference.function
    }

    static func name(_ text: String) throws(Failure) -> Name {
        guard let name = Name(text) else {
            throw .usage("'\(escaped(text))' is not an alias's name; a name has 1 to 63 of a-z, 0-9 and -, and begins with a letter.")
        }
        return name
    }
}

struct AliasList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the aliases of a function.",
        discussion: """
            CALLS and ERRORS are those of the version and of the canary in the last 5 to 10 minutes. With --json an array of {tenant, \
            function, alias, version, weight, canary, canaryWeight, automaticRollback, changedAt, changedBy, reason, previous, \
            primaryFigures, canaryFigures: {calls, errors, p95}}; weights in percent, p95 in milliseconds.

              bulkhead alias list acme/thumbnail
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function.", valueName: "tenant/function"))
    var function: String

    func run() async throws {
        let function = try Alias.function(function)
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.aliases(function)), json: node.json, AliasTable.columns)
        }
    }
}

struct AliasSet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Make an alias, or point it elsewhere. It holds within a second.",
        discussion: """
            One version, or two with their weights in percent: the second is the canary. The weights add up to 100. A caller that sends \
            the header Bulkhead-Alias-Key, or that the tenant tells apart, always gets the same one of the two.

            A canary is ended by itself, and all calls go back to the first version, when over the last 5 to 10 minutes
            - of at least 50 calls of the canary the share that failed is more than 5 points above the other's, or
            - of at least 100 calls of each the canary's 95th percentile is more than twice the other's and 10 ms longer,
            and chance explains it with a probability below 1 in 100,000. bulkhead alias list then shows why, and \
            `notify` is told (alarm canary).

              bulkhead alias set acme/thumbnail prod 7
              bulkhead alias set acme/thumbnail prod 7=90 8=10
              bulkhead alias set acme/thumbnail prod 7=50 8=50 --no-automatic-rollback
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function.", valueName: "tenant/function"))
    var function: String
    @Argument(help: "The alias.")
    var alias: String
    @Argument(help: ArgumentHelp("A version, or two with their weights in percent.", valueName: "version[=weight]"))
    var targets: [String]
    @Flag(inversion: .prefixedNo, help: "End a canary that fails or is slow.")
    var automaticRollback = true

    func run() async throws {
        let function = try Alias.function(function)
        let name = try Alias.name(alias)
        let request = AliasRequest(targets: try targets.map(Self.target), automaticRollback: automaticRollback)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(
                .put, NodePath.alias(function, name), headers: [("Content-Type", "application/json")],
                body: .bytes(try NodePath.body(request)))
            try AliasTable.show(bytes, json: node.json)
        }
    }

    /// `7` or `7=90`; the node judges whether the weights make sense together.
    static func target(_ text: String) throws(Failure) -> AliasTarget {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        func isNumber(_ part: Substring) -> Bool { !part.isEmpty && part.utf8.allSatisfy { (48...57).contains($0) || $0 == 46 } }
        guard parts.allSatisfy(isNumber), let version = UInt32(parts[0]), version > 0 else {
            throw .usage("'\(escaped(text))' is not VERSION or VERSION=PERCENT; write such as 7, or 7=90 8=10.")
        }
        guard parts.count == 2 else { return AliasTarget(version: version) }
        guard let weight = Double(parts[1]) else {
            throw .usage("'\(escaped(String(parts[1])))' is not a weight in percent; write such as 7=90 8=10.")
        }
        return AliasTarget(version: version, weight: weight)
    }
}

struct AliasDelete: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete an alias; the versions that it names stay.",
        discussion: "\n  bulkhead alias delete acme/thumbnail beta")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function.", valueName: "tenant/function"))
    var function: String
    @Argument(help: "The alias.")
    var alias: String

    func run() async throws {
        let function = try Alias.function(function)
        let name = try Alias.name(alias)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.delete, NodePath.alias(function, name))
            if node.json {
                Console.json(bytes.isEmpty ? Array("{\"deleted\":\"\(function):\(name)\"}".utf8) : bytes)
            } else {
                Console.out("Deleted \(function):\(name)\n")
            }
        }
    }
}

struct Rollback: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Go back to the version before. It holds within a second.",
        discussion: """
            Ends the canary where the alias has one; else the alias names again what it named before, and a second rollback goes one \
            further back. latest stays there until the next deploy. Calls that run end on their version.

              bulkhead rollback acme/thumbnail
              bulkhead rollback acme/thumbnail --alias prod
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function.", valueName: "tenant/function"))
    var function: String
    @Option(help: "The alias (default: latest).")
    var alias: String = "latest"

    func run() async throws {
        let function = try Alias.function(function)
        let request = RollbackRequest(alias: try Alias.name(alias).text)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(
                .post, NodePath.rollback(function), headers: [("Content-Type", "application/json")],
                body: .bytes(try NodePath.body(request)))
            try AliasTable.show(bytes, json: node.json)
        }
    }
}
