// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import NIOHTTP1

/// A direct call of a function as nearly all are sent: `POST`, HTTP/1.1, a path of plain names, a body of announced length, all of it in one piece.
///
/// What is read here is a strict part of HTTP: whatever has another form, however legal, is no plain call, and NIO's decoder judges it. So the two can never read
/// different requests from the same bytes.
struct PlainCall {
    let function: FunctionID
    let head: HTTPRequestHead
    let body: ByteBuffer

    /// The most header fields, and the most bytes before the body.
    static let fieldLimit = 64
    static let headLimit = 8192

    /// The request line that a connection's last plain call had: callers repeat themselves.
    struct Line {
        fileprivate var bytes: [UInt8] = []
        fileprivate(set) var function: FunctionID?
        fileprivate var target = ""
    }

    /// Takes a plain call from the beginning of `bytes`; nil, with nothing taken, where there is none.
    init?(_ bytes: inout ByteBuffer, bodyLimit: Int, line: inout Line) {
        guard let start = Self.requestLine(bytes, &line), let function = line.function,
            let fields = Self.fields(bytes, from: start), fields.length <= bodyLimit, bytes.readableBytes - fields.end >= fields.length
        else { return nil }
        self.function = function
        head = HTTPRequestHead(version: .http1_1, method: .POST, uri: line.target, headers: HTTPHeaders(fields.list))
        bytes.moveReaderIndex(forwardBy: fields.end)
        // A copy where it is short: a slice would keep the whole buffer, which the next read could use again.
        if fields.length <= 4096 {
            body = ByteBuffer(bytes: bytes.readableBytesView.prefix(fields.length))
            bytes.moveReaderIndex(forwardBy: fields.length)
        } else {
            body = bytes.readSlice(length: fields.length) ?? ByteBuffer()
        }
    }

    private static let prefix = Array("POST /v1/tenants/".utf8)
    private static let middle = Array("/functions/".utf8)
    private static let suffix = Array("/invocations HTTP/1.1\r\n".utf8)

    /// Where the line after the request's first begins; that line is remembered.
    private static func requestLine(_ bytes: ByteBuffer, _ line: inout Line) -> Int? {
        let text = bytes.readableBytesUInt8Span
        if line.function != nil, has(text, line.bytes, at: 0) { return line.bytes.count }
        guard has(text, prefix, at: 0) else { return nil }
        let tenant = name(text, from: prefix.count)
        guard has(text, middle, at: tenant) else { return nil }
        let function = name(text, from: tenant + middle.count)
        guard has(text, suffix, at: function) else { return nil }
        let at = bytes.readerIndex
        guard let first = bytes.getString(at: at + prefix.count, length: tenant - prefix.count).flatMap({ Name($0) }),
            let second = bytes.getString(at: at + tenant + middle.count, length: function - tenant - middle.count).flatMap({ Name($0) }),
            let target = bytes.getString(at: at + 5, length: function + 12 - 5)
        else { return nil }
        let end = function + suffix.count
        line = Line(
            bytes: Array(bytes.readableBytesView.prefix(end)), function: FunctionID(tenant: first, function: second), target: target)
        return end
    }

    private static func has(_ text: Span<UInt8>, _ wanted: [UInt8], at start: Int) -> Bool {
        guard text.count - start >= wanted.count else { return false }
        for index in wanted.indices where text[start + index] != wanted[index] { return false }
        return true
    }

    /// The end of the run of characters that a name may have.
    private static func name(_ text: Span<UInt8>, from start: Int) -> Int {
        var end = start
        while end < text.count, end - start <= Name.maximumLength,
            (97...122).contains(text[end]) || (48...57).contains(text[end]) || text[end] == 45
        {
            end += 1
        }
        return end
    }

    private struct Fields {
        var list: [(String, String)] = []
        /// Of the body, in bytes.
        var length = 0
        var hasLength = false
        /// Where the body begins.
        var end = 0
    }

    private static func fields(_ bytes: ByteBuffer, from start: Int) -> Fields? {
        let text = bytes.readableBytesUInt8Span
        let limit = min(text.count, headLimit)
        var found = Fields()
        found.list.reserveCapacity(8)
        var at = start
        while at + 1 < limit {
            if text[at] == 0x0D {
                guard text[at + 1] == 0x0A else { return nil }
                found.end = at + 2
                return found
            }
            let first = at
            while at < limit, isNamePart(text[at]) { at += 1 }
            guard at > first, at < limit, text[at] == 0x3A, found.list.count < fieldLimit else { return nil }
            let colon = at
            at += 1
            while at < limit, text[at] == 0x20 { at += 1 }
            let value = at
            while at < limit, (0x20...0x7E).contains(text[at]) { at += 1 }
            // Blanks at the end belong to no value; who sends them is read by the decoder.
            guard at + 1 < limit, text[at] == 0x0D, text[at + 1] == 0x0A, at == value || text[at - 1] != 0x20,
                let name = bytes.getString(at: bytes.readerIndex + first, length: colon - first),
                let content = bytes.getString(at: bytes.readerIndex + value, length: at - value), take(name, content, &found)
            else { return nil }
            at += 2
        }
        return nil
    }

    /// False for a field that says how the connection or the message is framed in any but the plain way.
    private static func take(_ name: String, _ value: String, _ found: inout Fields) -> Bool {
        switch name.utf8.count {
        case 14 where name.lowercased() == "content-length":
            guard !found.hasLength, (1...9).contains(value.utf8.count), value.utf8.allSatisfy({ (48...57).contains($0) }),
                let length = Int(value)
            else { return false }
            (found.length, found.hasLength) = (length, true)
        case 10 where name.lowercased() == "connection":
            guard value.lowercased() == "keep-alive" else { return false }
        case 2, 6, 7, 17:
            if ["te", "expect", "upgrade", "trailer", "transfer-encoding"].contains(name.lowercased()) { return false }
        default: break
        }
        found.list.append((name, value))
        return true
    }

    private static func isNamePart(_ byte: UInt8) -> Bool {
        (97...122).contains(byte) || (65...90).contains(byte) || (48...57).contains(byte) || byte == 45
    }
}
