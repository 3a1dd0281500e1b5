// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Testing

@testable import Supervision

/// An edge that the test for loops without lineage has paused, at an engine that runs.
@Suite struct TestPauseTests {
    private func function(_ name: String) throws -> FunctionID {
        FunctionID(tenant: try #require(Name("acme")), function: try #require(Name(name)))
    }

    private func send(_ supervisor: Supervisor, _ function: FunctionID, _ trigger: Name, _ count: Int) async throws {
        try await supervisor.onLoop { state in
            for _ in 0..<count {
                var order = EventOrder(function: function, payload: [])
                order.trigger = trigger
                state.events?.accept(order) { _ in }
            }
        }
    }

    @Test(
        "a paused edge hands back so many leases in a window, then its function gets none; others run on, and all of it when the pause ends"
    )
    func window() async throws {
        let top = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm/" : NSTemporaryDirectory()
        let path = top + "pause-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let store = try EventStore(directory: path, now: 1)
        let spawner = FakeSpawner()
        let supervisor = try await TestNode.supervisor(spawner)
        let (paused, other) = (try function("echo"), try function("fail"))
        let trigger = try #require(Name("new"))
        let edge = EdgeID(trigger: trigger, function: paused)
        try await supervisor.onLoop { state in
            let engine = EventEngine(state: state, store: store, governor: nil) { function, _ in VersionID(function: function, number: 1) }
            state.events = engine
            var detector = LoopDetector()
            // One whose first window does not end while this runs.
            #expect(detector.begin(coin: true, at: engine.now() + .seconds(3_600)) == .pause)
            engine.detectors[edge] = detector
            engine.edgesOf[paused] = [edge]
            engine.tested = [edge]
            engine.pausedEdges[edge] = 0
        }
        try await send(supervisor, paused, trigger, 400)
        try await eventually("its function is paused", within: 60) {
            try await supervisor.onLoop { $0.events?.pausedByTest[paused] != nil && $0.events?.running.isEmpty == true }
        }
        try await send(supervisor, other, trigger, 3)
        try await eventually("another function's run", within: 60) { spawner.invoked.filter { $0 == "fail" }.count == 3 }
        // Of all 400 so many were tried, and each try is a write: the window's, and what was claimed with the last of them.
        let tried = try store.list(EventQuery(state: .ready, tenant: paused.tenant, function: paused.function, limit: 1_000)).events
            .filter { $0.history.deliveries > 0 || $0.history.postponements > 0 }.count
        #expect((EventEngine.mostHandedBack..<300).contains(tried), "\(tried)")
        #expect(!spawner.invoked.contains("echo"))
        // A refusal ends the test, and with it the pause.
        try await supervisor.onLoop { $0.events?.abandonTest(edge) }
        #expect(try await supervisor.onLoop { $0.events?.pausedByTest.isEmpty == true && $0.events?.pausedEdges.isEmpty == true })
        try await eventually("what was not tried runs at once", within: 60) {
            spawner.invoked.filter { $0 == "echo" }.count >= 400 - tried
        }
        // What still runs must find its node.
        try await supervisor.onLoop { $0.events?.stop() }
        try await eventually("nothing runs any more", within: 60) { try await supervisor.onLoop { $0.events?.isQuiet } == true }
        EventEngine.reads.sync {}
        EventEngine.counting.sync {}
        store.close()
        try await supervisor.onLoop { _ in }
        spawner.disconnect()
    }
}
