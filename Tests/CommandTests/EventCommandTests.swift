// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import ControlAPI
import Foundation
import Testing

@testable import bulkhead

private let id = "0123456789abcdef0123456789abcdef"

private let event = EventReply(
    id: id, tenant: "acme", function: "f", target: "latest", trigger: "direct", state: "dead", since: 1, createdAt: 1, expiresAt: 2,
    attempts: 3,
    maxAttempts: 3, crashes: 1, deliveries: 3, contentType: "text/plain", payloadBytes: 2048, reason: "it \u{1b}[2J failed")

private let loop = LoopReply(
    edge: "acme/thumbnail/bucket-1", tenant: "acme", function: "thumbnail", trigger: "bucket-1", source: "bucket:photos/in/",
    state: "broken",
    recurrent: 1000, parked: 37, parkedBytes: 1, since: 1, why: "root bucket empty",
    cycle: ["photos/in/a.jpg", "thumbnail", "photos/in/thumb-a.jpg", "thumbnail"])

private func json(_ value: some Encodable) throws -> String { String(decoding: try JSONEncoder().encode(value), as: UTF8.self) }

@Suite struct EventReplyTests {
    private func cells(_ value: some Encodable, _ columns: [ListColumn]) throws -> [String] {
        let object = try JSONValue(parsing: [UInt8](try JSONEncoder().encode(value)))
        return columns.map { $0.cell(object) }
    }

    @Test func everyCellIsFilled() throws {
        let row = try cells(event, EventsList.columns)
        #expect(
            row[0] == id && row[1] == "acme/f" && row[3] == "dead" && row[4] == "3/3" && row[5] == "2 KiB" && row.allSatisfy { !$0.isEmpty }
        )
        #expect(try cells(event, DeadLettersList.columns).allSatisfy { !$0.isEmpty })
        #expect(try cells(loop, Loops.columns).allSatisfy { !$0.isEmpty })
        let trigger = TriggerReply(
            tenant: "acme", function: "f", trigger: "cron-1", kind: "cron", source: "every 10m", authorization: "key", onCycle: true,
            nextAt: 0, url: "/q/acme/f/cron-1", rate: "5/s burst 9")
        #expect(
            try cells(trigger, Triggers.columns) == [
                "acme/f", "cron-1", "cron", "every 10m", "key", "5/s burst 9", "closed", "yes", "1970-01-01T00:00:00.000Z",
                "/q/acme/f/cron-1",
            ])
    }

    @Test(
        "ACCESS names everybody who can make a trigger fire",
        arguments: [
            ("none", [], "anybody"), ("key", [], "key"), ("hmac:HOOK", ["a"], "hmac:HOOK; functions: a"),
            ("key", ["a", "b"], "key; functions: a b"),
            ("clock", [], "the node's clock"), ("function", ["a"], "functions: a"), ("function", [], "nobody yet"),
            ("key", (0..<9).map { "f\($0)" }, "key; functions: 9"),
        ] as [(String, [String], String)])
    func access(authorization: String, functions: [String], expected: String) throws {
        let trigger = TriggerReply(
            tenant: "acme", function: "f", trigger: "t", kind: "http", source: "any /", authorization: authorization, functions: functions)
        #expect(try cells(trigger, Triggers.columns)[4] == expected)
    }

    @Test func anEventIsShownFieldByField() throws {
        let text = EventsShow.text(try JSONValue(parsing: Array(try json(event).utf8)))
        #expect(
            text.contains("state         dead\nreason        it \\x1b[2J failed\n")
                && text.contains("since         1970-01-01T00:00:00.001Z\n"))
    }

    @Test func theWayRoundStandsBelowItsEdge() throws {
        var other = loop
        other.cycle = []
        let loops = try JSONValue(parsing: Array("[\(try json(other)),\(try json(loop)),\(try json(other))]".utf8)).elements
        let lines = Loops.table(loops).split(separator: "\n")
        #expect(lines.count == 5 && lines[2].hasPrefix("bucket:photos/in/ -> acme/thumbnail  broken      1,000      37  "))
        #expect(lines[3] == "  photos/in/a.jpg -> thumbnail -> photos/in/thumb-a.jpg -> thumbnail -> ...")
        other.way = ["photos/in/a\u{202e}.jpg", "thumbnail", "photos/in/thumb-a.jpg", "thumbnail"]
        let shown = Loops.table([try JSONValue(parsing: Array(try json(other).utf8))]).split(separator: "\n")
        #expect(shown.last == "  photos/in/a\\u{202e}.jpg -> thumbnail -> photos/in/thumb-a.jpg -> thumbnail")
    }
}

@Suite struct EventParsingTests {
    private func parse<C: ParsableCommand>(_ line: String, as type: C.Type = C.self) throws -> C {
        let words = CommandLineWords.normalized(line.split(separator: " ").map(String.init))
        return try #require(try Bulkhead.parseAsRoot(words) as? C)
    }

