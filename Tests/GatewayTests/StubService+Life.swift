// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Gateway

extension StubService {
    var isDraining: Bool { calls.last { $0.hasPrefix("drain ") } == "drain true" }
    func restartStatus() async throws -> RestartReply { RestartReply(daemon: 1, startedAt: 2) }
    func restart(isWhole: Bool) async throws -> RestartReply {
        note(isWhole ? "restart spawner" : "restart")
        return RestartReply(daemon: 1, startedAt: 2)
    }
    func drainStatus() async throws -> DrainReply { DrainReply(draining: isDraining, running: 3, eventsWaiting: 4) }
    func setDraining(_ isDraining: Bool) async throws -> DrainReply {
        note("drain \(isDraining)")
        return try await drainStatus()
    }
}
