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
    let openBodies = OpenBodies()
    private let logger: Logger
    /// Connections at once on one listener; more are closed at once.
    static let connectionLimit = 4096
    /// Connections that may wait to be taken; the kernel drops the first packet of more, and their callers try again a second later.
    static let backlog: CInt = 1024

    public init(service: any NodeService, supervisor: Supervisor, logger: Logger) {
        self.service = service
        self.supervisor = supervisor
        self.logger = logger
    }

    /// Takes the listener over. Every connection lives on the supervisor's loop.
    public func listen(_ descriptor: CInt, isControl: Bool) async throws -> any Channel {
        let (service, supervisor, openBodies, logger) = (service, supervisor, openBodies, logger)
        let open = NIOLoopBoundBox.makeBoxSendingValue(0, eventLoop: supervisor.loop)
        let channel = try await ServerBootstrap(group: supervisor.loop)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard open.value < Self.connectionLimit else { throw ChannelError.ioOnClosedChannel }
                    open.value += 1
                    channel.closeFuture.whenComplete { _ in open.value -= 1 }
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(
                        withPipeliningAssistance: true, withErrorHandling: false)
                    try channel.pipeline.syncOperations.addHandler(
                        HTTPHandler(service: service, supervisor: supervisor, isControl: isControl, openBodies: openBodies, logger: logger))
                }
            }
            .childChannelOption(.maxMessagesPerRead, value: 16)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .withBoundSocket(descriptor).get()
        // Again: on a socket that it is given, NIO listens with its own 128 whatever its option says.
        guard Glibc.listen(descriptor, Self.backlog) == 0 else { throw IOError(errnoCode: errno, reason: "listen") }
        return channel
    }
}
