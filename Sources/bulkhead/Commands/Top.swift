// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import ControlAPI
import Core
import Foundation

struct Top: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Watch tenants and functions: calls a second, seats, queue, processors, memory, refusals.",
        discussion: """
            On a terminal a table that is drawn anew until Ctrl-C; elsewhere, or with --once, one table. CPU is in processors. With --json \
            one object a line for each sample until Ctrl-C, or one with --once: the node's counters and, in each of its tenants and rows, \
            invocationsPerSecond, refusalsPerSecond and cpu.

              bulkhead top
              bulkhead top --tenant acme --interval 5
              bulkhead top --once --json
            """)

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "Only this tenant's functions.")
    var tenant: String?
    @Option(help: ArgumentHelp("Time between two samples.", valueName: "seconds"))
    var interval = 2.0
    @Flag(help: "Print one table and end.")
    var once = false

    func validate() throws {
        guard interval >= 0.1, interval <= 3600 else { throw ValidationError("--interval is from 0.1 to 3600 seconds.") }
    }

    func run() async throws {
        let path = NodePath.top(try tenant.map(FunctionReference.tenant))
        let isLive = Console.outIsTerminal && !once && !node.json
        let ending = Interrupts.end()
        defer { withExtendedLifetime(ending) {} }
        try await NodeClient.with(node) { client in
            var last = try await Self.sample(client, path)
            if isLive { Console.out("\u{1b}[2J") }
            while true {
                try await Task.sleep(for: .seconds(interval))
                let next = try await Self.sample(client, path)
                let view = TopView(from: last.reply, to: next.reply, seconds: (next.time - last.time) / .seconds(1))
                if node.json {
                    try Console.value(view)
                } else if isLive {
                    // From the upper left corner, then nothing below: no flicker.
                    Console.out("\u{1b}[H" + view.screen(Console.size) + "\u{1b}[J")
                } else {
                    Console.out(view.table)
                }
                if once || (!node.json && !isLive) { return }
                last = next
            }
        }
    }

    private static func sample(_ client: NodeClient, _ path: String) async throws -> (time: ContinuousClock.Instant, reply: TopReply) {
        let bytes = try await client.bytes(.get, path)
        guard let reply = try? JSONDecoder().decode(TopReply.self, from: Data(bytes)) else {
            throw Failure.failed("internal", "The node's answer is not understood; use the command of the node's own release.")
        }
        return (.now, reply)
    }
}

/// Two samples, and what happened between them.
struct TopView: Encodable {
    struct Row: Encodable {
        var tenant: String
        var function: String
        var invocationsPerSecond: Double
        var refusalsPerSecond: Double
        var running: Int
        var concurrency: Int
        var queued: Int
        var workers: Int
        /// Processors.
        var cpu: Double
        var memoryBytes: UInt64
        var memoryLimitBytes: UInt64
    }

    struct Tenant: Encodable {
        var tenant: String
        var suspended: Bool
        var invocationsPerSecond: Double
        var rate: String?
        var refusalsPerSecond: Double
        var running: Int
        var concurrency: Int
        var queued: Int
        var queue: Int
        var workers: Int
        /// Processors.
        var cpu: Double
        var cpuLimit: Double
        var memoryBytes: UInt64
        var memoryLimitBytes: UInt64
    }

    struct Node: Encodable {
        var uptimeSeconds: Double
        var invocationsPerSecond: Double
        var refusalsPerSecond: Double
        var running: Int
        var queued: Int
        var workers: Int
        /// Processors.
        var cpu: Double
        var memoryBytes: UInt64
        var memoryLimitBytes: UInt64
        var invocations: UInt64
        var refusals: UInt64
    }

    var node: Node
    /// The busiest first, as the functions.
    var tenants: [Tenant]
    var rows: [Row]

