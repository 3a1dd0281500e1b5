// SPDX-License-Identifier: Apache-2.0
import Core
import Testing
import Wire

@Suite struct SpawnerMessageTests {
    static let access = Name("acme").flatMap { tenant in
        BucketAccess(
            tenant: tenant,
            grants: zip(["photos", "thumbs", "films"], [(false, ""), (true, ""), (true, "out/small/")]).compactMap { name, rights in
                Name(name).map { BucketGrant(bucket: $0, isWritable: rights.0, prefix: rights.1) }
            })
    }

    static let layers = ["tracing", "scrub"].compactMap { Name($0) }

    static let requests: [SpawnerRequest] = [
        .hello(version: 1), .ready(text: "READY"), .setGroup(GroupID(3), GroupLimits(memoryBytes: 1, cpuMilli: 2, processes: 3)),
        .removeGroup(GroupID(4)),
        .spawn(
            SpawnRequest(
                worker: WorkerID(5), group: GroupID(6), runtime: "python3", preparation: .prewarmed, limits: WorkerLimits(), network: true,
                code: "ab", command: ["./a", "b"])),
        .spawn(
            SpawnRequest(
                worker: WorkerID(5), group: GroupID(6), runtime: "python3", preparation: .started, limits: WorkerLimits(), buckets: access,
                layers: layers)),
        .assign(WorkerID(7), runtime: "native", limits: WorkerLimits(), code: "c", command: ["./x"], buckets: nil, layers: layers),
        .assign(WorkerID(7), runtime: "native", limits: WorkerLimits(), code: "c", command: ["./x"], buckets: access, layers: []),
        .kill(WorkerID(8)), .inspect(WorkerID(9)), .usage([WorkerID(1), WorkerID(2)]), .alive(9),
        .reloaded(text: "read"), .restart, .restartWhole, .prepared(format: 7), .keep([], isLast: true),
        .account(WorkerID(5), 1 << 60),
        .keep([WorkerID(3), WorkerID(1 << 40)], isLast: false),
    ]
    static let events: [SpawnerEvent] = [
        .welcome(version: 1, listeners: ["http"], runtimes: ["a", "b"]),
        .spawned(WorkerID(1), pid: 2, uid: 3, cgroup: "/x", hasEgress: true),
        .assigned(WorkerID(1)),
        .failed(WorkerID(1), reason: "no"), .exited(WorkerID(1), .exited(code: -1), Usage(cpuMicroseconds: 9)),
        .exited(WorkerID(1), .syscall(number: 101, name: "ptrace", native: true), Usage()),
        .exited(WorkerID(1), .outOfMemory(limit: 5, peak: 7), Usage(peakMemoryBytes: 7)),
        .exited(WorkerID(1), .setupFailed(stage: 22, stageName: "root", errno: 1), Usage()), .exited(WorkerID(1), .signalled(9), Usage()),
        .exited(WorkerID(1), .killed, Usage()), .posture(WorkerID(1), [PostureCheck(name: "a", expected: "b", actual: "c", isHeld: false)]),
        .usage([WorkerUsage(worker: WorkerID(1), pid: 4, usage: Usage(processes: 3))]), .groupFailed(GroupID(1), reason: "r"),
        .ping(7, ProcessUse(cpuMicroseconds: 1, residentBytes: 2, descriptors: 3)),
        .spawnerReplaced, .succession(version: 3), .handOver(format: 1), .handOverFailed(reason: "no"), .kept([]),
        .spent([AccountUse(account: 1 << 60, cpuMicroseconds: 9), AccountUse(account: 3, cpuMicroseconds: .max)]),
        .kept([KeptWorker(worker: WorkerID(1), group: GroupID(2), pid: 3, uid: 4, cgroup: "/x")]),
    ]

