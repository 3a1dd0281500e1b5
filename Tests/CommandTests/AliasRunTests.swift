// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Testing

/// The commands for aliases, rollback and applications against a stub of the node.
@Suite(.enabled(if: StubNode.isAvailable && CommandRun.isAvailable, "needs /usr/bin/python3 and the built command"), .serialized)
struct AliasRunTests {
    private static let alias = """
        {"tenant":"acme","function":"f","alias":"prod","version":7,"weight":90,"canary":8,"canaryWeight":10,"automaticRollback":true,\
        "changedAt":0,"changedBy":"set","reason":"","previous":6,"primaryFigures":{"calls":90,"errors":0,"p95":1.5},\
        "canaryFigures":{"calls":10,"errors":2,"p95":1.5}}
        """

    private func run(_ reply: StubNode.Reply, _ arguments: String...) throws -> (CommandRun, [StubNode.Request]) {
        let node = try StubNode(reply)
        let result = try CommandRun(["--state", node.folder.path] + arguments, in: node.folder)
        return (result, try node.requests())
    }

    @Test func setSendsTheTargets() throws {
        let (result, requests) = try run(StubNode.Reply(body: Self.alias), "alias", "set", "acme/f", "prod", "7=90", "8=10")
        #expect(result.code == 0 && result.output == "acme/f:prod is version 7 (90%), canary 8 (10%)\n")
        let request = try #require(requests.first)
        #expect(request.method == "PUT" && request.path == "/v1/tenants/acme/functions/f/aliases/prod")
        let body = try #require(try JSONSerialization.jsonObject(with: Data(request.bytes)) as? NSDictionary)
        let wanted: NSDictionary = [
            "targets": [["version": 7, "weight": 90], ["version": 8, "weight": 10]], "automaticRollback": true,
        ]
        #expect(body == wanted)
        let (_, one) = try run(StubNode.Reply(body: Self.alias), "alias", "set", "acme/f", "prod", "7", "--no-automatic-rollback")
        let sent = String(decoding: one.first?.bytes ?? [], as: UTF8.self)
        #expect(sent.contains("\"automaticRollback\":false"))
    }

    @Test func jsonIsTheDocument() throws {
        #expect(try run(StubNode.Reply(body: Self.alias), "alias", "set", "acme/f", "prod", "7", "--json").0.output == Self.alias + "\n")
        #expect(try run(StubNode.Reply(body: Self.alias), "rollback", "acme/f", "--json").0.output == Self.alias + "\n")
        #expect(try run(StubNode.Reply(body: "[\(Self.alias)]"), "alias", "list", "acme/f", "--json").0.output == "[\(Self.alias)]\n")
        let deleted = try run(StubNode.Reply(status: 204), "alias", "delete", "acme/f", "prod", "--json").0.output
        #expect(deleted == "{\"deleted\":\"acme/f:prod\"}\n")
    }

    @Test func listShowsBothSides() throws {
        let (result, requests) = try run(StubNode.Reply(body: "[\(Self.alias)]"), "alias", "list", "acme/f")
        #expect(requests.first?.path == "/v1/tenants/acme/functions/f/aliases")
        let words = result.output.split(separator: "\n").last?.split(separator: " ").map(String.init) ?? []
        #expect(words.prefix(8) == ["prod", "7", "90%", "8", "10%", "90+10", "0+2", "6"], "\(result.output)")
    }

    @Test func rollbackNamesItsAlias() throws {
        let (result, requests) = try run(StubNode.Reply(body: Self.alias), "rollback", "acme/f")
        #expect(result.code == 0)
        #expect(requests.first?.method == "POST" && requests.first?.path == "/v1/tenants/acme/functions/f/rollback")
        #expect(String(decoding: requests.first?.bytes ?? [], as: UTF8.self) == "{\"alias\":\"latest\"}")
        let (_, named) = try run(StubNode.Reply(body: Self.alias), "rollback", "acme/f", "--alias", "prod")
        #expect(String(decoding: named.first?.bytes ?? [], as: UTF8.self) == "{\"alias\":\"prod\"}")
        let past = StubNode.Reply(
            status: 409, headers: ["Content-Type": "application/problem+json"],
            body: "{\"status\":409,\"code\":\"nothingBefore\",\"title\":\"t\",\"detail\":\"before version 1 there is none\"}")
        let (refused, _) = try run(past, "rollback", "acme/f")
        #expect(refused.code == 2 && refused.error.hasPrefix("bulkhead: before version 1 there is none; see bulkhead versions"))
    }

    @Test func aVersionIsDeletedAlone() throws {
        let (result, requests) = try run(StubNode.Reply(status: 204), "delete", "acme/f@3")
        #expect(result.output == "Deleted acme/f@3\n")
        #expect(requests.first?.method == "DELETE" && requests.first?.path == "/v1/tenants/acme/functions/f/versions/3")
        let (alias, none) = try run(StubNode.Reply(), "delete", "acme/f:prod")
        #expect(alias.code == 2 && alias.error.contains("bulkhead alias delete acme/f prod") && none.isEmpty)
    }

    @Test func versionsShowTheirAliases() throws {
        let row = """
            [{"tenant":"acme","function":"f","version":3,"runtime":"python3","memoryBytes":1,"codeBytes":2,"codeHash":"ab","createdAt":0,\
            "aliases":["latest","prod 10%"]}]
            """
        #expect(try run(StubNode.Reply(body: row), "versions", "acme/f").0.output.contains("latest, prod 10%"))
    }

    @Test func applicationsShowTheirFigures() throws {
        let row = """
            [{"tenant":"acme","application":"shop","functions":["a","b"],"calls":1200,"throttles":3,"successRate":0.9975,"p50":1.25,\
            "p95":20,"p99":40.06,"gbSeconds":1.5},{"tenant":"acme","application":"","functions":["c"],"calls":0,"throttles":0,"gbSeconds":0}]
            """
        let (result, requests) = try run(StubNode.Reply(body: row), "applications", "--tenant", "acme")
        #expect(requests.first?.path == "/v1/tenants/acme/applications")
        let words = result.output.split(separator: "\n").dropFirst().first?.split(separator: " ").map(String.init) ?? []
        #expect(
            words == ["acme", "shop", "2", "1,200", "99.75%", "1.3", "ms", "20.0", "ms", "40.1", "ms", "3", "1.500"], "\(result.output)")
        #expect(try run(StubNode.Reply(body: "[]"), "applications", "--json").1.first?.path == "/v1/applications")
    }

    @Test(arguments: [
        ["alias", "set", "acme/f", "prod", "x"], ["alias", "set", "acme/f", "prod", "7=", "8=10"], ["alias", "set", "acme/f", "prod", "0"],
        ["alias", "set", "acme/f", "prod", "7=1.2.3"], ["alias", "set", "acme/f", "Prod", "7"], ["alias", "set", "acme/f@1", "prod", "7"],
        ["alias", "set", "acme/f", "prod"], ["alias", "set", "acme/f", "prod", "-1"], ["rollback", "acme/f:prod"], ["rollback", "acme"],
        ["rollback", "acme/f", "--alias", "9"], ["alias", "list", "f"], ["alias", "delete", "acme/f"],
    ])
    func nonsenseAsksNobody(words: [String]) throws {
        let node = try StubNode(StubNode.Reply())
        let result = try CommandRun(["--state", node.folder.path] + words, in: node.folder)
        #expect(result.code == 2 && result.output == "", "\(result.error)")
        #expect(try node.requests().isEmpty)
    }
}
