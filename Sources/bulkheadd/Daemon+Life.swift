// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Glibc
import Kernel
import Logging
import Store
import Supervision
import Synchronization
import Wire

/// What is known of a daemon's beginning and end.
struct Life {
    var isDraining = false
    /// Asks the spawner for a successor, and for a new program of its own in any case where it is true; nil before the daemon serves.
    var ask: (@Sendable (Bool) -> Void)?
    var isSpawnerReplaced = false
    /// Those who wait for it.
    var waiting: [CheckedContinuation<Void, any Error>] = []
    var offered = 0
    var kept = 0
    var connections = 0
    var pause: UInt64 = 0
}

/// How the node is drained, and how a daemon gives its place to the next one.
extension Daemon {
    var isDraining: Bool { life.withLock { $0.isDraining } }

    // MARK: drain

    /// There while the node is to begin drained: made by root before the start, and removed by the end of the drain alone, so that no crash and no restart ends it.
    var drainMark: String { loopsPath.replacing("/loops.json", with: "/drained") }

    /// Before anything can start: crons, events and calls of a copied state are perhaps another node's, too.
    func beginDrainedWhereMarked() async throws {
        guard FileManager.default.fileExists(atPath: drainMark) else { return }
        life.withLock { $0.isDraining = true }
        try await supervisor.onLoop { $0.beginDraining() }
        logger.notice("the node begins drained: nothing runs until `bulkhead drain --undo`")
    }

