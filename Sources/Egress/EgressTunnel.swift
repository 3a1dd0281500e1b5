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
        movedAt = .now()
        counts.moved.withLock { if fromNear { $0.sent += UInt64(count) } else { $0.received += UInt64(count) } }
        let wait = gate.moved(count, tenant, isSent: fromNear)
        let bound = NIOLoopBound(self, eventLoop: from.eventLoop)
        to.writeAndFlush(data).whenComplete { result in
            guard case .success = result, let wait else { return bound.value.close() }
            if wait == .zero { return from.read() }
            from.eventLoop.scheduleTask(in: wait) { from.read() }
        }
    }

    /// One side has sent all that it will.
    func ended(fromNear: Bool) {
        hasEnded = true
        armIdle()
        (fromNear ? far : near).close(mode: .output, promise: nil)
    }

    func close() {
        idle?.cancel()
        near.close(promise: nil)
        far.close(promise: nil)
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
        tunnel.close()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { tunnel.close() }
}
