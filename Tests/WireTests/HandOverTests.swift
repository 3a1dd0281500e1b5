// SPDX-License-Identifier: Apache-2.0
import Core
import Testing
import Wire

/// What a daemon sends to its successor, which may be of another release.
@Suite struct HandOverTests {
    static let record = Name("acme").flatMap { tenant in
        Name("echo").map { function in
            WorkerRecord(
                worker: WorkerID(1 << 40), version: VersionID(function: FunctionID(tenant: tenant, function: function), number: 7),
                start: .prewarmed, served: 3, cpuMicroseconds: 4, pid: 5, startedAt: 6, hasOutput: true, hasErrors: false, hasEgress: true,
                terms: [1, 2, 3])
        }
    }
    static let messages: [HandOverMessage] =
        [record.map { .worker($0) }].compactMap { $0 } + [.connection(isControl: true), .connection(isControl: false), .end(since: 9)]

    @Test("messages survive the way", arguments: messages)
    func message(_ message: HandOverMessage) throws { #expect(try HandOverMessage(decoding: message.encoded()[...]) == message) }

    @Test("a message that ends early or goes on is refused at every length", arguments: messages)
    func truncated(_ message: HandOverMessage) {
        let bytes = message.encoded()
        for count in 0..<bytes.count { #expect(throws: WireError.self) { try HandOverMessage(decoding: bytes[..<count]) } }
        #expect(throws: WireError.self) { try HandOverMessage(decoding: (bytes + [0])[...]) }
    }

    @Test("descriptors are counted")
    func descriptors() throws {
        #expect(Self.messages.map(\.descriptorCount) == [3, 1, 1, 0])
        #expect(SpawnerEvent.succession(version: 1).descriptorCount == 1 && SpawnerEvent.handOver(format: 1).descriptorCount == 1)
        #expect(SpawnerEvent.kept([]).descriptorCount == 0)
    }

    @Test("names that are none, unknown kinds and too much of anything are refused")
    func hostile() throws {
        func worker(tenant: String = "acme", function: String = "echo", start: String = "warm", terms: Int = 3) throws -> HandOverMessage {
            var out = ByteWriter()
            out.integer(UInt8(1))
            out.integer(UInt64(1))
            out.string(tenant)
            out.string(function)
            out.integer(UInt32(1))
            out.string(start)
            out.integer(UInt64(0))
            out.integer(UInt64(0))
            out.integer(Int32(0))
            out.integer(UInt64(0))
            out.bool(true)
            out.bool(true)
            out.bool(false)
            out.prefixed([UInt8](repeating: 0, count: terms))
            return try HandOverMessage(decoding: out.bytes[...])
        }
        #expect(throws: Never.self) { try worker(terms: WorkerRecord.maximumTerms) }
        for name in ["", "..", "a/b", "A", String(repeating: "a", count: 64)] {
            #expect(throws: WireError.self) { try worker(tenant: name) }
            #expect(throws: WireError.self) { try worker(function: name) }
        }
        #expect(throws: WireError.self) { try worker(start: "hot") }
        #expect(throws: WireError.self) { try worker(terms: WorkerRecord.maximumTerms + 1) }
        #expect(throws: WireError.self) { try HandOverMessage(decoding: [9]) }
        #expect(throws: WireError.self) { try HandOverMessage(decoding: [2, 2]) }

        let one = KeptWorker(worker: WorkerID(1), group: GroupID(1), pid: 1, uid: 1, cgroup: "/x")
        #expect(throws: Never.self) {
            try SpawnerEvent(decoding: SpawnerEvent.kept(Array(repeating: one, count: KeptWorker.maximum)).encoded()[...])
        }
        #expect(throws: WireError.self) {
            try SpawnerEvent(decoding: SpawnerEvent.kept(Array(repeating: one, count: KeptWorker.maximum + 1)).encoded()[...])
        }
        #expect(throws: WireError.self) {
            try SpawnerRequest(decoding: SpawnerRequest.keep((0..<1025).map { WorkerID($0) }, isLast: true).encoded()[...])
        }
    }
}
