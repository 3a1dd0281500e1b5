// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc
import Testing

/// The commands of the operator against a stub of the node.
@Suite(.enabled(if: StubNode.isAvailable && CommandRun.isAvailable, "needs /usr/bin/python3 and the built command"), .serialized)
struct CeilingRunTests {
    private static let changes = """
        {"applied":true,"changes":[{"tenant":"acme","key":"quota.rate","before":"none","after":"5/s"}]}
        """
    private static let refusal = """
        {"status":422,"code":"configuration","title":"t","detail":"the configuration has a mistake",\
        "errors":["tenants.d/acme.yaml:5:9: `rate` must be written as a rate"]}
        """

    private func json(_ body: String, status: Int = 200) -> StubNode.Reply { StubNode.Reply(status: status, body: body) }

    /// A node whose configuration is `STATE/etc`, read through a copy, with one tenant.
    private func node(_ reload: StubNode.Reply) throws -> StubNode {
        let node = try StubNode { top in
            var reply = StubNode.Reply(watches: top + "/data/config/tenants.d")
            reply.routes = ["GET /v1/version": [json("{\"version\":\"1\",\"runtimes\":[]}")], "POST /v1/reload": [reload]]
            return reply
        }
        try node.folder.write("tenant: acme\n# kept\nquota: {queue: 7}\n", to: "etc/tenants.d/acme.yaml")
        try node.folder.write(node.folder.path + "/etc\n", to: "config.source")
        try node.folder.write("", to: "data/version")
        try node.folder.write("tenant: acme\n", to: "before/tenants.d/acme.yaml")
        try ConfigurationCopy(state: node.folder.path, source: node.folder.path + "/before").install(
            daemonUID: geteuid(), daemonGID: getegid())
        return node
    }

    private func run(_ node: StubNode, _ arguments: String...) throws -> CommandRun {
        try CommandRun(["--state", node.folder.path] + arguments, in: try TemporaryFolder())
    }

