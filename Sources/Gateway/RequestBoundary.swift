// SPDX-License-Identifier: Apache-2.0
import NIOCore

/// Stands before the parser and counts: whether what has come over a connection ends exactly where a request does. Only then can somebody else go on reading from its socket.
final class RequestBoundary: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    /// Bytes since the present request began.
    private var received = 0
    /// Of its head, with the empty line; nil while that has not come.
    private var headLength: Int?
    /// How many bytes of CR LF CR LF have just come.
    private var matched = 0
    /// Where requests begin is not known any more: somebody sent one before the answer to the one before, or in chunks.
    private var isLost = false

    /// Gets how many bytes have come, once nobody reads them any more: they go no further.
    var discards: ((Int) -> Void)?

    /// Whether nothing was read since the end of a request.
    var isBetweenRequests: Bool { !isLost && received == 0 }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = unwrapInboundIn(data)
        if let discards { return discards(bytes.readableBytes) }
        count(bytes.readableBytesView)
        context.fireChannelRead(data)
    }

    func count(_ bytes: ByteBufferView) {
        guard !isLost else { return }
        if headLength == nil { findHead(bytes) }
        received += bytes.count
    }

    private func findHead(_ bytes: ByteBufferView) {
        for (index, byte) in bytes.enumerated() {
            let wanted: UInt8 = matched % 2 == 0 ? 0x0D : 0x0A
            matched = byte == wanted ? matched + 1 : byte == 0x0D ? 1 : 0
            if matched == 4 {
                headLength = received + index + 1
                return
            }
        }
    }

    /// Whether the bytes so far are one request with a body of this length; nil for one whose length its head does not say.
    func isWhole(body: Int?) -> Bool {
        guard !isLost, let headLength, let body else { return false }
        // Not a sum: what a head announces may be as large as an Int.
        return received - headLength == body
    }

    /// The present request is answered.
    func next(body: Int?) {
        isLost = !isWhole(body: body)
        (received, headLength, matched) = (0, nil, 0)
    }
}
