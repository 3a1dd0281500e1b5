// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Store
import Testing

@testable import Supervision
@testable import bulkheadd

/// Cron triggers at the real daemon, whose events wait: the run before has never ended.
@Suite struct CronFiringTests {
    private static let triggers = """
        triggers:
        - {cron: "* * * * * *", timezone: UTC, name: left-out, overlap: skip}
        - {cron: "* * * * * *", timezone: UTC, name: behind, overlap: queue}
        - {cron: "* * * * * *", timezone: UTC, name: beside, overlap: allow}

        """

    @Test(
        "while a run has not ended the next is left out, waits for it, or comes beside it; one that waited comes once, however many times passed"
    )
    func overlap() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1)], extra: Self.triggers) { _, daemon, _ async throws in
            try await daemon.supervisor.onLoop { $0.events?.setPaused(true) }
            let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("echo")))
            let behind = EdgeID(trigger: try #require(Name("behind")), function: function)
            func events(_ trigger: String) async throws -> [EventReply] {
                try await daemon.events(EventFilter()).events.filter { $0.trigger == trigger }
            }
            try await eventually("some times have passed", within: 60) {
                await daemon.tickCron()
                return try await events("beside").count >= 4 && daemon.cron.counts.skipped >= 2
            }
            #expect(try await events("left-out").count == 1)
            let first = try await events("behind")
            #expect(first.count == 1)
            let (due, now) = (try #require(daemon.cron.next(behind)), Int64(Date().timeIntervalSince1970))
            #expect(due < now, "it stays due")
            // After a crash the same time is the same event.
            let beside = try await events("beside")
            #expect(
                Set(beside.compactMap(\.idempotencyKey)).count == beside.count
                    && beside[0].idempotencyKey?.hasPrefix("cron:beside:") == true)
            _ = try await daemon.stop(try #require(InvocationID(first[0].id)), tenant: nil)
            try await eventually("the one that waited comes", within: 60) {
                await daemon.tickCron()
                return try await events("behind").contains { $0.state == "ready" }
            }
            await daemon.tickCron()
            #expect(try await events("behind").count == 2)
        }
    }
}
