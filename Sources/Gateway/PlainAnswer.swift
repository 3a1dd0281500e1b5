// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOHTTP1

/// The bytes of a whole answer to a plain call.
enum PlainAnswer {
    private static let end: StaticString = "\r\n"

    static func bytes(
        _ status: Int, _ headers: [(String, String)], _ body: ByteBuffer, keepsAlive: Bool, _ allocator: ByteBufferAllocator
    ) -> ByteBuffer {
        var out = allocator.buffer(capacity: 384 + body.readableBytes)
        if status == 200 {
            out.writeStaticString("HTTP/1.1 200 OK\r\n")
        } else {
            out.writeString("HTTP/1.1 \(status) \(HTTPResponseStatus(statusCode: status).reasonPhrase)\r\n")
        }
        for (name, value) in headers where isWhole(name) && isWhole(value) { write(name, value, &out) }
        write("Content-Length", String(body.readableBytes), &out)
        if !keepsAlive { write("Connection", "close", &out) }
        out.writeStaticString(end)
        out.writeImmutableBuffer(body)
        return out
    }

    private static func write(_ name: String, _ value: String, _ out: inout ByteBuffer) {
        out.writeString(name)
        out.writeStaticString(": ")
        out.writeString(value)
        out.writeStaticString(end)
    }

    /// Whether a text cannot end its field: what NIO's validator sees to elsewhere.
    private static func isWhole(_ text: String) -> Bool { text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 } }
}
