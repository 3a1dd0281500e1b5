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
        let version = VersionReply(
            tenant: "acme", function: "f", version: 3, runtime: "python3", memoryBytes: 1 << 27, codeBytes: 9, codeHash: "ab", createdAt: 1)
        #expect(try cells(version, Versions.columns).allSatisfy { !$0.isEmpty })
    }

    @Test func tenantsAndKeys() throws {
        let tenant = TenantReply(
            tenant: "acme", functions: 1, concurrency: 50, running: 2, queue: 100, queued: 0, workers: 2, memoryBytes: 4 << 30,
            memoryCommittedBytes: 1 << 30, cpuMilli: 1500, processes: 512)
        #expect(try cells(tenant, Tenants.columns) == ["acme", "1", "2", "2/50", "0/100", "1/4 GiB", "1.50", "512"])
        let key = KeyReply(id: "k", key: nil, tenant: "acme", scopes: ["invoke", "deploy"], createdAt: 1, revoked: false)
        let row = try cells(key, KeysList.columns)
        #expect(row[1] == "invoke, deploy" && row[3] == "no" && !row[2].isEmpty)
    }

    @Test func explanationsLogsAndPostures() throws {
        let explain = ExplainReply(
            invocation: "00ff", function: "acme/f@1", arrivedAt: 0,
            entries: [.init(afterNanoseconds: 1_500_000, decision: "started", detail: "cold")])
        let text = Explain.text(try JSONValue(parsing: [UInt8](try JSONEncoder().encode(explain))))
        #expect(text == "00ff of acme/f@1 arrived 1970-01-01T00:00:00.000Z\n AFTER  DECISION  DETAIL\n1.5 ms  started   cold\n")
        let log = LogReply(time: 0, function: "f", version: 1, worker: "w-1", invocation: "", stream: "stderr", level: "info", text: "a\nb")
        let line = LogFormat.line(try JSONValue(parsing: [UInt8](try JSONEncoder().encode(log))))
        #expect(line == "1970-01-01T00:00:00.000Z f@1 w-1 stderr a\\nb")
        #expect(try cells(PostureReply(name: "n", expected: "e", actual: "a", ok: false), Inspect.columns) == ["n", "e", "a", "no"])
    }

    @Test func problemsBecomeSentences() throws {
        var problem = Problem(code: "throttled", title: "t", status: 429, detail: "tenant acme is at its limit of concurrency: 50 of 50.")
        problem.retryAfter = 1.2
        let failure = NodeClient.failure(status: 429, body: [UInt8](try JSONEncoder().encode(problem)))
        #expect(failure.status == .refused)
        #expect(failure.sentence == "tenant acme is at its limit of concurrency: 50 of 50; try again in 2s.")
        #expect(NodeClient.failure(status: 502, body: []).status == .failed)
    }
}
