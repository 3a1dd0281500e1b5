// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Store
import Testing

@testable import bulkheadd

/// Copies of the state, and tenants on their way, as the real daemon makes and takes them.
@Suite struct SnapshotTests {
    private func withDaemon(_ body: (TestNode, Daemon, String) async throws -> Void) async throws {
        try await VersionRouteTests().withDaemon([("echo", 2)], code: ["echo1", "echo2"], body)
    }

    @Test("the schemas that a restore takes are the ones that the stores write, database by database")
    func schemas() async throws {
        try await withDaemon { _, daemon, state async throws in
            let made = try await daemon.makeSnapshot(buckets: false)
            #expect(made.schemas == SnapshotReply.knownSchemas)
            let copy = "\(state)/snapshots/\(made.id)"
            let databases = (FileManager.default.enumerator(atPath: copy)?.compactMap { $0 as? String } ?? []).filter {
                $0.hasSuffix(".sqlite")
            }
            #expect(Set(databases) == Set(made.schemas.keys), "every database of the copy is one whose schema is compared")
            try await daemon.removeSnapshot(made.id)
        }
    }

    @Test("logs are in a copy, the segment that is written and those before it, but where they are not wanted")
    func logs() async throws {
        try await withDaemon { _, daemon, state async throws in
            let acme = try #require(Name("acme"))
            let long = String(repeating: "x", count: LogStore.textLimit - 100)
            // More than one segment of the default size.
            for number in 1...900 {
                daemon.logs.append(
                    acme,
                    LogRecord(
                        time: UInt64(number), function: "echo", version: 1, worker: "w-1", invocation: "", stream: "stdout", level: "info",
                        text: "\(number) \(long)"))
                if number % 100 == 0 { daemon.logs.flush() }
            }
            let with = try await daemon.makeSnapshot(buckets: false), without = try await daemon.makeSnapshot(buckets: false, logs: false)
            let copy = "\(state)/snapshots/\(with.id)/data/logs/acme"
            let names = try FileManager.default.contentsOfDirectory(atPath: state + "/logs/acme").sorted()
            let copied = try FileManager.default.contentsOfDirectory(atPath: copy).sorted()
            #expect(names.count > 1 && names == copied)
            for name in names {
                #expect(FileManager.default.contentsEqual(atPath: "\(copy)/\(name)", andPath: "\(state)/logs/acme/\(name)"), "\(name)")
            }
            #expect(!FileManager.default.fileExists(atPath: "\(state)/snapshots/\(without.id)/data/logs"))
        }
    }

    @Test("a tenant whose searches take all places there are for it waits for them itself, and its operator does not")
    func searches() async throws {
        try await withDaemon { node, daemon, _ async throws in
            let acme = try #require(Name("acme")), go = DispatchSemaphore(value: 0)
            var places = 0
            while daemon.reads.take(acme, { go.wait() }) { places += 1 }
            defer { for _ in 0..<places { go.signal() } }
            #expect(places == daemon.reads.share)
            let path = "/v1/tenants/acme/logs"
            let refused = try await node.ask("GET", path)
            #expect(refused.status == 429 && refused.header("retry-after") == "1", "\(refused.text)")
            let `operator` = try node.connectControl()
            try await `operator`.send(TestNode.request("GET", path))
            let answer = try await `operator`.answer()
            #expect(answer.status == 200, "\(answer.text)")
        }
    }

    @Test("objects are in a copy that is asked for them, and the marks of watching are not")
    func buckets() async throws {
        try await withDaemon { _, daemon, state async throws in
            let bucket = BucketID(tenant: try #require(Name("acme")), bucket: try #require(Name("in")))
            try daemon.buckets.create(bucket)
            for key in ["a.txt", "deep/er/b.txt"] {
                let writer = try daemon.buckets.write(try #require(ObjectKey(key)), in: bucket, length: nil)
                try writer.write(Array(key.utf8))
                try writer.commit()
            }
            try "x".write(toFile: state + "/watermarks", atomically: true, encoding: .utf8)
            let without = try await daemon.makeSnapshot(buckets: false), with = try await daemon.makeSnapshot(buckets: true)
            func exists(_ reply: SnapshotReply, _ name: String) -> Bool {
                FileManager.default.fileExists(atPath: "\(state)/snapshots/\(reply.id)/data/\(name)")
            }
            #expect(!exists(without, "buckets") && exists(without, "watermarks") && !exists(with, "watermarks"))
            for key in ["a.txt", "deep/er/b.txt"] {
                let path = "\(state)/snapshots/\(with.id)/data/buckets/acme/in/\(key)"
                #expect(try String(contentsOfFile: path, encoding: .utf8) == key)
            }
        }
    }

    @Test("a name that is in use, records that are impossible, a missing runtime and a strange id are refused, and nothing stays")
    func refusals() async throws {
        try await withDaemon { _, daemon, state async throws in
            let acme = try #require(Name("acme")), other = try #require(Name("other"))
            func refused(_ code: String, _ tenant: Name, _ text: String?, id: String = "0123456789abcdef") async {
                let folder = "\(state)/imports/\(id)"
                try? FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                try? text?.write(toFile: folder + "/tenant.json", atomically: true, encoding: .utf8)
                let failure = await #expect(throws: Problem.self) { try await daemon.importTenant(id, as: tenant) }
                #expect(failure?.code == code, "\(String(describing: failure))")
            }
            let empty = String(decoding: try JSONEncoder().encode(TenantRecords()), as: UTF8.self)
            await refused("exists", acme, empty)
            await refused("badArchive", other, "{")
            await refused("notFound", other, nil, id: "../../../../etc/")
            let odd = #"{"functions": [{"function": "F", "last": 1}], "versions": [], "steps": [], "keys": []}"#
            await refused("badArchive", other, odd)
            // What a tenant had that is not configured any more is not mixed with another one's.
            _ = try daemon.store.createKey(tenant: other, scopes: ["invoke"], at: 1)
            await refused("exists", other, empty)
            #expect(try daemon.store.keys().count == 1)
        }
    }

    @Test("an import that never got its configuration is gone after the next start, and one that did stays")
    func brokenOff() async throws {
        try await withDaemon { _, daemon, state async throws in
            let acme = try #require(Name("acme")), other = try #require(Name("other"))
            let folder = "\(state)/imports/0123456789abcdef"
            try FileManager.default.createDirectory(atPath: folder + "/buckets/in", withIntermediateDirectories: true)
            let hash = String(repeating: "a", count: 64)
            let key = #"{"id": "k-0123456789ab", "hash": "\#(hash)", "scopes": ["invoke"], "created": 1, "revoked": false}"#
            try #"{"functions": [], "versions": [], "steps": [], "keys": [\#(key)]}"#.write(
                toFile: folder + "/tenant.json", atomically: true, encoding: .utf8)
            let reply = try await daemon.importTenant("0123456789abcdef", as: other)
            #expect(reply.keys == 1 && daemon.buckets.buckets(other).count == 1)
            // Of a tenant that shows, a note means nothing.
            #expect(FileManager.default.createFile(atPath: state + "/imports/acme.pending", contents: nil))
            _ = try daemon.store.createKey(tenant: acme, scopes: ["invoke"], at: 1)
            await daemon.settleImports()
            #expect(try !daemon.store.hasRecords(of: other) && daemon.store.hasRecords(of: acme))
            #expect(daemon.buckets.buckets(other).isEmpty)
            #expect(try FileManager.default.contentsOfDirectory(atPath: state + "/imports").isEmpty)
        }
    }
}