    init(from old: TopReply, to new: TopReply, seconds: Double) {
        // A counter that went back began anew with the node.
        func rate(_ before: Double, _ after: Double) -> Double { seconds > 0 && after > before ? (after - before) / seconds : 0 }
        node = Node(
            uptimeSeconds: new.node.uptimeSeconds,
            invocationsPerSecond: rate(Double(old.node.invocations), Double(new.node.invocations)),
            refusalsPerSecond: rate(Double(old.node.refusals), Double(new.node.refusals)), running: new.node.running,
            queued: new.node.queued, workers: new.node.workers, cpu: rate(old.node.cpuSeconds, new.node.cpuSeconds),
            memoryBytes: new.node.memoryBytes, memoryLimitBytes: new.node.memoryLimitBytes, invocations: new.node.invocations,
            refusals: new.node.refusals)
        let tenantsBefore = Dictionary(old.tenants.map { ($0.tenant, $0) }, uniquingKeysWith: { first, _ in first })
        tenants = new.tenants.map { tenant in
            let former = tenantsBefore[tenant.tenant]
            return Tenant(
                tenant: tenant.tenant, suspended: tenant.suspended,
                invocationsPerSecond: rate(Double(former?.invocations ?? 0), Double(tenant.invocations)), rate: tenant.rate,
                refusalsPerSecond: rate(Double(former?.refusals ?? 0), Double(tenant.refusals)), running: tenant.running,
                concurrency: tenant.concurrency, queued: tenant.queued, queue: tenant.queue, workers: tenant.workers,
                cpu: rate(former?.cpuSeconds ?? 0, tenant.cpuSeconds), cpuLimit: tenant.cpuLimit, memoryBytes: tenant.memoryBytes,
                memoryLimitBytes: tenant.memoryLimitBytes)
        }
        tenants.sort { ($1.invocationsPerSecond, $0.tenant) < ($0.invocationsPerSecond, $1.tenant) }
        let before = Dictionary(old.rows.map { ([$0.tenant, $0.function], $0) }, uniquingKeysWith: { first, _ in first })
        rows = new.rows.map { row in
            // A function that was not there before has counted from zero.
            let former = before[[row.tenant, row.function]]
            return Row(
                tenant: row.tenant, function: row.function,
                invocationsPerSecond: rate(Double(former?.invocations ?? 0), Double(row.invocations)),
                refusalsPerSecond: rate(Double(former?.refusals ?? 0), Double(row.refusals)), running: row.running,
                concurrency: row.concurrency, queued: row.queued, workers: row.workers,
                cpu: rate(former?.cpuSeconds ?? 0, row.cpuSeconds), memoryBytes: row.memoryBytes, memoryLimitBytes: row.memoryLimitBytes)
        }
        rows.sort { a, b in
            if a.invocationsPerSecond != b.invocationsPerSecond { return a.invocationsPerSecond > b.invocationsPerSecond }
            return (a.tenant, a.function) < (b.tenant, b.function)
        }
    }

    private var tenantTable: String {
        var table = Table([
            .init("TENANT"), .init("CALLS/S", isNumber: true), .init("RATE"), .init("REFUSED/S", isNumber: true),
            .init("SEATS", isNumber: true), .init("QUEUE", isNumber: true), .init("WORKERS", isNumber: true), .init("CPU", isNumber: true),
            .init("MEMORY", isNumber: true),
        ])
        for tenant in tenants {
            table.add([
                tenant.tenant, Units.rounded(tenant.invocationsPerSecond, places: 1),
                tenant.suspended ? "suspended" : tenant.rate ?? "none",
                Units.rounded(tenant.refusalsPerSecond, places: 1), "\(tenant.running)/\(tenant.concurrency)",
                "\(tenant.queued)/\(tenant.queue)", "\(tenant.workers)",
                "\(Units.rounded(tenant.cpu, places: 2))/\(Units.rounded(tenant.cpuLimit, places: 2))",
                Units.usage(tenant.memoryBytes, of: tenant.memoryLimitBytes),
            ])
        }
        return table.rendered()
    }

    /// The node in one line, then a line for each tenant, then one for each function.
    var table: String {
        var table = Table([
            .init("TENANT"), .init("FUNCTION"), .init("CALLS/S", isNumber: true), .init("REFUSED/S", isNumber: true),
            .init("SEATS", isNumber: true), .init("QUEUE", isNumber: true), .init("WORKERS", isNumber: true), .init("CPU", isNumber: true),
            .init("MEMORY", isNumber: true),
        ])
        for row in rows {
            table.add([
                row.tenant, row.function, Units.rounded(row.invocationsPerSecond, places: 1),
                Units.rounded(row.refusalsPerSecond, places: 1), "\(row.running)/\(row.concurrency)", "\(row.queued)", "\(row.workers)",
                Units.rounded(row.cpu, places: 2), Units.usage(row.memoryBytes, of: row.memoryLimitBytes),
            ])
        }
        return """
            up \(Units.duration(seconds: node.uptimeSeconds))  \(Units.rounded(node.invocationsPerSecond, places: 1)) calls/s  \
            \(Units.rounded(node.refusalsPerSecond, places: 1)) refused/s  \(node.running) running  \(node.queued) queued  \
            \(node.workers) workers  cpu \(Units.rounded(node.cpu, places: 2))  \
            memory \(Units.usage(node.memoryBytes, of: node.memoryLimitBytes))

            """ + (tenants.isEmpty ? "" : tenantTable + "\n") + table.rendered()
    }

    /// The table as far as it fits a terminal, every line cleared to its end.
    func screen(_ size: (lines: Int, columns: Int)) -> String {
        let lines = table.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        let most = max(3, size.lines - 1)
        var shown = lines.prefix(lines.count > most ? most - 1 : most).map { String($0.prefix(size.columns)) }
        if shown.count < lines.count { shown.append("... and \(lines.count - shown.count) more") }
        return shown.map { $0 + "\u{1b}[K\n" }.joined()
    }
}
