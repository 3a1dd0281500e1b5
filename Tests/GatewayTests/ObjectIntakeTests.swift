// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Synchronization
import Testing

@testable import Supervision

/// Object events that come again, and those that wait: what they take.
@Suite struct ObjectIntakeTests {
    private let base = ObjectEventTests()

    private func figure(_ world: ObjectEventTests.World, _ name: String) async throws -> UInt64 {
        try await world.supervisor.onLoop { $0.events?.counters[name] ?? 0 }
    }

    @Test("an object that is told of again takes nothing of its trigger's rate and nothing of a budget, and is no sign of a loop")
    func again() async throws {
        try await base.withWorld { world async throws in
            let rate = try #require(RateSpec(count: 1, period: .seconds(3_600), burst: 3))
            try await world.supervisor.onLoop { state in
                let spec = FunctionSpec(
                    version: VersionID(function: world.trigger.function, number: 1), runtime: "native", code: "", limits: WorkerLimits(),
                    triggerRates: [world.trigger.trigger: rate])
                state.register(Deployment(spec: spec, handler: ["x"], environment: [:]))
            }
            try await base.tell(world, 1..<4)
            try await eventually("they are stored", within: 60) { world.acknowledged.withLock { $0 } == [3] }
            // As often as would make a key a hot one.
            for _ in 0..<60 { try await base.tell(world, 1..<4) }
            try await eventually("and acknowledged each time", within: 60) { world.acknowledged.withLock { $0.count } == 61 }
            #expect(try await figure(world, "events.duplicate") == 180)
            let (admitted, flow) = try await world.supervisor.onLoop { state in
                (state.events?.loopCounts.admitted, state.events?.edgeFlows[world.edge])
            }
            #expect(admitted == 3 && flow == 3)
            #expect(try await figure(world, "loop.tests") == 0)
            try await base.tell(world, 4..<5)
            try await eventually("the next one is stored", within: 60) { try base.all(world, .ready).count == 4 }
            let turn = try #require(try base.all(world, .ready).map { $0.since - $0.createdAt }.max())
            #expect((3_500_000...3_600_000).contains(turn), "its turn comes in \(turn) ms")
        }
    }

    @Test("one that is told of twice before the disk has it is one event, and acknowledged both times")
    func twice() async throws {
        try await base.withWorld { world async throws in
            let events = try (1..<6 as Range<UInt64>).map { number in
                ObjectEvent(
                    bucket: world.bucket, key: try #require(ObjectKey("in/\(number)")), change: .created, size: 1, inode: number,
                    sequence: number)
            }
            try await world.supervisor.onLoop { state in
                for _ in 0..<2 { state.events?.objects(events) { last in world.acknowledged.withLock { $0.append(last) } } }
            }
            try await eventually("both are acknowledged", within: 60) { world.acknowledged.withLock { $0 } == [5, 5] }
            #expect(try await world.supervisor.onLoop { $0.events?.loopCounts.admitted } == 5)
            #expect(try base.all(world, .ready).count == 5)
        }
    }

    @Test("those that were let go are heard when the bucket is looked through again, and those that wait are not taken twice")
    func letGo() async throws {
        try await base.withWorld { world async throws in
            try await base.fill(world, true)
            let count = UInt64(ObjectIntake.mostLate) + 50
            try await base.tell(world, 1..<count + 1)
            try await base.tell(world, 1..<count + 1)
            #expect(try await world.supervisor.onLoop { $0.events?.intake.heldCount } == ObjectIntake.mostLate)
            try await base.fill(world, false)
            try await eventually("those that waited are stored", within: 60) {
                try await base.pass(world)
                return world.marks.withLock { $0 } == [.held, .again]
            }
            try await base.tell(world, 1..<count + 1)
            try await eventually("all are stored", within: 60) { try base.all(world, .ready).count == count }
            #expect(try await world.supervisor.onLoop { $0.events?.loopCounts.admitted } == count)
        }
    }

    @Test("however many wait, one is tried each second; where that one is taken all are")
    func oneTry() async throws {
        try await base.withWorld { world async throws in
            try await base.fill(world, true)
            try await base.tell(world, 1..<1_001)
            let held = try await figure(world, "objects.held")
            for _ in 0..<5 { try await world.supervisor.onLoop { $0.events?.takeHeldObjects() } }
            #expect(try await figure(world, "objects.held") == held + 5)
            try await base.fill(world, false)
            try await world.supervisor.onLoop { state in
                state.events?.counts.kept[.ready] = EventEngine.mostWaiting
                for _ in 0..<5 { state.events?.takeHeldObjects() }
                state.events?.counts.kept[.ready] = 0
                state.events?.takeHeldObjects()
            }
            #expect(try await figure(world, "objects.held") == held + 10)
            try await eventually("all are stored", within: 60) { try base.all(world, .ready).count == 1_000 }
        }
    }

    @Test("what happens to an object is stored in the order in which it happened, also where the first of it has to wait")
    func order() async throws {
        try await base.withWorld { world async throws in
            try await base.fill(world, true)
            try await base.tell(world, 1..<11)
            // Room for some of them, and more comes.
            try await world.supervisor.onLoop { $0.events?.backlog[world.tenant] = (EventEngine.mostWaitingOfTenant.events - 5, 0) }
            try await base.tell(world, 1..<6, .removed)
            try await eventually("five are stored", within: 60) { try base.all(world, .ready).count == 5 }
            let bodies = try base.all(world, .ready).map { event in
                String(decoding: try world.store.payload(event.id, of: world.tenant)?.bytes() ?? [], as: UTF8.self)
            }
            #expect(bodies.allSatisfy { $0.contains("created") }, "\(bodies)")
            #expect(try await world.supervisor.onLoop { $0.events?.intake.heldCount } == 10)
            #expect(world.acknowledged.withLock { $0 } == [10, 5], "none of them keeps others from being read")
        }
    }

    @Test("reports that wait for the node or the disk are acknowledged when they wait for their own tenant", arguments: [false, true])
    func behind(disk: Bool) async throws {
        try await base.withWorld { world async throws in
            try await world.supervisor.onLoop { $0.events?.counts.kept[.ready] = EventEngine.mostWaiting }
            try await base.tell(world, 1..<11)
            #expect(world.acknowledged.withLock { $0 }.isEmpty)
            try await base.fill(world, true)
            try await world.supervisor.onLoop { state in
                state.events?.counts.kept[.ready] = 0
                state.events?.intake.isDiskRefusing = disk
                state.events?.takeHeldObjects()
            }
            #expect(world.acknowledged.withLock { $0 } == [10] && world.marks.withLock { $0 } == [.held])
            #expect(try await world.supervisor.onLoop { $0.events?.intake.heldCount } == 10)
        }
    }
}
