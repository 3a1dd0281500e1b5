// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core
import Foundation

struct Logs: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what workers wrote: of a function, of a tenant, or of all tenants by time.",
        discussion: """
            One line each: time, version, worker, stream, text. Control characters are escaped. With --json one JSON object a line. \
            With -f the command goes on until Ctrl-C (exit status 0): it misses no line and prints none twice, also when the log is \
            rotated and when the node restarts; where lines were removed before it could read them, it says so on standard error. Without a \
            target it prints the newest lines of all tenants, each with its tenant; where that may not be all, it says so on standard error.

              bulkhead logs acme/thumbnail --tail 50
              bulkhead logs acme/thumbnail -f --level warning
              bulkhead logs acme --since 10m --grep Traceback
              bulkhead logs acme --since 2026-11-21T03:00 --until 2026-11-21T03:30
              bulkhead logs acme/thumbnail --invocation 0197c0ffee00aabbccddeeff00112233
              bulkhead logs --since 03:10 --until 03:15 --level warning
            """)

    @OptionGroup var node: NodeOptions
    @Argument(
        help: ArgumentHelp("The tenant or the function; a version may follow (default: all).", valueName: "tenant[/function[@version]]"))
    var target: String?
    @Flag(name: [.customShort("f"), .long], help: "Go on with new lines until Ctrl-C; of one tenant or function.")
    var follow = false
    @Option(
        help: ArgumentHelp(
            "How many of the newest lines to begin with, at most 10,000 (default: 100; with --since, all, of all tenants 10,000).",
            valueName: "lines"))
    var tail: UInt32?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Only from this time on: 10m (before now), 2026-11-21, 2026-11-21T10:00 (UTC), 03:10.", valueName: "time"))
    var since: String?
    @Option(parsing: .unconditional, help: ArgumentHelp("Only up to this time; not with -f.", valueName: "time"))
    var until: String?
    @Option(help: ArgumentHelp("Only the lines of this invocation.", valueName: "id"))
    var invocation: String?
    @Option(help: ArgumentHelp("Only lines that hold this text.", valueName: "text"))
    var grep: String?
    @Option(help: "Only lines of this level and above: debug, info, warning, error.")
    var level: Level?

    enum Level: String, ExpressibleByArgument, CaseIterable { case debug, info, warning, error }

    /// How many lines one answer has at most.
    private static let most: UInt32 = 10_000
    /// How often a follower asks, and how often it tries to reach a node that has gone.
    private static let interval = Duration.milliseconds(300)

    func validate() throws {
        guard !follow || target != nil else {
            throw ValidationError(
                "-f follows one tenant or function: name it, as in 'bulkhead logs TENANT -f', or ask for all anew with --since 1m.")
        }
        guard !follow || until == nil else { throw ValidationError("-f goes on without end; leave --until away, or -f.") }
        if let tail, tail > Self.most { throw ValidationError("--tail is at most 10,000; use --since for more.") }
    }

    func run() async throws {
        let filter = try filter(Date())
        guard let target = try target.map({ try LogTarget(parsing: $0) }) else { return try await showAll(filter) }
        var position: String? = tail == nil && since != nil ? "start" : nil
        let end = Interrupts.end()
        defer { _ = end }
        try await NodeClient.with(node) { client in
            while true {
                let page = try await next(client, target, filter, position)
                for line in page.lines { show(line) }
                if page.isGap, position != "start" { Console.note("some lines were removed (size or age) before they could be read.") }
                position = page.position
                if page.isMore { continue }
                guard follow else { return }
                try await Task.sleep(for: Self.interval)
            }
        }
    }

    /// The newest lines of all tenants: one answer, for a place in a log, where another one would go on, is one tenant's.
    private func showAll(_ filter: [(String, String)]) async throws {
        let tail = tail ?? (since == nil ? 100 : Self.most)
        try await NodeClient.with(node) { client in
            let answer = try await client.send(.get, NodePath.logs(nil, filter + [("tail", "\(tail)")]))
            let body = try await client.collect(answer)
            guard answer.isSuccess else { throw NodeClient.failure(status: answer.status, body: body) }
            let lines = body.split(separator: 10)
            for line in lines { show(Array(line)) }
            guard answer.header("Bulkhead-Log-More") != nil else { return }
            let higher = lines.count >= tail && tail < Self.most ? ", or a higher --tail" : ""
            Console.note("these may not be all: choose a shorter time (--since, --until), a tenant\(higher).")
        }
    }

    private func filter(_ now: Date) throws -> [(String, String)] {
        var filter: [(String, String)] = []
        let span = try TimeArgument.span(since: since, until: until, now: now)
        if let since = span.since { filter.append(("since", "\(since)")) }
        if let until = span.until { filter.append(("until", "\(until)")) }
        if let invocation {
            guard let id = InvocationID(invocation) else {
                throw Failure.usage(
                    "--invocation is an invocation's id, which has 32 hexadecimal digits (see the header Bulkhead-Invocation-Id).")
            }
            filter.append(("invocation", "\(id)"))
        }
        if let grep { filter.append(("grep", grep)) }
        if let level { filter.append(("level", level.rawValue)) }
        return filter
    }

    fileprivate struct Page {
        var lines: [[UInt8]]
        var position: String?
        var isMore: Bool
        var isGap: Bool
    }

    /// The lines behind a position, or the newest ones. A follower that has been answered once waits for a node that has gone.
    fileprivate func next(_ client: NodeClient, _ target: LogTarget, _ filter: [(String, String)], _ position: String?) async throws -> Page
    {
        let more = position.map { [("after", $0), ("tail", "10000")] } ?? [("tail", "\(tail ?? 100)")]
        var isWaiting = false
        while true {
            do {
                let answer = try await client.send(.get, NodePath.logs(target, filter + more))
                let body = try await client.collect(answer)
                guard answer.isSuccess else { throw NodeClient.failure(status: answer.status, body: body) }
                if isWaiting { Console.note("the node is back.") }
                return Page(
                    lines: body.split(separator: 10).map(Array.init), position: answer.header("Bulkhead-Log-Position"),
                    isMore: answer.header("Bulkhead-Log-More") != nil && position != nil, isGap: answer.header("Bulkhead-Log-Gap") != nil)
            } catch let failure as Failure where follow && position != nil && [.unreachable, .timedOut].contains(failure.status) {
                if !isWaiting { Console.note("the node has gone; waiting for it.") }
                isWaiting = true
                try await Task.sleep(for: Self.interval)
            }
        }
    }

    fileprivate func show(_ line: [UInt8]) {
        if node.json {
            Console.json(line)
        } else if let object = try? JSONValue(parsing: line) {
            Console.out(LogFormat.line(object) + "\n")
        }
    }
}

