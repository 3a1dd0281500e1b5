// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import NIOPosix
import Synchronization

/// One worker's way out.
public final class EgressListener: Sendable {
    private struct State {
        var server: (any Channel)?
        var descriptor: CInt?
        var connections: [ObjectIdentifier: any Channel] = [:]
        var isClosed = false
        var told = (second: UInt64(0), count: 0)
    }
    /// Sentences a second; what is beyond is left out.
    static let sentences = 10

    let gate: EgressGate
    let tenant: Name
    private let sink: @Sendable (String) -> Void
    private let state = Mutex(State())

    init(gate: EgressGate, tenant: Name, descriptor: CInt, _ told: @escaping @Sendable (String) -> Void) {
        (self.gate, self.tenant, sink) = (gate, tenant, told)
        state.withLock { $0.descriptor = descriptor }
        // Half-closed: a client that has sent all of its request still reads the answer.
        ServerBootstrap(group: gate.loop)
            .childChannelOption(.autoRead, value: false)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.socketOption(.so_rcvbuf), value: EgressTunnel.receiveBuffer)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(EgressClient(self))
                }
            }
            .withBoundSocket(descriptor)
            .whenComplete { result in
                switch result {
                case .success(let channel):
                    let isClosed = self.state.withLock { state in
                        if !state.isClosed { state.server = channel }
                        return state.isClosed
                    }
                    channel.closeFuture.whenComplete { _ in self.state.withLock { $0.descriptor = nil } }
                    if isClosed { channel.close(promise: nil) }
                case .failure(let error):
                    self.state.withLock { $0.descriptor = nil }
                    self.tell("egress: the way out cannot be served: \(error)")
                }
            }
    }

    /// Of the listening socket, as long as it is open.
    public var descriptor: CInt? { state.withLock { $0.descriptor } }

    /// Ends it with all of its connections: the worker is gone, or somebody else's.
    public func close() {
        let channels = state.withLock { state in
            state.isClosed = true
            defer { (state.server, state.descriptor, state.connections) = (nil, nil, [:]) }
            return Array(state.connections.values) + (state.server.map { [$0] } ?? [])
        }
        for channel in channels { channel.close(promise: nil) }
    }

    /// Whether it may live: what comes after the close is closed at once.
    func add(_ channel: any Channel) -> Bool {
        state.withLock { state in
            if !state.isClosed { state.connections[ObjectIdentifier(channel)] = channel }
            return !state.isClosed
        }
    }

    func remove(_ channel: any Channel) { _ = state.withLock { $0.connections.removeValue(forKey: ObjectIdentifier(channel)) } }

    func tell(_ text: String) {
        let second = NIODeadline.now().uptimeNanoseconds / 1_000_000_000
        let isHeard = state.withLock { state in
            if state.told.second != second { state.told = (second, 0) }
            state.told.count += 1
            return state.told.count <= Self.sentences
        }
        if isHeard { sink(text) }
    }
}