    @Test func commands() throws {
        let list: EventsList = try parse("--state /n events acme/f --status dead --limit 5 --json")
        #expect(list.node.state == "/n" && list.node.json && list.list.target == "acme/f" && list.status == "dead" && list.list.limit == 5)
        #expect(try parse("--json events", as: EventsList.self).node.json)
        #expect(try parse("--state /n events show \(id) --payload", as: EventsShow.self).payload)
        #expect(try parse("events stop \(id) --tenant acme", as: EventsStop.self).tenant == "acme")
        #expect(try parse("dead-letters", as: DeadLettersList.self).list.target == nil)
        #expect(try parse("dead-letters redrive acme/f --rate 10/s", as: DeadLettersRedrive.self).rate == "10/s")
        #expect(try parse("--json dead-letters purge acme --all", as: DeadLettersPurge.self).letters.all)
        #expect(try parse("loops", as: LoopsList.self).tenant == nil)
        let resume: LoopsResume = try parse("loops resume acme/f/t --mode replay --count 5 --rate 1/m")
        #expect(resume.edge == "acme/f/t" && resume.count == 5 && resume.rate == "1/m")
        #expect(try parse("triggers acme", as: Triggers.self).target == "acme")
        let invoke: Invoke = try parse("invoke acme/f --async --delay 30s --idempotency-key K")
        #expect(invoke.delay == "30s" && invoke.idempotencyKey == "K")
    }

    @Test(arguments: [
        "events --limit 0", "events show", "events stop", "dead-letters redrive", "loops resume acme/f/t",
        "loops resume acme/f/t --mode drop",
        "loops resume acme/f/t --mode keep --count 1", "loops resume acme/f/t --mode replay --count 0", "invoke a/b --delay 30s",
        "invoke a/b --idempotency-key K", "invoke a/b --async --delay 5", "invoke a/b --async --idempotency-key=",
    ])
    func mistakes(line: String) { #expect(throws: (any Error).self) { try parse(line, as: Invoke.self) } }

    @Test func rates() throws {
        #expect(try RateArgument.perSecond("10/s", option: "--rate") == 10 && RateArgument.perSecond("6/m", option: "--rate") == 0.1)
        for text in ["", "0/s", "-1/s", "1", "1/day", "1.5/s", "9999999/s"] {
            #expect(throws: Failure.self) { try RateArgument.perSecond(text, option: "--rate") }
        }
    }
}

/// The built command against a stub of the node.
@Suite(.enabled(if: StubNode.isAvailable && CommandRun.isAvailable, "needs /usr/bin/python3 and the built command"), .serialized)
struct EventRunTests {
    private func run(_ reply: StubNode.Reply, _ arguments: [String]) throws -> (CommandRun, [StubNode.Request]) {
        let node = try StubNode(reply)
        let result = try CommandRun(["--state", node.folder.path] + arguments, in: node.folder)
        return (result, try node.requests())
    }

