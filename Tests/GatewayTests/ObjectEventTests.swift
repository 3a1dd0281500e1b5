// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import NIOCore
import Store
import Synchronization
import Testing

@testable import Supervision

/// Object events that find no place: an engine without a daemon, told of objects as a watch would.
@Suite struct ObjectEventTests {
    final class World: Sendable {
        let supervisor: Supervisor
        let store: EventStore
        let bucket: BucketID
        let trigger: ObjectTrigger
        /// The last number of each report that was acknowledged.
        let acknowledged: Shared<[UInt64]>
        let marks = Mutex<[BucketWatch.Mark]>([])
        var edge: EdgeID { EdgeID(trigger: trigger.trigger, function: trigger.function) }
        var tenant: Name { trigger.function.tenant }
        init(
            _ supervisor: Supervisor, _ store: EventStore, _ bucket: BucketID, _ trigger: ObjectTrigger,
            _ acknowledged: Shared<[UInt64]> = Shared([])
        ) {
            (self.supervisor, self.store, self.bucket, self.trigger) = (supervisor, store, bucket, trigger)
            self.acknowledged = acknowledged
        }
    }

    final class Shared<Value: Sendable>: Sendable {
        private let value: Mutex<Value>
        init(_ value: Value) { self.value = Mutex(value) }
        func withLock<T: Sendable>(_ body: (inout Value) -> T) -> T { value.withLock { body(&$0) } }
    }

