// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import Wire

import struct SystemPackage.Errno

/// A daemon that is to take the place of the present one. Until then it may only say that it is prepared.
struct Successor {
    let pid: Int32
    let socket: Int32
    /// The predecessor's end of the socket between both; given away when the successor is prepared, then -1.
    var giver: Int32
    var hasGreeted = false
    var isPrepared = false
    /// Workers that live on.
    var kept: Set<WorkerID> = []
    /// Whether the predecessor has named all of them.
    var isComplete = false
    /// When whoever is waited for is given up.
    var deadline: UInt64
}

/// A new daemon in the place of the running one: it is started beside it, and only when it says that it is prepared does the old one let go. What the old one hands over goes past
/// the spawner, over a socket between the two; the spawner keeps the workers that it names, and every other one ends with it.
extension Spawner {
    /// How long a successor may take until it is prepared, and the old daemon until it has ended, in nanoseconds. The daemon gives what runs 30 s.
    static let preparationLimit: UInt64 = 30_000_000_000
    static let handOverLimit: UInt64 = 45_000_000_000
    /// How long a daemon that took over may take until it serves.
    static let takeOverLimit: UInt64 = 60_000_000_000
    /// Between two tries.
    static let handOverPause: UInt64 = 500_000_000

    /// A new daemon, and before it a new program for this process where the file is another by now, or where `isWhole` wants one in any case.
    func beginRestart(isWhole: Bool = false) {
        let now = MonotonicClock.nanoseconds()
        guard !isStopping, daemonPID > 0, health.due != nil else { return refuseHandOver("no daemon serves") }
        // Who asks meanwhile gets the same: what becomes of it is told to the daemon, for all who wait there.
        guard successor == nil, trial == nil else { return say("a restart is under way already: who asks for one gets the same") }
        guard lonelyDeadline == nil else { return refuseHandOver("a restart is under way") }
        guard now >= nextHandOver else { return refuseHandOver("the last restart was just now") }
        nextHandOver = now + Self.handOverPause
        if isWhole || Replacement.isOther(place.program) { tryProgram() } else { beginHandOver() }
    }

    /// Starts the successor, or says why there is none.
    func beginHandOver() {
        let now = MonotonicClock.nanoseconds()
        do throws(KernelError) {
            let pair = try SocketPair.messages().release()
            defer { close(pair.second) }
            let new: (pid: Int32, socket: Int32)
            do throws(KernelError) { new = try launchDaemon() } catch {
                close(pair.first)
                throw error
            }
            successor = Successor(pid: new.pid, socket: new.socket, giver: pair.first, deadline: now + Self.preparationLimit)
            try poller.add(new.socket, token: Token.successor.rawValue << 56)
            try Datagram.send(new.socket, SpawnerEvent.succession(version: spawnerProtocolVersion).encoded(), descriptors: [pair.second])
            manager.notify(["STATUS=A new daemon is prepared."])
        } catch { dropSuccessor("a new daemon cannot be started: \(error)") }
    }

    func refuseHandOver(_ reason: String) {
        say("no restart: \(reason)")
        tell(.handOverFailed(reason: reason))
    }

    /// The old daemon goes on, where it still can: one that lets go already ends, and another follows it. `isReaped`: the successor has no process any more.
    func dropSuccessor(_ reason: String, isReaped: Bool = false) {
        guard let gone = successor else { return refuseHandOver(reason) }
        successor = nil
        poller.remove(gone.socket)
        close(gone.socket)
        if gone.giver >= 0 { close(gone.giver) }
        if !isReaped {
            kill(gone.pid, SIGKILL)
            waitpid(gone.pid, nil, 0)
        }
        if gone.isPrepared, daemonPID > 0, !isStopping {
            lonelyDeadline = gone.deadline
            return say("the new daemon is lost while the old one lets go, and another one follows: \(reason)")
        }
        refuseHandOver(reason)
        manager.notify(["STATUS=Serves on \(address). No restart: \(reason)"])
    }

