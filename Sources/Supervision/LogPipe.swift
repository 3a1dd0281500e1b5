// SPDX-License-Identifier: Apache-2.0
import NIOCore

/// Reads one worker's stdout or stderr, line by line, at a bounded rate.
///
/// A flood costs the node neither memory nor its processor: at most ``readLimit`` bytes are read in each ``readPeriod`` (the writer then blocks in its own
/// `write`), at most `budget` of them are kept, and what is dropped is counted and said.
final class LogPipe: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    /// The longest line; a longer one is cut into pieces.
    static let lineLimit = 16 << 10
    static let readLimit = 16 << 10
    static let readPeriod = TimeAmount.milliseconds(10)
    /// Bytes kept at once, and gained back a second.
    static let burst = 256 << 10
    static let refill = 64 << 10

    let stream: LogLine.Stream
    private let line: ([UInt8]) -> Void
    private let dropped: (Int) -> Void
    private var partial: [UInt8] = []
    private var tokens = LogPipe.burst
    private var refilledAt = NIODeadline.now()
    private var readInPeriod = 0
    private var droppedBytes = 0
    private var isPausing = false
    private var context: ChannelHandlerContext?
    /// Whether its descriptor is still this one's.
    private(set) var isOpen = false

    init(_ stream: LogLine.Stream, line: @escaping ([UInt8]) -> Void, dropped: @escaping (Int) -> Void) {
        self.stream = stream
        self.line = line
        self.dropped = dropped
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    /// Reads nothing more. What was read and has no end of a line yet becomes one.
    func close() { context?.close(promise: nil) }

    func channelActive(context: ChannelHandlerContext) {
        isOpen = true
        context.read()
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let buffer = unwrapInboundIn(data)
        readInPeriod += buffer.readableBytes
        refillTokens()
        split(buffer.readableBytesView)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard readInPeriod >= Self.readLimit else { return context.read() }
        guard !isPausing else { return }
        isPausing = true
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        context.eventLoop.assumeIsolated().scheduleTask(in: Self.readPeriod) { [weak self] in
            guard let self else { return }
            isPausing = false
            readInPeriod = 0
            bound.value.read()
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        isOpen = false
        if !partial.isEmpty { line(partial) }
        partial = []
        sayDropped()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    /// Splits at newlines without looking at more bytes than the budget keeps.
    private func split(_ bytes: ByteBufferView) {
        let kept = min(bytes.count, tokens)
        tokens -= kept
        droppedBytes += bytes.count - kept
        for byte in bytes.prefix(kept) {
            if byte == 0x0A {
                line(partial)
                partial.removeAll(keepingCapacity: true)
            } else {
                partial.append(byte)
                if partial.count >= Self.lineLimit {
                    line(partial)
                    partial.removeAll(keepingCapacity: true)
                }
            }
        }
    }

    private func refillTokens() {
        let now = NIODeadline.now()
        let elapsed = (now - refilledAt).nanoseconds
        guard elapsed > 100_000_000 else { return }
        refilledAt = now
        tokens = min(Self.burst, tokens + Int(Int64(Self.refill) * min(elapsed, 10_000_000_000) / 1_000_000_000))
        sayDropped()
    }

    private func sayDropped() {
        guard droppedBytes > 0 else { return }
        dropped(droppedBytes)
        droppedBytes = 0
    }
}
