// SPDX-License-Identifier: Apache-2.0

/// Version of the worker protocol that this supervisor speaks. `Sandbox/runtimes/README.md` is its specification.
public let workerProtocolVersion: UInt16 = 1

/// What a frame means. The numbers are the protocol's and never change meaning.
public enum FrameKind: UInt8, Sendable, CaseIterable {
    case hello = 1, initialize, ready, initError, invoke, result, chunk, error, log, call, callResult, emit, emitResult, retryLater, cancel,
        drain, freeze

    /// Whether a worker may send it. Anything else from a worker ends the connection.
    public var isFromWorker: Bool {
        switch self {
        case .hello, .ready, .initError, .result, .chunk, .error, .log, .call, .emit, .retryLater: true
        case .initialize, .invoke, .callResult, .emitResult, .cancel, .drain, .freeze: false
        }
    }
}

/// What a field holds. Integers are little endian; text is UTF-8. Tags that a reader does not know are skipped.
public enum FieldTag: UInt8, Sendable, CaseIterable {
    case protocolVersion = 1  // u16
    case runtime  // text
    case pid  // u32, in the worker's own pid namespace
    case function  // text `tenant/function`
    case version  // u32
    case handler  // text; repeated for a command line
    case environment  // text `NAME=VALUE`, repeated
    case secret  // text `NAME=VALUE`, repeated
    case memoryLimit  // u64, bytes
    case bucket  // text, repeated
    case timeout  // u32, milliseconds
    case initTime  // u64, microseconds
    case errorType  // text
    case errorMessage  // text
    case errorStack  // text
    case invocation  // text, 32 hexadecimal digits
    case deadline  // u64, milliseconds since 1970
    case trigger  // text
    case contentType  // text
    case attempt  // u32, from 1
    case lineage  // opaque bytes
    case traceparent  // text
    case body  // bytes; the last field
    case status  // u16, an HTTP status
    case header  // text `name: value`, repeated
    case level  // u8: 0 debug, 1 info, 2 warning, 3 error
    case message  // text
    case target  // text `function` or `tenant/function`
    case mode  // u8: 0 sync, 1 async
    case outcome  // text, a word of the outcome taxonomy
    case topic  // text
    case event  // text
    case after  // u32, seconds
    case grace  // u32, milliseconds
    case request  // u32, ties a call or emit to its result
    case concurrency  // u16, invocations at a time in this worker
    case layer  // text, repeated: mounted at /layers/NAME, in the order of their hooks
}

/// One frame: `u32 length, u8 kind, u8 flags, u16 slot`, then fields `u8 tag, u32 length, bytes`.
public struct Frame: Hashable, Sendable {
    /// The longest body, in bytes.
    public static let maximumBody = 8 << 20
    /// The largest value of the length word: a body and 64 KiB of other fields.
    public static let maximumLength = maximumBody + (64 << 10)
    /// Bytes before the fields.
    public static let headerSize = 8

    public struct Field: Hashable, Sendable {
        public var tag: UInt8
        public var value: ArraySlice<UInt8>
        public init(tag: UInt8, value: ArraySlice<UInt8>) {
            self.tag = tag
            self.value = value
        }
    }

    public var kind: FrameKind
    public var flags: UInt8
    /// Which of the worker's concurrent invocations this is about.
    public var slot: UInt16
    public var fields: [Field]

    public init(_ kind: FrameKind, slot: UInt16 = 0, flags: UInt8 = 0, fields: [Field] = []) {
        self.kind = kind
        self.flags = flags
        self.slot = slot
        self.fields = fields
    }

    /// The last chunk of a stream; on `result`, the body was streamed before.
    public static let lastFlag: UInt8 = 1

    // MARK: building

    public mutating func add(_ tag: FieldTag, _ bytes: [UInt8]) { fields.append(Field(tag: tag.rawValue, value: bytes[...])) }
    public mutating func add(_ tag: FieldTag, _ bytes: ArraySlice<UInt8>) { fields.append(Field(tag: tag.rawValue, value: bytes)) }
    public mutating func add(_ tag: FieldTag, _ text: String) { add(tag, Array(text.utf8)) }
    public mutating func add<T: FixedWidthInteger>(_ tag: FieldTag, _ value: T) {
        var out = ByteWriter(reserving: T.bitWidth / 8)
        out.integer(value)
        add(tag, out.bytes)
    }

    // MARK: reading

