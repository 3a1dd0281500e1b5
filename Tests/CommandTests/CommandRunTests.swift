// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc
import Testing

/// The built command against a stub of the node.
@Suite(.enabled(if: StubNode.isAvailable && CommandRun.isAvailable, "needs /usr/bin/python3 and the built command"), .serialized)
struct CommandRunTests {
    private func run(_ reply: StubNode.Reply, _ arguments: [String], input: String = "") throws -> (CommandRun, [StubNode.Request]) {
        let node = try StubNode(reply)
        let result = try CommandRun(["--state", node.folder.path] + arguments, input: input, in: node.folder)
        return (result, try node.requests())
    }

    private static let version = """
        {"tenant":"acme","function":"f","version":3,"runtime":"python3","memoryBytes":1,"codeBytes":2,"codeHash":"ab","createdAt":0}
        """

    private func problem(_ status: Int, _ code: String, _ detail: String) -> StubNode.Reply {
        StubNode.Reply(
            status: status, headers: ["Content-Type": "application/problem+json"],
            body: "{\"status\":\(status),\"code\":\"\(code)\",\"title\":\"t\",\"detail\":\"\(detail)\"}")
    }

    @Test func invokeWritesTheBodyUnchanged() throws {
        let body = "raw \u{1b}[31m\u{0}\nno line break at the end"
        let (result, requests) = try run(StubNode.Reply(body: body), ["invoke", "acme/f", "--data", "{\"a\":1}", "--header", "X-A=b"])
        #expect(result.output == body)
        #expect(result.error == "")
        #expect(result.code == 0)
        let request = try #require(requests.first)
        #expect(requests.count == 1)
        #expect(request.method == "POST")
        #expect(request.path == "/v1/tenants/acme/functions/f/invocations")
        #expect(request.bytes == Array("{\"a\":1}".utf8))
        #expect(request.headers["x-a"] == "b")
        #expect(request.headers["content-type"] == "application/json")
    }

    @Test func invokeReadsStandardInputAndFiles() throws {
        let (_, piped) = try run(StubNode.Reply(), ["invoke", "acme/f:stable", "--async", "--tail"], input: "from stdin")
        let request = try #require(piped.first)
        #expect(request.bytes == Array("from stdin".utf8))
        #expect(request.path == "/v1/tenants/acme/functions/f/invocations?alias=stable")
        #expect(request.headers["bulkhead-invocation-type"] == "async")
        #expect(request.headers["bulkhead-log"] == "tail")
        let (_, filed) = try run(StubNode.Reply(), ["invoke", "acme/f@3", "--data", "@/etc/hostname"])
        #expect(filed.first?.bytes == (try [UInt8](Data(contentsOf: URL(fileURLWithPath: "/etc/hostname")))))
        let (missing, none) = try run(StubNode.Reply(), ["invoke", "acme/f", "--data", "@/no/such/file"])
        #expect(missing.code == 2)
        #expect(missing.error.contains("/no/such/file"))
        #expect(none.isEmpty)
    }

    @Test(arguments: [
        (500, "functionError", Int32(1)), (404, "notFound", 2), (429, "throttled", 3), (503, "overloaded", 3), (508, "loop", 3),
        (504, "timedOut", 5),
        (408, "timedOut", 5), (507, "outOfMemory", 1), (502, "crashed", 1),
    ])
    func failuresHaveTheirExitStatus(status: Int, code: String, exit: Int32) throws {
        let reply = problem(status, code, "it broke \\u001b[2J; mend it")
        let (plain, _) = try run(reply, ["invoke", "acme/f"])
        #expect(plain.code == exit)
        #expect(plain.output == "")
        #expect(plain.error.hasPrefix("bulkhead: it broke \\x1b[2J; mend it; "))
        #expect(plain.error.split(separator: "\n").count == 1)
        let (json, _) = try run(reply, ["invoke", "acme/f", "--json"])
        #expect(json.code == exit)
        let object = try #require(try JSONSerialization.jsonObject(with: Data(json.error.utf8)) as? [String: Any])
        #expect(object["code"] as? String == code)
        #expect(!json.error.contains("\u{1b}"))
    }

    @Test func anAnswerThatIsNoProblemIsStillExplained() throws {
        let (result, _) = try run(StubNode.Reply(status: 500, body: "<html>"), ["invoke", "acme/f", "--json"])
        #expect(result.code == 1)
        #expect(try JSONSerialization.jsonObject(with: Data(result.error.utf8)) is [String: Any])
    }

    @Test func tailGoesToStandardError() throws {
        let (result, _) = try run(StubNode.Reply(headers: ["Bulkhead-Log": "line 1\\nline 2"], body: "x"), ["invoke", "acme/f", "--tail"])
        #expect(result.output == "x")
        #expect(result.error == "line 1\nline 2\n")
    }

