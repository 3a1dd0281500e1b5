// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Glibc
import Logging
import NIOCore
import NIOHTTP1
import Supervision

/// One HTTP connection. The invoke route is served right here, on the loop that also holds the supervisor and the workers' sockets; every other route
/// is answered by a task. NIO's pipeline handler sees to it that the next request comes only after this one's answer.
final class HTTPHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    /// The largest body of a control request that is no upload, in bytes.
    static let controlLimit = 1 << 20
    /// The largest archive, in bytes.
    static let uploadLimit = 256 << 20
    /// The most of a refused request's body that is read before its answer, so that the connection can go on to the next request, in bytes.
    static let refusedLimit = 1 << 20
    /// How long a request may take from its head to the end of its body, and a connection may idle.
    static let bodyTimeout = TimeAmount.seconds(60)
    static let uploadTimeout = TimeAmount.seconds(600)
    static let idleTimeout = TimeAmount.seconds(75)

    enum State {
        case idle
        case collecting(HTTPRequestHead, ByteBuffer, limit: Int, Target)
        case uploading(HTTPRequestHead, RequestPath, Upload)
        case storing(ObjectUpload, UInt64)
        case sending(ObjectDownload, isWaiting: Bool)
        /// The body is read and thrown away; the answer goes out at its end.
        case refusing(HTTPRequestHead, Problem)
        case answering
    }
    enum Target { case invoke(InvokeTarget), control(RequestPath), object(ObjectTarget), trigger(TriggerTarget) }

    let service: any NodeService
    let supervisor: Supervisor
    let isControl: Bool
    let connections: Connections
    let boundary: RequestBoundary
    /// Plain calls come and are answered through it; nil where every request comes through NIO's decoder.
    let direct: DirectWay?
    /// Bytes of the present request's body, by its head; nil where that does not say.
    private(set) var announcedBody: Int?
    private let logger: Logger
    var caller = Caller.network(key: nil, isLoopback: false)
    private var isTrustedPeer = false
    private var peerUser: UInt32?
    private var isLoopback = false
    var state = State.idle
    var context: ChannelHandlerContext?
    private var timer: Scheduled<Void>?
    private var timerAt: NIODeadline?
    private var heardAt = NIODeadline.distantFuture
    private var closesAt = NIODeadline.distantFuture
    var running: InvocationID?
    /// Holds this handler, and is let go with the connection.
    var observer: InvocationObserver?
    /// How the function's answer is shown; nil where it is shown as it is.
    var view: AnswerView?
    let room: BodyRoom
    /// For the body of the request at hand; nil where nobody counts it.
    var payer: BodyPayer?
    /// The tenant in whose share the answer at hand waits for its caller; nil where nobody counts it.
    var answersTo: Name?
    /// For an answer whose last byte is not written yet.
    var unread: BodyPayer?
    var isStreaming = false
    /// A status in a streamed answer that HTTP has no place for.
    var illegalStatus: Int?
    /// Whether the answer at hand may have a body at all (RFC 9112, section 6.3): what is sent without one is the next answer to its reader.
    var hasBody = true
    var isHead = false
    /// Whether it is one of those that the node's limit counts.
    var hasPlace = true
    private(set) var version = HTTPVersion.http1_1
    var keepsAlive = true
    /// The last answer is written: nothing more is said.
    var isEnding = false
    /// The request at hand has not been read to its end.
    var isBodyOwed = false
    /// Bytes of a refused request's body.
    private var refusedBytes = 0
    /// What is still read and thrown away after the last answer.
    var lingering: Lingering?
    var isReading = true

    init(
        service: any NodeService, supervisor: Supervisor, isControl: Bool, room: BodyRoom, logger: Logger,
        connections: Connections = Connections(), boundary: RequestBoundary = RequestBoundary(),
        direct: DirectWay? = nil
    ) {
        self.room = room
        self.connections = connections
        self.boundary = boundary
        self.direct = direct
        self.service = service
        self.supervisor = supervisor
        self.isControl = isControl
        self.logger = logger
    }

    func channelActive(context: ChannelHandlerContext) {
        self.context = context
        isLoopback = context.remoteAddress?.ipAddress.map { $0.hasPrefix("127.") || $0 == "::1" } ?? false
        if isControl { trustPeer(context) }
        connections.add(self)
        arm(Self.idleTimeout)
        context.fireChannelActive()
    }

    /// Operators are root, the node's own user, and whoever has the node's own group (`bulkhead`, where it runs as a service) as the first or another one.
    private func trustPeer(_ context: ChannelHandlerContext) {
        guard let provider = context.channel as? any SocketOptionProvider else { return }
        struct Credentials { var pid: Int32 = 0, uid: UInt32 = .max, gid: UInt32 = .max }
        let peer: EventLoopFuture<Credentials> = provider.unsafeGetSocketOption(level: .socket, name: .init(rawValue: SO_PEERCRED))
        peer.assumeIsolated().whenSuccess { [weak self] peer in
            self?.peerUser = peer.uid
            if peer.uid == 0 || peer.uid == getuid() || peer.gid == getgid() { self?.isTrustedPeer = true }
        }
        // What the kernel leaves of it is zero, which is no node's group; an error where there are more groups.
        let groups: EventLoopFuture<InlineArray<256, UInt32>> = provider.unsafeGetSocketOption(
            level: .socket, name: .init(rawValue: SO_PEERGROUPS))
        groups.assumeIsolated().whenSuccess { [weak self] groups in
            let own = getgid()
            if own != 0, groups.indices.contains(where: { groups[$0] == own }) { self?.isTrustedPeer = true }
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        timer?.cancel()
        release()
        unread?.release()
        unread = nil
        connections.remove(self)
        if let running { supervisor.abandon(running) }
        running = nil
        observer = nil
        if case .uploading(_, _, let upload) = state { upload.cancel(service) }
        if case .storing(let upload, _) = state { upload.cancel() }
        state = .idle
        self.context = nil
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { failed(error, context) }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event { callerEndedSending(context) }
        context.fireUserInboundEventTriggered(event)
    }

    /// The connection ends `after` from now unless something happens before. A timer that runs already looks again when it fires: a request costs no timer.
    func arm(_ after: TimeAmount) {
        guard let now = context?.eventLoop.now else { return }
        (heardAt, closesAt) = (now, now + after)
        if let timerAt, timerAt <= closesAt { return }
        timer?.cancel()
        schedule()
    }

    /// When the peer was last heard of, where the node waits for it: for a request, for the rest of one, to take an answer; nil while the node works. Whoever has its last
    /// answer is the first to make room.
    var waitsSince: NIODeadline? {
        guard lingering == nil else { return .uptimeNanoseconds(0) }
        guard running == nil, direct?.isEmpty ?? true else { return nil }
        return switch state {
        case .idle, .refusing, .collecting, .uploading, .storing, .sending(_, isWaiting: true): heardAt
        case .sending, .answering: nil
        }
    }

    /// For the place of another.
    func makeWay() { context?.close(promise: nil) }

    private func schedule() {
        timerAt = closesAt
        timer = context?.eventLoop.assumeIsolated().scheduleTask(deadline: closesAt) { [weak self] in
            guard let self, let context = self.context else { return }
            self.timerAt = nil
            if case .answering = self.state { return }
            guard self.closesAt <= context.eventLoop.now else { return self.schedule() }
            context.close(promise: nil)
        }
    }

    // MARK: requests

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): begin(head, context)
        case .body(let part): take(part, context)
        case .end: finish(context)
        }
    }

    /// Forgets the request before.
    func prepare(for head: HTTPRequestHead, body: Int?, keepsAlive: Bool) {
        self.keepsAlive = keepsAlive
        announcedBody = body
        isHead = head.method == .HEAD
        version = head.version
        isStreaming = false
        illegalStatus = nil
        view = nil
        answersTo = nil
        let key = head.headers.first(name: "authorization").flatMap { $0.hasPrefix("Bearer ") ? String($0.dropFirst(7)) : nil }
        caller = isControl && isTrustedPeer ? .operator : .network(key: key, isLoopback: isLoopback && !Self.isForAnother(head.headers))
    }

    /// Whether who has connected speaks for somebody else: a proxy (RFC 7239, RFC 9110 7.6.3), or this node with a webhook, whose address a tenant has chosen.
    private static func isForAnother(_ headers: HTTPHeaders) -> Bool {
        ["bulkhead-webhook", "forwarded", "x-forwarded-for", "x-real-ip", "via"].contains { headers.contains(name: $0) }
    }

    private func begin(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        (isBodyOwed, refusedBytes) = (true, 0)
        prepare(for: head, body: Self.bodyLength(head), keepsAlive: head.isKeepAlive)
        if isControl, !isTrustedPeer {
            state = .refusing(
                head,
                Problem(
                    code: "forbidden", title: "Forbidden", status: 403,
                    detail: "the control socket answers root, the node's own user and the members of its group"))
            return
        }
        guard announcedBody != nil || head.headers.contains(name: "transfer-encoding") else {
            let problem = Problem.badRequest("Content-Length is not a number of bytes")
            state = .refusing(head, problem)
            keepsAlive = false
            return answer(problem)
        }
        if let target = PublicPath(head.uri) { return begin(target, head, context) }
        guard let path = RequestPath(head.uri) else {
            return refuse(head, .badRequest("the request's target is not a path of at most 4096 bytes"))
        }
        let length = announcedBody ?? 0
        if let target = ObjectTarget.parse(head.uri) {
            return begin(target, head, context)
        } else if let target = InvokeTarget(path) {
            guard head.method == .POST else { return refuse(head, Self.notAllowed("POST")) }
            guard length <= service.bodyLimit else { return refuse(head, .tooLarge(service.bodyLimit)) }
            // Before a byte of the body is kept: who may not call must not fill our memory.
            if let problem = service.objection(caller, tenant: target.function.tenant, scope: .invoke) { return refuse(head, problem) }
            if !path.query.isEmpty, let problem = path.objection(Array(path.parts.dropFirst(3))) { return refuse(head, problem) }
            let tenant = target.function.tenant
            answersTo = tenant
            collect(head, context, limit: service.bodyLimit, .invoke(target), BodyPayer(room.known, tenant))
        } else if head.method == .PUT, let tenant = ControlRoutes.uploadTenant(path) {
            if let problem = service.objection(caller, tenant: tenant, scope: .deploy) { return refuse(head, problem) }
            guard length <= Self.uploadLimit else { return refuse(head, .tooLarge(Self.uploadLimit)) }
            guard let upload = Upload(path: service.uploadPath(), tenant: tenant) else {
                return refuse(head, .storage("the upload cannot be stored: the state directory is full or not writable"))
            }
            proceed(head, context)
            state = .uploading(head, path, upload)
            arm(Self.uploadTimeout)
        } else {
            guard length <= Self.controlLimit else { return refuse(head, .tooLarge(Self.controlLimit)) }
            begin(path, head, context)
        }
    }

    /// Any other route of the control plane.
    private func begin(_ path: RequestPath, _ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        guard caller != .operator else { return collect(head, context, limit: Self.controlLimit, .control(path), nil) }
        let tenant = ControlRoutes.tenant(path)
        // Nobody keeps a stranger's body. Who may other things of the tenant is refused later: that goes on record, with what was sent.
        if let problem = ControlRoutes.objection(head.method, path, caller, service) {
            guard let tenant, service.objection(caller, tenant: tenant, scope: .invoke) == nil else { return refuse(head, problem) }
        }
        answersTo = tenant
        collect(
            head, context, limit: Self.controlLimit, .control(path),
            tenant.map { BodyPayer(room.known, $0) } ?? BodyPayer(anybody: room, of: nil))
    }

    func proceed(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        guard head.headers.first(name: "expect")?.lowercased() == "100-continue" else { return }
        context.writeAndFlush(wrapOutboundOut(.head(HTTPResponseHead(version: head.version, status: .continue))), promise: nil)
    }

    static func notAllowed(_ method: String) -> Problem {
        Problem(code: "methodNotAllowed", title: "Method not allowed", status: 405, detail: "use \(method) here")
    }

    func refuse(_ head: HTTPRequestHead, _ problem: Problem) {
        state = .refusing(head, problem)
        // A long body of a refused request is not worth reading: the connection ends with the answer.
        if head.headers.first(name: "expect") != nil || (announcedBody ?? 0) > Self.refusedLimit {
            keepsAlive = false
            answer(problem)
        }
    }

    private func take(_ part: ByteBuffer, _ context: ChannelHandlerContext) {
        heardAt = context.eventLoop.now
        switch state {
        case .collecting(let head, var body, let limit, let target):
            guard body.readableBytes + part.readableBytes <= limit else {
                keepsAlive = false
                return answer(.tooLarge(limit))
            }
            guard hasRoom(body.readableBytes + part.readableBytes) else { return }
            var part = part
            state = .idle
            body.writeBuffer(&part)
            state = .collecting(head, body, limit: limit, target)
        case .uploading(_, _, let upload):
            guard upload.bytes + UInt64(part.readableBytes) <= UInt64(Self.uploadLimit) else {
                upload.cancel(service)
                keepsAlive = false
                return answer(.tooLarge(Self.uploadLimit))
            }
            upload.write(part)
        case .storing(let upload, let size):
            let size = size + UInt64(part.readableBytes)
            guard size <= service.objectLimit else { return fail(upload, .tooLarge(Int(service.objectLimit))) }
            state = .storing(upload, size)
            arm(Self.bodyTimeout)
            if !upload.write(part) { setReading(false) }
        case .refusing(_, let problem):
            // One that comes in chunks has announced no length.
            refusedBytes += part.readableBytes
            guard refusedBytes <= Self.refusedLimit else {
                keepsAlive = false
                return answer(problem)
            }
        case .idle, .sending, .answering: break
        }
    }

    private func finish(_ context: ChannelHandlerContext) {
        isBodyOwed = false
        switch state {
        case .collecting(let head, let body, _, .invoke(let target)):
            state = .answering
            invoke(head, body, target)
        case .collecting(let head, let body, _, .trigger(let target)):
            state = .answering
            serve(head, body, target)
        case .collecting(let head, let body, _, .control(let path)):
            state = .answering
            let (service, caller, bytes) = (service, caller, Array(body.readableBytesView))
            audited(head, path, bytes) { await ControlRoutes.answer(head.method, path, bytes, caller, service) }
        case .uploading(let head, let path, let upload):
            state = .answering
            let service = service
            audited(head, path, []) { await upload.deploy(service) }
        case .collecting(let head, _, _, .object(let target)):
            state = .answering
            if head.method == .DELETE {
                let service = service
                respond { await BucketRoutes.remove(target, service) }
            } else {
                send(target)
            }
        case .storing(let upload, _):
            state = .answering
            respond { await upload.commit() }
        case .refusing(_, let problem): answer(problem)
        case .idle, .answering, .sending: break
        }
    }

    private func audited(
        _ head: HTTPRequestHead, _ path: RequestPath, _ body: [UInt8], _ perform: @escaping @Sendable () async -> ControlAnswer
    ) {
        let address = isControl ? "control socket" : context?.remoteAddress?.ipAddress ?? ""
        let trail = AuditTrail(caller: caller, peer: isControl ? peerUser : nil, address: address, service: service)
        respond { await trail.perform(head.method, path, body, perform) }
    }

    private func respond(_ body: @escaping @Sendable () async -> ControlAnswer) {
        guard let context else { return }
        let promise = context.eventLoop.makePromise(of: (answer: ControlAnswer, parts: [ByteBuffer]).self)
        // A scrape of 100,000 tenants has 50 MB: they are copied off the loop, and in parts, each of which is given back when it is sent.
        promise.completeWithTask {
            var answer = await body()
            let parts = stride(from: 0, to: answer.body.count, by: Self.partSize).map { start in
                ByteBuffer(bytes: answer.body[start..<min(start + Self.partSize, answer.body.count)])
            }
            answer.body = []
            return (answer, parts)
        }
        promise.futureResult.assumeIsolated().whenSuccess { [weak self] made in
            self?.write(status: made.answer.status, headers: made.answer.headers, parts: made.parts)
        }
    }
    /// The largest part of an answer of the control plane that is one piece of memory, in bytes.
    private static let partSize = 256 << 10
}
