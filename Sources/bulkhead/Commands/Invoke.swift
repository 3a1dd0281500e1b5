// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import Foundation
import Glibc
import NIOCore

struct Invoke: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a function once and print its answer.",
        discussion: """
            The answer's body goes to standard output, unchanged. Without --data the body is read from \
            standard input, unless that is a terminal.

              bulkhead invoke acme/thumbnail --data '{"size": 360}'
              bulkhead invoke acme/thumbnail@7 --data @photo.jpg --header Content-Type=image/jpeg > small.jpg
              echo hello | bulkhead invoke acme/upper:stable --tail
              bulkhead invoke acme/report --async --delay 10m --idempotency-key monday

            \(CommandStatus.help)
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function; a version or an alias may follow.", valueName: "tenant/function[@version|:alias]"))
    var function: String
    @Option(name: .shortAndLong, help: ArgumentHelp("The body: text, or @FILE for a file's content.", valueName: "text|@file"))
    var data: String?
    @Option(name: [.customShort("H"), .long], help: ArgumentHelp("A header of the request; may be repeated.", valueName: "name=value"))
    var header: [String] = []
    @Flag(name: .customLong("async"), help: "Do not wait: the node keeps the event, and its id is printed.")
    var isAsynchronous = false
    @Option(help: ArgumentHelp("With --async: start it no sooner than after this time.", valueName: "time"))
    var delay: String?
    @Option(help: ArgumentHelp("With --async: calls with the same key within 24 h are one event.", valueName: "key"))
    var idempotencyKey: String?
    @Flag(help: "Print the end of what the invocation logged on standard error.")
    var tail = false

    func validate() throws {
        guard isAsynchronous || (delay == nil && idempotencyKey == nil) else {
            throw ValidationError("--delay and --idempotency-key go with --async.")
        }
        if let delay, TimeArgument.seconds(delay) == nil { throw ValidationError("--delay is a time like 30s, 10m or 24h.") }
        if let key = idempotencyKey, !(1...255).contains(key.utf8.count) || !key.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) {
            throw ValidationError("--idempotency-key has 1 to 255 visible characters of ASCII.")
        }
    }

    func run() async throws {
        let reference = try FunctionReference(parsing: function)
        var headers = try header.map(HeaderArgument.parse)
        let body = try content()
        if !body.isEmpty, !headers.contains(where: { $0.0.lowercased() == "content-type" }) {
            headers.append(("Content-Type", Self.contentType(body)))
        }
        if isAsynchronous { headers.append(("Bulkhead-Invocation-Type", "async")) }
        if let seconds = delay.flatMap(TimeArgument.seconds) { headers.append(("Bulkhead-Delay", "\(seconds)s")) }
        if let idempotencyKey { headers.append(("Idempotency-Key", idempotencyKey)) }
        if tail { headers.append(("Bulkhead-Log", "tail")) }
        try await NodeClient.with(node) { client in
            let answer = try await client.send(
                .post, NodePath.invocations(reference), headers: headers, body: .bytes(ByteBuffer(bytes: body)), deadline: nil)
            if tail { Self.showTail(answer) }
            // An error of the node is a problem document with a code; anything else is what the function answered, whatever its status.
            if !answer.isSuccess,
                answer.header("Content-Type")?.hasPrefix("application/problem+json") == true || answer.header(Self.idHeader) == nil
            {
                throw NodeClient.failure(status: answer.status, body: try await client.collect(answer))
            }
            if isAsynchronous, answer.status == 202 {
                let bytes = try await client.collect(answer)
                guard !node.json, let id = (try? JSONValue(parsing: bytes))?["id"].string else { return Console.json(bytes) }
                return Console.out(escaped(id) + "\n")
            }
            try await Self.copy(answer, client, reference)
            if answer.status >= 400 {
                throw Failure.failed(
                    "functionStatus", "\(reference) answered with HTTP status \(answer.status); see: bulkhead logs \(reference.function).")
            }
        }
    }

    private static let idHeader = "Bulkhead-Invocation-Id"

    private static func copy(_ answer: NodeClient.Answer, _ client: NodeClient, _ reference: FunctionReference) async throws {
        var last: UInt8 = 10
        do {
            for try await part in answer.body {
                let bytes = part.readableBytesView
                last = bytes.last ?? last
                Console.out(bytes: bytes)
            }
        } catch {
            // A stream that fails after its head can only be cut off.
            guard answer.header("Transfer-Encoding") != nil else { throw client.explain(error) }
            throw Failure.failed("answerCut", "The answer of \(reference) broke off; see: bulkhead logs \(reference.function).")
        }
        // The prompt begins on a line of its own; standard output stays what the function answered.
        if last != 10, Console.outIsTerminal, Console.errorIsTerminal { Console.error("\n") }
    }

    /// The end of the log comes in a header, with `\n` written for a line break.
    private static func showTail(_ answer: NodeClient.Answer) {
        guard let text = answer.header("Bulkhead-Log"), !text.isEmpty else { return }
        for line in text.split(separator: "\\n", omittingEmptySubsequences: false) { Console.error(escaped(String(line)) + "\n") }
    }

    private func content() throws(Failure) -> [UInt8] {
        guard let data else { return isatty(0) == 1 ? [] : try RequestBody.readStandardInput() }
        guard data.hasPrefix("@") else { return Array(data.utf8) }
        let file = String(data.dropFirst())
        guard !file.isEmpty else { throw .usage("--data @ names no file; write --data @FILE.") }
        return try RequestBody.read(file)
    }

    static func contentType(_ body: [UInt8]) -> String {
        (try? JSONSerialization.jsonObject(with: Data(body), options: .fragmentsAllowed)) != nil
            ? "application/json" : "application/octet-stream"
    }
}