    func receiveFromSuccessor() {
        guard let present = successor else { return }
        do throws(KernelError) {
            guard let message = try Datagram.receive(present.socket, limit: spawnerMessageLimit, maximumDescriptors: 0) else {
                // Its end follows, and says more.
                return poller.remove(present.socket)
            }
            let request: SpawnerRequest
            do throws(WireError) { request = try SpawnerRequest(decoding: message.bytes[...]) } catch {
                return dropSuccessor("the new daemon sent an illegal request: \(error)")
            }
            switch request {
            case .hello(spawnerProtocolVersion) where !present.hasGreeted: successor?.hasGreeted = true
            case .prepared(let format) where present.hasGreeted && !present.isPrepared: handOver(format)
            default: dropSuccessor("the new daemon asked for something before its turn, or speaks another protocol version")
            }
        } catch {
            guard error.errno != .wouldBlock, error.errno != .resourceTemporarilyUnavailable else { return }
            poller.remove(present.socket)
        }
    }

    /// The successor is prepared: the old daemon lets go.
    private func handOver(_ format: UInt16) {
        guard let giver = successor?.giver else { return }
        successor?.isPrepared = true
        successor?.giver = -1
        successor?.deadline = MonotonicClock.nanoseconds() + Self.handOverLimit
        tell(.handOver(format: format), descriptors: [giver])
        close(giver)
    }

    /// The old daemon names workers that are to live on.
    func keep(_ workers: [WorkerID], isLast: Bool) {
        // Its successor is gone, and there is nobody to keep them for.
        guard lonelyDeadline == nil else { return }
        guard let present = successor, present.isPrepared, !present.isComplete else { return illegal("workers kept for nobody") }
        guard workers.allSatisfy({ usedIDs.contains($0.number) }) else { return illegal("the keeping of a worker that never was") }
        successor?.kept.formUnion(workers)
        successor?.isComplete = isLast
    }

    /// Whether the successor has ended before its turn.
    func reapSuccessor() {
        guard let present = successor else { return }
        var status: Int32 = 0
        guard unsafe waitpid(present.pid, &status, WNOHANG) == present.pid else { return }
        let signal = status & 0x7F
        let end = signal > 0 ? "signal \(signal)" : "exit code \((status >> 8) & 0xFF)"
        dropSuccessor("the new daemon ended (\(end)); its log says why", isReaped: true)
    }

    func passSuccessorTime(_ now: UInt64) {
        if let deadline = readyDeadline, deadline <= now {
            say("the new daemon took over and does not serve in time: it is ended")
            readyDeadline = nil
            if daemonPID > 0 { kill(daemonPID, SIGKILL) }
        }
        if let deadline = lonelyDeadline, deadline <= now {
            say("the daemon has not let go in time and is ended")
            lonelyDeadline = .max
            if daemonPID > 0 { kill(daemonPID, SIGKILL) }
        }
        guard let present = successor, present.deadline <= now else { return }
        guard present.isPrepared else { return dropSuccessor("the new daemon was not prepared in time") }
        say("the daemon has not let go in time and is ended; the new one takes over without its workers")
        successor?.deadline = .max
        if daemonPID > 0 { kill(daemonPID, SIGKILL) }
    }

    /// The old daemon has ended: the successor takes over, with the workers that were named where the old one ended in good order.
    func promote(_ next: Successor, isOrderly: Bool) {
        successor = nil
        let kept = workers.values.filter { isOrderly && next.isComplete && next.kept.contains($0.id) && $0.isAssigned && !$0.isKilled }
        killAll(except: Set(kept.map(\.id)))
        daemonPID = next.pid
        daemonSocket = next.socket
        hasGreeted = true
        daemonStartedAt = MonotonicClock.nanoseconds()
        readyDeadline = daemonStartedAt + Self.takeOverLimit
        poller.remove(daemonSocket)
        do throws(KernelError) { try poller.add(daemonSocket, token: Token.daemon.rawValue << 56) } catch {
            return illegal("the new daemon cannot be listened to: \(error)")
        }
        say("a new daemon takes over, with \(kept.count) worker\(kept.count == 1 ? "" : "s")")
        let list = kept.sorted { $0.id < $1.id }.map {
            KeptWorker(worker: $0.id, group: $0.group, pid: $0.pid, uid: $0.uid, cgroup: cgroups.suffix($0.path))
        }
        for start in stride(from: 0, to: list.count, by: KeptWorker.maximum) {
            tell(.kept(Array(list[start..<min(start + KeptWorker.maximum, list.count)])))
        }
        welcome()
    }
}