/// What a worker has sent until its way out is open, and its side of the connection from then on.
final class EgressClient: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// From the connection to the end of its head, and from there to the far end's answer to the connection.
    static let headTimeout = TimeAmount.seconds(10)
    static let connectTimeout = TimeAmount.seconds(10)
    /// Of one name; the others are not tried.
    static let mostAddresses = 4
    static let longestDebt = TimeAmount.seconds(10)

    private let listener: EgressListener
    private var gate: EgressGate { listener.gate }
    private var received: [UInt8] = []
    /// How far the head's end was looked for, and where it is.
    private var scanned = 0
    private var headEnd = 0
    private var hasEnded = false
    /// The far end, as long as it does not answer.
    private var connecting: (any Channel)?
    private var isDecided = false
    private var hasPlace = false
    private var isJoined = false
    private var timer: Scheduled<Void>?

    init(_ listener: EgressListener) { self.listener = listener }

    func channelActive(context: ChannelHandlerContext) {
        guard listener.add(context.channel) else { return context.close(promise: nil) }
        if let refusal = gate.enter(listener.tenant) { return refuse(context, refusal) }
        hasPlace = true
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timer = context.eventLoop.scheduleTask(in: Self.headTimeout) {
            let (me, context) = bound.value
            me.refuse(context, .late("no whole request came within \(Self.headTimeout.nanoseconds / 1_000_000_000) s"))
        }
        context.read()
    }

    func channelInactive(context: ChannelHandlerContext) {
        timer?.cancel()
        listener.remove(context.channel)
        if hasPlace { gate.leave(listener.tenant) }
        hasPlace = false
        connecting?.close(promise: nil)
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event { hasEnded = true }
        context.fireUserInboundEventTriggered(event)
    }

    func handlerRemoved(context: ChannelHandlerContext) { timer?.cancel() }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if isJoined { return context.fireChannelRead(data) }
        received.append(contentsOf: unwrapInboundIn(data).readableBytesView)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if isJoined { return context.fireChannelReadComplete() }
        guard !isDecided else { return }
        guard let end = findEnd() else {
            if received.count > EgressHead.limit { return refuse(context, .malformed("the head is longer than \(EgressHead.limit) bytes")) }
            return context.read()
        }
        isDecided = true
        timer?.cancel()
        headEnd = end
        do throws(EgressHead.Fault) { look(context, try EgressHead(Array(received[..<end]))) } catch {
            refuse(context, .malformed(error.text))
        }
    }

    /// Each byte is looked at once, however few come at a time.
    private func findEnd() -> Int? {
        let count = min(received.count, EgressHead.limit)
        while scanned < count {
            scanned += 1
            if scanned >= 4, received[scanned - 1] == 0x0A, received[scanned - 4..<scanned].elementsEqual([0x0D, 0x0A, 0x0D, 0x0A]) {
                return scanned
            }
        }
        return nil
    }

    private func look(_ context: ChannelHandlerContext, _ head: EgressHead) {
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        gate.addresses(head, listener.tenant) { result in
            let (me, context) = bound.value
            guard context.channel.isActive else { return }
            switch result {
            case .failure(let refusal): me.refuse(context, refusal, head)
            case .success(let addresses): me.payDebt(context, head, addresses.prefix(Self.mostAddresses))
            }
        }
    }

    /// What the tenant has moved beyond its bandwidth is waited for before there is one connection more.
    private func payDebt(_ context: ChannelHandlerContext, _ head: EgressHead, _ addresses: ArraySlice<SocketAddress>) {
        let debt = gate.debt(of: listener.tenant)
        if debt == .zero { return connect(context, head, to: addresses) }
        guard debt <= Self.longestDebt else {
            return refuse(context, .busy("the tenant's bandwidth is used up for \(debt.nanoseconds / 1_000_000_000) s"), head)
        }
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timer = context.eventLoop.scheduleTask(in: debt) {
            let (me, context) = bound.value
            me.connect(context, head, to: addresses)
        }
    }

    /// To the first of the addresses that answers.
    private func connect(_ context: ChannelHandlerContext, _ head: EgressHead, to addresses: ArraySlice<SocketAddress>) {
        guard let address = addresses.first else { return refuse(context, .unreachable("\(head.host):\(head.port) does not answer"), head) }
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        ClientBootstrap(group: context.eventLoop)
            .connectTimeout(Self.connectTimeout)
            .channelOption(.autoRead, value: false)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(.socketOption(.so_rcvbuf), value: EgressTunnel.receiveBuffer)
            .channelInitializer { far in
                bound.value.0.connecting = far
                return far.eventLoop.makeSucceededVoidFuture()
            }
            .connect(to: address)
            .whenComplete { result in
                let (me, context) = bound.value
                me.connecting = nil
                switch result {
                case .success(let far):
                    guard context.channel.isActive else { return far.close(promise: nil) }
                    me.join(context, far, head)
                case .failure:
                    guard context.channel.isActive else { return }
                    me.connect(context, head, to: addresses.dropFirst())
                }
            }
    }

    private func join(_ context: ChannelHandlerContext, _ far: any Channel, _ head: EgressHead) {
        isJoined = true
        let tunnel = EgressTunnel(near: context.channel, far: far, gate: gate, tenant: listener.tenant)
        // A far end that takes nothing keeps its socket beyond the worker's: both have to be gone.
        hasPlace = false
        context.channel.closeFuture.and(far.closeFuture).whenComplete { [gate, tenant = listener.tenant] _ in gate.leave(tenant) }
        let began = NIODeadline.now()
        let (listener, name) = (listener, "\(head.host):\(head.port)")
        far.closeFuture.whenComplete { [counts = tunnel.counts] _ in
            let took = Double((NIODeadline.now() - began).nanoseconds / 1_000_000) / 1000
            let (sent, received) = counts.moved.withLock { $0 }
            listener.tell("egress to \(name): \(sent) bytes sent, \(received) received in \(took) s")
        }
        do {
            try far.pipeline.syncOperations.addHandler(EgressSide(tunnel, isNear: false))
            try context.pipeline.syncOperations.addHandler(EgressSide(tunnel, isNear: true))
        } catch {
            return tunnel.close()
        }
        if head.first.isEmpty {
            context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: "HTTP/1.1 200 Connection established\r\n\r\n")), promise: nil)
        }
        let first = head.first + received[headEnd...]
        if !first.isEmpty { tunnel.begin(with: ByteBuffer(bytes: first)) }
        // What this handler has seen of the connection is over; that it ends is still its to note.
        received = []
        if first.isEmpty { context.channel.read() }
        far.read()
        if hasEnded { tunnel.ended(fromNear: true) }
    }

    private func refuse(_ context: ChannelHandlerContext, _ refusal: EgressRefusal, _ head: EgressHead? = nil) {
        isDecided = true
        timer?.cancel()
        if hasPlace { gate.countRefusal(listener.tenant) }
        listener.tell("egress\(head.map { " to \($0.host):\($0.port)" } ?? "") refused: \(refusal.text)")
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: refusal.answer))).whenComplete { _ in channel.close(promise: nil) }
    }
}
