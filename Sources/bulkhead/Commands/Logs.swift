// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Foundation

struct Logs: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what a function's workers wrote.",
        discussion: """
            One line each: time, version, worker, stream, text. Control characters are escaped. With --json one JSON object a line.

              bulkhead logs acme/thumbnail --tail 50
              bulkhead logs acme/thumbnail -f
              bulkhead logs acme --grep Traceback
              bulkhead logs acme/thumbnail --invocation 0197c0ffee00aabbccddeeff00112233
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The tenant or the function; a version may follow.", valueName: "tenant[/function[@version]]"))
    var target: String
    @Flag(name: [.customShort("f"), .long], help: "Go on with new lines until Ctrl-C.")
    var follow = false
    @Option(help: ArgumentHelp("How many of the newest lines to begin with, at most 10,000.", valueName: "lines"))
    var tail: UInt32 = 100
    @Option(help: ArgumentHelp("Only the lines of this invocation.", valueName: "id"))
    var invocation: String?
    @Option(help: ArgumentHelp("Only lines that hold this text.", valueName: "text"))
    var grep: String?

    /// How often a follower asks.
    private static let interval = Duration.milliseconds(300)
    /// The most lines of one answer.
    private static let most: UInt32 = 10_000

    func run() async throws {
        let target = try LogTarget(parsing: target)
        let first = try NodePath.logs(target, tail: tail, since: nil, invocation: invocation, grep: grep)
        try await NodeClient.with(node) { client in
            var cursor = LogCursor()
            var path = first
            while true {
                let lines = Self.lines(try await client.bytes(.get, path))
                for line in cursor.news(lines) { show(line) }
                guard follow else { return }
                try await Task.sleep(for: Self.interval)
                path = try NodePath.logs(target, tail: Self.most, since: cursor.newest, invocation: invocation, grep: grep)
            }
        }
    }

    /// The lines of an answer with their times.
    private static func lines(_ bytes: [UInt8]) -> [(time: UInt64, bytes: [UInt8])] {
        bytes.split(separator: 10).map { line in
            let object = (try? JSONValue(parsing: Array(line))) ?? .null
            return (object["time"].count ?? 0, Array(line))
        }
    }

    private func show(_ line: [UInt8]) {
        if node.json {
            Console.json(line)
        } else if let object = try? JSONValue(parsing: line) {
            Console.out(LogFormat.line(object) + "\n")
        }
    }
}

/// How a log line looks to a person.
enum LogFormat {
    static func line(_ object: JSONValue) -> String {
        let time = object["time"].time.map(stamp) ?? escaped(object["time"].text)
        let version = object["version"].text
        let source = [object["function"].text + (version.isEmpty ? "" : "@\(version)"), object["worker"].text, object["stream"].text].filter
        { !$0.isEmpty }
        return "\(time) \(escaped(source.joined(separator: " "))) \(escaped(object["text"].text))"
    }

    /// `2026-01-31T12:00:00.123Z`.
    static func stamp(_ date: Date) -> String {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
        return formatter.string(from: date)
    }
}
