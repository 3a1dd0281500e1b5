// SPDX-License-Identifier: Apache-2.0
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix

/// A connection from one daemon to the next: its caller notices nothing.
extension HTTPHandler {
    /// Gives the connection away where it is between two requests and has nothing more to send.
    func letGo() {
        guard let give = connections.give, let context, case .idle = state, !isEnding, boundary.isBetweenRequests, direct?.isEmpty ?? true,
            (try? context.channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 1 == 0
        else { return }
        let isControl = isControl
        let isGiven = try? context.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) {
            give($0, isControl)
        }
        // Our descriptor alone is closed: the connection lives on in the other's.
        if isGiven == true { context.close(promise: nil) }
    }

    /// The length of the body that a head announces; nil where only the body itself says where it ends, and for a number beyond an Int.
    static func bodyLength(_ head: HTTPRequestHead) -> Int? {
        guard !head.headers.contains(name: "transfer-encoding") else { return nil }
        guard let text = head.headers.first(name: "content-length") else { return 0 }
        // The parser lets blanks stand behind it.
        return Int(text.trimmingCharacters(in: .whitespaces))
    }

    /// Before an answer: a caller whose connection cannot be given away is asked to make a new one.
    func decideOnEnd() {
        guard connections.isLettingGo else { return }
        let isWhole = isDirect ? direct?.isEmpty ?? true : boundary.isWhole(body: announcedBody)
        if connections.give == nil || !isWhole { keepsAlive = false }
    }
}
