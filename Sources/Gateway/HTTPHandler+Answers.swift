// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import NIOCore
import NIOHTTP1
import Supervision

/// What goes back: a function's answer whole or in parts, a problem, and the connection's state afterwards.
extension HTTPHandler {
    func startStream(_ answer: FunctionAnswer) {
        guard context != nil, !isStreaming else { return }
        let status = Int(answer.status ?? 200)
        guard InvokeRoute.statuses.contains(status) else {
            illegalStatus = status
            return
        }
        decideOnEnd()
        isStreaming = true
        var headers = HTTPHeaders(InvokeRoute.headers(answer))
        // HTTP/1.0 knows no chunks: its body ends with the connection. Nor are there any of an answer without a body, whose last chunk would stand before the next answer.
        let isChunked = version != .http1_0 && !isHead
        if isChunked { headers.replaceOrAdd(name: "Transfer-Encoding", value: "chunked") } else { keepsAlive = false }
        if !keepsAlive { headers.add(name: "Connection", value: "close") }
        write(
            .head(
                HTTPResponseHead(version: isChunked ? .http1_1 : .http1_0, status: HTTPResponseStatus(statusCode: status), headers: headers)
            ),
            flush: true)
    }

    /// Whether the caller keeps up; if not, the worker waits until it does.
    func stream(_ part: ByteBuffer) -> Bool {
        guard isStreaming, let context else { return true }
        write(.body(.byteBuffer(part)), flush: true)
        return context.channel.isWritable
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable, let running { supervisor.resume(running) }
        if context.channel.isWritable, case .sending(let download, isWaiting: true) = state { pump(download) }
        context.fireChannelWritabilityChanged()
    }

    func ended(_ report: InvocationReport) {
        running = nil
        guard context != nil else { return }
        if isStreaming {
            // The head is gone: an error can only be told by a body without its proper end.
            if report.outcome == .ok {
                end()
            } else {
                context?.close(promise: nil)
            }
            return
        }
        var headers = InvokeRoute.metadata(report, isPublic: view?.isPublic ?? false)
        if let problem = OutcomeMapping.problem(report) { return self.answer(problem, headers) }
        guard let answer = report.answer else { return self.answer(.storage("the answer is lost")) }
        guard let shape = view?.shape, shape != .bulkhead, answer.status == nil else { return show(answer, report, &headers) }
        let before = headers
        aside(answer.body.readableBytes) {
            var shaped = answer
            let fault = shape.shape(&shaped)
            return (shaped, fault)
        } then: { me, made in
            var headers = before
            if let fault = made.1 { return me.answer(InvokeRoute.malformed(fault, report), headers) }
            me.show(made.0, report, &headers)
        }
    }

    private func show(_ answer: FunctionAnswer, _ report: InvocationReport, _ headers: inout [(String, String)]) {
        let status = illegalStatus ?? Int(answer.status ?? 200)
        guard InvokeRoute.statuses.contains(status) else { return self.answer(InvokeRoute.illegal(status, report), headers) }
        InvokeRoute.add(answer, to: &headers)
        write(status: status, headers: headers, body: answer.body)
    }

    // MARK: answers

    func answer(_ problem: Problem, _ more: [(String, String)] = []) {
        let (body, headers) = ControlAnswer.problem(view?.isPublic == true ? problem.forAnybody : problem)
        write(status: problem.status, headers: more + headers, body: body)
    }

    func write(status: Int, headers: [(String, String)], body: ByteBuffer) {
        write(status: status, headers: headers, parts: body.readableBytes > 0 ? [body] : [])
    }

    func write(status: Int, headers: [(String, String)], parts: [ByteBuffer]) {
        guard context != nil else { return }
        guard mayWait(parts.reduce(0) { $0 + $1.readableBytes }) else { return refuseToWait() }
        decideOnEnd()
        if isDirect, !Self.bodyless.contains(status), parts.count <= 1 { return writeDirect(status, headers, parts.first ?? ByteBuffer()) }
        var all = HTTPHeaders()
        all.reserveCapacity(headers.count + 2)
        for (name, value) in headers { all.add(name: name, value: value) }
        if status == 205 { all.add(name: "Content-Length", value: "0") }
        if !Self.bodyless.contains(status) { all.add(name: "Content-Length", value: "\(parts.reduce(0) { $0 + $1.readableBytes })") }
        if !keepsAlive { all.add(name: "Connection", value: "close") }
        write(.head(HTTPResponseHead(version: .http1_1, status: HTTPResponseStatus(statusCode: status), headers: all)), flush: false)
        for part in parts { write(.body(.byteBuffer(part)), flush: false) }
        end()
    }

    /// Statuses that never have a body.
    private static let bodyless: Set<Int> = [204, 205, 304]

    func write(_ part: HTTPServerResponsePart, flush: Bool) {
        guard let context = outlet else { return }
        switch part {
        case .head(let head): hasBody = !isHead && !Self.bodyless.contains(Int(head.status.code))
        case .body where !hasBody: return
        default: break
        }
        guard flush else { return context.write(wrapOutboundOut(part), promise: nil) }
        var last: EventLoopPromise<Void>?
        if case .end = part { last = lastWrite(context) }
        context.writeAndFlush(wrapOutboundOut(part), promise: last)
    }

    /// Closes the connection after the last byte is out, and a moment later, so that the caller can read it; later still where the caller is sending.
    func closing(_ context: ChannelHandlerContext) -> EventLoopPromise<Void> {
        let last = context.eventLoop.makePromise(of: Void.self)
        last.futureResult.assumeIsolated().whenComplete { [weak self] _ in
            guard let self, let context = self.context else { return }
            // Says that the answer is all there is; the end of the caller's side closes the connection.
            if self.lingering != nil { return context.close(mode: .output, promise: nil) }
            context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(50)) { [weak self] in self?.context?.close(promise: nil) }
        }
        return last
    }

    /// Ends the answer at hand.
    func end() {
        finishing()
        write(.end(nil), flush: true)
        finished()
    }

    /// Before the last byte of an answer is written: the next request, if it is here already, is told to us by that very write, and from then on all is of that one.
    func finishing() {
        state = .idle
        release()
        if !isDirect { boundary.next(body: announcedBody) }
        isEnding = !keepsAlive
        // Also on the way out: a caller that does not read must not hold the connection.
        if isEnding, isBodyOwed { linger() } else { arm(Self.idleTimeout) }
    }

    /// After it.
    func finished() {
        if connections.isLettingGo { context?.eventLoop.assumeIsolated().execute { [weak self] in self?.letGo() } }
        if case .idle = state { setReading(true) }
        direct?.answered()
    }
}
