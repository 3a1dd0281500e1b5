// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import NIOCore
import NIOHTTP1
import Store
import Supervision

/// How a trigger's answers differ from those of direct calls.
struct AnswerView {
    /// The caller is anybody: what is inside the function and the node is not told.
    var isPublic: Bool
    var shape = EventShape.bulkhead
}

/// Requests from outside: routes of functions at `/t/TENANT/PATH`, and queues at `/q/TENANT/FUNCTION/TRIGGER`.
extension HTTPHandler {
    /// Above so many bytes a body is turned into an event beside the loop, which serves others meanwhile.
    private static let asideLimit = 4 << 10
    /// Not tasks: what takes long would keep the control plane's waiting, which has the same few threads.
    private static let shaping = DispatchQueue(label: "bulkhead.shaping", attributes: .concurrent)

    func begin(_ path: PublicPath, _ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        let found = target(path, head)
        guard case .success(let target) = found else {
            if case .failure(let problem) = found { refuse(head, problem) }
            return
        }
        guard !PublicRequest.hasTooManyFields(head.headers) else {
            return refuse(
                head,
                Problem(
                    code: "headersTooLarge", title: "Header fields too large", status: 431,
                    detail:
                        "at most \(PublicRequest.fieldLimit) header fields of \(PublicRequest.fieldBytesLimit) bytes together reach a function"
                ))
        }
        let length = announcedBody ?? 0
        guard length <= service.bodyLimit else { return refuse(head, .tooLarge(service.bodyLimit)) }
        let tenant = target.function.tenant
        answersTo = tenant
        let payer = target.authorization == .key ? BodyPayer(room.known, tenant) : BodyPayer(anybody: room, of: tenant)
        collect(head, context, limit: service.bodyLimit, .trigger(target), payer)
    }

    // MARK: who may

    private func target(_ path: PublicPath, _ head: HTTPRequestHead) -> Result<TriggerTarget, Problem> {
        switch path {
        case .route(let tenant, let path, let query): route(tenant, path, query, head)
        case .queue(let function, let trigger): queue(function, trigger, head)
        }
    }

    /// A tenant that is not there, a path that is nobody's and a key that opens nothing here look alike.
    private func route(_ tenant: Name, _ path: String, _ query: String, _ head: HTTPRequestHead) -> Result<TriggerTarget, Problem> {
        let nothing = Problem(code: "notFound", title: "Not found", status: 404, detail: "nothing answers this path")
        switch service.route(tenant, head.method.rawValue, path) {
        case .none: return .failure(nothing)
        case .otherMethods(let methods):
            let all = Set(methods).union(methods.contains("GET") ? ["HEAD"] : [])
            return .failure(Self.notAllowed(all.sorted().joined(separator: " or ")))
        case .route(let route):
            guard case .http(let pattern, _, let authorization, let shape) = route.trigger.kind else { return .failure(nothing) }
            if let problem = objection(tenant, authorization, head) { return .failure(problem.status == 404 ? nothing : problem) }
            return .success(
                TriggerTarget(
                    function: FunctionID(tenant: tenant, function: route.function), trigger: route.trigger.name,
                    authorization: authorization,
                    route: .init(shape: shape, path: path, query: query, rest: PublicRequest.rest(pattern, path))))
        }
    }

    /// Who may not push learns nothing of which queues there are.
    private func queue(_ function: FunctionID, _ trigger: Name, _ head: HTTPRequestHead) -> Result<TriggerTarget, Problem> {
        let closed = Problem(
            code: "unauthorized", title: "Unauthorized", status: 401,
            detail:
                "a queue takes messages with a key (Authorization: Bearer KEY) or signed with its secret, as its function's manifest says")
        let authorization = service.queue(function, trigger)
        let nothing = Problem.notFound("queue \(function)/\(trigger)")
        if let problem = objection(function.tenant, authorization ?? .key, head) {
            // Somebody else's key finds nothing here, also where a queue that takes no keys would ask for a signature.
            let isStranger = service.objection(caller, tenant: function.tenant, scope: .invoke)?.status == 404
            return .failure(isStranger ? nothing : problem.status == 401 ? closed : problem)
        }
        guard let authorization else { return .failure(nothing) }
        guard head.method == .POST else { return .failure(Self.notAllowed("POST")) }
        return .success(TriggerTarget(function: function, trigger: trigger, authorization: authorization))
    }

