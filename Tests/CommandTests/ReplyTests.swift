// SPDX-License-Identifier: Apache-2.0

import CommandKit
import ControlAPI
import Foundation
import Testing

@testable import bulkhead

/// Tables read the fields that the node writes: every cell of a whole reply is filled.
@Suite struct ReplyTests {
    private func cells(_ value: some Encodable, _ columns: [ListColumn]) throws -> [String] {
        let object = try JSONValue(parsing: [UInt8](try JSONEncoder().encode(value)))
        return columns.map { $0.cell(object) }
    }

    @Test func workers() throws {
        let reply = WorkerReply(
            worker: "w-1", tenant: "acme", function: "f", version: 2, runtime: "python3", state: "busy", pid: 1, uid: 700_000, cgroup: "c",
            startedAt: 1, served: 5, inFlight: 1, slots: 4, memoryBytes: 1 << 20, memoryLimitBytes: 1 << 27, cpuSeconds: 0.5, pids: 3,
            pidsLimit: 64)
        let row = try cells(reply, PS.columns)
        #expect(row.count == 10 && row.allSatisfy { !$0.isEmpty })
        #expect(row[2] == "f@2" && row[6] == "1/4" && row[7] == "1/128 MiB" && row[8] == "0.50" && row[9] == "3/64")
    }

    @Test func functionsAndVersions() throws {
        let function = FunctionReply(tenant: "acme", function: "f", latest: 3, runtime: "python3", memoryBytes: 1 << 27, deployedAt: 1)
        #expect(try cells(function, Functions.columns).allSatisfy { !$0.isEmpty })
        var version = VersionReply(
            tenant: "acme", function: "f", version: 3, runtime: "python3", memoryBytes: 1 << 27, codeBytes: 9, codeHash: "ab", createdAt: 1)
        version.aliases = ["latest"]
        #expect(try cells(version, Versions.columns).allSatisfy { !$0.isEmpty })
    }

    @Test func tenantsAndKeys() throws {
        let tenant = TenantReply(
            tenant: "acme", functions: 1, concurrency: 50, running: 2, queue: 100, queued: 0, workers: 2, memoryBytes: 4 << 30,
            memoryCommittedBytes: 1 << 30, cpuMilli: 1500, processes: 512)
        #expect(try cells(tenant, Tenants.columns) == ["acme", "1", "2", "2/50", "0/100", "1/4 GiB", "1.50", "512", "open"])
        let key = KeyReply(id: "k", key: nil, tenant: "acme", scopes: ["invoke", "deploy"], createdAt: 1, revoked: false, lastUsedAt: 1)
        let row = try cells(key, KeysList.columns)
        #expect(row[1] == "invoke, deploy" && row[3] == "no" && !row[2].isEmpty && !row[4].isEmpty)
        let fresh = KeyReply(id: "k", key: nil, tenant: "acme", scopes: [], createdAt: 1, revoked: false)
        #expect(try cells(fresh, KeysList.columns)[4] == "")
    }

    @Test func explanationsLogsAndPostures() throws {
        let explain = ExplainReply(
            invocation: "00ff", function: "acme/f@1", arrivedAt: 0,
            entries: [.init(afterNanoseconds: 1_500_000, decision: "started", detail: "cold")])
        let text = Explain.text(try JSONValue(parsing: [UInt8](try JSONEncoder().encode(explain))))
        #expect(text == "00ff of acme/f@1 arrived 1970-01-01T00:00:00.000Z\n AFTER  DECISION  DETAIL\n1.5 ms  started   cold\n")
        var log = LogReply(time: 0, function: "f", version: 1, worker: "w-1", invocation: "", stream: "stderr", level: "info", text: "a\nb")
        let line = LogFormat.line(try JSONValue(parsing: [UInt8](try JSONEncoder().encode(log))))
        #expect(line == "1970-01-01T00:00:00.000Z f@1 w-1 stderr a\\nb")
        log.tenant = "acme"
        let whose = LogFormat.line(try JSONValue(parsing: [UInt8](try JSONEncoder().encode(log))))
        #expect(whose == "1970-01-01T00:00:00.000Z acme/f@1 w-1 stderr a\\nb")
        #expect(try cells(PostureReply(name: "n", expected: "e", actual: "a", ok: false), Inspect.columns) == ["n", "e", "a", "no"])
    }

