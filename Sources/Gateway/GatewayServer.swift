// SPDX-License-Identifier: Apache-2.0
import Glibc
public import Logging
public import NIOCore
import NIOHTTP1
import NIOPosix
public import Supervision

/// Serves HTTP on listening sockets that the spawner owns and handed over.
public struct GatewayServer: Sendable {
    private let service: any NodeService
    private let supervisor: Supervisor
    let room = BodyRoom()
    private let logger: Logger
    private let connections: NIOLoopBoundBox<Connections>
    /// Connections at once, of callers and on the control socket each. For one more those end that have waited longest without a request, and where each has one, the new one:
    /// silent peers shut nobody out. Fewer where the process may not have that many descriptors.
    public static var mostConnections: Int { min(4096, sysconf(Int32(_SC_OPEN_MAX)) / 4) }
    private let connectionLimit: Int
    /// Connections that may wait to be taken; the kernel drops the first packet of more, and their callers try again a second later.
    static let backlog: CInt = 1024

    public init(
        service: any NodeService, supervisor: Supervisor, connectionLimit: Int = GatewayServer.mostConnections, logger: Logger
    ) {
        self.connectionLimit = connectionLimit
        self.service = service
        self.supervisor = supervisor
        self.logger = logger
        connections = NIOLoopBoundBox.makeBoxSendingValue(Connections(), eventLoop: supervisor.loop)
    }

    /// Takes the listener over. Every connection lives on the supervisor's loop.
    public func listen(_ descriptor: CInt, isControl: Bool) async throws -> any Channel {
        let server = self
        let channel = try await ServerBootstrap(group: supervisor.loop)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try server.furnish(channel, isControl: isControl) }
            }
            .childChannelOption(.maxMessagesPerRead, value: 16)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .withBoundSocket(descriptor).get()
        // Again: on a socket that it is given, NIO listens with its own 128 whatever its option says.
        guard Glibc.listen(descriptor, Self.backlog) == 0 else { throw IOError(errnoCode: errno, reason: "listen") }
        let connections = connections
        try await supervisor.loop.submit { connections.value.add(listener: channel) }.get()
        return channel
    }

    /// Goes on with a connection that another daemon had, between two requests. The socket is adopted.
    public func adopt(_ socket: CInt, isControl: Bool) {
        let server = self
        _ = ClientBootstrap(group: supervisor.loop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try server.furnish(channel, isControl: isControl) }
            }
            .channelOption(.maxMessagesPerRead, value: 16)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .withConnectedSocket(socket)
    }

    /// Accepts nothing more and gives the connections away, each when it is between two requests; `give` gets a socket that stays ours, and whether it is one of the control
    /// socket's, and says whether it is on its way; nil where nobody takes them. On the loop.
    public func letGo(_ give: ((CInt, Bool) -> Bool)?) { connections.value.letGo(give) }

    /// How many connections could not be given away yet. On the loop.
    public var remainingConnections: Int { connections.value.remaining() }

    private func furnish(_ channel: any Channel, isControl: Bool) throws {
        let connections = connections
        guard connections.value.takePlace(isControl: isControl, limit: connectionLimit, at: .now()) else {
            throw ChannelError.ioOnClosedChannel
        }
        let boundary = RequestBoundary()
        let direct = isControl ? nil : DirectWay(boundary: boundary, bodyLimit: service.bodyLimit)
        if let direct { try channel.pipeline.syncOperations.addHandler(direct) }
        try channel.pipeline.syncOperations.addHandler(boundary)
        try channel.pipeline.syncOperations.configureHTTPServerPipeline(withPipeliningAssistance: true, withErrorHandling: false)
        let handler = HTTPHandler(
            service: service, supervisor: supervisor, isControl: isControl, room: room, logger: logger,
            connections: connections.value, boundary: boundary, direct: direct)
        let held = NIOLoopBound(handler, eventLoop: channel.eventLoop)
        channel.closeFuture.whenComplete { _ in connections.value.leavePlace(held.value) }
        try channel.pipeline.syncOperations.addHandler(handler)
        direct?.serve(handler)
    }
}
