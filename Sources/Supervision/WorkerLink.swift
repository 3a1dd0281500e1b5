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
    /// Bytes of answers that a worker may leave unread; with more it is not read itself, so that it can ask for nothing more.
    static let answerLimit = 1 << 20
    /// How long it may then read nothing at all.
    static let answerTimeout = TimeAmount.seconds(10)

    private let worker: WorkerID
    private let received: (Frame) -> Void
    private let broken: (String, _ isFault: Bool) -> Void
    private var decoder = FrameDecoder()
    private var isBroken = false
    private var stall: Scheduled<Void>?
    private var context: ChannelHandlerContext?
    /// Its tenant's; one of its own as long as it has no tenant.
    private var share: FrameShare
    /// Frames that have been read wait in the decoder for their turn.
    private var isWaiting = false
    private var isHandingOn = false
    private var isClosed = false
    private var isHeld = false
    /// Bytes of answers that wait, and of those that the worker's socket has taken.
    private var unread = 0
    private var taken = 0
    private var isBehind = false
    private var deafness: Scheduled<Void>?
    /// Slots whose invocation is not wholly on its way.
    private var untaken: Set<UInt16> = []

    /// `broken` hears why, and whether the worker has itself broken a rule: a connection also ends with its process.
    init(
        worker: WorkerID, share: FrameShare, received: @escaping (Frame) -> Void,
        broken: @escaping (String, _ isFault: Bool) -> Void
    ) {
        self.worker = worker
        self.share = share
        self.received = received
        self.broken = broken
    }

    /// From here on it is one of a tenant's.
    func join(_ share: FrameShare) { self.share = share }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func channelActive(context: ChannelHandlerContext) {
        context.read()
        context.fireChannelActive()
    }
    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        stall?.cancel()
        deafness?.cancel()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isBroken else { return }
        let buffer = unwrapInboundIn(data)
        decoder.feed(Array(buffer.readableBytesView))
        handOn()
    }

    /// Hands frames on until there is no whole one, until its part of the tenant's share is used up, or until it is too far behind with reading.
    private func handOn() {
        guard !isBroken, !isWaiting, !isBehind, !isHandingOn else { return }
        isHandingOn = true
        defer { isHandingOn = false }
        var room = share.room()
        do throws(WireError) {
            while room > 0, !share.isFull, !isBehind {
                guard let frame = try decoder.next() else { return watchForStall() }
                stall?.cancel()
                stall = nil
                guard frame.kind.isFromWorker else { return end("sent a frame that only the supervisor may send (\(frame.kind))") }
                let weight = FrameShare.weight(frame.kind)
                room -= weight
                share.spend(weight)
                received(frame)
                if isBroken { return }
            }
        } catch {
            return end("broke the worker protocol: \(error)")
        }
        // What is left may be whole frames, which are not late.
        stall?.cancel()
        stall = nil
        guard !isBehind else { return }
        isWaiting = true
        share.wait(self)
    }

    /// Its turn has come.
    func turnCame() {
        isWaiting = false
        handOn()
        endIfClosed()
        readOn()
    }

    func channelInactive(context: ChannelHandlerContext) {
        isClosed = true
        endIfClosed()
        context.fireChannelInactive()
    }

    /// What it said before its end is heard first.
    private func endIfClosed() {
        if isClosed, !isWaiting { end("closed its connection to the supervisor (fd 3)", isFault: false) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { end("its connection failed: \(error)", isFault: false) }

    /// Reads on only while nobody is behind and what was read has been handed on.
    func channelReadComplete(context: ChannelHandlerContext) {
        readOn()
        context.fireChannelReadComplete()
    }

    private func readOn() {
        guard !isHeld, !isWaiting, !isBehind, !isBroken else { return }
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

    /// Sends an invocation, which is bytes already.
    func invoke(_ frame: [UInt8], slot: UInt16) {
        untaken.insert(slot)
        send(frame) { $0.untaken.remove(slot) }
    }

    /// Whether the worker's socket has taken all of the slot's invocation: before that it cannot have been read, let alone be answered.
    func hasTaken(_ slot: UInt16) -> Bool { !untaken.contains(slot) }

    /// Sends the answer to a call or an emit. Such as it has not read count against the worker and against its tenant.
    func reply(_ frame: Frame) {
        let bytes = frame.encoded()
        let (count, share) = (bytes.count, share)
        guard context != nil, !isBroken else { return }
        unread += count
        share.holdAnswer(count)
        send(bytes) { link in
            share.releaseAnswer(count)
            link.answerTaken(count)
        }
        if unread > Self.answerLimit, !isBehind {
            isBehind = true
            watchForDeafness()
        }
    }

    private func send(_ frame: [UInt8], taken: @escaping (WorkerLink) -> Void) {
        guard let context, !isBroken else { return }
        let promise = context.eventLoop.makePromise(of: Void.self)
        // The link is kept until then: what waits is on its tenant's account.
        promise.futureResult.assumeIsolated().whenComplete { _ in taken(self) }
        context.writeAndFlush(wrapOutboundOut(context.channel.allocator.buffer(bytes: frame)), promise: promise)
    }

    private func answerTaken(_ count: Int) {
        unread -= count
        taken += count
        guard isBehind, unread <= Self.answerLimit, !isBroken else { return }
        isBehind = false
        deafness?.cancel()
        handOn()
        readOn()
    }

    private func watchForDeafness() {
        let before = taken
        deafness = context?.eventLoop.assumeIsolated().scheduleTask(in: Self.answerTimeout) { [weak self] in
            guard let self, isBehind else { return }
            guard taken == before else { return watchForDeafness() }
            let seconds = Self.answerTimeout.nanoseconds / 1_000_000_000
            end("has read no answer from its socket (fd 3) for \(seconds) seconds, and \(unread >> 10) KiB wait")
        }
    }

    func close() {
        isBroken = true
        stall?.cancel()
        deafness?.cancel()
        context?.close(promise: nil)
    }

    private func end(_ reason: String, isFault: Bool = true) {
        guard !isBroken else { return }
        isBroken = true
        stall?.cancel()
        deafness?.cancel()
        broken("the worker " + reason, isFault)
        context?.close(promise: nil)
    }

    private func watchForStall() {
        guard decoder.pendingBytes > 0, stall == nil else { return }
        stall = context?.eventLoop.assumeIsolated().scheduleTask(in: Self.frameTimeout) { [weak self] in
            self?.end("left a frame unfinished for \(Self.frameTimeout.nanoseconds / 1_000_000_000) seconds")
        }
    }
}
