// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Foundation
import NIOCore

struct Restart: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Put new programs in the place of the running ones; callers and warm workers notice nothing.",
        discussion: """
            The programs are read from the disk: this is how an upgrade comes into effect. First the spawner's, where its file is another than \
            the one that runs (--spawner: in any case): it is tried beside the running one, and where it cannot go on from there, nothing is \
            changed and the command fails. It then runs in the same process. After it a new daemon is prepared while the old one \
            serves; where it cannot start (its configuration is refused, say) the old one serves on and the command fails. Then events stop \
            starting, calls that run end (30 s at most, during which others wait), connections and idle workers are handed over, and the new daemon \
            goes on. Workers of a function that has other secrets or limits now are ended.
            With --json {daemon, startedAt, workersOffered, workersKept, connectionsKept, pauseMilliseconds, spawnerReplaced}.

              bulkhead restart
              bulkhead restart --spawner
            """)

    @OptionGroup var node: NodeOptions
    @Flag(help: "Replace the spawner's program also where its file is the one that runs.")
    var spawner = false

    /// How long the new daemon may take to answer, in seconds: the grace of calls that run, and a start.
    static let patience: Int64 = 90

    func run() async throws {
        let before = try await NodeClient.with(node) { client in
            try await client.reply(
                .post, NodePath.restart, RestartReply.self, body: try NodePath.body(RestartRequest(spawner: spawner)),
                deadline: .now() + .seconds(Self.patience))
        }
        var reply = try await Self.successor(of: before.daemon, node)
        reply.spawnerReplaced = before.spawnerReplaced
        if spawner, !reply.spawnerReplaced {
            throw Failure.failed("noRestart", "A restart without the spawner was under way; a new daemon serves. Ask again.")
        }
        if node.json { return Console.json(Array(try JSONEncoder().encode(reply))) }
        Console.out(
            "A new daemon serves (process \(reply.daemon)), with \(reply.workersKept) of \(reply.workersOffered) idle workers and "
                + "\(reply.connectionsKept) connections of the old one; callers waited for \(reply.pauseMilliseconds) ms at most."
                + (reply.spawnerReplaced ? " The spawner's program was replaced.\n" : "\n"))
    }

    /// The first answer of another daemon than this one. Connections of their own: the old daemon's may end with it.
    private static func successor(of old: Int32, _ node: NodeOptions) async throws -> RestartReply {
        let end = NIODeadline.now() + .seconds(patience)
        while true {
            let reply = try? await NodeClient.with(node) { client in
                try await client.reply(.get, NodePath.restart, RestartReply.self, deadline: end)
            }
            if let reply, reply.daemon != old { return reply }
            guard NIODeadline.now() < end else {
                throw Failure.failed("noRestart", "No new daemon has answered within \(patience) s; see the node's own output.")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}

struct Drain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Have the node take no new work, and wait until nothing runs.",
        discussion: """
            Calls and new events are refused (503, code `draining`, Retry-After), /readyz says so, events in the store stay there and do not start. \
            Crons fire once when it is over. What runs goes on to its own end. A new daemon (restart, reboot) takes work again: a drain is not kept, but that of bulkhead up --drained, which --undo ends. With --json one line for each look, \
            {draining, running, eventsWaiting}.

              bulkhead drain --timeout 15m
              bulkhead drain --undo

            Exit status: 0 nothing runs, 5 something still runs after the timeout; the node drains on.
            """)

    @OptionGroup var node: NodeOptions
    @Option(
        help: ArgumentHelp("How long to wait for what runs: 90s, 15m, or a number of seconds; 15m by default.", valueName: "span"),
        transform: Self.seconds)
    var timeout: UInt32 = 900
    @Flag(help: "Take work again.")
    var undo = false

    /// A span as other commands take it, or, as it was before, plain seconds.
    private static func seconds(_ text: String) throws -> UInt32 {
        guard let value = UInt32(text) ?? TimeArgument.seconds(text).flatMap({ UInt32(exactly: $0) }) else {
            throw ValidationError("write 90s, 15m, 1h, or a number of seconds.")
        }
        return value
    }

    func run() async throws {
        try await NodeClient.with(node) { client in
            let body = try NodePath.body(DrainRequest(undo: undo))
            let end = NIODeadline.now() + .seconds(Int64(timeout))
            var reply = try await client.reply(.post, NodePath.drain, DrainReply.self, body: body)
            show(reply)
            while !undo, reply.running > 0 {
                guard NIODeadline.now() < end else {
                    throw Failure(
                        status: .timedOut, code: "timedOut",
                        sentence:
                            "\(reply.running) calls still run after \(timeout) s; the node drains on (bulkhead drain --undo ends that).")
                }
                try await Task.sleep(for: .milliseconds(200))
                let next = try await client.reply(.get, NodePath.drain, DrainReply.self)
                guard next.draining else { throw Failure.failed("draining", "Somebody has ended the drain; the node takes work again.") }
                if next.running != reply.running { show(next) }
                reply = next
            }
        }
    }

    private func show(_ reply: DrainReply) {
        if node.json { return Console.json(Array((try? JSONEncoder().encode(reply)) ?? Data())) }
        guard reply.draining else { return Console.out("The node takes work.\n") }
        let events = reply.eventsWaiting > 0 ? "; \(reply.eventsWaiting) events wait in the store" : ""
        Console.out(reply.running > 0 ? "\(reply.running) calls run\(events)\n" : "Nothing runs\(events).\n")
    }
}

extension NodeClient {
    /// Asks and decodes the answer.
    fileprivate func reply<T: Decodable>(
        _ method: Method, _ uri: String, _ type: T.Type, body: ByteBuffer? = nil,
        deadline: NIODeadline = .now() + .seconds(NodeClient.patience)
    ) async throws -> T {
        let headers = body == nil ? [] : [("Content-Type", "application/json")]
        let bytes = try await bytes(method, uri, headers: headers, body: body.map { .bytes($0) }, deadline: deadline)
        do { return try JSONDecoder().decode(type, from: Data(bytes)) } catch {
            throw Failure.failed("internal", "The node's answer cannot be read; its release is another than this command's.")
        }
    }
}