    /// As far as the head tells, before a byte of the body is kept.
    private func objection(_ tenant: Name, _ authorization: TriggerAuthorization, _ head: HTTPRequestHead) -> Problem? {
        switch authorization {
        case .none: return nil
        case .key: return service.objection(caller, tenant: tenant, scope: .invoke)
        case .hmac:
            let names = ["bulkhead-signature", "stripe-signature", "x-hub-signature-256"]
            guard !names.contains(where: { head.headers.contains(name: $0) }) else { return nil }
            return Problem(
                code: "unauthorized", title: "Unauthorized", status: 401,
                detail: "the request is not signed: send Bulkhead-Signature, Stripe-Signature or X-Hub-Signature-256")
        }
    }

    /// The lineage that a request continues: what a webhook of this node told its receiver. Nil where it begins anew.
    func cause(_ head: HTTPRequestHead, _ tenant: Name) -> Lineage? {
        head.headers.first(name: "bulkhead-lineage").flatMap { service.lineage($0, of: tenant) }
    }

    // MARK: serving

    func serve(_ head: HTTPRequestHead, _ body: ByteBuffer, _ target: TriggerTarget) {
        func header(_ name: String) -> String? { head.headers.first(name: name) }
        let tenant = target.function.tenant
        if case .hmac(let secret) = target.authorization,
            let problem = service.signatureProblem(tenant, secret: secret, header: header, body: Array(body.readableBytesView))
        {
            return answer(problem)
        }
        view = AnswerView(isPublic: target.authorization != .key, shape: target.route?.shape ?? .bulkhead)
        choose(head, InvokeTarget(function: target.function)) { me, chosen in
            // Deleted while the body came.
            guard let chosen else { return me.answer(.notFound("function behind this path any more")) }
            guard let route = target.route else { return me.push(head, body, target, chosen.version) }
            me.call(head, body, target, route, chosen)
        }
    }

    private func call(
        _ head: HTTPRequestHead, _ body: ByteBuffer, _ target: TriggerTarget, _ route: TriggerTarget.Route, _ chosen: ChosenVersion
    ) {
        let order = InvocationOrder(version: chosen.version, body: body, contentType: head.headers.first(name: "content-type") ?? "")
        guard order.contentType.utf8.count <= 256 else { return answer(.badRequest("the content type is longer than 256 bytes")) }
        identify(head, chosen.version) { me, users in
            var order = order
            (order.tenantUser, order.functionUser) = (users.tenant, users.function)
            me.call(head, order, target, route, chosen)
        }
    }

    private func call(
        _ head: HTTPRequestHead, _ identified: InvocationOrder, _ target: TriggerTarget, _ route: TriggerTarget.Route,
        _ chosen: ChosenVersion
    ) {
        var order = identified
        let body = order.body
        let id = supervisor.newInvocationID()
        (order.id, order.alias, order.through) = (id, chosen.alias, target.trigger)
        order.cause = cause(head, target.function.tenant)
        order.traceparent = head.headers.first(name: "traceparent").flatMap { $0.utf8.count <= 256 ? $0 : nil } ?? ""
        var request = RoutedRequest(
            tenant: target.function.tenant, method: head.method.rawValue, path: route.path, query: route.query,
            headers: PublicRequest.headers(head.headers, target.authorization), sourceAddress: context?.remoteAddress?.ipAddress ?? "",
            httpVersion: "HTTP/\(head.version.major).\(head.version.minor)", id: id, time: id.high >> 16)
        request.rest = route.rest
        guard route.shape != .bulkhead else {
            order.headers = PublicRequest.lines(request)
            return run(order)
        }
        let (plain, asked, shape) = (order, request, route.shape)
        aside(body.readableBytes) {
            var request = asked
            request.body = Array(body.readableBytesView)
            return shape.event(request)
        } then: { me, event in
            var order = plain
            guard let event else { return me.answer(.badRequest("the request cannot be written as an event")) }
            // Control characters grow when they are written as JSON, and bytes do as base64.
            guard event.body.count <= PublicRequest.eventLimit else {
                return me.answer(
                    Problem(
                        code: "tooLarge", title: "The body is too large", status: 413,
                        detail: "written as an event of its route's shape the request has more than \(PublicRequest.eventLimit) bytes"))
            }
            (order.body, order.contentType) = (ByteBuffer(bytes: event.body), event.contentType)
            me.run(order)
        }
    }

