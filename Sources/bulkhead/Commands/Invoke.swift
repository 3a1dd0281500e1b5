// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
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
              bulkhead invoke --local ./thumbnail --data @photo.jpg > small.jpg

            With --local no node is needed: one is started for this call on a folder that goes with it, the function's folder is \
            deployed there as 'default', and what the invocation logged is printed on standard error. Its limits are a node's own; \
            it needs root as 'up' does.

            \(CommandStatus.help)
            """)

    @OptionGroup var node: NodeOptions
    @Argument(
        help: ArgumentHelp(
            "The function; a version or an alias may follow. With --local: its folder or archive.",
            valueName: "tenant/function[@version|:alias]"))
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
    @Flag(help: "Run a function's folder once, on a node that is there for this call alone.")
    var local = false

    func validate() throws {
        guard !local || (!isAsynchronous && node.state == nil) else {
            throw ValidationError("--local runs on a node of its own and waits for the answer; leave out --async and --state.")
        }
        guard isAsynchronous || (delay == nil && idempotencyKey == nil) else {
            throw ValidationError("--delay and --idempotency-key go with --async.")
        }
        if let delay, TimeArgument.seconds(delay) == nil { throw ValidationError("--delay is a time like 30s, 10m or 24h.") }
        if let key = idempotencyKey, !(1...255).contains(key.utf8.count) || !key.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) {
            throw ValidationError("--idempotency-key has 1 to 255 visible characters of ASCII.")
        }
    }

    func run() async throws {
        guard local else {
            let reference = try FunctionReference(parsing: function)
            let request = try request()
            return try await NodeClient.with(node) { client in try await call(reference, request, client) }
        }
        let request = try request()
        let tenant = try FunctionReference.tenant("default")
        // Looked at first: a wrong name needs no node.
        _ = try CodeArchive.examine(function)
        try await LocalNode.with(node) { client in
            let version = try JSONDecoder().decode(VersionReply.self, from: Data(try await Deploy.send(function, tenant, client)))
            try await call(FunctionReference(parsing: "\(version.tenant)/\(version.function)"), request, client)
        }
    }

    private struct Request {
        var headers: [(String, String)]
        var body: [UInt8]
    }

    private func request() throws -> Request {
        var headers = try header.map(HeaderArgument.parse)
        let body = try content()
        if !body.isEmpty, !headers.contains(where: { $0.0.lowercased() == "content-type" }) {
            headers.append(("Content-Type", Self.contentType(body)))
        }
        if isAsynchronous { headers.append(("Bulkhead-Invocation-Type", "async")) }
        if let seconds = delay.flatMap(TimeArgument.seconds) { headers.append(("Bulkhead-Delay", "\(seconds)s")) }
        if let idempotencyKey { headers.append(("Idempotency-Key", idempotencyKey)) }
        if tail || local { headers.append(("Bulkhead-Log", "tail")) }
        return Request(headers: headers, body: body)
    }

    private func call(_ reference: FunctionReference, _ request: Request, _ client: NodeClient) async throws {
        let answer = try await client.send(
            .post, NodePath.invocations(reference), headers: request.headers, body: .bytes(ByteBuffer(bytes: request.body)), deadline: nil)
        Self.showTail(answer)
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
