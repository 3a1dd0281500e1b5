// SPDX-License-Identifier: Apache-2.0
import NIOCore

/// What a connection may still send after its last answer.
struct Lingering {
    /// When it is over in any case.
    let end: NIODeadline
    /// Bytes that may still come.
    var left: Int
}

/// A request that is refused before its end: the caller gets the answer although it is still sending.
///
/// A socket that is closed with bytes in it that nobody has read resets the connection, and the reset takes the answer away from a caller that has not read it yet, which is
/// every simple one: it sends all, then reads. So the node says that it will send no more, and reads and throws away until the caller has ended, too. It costs a place that
/// is the first to be given to somebody else, and no memory.
extension HTTPHandler {
    /// The most that is thrown away, in bytes: more than nearly every body that this node would take, less than what is worth a caller's sending.
    static let lingerLimit = 64 << 20
    /// For how long, and for how long while nothing comes. Whoever has not read its answer by then does not want it.
    static let lingerTime = TimeAmount.seconds(30)
    static let lingerSilence = TimeAmount.seconds(5)

    /// From now on what comes is thrown away, before anybody reads it as HTTP.
    func linger() {
        guard let now = context?.eventLoop.now else { return }
        lingering = Lingering(end: now + Self.lingerTime, left: Self.lingerLimit)
        boundary.discards = { [weak self] in self?.discarded($0) }
        arm(Self.lingerSilence)
    }

    private func discarded(_ count: Int) {
        guard let now = context?.eventLoop.now, var rest = lingering else { return }
        rest.left -= count
        lingering = rest
        guard rest.left > 0, now < rest.end else { return makeWay() }
        arm(min(Self.lingerSilence, rest.end - now))
    }
}