    /// Does what is little at once and what is much on another thread; `then` on the loop, unless the caller has gone.
    func aside<T: Sendable>(_ size: Int, _ work: @escaping @Sendable () -> T, then: @escaping (HTTPHandler, T) -> Void) {
        guard size > Self.asideLimit, let context else { return then(self, work()) }
        let promise = context.eventLoop.makePromise(of: T.self)
        Self.shaping.async { promise.succeed(work()) }
        promise.futureResult.assumeIsolated().whenSuccess { [weak self] value in
            guard let self, self.context != nil else { return }
            then(self, value)
        }
    }

    // MARK: queues

    private func push(_ head: HTTPRequestHead, _ body: ByteBuffer, _ target: TriggerTarget, _ version: VersionID) {
        guard let events = supervisor.state.events else { return answer(.storage("this node stores no events")) }
        guard !supervisor.state.node.isDraining else { return answer(.draining) }
        let isBatch = QueueBatch.isOne(head.headers)
        var order: EventOrder
        switch InvokeRoute.event(head.headers, isBatch ? ByteBuffer() : body, target.function) {
        case .success(let parsed): order = parsed
        case .failure(let problem): return answer(problem)
        }
        order.trigger = target.trigger
        // As long as a line of a batch may be: many of them are in memory at once.
        let isGathered = supervisor.state.deployment(version)?.batch(of: target.trigger) != nil
        guard isBatch || !isGathered || body.readableBytes <= QueueBatch.lineBytesLimit else {
            return answer(.tooLarge(QueueBatch.lineBytesLimit))
        }
        order.cause = cause(head, target.function.tenant)
        guard isBatch else {
            order.subject = PublicRequest.subject(body)
            return accept(order, for: version, head, events)
        }
        // A line's key is the batch's with the line's number.
        guard order.key?.utf8.count ?? 0 <= 240 else { return answer(.badRequest("Idempotency-Key of a batch must have 1 to 240 bytes")) }
        order.contentType = "application/json"
        let (bytes, plain) = (Array(body.readableBytesView), order)
        identify(head, version) { me, users in
            var first = plain
            (first.tenantUser, first.functionUser) = (users.tenant, users.function)
            me.aside(bytes.count) { [first] in
                (QueueBatch.parse(bytes), first)
            } then: { me, read in
                switch read.0 {
                case .failure(let problem): me.answer(problem)
                case .success(let lines): me.accept(lines, read.1, events)
                }
            }
        }
    }

    private func accept(_ lines: [(line: Int, bytes: [UInt8])], _ first: EventOrder, _ events: EventEngine) {
        let orders = lines.map { line in
            var order = first
            order.payload = line.bytes
            order.key = first.key.map { "\($0):\(line.line)" }
            return order
        }
        events.accept(batch: orders) { [weak self] acceptance in
            switch acceptance {
            case .accepted(let receipts):
                let ids = receipts.map { "\"\($0.id)\"" }.joined(separator: ",")
                let body = "{\"ids\":[\(ids)],\"duplicates\":\(receipts.count(where: \.isDuplicate))}"
                self?.write(status: 202, headers: [("Content-Type", "application/json")], body: ByteBuffer(string: body))
            case .ofOtherPayload(let index, let first): self?.answer(OutcomeMapping.keyReused(first, line: lines[index].line))
            case .refused(let index, let outcome, let sentence, let refusal):
                let place = index.map { "line \(lines[$0].line): " } ?? ""
                self?.answer(OutcomeMapping.problem(outcome, "\(place)\(sentence). Nothing of the batch was stored", refusal))
            }
        }
    }
}
