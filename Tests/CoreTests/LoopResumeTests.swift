// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// What happens after a trip: quarantine, resume, probes, restart.
@Suite struct LoopResumeTests {
    /// Eight roots that trip.
    private func breakEdge(_ governor: inout LoopGovernor, _ edge: EdgeID, _ now: Instant, _ notes: inout [LoopNote], roots: Int = 1_000) {
        for root in roots..<roots + 8 {
            var lineage = Lineage(root: rootID(root), born: now)
            while let pass = governor.admit(lineage, through: edge, at: now, into: &notes).pass { lineage = pass.lineage }
        }
    }

    private func isBroken(_ governor: LoopGovernor, _ edge: EdgeID) -> Bool {
        if case .broken = governor.state(of: edge)?.circuit { true } else { false }
    }

    // MARK: quarantine

    @Test(
        "a full quarantine pauses a source, refuses a sender, merges objects", arguments: [EdgeSource.pull, .push, .object], [true, false])
    func full(source: EdgeSource, byEvents: Bool) throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        let now = at(seconds: 1_000)
        governor.configure(edge, EdgeSpec(source: source), at: now)
        governor.breakEdge(edge, .operator, all: true, at: now, into: &notes)
        notes = []
        let bytes = byEvents ? 10 : 1 << 20
        // Of an edge with objects the last place is for the event that stands for all that find none.
        let room = (byEvents ? 10_000 : 64) - (source == .object ? 1 : 0)
        for number in 0..<room + 500 {
            let verdict = governor.admit(Lineage(root: rootID(number), born: now), through: edge, bytes: bytes, at: now, into: &notes)
            guard case .park(_, let parking) = verdict else {
                Issue.record("admitted")
                return
            }
            let full: Parking = source == .pull ? .pause : source == .push ? .refuse : .merge
            if parking != (number < room ? .store : full) { Issue.record("\(parking) at \(number)") }
        }
        #expect(notes.count { $0 == .pause(edge) } == (source == .push ? 0 : 1))
        notes = []
        let state = try #require(governor.state(of: edge))
        #expect(state.parkedEvents == room && governor.parkedBytes == room * bytes)
        // A little room is not worth starting a source for.
        governor.released(edge, events: room / 16, bytes: room / 16 * bytes, into: &notes)
        #expect(notes.isEmpty)
        governor.released(edge, events: room / 8, bytes: room / 8 * bytes, into: &notes)
        #expect(notes == (source == .push ? [] : [.unpause(edge)]))
        governor.released(edge, events: .max, bytes: .max, into: &notes)
        #expect(governor.parkedBytes == 0)
    }

    @Test("the node's quarantine is bounded over all edges")
    func node() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let now = at(seconds: 1_000)
        var stored = 0
        for number in 0..<40 {
            let edge = try edgeID("f", tenant: "t\(number)")
            governor.breakEdge(edge, .operator, all: true, at: now, into: &notes)
            for event in 0..<16 {
                let lineage = Lineage(root: rootID(event), born: now)
                if case .park(_, .store) = governor.admit(lineage, through: edge, bytes: 4 << 20, at: now, into: &notes) { stored += 1 }
            }
        }
        #expect(stored == 256)
        #expect(governor.parkedBytes == 1 << 30)
        governor.remove(try edgeID("f", tenant: "t0"))
        #expect(governor.parkedBytes == (1 << 30) - (64 << 20))
    }

    @Test("a tenant's quarantine is bounded over all its edges, and another tenant's has its room; a restart knows both")
    func tenant() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let now = at(seconds: 1_000)
        func park(_ edge: EdgeID, _ count: Int) -> Int {
            governor.breakEdge(edge, .operator, all: true, at: now, into: &notes)
            return (0..<count).count { event in
                let lineage = Lineage(root: rootID(event), born: now)
                if case .park(_, .store) = governor.admit(lineage, through: edge, bytes: 4 << 20, at: now, into: &notes) { return true }
                return false
            }
        }
        var stored = 0
        for number in 0..<16 { stored += park(try edgeID("f\(number)", tenant: "greedy"), 16) }
        #expect(stored == 64, "256 MiB, and not the node's 1 GiB")
        #expect(park(try edgeID("f", tenant: "other"), 16) == 16)
        governor = LoopGovernor(restoring: governor.snapshot)
        let (greedy, other) = (try edgeID("f0", tenant: "greedy").function.tenant, try edgeID("f", tenant: "other").function.tenant)
        #expect(governor.parkedBytes(of: greedy) == 256 << 20 && governor.parkedBytes(of: other) == 64 << 20)
        #expect(park(try edgeID("f15", tenant: "greedy"), 1) == 0)
        governor.released(try edgeID("f0", tenant: "greedy"), events: 16, bytes: 64 << 20, into: &notes)
        #expect(governor.parkedBytes(of: greedy) == 192 << 20 && governor.parkedBytes == 256 << 20)
        #expect(park(try edgeID("f15", tenant: "greedy"), 16) == 16, "room that another edge has made")
    }

    @Test("an edge that was full for want of its tenant's room goes on when another edge makes room")
    func roomOfOthers() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let now = at(seconds: 1_000)
        let edges = try (0..<5).map { try edgeID("f\($0)") }
        for edge in edges {
            governor.configure(edge, EdgeSpec(source: .object), at: now)
            governor.breakEdge(edge, .operator, all: true, at: now, into: &notes)
        }
        func park(_ edge: EdgeID) -> LoopVerdict {
            governor.admit(Lineage(root: rootID(1), born: now), through: edge, bytes: 1 << 20, at: now, into: &notes)
        }
        for edge in edges.dropLast() { while case .park(_, .store) = park(edge) {} }
        while case .park(_, .store) = park(edges[4]) {}
        guard case .park(_, .merge) = park(edges[4]) else {
            Issue.record("not full")
            return
        }
        governor.released(edges[0], events: .max, bytes: .max, into: &notes)
        notes = []
        guard case .park(_, .store) = park(edges[4]) else {
            Issue.record("still full")
            return
        }
        #expect(notes == [.unpause(edges[4])])
    }

    @Test("an event that stands for several has a place: counted when it is stored, by its bytes when it changes, and given back whole")
    func merged() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        governor.merged(edge, events: 1, bytes: 100)
        governor.merged(edge, events: 0, bytes: 7)
        #expect(governor.state(of: edge)?.parkedEvents == 1 && governor.parkedBytes == 107)
        // Its bytes as they were when it was listed.
        governor.released(edge, events: 1, bytes: 100, into: &notes)
        #expect(governor.state(of: edge)?.parkedEvents == 0 && governor.parkedBytes == 0)
        #expect(governor.parkedBytes(of: edge.function.tenant) == 0)
    }

    @Test("what the store has in quarantine counts, whatever the snapshot said: more, less, of an edge that it did not know, none")
    func recount() throws {
        var governor = LoopGovernor(seed: 1)
        let edges = try ["gone", "fewer", "new"].map { try edgeID($0) }
        governor.merged(edges[0], events: governor.limits.edgeEvents, bytes: governor.limits.edgeBytes)
        governor.merged(edges[1], events: 5, bytes: 500)
        governor.recount([edges[1]: (2, 50), edges[2]: (1, 7)])
        #expect(edges.map { governor.state(of: $0)?.parkedEvents } == [0, 2, 1])
        #expect(edges.map { governor.state(of: $0)?.parkedBytes } == [0, 50, 7])
        #expect(governor.parkedBytes == 57 && governor.parkedBytes(of: edges[0].function.tenant) == 57)
    }

    @Test("a waiting caller is refused, not parked")
    func syncIsRefused() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        let now = at(seconds: 1_000)
        governor.breakEdge(edge, .operator, all: true, at: now, into: &notes)
        let verdict = governor.admit(Lineage(root: rootID(1), born: now), through: edge, isSync: true, at: now, into: &notes)
        guard case .park(_, .refuse) = verdict else {
            Issue.record("\(verdict)")
            return
        }
        #expect(governor.state(of: edge)?.parkedEvents == 0)
    }

    // MARK: resume

    @Test("discard closes the edge, clears its alarms and gives it a new budget")
    func discard() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        let now = at(seconds: 1_000)
        breakEdge(&governor, edge, now, &notes)
        #expect(isBroken(governor, edge))
        notes = []
        governor.resume(edge, .discard, at: now, into: &notes)
        #expect(notes.contains(.closed(edge)) && notes.contains(.recovered(edge, .path)))
        #expect(governor.state(of: edge)?.circuit == .closed)
        #expect(governor.state(of: edge)?.bucket.isFull(at: now) == true)
        #expect(governor.nextDeadline == nil)
    }

    @Test("replay submits so many, at the rate; who comes late does not catch up with a burst")
    func replay() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        var now = at(seconds: 1_000)
        breakEdge(&governor, edge, now, &notes)
        governor.resume(edge, .replay(count: 1_000, every: .milliseconds(100)), at: now, into: &notes)
        notes = []
        var total = 0
        for _ in 0..<50 {
            #expect(governor.nextDeadline == now)
            governor.timePassed(at: now, into: &notes)
            now = try #require(governor.nextDeadline)
        }
        for case .replay(edge, let count) in notes { total += count }
        #expect(total == 50 && now == at(seconds: 1_005))
        notes = []
        now = at(seconds: 4_000)
        governor.timePassed(at: now, into: &notes)
        #expect(notes == [.replay(edge, count: 100)])
        #expect(governor.nextDeadline == now + .milliseconds(100))
        // A second break stops it.
        governor.breakEdge(edge, .operator, all: false, at: now, into: &notes)
        notes = []
        governor.timePassed(at: now + .seconds(10), into: &notes)
        #expect(notes.isEmpty)
    }

    @Test("a loop that is still there breaks the edge again, and waits twice as long each time up to a day")
    func stillThere() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        var now = at(seconds: 1_000)
        var expected: [Nanoseconds] = [.seconds(900)]
        while let last = expected.last, last < .seconds(86_400) { expected.append(min(2 * last, .seconds(86_400))) }
        expected.append(.seconds(86_400))
        for (round, wait) in expected.enumerated() {
            breakEdge(&governor, edge, now, &notes, roots: 100 * round)
            #expect(isBroken(governor, edge))
            #expect(governor.state(of: edge)?.probeWait == wait, "round \(round)")
            now = now + .seconds(60)
            governor.resume(edge, .keep, at: now, into: &notes)
        }
        // A day of peace, and it is as at first.
        now = now + .seconds(86_400)
        breakEdge(&governor, edge, now, &notes, roots: 5_000)
        #expect(governor.state(of: edge)?.probeWait == .seconds(900))
    }

    @Test("a probe that starts later is watched from then on: an edge does not close before it was tried")
    func lateProbe() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        var now = at(seconds: 1_000)
        governor.configure(edge, EdgeSpec(revision: 1), at: now)
        governor.breakEdge(edge, .operator, all: false, at: now, into: &notes)
        governor.configure(edge, EdgeSpec(revision: 2), at: now)
        now = at(seconds: 1_900)
        governor.timePassed(at: now, into: &notes)
        let probe = try #require(governor.admit(Lineage(root: rootID(1), born: now), through: edge, at: now, into: &notes).pass)
        governor.waits(rootID(2), through: edge, until: at(seconds: 90_000))
        governor.waits(rootID(1), through: edge, until: at(seconds: 9_000))
        governor.timePassed(at: at(seconds: 9_899), into: &notes)
        guard case .probing = governor.state(of: edge)?.circuit else {
            Issue.record("it closed before its probe")
            return
        }
        var late = governor
        let again = late.admit(probe.lineage, through: edge, at: at(seconds: 9_899), into: &notes)
        #expect(again.trip?.reason == .edgeBroken)
        governor.timePassed(at: at(seconds: 9_900), into: &notes)
        #expect(governor.state(of: edge)?.circuit == .closed)
    }

    @Test("a probe comes only after a new revision and 15 minutes; it closes the edge, or opens it for twice as long")
    func probe() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        var now = at(seconds: 1_000)
        governor.configure(edge, EdgeSpec(revision: 1), at: now)
        breakEdge(&governor, edge, now, &notes)
        // The same revision earns nothing, however long it is.
        now = now + .seconds(5_000)
        governor.configure(edge, EdgeSpec(revision: 1), at: now)
        #expect(governor.nextDeadline == nil)
        now = now + .seconds(1)
        governor.configure(edge, EdgeSpec(revision: 2), at: now)
        #expect(governor.nextDeadline == now)
        notes = []
        governor.timePassed(at: now, into: &notes)
        #expect(notes == [.probe(edge)])

        // The loop is still there.
        let probe = Lineage(root: rootID(1), born: now)
        let first = try #require(governor.admit(probe, through: edge, at: now, into: &notes).pass)
        #expect(governor.admit(first.lineage, through: edge, at: now, into: &notes).trip?.reason == .edgeBroken)
        #expect(notes.contains(.broke(edge, .probe, all: false)))
        #expect(governor.state(of: edge)?.probeWait == .seconds(1_800))
        #expect(governor.nextDeadline == nil)

        // The next revision is right.
        governor.configure(edge, EdgeSpec(revision: 3), at: now)
        #expect(governor.nextDeadline == now + .seconds(1_800))
        now = now + .seconds(1_800)
        notes = []
        governor.timePassed(at: now, into: &notes)
        #expect(notes == [.probe(edge)])
        #expect(governor.admit(Lineage(root: rootID(2), born: now), through: edge, at: now, into: &notes).pass != nil)
        // Meanwhile another root's recurrence still waits.
        let other = Lineage(root: rootID(3), born: now).child(entering: FunctionKey(edge.function), isSync: false)
        #expect(governor.admit(other, through: edge, at: now, into: &notes).trip?.reason == .edgeBroken)
        now = now + .seconds(899)
        governor.timePassed(at: now, into: &notes)
        #expect(governor.state(of: edge)?.circuit != .closed)
        now = now + .seconds(1)
        governor.timePassed(at: now, into: &notes)
        #expect(governor.state(of: edge)?.circuit == .closed)
        #expect(notes.contains(.closed(edge)))
    }

    @Test("replayed events with a renewed lineage go on, and trip again if they loop")
    func renewed() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        let now = at(seconds: 1_000)
        var lineage = Lineage(root: rootID(1), born: now)
        while let pass = governor.admit(lineage, through: edge, at: now, into: &notes).pass { lineage = pass.lineage }
        var again = lineage.renewed(root: rootID(2), at: now)
        var passes = 0
        while let pass = governor.admit(again, through: edge, at: now, into: &notes).pass {
            again = pass.lineage
            passes += 1
        }
        #expect(passes == 17)
    }

    // MARK: restart and bounds

    @Test("a restart from the snapshot decides as if there had been none", arguments: 0..<20)
    func restart(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        var limits = LoopLimits()
        // Small, so that all buckets are met and roots are evicted.
        limits.root = TokenRule(burst: 30, every: .seconds(60))
        limits.edge = TokenRule(burst: 200, every: .seconds(10))
        limits.roots = 8
        limits.suspicion = .infinity
        let edges = try (0..<4).map { try edgeID("f\($0)") }
        var governor = LoopGovernor(limits: limits, seed: UInt64(seed))
        var twin = governor
        var now = at(seconds: 1_000)
        var fronts = (0..<20).map { Lineage(root: rootID($0), born: now) }
        var (restarts, parked) = (0, 0)
        for step in 0..<3_000 {
            now = now + UInt64.random(in: 0..<2_000_000_000, using: &random)
            if step % 100 == 99 {
                // Lineages are stored with their events, the rest in the snapshot.
                governor = LoopGovernor(limits: limits, restoring: governor.snapshot)
                fronts = try fronts.map { try #require(Lineage(encoded: $0.encoded)) }
                restarts += 1
            }
            let place = Int.random(in: 0..<fronts.count, using: &random)
            let edge = edges[Int.random(in: 0..<edges.count, using: &random)]
            var (a, b): ([LoopNote], [LoopNote]) = ([], [])
            if step % 250 == 0 {
                governor.resume(edge, .keep, at: now, into: &a)
                twin.resume(edge, .keep, at: now, into: &b)
            }
            let verdict = governor.admit(fronts[place], through: edge, bytes: 7, at: now, into: &a)
            #expect(twin.admit(fronts[place], through: edge, bytes: 7, at: now, into: &b) == verdict, "seed \(seed), step \(step)")
            #expect(a == b, "seed \(seed), step \(step)")
            guard let pass = verdict.pass else {
                parked += 1
                fronts[place] = Lineage(root: fronts[place].root, born: now)
                continue
            }
            fronts[place] = pass.lineage
            if Bool.random(using: &random) {
                let seatTime = UInt64.random(in: 0..<60_000_000_000, using: &random)
                governor.finish(pass.lineage, through: edge, seatTime: seatTime, at: now)
                twin.finish(pass.lineage, through: edge, seatTime: seatTime, at: now)
            }
        }
        #expect(restarts == 30 && parked > 50, "the run shows nothing")
        #expect(governor.parkedBytes == twin.parkedBytes)
    }

    @Test("more roots than the table holds: none gets more than its budget", arguments: 0..<6)
    func evictedRoots(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        var limits = LoopLimits()
        limits.roots = 16
        limits.root = TokenRule(burst: 20, every: .seconds(60))
        limits.rootsToBreak = .max
        var governor = LoopGovernor(limits: limits, seed: UInt64(seed))
        var notes: [LoopNote] = []
        let (edge, other) = (try edgeID("f"), try edgeID("g"))
        let begin = at(seconds: 1_000)
        var now = begin
        // Each root's event comes back again and again from the same place, so that only the root's bucket counts.
        var causes: [Lineage] = []
        for number in 0..<200 {
            var lineage = Lineage(root: rootID(seed * 1_000 + number), born: now)
            for edge in [edge, other] { lineage = try #require(governor.admit(lineage, through: edge, at: now, into: &notes).pass).lineage }
            causes.append(lineage)
        }
        var times: [Int: [UInt64]] = [:]
        for _ in 0..<20_000 {
            now = now + UInt64.random(in: 0..<200_000_000, using: &random)
            let number = Int.random(in: 0..<causes.count, using: &random)
            if governor.admit(causes[number], through: edge, at: now, into: &notes).pass != nil {
                times[number, default: []].append(now.nanoseconds)
            }
        }
        for (number, times) in times where LoopWorld.exceeds(times, burst: 20, interval: 60_000_000_000) {
            Issue.record("seed \(seed): root \(number) was admitted \(times.count) times")
        }
        // The estimate is an upper one, not a wall: the whole budgets were used by nearly all.
        #expect(times.count == 200)
        #expect(times.values.map(\.count).reduce(0, +) > 200 * 20 / 2)
        #expect(governor.snapshot.roots.count <= 16)
    }
}