    @Test func pagesAreFollowedToTheEndAndPrintedAsOneArray() throws {
        let pages = [
            EventPageReply(events: [event], next: "a b"), EventPageReply(events: [], next: "c"), EventPageReply(events: [event, event]),
        ]
        let reply = StubNode.Reply(routes: ["GET /v1/tenants/acme/events": try pages.map { StubNode.Reply(body: try json($0)) }])
        let (result, requests) = try run(reply, ["events", "acme/f", "--status", "dead", "--json"])
        let printed = try JSONDecoder().decode([EventReply].self, from: Data(result.output.utf8))
        #expect(result.code == 0 && printed == [event, event, event])
        #expect(
            requests.map(\.path) == [
                "/v1/tenants/acme/events?limit=100&function=f&state=dead",
                "/v1/tenants/acme/events?limit=99&function=f&state=dead&after=a%20b",
                "/v1/tenants/acme/events?limit=99&function=f&state=dead&after=c",
            ])
        let (limited, one) = try run(StubNode.Reply(body: try json(pages[0])), ["dead-letters", "--limit", "1"])
        #expect(
            one.map(\.path) == ["/v1/dead-letters?limit=1"] && limited.output.contains("it \\x1b[2J failed")
                && !limited.output.contains("\u{1b}"))
    }

    @Test func singleEventsAreShownAndStopped() throws {
        let (shown, first) = try run(StubNode.Reply(body: try json(event)), ["events", "show", id, "--tenant", "acme", "--json"])
        #expect(first.first?.path == "/v1/tenants/acme/invocations/" + id)
        #expect(try JSONDecoder().decode(EventReply.self, from: Data(shown.output.utf8)) == event)
        let (payload, second) = try run(StubNode.Reply(body: "raw\u{1b}"), ["dead-letters", "show", id, "--payload"])
        #expect(second.first?.path == "/v1/events/\(id)/payload" && payload.output == "raw\u{1b}")
        let (stopped, third) = try run(StubNode.Reply(body: try json(event)), ["events", "stop", id])
        #expect(third.first?.method == "DELETE" && third.first?.path == "/v1/invocations/" + id && stopped.output == "\(id) is dead\n")
        let (wrong, none) = try run(StubNode.Reply(), ["events", "show", "xyz"])
        #expect(wrong.code == 2 && none.isEmpty)
    }

    @Test func deadLettersAreNamedInOneWay() throws {
        let reply = StubNode.Reply(body: try json(RedriveReply(redriven: 2, scheduled: 3)))
        func sent(_ words: String) throws -> (CommandRun, StubNode.Request?, DeadLetterRequest?) {
            let (result, requests) = try run(reply, words.split(separator: " ").map(String.init))
            return (
                result, requests.first, try requests.first.map { try JSONDecoder().decode(DeadLetterRequest.self, from: Data($0.bytes)) }
            )
        }
        let (result, request, body) = try sent("dead-letters redrive acme/f --rate 10/s")
        #expect(request?.path == "/v1/tenants/acme/dead-letters/redrive" && body == DeadLetterRequest(function: "f", ratePerSecond: 10))
        #expect(result.output == "Redriven: 2, and 3 more at the rate\n")
        #expect(try sent("dead-letters purge acme --all").2 == DeadLetterRequest(all: true))
        let (_, ids, many) = try sent("dead-letters purge \(id) \(id)")
        #expect(ids?.path == "/v1/dead-letters/purge" && many == DeadLetterRequest(ids: [id, id]))
        for wrong in ["acme", "acme/f --all", "acme/f \(id)", "\(id) --all", "acme/f@2", "x y"] {
            let (result, request, _) = try sent("dead-letters purge " + wrong)
            #expect(result.code == 2 && request == nil, "\(wrong)")
        }
    }

    @Test func loopsAreDrawnAndResumed() throws {
        let (shown, _) = try run(StubNode.Reply(body: "[\(try json(loop))]"), ["loops", "show", "acme/thumbnail/bucket-1"])
        #expect(
            shown.output.contains("  photos/in/a.jpg -> thumbnail")
                && shown.output.contains("bulkhead loops resume acme/thumbnail/bucket-1 --mode keep\n"))
        let (absent, _) = try run(StubNode.Reply(body: "[]"), ["loops", "show", "acme/thumbnail/bucket-1"])
        #expect(absent.code == 2 && absent.error.contains("bulkhead loops"))
        let (resumed, requests) = try run(
            StubNode.Reply(body: try json(loop)), ["loops", "resume", "acme/thumbnail/bucket-1", "--mode", "replay", "--rate", "10/s"])
        #expect(requests.first?.path == "/v1/tenants/acme/loops/resume")
        let body = try JSONDecoder().decode(LoopResumeRequest.self, from: Data(try #require(requests.first).bytes))
        #expect(body == LoopResumeRequest(edge: "acme/thumbnail/bucket-1", mode: "replay", ratePerSecond: 10))
        #expect(resumed.output == "acme/thumbnail/bucket-1 is broken; 37 events are parked\n")
        let (wrong, none) = try run(StubNode.Reply(), ["loops", "resume", "acme/f", "--mode", "keep"])
        #expect(wrong.code == 2 && none.isEmpty)
    }

    @Test func anAcceptedInvocationPrintsItsID() throws {
        let reply = StubNode.Reply(status: 202, headers: ["Content-Type": "application/json"], body: try json(AcceptedReply(id: id)))
        let words = ["invoke", "acme/f", "--data", "x", "--async", "--delay", "30s", "--idempotency-key", "K"]
        let (plain, requests) = try run(reply, words)
        #expect(plain.output == id + "\n" && plain.code == 0)
        let headers = try #require(requests.first).headers
        #expect(headers["bulkhead-invocation-type"] == "async" && headers["bulkhead-delay"] == "30s" && headers["idempotency-key"] == "K")
        let (whole, _) = try run(reply, words + ["--json"])
        #expect(try JSONDecoder().decode(AcceptedReply.self, from: Data(whole.output.utf8)) == AcceptedReply(id: id))
    }

    @Test(arguments: [(404, "notFound", Int32(2)), (508, "loop", 3), (501, "unsupported", 1)])
    func refusalsHaveTheirExitStatus(status: Int, code: String, exit: Int32) throws {
        let body = "{\"status\":\(status),\"code\":\"\(code)\",\"title\":\"t\",\"detail\":\"no\"}"
        let reply = StubNode.Reply(status: status, headers: ["Content-Type": "application/problem+json"], body: body)
        for words in [["events"], ["events", "stop", id], ["loops"], ["triggers"], ["dead-letters", "purge", id]] {
            #expect(try run(reply, words).0.code == exit, "\(words)")
        }
    }
}
