// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import NIOCore
import NIOHTTP1

/// How a caller's side of a connection ends: in words that are not HTTP, or with nothing more to say.
extension HTTPHandler {
    /// What cannot be read is answered, once, and is the connection's last.
    func failed(_ error: any Error, _ context: ChannelHandlerContext) {
        guard let error = error as? HTTPParserError else { return context.close(promise: nil) }
        guard !isEnding else { return lingering == nil ? context.close(promise: nil) : () }
        switch state {
        case .answering, .sending: context.close(promise: nil)
        case .uploading(_, _, let upload):
            upload.cancel(service)
            answerLast(error)
        case .storing(let upload, _):
            upload.cancel()
            answerLast(error)
        case .idle:
            // The request had no head yet: what was said of the one before does not count.
            isHead = false
            answerLast(error)
        case .collecting, .refusing: answerLast(error)
        }
    }

    private func answerLast(_ error: HTTPParserError) {
        keepsAlive = false
        isBodyOwed = true
        guard error == .headerOverflow else { return answer(.badRequest("the request is not HTTP/1.1: \(error)")) }
        answer(
            Problem(
                code: "headersTooLarge", title: "Header fields too large", status: 431,
                detail: "the request's line and header fields together are larger than this node reads (80 KiB)"))
    }

    /// The caller sends nothing more. It may wait for its answer (`shutdown(SHUT_WR)`) or be gone (`close`): TCP tells both with the same packet. Only words tell them
    /// apart, for they are answered by a reset where nobody reads: a `100 Continue`, which every HTTP/1.1 client has to skip (RFC 9110, section 15.2). A streamed answer's
    /// next part does the same. A caller of HTTP/1.0, which knows no such words, counts as waiting.
    func callerEndedSending(_ context: ChannelHandlerContext) {
        switch state {
        case .answering:
            keepsAlive = false
            guard !isStreaming, version != .http1_0 else { return }
            outlet?.writeAndFlush(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .continue))), promise: nil)
        case .sending: keepsAlive = false
        case .idle, .collecting, .uploading, .storing, .refusing:
            // What it has not read yet is still its own; the timer ends this where it does not read.
            let buffered = try? context.channel.syncOptions?.getOption(.bufferedWritableBytes)
            if !isEnding, (buffered ?? 0) == 0 { context.close(promise: nil) }
        }
    }
}
