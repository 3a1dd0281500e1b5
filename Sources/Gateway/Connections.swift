// SPDX-License-Identifier: Apache-2.0
import NIOCore

/// The open connections of a node and its listeners, confined to the supervisor's loop.
final class Connections {
    private var handlers: [ObjectIdentifier: HTTPHandler] = [:]
    private var listeners: [any Channel] = []
    let intake = Intake()
    /// How many are open, accepted here or taken over, by whether they are the control socket's.
    var open: [Bool: Int] = [:]
    /// Where a connection goes that is between two requests; set once the node is handed over. Says whether it is on its way.
    private(set) var give: ((_ socket: CInt, _ isControl: Bool) -> Bool)?
    /// Whether this daemon takes no new work from its connections.
    private(set) var isLettingGo = false

    func add(_ handler: HTTPHandler) { handlers[ObjectIdentifier(handler)] = handler }
    func remove(_ handler: HTTPHandler) { handlers[ObjectIdentifier(handler)] = nil }
    func add(listener: any Channel) { listeners.append(listener) }

    /// Ends some of the connections that nobody's request is on: those that have waited longest for one, or for the rest of its head.
    func makeRoom(isControl: Bool, _ count: Int) {
        let waiting = handlers.values.compactMap { handler in
            handler.isControl == isControl ? handler.waitsUntil.map { (handler, until: $0) } : nil
        }
        for (handler, _) in waiting.sorted(by: { $0.until < $1.until }).prefix(count) { handler.makeWay() }
    }

    /// Accepts no further connection, which then wait in the kernel for the next daemon, and gives away the present ones: those between two requests now, the others after
    /// their answers. One whose requests' borders are not known gets `Connection: close` with its next answer, and every one where `give` is nil.
    func letGo(_ give: ((CInt, Bool) -> Bool)?) {
        for listener in listeners { listener.close(promise: nil) }
        listeners = []
        self.give = give
        isLettingGo = true
        _ = remaining()
    }

    /// Gives away what can be given by now; returns how many are left.
    func remaining() -> Int {
        for handler in handlers.values { handler.letGo() }
        return handlers.count
    }
}
