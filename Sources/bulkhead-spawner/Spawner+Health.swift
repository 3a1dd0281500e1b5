// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import Wire

/// What is known of the daemon's health: it is asked in turn, and one answer is waited for at a time.
struct DaemonHealth {
    /// Nanoseconds from an answer to the next question.
    let interval: UInt64
    /// How long an answer may take, in nanoseconds.
    let limit: UInt64
    private(set) var number: UInt64 = 0
    private(set) var askedAt: UInt64?
    private(set) var nextAt: UInt64?

    /// `watchdog` is the time after which the service manager gives this process up. Two questions and an answer fit into it.
    init(watchdog: UInt64?) {
        interval = min(5_000_000_000, (watchdog ?? .max) / 4)
        limit = min(15_000_000_000, (watchdog ?? .max) / 2)
    }

    /// When ``step(_:)`` has something to say; nil while no daemon serves.
    var due: UInt64? { askedAt.map { $0 + limit } ?? nextAt }

    /// As an earlier program of this process has left it.
    mutating func resume(number: UInt64, askedAt: UInt64?, nextAt: UInt64?) {
        (self.number, self.askedAt, self.nextAt) = (number, askedAt, nextAt)
    }

    enum Step: Equatable { case wait, ask(UInt64), isHung }

    mutating func step(_ now: UInt64) -> Step {
        guard let due, due <= now else { return .wait }
        if askedAt != nil {
            stopped()
            return .isHung
        }
        number += 1
        askedAt = now
        return .ask(number)
    }

    /// The daemon serves from now on.
    mutating func began(_ now: UInt64) {
        askedAt = nil
        nextAt = now + interval
    }
    mutating func stopped() { (askedAt, nextAt) = (nil, nil) }

    /// False for an answer that was not asked for.
    mutating func answered(_ answer: UInt64, _ now: UInt64) -> Bool {
        guard askedAt != nil, answer == number else { return false }
        began(now)
        return true
    }
}

extension Spawner {
    /// Asks the daemon whether it lives, and ends one that does not answer in time: a hung daemon holds every caller up, a new one serves in a moment.
    func watchDaemon() {
        guard !isStopping else { return }
        switch health.step(MonotonicClock.nanoseconds()) {
        case .wait: break
        case .ask(let number):
            tell(
                .ping(
                    number,
                    ProcessUse(
                        cpuMicroseconds: OwnUse.cpuMicroseconds, residentBytes: OwnUse.residentBytes ?? 0,
                        descriptors: OwnUse.descriptors ?? 0)))
        case .isHung:
            say("the daemon has not answered for \(health.limit / 1_000_000_000) s and is ended")
            if daemonPID > 0 { kill(daemonPID, SIGKILL) }
        }
    }

    /// The service manager hears of a living spawner only when the daemon lives too: where a new daemon does not help, it starts everything anew.
    func answered(_ number: UInt64) {
        guard health.answered(number, MonotonicClock.nanoseconds()) else { return illegal("an answer to nothing") }
        let count = workers.count
        manager.notify(["WATCHDOG=1", "STATUS=Serves on \(address); \(count) worker\(count == 1 ? "" : "s"). \(lastReload)"])
    }

    /// SIGHUP: the daemon reads its configuration again. The manager waits for what comes of it.
    func forwardReload() {
        guard daemonPID > 0 else { return }
        manager.notify(["RELOADING=1", "MONOTONIC_USEC=\(ServiceManager.monotonicMicroseconds)"])
        kill(daemonPID, SIGHUP)
    }

    func reloaded(_ text: String) {
        guard text.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else { return illegal("control characters in a sentence") }
        lastReload = text
        manager.notify(["READY=1", "STATUS=Serves on \(address). \(text)"])
    }
}
