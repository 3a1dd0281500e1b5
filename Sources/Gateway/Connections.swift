// SPDX-License-Identifier: Apache-2.0
import NIOCore

/// The open connections of a node and its listeners, confined to the supervisor's loop.
final class Connections {
    private var handlers: [ObjectIdentifier: HTTPHandler] = [:]
    private var listeners: [any Channel] = []
    let intake = Intake()
    /// How many places are taken, by connections accepted here or taken over, by whether they are the control socket's.
    private var taken: [Bool: Int] = [:]
    /// Until when nobody is looked for who could make room: a look at all of them that found nobody is not repeated for every caller.
    private var nobodyUntil = NIODeadline.uptimeNanoseconds(0)
    /// Where a connection goes that is between two requests; set once the node is handed over. Says whether it is on its way.
    private(set) var give: ((_ socket: CInt, _ isControl: Bool) -> Bool)?
    /// Whether this daemon takes no new work from its connections.
    private(set) var isLettingGo = false

    func add(_ handler: HTTPHandler) { handlers[ObjectIdentifier(handler)] = handler }
    func remove(_ handler: HTTPHandler) { handlers[ObjectIdentifier(handler)] = nil }
    func add(listener: any Channel) { listeners.append(listener) }

    /// Whether there is a place for one more; where all are taken some are made free first.
    func takePlace(isControl: Bool, limit: Int, at now: NIODeadline) -> Bool {
        if taken[isControl, default: 0] >= limit, now >= nobodyUntil {
            // Many, for it looks at all.
            let found = makeRoom(isControl: isControl, max(1, limit / 16))
            if found == 0 { nobodyUntil = now + .milliseconds(100) }
        }
        guard taken[isControl, default: 0] < limit else { return false }
        taken[isControl, default: 0] += 1
        return true
    }

    /// At the end of a connection, or before it where another is to have its place: NIO tells of the end only later.
    func leavePlace(_ handler: HTTPHandler) {
        guard handler.hasPlace else { return }
        handler.hasPlace = false
        taken[handler.isControl, default: 0] -= 1
    }

    /// Ends some of the connections that wait for their peers, those first that were silent longest; returns how many. Not by what they wait for: nobody could tell a caller that
    /// has just come from one that will never say a word.
    private func makeRoom(isControl: Bool, _ count: Int) -> Int {
        let waiting = handlers.values.compactMap { handler in
            handler.isControl == isControl && handler.hasPlace ? handler.waitsSince.map { (handler, since: $0) } : nil
        }
        let ending = waiting.sorted { $0.since < $1.since }.prefix(count)
        for (handler, _) in ending {
            leavePlace(handler)
            handler.makeWay()
        }
        return ending.count
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

    /// Gives away what can be given by now; returns how many are left. Not those that have their last answer: nobody waits for them.
    func remaining() -> Int {
        for handler in handlers.values { handler.letGo() }
        return handlers.values.count { $0.lingering == nil }
    }
}
