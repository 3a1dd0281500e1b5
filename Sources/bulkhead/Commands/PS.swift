// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit

struct PS: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ps", abstract: "List the workers that run now.",
        discussion: """
            CPU is the processor time used so far, in seconds. With --json an array of {worker, tenant, function, version, state, pid, \
            uid, cgroup, startedAt, served, inFlight, memoryBytes, memoryLimitBytes, cpuSeconds, pids}; pid is the host's number of \
            the worker's main process.

              bulkhead ps
              bulkhead ps --json | jq '.[] | select(.tenant == "acme")'
            """)

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "Only this tenant's workers.")
    var tenant: String?

    static let columns: [ListColumn] = [
        .text("WORKER", "worker"), .text("TENANT", "tenant"),
        ListColumn(title: "FUNCTION") { worker in
            let function = worker["function"].text
            let version = worker["version"].text
            return function.isEmpty || version.isEmpty || version == "0" ? function : "\(function)@\(version)"
        },
        .text("STATE", "state"), .age("UP", "startedAt"), .count("SERVED", "served"),
        ListColumn(title: "IN FLIGHT", isNumber: true) { bounded($0["inFlight"], by: $0["slots"]) },
        ListColumn(title: "MEMORY", isNumber: true) { worker in
            Units.usage(worker["memoryBytes"].count ?? 0, of: worker["memoryLimitBytes"].count ?? 0)
        },
        ListColumn(title: "CPU", isNumber: true) { Units.decimal(UInt64(max(0, ($0["cpuSeconds"].double ?? 0) * 100)), places: 2) },
        ListColumn(title: "PIDS", isNumber: true) { bounded($0["pids"], by: $0["pidsLimit"]) },
    ]

    /// `1/4`, or the number alone where its bound is not known.
    private static func bounded(_ value: JSONValue, by bound: JSONValue) -> String {
        bound == .null ? value.text : "\(value.text)/\(bound.text)"
    }

    func run() async throws {
        let tenant = try tenant.map(FunctionReference.tenant)
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.workers(tenant)), json: node.json, Self.columns)
        }
    }
}

struct Inspect: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show a worker's seal, read from outside: what was promised, what is, and every hole.",
        discussion: """
            The score counts the holes; 0 is sealed. Exit status 1 where a hole is found.

              bulkhead inspect w-7f3a
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: "The worker, as 'bulkhead ps' names it.")
    var worker: String

    static let columns: [ListColumn] = [
        .text("CHECK", "name"), .text("EXPECTED", "expected"), .text("ACTUAL", "actual"), ListColumn(title: "HELD") { $0["ok"].text },
    ]

    func run() async throws {
        let path = try NodePath.worker(worker)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.get, path)
            let reply = try JSONValue(parsing: bytes)
            let holes: [JSONValue] = reply["holes"].elements
            if node.json {
                Console.json(bytes)
            } else {
                Console.out(Listing.table(reply["checks"].elements, Self.columns))
                Console.out(holes.isEmpty ? "No hole found.\n" : "Holes (score \(reply["score"].text)):\n")
                for hole in holes { Console.out("  \(escaped(hole.text))\n") }
            }
            if !holes.isEmpty { throw ExitCode(CommandStatus.failed.rawValue) }
        }
    }
}
