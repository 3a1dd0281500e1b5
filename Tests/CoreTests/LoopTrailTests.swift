// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import Core

/// What is remembered of where events went.
@Suite struct LoopTrailTests {
    private let now = Instant(nanoseconds: 1_000_000_000_000)

    private func function(_ name: String, _ tenant: String = "acme") throws -> FunctionID {
        FunctionID(tenant: try #require(Name(tenant)), function: try #require(Name(name)))
    }

    private func root(_ number: UInt64) -> Lineage { Lineage(root: InvocationID(milliseconds: 1, random: (0, number)), born: now) }

    /// An event that is admitted; returns the lineage of its run.
    private func admit(_ trail: inout LoopTrail, _ cause: Lineage, _ object: String?, _ function: FunctionID) -> Lineage {
        let lineage = cause.child(entering: FunctionKey(function), isSync: false)
        trail.note(cause.hops == 0 ? nil : cause, lineage, object, function, at: now)
        return lineage
    }

    @Test("the way of an event is what its ancestors were about, the last few of them, and not what others did meanwhile")
    func way() throws {
        var trail = LoopTrail()
        let (thumb, other) = (try function("thumb"), try function("other"))
        var (mine, theirs) = (root(1), root(2))
        for number in 0..<20 {
            mine = admit(&trail, mine, "photos/in/\(number)", thumb)
            theirs = admit(&trail, theirs, "photos/out/\(number)", other)
        }
        let way = trail.way(mine, "photos/in/20", thumb)
        #expect(way.map(\.object) == (13...20).map { "photos/in/\($0)" } && way.allSatisfy { $0.function == thumb.function })
        #expect(trail.way(root(1), "a", thumb) == [LoopStep(object: "a", function: thumb.function)])
        #expect(way.last?.words == ["photos/in/20", "thumb"])
    }

    @Test("a way knows its run wherever that comes in again: from outside, or by a call that is waited for")
    func returned() throws {
        var trail = LoopTrail()
        let thumb = try function("thumb")
        let run = admit(&trail, root(1), "photos/a", thumb)
        #expect(trail.way(run.returned, "photos/b", thumb).map(\.object) == ["photos/a", "photos/b"])
    }

    @Test("of other tenants a way says only that they were there")
    func tenants() throws {
        var trail = LoopTrail()
        let (mine, theirs) = (try function("f"), try function("secret", "other"))
        var run = admit(&trail, root(1), "photos/mine", mine)
        run = admit(&trail, run, "vault/theirs", theirs)
        run = admit(&trail, run, "vault/more", theirs)
        let way = trail.way(run, "photos/back", mine)
        #expect(way.flatMap(\.words) == ["photos/mine", "f", "(another tenant)", "photos/back", "f"])
        #expect(trail.way(run, nil, theirs).flatMap(\.words) == ["vault/theirs", "secret", "vault/more", "secret", "secret"])
    }

    @Test("what is remembered is bounded: for a tenant, whoever else sends, and for all of them; old things are forgotten")
    func bounds() throws {
        var trail = LoopTrail()
        let run = admit(&trail, root(0), "photos/first", try function("f", "quiet"))
        for number in 1...5_000 as ClosedRange<UInt64> { _ = admit(&trail, root(number), "b/\(number)", try function("f")) }
        #expect(trail.count == LoopTrail.mostOfTenant + 1)
        #expect(trail.way(run, "photos/second", try function("f", "quiet")).count == 2)
        for tenant in 0..<200 {
            for number in 0..<600 as Range<UInt64> {
                _ = admit(&trail, root(UInt64(tenant) << 32 | number << 16 | 1), nil, try function("f", "t\(tenant)"))
            }
        }
        trail.forget(at: now)
        #expect(trail.count <= LoopTrail.most)
        trail.forget(at: now + LoopTrail.lifetime)
        #expect(trail.count == 0)
    }

    @Test("with more tenants than places each has as many as there are, and nobody's grow beyond all of them")
    func manyTenants() throws {
        var trail = LoopTrail()
        for round in 0..<3 as Range<UInt64> {
            for tenant in 0..<5_000 as Range<UInt64> {
                let function = try function("f", "t\(tenant)")
                for number in 0..<20 as Range<UInt64> {
                    _ = admit(&trail, root(round << 40 | tenant << 8 | number | 1 << 60), nil, function)
                }
            }
            trail.forget(at: now)
            #expect(trail.count <= LoopTrail.most, "round \(round)")
        }
        let late = try function("f", "late")
        let run = admit(&trail, root(7), "photos/a", late)
        #expect(trail.way(run, "photos/b", late).count == 2, "there is no place for a tenant that comes later")
    }

    @Test("a long name keeps both its ends and no half of a letter")
    func long() throws {
        let short = LoopTrail.shortened("photos/in/" + String(repeating: "\u{1F600}", count: 200) + "/thumb-a.jpg")
        #expect(short.utf8.count <= LoopTrail.longestObject && short.hasPrefix("photos/in/") && short.hasSuffix("/thumb-a.jpg"))
        #expect(short.contains("\u{2026}") && !short.contains("\u{FFFD}"))
    }

    @Test("an edge keeps the way on which it tripped, also over a restart; what it holds back later changes nothing of it")
    func kept() throws {
        var governor = LoopGovernor(seed: 1)
        var trail = LoopTrail()
        let thumb = try function("thumb")
        let edge = EdgeID(trigger: try #require(Name("new")), function: thumb)
        var (run, key) = (root(1), "photos/in/a.jpg")
        var notes: [LoopNote] = []
        var trip: LoopTrip?
        while trip == nil {
            let verdict = governor.admit(run, through: edge, at: now, into: &notes)
            trip = verdict.trip
            if let trip { governor.remember(trail.way(run, key, thumb), of: trip) }
            guard let pass = verdict.pass else { break }
            trail.note(run.hops == 0 ? nil : run, pass.lineage, key, thumb, at: now)
            (run, key) = (pass.lineage, key.replacing("in/", with: "in/t-"))
        }
        let way = try #require(governor.state(of: edge)?.way)
        #expect(way.count == LoopTrail.longestWay && way.last?.object == key)
        #expect(way.dropLast().last?.object == key.replacing("in/t-", with: "in/"))
        governor.breakEdge(edge, .operator, all: true, at: now, into: &notes)
        let held = try #require(governor.admit(run, through: edge, at: now, into: &notes).trip)
        governor.remember([LoopStep(object: "x", function: thumb.function), LoopStep(object: "y", function: thumb.function)], of: held)
        let stored = try JSONEncoder().encode(governor.snapshot)
        let again = LoopGovernor(restoring: try JSONDecoder().decode(LoopSnapshot.self, from: stored))
        #expect(again.state(of: edge)?.way == way)
        // The next trip's own, or none.
        governor.remember([LoopStep(object: key, function: thumb.function)], of: held)
        #expect(governor.state(of: edge)?.way == way)
        governor.remember([LoopStep(object: key, function: thumb.function)], of: try #require(trip))
        #expect(governor.state(of: edge)?.way == nil)
        // What an older release stored has no way.
        var state = LoopEdgeState()
        state.way = nil
        #expect(try JSONDecoder().decode(LoopEdgeState.self, from: JSONEncoder().encode(state)).way == nil)
    }
}
