// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Foundation

struct Events: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List, show and stop events: asynchronous invocations, waiting and past.",
        discussion: """
              bulkhead events acme --status ready
              bulkhead events show 0197c0ffee00aabbccddeeff00112233
              bulkhead events stop 0197c0ffee00aabbccddeeff00112233
            """,
        subcommands: [EventsList.self, EventsShow.self, EventsStop.self], defaultSubcommand: EventsList.self)
}

/// What lists of events are asked for.
struct EventListOptions: ParsableArguments {
    @Argument(help: ArgumentHelp("Whose events (default: all).", valueName: "tenant[/function]"))
    var target: String?
    @Option(help: ArgumentHelp("How many at most.", valueName: "number"))
    var limit = 100

    func validate() throws {
        guard (1...1_000_000).contains(limit) else { throw ValidationError("--limit is a number from 1 to 1000000.") }
    }

    /// All pages up to the limit, as one array.
    func collect(_ client: NodeClient, _ kind: String, state: String?) async throws -> [JSONValue] {
        let selection = try EventSelection(target)
        var events: [JSONValue] = []
        var after: String?
        repeat {
            let path = NodePath.events(kind, selection, state: state, limit: min(1000, limit - events.count), after: after)
            let page = try JSONValue(parsing: try await client.bytes(.get, path))
            events += page["events"].elements
            after = page["next"].string
        } while after != nil && events.count < limit
        return events
    }
}

struct EventsList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List events.",
        discussion: "With --json an array of {id, tenant, function, state, trigger, attempts, createdAt, since, reason, ...}.")

    @OptionGroup var node: NodeOptions
    @OptionGroup var list: EventListOptions
    @Option(help: ArgumentHelp("Only these.", valueName: "ready|leased|done|dead|parked|stopped|expired"))
    var status: String?

    static let columns: [ListColumn] = [
        .text("ID", "id"), ListColumn(title: "FUNCTION") { "\($0["tenant"].text)/\($0["function"].text)" }, .text("TRIGGER", "trigger"),
        .text("STATE", "state"), ListColumn(title: "ATTEMPTS", isNumber: true) { "\($0["attempts"].text)/\($0["maxAttempts"].text)" },
        .bytes("PAYLOAD", "payloadBytes"), .age("AGE", "createdAt"), .summary("REASON", "reason"),
    ]

    func run() async throws {
        try await NodeClient.with(node) { client in
            let events = try await list.collect(client, "events", state: status)
            if node.json { try Console.value(events) } else { Console.out(Listing.table(events, Self.columns)) }
        }
    }
}

struct EventsShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show where an event is and what it has been through, or its payload.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The event's id, which is its invocation's.", valueName: "id"))
    var id: String
    @Option(name: .shortAndLong, help: "The tenant (default: found by the node).")
    var tenant: String?
    @Flag(help: "Write the payload to standard output, unchanged.")
    var payload = false

    func run() async throws {
        let tenant = try tenant.map(FunctionReference.tenant)
        let path = payload ? try NodePath.payload(id, tenant: tenant) : try NodePath.event(id, tenant: tenant)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.get, path)
            if payload {
                Console.out(bytes: bytes)
            } else if node.json {
                Console.json(bytes)
            } else {
                Console.out(Self.text(try JSONValue(parsing: bytes)))
            }
        }
    }

    private static let times: Set<String> = ["createdAt", "expiresAt", "since"]

    /// One line for each field.
    static func text(_ event: JSONValue) -> String {
        guard case .object(let fields) = event else { return "" }
        var table = Table([.init("FIELD"), .init("VALUE")])
        let first = ["id", "tenant", "function", "target", "trigger", "state", "reason"]
        for key in first + fields.keys.filter({ !first.contains($0) }).sorted() {
            guard let value = fields[key], value != .null else { continue }
            table.add([key, times.contains(key) ? value.time.map(LogFormat.stamp) ?? value.text : value.text])
        }
        return table.rendered()
    }
}

struct EventsStop: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop", abstract: "Stop an event: it does not start any more; where it runs, its worker is told to end it.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The event's id, which is its invocation's.", valueName: "id"))
    var id: String
    @Option(name: .shortAndLong, help: "The tenant (default: found by the node).")
    var tenant: String?

    func run() async throws {
        let path = try NodePath.event(id, tenant: try tenant.map(FunctionReference.tenant))
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.delete, path)
            if node.json {
                Console.json(bytes)
            } else {
                let reply = try JSONValue(parsing: bytes)
                Console.out("\(escaped(reply["id"].text)) is \(escaped(reply["state"].text))\n")
            }
        }
    }
}
