// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NIOCore
import Store
import Synchronization
import Testing

@testable import Supervision

/// What becomes of a verdict without lineage, and of a new version on a broken edge, at an engine whose time a test moves.
@Suite struct LoopVerdictTests {
    /// An engine with functions that answer, in a time of its own.
    private final class World: Sendable {
        let supervisor: Supervisor
        let spawner = FakeSpawner()
        let store: EventStore
        let edge: EdgeID, other: EdgeID
        let path: String
        let alarms = Mutex<[Alarm]>([])
        private let passed: Passed

        private final class Passed: Sendable { let nanoseconds = Mutex<UInt64>(0) }

        init() async throws {
            let top = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm/" : NSTemporaryDirectory()
            path = top + "verdict-\(UUID().uuidString)"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            store = try EventStore(directory: path, now: 1)
            let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("echo")))
            edge = EdgeID(trigger: try #require(Name("hooks")), function: function)
            other = EdgeID(trigger: try #require(Name("calm")), function: function)
            let passed = Passed()
            self.passed = passed
            let clock = SupervisorClock(
                now: { SupervisorClock.system.now() + passed.nanoseconds.withLock { $0 } },
                wall: { SupervisorClock.system.wall() + passed.nanoseconds.withLock { $0 } / 1_000_000 })
            supervisor = try await TestNode.supervisor(spawner, clock: clock)
            let store = store
            try await supervisor.onLoop { [self] state in
                let engine = EventEngine(state: state, store: store, governor: nil) { function, _ in
                    VersionID(function: function, number: 1)
                }
                engine.alarmed = { alarm in self.alarms.withLock { $0.append(alarm) } }
                state.events = engine
            }
        }

        func wait(_ time: Nanoseconds) { passed.nanoseconds.withLock { $0 += time } }

        func send(_ edge: EdgeID, cause: Lineage? = nil) async throws {
            try await supervisor.onLoop { state in
                var order = EventOrder(function: edge.function, payload: Array("same".utf8))
                order.trigger = edge.trigger
                order.cause = cause
                state.events?.accept(order) { _ in }
            }
        }

        func circuit() async throws -> LoopCircuit? {
            let edge = edge
            return try await supervisor.onLoop { $0.events?.governor.state(of: edge)?.circuit }
        }

        func count(_ state: EventState, _ edge: EdgeID) throws -> Int {
            try store.list(EventQuery(state: state, tenant: edge.function.tenant, limit: 1_000)).events.count {
                $0.trigger == edge.trigger.text
            }
        }

        func end() async throws {
            try await supervisor.onLoop { $0.events?.stop() }
            try await eventually("nothing runs any more", within: 60) { try await supervisor.onLoop { $0.events?.isQuiet } == true }
            EventEngine.reads.sync {}
            EventEngine.counting.sync {}
            store.close()
            try await supervisor.onLoop { _ in }
            spawner.disconnect()
            try? FileManager.default.removeItem(atPath: path)
        }
    }

    @Test(
        "events that follow from their edge's own runs break it: all of it waits, its owner is told, and the function's other trigger runs on"
    )
    func verdict() async throws {
        let world = try await World()
        let edge = world.edge
        // 50 of one content begin a test; from then on each window that runs is followed by as many events, and one that waits by none.
        func arrive(_ count: Int) async throws {
            try await world.supervisor.onLoop { state in for _ in 0..<count { state.events?.observe(edge, "same", arms: false) } }
        }
        try await arrive(50)
        #expect(try await world.supervisor.onLoop { $0.events?.detectors[edge]?.test != nil })
        var windows = 0
        while try await world.supervisor.onLoop({ $0.events?.detectors[edge]?.test != nil }), windows < 200 {
            windows += 1
            let runs = try await world.supervisor.onLoop { state -> Bool in
                guard let engine = state.events, let deadline = engine.detectors[edge]?.nextDeadline else { return false }
                let runs = engine.pausedEdges[edge] == nil
                world.wait(deadline - min(deadline, engine.now()))
                engine.passTests()
                // The next window's middle, where what the one before has caused comes in.
                if let next = engine.detectors[edge]?.nextDeadline, next > engine.now() { world.wait((next - engine.now()) / 2) }
                return runs
            }
            guard runs, try await world.supervisor.onLoop({ $0.events?.detectors[edge]?.test != nil }) else { continue }
            try await arrive(4)
        }
        guard case .broken(let one) = try await world.circuit() else {
            Issue.record("the edge is not broken after \(windows) windows")
            return try await world.end()
        }
        #expect(one.cause == .detector && one.isAll)
        #expect(world.alarms.withLock { $0.filter { $0.kind == .loopBroken && !$0.isRecovery } }.count == 1)
        #expect(try await world.supervisor.onLoop { $0.events?.pausedEdges.isEmpty == true && $0.events?.tested.isEmpty == true })
        try await world.send(edge)
        try await eventually("what comes is parked", within: 60) { try world.count(.parked, edge) == 1 }
        try await world.send(world.other)
        try await eventually("the other trigger's event", within: 60) { try world.count(.done, world.other) == 1 }
        try await world.end()
    }

    @Test(
        "a new version of a broken edge's function is tried with one event, once, after a while; the edge closes if that does not come back, and opens if it does",
        arguments: [false, true])
    func halfOpen(comesBack: Bool) async throws {
        let world = try await World()
        let edge = world.edge
        try await world.supervisor.onLoop { state in
            guard let engine = state.events else { return }
            engine.configure([edge: EdgeSpec(revision: 1)])
            var notes: [LoopNote] = []
            engine.governor.breakEdge(edge, .detector, all: true, at: engine.now(), into: &notes)
            engine.obey(notes)
        }
        for _ in 0..<3 { try await world.send(edge) }
        try await eventually("all are parked", within: 60) { try world.count(.parked, edge) == 3 }
        func pass(_ time: Nanoseconds) async throws {
            world.wait(time)
            try await world.supervisor.onLoop { $0.events?.passLoops() }
        }
        // Time alone tries nothing, and neither does the version that there was.
        try await world.supervisor.onLoop { $0.events?.configure([edge: EdgeSpec(revision: 1)]) }
        try await pass(.seconds(2_000))
        guard case .broken? = try await world.circuit() else {
            Issue.record("tried without a new version")
            return
        }
        try await world.supervisor.onLoop { $0.events?.configure([edge: EdgeSpec(revision: 2)]) }
        try await pass(.milliseconds(1))
        try await eventually("one has run", within: 60) { try world.count(.done, edge) == 1 }
        guard case .probing(_, let root?, _)? = try await world.circuit() else {
            Issue.record("it is not probing")
            return
        }
        #expect(try world.count(.parked, edge) == 2 && world.spawner.invoked == ["echo"])
        if comesBack {
            let probe = try #require(try world.store.list(EventQuery(state: .done, tenant: edge.function.tenant, limit: 10)).events.first)
            let lineage = try #require(Lineage(encoded: probe.lineage))
            #expect(lineage.root == root)
            try await world.send(edge, cause: lineage)
            try await eventually("it is parked", within: 60) { try world.count(.parked, edge) == 3 }
            guard case .broken(let one)? = try await world.circuit() else {
                Issue.record("it is not broken again")
                return
            }
            #expect(one.cause == .probe && one.isAll)
        } else {
            try await pass(.seconds(901))
            #expect(try await world.circuit() == .closed)
            #expect(world.alarms.withLock { $0.last }?.isRecovery == true)
            try await world.send(edge)
            try await eventually("what comes then runs", within: 60) { try world.count(.done, edge) == 2 }
        }
        try await world.end()
    }
}