    /// The first field with this tag.
    public func bytes(_ tag: FieldTag) -> ArraySlice<UInt8>? { fields.first { $0.tag == tag.rawValue }?.value }
    /// The first field with this tag as text; nil where it is missing or not UTF-8.
    public func text(_ tag: FieldTag) -> String? { bytes(tag).flatMap(Self.text) }
    /// Every field with this tag as text.
    public func texts(_ tag: FieldTag) -> [String] {
        var found: [String] = []
        for field in fields where field.tag == tag.rawValue { if let text = Self.text(field.value) { found.append(text) } }
        return found
    }
    private static func text(_ bytes: ArraySlice<UInt8>) -> String? {
        guard let text = try? UTF8Span(validating: bytes.span) else { return nil }
        return String(copying: text)
    }
    /// The first field with this tag as an integer; nil where it is missing or has another size.
    public func integer<T: FixedWidthInteger>(_ tag: FieldTag, as type: T.Type = T.self) -> T? {
        guard let value = bytes(tag), value.count == T.bitWidth / 8 else { return nil }
        var reader = ByteReader(value)
        return try? reader.integer()
    }

    // MARK: bytes

    public var encodedLength: Int { fields.reduce(Self.headerSize) { $0 + 5 + $1.value.count } }

    public func encoded() -> [UInt8] {
        var out = ByteWriter(reserving: encodedLength)
        out.integer(UInt32(encodedLength - 4))
        out.integer(kind.rawValue)
        out.integer(flags)
        out.integer(slot)
        for field in fields {
            out.integer(field.tag)
            out.integer(UInt32(field.value.count))
            out.raw(field.value)
        }
        return out.bytes
    }

    /// Decodes what follows the length word.
    init(decoding payload: ArraySlice<UInt8>) throws(WireError) {
        var input = ByteReader(payload)
        let number = try input.integer(UInt8.self)
        guard let kind = FrameKind(rawValue: number) else { throw WireError("unknown frame kind \(number)") }
        self.kind = kind
        flags = try input.integer()
        slot = try input.integer()
        fields = []
        while input.remaining > 0 {
            guard fields.count < Self.maximumFields else { throw WireError("more than \(Self.maximumFields) fields in a frame") }
            let tag = try input.integer(UInt8.self)
            fields.append(Field(tag: tag, value: try input.prefixed(maximum: Self.maximumLength)))
        }
    }

    /// The most fields in a frame.
    public static let maximumFields = 4096
}

/// Writes one frame field by field into one piece of memory: what every invocation pays for.
public struct FrameWriter: Sendable {
    @usableFromInline var out: ByteWriter

    /// `capacity` is a guess of the whole frame's bytes.
    public init(_ kind: FrameKind, slot: UInt16 = 0, flags: UInt8 = 0, reserving capacity: Int) {
        out = ByteWriter(reserving: capacity)
        out.integer(UInt32(0))
        out.integer(kind.rawValue)
        out.integer(flags)
        out.integer(slot)
    }

    @inlinable
    public mutating func add(_ tag: FieldTag, _ bytes: some Collection<UInt8>) {
        out.integer(tag.rawValue)
        out.prefixed(bytes)
    }
    @inlinable
    public mutating func add(_ tag: FieldTag, _ text: String) {
        out.integer(tag.rawValue)
        out.string(text)
    }
    @inlinable
    public mutating func add<T: FixedWidthInteger>(_ tag: FieldTag, _ value: T) {
        out.integer(tag.rawValue)
        out.integer(UInt32(T.bitWidth / 8))
        out.integer(value)
    }

    /// The frame's bytes.
    public consuming func finished() -> [UInt8] {
        out.patch(UInt32(out.bytes.count - 4), at: 0)
        return out.bytes
    }
}

/// Cuts a byte stream into frames. Holds at most one frame's bytes beyond what was fed last.
public struct FrameDecoder: Sendable {
    private var buffer: [UInt8] = []
    private var start = 0

    public init() {}

    /// Bytes that wait for the rest of their frame.
    public var pendingBytes: Int { buffer.count - start }

    public mutating func feed(_ bytes: [UInt8]) {
        if start == buffer.count {
            buffer = bytes
            start = 0
        } else {
            if start > 0 {
                buffer.removeFirst(start)
                start = 0
            }
            buffer.append(contentsOf: bytes)
        }
    }

    /// The next whole frame, or nil where more bytes are needed. Throws where the peer broke the protocol; the stream is then of no further use.
    public mutating func next() throws(WireError) -> Frame? {
        guard buffer.count - start >= 4 else { return nil }
        var header = ByteReader(buffer[start...])
        let length = Int(try header.integer(UInt32.self))
        guard length >= Frame.headerSize - 4 else { throw WireError("frame of \(length) bytes is shorter than its header") }
        guard length <= Frame.maximumLength else { throw WireError("frame of \(length) bytes is longer than \(Frame.maximumLength)") }
        guard buffer.count - start - 4 >= length else { return nil }
        let frame = try Frame(decoding: buffer[(start + 4)..<(start + 4 + length)])
        start += 4 + length
        return frame
    }
}
