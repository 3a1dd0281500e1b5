// SPDX-License-Identifier: Apache-2.0
import DequeModule
import NIOCore
import Wire

/// What the workers of one tenant have of the loop and of its memory, together: how many of their frames are handed on in one turn of the loop and in each tenth of a second, and
/// how many bytes of answers wait until their workers read them. More workers are no larger share.
///
/// Whoever has used up its part waits here, and the next turn begins with those that wait, in their order: in between the loop looks at everybody's sockets. Confined to the loop.
final class FrameShare {
    /// What may be handed on in each ``period``; beyond, nothing is until the period ends, and the workers block in their own `write`.
    static let periodLimit = 4000
    static let period = TimeAmount.milliseconds(100)
    /// What may be handed on until others had a turn: a millisecond or two of work.
    static let turnLimit = 512
    /// What one worker may have handed on before the tenant's next one.
    static let goLimit = 128
    /// How long until the loop, having looked at its sockets, goes on here. A task for at once would come before them.
    static let pause = TimeAmount.microseconds(20)
    /// Bytes of answers that may wait to be read; beyond, no worker of the tenant has anything more handed on, so that no call ends and makes them more.
    static let answerLimit = 64 << 20

    /// By the work that a frame makes: a call starts an invocation, an emit stores events, a line of log takes some of both.
    static func weight(_ kind: FrameKind) -> Int {
        switch kind {
        case .call, .emit: 8
        case .log: 2
        default: 1
        }
    }

    private let loop: any EventLoop
    private var periodBegan: NIODeadline
    private var usedInPeriod = 0
    private var usedInTurn = 0
    private var waiting: Deque<WorkerLink> = []
    private var isScheduled = false
    /// Bytes of answers that wait.
    private(set) var unread = 0

    init(_ loop: any EventLoop) {
        self.loop = loop
        periodBegan = loop.now
    }

    var isFull: Bool { unread >= Self.answerLimit }

    /// What a worker may have handed on now, by ``weight(_:)``.
    func room() -> Int {
        if loop.now - periodBegan >= Self.period {
            periodBegan = loop.now
            usedInPeriod = 0
        }
        return isFull ? 0 : min(Self.goLimit, Self.turnLimit - usedInTurn, Self.periodLimit - usedInPeriod)
    }

    func spend(_ weight: Int) {
        usedInTurn += weight
        usedInPeriod += weight
    }

    /// Tells the link to go on when its turn comes.
    func wait(_ link: WorkerLink) {
        waiting.append(link)
        schedule()
    }

    func holdAnswer(_ bytes: Int) { unread += bytes }

    func releaseAnswer(_ bytes: Int) {
        unread -= bytes
        schedule()
    }

    private func schedule() {
        guard !isScheduled, !isFull, !waiting.isEmpty else { return }
        isScheduled = true
        let next = usedInPeriod < Self.periodLimit ? loop.now + Self.pause : max(periodBegan + Self.period, loop.now + Self.pause)
        loop.assumeIsolated().scheduleTask(deadline: next) { [self] in serve() }
    }

    private func serve() {
        isScheduled = false
        usedInTurn = 0
        // Each once: one that has still more goes behind the others.
        var left = waiting.count
        while left > 0, room() > 0, let link = waiting.popFirst() {
            left -= 1
            link.turnCame()
        }
        schedule()
    }
}
