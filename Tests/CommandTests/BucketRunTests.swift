// SPDX-License-Identifier: Apache-2.0

import CommandKit
import ControlAPI
import Foundation
import Testing

@testable import bulkhead

/// `bulkhead bucket` and `bulkhead object` against a stub of the node.
@Suite(.enabled(if: StubNode.isAvailable && CommandRun.isAvailable, "needs /usr/bin/python3 and the built command"), .serialized)
struct BucketRunTests {
    private func run(_ reply: StubNode.Reply, _ arguments: [String], input: String = "") throws -> (CommandRun, [StubNode.Request]) {
        let node = try StubNode(reply)
        let result = try CommandRun(["--state", node.folder.path] + arguments, input: input, in: node.folder)
        return (result, try node.requests())
    }

    private static let object = "{\"key\":\"in/\u{E4} b.jpg\",\"size\":3,\"modifiedAt\":1,\"etag\":\"e\"}"

    @Test func putSendsFilesAndStandardInput() throws {
        let (piped, first) = try run(
            StubNode.Reply(status: 201, body: Self.object), ["object", "put", "acme/photos/in/\u{E4} b.jpg"], input: "abc")
        #expect(piped.code == 0 && piped.output == "acme/photos/in/\u{E4} b.jpg\n" && piped.error == "")
        #expect(first.map(\.method) == ["PUT"] && first.first?.bytes == Array("abc".utf8))
        #expect(first.first?.path == "/v1/tenants/acme/buckets/photos/objects/in/%C3%A4%20b.jpg")
        let (filed, second) = try run(
            StubNode.Reply(status: 201, body: Self.object), ["object", "put", "acme/photos/k", "/etc/hostname", "--json"])
        #expect(filed.output == Self.object + "\n")
        #expect(second.first?.bytes == (try [UInt8](Data(contentsOf: URL(fileURLWithPath: "/etc/hostname")))))
        #expect(second.first?.headers["content-length"] != nil)
        let (missing, none) = try run(StubNode.Reply(), ["object", "put", "acme/photos/k", "/no/such/file"])
        #expect(missing.code == 2 && none.isEmpty)
    }

    @Test func getWritesTheObjectUnchangedOrNothing() throws {
        let body = "raw \u{1b}[31m\u{0}\nno end"
        let (plain, requests) = try run(StubNode.Reply(body: body), ["object", "get", "acme/photos/a/b"])
        #expect(plain.output == body && plain.code == 0)
        #expect(requests.first?.method == "GET" && requests.first?.path == "/v1/tenants/acme/buckets/photos/objects/a/b")
        let folder = try TemporaryFolder()
        let (filed, _) = try run(StubNode.Reply(body: body), ["object", "get", "acme/photos/a", folder.path + "/out"])
        #expect(filed.code == 0)
        #expect(try folder.read("out") == body)
        let (cut, _) = try run(StubNode.Reply(body: body, breaksAfter: 4), ["object", "get", "acme/photos/a", folder.path + "/cut"])
        #expect(cut.code == 4)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["out"])
    }

    @Test func listFollowsPagesAndSorts() throws {
        func page(_ keys: [String], _ next: String?) -> String {
            let objects = keys.map { "{\"key\":\"\($0)\",\"size\":3,\"modifiedAt\":1,\"etag\":\"e\"}" }.joined(separator: ",")
            return "{\"objects\":[\(objects)]" + (next.map { ",\"next\":\"\($0)\"" } ?? "") + "}"
        }
        let path = "GET /v1/tenants/acme/buckets/photos/objects"
        let reply = StubNode.Reply(routes: [
            path: [
                StubNode.Reply(body: page(["c", "a"], "X-_")), StubNode.Reply(body: page([], "Y")), StubNode.Reply(body: page(["b"], nil)),
            ]
        ])
        let (table, requests) = try run(reply, ["object", "list", "acme/photos/in/\u{E4}"])
        #expect(table.output.split(separator: "\n").map { $0.split(separator: " ").first ?? "" } == ["KEY", "a", "b", "c"])
        #expect(
            requests.map { $0.path.split(separator: "?").last.map(String.init) } == [
                "prefix=in%2F%C3%A4", "prefix=in%2F%C3%A4&after=X-_", "prefix=in%2F%C3%A4&after=Y",
            ])
        let (json, _) = try run(reply, ["object", "list", "acme/photos", "--json"])
        #expect(json.output.split(separator: "\n").count == 3)
    }

    @Test func bucketsAreListedMadeAndDeleted() throws {
        let bucket =
            "{\"tenant\":\"acme\",\"bucket\":\"photos\",\"objects\":2,\"bytes\":8192,\"tenantBytes\":8192,\"tenantLimitBytes\":1073741824}"
        let (list, asked) = try run(StubNode.Reply(body: "[\(bucket)]"), ["bucket", "list", "--tenant", "acme"])
        #expect(list.code == 0 && list.output.contains("photos") && list.output.contains("8 KiB") && list.output.contains("1 GiB"))
        #expect(asked.first?.path == "/v1/tenants/acme/buckets")
        let (made, put) = try run(StubNode.Reply(status: 201, body: bucket), ["bucket", "create", "acme/photos"])
        #expect(
            made.output == "Created acme/photos\n" && put.first?.method == "PUT" && put.first?.path == "/v1/tenants/acme/buckets/photos")
        let (gone, removed) = try run(StubNode.Reply(status: 204), ["bucket", "delete", "acme/photos", "--force", "--json"])
        #expect(gone.output == "{\"deleted\":\"acme/photos\"}\n" && removed.first?.path == "/v1/tenants/acme/buckets/photos?force=true")
        let (object, deleted) = try run(StubNode.Reply(status: 204), ["object", "delete", "acme/photos/a"])
        #expect(object.output == "Deleted acme/photos/a\n" && deleted.first?.method == "DELETE")
    }

    @Test func refusalsHaveTheirExitStatus() throws {
        func problem(_ status: Int, _ code: String) -> StubNode.Reply {
            StubNode.Reply(
                status: status, headers: ["Content-Type": "application/problem+json"],
                body: "{\"status\":\(status),\"code\":\"\(code)\",\"title\":\"t\",\"detail\":\"no\"}")
        }
        let (full, _) = try run(problem(507, "overQuota"), ["object", "put", "acme/photos/a"], input: "x")
        #expect(full.code == 3 && full.error == "bulkhead: no; delete objects, or raise the quota.\n")
        #expect(try run(problem(404, "notFound"), ["object", "get", "acme/photos/a"]).0.code == 2)
        #expect(try run(problem(409, "notEmpty"), ["bucket", "delete", "acme/photos"]).0.code == 2)
    }

    @Test(arguments: [
        ["object", "get", "acme/photos"], ["object", "get", "acme/photos/"], ["object", "get", "acme/photos/../x"],
        ["object", "get", "acme/Photos/x"],
        ["object", "put", "acme/photos/a//b", "/etc/hostname"], ["bucket", "create", "acme"], ["bucket", "create", "acme/photos/x"],
    ])
    func badNamesNeverReachTheNode(arguments: [String]) throws {
        let (result, requests) = try run(StubNode.Reply(), arguments)
        #expect(result.code == 2 && requests.isEmpty, "\(result.error)")
    }
}
