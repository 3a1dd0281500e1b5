// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import NIOHTTP1

/// The short way of plain calls: past NIO's decoder, encoder and pipelining, which cost more than everything else that a warm call needs.
///
/// The first handler of a connection. It takes a plain call from what was read and gives it to ``HTTPHandler``; anything else goes to NIO's handlers, and everything
/// after it, until the request that it belongs to is answered and nothing else was read. What comes before a plain call's answer is kept here, and no more is read then.
final class DirectWay: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = IOData
    typealias OutboundOut = IOData

    private let boundary: RequestBoundary
    private let bodyLimit: Int
    private var handler: HTTPHandler?
    private var context: ChannelHandlerContext?
    private var line = PlainCall.Line()
    /// What was read and is nobody's yet.
    private var held: ByteBuffer?
    /// Room for it, where it is much.
    private var payer: BodyPayer?
    /// A plain call is being answered.
    private(set) var isAnswering = false
    /// NIO's decoder has the beginning of a request, or of more.
    private var isPassing = false
    private var isPumping = false
    /// What waits until nothing is held: the news that the caller sends nothing more, and the wish to read on.
    private var endWaits = false
    private var readWaits = false

    init(boundary: RequestBoundary, bodyLimit: Int) {
        self.boundary = boundary
        self.bodyLimit = bodyLimit
    }

    /// Whose calls these are; without one everything goes to NIO's handlers.
    func serve(_ handler: HTTPHandler) { self.handler = handler }

    /// Whether nothing of a next request is here.
    var isEmpty: Bool { held == nil }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        handler = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if isPassing || handler == nil || boundary.discards != nil { return context.fireChannelRead(data) }
        var bytes = unwrapInboundIn(data)
        if held?.writeBuffer(&bytes) == nil { held = bytes }
        pump(context)
    }

    private func pump(_ context: ChannelHandlerContext) {
        guard !isPumping else { return }
        isPumping = true
        // A caller that does not take its answers gets no more of them.
        while !isAnswering, context.channel.isWritable, var bytes = held {
            held = nil
            // After the last answer nothing is served: its caller was told that it is the last.
            guard let handler, !handler.isEnding else { break }
            if !isPassing, let call = PlainCall(&bytes, bodyLimit: bodyLimit, line: &line) {
                if bytes.readableBytes > 0 { held = bytes }
                isAnswering = true
                handler.serve(call)
            } else {
                isPassing = true
                context.fireChannelRead(NIOAny(bytes))
            }
        }
        isPumping = false
        keep(context)
        guard held == nil else { return }
        if endWaits {
            endWaits = false
            context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        }
        if readWaits, context.channel.isWritable {
            readWaits = false
            context.read()
        }
    }

    /// Takes room for what is held now: in the share of the tenant whose call it waits for, or else in nobody's. Where there is none the connection ends.
    private func keep(_ context: ChannelHandlerContext) {
        let count = held?.readableBytes ?? 0
        guard count > OpenBodies.free, let handler else { return letGo() }
        if payer == nil {
            let tenant = isAnswering ? line.function?.tenant : nil
            payer = tenant.map { BodyPayer(handler.room.known, $0) } ?? BodyPayer(anybody: handler.room, of: nil)
        }
        guard payer?.reserve(count) == false else { return }
        held = nil
        letGo()
        context.close(promise: nil)
    }

    private func letGo() {
        payer?.release()
        payer = nil
    }

    /// The request at hand is answered.
    func answered() {
        if isAnswering {
            isAnswering = false
            if let context, !isPumping { pump(context) }
        } else {
            isPassing = !boundary.isBetweenRequests
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { pump(context) }
        context.fireChannelWritabilityChanged()
    }

    /// Where the parts of an answer go that is not written in one piece: right above NIO's encoder.
    var encoding: ChannelHandlerContext? {
        try? context?.pipeline.syncOperations.context(handlerType: ByteToMessageHandler<HTTPRequestDecoder>.self)
    }

    func write(_ bytes: ByteBuffer, promise: EventLoopPromise<Void>?) {
        context?.writeAndFlush(wrapOutboundOut(.byteBuffer(bytes)), promise: promise)
    }

    func read(context: ChannelHandlerContext) {
        if (isAnswering && held != nil) || !context.channel.isWritable { readWaits = true } else { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if held != nil, case ChannelEvent.inputClosed = event {
            endWaits = true
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        held = nil
        letGo()
        context.fireChannelInactive()
    }
}
