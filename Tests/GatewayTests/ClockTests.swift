// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Synchronization
import Testing

@testable import Supervision

/// The machine's clock is set while calls are charged.
@Suite final class ClockTests {
    private let base: UInt64 = 1_700_000_000_000
    private let day: UInt64 = 86_400_000
    private let folder = NSTemporaryDirectory() + "clock-\(UUID().uuidString)"
    /// Milliseconds: how much time has passed, and how far the clock is ahead of that.
    private let time = Shown()

    private final class Shown: Sendable {
        let value = Mutex((passed: UInt64(0), ahead: UInt64(0)))
    }

    init() throws { try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: folder) }

    /// What a new daemon takes for the time, in milliseconds since the base, after each step: so much time has passed, and the clock is so far ahead.
    private func times(_ steps: [(passed: UInt64, ahead: UInt64)]) async throws -> [UInt64] {
        let (base, time) = (base, time)
        let version = VersionID(function: FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("echo"))), number: 1)
        let supervisor = try await TestNode.supervisor(
            FakeSpawner(),
            clock: SupervisorClock(
                now: { Instant(nanoseconds: time.value.withLock { $0.passed } * 1_000_000) },
                wall: { time.value.withLock { base + $0.passed + $0.ahead } }))
        let ledger = try UsageLedger(directory: folder, now: base + time.value.withLock { $0.passed })
        try await supervisor.onLoop { $0.ledger = ledger }
        var found: [UInt64] = []
        for step in steps {
            time.value.withLock { $0 = ($0.passed + step.passed, step.ahead) }
            let (now, isNoted) = try await supervisor.onLoop { state in
                // What a call notes goes by the same time.
                state.perform(.beginCharge(state.newID(state.clock.wall()), version, reserved: 1), state.now)
                return (state.time(), state.unnoted.isEmpty)
            }
            #expect(isNoted)
            found.append(now - base)
        }
        try await supervisor.onLoop { $0.ledger = nil }
        try ledger.checkpoint()
        return found
    }

    @Test("a clock that is set a day ahead and back leaves time where it was, though calls come meanwhile")
    func moment() async throws {
        #expect(try await times([(0, 0), (1, day), (60_000, day), (1, 0), (5_000, 0)]) == [0, 1, 60_001, 60_002, 65_002])
    }

    @Test(
        "one that stays ahead is believed after ten minutes; put right, time goes at half its pace, after a start as well, until they meet")
    func lasting() async throws {
        #expect(
            try await times([(0, 0), (1, day), (600_000, day), (2, 0), (5_000, 0)])
                == [0, 1, day + 600_001, day + 600_002, day + 602_502])
        #expect(try await times([(0, 0), (5_000, 0)]) == [day + 602_502, day + 605_002])
        let last = try await times([(0, 0), (2 * day, 0), (60_000, 0)]).last ?? 0
        let now = time.value.withLock { $0.passed }
        #expect(last + 1_001 >= now && last <= now + 1_001)
    }
}