    func withWorld(limits: LoopLimits = LoopLimits(), folder: String? = nil, _ body: (World) async throws -> Void) async throws {
        let top = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm/" : NSTemporaryDirectory()
        let path = folder ?? top + "objects-\(UUID().uuidString)"
        if folder == nil { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
        defer { if folder == nil { try? FileManager.default.removeItem(atPath: path) } }
        let store = try EventStore(directory: path, now: 1)
        let supervisor = try await TestNode.supervisor(FakeSpawner())
        let tenant = try #require(Name("acme"))
        let function = FunctionID(tenant: tenant, function: try #require(Name("thumb")))
        let bucket = BucketID(tenant: tenant, bucket: try #require(Name("photos")))
        let trigger = ObjectTrigger(
            function: function, trigger: try #require(Name("new")), prefix: "in/", suffix: "", changes: [.created, .removed])
        try await supervisor.onLoop { state in
            let engine = EventEngine(state: state, store: store, governor: nil, limits: limits) { function, _ in
                VersionID(function: function, number: 1)
            }
            engine.setPaused(true)
            engine.watch(tenant, [bucket: [trigger]])
            engine.configure([EdgeID(trigger: trigger.trigger, function: function): EdgeSpec(source: .object)])
            state.events = engine
        }
        let world = World(supervisor, store, bucket, trigger)
        try await supervisor.onLoop { $0.events?.markBucket = { _, mark in world.marks.withLock { $0.append(mark) } } }
        try await body(world)
        try await supervisor.onLoop { $0.events?.stop() }
        EventEngine.reads.sync {}
        EventEngine.counting.sync {}
        EventEngine.known.sync {}
        store.close()
    }

    /// Tells of new objects, one report for each hundred.
    func tell(_ world: World, _ numbers: Range<UInt64>, _ change: ObjectChange = .created) async throws {
        let (bucket, supervisor) = (world.bucket, world.supervisor)
        for start in stride(from: numbers.lowerBound, to: numbers.upperBound, by: 100) {
            let events = try (start..<min(start + 100, numbers.upperBound)).map { number in
                ObjectEvent(
                    bucket: bucket, key: try #require(ObjectKey("in/\(number)")), change: change, size: 1, modified: 1, inode: number + 1,
                    sequence: number)
            }
            try await supervisor.onLoop { $0.events?.objects(events) { sequence in world.acknowledged.withLock { $0.append(sequence) } } }
        }
        try await looked(world)
    }

    /// Until all that was told of was looked for in the store.
    func looked(_ world: World) async throws {
        try await eventually("they are looked for", within: 60) { try await world.supervisor.onLoop { $0.events?.intake.looking } == 0 }
    }

    /// A bucket of another tenant, in the same world.
    private func other(_ world: World) async throws -> World {
        let tenant = try #require(Name("small"))
        var trigger = world.trigger
        trigger.function = FunctionID(tenant: tenant, function: trigger.function.function)
        let bucket = BucketID(tenant: tenant, bucket: world.bucket.bucket)
        let triggers = [bucket: [trigger]]
        try await world.supervisor.onLoop { $0.events?.watch(tenant, triggers) }
        return World(world.supervisor, world.store, bucket, trigger, world.acknowledged)
    }

    func pass(_ world: World) async throws { try await world.supervisor.onLoop { $0.events?.passTime() } }

    func all(_ world: World, _ state: EventState) throws -> [EventRecord] {
        var query = EventQuery(state: state, tenant: world.tenant, limit: EventStore.batchLimit)
        var found: [EventRecord] = []
        repeat {
            let page = try world.store.list(query)
            found += page.events
            query.after = page.next
        } while query.after != nil
        return found
    }

    /// What the event that stands for several says.
    private func merged(_ world: World) throws -> [(id: InvocationID, count: Int, lastKey: String)] {
        try all(world, .parked).compactMap { event in
            let bytes = try world.store.payload(event.id, of: world.tenant)?.bytes() ?? []
            guard let body = try JSONSerialization.jsonObject(with: Data(bytes)) as? [String: Any], body["merged"] as? Bool == true else {
                return nil
            }
            return (event.id, body["count"] as? Int ?? -1, body["lastKey"] as? String ?? "")
        }
    }

    func parked(_ world: World) async throws -> (events: Int, bytes: Int) {
        try await world.supervisor.onLoop { state in
            let found = state.events?.governor.state(of: world.edge)
            return (found?.parkedEvents ?? 0, found?.parkedBytes ?? 0)
        }
    }

    func fill(_ world: World, _ isFull: Bool) async throws {
        try await world.supervisor.onLoop { $0.events?.backlog[world.tenant] = isFull ? (EventEngine.mostWaitingOfTenant.events, 0) : nil }
    }

    @Test("a tenant's full share parks nothing: its object events wait, and its bucket's mark with them; others' are read on")
    func share() async throws {
        try await withWorld { world async throws in
            try await fill(world, true)
            try await tell(world, 1..<151)
            #expect(try await world.supervisor.onLoop { $0.events?.intake.heldCount } == 150)
            #expect(try all(world, .parked).isEmpty)
            #expect(try all(world, .ready).isEmpty)
            #expect(world.acknowledged.withLock { $0 } == [100, 150] && world.marks.withLock { $0 } == [.held])
            try await fill(world, false)
            try await eventually("all are stored, and the mark goes on", within: 60) {
                try await pass(world)
                return world.marks.withLock { $0 } == [.held, .moving]
            }
            #expect(try all(world, .ready).count == 150)
            #expect(try all(world, .parked).isEmpty)
        }
    }

    @Test("of a tenant's object events that find no room so many wait; the others are let go, and the bucket is looked through again")
    func beyond() async throws {
        try await withWorld { world async throws in
            try await fill(world, true)
            let count = UInt64(ObjectIntake.mostLate) + 300
            try await tell(world, 1..<count + 1)
            #expect(try await world.supervisor.onLoop { $0.events?.intake.heldCount } == ObjectIntake.mostLate)
            #expect(world.acknowledged.withLock { $0.last } == count)
            // Not while there is hardly room.
            try await world.supervisor.onLoop { state in
                state.events?.takeHeldObjects()
                state.events?.backlog[world.tenant] = (EventEngine.mostWaitingOfTenant.events - 2_000, 0)
                state.events?.takeHeldObjects()
            }
            try await eventually("those that waited are stored", within: 60) { try all(world, .ready).count == ObjectIntake.mostLate }
            try await world.supervisor.onLoop { $0.events?.takeHeldObjects() }
            #expect(world.marks.withLock { $0 } == [.held])
            try await fill(world, false)
            try await eventually("it is looked through again", within: 60) {
                try await pass(world)
                return world.marks.withLock { $0 } == [.held, .again]
            }
            // As the watch does then: those that are there already are known.
            try await tell(world, 1..<count + 1)
            try await eventually("all are stored, once", within: 60) { try all(world, .ready).count == count }
        }
    }

    @Test("removals that find no room are merged, for no look through the bucket finds them")
    func removedBeyond() async throws {
        try await withWorld { world async throws in
            try await fill(world, true)
            let count = UInt64(ObjectIntake.mostLate) + 300
            try await tell(world, 1..<count + 1, .removed)
            try await eventually("one event stands for those", within: 60) { try merged(world).map(\.count) == [300] }
            try await eventually("all are acknowledged", within: 60) { world.acknowledged.withLock { $0.last } == count }
            try await fill(world, false)
            try await eventually("the others are stored, and nothing has to be looked for", within: 60) {
                try await pass(world)
                return world.marks.withLock { $0 } == [.held, .moving]
            }
            #expect(try all(world, .ready).count == ObjectIntake.mostLate)
        }
    }

    @Test(
        "a node that takes no more holds object events, unacknowledged; a later report, of another tenant, is not acknowledged before an earlier one"
    )
    func order() async throws {
        try await withWorld { world async throws in
            try await world.supervisor.onLoop { $0.events?.counts.kept[.ready] = EventEngine.mostWaiting }
            try await tell(world, 1..<11)
            try await world.supervisor.onLoop { $0.events?.counts.kept[.ready] = 0 }
            try await tell(try await other(world), 11..<21)
            try await eventually("the later ones are stored", within: 60) {
                try world.store.list(EventQuery(state: .ready, tenant: Name("small"))).events.count == 10
            }
            #expect(world.acknowledged.withLock { $0 }.isEmpty && world.marks.withLock { $0 }.isEmpty)
            try await pass(world)
            try await eventually("both", within: 60) { world.acknowledged.withLock { $0 } == [10, 20] }
            #expect(try all(world, .parked).isEmpty)
        }
    }

    @Test("a full disk holds object events; when it has room they are stored, and none has paid twice", .enabled(if: geteuid() == 0))
    func disk() async throws {
        let path = NSTemporaryDirectory() + "objects-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        try run("/usr/bin/mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path)
        defer { try? run("/usr/bin/umount", "-l", path) }
        try await withWorld(folder: path) { world async throws in
            let filler = path + "/filler"
            _ = FileManager.default.createFile(atPath: filler, contents: nil)
            let file = try FileHandle(forWritingTo: URL(fileURLWithPath: filler))
            var size = 64 << 10
            while size > 0 { do { try file.write(contentsOf: Data(count: size)) } catch { size /= 2 } }
            try file.close()
            try await tell(world, 1..<301)
            try await eventually("the disk refuses", within: 60) {
                try await world.supervisor.onLoop { $0.events?.intake.heldCount } ?? 0 > 0
            }
            #expect(world.acknowledged.withLock { $0.last } != 300)
            #expect(world.store.failure == nil)
            let held = try await settled(world)
            for _ in 0..<3 {
                try await world.supervisor.onLoop { $0.events?.takeHeldObjects() }
                _ = try await settled(world)
            }
            #expect(try await settled(world) == held + 3, "one asks for all whether the disk has room")
            try FileManager.default.removeItem(atPath: filler)
            try await eventually("all are stored", within: 60) {
                try await pass(world)
                return world.acknowledged.withLock { $0 } == [100, 200, 300]
            }
            #expect(try all(world, .ready).count == 300)
            #expect(try all(world, .parked).isEmpty)
            #expect(try await world.supervisor.onLoop { $0.events?.loopCounts.admitted } == 300)
        }
    }

    /// How often an event was turned away, once the disk has answered for all of them.
    private func settled(_ world: World) async throws -> UInt64 {
        try await eventually("the disk has answered", within: 60) {
            try await world.supervisor.onLoop { state in
                guard let engine = state.events else { return false }
                return !engine.intake.isAskingDisk && UInt64(engine.intake.heldCount) + (engine.counters["events.accepted"] ?? 0) == 300
            }
        }
        return try await world.supervisor.onLoop { $0.events?.counters["objects.held"] ?? 0 }
    }

    private func run(_ words: String...) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: words[0])
        process.arguments = Array(words.dropFirst())
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw StoreError("\(words) failed") }
    }

