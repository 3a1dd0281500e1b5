// SPDX-License-Identifier: Apache-2.0
import Testing
import Wire

private func sample() -> Frame {
    var frame = Frame(.invoke, slot: 7)
    frame.add(.invocation, "0123456789abcdef0123456789abcdef")
    frame.add(.deadline, UInt64(1_700_000_000_123))
    frame.add(.contentType, "application/json")
    frame.add(.body, Array("{\"a\":1}".utf8))
    return frame
}

@Suite struct FrameTests {
    @Test("what is encoded is decoded, also byte by byte")
    func roundTrip() throws {
        let bytes = sample().encoded()
        var decoder = FrameDecoder()
        for byte in bytes.dropLast() {
            decoder.feed([byte])
            #expect(try decoder.next() == nil)
        }
        decoder.feed([bytes[bytes.count - 1]])
        let frame = try #require(try decoder.next())
        #expect(frame == sample())
        #expect(frame.integer(.deadline, as: UInt64.self) == 1_700_000_000_123)
        #expect(frame.text(.contentType) == "application/json")
        #expect(decoder.pendingBytes == 0)
    }

    /// The vector that the specification shows (`Sandbox/runtimes/README.md`); ``VectorTests`` has the others.
    @Test("the golden vector")
    func vector() throws {
        var frame = Frame(.error, slot: 0x0102, flags: 1)
        frame.add(.errorType, "E")
        frame.add(.after, UInt32(5))
        #expect(frame.encoded() == [19, 0, 0, 0, 8, 1, 2, 1, 13, 1, 0, 0, 0, 0x45, 33, 4, 0, 0, 0, 5, 0, 0, 0])
    }

    @Test("a frame torn inside a field is refused", arguments: 1..<40)
    func torn(cut: Int) throws {
        var bytes = sample().encoded()
        bytes.removeLast(cut)
        // The length word says that this is all there is.
        let length = UInt32(bytes.count - 4)
        for i in 0..<4 { bytes[i] = UInt8(truncatingIfNeeded: length >> (8 * UInt32(i))) }
        var decoder = FrameDecoder()
        decoder.feed(bytes)
        // A cut at the border between two fields leaves a shorter frame that is whole.
        let borders = sample().fields.reversed().reduce(into: [0]) { $0.append($0[$0.count - 1] + 5 + $1.value.count) }
        if borders.contains(cut) {
            #expect(try decoder.next() != nil)
        } else {
            #expect(throws: WireError.self) { try decoder.next() }
        }
    }

    @Test("lengths out of bounds and unknown kinds end the stream")
    func bounds() {
        for bytes: [UInt8] in [
            [0, 0, 0, 0], [3, 0, 0, 0, 1, 1, 1], [255, 255, 255, 255, 1, 1, 1, 1], [4, 0, 0, 0, 99, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0],
        ] {
            var decoder = FrameDecoder()
            decoder.feed(bytes)
            #expect(throws: WireError.self) { try decoder.next() }
        }
    }

    @Test("garbage never traps and is never accepted as more bytes than it has", arguments: 0..<200)
    func garbage(seed: Int) {
        var state = UInt64(seed) &* 0x9E37_79B9_7F4A_7C15 | 1
        func next() -> UInt8 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return UInt8(truncatingIfNeeded: state >> 24)
        }
        var bytes = (0..<512).map { _ in next() }
        bytes[2] = 0
        bytes[3] = 0
        var decoder = FrameDecoder()
        decoder.feed(bytes)
        do {
            while let frame = try decoder.next() { #expect(frame.encodedLength <= bytes.count) }
        } catch { #expect(!error.description.isEmpty) }
    }

    @Test("a worker may send ten kinds and no other")
    func direction() {
        #expect(FrameKind.allCases.filter(\.isFromWorker).count == 10)
        #expect(!FrameKind.invoke.isFromWorker && !FrameKind.initialize.isFromWorker)
    }
}
