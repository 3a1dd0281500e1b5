// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import NIOCore
import Store
import Synchronization
import Testing

@testable import Supervision

/// What an owner sees of a loop: an engine without a daemon, and a writer that writes again and again.
@Suite struct LoopWayTests {
    private let base = ObjectEventTests()

    private func tell(_ world: ObjectEventTests.World, _ key: String, _ cause: Lineage?, _ sequence: UInt64) async throws {
        let key = try #require(ObjectKey(key))
        let event = ObjectEvent(
            bucket: world.bucket, key: key, change: .created, size: 1, modified: 1, inode: sequence, pid: getpid(), sequence: sequence)
        try await world.supervisor.onLoop { state in
            state.events?.willWrite(world.bucket, key, cause)
            state.events?.objects([event]) { last in world.acknowledged.withLock { $0.append(last) } }
        }
        try await eventually("\(key) is stored", within: 60) { world.acknowledged.withLock { $0.last } == sequence }
    }

    @Test("a loop is shown and told of with the objects and functions that it went through, also after a restart, and to nobody else")
    func way() async throws {
        try await base.withWorld { world async throws in
            let alarms = Mutex<[Alarm]>([])
            try await world.supervisor.onLoop { $0.events?.alarmed = { alarm in alarms.withLock { $0.append(alarm) } } }
            var (key, sequence, last) = ("in/a.jpg", UInt64(1), Lineage?.none)
            var seen: Set<InvocationID> = []
            while try base.all(world, .parked).isEmpty, sequence < 30 {
                try await tell(world, key, last, sequence)
                // Somebody else's upload, meanwhile.
                try await tell(world, "in/other-\(sequence)", nil, sequence + 1_000)
                world.acknowledged.withLock { $0 = [] }
                for event in try base.all(world, .ready) where seen.insert(event.id).inserted {
                    let body = String(decoding: try world.store.payload(event.id, of: world.tenant)?.bytes() ?? [], as: UTF8.self)
                    if body.contains(key) { last = Lineage(encoded: event.lineage) }
                }
                (key, sequence) = ("in/t-\(sequence).jpg", sequence + 1)
            }
            let views = try await world.supervisor.onLoop {
                ($0.events?.loops(of: world.tenant) ?? [], $0.events?.loops(of: Name("small")) ?? [])
            }
            let words = try #require(views.0.first { $0.edge == world.edge }).way.flatMap(\.words)
            #expect(words.count == 2 * LoopTrail.longestWay && words.suffix(2) == ["photos/in/t-\(sequence - 2).jpg", "thumb"])
            #expect(
                words.dropLast(2).suffix(2) == ["photos/in/t-\(sequence - 3).jpg", "thumb"] && !words.contains { $0.contains("other") })
            #expect(views.1.isEmpty)
            let told = try #require(alarms.withLock { $0.first { $0.kind == .loop } })
            #expect(
                told.tenant == world.tenant && told.text.hasSuffix("its way: " + words.suffix(6).joined(separator: " -> ")), "\(told.text)")
            let again = try await world.supervisor.onLoop { state -> [LoopView] in
                guard let old = state.events else { return [] }
                return EventEngine(state: state, store: old.store, governor: old.loopSnapshot) { _, _ in nil }.loops(of: world.tenant)
            }
            #expect(again.first { $0.edge == world.edge }?.way.flatMap(\.words) == words)
        }
    }

    @Test("a caller's upload that is found without its writer begins anew; not the next write of it, nor one long after")
    func upload() async throws {
        try await base.withWorld { world async throws in
            try await tell(world, "in/a", nil, 1)
            let first = try #require(try base.all(world, .ready).first)
            let key = try #require(ObjectKey("in/b"))
            try await tell(world, "in/b", Lineage(encoded: first.lineage), 2)
            let written = try #require(try base.all(world, .ready).first { $0.id != first.id })
            let hops = Int(try #require(Lineage(encoded: written.lineage)).hops)
            var known = Set([first.id, written.id])
            func forget() async throws { try await world.supervisor.onLoop { $0.events?.ownWrites = [:] } }
            try await forget()
            /// Of the event of a write that nobody saw.
            func found(_ sequence: UInt64, _ key: ObjectKey = key) async throws -> Int? {
                let event = ObjectEvent(
                    bucket: world.bucket, key: key, change: .created, size: 1, modified: 1, inode: sequence, sequence: sequence)
                try await world.supervisor.onLoop { state in
                    state.events?.objects([event]) { last in world.acknowledged.withLock { $0.append(last) } }
                }
                try await eventually("it is stored", within: 60) { world.acknowledged.withLock { $0.last } == sequence }
                let all = try base.all(world, .ready)
                let new = try #require(all.first { !known.contains($0.id) })
                known.insert(new.id)
                return Lineage(encoded: new.lineage).map { Int($0.hops) }
            }
            #expect(try await found(3) == hops)
            try await world.supervisor.onLoop { $0.events?.willUpload(world.bucket, key) }
            #expect(try await found(4) == hops - 1, "the upload")
            #expect(try await found(5) == hops, "what was written after it")
            // Its own event has told who wrote.
            try await world.supervisor.onLoop { $0.events?.willUpload(world.bucket, key) }
            try await tell(world, "in/b", Lineage(encoded: first.lineage), 6)
            known.formUnion(try base.all(world, .ready).map(\.id))
            try await forget()
            #expect(try await found(7) == hops, "what was written after one that was seen")
            try await world.supervisor.onLoop { state in
                state.events?.willUpload(world.bucket, key)
                state.events?.uploads[world.tenant]?[ObjectPlace(bucket: world.bucket, key: key)] = Instant(nanoseconds: 0)
            }
            #expect(try await found(8) == hops, "long after")
            let before = try await world.supervisor.onLoop { $0.events?.now() }
            // What the node writes for an outcome stays that, found or seen, also where a caller writes it at that moment.
            let outcome = try #require(ObjectKey("in/new/c"))
            try await world.supervisor.onLoop { state in
                state.events?.willWrite(world.bucket, outcome, Lineage(encoded: first.lineage))
                state.events?.willUpload(world.bucket, outcome)
            }
            #expect(try await found(9, outcome) == hops, "an outcome")
            try await world.supervisor.onLoop { state in
                guard let before, let now = state.events?.now() else { return }
                state.events?.forgetAnnouncements(at: before)
                #expect(state.events?.ownWrites.count == 1 && state.events?.uploads.count == 1)
                state.events?.forgetAnnouncements(at: now + EventEngine.announcementLife + .seconds(1))
                #expect(state.events?.ownWrites.isEmpty == true && state.events?.uploads.isEmpty == true)
            }
        }
    }
}