    /// So that a power failure does not bring back what was removed.
    private static func flush(folderOf path: String) -> Bool {
        let folder = unsafe open(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { return false }
        defer { close(folder) }
        return fsync(folder) == 0
    }

    func setDraining(_ isDraining: Bool) async throws -> DrainReply {
        let mark = drainMark
        // First: a node that works and is drained again by its next crash would be worse than one that goes on being drained.
        if !isDraining, FileManager.default.fileExists(atPath: mark) {
            guard unsafe unlink(mark) == 0, Self.flush(folderOf: mark) else {
                throw Problem.storage("the node stays drained, for the mark of that cannot be removed: \(KernelError("unlink \(mark)"))")
            }
        }
        life.withLock { $0.isDraining = isDraining }
        try await supervisor.onLoop { state in
            if isDraining { state.beginDraining() } else { state.endDraining() }
            state.events?.setPaused(isDraining)
        }
        logger.notice("the node \(isDraining ? "takes no new work: it drains" : "takes work again")")
        return try await drainStatus()
    }

    func drainStatus() async throws -> DrainReply {
        let (isDraining, events) = (isDraining, events)
        let running = try await supervisor.onLoop { $0.node.activeInvocations }
        // Counted now: what the engine knows of it is up to a second old, and nothing right after a start.
        let waiting = try await onDisk { try events.counts() }.kept[.ready] ?? 0
        return DrainReply(draining: isDraining, running: running, eventsWaiting: waiting)
    }

    // MARK: restart

    func restartStatus() async throws -> RestartReply {
        let life = life.withLock { $0 }
        return RestartReply(
            daemon: getpid(), startedAt: UInt64(startedAt.timeIntervalSince1970 * 1000), workersOffered: life.offered,
            workersKept: life.kept,
            connectionsKept: life.connections, pauseMilliseconds: life.pause, spawnerReplaced: life.isSpawnerReplaced)
    }

    func spawnerReplaced() {
        logger.notice("the spawner goes on with a new program")
        life.withLock { $0.isSpawnerReplaced = true }
    }

    func restart(isWhole: Bool) async throws -> RestartReply {
        let ask = life.withLock { $0.ask }
        guard let ask else { throw Self.noRestart("the daemon has not started yet") }
        try await withCheckedThrowingContinuation { (waiter: CheckedContinuation<Void, any Error>) in
            // Who comes while somebody waits already waits for the same successor.
            let isFirst = life.withLock { life in
                life.waiting.append(waiter)
                if life.waiting.count == 1 { life.isSpawnerReplaced = false }
                return life.waiting.count == 1
            }
            if isFirst { ask(isWhole) }
        }
        return try await restartStatus()
    }

    /// The spawner has no successor.
    func restartFailed(_ reason: String) {
        logger.error("no new daemon takes over: this one goes on", metadata: ["reason": "\(reason)"])
        for waiter in takeWaiters() { waiter.resume(throwing: Self.noRestart(reason)) }
    }

    static func noRestart(_ reason: String) -> Problem {
        Problem(
            code: "noRestart", title: "There is no new daemon", status: 500,
            detail: "\(Phrase.open(reason)); the running daemon serves on, nothing was stopped")
    }

    private func takeWaiters() -> [CheckedContinuation<Void, any Error>] {
        life.withLock { life in
            defer { life.waiting = [] }
            return life.waiting
        }
    }

    // MARK: giving

    /// How long what runs may go on at a hand-over; the spawner waits for a little longer. Events get less, so that calls have a time that no event can use up.
    static let handOverGrace = Duration.seconds(30)
    static let eventGrace = Duration.seconds(20)
    /// How long a caller that is in the middle of a request may then take to send the rest of it.
    static let callerGrace = Duration.seconds(2)

    /// Gives everything to a successor that reads from the other end of `socket`, and ends. In this order: no event starts any more; those that run end, while calls are served;
    /// nothing is accepted and connections move as soon as they are between two requests; calls end; idle workers move; the stores are closed. Does not return.
    func handOver(_ server: GatewayServer, format: UInt16, to socket: CInt, _ link: SpawnerLink) async {
        for waiter in takeWaiters() { waiter.resume() }
        logger.notice("a new daemon is prepared: this one lets go")
        let end = ContinuousClock.now + Self.handOverGrace
        _ = try? await supervisor.onLoop { $0.events?.setPaused(true) }
        await wait(until: .now + Self.eventGrace) { $0.events?.isQuiet ?? true }
        let since = UInt64(Date().timeIntervalSince1970 * 1000)
        let isUnderstood = format == handOverFormat
        _ = try? await supervisor.onLoop { _ in
            server.letGo(isUnderstood ? { Self.give(.connection(isControl: $1), [$0], socket) } : nil)
        }
        await wait(until: end) { state in
            _ = server.remainingConnections
            return state.activeCalls == 0
        }
        await wait(until: .now + Self.callerGrace) { _ in server.remainingConnections == 0 }
        let kept =
            (try? await supervisor.onLoop { state -> [WorkerID] in
                // Nothing may be given to a worker that is not this daemon's any more.
                state.beginDraining()
                return isUnderstood ? state.releaseWorkers { Self.give(.worker($0), $1, socket) } : []
            }) ?? []
        _ = Self.give(.end(since: since), [], socket)
        Glibc.close(socket)
        for start in stride(from: 0, to: max(1, kept.count), by: 1000) {
            link.send(.keep(Array(kept[start..<min(start + 1000, kept.count)]), isLast: start + 1000 >= kept.count))
        }
        await closeStores()
        _exit(0)
    }

    private static func give(_ message: HandOverMessage, _ descriptors: [CInt], _ socket: CInt) -> Bool {
        (try? Datagram.send(socket, message.encoded(), descriptors: descriptors)) != nil
    }

    private func wait(until end: ContinuousClock.Instant, _ isOver: @escaping @Sendable (SupervisorState) -> Bool) async {
        while ContinuousClock.now < end, let isDone = try? await supervisor.onLoop(isOver), !isDone {
            try? await Task.sleep(for: .milliseconds(2))
        }
    }

    // MARK: taking

    /// Before the first worker of this daemon's own starts.
    func takeWorkers(_ inheritance: Inheritance) async throws {
        let count = try await supervisor.onLoop { state in
            var left = inheritance.kept
            var count = 0
            for (record, descriptors) in inheritance.workers {
                guard let kept = left.removeValue(forKey: record.worker) else {
                    for descriptor in descriptors { Glibc.close(descriptor) }
                    continue
                }
                if state.inherit(record, kept, descriptors) { count += 1 }
            }
            // The spawner keeps them and nobody can speak to them.
            for worker in left.keys { state.end(worker) }
            return count
        }
        life.withLock { ($0.offered, $0.kept) = (inheritance.workers.count, count) }
    }

    func takeConnections(_ inheritance: Inheritance, _ server: GatewayServer) {
        for connection in inheritance.connections { server.adopt(connection.socket, isControl: connection.isControl) }
        let wall = UInt64(Date().timeIntervalSince1970 * 1000)
        let pause = inheritance.since > 0 && wall > inheritance.since ? wall - inheritance.since : 0
        life.withLock { ($0.connections, $0.pause) = (inheritance.connections.count, pause) }
        logger.notice(
            "took over from the daemon before",
            metadata: [
                "workers": "\(life.withLock { $0.kept })", "offered": "\(inheritance.workers.count)",
                "connections": "\(inheritance.connections.count)", "pauseMilliseconds": "\(pause)",
            ])
    }
}
