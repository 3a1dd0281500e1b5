// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core

struct Loops: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show trigger loops that were cut, and let their edges carry events again.",
        discussion: """
              bulkhead loops
              bulkhead loops show acme/thumbnail/bucket-1
              bulkhead loops resume acme/thumbnail/bucket-1 --mode discard
              bulkhead loops resume acme/thumbnail/bucket-1 --mode replay --count 100 --rate 10/s
            """,
        subcommands: [LoopsList.self, LoopsShow.self, LoopsResume.self], defaultSubcommand: LoopsList.self)

    static let columns: [ListColumn] = [
        ListColumn(title: "EDGE") { "\($0["source"].text) -> \($0["tenant"].text)/\($0["function"].text)" }, .text("STATE", "state"),
        .count("RECURRENT", "recurrent"), .count("PARKED", "parked"), .age("SINCE", "since"), .text("WHY", "why"),
    ]

    /// A table with the way round below each edge.
    static func table(_ loops: [JSONValue]) -> String {
        var lines = Listing.table(loops, columns).split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        for (place, loop) in loops.enumerated().reversed() {
            if let cycle = cycle(loop) { lines.insert("  " + cycle, at: place + 2) }
        }
        return lines.joined(separator: "\n")
    }

    /// `photos/in/a.jpg -> thumbnail -> photos/in/thumb-a.jpg -> thumbnail`, as it went; where nobody knows, as the grants allow it: `bucket:photos/in/ -> thumbnail -> ...`. Nil
    /// where there is neither.
    static func cycle(_ loop: JSONValue) -> String? {
        let way = loop["way"].elements.map { escaped($0.text) }
        if !way.isEmpty { return way.joined(separator: " -> ") }
        let steps = loop["cycle"].elements.map { escaped($0.text) }
        return steps.isEmpty ? nil : (steps + ["..."]).joined(separator: " -> ")
    }
}

struct LoopsList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the edges that were opened or are watched.",
        discussion:
            "With --json an array of {edge, tenant, function, trigger, source, state, recurrent, parked, since, why, cycle, way, ...}.")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "Only this tenant's.")
    var tenant: String?

    func run() async throws {
        let path = NodePath.loops(try tenant.map(FunctionReference.tenant))
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.get, path)
            if node.json { Console.json(bytes) } else { Console.out(Loops.table(try JSONValue(parsing: bytes).elements)) }
        }
    }
}

struct LoopsShow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show one edge: why it was opened, the way round, and how to go on.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The edge.", valueName: "tenant/function/trigger"))
    var edge: String

    func run() async throws {
        let edge = try NodePath.edge(edge)
        let name = "\(edge.function)/\(edge.trigger)"
        try await NodeClient.with(node) { client in
            let loops = try JSONValue(parsing: try await client.bytes(.get, NodePath.loops(edge.function.tenant)))
            guard let loop = loops.elements.first(where: { $0["edge"].text == name }) else {
                throw Failure(
                    status: .usage, code: "notFound", sentence: "\(name) is not among the opened or watched edges; see: bulkhead loops.")
            }
            if node.json { try Console.value(loop) } else { Console.out(Self.text(loop, name)) }
        }
    }

    static func text(_ loop: JSONValue, _ name: String) -> String {
        var text = Loops.table([loop])
        if loop["state"].text != "closed" {
            text += "\(loop["parked"].text) events wait. Mend the function and deploy it, then one of:\n"
            for mode in ["discard", "replay", "keep"] { text += "  bulkhead loops resume \(name) --mode \(mode)\n" }
        }
        return text
    }
}

struct LoopsResume: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume", abstract: "Close an edge, so that it carries events again.",
        discussion: """
            The mode says what becomes of the events that were parked: discard deletes them, replay submits them one after the other, \
            keep leaves them parked.
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The edge.", valueName: "tenant/function/trigger"))
    var edge: String
    @Option(help: ArgumentHelp("What becomes of the parked events.", valueName: "discard|replay|keep"))
    var mode: String
    @Option(help: ArgumentHelp("For a replay: how many of the oldest (default: all).", valueName: "number"))
    var count: Int?
    @Option(help: ArgumentHelp("For a replay: how fast (default: 1/s).", valueName: "count/s"))
    var rate: String?

    func validate() throws {
        guard ["discard", "replay", "keep"].contains(mode) else { throw ValidationError("--mode is discard, replay or keep.") }
        guard mode == "replay" || (count == nil && rate == nil) else { throw ValidationError("--count and --rate go with --mode replay.") }
        if let count, count < 1 { throw ValidationError("--count is 1 or more.") }
    }

    func run() async throws {
        let edge = try NodePath.edge(edge)
        let request = LoopResumeRequest(
            edge: "\(edge.function)/\(edge.trigger)", mode: mode, count: count,
            ratePerSecond: try rate.map { try RateArgument.perSecond($0, option: "--rate") })
        let body = try NodePath.body(request)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(
                .post, NodePath.resumption(edge), headers: [("Content-Type", "application/json")], body: .bytes(body))
            if node.json { return Console.json(bytes) }
            let reply = try JSONValue(parsing: bytes)
            Console.out("\(request.edge) is \(escaped(reply["state"].text)); \(reply["parked"].text) events are parked\n")
        }
    }
}