/// Shows what one function writes, from a time on, whenever it is asked to.
struct LogFollower {
    let target: String
    private let logs: Logs
    private let function: LogTarget
    private let since: String
    private var position: String? = "start"

    init(_ target: String, since: Date, json: Bool) throws {
        self.target = target
        logs = try Logs.parse([target, "--follow"] + (json ? ["--json"] : []))
        function = try LogTarget(parsing: target)
        self.since = "\(UInt64(max(0, since.timeIntervalSince1970 * 1000)))"
    }

    /// All that is new. Waits for a node that has gone.
    mutating func show(_ client: NodeClient) async throws {
        while true {
            let page = try await logs.next(client, function, [("since", since)], position)
            for line in page.lines { logs.show(line) }
            position = page.position
            guard page.isMore else { return }
        }
    }
}

/// How a log line looks to a person.
enum LogFormat {
    static func line(_ object: JSONValue) -> String {
        let time = object["time"].time.map(stamp) ?? escaped(object["time"].text)
        let version = object["version"].text
        let tenant = object["tenant"].text
        let function = (tenant.isEmpty ? "" : tenant + "/") + object["function"].text
        let source = [function + (version.isEmpty ? "" : "@\(version)"), object["worker"].text, object["stream"].text].filter {
            !$0.isEmpty
        }
        return "\(time) \(escaped(source.joined(separator: " "))) \(escaped(object["text"].text))"
    }

    /// `2026-01-31T12:00:00.123Z`.
    static func stamp(_ date: Date) -> String {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
        return formatter.string(from: date)
    }
}
