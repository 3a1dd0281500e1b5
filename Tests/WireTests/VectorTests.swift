// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing
import Wire

/// The vectors beside the specification, which every shim's own test runs too.
private struct Vector: Decodable {
    let name: String
    let hex: String
    let kind: UInt8?
    let flags: UInt8?
    let slot: UInt16?
    let fields: [Field]?
    let refused: String?
    let meaning: String?

    struct Field: Decodable {
        let tag: UInt8
        let value: [UInt8]
        init(from decoder: any Decoder) throws {
            var list = try decoder.unkeyedContainer()
            tag = try list.decode(UInt8.self)
            value = bytes(try list.decode(String.self))
        }
    }

    static let all: [Vector] = {
        let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let data = try? Data(contentsOf: top.appendingPathComponent("Sandbox/runtimes/vectors.json"))
        return (data.flatMap { try? JSONDecoder().decode([Vector].self, from: $0) }) ?? []
    }()
}

private func bytes(_ hex: String) -> [UInt8] {
    let digits = Array(hex)
    return stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0...min($0 + 1, digits.count - 1)]), radix: 16) }
}

@Suite struct VectorTests {
    @Test("every kind of frame has a vector, with its meaning")
    func complete() {
        let whole = Vector.all.filter { $0.refused == nil }
        #expect(Set(whole.compactMap(\.kind)) == Set(FrameKind.allCases.map(\.rawValue)))
        #expect(whole.allSatisfy { !($0.meaning ?? "").isEmpty })
        #expect(Vector.all.count > whole.count + 5)
    }

    @Test("what the vectors say is what is written, and what is read")
    func bothWays() throws {
        for vector in Vector.all where vector.refused == nil {
            let kind = try #require(vector.kind.flatMap(FrameKind.init(rawValue:)), "\(vector.name)")
            let fields = (vector.fields ?? []).map { Frame.Field(tag: $0.tag, value: $0.value[...]) }
            let frame = Frame(kind, slot: try #require(vector.slot), flags: try #require(vector.flags), fields: fields)
            #expect(frame.encoded() == bytes(vector.hex), "\(vector.name)")
            var decoder = FrameDecoder()
            decoder.feed(bytes(vector.hex))
            #expect(try decoder.next() == frame, "\(vector.name)")
            #expect(decoder.pendingBytes == 0)
        }
    }

    @Test("the writer that writes field by field writes the same")
    func writer() throws {
        for vector in Vector.all where vector.refused == nil {
            var writer = FrameWriter(
                try #require(vector.kind.flatMap(FrameKind.init(rawValue:))), slot: try #require(vector.slot),
                flags: try #require(vector.flags), reserving: 64)
            var isKnown = true
            for field in vector.fields ?? [] {
                guard let tag = FieldTag(rawValue: field.tag) else {
                    isKnown = false
                    continue
                }
                writer.add(tag, field.value)
            }
            if isKnown { #expect(writer.finished() == bytes(vector.hex), "\(vector.name)") }
        }
    }

    @Test("what is not a frame is refused")
    func refused() {
        for vector in Vector.all where vector.refused != nil {
            var decoder = FrameDecoder()
            decoder.feed(bytes(vector.hex))
            #expect(throws: WireError.self, "\(vector.name)") { try decoder.next() }
        }
    }

    @Test("what the fields mean")
    func meaning() throws {
        func frame(_ name: String) throws -> Frame {
            var decoder = FrameDecoder()
            decoder.feed(bytes(try #require(Vector.all.first { $0.name == name }).hex))
            return try #require(try decoder.next())
        }
        let assignment = try frame("init")
        #expect(assignment.text(.function) == "acme/resize" && assignment.integer(.version) == UInt32(7))
        #expect(assignment.text(.bucket) == "photos" && assignment.integer(.memoryLimit) == UInt64(64 << 20))
        #expect(assignment.integer(.timeout) == UInt32(5000) && assignment.integer(.concurrency) == UInt16(4))
        #expect(try frame("init of a command").texts(.handler) == ["./run", "-v", ""])
        #expect(try frame("ready").integer(.initTime) == UInt64(1_234_567))
        #expect(try frame("invoke").integer(.deadline) == UInt64(1_700_000_000_123))
        #expect(try frame("result").integer(.status) == UInt16(418))
        #expect(try frame("log").text(.message) == "h\u{e4}" && frame("log").integer(.level) == UInt8(2))
        #expect(try frame("call that is not waited for").integer(.request) == UInt32.max)
        #expect(try frame("call that is not waited for").integer(.mode) == UInt8(1))
        #expect(try frame("emitResult").text(.event) == "01-an-event")
        #expect(try frame("retryLater").integer(.after) == UInt32(7) && frame("drain").integer(.grace) == UInt32(2000))
    }
}
