// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core

struct DeadLettersCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dead-letters", abstract: "List, show, redrive and purge events that were given up.",
        discussion: """
              bulkhead dead-letters acme
              bulkhead dead-letters redrive acme/thumbnail --rate 10/s
              bulkhead dead-letters purge acme --all
            """,
        subcommands: [DeadLettersList.self, EventsShow.self, DeadLettersRedrive.self, DeadLettersPurge.self],
        defaultSubcommand: DeadLettersList.self)
}

struct DeadLettersList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List dead letters. They are kept for 14 days.")

    @OptionGroup var node: NodeOptions
    @OptionGroup var list: EventListOptions

    static let columns: [ListColumn] = [
        .text("ID", "id"), ListColumn(title: "FUNCTION") { "\($0["tenant"].text)/\($0["function"].text)" }, .text("TRIGGER", "trigger"),
        .count("ATTEMPTS", "attempts"), .count("CRASHES", "crashes"), .age("DEAD FOR", "since"), .summary("REASON", "reason"),
    ]

    func run() async throws {
        try await NodeClient.with(node) { client in
            let events = try await list.collect(client, "dead-letters", state: nil)
            if node.json { try Console.value(events) } else { Console.out(Listing.table(events, Self.columns)) }
        }
    }
}

/// Which dead letters are meant: those of a function, all of a tenant with `--all`, or single ones by id.
struct DeadLetterOptions: ParsableArguments {
    @Argument(help: ArgumentHelp("A function, a tenant with --all, or ids.", valueName: "tenant/function|tenant|id ..."))
    var targets: [String]
    @Flag(help: "All of the tenant.")
    var all = false
    @Option(name: .shortAndLong, help: "The tenant of the ids (default: found by the node).")
    var tenant: String?

    func request() throws(Failure) -> (tenant: Name?, DeadLetterRequest) {
        guard targets.count == 1, let target = targets.first, InvocationID(target) == nil else {
            for target in targets where InvocationID(target) == nil {
                throw .usage("'\(escaped(target))' is not an event's id; name one function or one tenant alone, or only ids.")
            }
            if all { throw .usage("--all goes with a tenant, not with ids.") }
            guard targets.count <= 1000 else { throw .usage("At most 1000 ids at a time.") }
            return (try tenant.map { text throws(Failure) in try FunctionReference.tenant(text) }, DeadLetterRequest(ids: targets))
        }
        return try whole(target)
    }

    private func whole(_ target: String) throws(Failure) -> (tenant: Name?, DeadLetterRequest) {
        let selection = try EventSelection(target)
        if let function = selection.function {
            if all { throw .usage("--all goes with a tenant; \(escaped(target)) is a function: leave one of them out.") }
            return (selection.tenant, DeadLetterRequest(function: function.text))
        }
        guard all else { throw .usage("To take all dead letters of \(escaped(target)) write --all, else name a function or ids.") }
        return (selection.tenant, DeadLetterRequest(all: true))
    }
}

struct DeadLettersRedrive: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "redrive", abstract: "Make dead letters events again: with all their attempts, and a new budget against loops.")

    @OptionGroup var node: NodeOptions
    @OptionGroup var letters: DeadLetterOptions
    @Option(help: ArgumentHelp("How fast (default: all at once).", valueName: "count/s"))
    var rate: String?

    func run() async throws {
        var (tenant, request) = try letters.request()
        request.ratePerSecond = try rate.map { try RateArgument.perSecond($0, option: "--rate") }
        let body = try NodePath.body(request)
        let path = NodePath.deadLetters(tenant, "redrive")
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.post, path, headers: [("Content-Type", "application/json")], body: .bytes(body))
            if node.json { return Console.json(bytes) }
            let reply = try JSONValue(parsing: bytes)
            let (later, left) = (reply["scheduled"].count ?? 0, reply["left"].count ?? 0)
            let rest = left > 0 ? "; \(left) stay: the tenant is suspended or has as many events as may wait, or a loop is being tried" : ""
            Console.out("Redriven: \(reply["redriven"].text)" + (later > 0 ? ", and \(later) more at the rate" : "") + rest + "\n")
        }
    }
}

struct DeadLettersPurge: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "purge", abstract: "Delete dead letters. There is no way back.")

    @OptionGroup var node: NodeOptions
    @OptionGroup var letters: DeadLetterOptions

    func run() async throws {
        let (tenant, request) = try letters.request()
        let body = try NodePath.body(request)
        let path = NodePath.deadLetters(tenant, "purge")
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.post, path, headers: [("Content-Type", "application/json")], body: .bytes(body))
            if node.json { Console.json(bytes) } else { Console.out("Purged: \(try JSONValue(parsing: bytes)["purged"].text)\n") }
        }
    }
}
