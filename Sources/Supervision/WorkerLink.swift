// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import Wire

/// The supervisor's end of one worker's fd 3. Cuts the byte stream into frames and bounds what a worker may send.
final class WorkerLink: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// How long one frame may take from its first byte to its last.
    static let frameTimeout = TimeAmount.seconds(10)

    private let worker: WorkerID
    private let received: (Frame) -> Void
    private let broken: (String) -> Void
    private var decoder = FrameDecoder()
    private var isBroken = false
    private var stall: Scheduled<Void>?
    private var context: ChannelHandlerContext?
    private var framesInPeriod = 0
    private var periodBegan = NIODeadline.now()
    private var isRateLimited = false
    private var isHeld = false

    /// Frames a worker may send in each period; beyond, it is not read until the period ends, and blocks in its own `write`.
    static let frameLimit = 2000
    static let framePeriod = TimeAmount.milliseconds(100)

    init(worker: WorkerID, received: @escaping (Frame) -> Void, broken: @escaping (String) -> Void) {
        self.worker = worker
        self.received = received
        self.broken = broken
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func channelActive(context: ChannelHandlerContext) {
        context.read()
        context.fireChannelActive()
    }
    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        stall?.cancel()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isBroken else { return }
        let buffer = unwrapInboundIn(data)
        decoder.feed(Array(buffer.readableBytesView))
        do throws(WireError) {
            while let frame = try decoder.next() {
                guard frame.kind.isFromWorker else { return end("sent a frame that only the supervisor may send (\(frame.kind))") }
                framesInPeriod += 1
                received(frame)
                if isBroken { return }
            }
        } catch {
            return end("broke the worker protocol: \(error)")
        }
        watchForStall(context)
    }

    func channelInactive(context: ChannelHandlerContext) {
        end("closed its connection to the supervisor (fd 3)")
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { end("its connection failed: \(error)") }

    /// Reads on only while nobody is behind and the worker keeps to its rate.
    func channelReadComplete(context: ChannelHandlerContext) {
        let now = NIODeadline.now()
        if now - periodBegan >= Self.framePeriod {
            periodBegan = now
            framesInPeriod = 0
        } else if framesInPeriod >= Self.frameLimit, !isRateLimited {
            isRateLimited = true
            context.eventLoop.assumeIsolated().scheduleTask(deadline: periodBegan + Self.framePeriod) { [weak self] in
                self?.isRateLimited = false
                self?.readOn()
            }
        }
        readOn()
        context.fireChannelReadComplete()
    }

    private func readOn() {
        guard !isHeld, !isRateLimited, !isBroken else { return }
        context?.read()
    }

    /// The reader of a streamed answer is behind.
    func hold() { isHeld = true }

    func release() {
        guard isHeld else { return }
        isHeld = false
        readOn()
    }

    /// Whether both ways are between two frames: whoever gets the socket can go on.
    var isBetweenFrames: Bool {
        guard !isBroken, decoder.pendingBytes == 0, let context else { return false }
        return (try? context.channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 1 == 0
    }

    func send(_ frame: Frame) { send(frame.encoded()) }

    /// Sends a frame that is bytes already.
    func send(_ frame: [UInt8]) {
        guard let context, !isBroken else { return }
        context.writeAndFlush(wrapOutboundOut(context.channel.allocator.buffer(bytes: frame)), promise: nil)
    }

    func close() {
        isBroken = true
        stall?.cancel()
        context?.close(promise: nil)
    }

    private func end(_ reason: String) {
        guard !isBroken else { return }
        isBroken = true
        stall?.cancel()
        broken("the worker " + reason)
        context?.close(promise: nil)
    }

    private func watchForStall(_ context: ChannelHandlerContext) {
        if decoder.pendingBytes == 0 {
            stall?.cancel()
            stall = nil
        } else if stall == nil {
            stall = context.eventLoop.assumeIsolated().scheduleTask(in: Self.frameTimeout) { [weak self] in
                self?.end("left a frame unfinished for \(Self.frameTimeout.nanoseconds / 1_000_000_000) seconds")
            }
        }
    }
}