    @Test func aFunctionsOwnStatusIsAnAnswer() throws {
        let reply = StubNode.Reply(status: 404, headers: ["Bulkhead-Invocation-Id": "00"], body: "no such page")
        let (result, _) = try run(reply, ["invoke", "acme/f"])
        #expect(result.output == "no such page")
        #expect(result.code == 1)
        #expect(result.error.contains("HTTP status 404"))
    }

    @Test func aNodeThatDiesInTheMiddleIsSaid() throws {
        let (result, _) = try run(StubNode.Reply(body: "0123456789", breaksAfter: 4), ["invoke", "acme/f"])
        #expect(result.code == 4)
        #expect(result.error.contains("broke off"))
    }

    @Test func noNodeIsSaid() throws {
        let folder = try TemporaryFolder()
        let absent = try CommandRun(["ps", "--state", folder.path + "/none"], in: folder)
        #expect(absent.code == 4)
        #expect(absent.error.contains("bulkhead up --state"))
        try FileManager.default.createDirectory(atPath: folder.path + "/run", withIntermediateDirectories: false)
        try folder.write("", to: "run/control.sock")
        let stale = try CommandRun(["ps", "--json"], environment: ["BULKHEAD_STATE=\(folder.path)"], in: folder)
        #expect(stale.code == 4)
        #expect(stale.error.contains("\"code\":\"unreachable\""))
    }