    @Test("requests survive the way", arguments: requests)
    func request(_ request: SpawnerRequest) throws { #expect(try SpawnerRequest(decoding: request.encoded()[...]) == request) }

    @Test("buckets are names and plain directories, at most sixteen, each once")
    func buckets() throws {
        func decoded(_ grants: [(String, Bool, String)], tenant: String = "acme") throws -> SpawnerRequest {
            // Without buckets and layers the message ends with their numbers.
            var bytes = SpawnerRequest.assign(
                WorkerID(7), runtime: "r", limits: WorkerLimits(), code: "", command: [], buckets: nil, layers: []
            ).encoded()
            bytes.removeLast(2)
            var out = ByteWriter()
            out.integer(UInt8(grants.count))
            out.string(tenant)
            for (name, isWritable, prefix) in grants {
                out.string(name)
                out.bool(isWritable)
                out.string(prefix)
            }
            return try SpawnerRequest(decoding: (bytes + out.bytes + [0])[...])
        }
        let most = (1...16).map { ("b\($0)", true, String(repeating: "x", count: 254) + "/") }
        guard case .assign(_, _, _, _, _, let access, _) = try decoded(most) else { Issue.record("not an assignment"); return }
        #expect(access?.grants.count == 16 && access?.grants.last?.prefix.utf8.count == 255)
        for prefix in [
            "../", "a/../b/", "./", "a//b/", "/", "/a/", "a", "..\u{301}x", "a\0b/", "a\n/", String(repeating: "x", count: 255) + "/",
        ] {
            #expect(throws: WireError.self, "\(prefix.debugDescription)") { try decoded([("b", true, prefix)]) }
        }
        #expect(throws: Never.self) { try decoded([("b", true, "..\u{301}x/")]) }
        for name in ["", "..", "a/b", "A", "-a", "a.b", String(repeating: "a", count: 64)] {
            #expect(throws: WireError.self, "\(name)") { try decoded([(name, true, "")]) }
            #expect(throws: WireError.self, "\(name)") { try decoded([("b", true, "")], tenant: name) }
        }
        #expect(throws: WireError.self) { try decoded(most + [("one-more", true, "")]) }
        #expect(throws: WireError.self) { try decoded([("b", false, ""), ("b", true, "")]) }
        #expect(throws: WireError.self) { try decoded([("b", false, "out/")]) }
    }

    @Test("layers are names, at most eight, each once")
    func layerNames() throws {
        func decoded(_ names: [String]) throws -> SpawnerRequest {
            var bytes = SpawnerRequest.assign(
                WorkerID(7), runtime: "r", limits: WorkerLimits(), code: "", command: [], buckets: nil, layers: []
            ).encoded()
            bytes.removeLast()
            var out = ByteWriter()
            out.integer(UInt8(names.count))
            for name in names { out.string(name) }
            return try SpawnerRequest(decoding: (bytes + out.bytes)[...])
        }
        let most = (1...8).map { "l\($0)" }
        guard case .assign(_, _, _, _, _, _, let layers) = try decoded(most) else { Issue.record("not an assignment"); return }
        #expect(layers.map(\.text) == most)
        #expect(throws: WireError.self) { try decoded(most + ["l9"]) }
        #expect(throws: WireError.self) { try decoded(["a", "a"]) }
        for name in ["", ".", "..", "a/b", "/etc", "A", "a.b", "a\0b", String(repeating: "a", count: 64)] {
            #expect(throws: WireError.self, "\(name)") { try decoded([name]) }
        }
    }

    @Test("events survive the way", arguments: events)
    func event(_ event: SpawnerEvent) throws { #expect(try SpawnerEvent(decoding: event.encoded()[...]) == event) }

    @Test("a request that ends early or goes on is refused at every length", arguments: requests)
    func truncated(_ request: SpawnerRequest) {
        let bytes = request.encoded()
        for count in 0..<bytes.count { #expect(throws: WireError.self) { try SpawnerRequest(decoding: bytes[..<count]) } }
        #expect(throws: WireError.self) { try SpawnerRequest(decoding: (bytes + [0])[...]) }
    }

    @Test("an event that ends early is refused at every length", arguments: events)
    func truncatedEvent(_ event: SpawnerEvent) {
        let bytes = event.encoded()
        for count in 0..<bytes.count { #expect(throws: WireError.self) { try SpawnerEvent(decoding: bytes[..<count]) } }
    }
}