    @Test func quotaSetChangesTheFileAndReloads() throws {
        let node = try node(json(Self.changes))
        let result = try run(node, "quota", "set", "acme", "rate=5/s")
        #expect(result.code == 0 && result.error == "")
        #expect(result.output == "TENANT  KEY         BEFORE  AFTER\nacme    quota.rate  none    5/s\n")
        let text = "tenant: acme\n# kept\nquota: {queue: 7, rate: 5/s}\n"
        #expect(try node.folder.read("etc/tenants.d/acme.yaml") == text)
        let reload = try #require(try node.requests().last)
        #expect(
            reload.method == "POST" && reload.path == "/v1/reload" && String(decoding: reload.bytes, as: UTF8.self) == "{\"dryRun\":false}")
        #expect(reload.watched?.hasSuffix(text) == true, "the daemon's copy is there before it reads it")
    }

    @Test func aRefusedQuotaLeavesEverythingAsItWas() throws {
        let node = try node(json(Self.refusal, status: 422))
        let before = try node.folder.read("etc/tenants.d/acme.yaml")
        let result = try run(node, "quota", "set", "acme", "rate=nonsense")
        #expect(result.code == 2 && result.output == "")
        #expect(result.error.hasPrefix("bulkhead: Nothing was changed, tenants.d/acme.yaml is as it was: "))
        #expect(result.error.contains("tenants.d/acme.yaml:5:9: `rate` must be written as a rate"))
        #expect(try node.folder.read("etc/tenants.d/acme.yaml") == before)
        #expect(try node.folder.copiedTenant("acme") == "tenant: acme\n")
        #expect(try node.requests().last?.watched?.contains("rate: nonsense") == true, "the node did see it")
        let document = try run(node, "quota", "set", "acme", "rate=nonsense", "--json")
        #expect(try JSONSerialization.jsonObject(with: Data(document.error.utf8)) is [String: Any])
    }

    @Test func aNodeThatDoesNotAnswerTheReloadIsNotTrusted() throws {
        var broken = json("0123456789")
        broken.breaksAfter = 3
        let node = try node(broken)
        let result = try run(node, "quota", "set", "acme", "rate=5/s")
        #expect(result.code == 4 && result.error.contains("is as it was, but whether the node took the change is not known"))
        #expect(try node.folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\n# kept\nquota: {queue: 7}\n")
    }

    @Test func nothingIsWrittenOfWordsThatMeanNothing() throws {
        let node = try node(json(Self.changes))
        for words in [
            ["acme", "speed=5"], ["acme", "rate"], ["Acme", "rate=5/s"], ["beta", "rate=5/s"], ["acme", "rate=1/s", "rate=2/s"],
        ] {
            let result = try CommandRun(["--state", node.folder.path, "quota", "set"] + words, in: try TemporaryFolder())
            #expect(result.code == 2, "\(words)")
        }
        #expect(try !node.requests().contains { $0.method == "POST" })
        #expect(try node.folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\n# kept\nquota: {queue: 7}\n")
    }

    @Test func quotaSetWaitsForWhoeverChangesTheConfiguration() throws {
        let node = try node(json(Self.changes))
        let folder = try ConfigurationFolder.locate(state: node.folder.path, reported: nil)
        var lock = try folder.lock()
        let run = try ChildProgram([CommandRun.executable, "quota", "set", "acme", "rate=5/s", "--state", node.folder.path])
        while try node.requests().isEmpty { usleep(10_000) }
        // It has asked where the configuration is; without the lock it would be done in a few milliseconds.
        usleep(500_000)
        #expect(try node.requests().count == 1)
        withExtendedLifetime(lock) {}
        try node.folder.write("tenant: acme\nweight: 9\n", to: "etc/tenants.d/acme.yaml")
        lock = nil
        while try run.read() != nil {}
        #expect(run.wait() == 0)
        #expect(try node.folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 9\nquota:\n  rate: 5/s\n")
    }

    @Test func twoAtOnceBothHold() throws {
        var slow = json(Self.changes)
        slow.delay = 0.3
        let node = try node(slow)
        let runs = try ["rate=5/s", "memory=1GiB", "weight=3"].map { word in
            try ChildProgram([CommandRun.executable, "quota", "set", "acme", word, "--state", node.folder.path], errors: "/dev/null")
        }
        for run in runs {
            while try run.read() != nil {}
            #expect(run.wait() == 0)
        }
        let text = try node.folder.read("etc/tenants.d/acme.yaml")
        for part in ["queue: 7", "rate: 5/s", "memory: 1GiB", "weight: 3", "# kept"] { #expect(text.contains(part), "\(text)") }
    }

    @Test func reloadShowsTheDifferenceAndADryRunLeavesTheCopy() throws {
        let node = try node(json(Self.changes))
        let dry = try run(node, "reload", "--dry-run")
        #expect(dry.code == 0 && dry.output.hasSuffix("Nothing was applied: this was a dry run.\n"))
        #expect(try node.requests().last?.watched?.contains("# kept") == true)
        #expect(String(decoding: try node.requests().last?.bytes ?? [], as: UTF8.self) == "{\"dryRun\":true}")
        #expect(try node.folder.copiedTenant("acme") == "tenant: acme\n")
        #expect(try run(node, "reload").code == 0)
        #expect(try node.folder.copiedTenant("acme")?.contains("# kept") == true)
        #expect(try run(node, "reload", "--json").output == Self.changes + "\n")
    }

    @Test func aRefusedReloadPutsTheCopyBack() throws {
        let node = try node(json(Self.refusal, status: 422))
        let result = try run(node, "reload")
        #expect(result.code == 2 && result.error.contains("acme.yaml:5:9"))
        #expect(try node.folder.copiedTenant("acme") == "tenant: acme\n")
    }

    @Test func quotaShow() throws {
        let quota = """
            {"tenant":"acme","weight":1,"concurrency":{"limit":50,"used":3},"queue":{"limit":9,"used":0},"memory":{"limit":1024,"used":0},\
            "processes":{"limit":5,"used":1},"cpu":2,"storage":{"limit":1024,"used":512},"budgets":[]}
            """
        let node = try StubNode { _ in
            var reply = StubNode.Reply(body: quota)
            reply.routes = ["GET /v1/tenants": [json("[{\"tenant\":\"acme\"},{\"tenant\":\"beta\"}]")]]
            return reply
        }
        #expect(try run(node, "quota", "show", "acme", "--json").output == quota + "\n")
        let all = try run(node, "quota", "show")
        #expect(all.output.split(separator: "\n").count == 3 && all.output.contains("3/50"))
        let paths = try node.requests().map(\.path)
        #expect(paths.suffix(3) == ["/v1/tenants", "/v1/tenants/acme/quota", "/v1/tenants/beta/quota"])
        let parsed = try JSONSerialization.jsonObject(with: Data(try run(node, "quota", "show", "--json").output.utf8)) as? [Any]
        #expect(parsed?.count == 2)
    }

    private func usageNode() throws -> StubNode {
        func row(_ tenant: String, _ start: Int) -> String {
            """
            [{"tenant":"\(tenant)","function":"f","start":\(start),"invocations":1812,"errors":2,"gbSeconds":12.5,"cpuSeconds":3.25,\
            "durationSeconds":99.125}]
            """
        }
        return try StubNode { _ in
            var reply = StubNode.Reply(status: 404)
            reply.routes = [
                "GET /v1/tenants": [json("[{\"tenant\":\"beta\"},{\"tenant\":\"acme\"}]")],
                "GET /v1/tenants/acme/usage": [json(row("acme", 1_767_225_600_000))], "GET /v1/tenants/beta/usage": [json(row("beta", 0))],
            ]
            return reply
        }
    }

    @Test func usageAsTableAndJSON() throws {
        let node = try usageNode()
        let table = try run(node, "usage", "--from", "2026-01-01", "--to", "2026-01-02", "--by", "day")
        #expect(
            table.output == """
                TENANT  FUNCTION  START                 INVOCATIONS  ERRORS    GB-S  CPU S  TIME S
                acme    f         2026-01-01T00:00:00Z        1,812       2  12.500   3.25   99.13
                beta    f                                     1,812       2  12.500   3.25   99.13

                """)
        #expect(
            try node.requests().map(\.path) == [
                "/v1/tenants", "/v1/tenants/acme/usage?from=1767225600000&to=1767312000000&by=day",
                "/v1/tenants/beta/usage?from=1767225600000&to=1767312000000&by=day",
            ])
        let one = try run(node, "usage", "--tenant", "acme", "--from", "-24h", "--json")
        let rows = try #require(try JSONSerialization.jsonObject(with: Data(one.output.utf8)) as? [[String: Any]])
        #expect(rows.count == 1 && rows[0]["invocations"] as? Int == 1812 && rows[0]["gbSeconds"] as? Double == 12.5)
        #expect(rows[0].count == 8)
        #expect(try node.requests().last?.path.hasSuffix("&by=function") == true)
    }

    @Test func usageAsCSVAndBill() throws {
        let node = try usageNode()
        #expect(
            try run(node, "usage", "--csv").output
                == "tenant,function,start,invocations,errors,gbSeconds,cpuSeconds,durationSeconds\r\n"
                + "acme,f,2026-01-01T00:00:00Z,1812,2,12.5,3.25,99.125\r\nbeta,f,,1812,2,12.5,3.25,99.125\r\n")
        #expect(
            try run(node, "usage", "--billing", "--csv", "--tenant", "beta").output
                == "tenant,function,requests,gbSeconds\r\nbeta,f,1812,12.5\r\n")
        #expect(
            try run(node, "usage", "--billing", "--json", "--tenant", "beta").output
                == "[{\"function\":\"f\",\"gbSeconds\":12.5,\"requests\":1812,\"tenant\":\"beta\"}]\n")
        let before = try node.requests().count
        for words in [["--from", "now", "--to", "-1h"], ["--from", "soon"], ["--tenant", "Acme"]] {
            #expect(try CommandRun(["usage", "--state", node.folder.path] + words, in: try TemporaryFolder()).code == 2, "\(words)")
        }
        #expect(try node.requests().count == before)
    }

    private func topNode() throws -> StubNode {
        func sample(_ count: Int) -> StubNode.Reply {
            json(
                """
                {"node":{"uptimeSeconds":60,"running":1,"queued":0,"workers":1,"memoryBytes":0,"memoryLimitBytes":1024,"cpuSeconds":1,\
                "invocations":\(count),"refusals":0},"tenants":[],"rows":[{"tenant":"acme","function":"f","running":1,"concurrency":5,"queued":0,\
                "workers":1,"invocations":\(count),"refusals":\(count),"cpuSeconds":1,"memoryBytes":0,"memoryLimitBytes":1024}]}
                """)
        }
        return try StubNode { _ in
            var reply = StubNode.Reply(status: 404)
            reply.routes = ["GET /v1/top": [sample(0), sample(1000)], "GET /v1/tenants/acme/top": [sample(0), sample(1000)]]
            return reply
        }
    }

    @Test func topPrintsOneTableWhereThereIsNoTerminal() throws {
        let node = try topNode()
        let result = try run(node, "top", "--interval", "0.2")
        #expect(result.code == 0 && !result.output.contains("\u{1b}"))
        let lines = result.output.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        #expect(lines.count == 3 && lines[2].prefix(2) == ["acme", "f"])
        // 1000 in 0.2 s and the time of two requests, which a busy machine makes longer.
        let rate = try #require(Double(lines[2][2]))
        #expect(rate > 5 && rate <= 5000 && lines[2][3] == lines[2][2])
        #expect(try node.requests().count == 2)
        let json = try run(node, "top", "--tenant", "acme", "--once", "--json", "--interval", "0.1")
        let object = try #require(try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any])
        #expect((object["rows"] as? [Any])?.count == 1)
    }

    @Test func topEndsCleanlyOnCtrlC() throws {
        let node = try topNode()
        // A shell starts a program in the background with SIGINT ignored; it is sent when the first line is there.
        let script = """
            "$0" top --json --interval 0.1 --state "$1" > "$1/lines" 2> "$1/errors" & top=$!
            while [ ! -s "$1/lines" ]; do sleep 0.05; done
            (sleep 20; kill -s KILL $top) > "$1/guard" 2>&1 & guard=$!
            kill -s INT $top; wait $top; echo "status $?"; kill $guard
            """
        let (output, _) = try ChildProgram.run(
            ["/bin/sh", "-c", script, CommandRun.executable, node.folder.path], environment: ["PATH=/usr/bin:/bin"])
        #expect(output == "status 0\n")
        #expect(try node.folder.read("errors") == "")
        #expect(try node.folder.read("lines").hasSuffix("\n"))
    }

    @Test func keysRotate() throws {
        let node = try StubNode(StubNode.Reply(status: 201, body: "{\"id\":\"k2\",\"key\":\"bk_new\"}"))
        #expect(try run(node, "keys", "rotate", "k1", "--tenant", "acme", "--grace", "1h").output == "bk_new\n")
        let request = try #require(try node.requests().last)
        #expect(request.method == "POST" && request.path == "/v1/tenants/acme/keys/k1/rotate")
        #expect(String(decoding: request.bytes, as: UTF8.self) == "{\"graceSeconds\":3600}")
        #expect(try run(node, "keys", "rotate", "k1", "--tenant", "acme", "--json").output == "{\"id\":\"k2\",\"key\":\"bk_new\"}\n")
        #expect(String(decoding: try node.requests().last?.bytes ?? [], as: UTF8.self) == "{\"graceSeconds\":86400}")
        #expect(try run(node, "keys", "rotate", "k1", "--tenant", "acme", "--grace", "soon").code == 2)
        #expect(try node.requests().count == 2)
    }
}