    @Test func quotas() throws {
        var reply = QuotaReply(
            tenant: "acme", weight: 2.5, concurrency: Gauge(limit: 50, used: 3), queue: Gauge(limit: 100, used: 7),
            memory: Gauge(limit: 4 << 30, used: 1 << 30), processes: Gauge(limit: 512, used: 9), cpu: 2,
            storage: Gauge(limit: 2 << 30, used: 1 << 20), rate: "200/s burst 400",
            budgets: [
                BudgetReply(
                    kind: "compute", period: "hour", zone: "Europe/Berlin", limit: 3600, spent: 12.25, reserved: 0.5, resetsAt: 3_600_000)
            ], users: UsersReply(concurrency: 5, active: 2))
        reply.buckets = Gauge(limit: 1 << 30, used: 3 << 20)
        #expect(
            try cells(reply, QuotaTable.columns) == [
                "acme", "2.5", "3/50", "7/100", "1/4 GiB", "9/512", "2", "0/2 GiB", "0/1 GiB", "200/s burst 400", "open",
                "12.25/3600 GB-s/hour",
            ])
        let text = QuotaTable.one(
            try JSONValue(parsing: [UInt8](try JSONEncoder().encode(reply))), now: Date(timeIntervalSince1970: 600))
        #expect(
            text == """
                Quota of acme
                CEILING             USED            LIMIT  NOTE
                concurrency            3               50
                queue                  7              100
                processes              9              512
                memory             1 GiB            4 GiB
                storage            1 MiB            2 GiB
                buckets            3 MiB            1 GiB
                cpu                                     2  processors
                rate                      200/s burst 400
                weight                                2.5
                budget.compute     12.25             3600  GB-s a hour, 0.5 reserved; resets in 50m (Europe/Berlin)
                users.concurrency                       5  each; 2 active
                users.rate                           none  each

                """)
    }

    @Test func theRatesOfTwoSamples() throws {
        func sample(_ invocations: UInt64, _ refusals: UInt64, _ cpu: Double, rows: [TopRow]) -> TopReply {
            TopReply(
                node: TopNode(
                    uptimeSeconds: 3600, running: 1, queued: 2, workers: 3, memoryBytes: 64 << 20, memoryLimitBytes: 256 << 20,
                    cpuSeconds: cpu, invocations: invocations, refusals: refusals), rows: rows)
        }
        func row(_ function: String, _ invocations: UInt64, _ cpu: Double) -> TopRow {
            TopRow(
                tenant: "acme", function: function, running: 1, concurrency: 20, queued: 2, workers: 3, invocations: invocations,
                refusals: 0, cpuSeconds: cpu, memoryBytes: 1 << 20, memoryLimitBytes: 1 << 27)
        }
        let view = TopView(
            from: sample(100, 10, 5, rows: [row("a", 10, 1), row("b", 50, 9)]),
            to: sample(120, 10, 8, rows: [row("a", 14, 2), row("b", 2, 0.5), row("new", 20, 4)]), seconds: 2)
        #expect(view.node.invocationsPerSecond == 10 && view.node.refusalsPerSecond == 0 && view.node.cpu == 1.5)
        #expect(view.rows.map(\.function) == ["new", "a", "b"])
        #expect(view.rows.map(\.invocationsPerSecond) == [10, 2, 0], "b began anew, new counted from zero")
        #expect(view.rows.map(\.cpu) == [2, 0.5, 0])
        #expect(
            view.table.hasPrefix(
                "up 1h  10.0 calls/s  0.0 refused/s  1 running  2 queued  3 workers  cpu 1.50  memory 64/256 MiB\nTENANT  FUNCTION  CALLS/S"
            ))
        #expect(view.table.contains("acme    new          10.0        0.0   1/20      2        3  2.00  1/128 MiB\n"))
        #expect(TopView(from: sample(0, 0, 0, rows: []), to: sample(5, 0, 0, rows: []), seconds: 0).node.invocationsPerSecond == 0)
        let screen = view.screen((lines: 5, columns: 12)).split(separator: "\n")
        #expect(screen.count == 4 && screen[0] == "up 1h  10.0 \u{1b}[K" && screen[3] == "... and 2 more\u{1b}[K")
    }

    @Test func topShowsTenantsAboveTheirFunctions() throws {
        func sample(_ invocations: UInt64, _ cpu: Double) -> TopReply {
            func tenant(_ name: String, _ invocations: UInt64, isSuspended: Bool) -> TopTenant {
                TopTenant(
                    tenant: name, suspended: isSuspended, running: 3, concurrency: 50, queued: 2, queue: 100, rate: "200/s", workers: 4,
                    invocations: invocations, refusals: invocations / 10, cpuSeconds: cpu, cpuLimit: 2, memoryBytes: 64 << 20,
                    memoryLimitBytes: 4 << 30)
            }
            return TopReply(
                node: TopNode(
                    uptimeSeconds: 60, running: 0, queued: 0, workers: 0, memoryBytes: 0, memoryLimitBytes: 0, cpuSeconds: 0,
                    invocations: 0,
                    refusals: 0),
                tenants: [tenant("acme", 0, isSuspended: true), tenant("globex", invocations, isSuspended: false)],
                rows: [
                    TopRow(
                        tenant: "globex", function: "f", running: 3, concurrency: 20, queued: 2, workers: 4, invocations: invocations,
                        refusals: 0, cpuSeconds: cpu, memoryBytes: 0, memoryLimitBytes: 0)
                ])
        }
        let view = TopView(from: sample(100, 1), to: sample(120, 2), seconds: 2)
        #expect(view.tenants.map(\.tenant) == ["globex", "acme"], "the busiest first")
        #expect(view.tenants[0].invocationsPerSecond == 10 && view.tenants[0].refusalsPerSecond == 1 && view.tenants[0].cpu == 0.5)
        let lines = view.table.split(separator: "\n", omittingEmptySubsequences: false).map {
            $0.split(separator: " ").joined(separator: " ")
        }
        #expect(lines[1] == "TENANT CALLS/S RATE REFUSED/S SEATS QUEUE WORKERS CPU MEMORY")
        #expect(lines[2] == "globex 10.0 200/s 1.0 3/50 2/100 4 0.50/2.00 0/4 GiB", "\(lines[2])")
        #expect(lines[3].hasPrefix("acme 0.0 suspended 0.0"))
        #expect(lines[4].isEmpty && lines[5].hasPrefix("TENANT FUNCTION") && lines[6].hasPrefix("globex f 10.0"))
        let object = try JSONValue(parsing: [UInt8](try JSONEncoder().encode(view)))
        #expect(object["tenants"].elements.map { $0["rate"].text } == ["200/s", "200/s"])
    }

    @Test func reloadsSayWhatChanges() throws {
        let reply = ReloadReply(
            applied: false,
            changes: [
                ReloadChange(tenant: "acme", key: "quota.rate", before: "none", after: "200/s"),
                ReloadChange(tenant: "", key: "workers", before: "500", after: "600"),
            ])
        let object = try JSONValue(parsing: [UInt8](try JSONEncoder().encode(reply)))
        #expect(
            Reload.text(object, dryRun: true) == """
                TENANT  KEY         BEFORE  AFTER
                acme    quota.rate  none    200/s
                (node)  workers     500     600
                Nothing was applied: this was a dry run.

                """)
        #expect(!Reload.text(object, dryRun: false).contains("dry run"))
        #expect(Reload.text(.null, dryRun: true) == "Nothing changed.\n")
    }

    @Test func aRefusedConfigurationIsShownWithItsPlaces() throws {
        var problem = Problem(code: "configuration", title: "t", status: 422, detail: "the configuration has 2 mistakes")
        problem.errors = ["tenants.d/acme.yaml:2:9: bad \u{1b}[2J", "bulkhead.yaml:1:1: worse"]
        let failure = NodeClient.failure(status: 422, body: [UInt8](try JSONEncoder().encode(problem)))
        #expect(failure.status == .usage)
        #expect(
            failure.sentence == """
                the configuration has 2 mistakes; mend it; until then the node runs on as before.
                  tenants.d/acme.yaml:2:9: bad \\x1b[2J
                  bulkhead.yaml:1:1: worse
                """)
    }

    @Test func problemsBecomeSentences() throws {
        var problem = Problem(code: "throttled", title: "t", status: 429, detail: "tenant acme is at its limit of concurrency: 50 of 50.")
        problem.retryAfter = 1.2
        let failure = NodeClient.failure(status: 429, body: [UInt8](try JSONEncoder().encode(problem)))
        #expect(failure.status == .refused)
        #expect(failure.sentence == "tenant acme is at its limit of concurrency: 50 of 50; try again in 2s.")
        #expect(NodeClient.failure(status: 502, body: []).status == .failed)
        for end in [": ", ".", ";", ""] {
            let problem = Problem(code: "functionError", title: "t", status: 500, detail: "acme/f reported an error: ValueError" + end)
            let sentence = NodeClient.failure(status: 500, body: [UInt8](try JSONEncoder().encode(problem))).sentence
            #expect(sentence.hasPrefix("acme/f reported an error: ValueError; see what it wrote"), "\(sentence)")
        }
    }
}