    @Test("3,000 objects and a full quarantine: its bound is kept, one event stands for the rest, and the figure is that of the store")
    func full() async throws {
        var limits = LoopLimits()
        limits.edgeEvents = 10
        try await withWorld(limits: limits) { world async throws in
            try await breakEdge(world)
            try await tell(world, 1..<3001)
            try await eventually("all are acknowledged", within: 120) { world.acknowledged.withLock { $0.last } == 3000 }
            #expect(try all(world, .parked).count == 10)
            let one = try #require(try merged(world).first)
            #expect(try merged(world).count == 1 && one.count == 3000 - 9 && one.lastKey == "in/3000")
            try await agree(world)
            // The same ones again, as after a restart: those that have their own place are known, and take no place and give none back.
            try await tell(world, 3001..<3002)
            try await eventually("one more", within: 60) { world.acknowledged.withLock { $0.last } == 3001 }
            #expect(try merged(world).map(\.count) == [3000 - 8])
            try await agree(world)
        }
    }

    @Test("what comes after the one event was let go has a new one, also within the hour")
    func released() async throws {
        var limits = LoopLimits()
        limits.edgeEvents = 2
        try await withWorld(limits: limits) { world async throws in
            try await breakEdge(world)
            try await tell(world, 1..<11)
            try await eventually("acknowledged", within: 60) { world.acknowledged.withLock { $0.last } == 10 }
            let first = try #require(try merged(world).first)
            #expect(first.count == 9 && first.lastKey == "in/10")
            let gone: Result<Int, StoreError> = await withCheckedContinuation { continuation in
                world.supervisor.loop.execute {
                    world.supervisor.state.events?.resume(world.edge, .discard) { continuation.resume(returning: $0) }
                }
            }
            #expect(try gone.get() == 2)
            try await eventually("nothing is counted", within: 60) { try await parked(world) == (0, 0) }
            try await breakEdge(world)
            try await tell(world, 20..<31)
            try await eventually("acknowledged", within: 60) { world.acknowledged.withLock { $0.last } == 30 }
            let second = try merged(world)
            #expect(second.map(\.count) == [10] && second.first?.lastKey == "in/30" && second.first?.id != first.id)
            try await agree(world)
        }
    }

    private func breakEdge(_ world: World) async throws {
        try await world.supervisor.onLoop { state in
            guard let engine = state.events else { return }
            var notes: [LoopNote] = []
            engine.governor.breakEdge(world.edge, .operator, all: true, at: engine.now(), into: &notes)
        }
    }

    /// The governor's count is what the store holds.
    private func agree(_ world: World) async throws {
        let (kept, counted) = (try all(world, .parked), try await parked(world))
        #expect(counted.events == kept.count && counted.bytes == kept.reduce(0) { $0 + $1.payloadBytes })
    }
}
