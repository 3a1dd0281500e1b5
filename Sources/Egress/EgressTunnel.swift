// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import Synchronization

/// Two connections that are one: what is read of either is written to the other, one read at a time, as fast as the slower side and the tenant's bandwidth let it.
/// Confined to the gate's loop.
final class EgressTunnel {
    /// Without a byte either way; shorter where one side has sent all that it will, for it may be gone.
    static let idleTimeout = (open: TimeAmount.minutes(5), half: TimeAmount.seconds(30))

    /// What a socket takes before it is read. At its end NIO reads all of that at once, whatever the bandwidth.
    static let receiveBuffer: SocketOptionValue = 256 << 10

    /// Bytes to the far end, and from it.
    let counts: Counts
    private let near: any Channel
    private let far: any Channel
    private let gate: EgressGate
    private let tenant: Name
    private var idle: Scheduled<Void>?
    private var movedAt = NIODeadline.now()
    private var hasEnded = false
    private var isClosed = false
    /// Reads that wait for the tenant's bandwidth.
    private var resume: (near: Scheduled<Void>?, far: Scheduled<Void>?)

    final class Counts: Sendable {
        let moved = Mutex((sent: UInt64(0), received: UInt64(0)))
    }

    init(near: any Channel, far: any Channel, gate: EgressGate, tenant: Name) {
        (self.near, self.far, self.gate, self.tenant) = (near, far, gate, tenant)
        counts = Counts()
        armIdle()
    }

    private func armIdle() {
        let end = movedAt + (hasEnded ? Self.idleTimeout.half : Self.idleTimeout.open)
        let bound = NIOLoopBound(self, eventLoop: near.eventLoop)
        idle?.cancel()
        idle = near.eventLoop.scheduleTask(deadline: end) {
            let me = bound.value
            if me.movedAt + (me.hasEnded ? Self.idleTimeout.half : Self.idleTimeout.open) > .now() { me.armIdle() } else { me.close() }
        }
    }

    /// What came with the head, before any read.
    func begin(with first: ByteBuffer) { pass(first, fromNear: true) }

    func pass(_ data: ByteBuffer, fromNear: Bool) {
        let (from, to) = fromNear ? (near, far) : (far, near)
        let count = data.readableBytes
        guard let wait = gate.moved(count, tenant, isSent: fromNear) else { return close() }
        movedAt = .now()
        counts.moved.withLock { if fromNear { $0.sent += UInt64(count) } else { $0.received += UInt64(count) } }
        let bound = NIOLoopBound(self, eventLoop: from.eventLoop)
        to.writeAndFlush(data).whenComplete { result in
            let me = bound.value
            guard !me.isClosed else { return }
            guard case .success = result else { return me.close() }
            if wait == .zero { return from.read() }
            // The wait is no idleness.
            me.movedAt = .now() + wait
            let read = from.eventLoop.scheduleTask(in: wait) { from.read() }
            if fromNear { me.resume.near = read } else { me.resume.far = read }
        }
    }

    /// One side has sent all that it will: the other is told so behind what it still has to get.
    func ended(fromNear: Bool) {
        guard !isClosed else { return }
        hasEnded = true
        armIdle()
        let to = fromNear ? far : near
        to.writeAndFlush(ByteBuffer()).whenComplete { _ in to.close(mode: .output, promise: nil) }
    }

    /// One side is gone: the other gets what is on its way to it, for a while, and is closed.
    func lost(near isNear: Bool) {
        guard stop() else { return }
        let other = isNear ? far : near
        let limit = other.eventLoop.scheduleTask(in: Self.idleTimeout.half) { other.close(promise: nil) }
        other.writeAndFlush(ByteBuffer()).whenComplete { _ in
            limit.cancel()
            other.close(promise: nil)
        }
    }

    func close() {
        guard stop() else { return }
        near.close(promise: nil)
        far.close(promise: nil)
    }

    private func stop() -> Bool {
        guard !isClosed else { return false }
        isClosed = true
        for timer in [idle, resume.near, resume.far] { timer?.cancel() }
        return true
    }
}

/// One side's reads.
final class EgressSide: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let tunnel: EgressTunnel
    private let isNear: Bool
    private var isAtEnd = false
    /// What one read brought.
    private var gathered: ByteBuffer?

    init(_ tunnel: EgressTunnel, isNear: Bool) { (self.tunnel, self.isNear) = (tunnel, isNear) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var data = unwrapInboundIn(data)
        if gathered?.writeBuffer(&data) == nil { gathered = data }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if let data = gathered {
            gathered = nil
            tunnel.pass(data, fromNear: isNear)
        } else if !isAtEnd {
            context.read()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent else { return context.fireUserInboundEventTriggered(event) }
        isAtEnd = true
        tunnel.ended(fromNear: isNear)
    }

    func channelInactive(context: ChannelHandlerContext) {
        tunnel.lost(near: isNear)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { tunnel.close() }
}