    @Test func psShowsATable() throws {
        let worker = """
            [{"worker":"w-7f3a","tenant":"acme","function":"thumbnail","version":7,"state":"busy","pid":10,"uid":700000,"cgroup":"c",\
            "startedAt":0,"served":1812,"inFlight":1,"slots":1,"memoryBytes":67108864,"memoryLimitBytes":268435456,\
            "cpuSeconds":0.425,"pids":3,"pidsLimit":64}]
            """
        let (table, requests) = try run(StubNode.Reply(body: worker), ["ps"])
        #expect(table.code == 0)
        let lines = table.output.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }
        #expect(lines[0] == "WORKER TENANT FUNCTION STATE UP SERVED IN FLIGHT MEMORY CPU PIDS")
        #expect(lines[1].hasPrefix("w-7f3a acme thumbnail@7 busy "))
        #expect(lines[1].hasSuffix(" 1,812 1/1 64/256 MiB 0.42 3/64"))
        #expect(requests.first?.method == "GET")
        let (json, _) = try run(StubNode.Reply(body: worker), ["ps", "--json"])
        #expect(json.output == worker + "\n")
    }

    @Test func inspectFailsWhereThereIsAHole() throws {
        let sealed =
            "{\"worker\":\"w-1\",\"score\":0,\"holes\":[],\"checks\":"
            + "[{\"name\":\"seccomp\",\"expected\":\"2\",\"actual\":\"2\",\"ok\":true}]}"
        let (good, _) = try run(StubNode.Reply(body: sealed), ["inspect", "w-1"])
        #expect(good.code == 0)
        #expect(good.output == "CHECK    EXPECTED  ACTUAL  HELD\nseccomp  2         2       yes\nNo hole found.\n")
        let open = "{\"worker\":\"w-1\",\"score\":1,\"holes\":[\"seccomp is off\"],\"checks\":[]}"
        let (bad, _) = try run(StubNode.Reply(body: open), ["inspect", "w-1"])
        #expect(bad.code == 1)
        #expect(bad.output.contains("seccomp is off"))
        let (wrong, none) = try run(StubNode.Reply(body: open), ["inspect", "worker1"])
        #expect(wrong.code == 2)
        #expect(none.isEmpty)
    }

    @Test func logsAreEscaped() throws {
        let line =
            "{\"time\":0,\"function\":\"f\",\"version\":2,\"worker\":\"w-1\","
            + "\"stream\":\"stdout\",\"text\":\"\\u001b]0;evil\\u0007 \\u009b ok\"}"
        let (result, requests) = try run(StubNode.Reply(body: line + "\n"), ["logs", "acme/f@2", "--tail", "5"])
        #expect(result.output == "1970-01-01T00:00:00.000Z f@2 w-1 stdout \\x1b]0;evil\\x07 \\u{9b} ok\n")
        #expect(requests.first?.path.contains("tail=5") == true)
    }

    @Test func logsOfAllTenantsSayWhoseTheyAreAndThatThereMayBeMore() throws {
        let line =
            "{\"time\":0,\"tenant\":\"acme\",\"function\":\"f\",\"version\":2,\"worker\":\"w-1\",\"stream\":\"stdout\",\"text\":\"a\"}\n"
        let (all, requests) = try run(StubNode.Reply(body: line), ["logs"])
        #expect(all.output == "1970-01-01T00:00:00.000Z acme/f@2 w-1 stdout a\n" && all.error == "" && all.code == 0)
        #expect(requests.map(\.path) == ["/v1/logs?tail=100"])
        let more = StubNode.Reply(headers: ["Bulkhead-Log-More": "true"], body: line)
        let (cut, asked) = try run(more, ["logs", "--json", "--since", "1970-01-01", "--level", "error"])
        #expect(cut.output == line && cut.code == 0)
        #expect(cut.error.contains("these may not be all") && cut.error.contains("(--since, --until), a tenant."), "\(cut.error)")
        #expect(asked.map(\.path) == ["/v1/logs?since=0&level=error&tail=10000"], "one answer, and not the same again")
        #expect(try run(more, ["logs", "--tail", "1"]).0.error.contains("a higher --tail"))
        #expect(try !run(more, ["logs", "--tail", "5"]).0.error.contains("--tail"), "it is not for their number")
        for (words, said) in [
            (["logs", "-f"], "-f follows one tenant or function: name it"), (["logs", "--invocation", "x"], "--invocation is"),
            (["logs", "--since", "now", "--until", "-1m"], "--until '-1m' is before"), (["logs", "--since", "x"], "--since"),
        ] {
            let (refused, none) = try run(StubNode.Reply(), words)
            #expect(refused.code == 2 && refused.error.contains(said) && none.isEmpty, "\(words): \(refused.error)")
        }
    }

    @Test func deployStreamsTheFolder() throws {
        let folder = try TemporaryFolder()
        try folder.write("function: f\n", to: "f/function.yaml")
        try folder.write(String(repeating: "x", count: 300_000), to: "f/data")
        try folder.write("secret", to: "f/.git/config")
        let reply = StubNode.Reply(status: 201, body: Self.version)
        let (result, requests) = try run(reply, ["deploy", folder.path + "/f", "--tenant", "acme"])
        #expect(result.output == "acme/f@3\n")
        #expect(result.error == "")
        let request = try #require(requests.first)
        #expect(request.method == "PUT")
        #expect(request.headers["transfer-encoding"] == "chunked")
        try Data(request.bytes).write(to: URL(fileURLWithPath: folder.path + "/sent.tar"))
        let listed = try ChildProgram.run(["/usr/bin/tar", "-tf", folder.path + "/sent.tar"])
        #expect(listed.output.split(separator: "\n").sorted() == ["./", "./data", "./function.yaml"])
    }

    @Test func deployOfAnArchiveSendsItAsItIs() throws {
        let folder = try TemporaryFolder()
        try folder.write("zipped", to: "f.zip")
        let reply = StubNode.Reply(status: 201, body: Self.version)
        let (result, requests) = try run(reply, ["deploy", folder.path + "/f.zip", "--tenant", "acme", "--json"])
        #expect(result.code == 0)
        #expect(requests.first?.bytes == Array("zipped".utf8))
        #expect(requests.first?.headers["content-type"] == "application/zip")
    }

    @Test(.enabled(if: geteuid() == 0, "a folder that cannot be read needs another user")) func nothingIsSentOfNoFunction() throws {
        let (result, requests) = try run(StubNode.Reply(), ["deploy", "/etc", "--tenant", "acme"])
        #expect(result.code == 2)
        #expect(result.error.contains("function.yaml"))
        #expect(requests.isEmpty)
    }

    @Test func usageErrorsExitWithTwo() throws {
        let folder = try TemporaryFolder()
        for arguments in [["nonsense"], ["invoke"], ["ps", "--bad"], ["invoke", "Acme/f"], ["up"], ["keys", "create"]] {
            let result = try CommandRun(arguments, in: folder)
            #expect(result.code == 2, "\(arguments)")
            #expect(result.output == "")
            #expect(!result.error.isEmpty)
        }
        let json = try CommandRun(["--json", "ps", "--bad"], in: folder)
        #expect(try JSONSerialization.jsonObject(with: Data(json.error.utf8)) is [String: Any])
        let help = try CommandRun(["--help"], in: folder)
        #expect(help.code == 0 && help.output.contains("Exit status"))
    }

    @Test func keysArePrintedOnce() throws {
        let (plain, requests) = try run(
            StubNode.Reply(status: 201, body: "{\"id\":\"k1\",\"key\":\"bk_secret\"}"),
            ["keys", "create", "--tenant", "acme", "--scope", "invoke"])
        #expect(plain.output == "bk_secret\n")
        #expect(requests.first?.method == "POST")
        let (json, _) = try run(
            StubNode.Reply(status: 201, body: "{\"id\":\"k1\",\"key\":\"s\"}"), ["keys", "create", "--tenant", "acme", "--json"])
        #expect(json.output == "{\"id\":\"k1\",\"key\":\"s\"}\n")
    }
}
