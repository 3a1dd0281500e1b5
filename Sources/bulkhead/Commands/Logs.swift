// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import Foundation
import NIOCore

struct Logs: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print what a function's workers wrote.",
        discussion: """
            One line each: time, version, worker, stream, text. Control characters are escaped. With --json one JSON object a line.

              bulkhead logs acme/thumbnail --tail 50
              bulkhead logs acme/thumbnail -f
              bulkhead logs acme/thumbnail --invocation 0197c0ffee...
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function; a version may follow.", valueName: "tenant/function[@version]"))
    var function: String
    @Flag(name: [.customShort("f"), .long], help: "Go on with new lines until Ctrl-C.")
    var follow = false
    @Option(help: ArgumentHelp("How many of the newest lines to begin with.", valueName: "lines"))
    var tail: UInt32 = 100
    @Option(help: ArgumentHelp("Only the lines of this invocation.", valueName: "id"))
    var invocation: String?
    @Option(help: ArgumentHelp("Only lines that hold this text.", valueName: "text"))
    var grep: String?

    func run() async throws {
        let reference = try FunctionReference(parsing: function)
        let path = try NodePath.logs(reference, tail: tail, follow: follow, invocation: invocation)
        try await NodeClient.with(node) { client in
            let answer = try await client.send(.get, path, deadline: follow ? nil : NIODeadline.now() + .seconds(NodeClient.patience))
            guard answer.isSuccess else {
                throw NodeClient.failure(status: answer.status, body: try await client.collect(answer))
            }
            var lines = LineSplitter()
            do {
                for try await part in answer.body {
                    for line in lines.add(part.readableBytesView) { show(line) }
                }
            } catch {
                throw client.explain(error)
            }
            if let rest = lines.finish() { show(rest) }
        }
    }

    /// Prints one line of the node: one JSON object.
    private func show(_ line: [UInt8]) {
        guard !line.isEmpty else { return }
        guard let object = try? JSONValue(parsing: line) else { return }
        if let grep, !object["text"].text.contains(grep) { return }
        if node.json { Console.json(line) } else { Console.out(LogFormat.line(object) + "\n") }
    }
}

/// How a log line looks to a person.
enum LogFormat {
    static func line(_ object: JSONValue) -> String {
        let time = object["time"].time.map(stamp) ?? escaped(object["time"].text)
        let version = object["version"].text
        let source = [version.isEmpty ? "" : "@\(version)", object["worker"].text, object["stream"].text].filter { !$0.isEmpty }
        return "\(time) \(escaped(source.joined(separator: " "))) \(escaped(object["text"].text))"
    }

    /// `2026-01-31T12:00:00.123Z`.
    static func stamp(_ date: Date) -> String {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
        return formatter.string(from: date)
    }
}
