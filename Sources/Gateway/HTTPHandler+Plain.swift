// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import NIOHTTP1
import Supervision

/// Plain calls, which come and are answered past NIO's handlers.
extension HTTPHandler {
    /// A plain call, all of it.
    func serve(_ call: PlainCall) {
        prepare(for: call.head, body: call.body.readableBytes, keepsAlive: true)
        state = .answering
        if let problem = service.objection(caller, tenant: call.function.tenant, scope: .invoke) { return answer(problem) }
        answersTo = call.function.tenant
        if call.body.readableBytes > OpenBodies.free {
            payer = BodyPayer(room.known, call.function.tenant)
            guard hasRoom(call.body.readableBytes) else { return }
        }
        connections.intake.take(call, self, supervisor.loop)
    }

    /// Serves a plain call whose turn has come, unless its caller has gone.
    func run(_ call: PlainCall) {
        if context != nil { invoke(call.head, call.body, InvokeTarget(function: call.function)) }
    }

    /// Whether the request at hand is a plain call, which NIO's handlers know nothing of.
    var isDirect: Bool { direct?.isAnswering ?? false }

    /// Where parts of the answer at hand go.
    var outlet: ChannelHandlerContext? { isDirect ? direct?.encoding : context }

    /// The whole answer to a plain call in one piece.
    func writeDirect(_ status: Int, _ headers: [(String, String)], _ body: ByteBuffer) {
        guard let context, let direct else { return }
        let bytes = PlainAnswer.bytes(status, headers, body, keepsAlive: keepsAlive, context.channel.allocator)
        let last = lastWrite(context)
        finishing()
        direct.write(bytes, promise: last)
        finished()
    }
}
