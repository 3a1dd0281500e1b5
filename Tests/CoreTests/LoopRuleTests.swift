// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// A governor with its clock and its notes.
private struct Bench {
    var governor = LoopGovernor(seed: 1)
    var notes: [LoopNote] = []
    var now = at(seconds: 100_000)

    init(_ limits: LoopLimits = LoopLimits()) { governor = LoopGovernor(limits: limits, seed: 1) }

    mutating func wait(_ seconds: Double) { now = now + UInt64(seconds * 1e9) }
    func begin(_ root: Int) -> Lineage { Lineage(root: rootID(root), born: now) }

    mutating func admit(_ cause: Lineage, _ edge: EdgeID, isSync: Bool = false, bytes: Int = 0) -> LoopVerdict {
        governor.admit(cause, through: edge, isSync: isSync, bytes: bytes, at: now, into: &notes)
    }

    /// Goes round until it is parked; how often it passed.
    mutating func loop(_ root: Int, _ edge: EdgeID) -> (passes: Int, trip: LoopTrip?) {
        var lineage = begin(root)
        for passes in 0..<100_000 {
            switch admit(lineage, edge) {
            case .admit(let pass): lineage = pass.lineage
            case .park(let trip, _): return (passes, trip)
            }
        }
        return (100_000, nil)
    }

    mutating func tick() { governor.timePassed(at: now, into: &notes) }
    mutating func take() -> [LoopNote] {
        defer { notes = [] }
        return notes
    }
    func isClosed(_ edge: EdgeID) -> Bool { (governor.state(of: edge)?.circuit ?? .closed) == .closed }
}

@Suite struct LoopRuleTests {
    // MARK: what a trip says

    @Test("a trip says which bucket was empty, its size and when to come back")
    func tripTells() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        let (passes, trip) = bench.loop(1, edge)
        #expect(passes == 17)
        let told = try #require(trip)
        #expect(told.reason == .path && told.limit == 16 && told.visits == 18 && told.hops == 18 && told.edge == edge)
        #expect(told.retryAfter == .seconds(60))
        // Exactly then it passes, and not before.
        var lineage = bench.begin(2)
        for _ in 0..<17 { lineage = try #require(bench.admit(lineage, edge).pass).lineage }
        bench.wait(59.999999999)
        #expect(bench.admit(lineage, edge).trip?.retryAfter == 1)
        bench.wait(0.000000001)
        #expect(bench.admit(lineage, edge).pass != nil)
    }

    @Test("hops: 64 at once, then one a minute")
    func hops() throws {
        var bench = Bench()
        let edges = try (0..<200).map { try edgeID("f\($0)") }
        var lineage = bench.begin(1)
        for edge in edges.prefix(64) { lineage = try #require(bench.admit(lineage, edge).pass).lineage }
        let trip = try #require(bench.admit(lineage, edges[64]).trip)
        #expect(trip.reason == .hops && trip.limit == 64 && trip.hops == 65)
        bench.wait(60)
        #expect(bench.admit(lineage, edges[64]).pass != nil)
    }

    @Test("an edge on no cycle costs nothing at any depth, yet evidence counts")
    func offCycle() throws {
        var bench = Bench()
        let edges = try (0..<200).map { try edgeID("f\($0)") }
        for edge in edges { bench.governor.configure(edge, EdgeSpec(isOnCycle: false), at: bench.now) }
        var lineage = bench.begin(1)
        // A straight line of 200, the last 2,000 times: none is parked though the table of the path is long full.
        for edge in edges {
            let pass = try #require(bench.admit(lineage, edge).pass)
            #expect(!pass.isRecurrent)
            lineage = pass.lineage
        }
        bench.governor.configure(try edgeID("last"), EdgeSpec(isOnCycle: false), at: bench.now)
        for _ in 0..<2_000 { #expect(bench.admit(lineage, try edgeID("last")).pass?.isRecurrent == false) }
        // The graph was wrong: the function was on the path for certain.
        #expect(bench.loop(2, edges[0]).trip?.reason == .path)
    }

    @Test("all or none: an event that one bucket refuses takes from no other")
    func allOrNone() throws {
        var limits = LoopLimits()
        limits.root = TokenRule(burst: 5, every: .seconds(60))
        limits.edge = TokenRule(burst: 100, every: .seconds(60))
        var bench = Bench(limits)
        let (f, g) = (try edgeID("f"), try edgeID("g"))
        var lineage = bench.begin(1)
        for edge in [f, g] { lineage = try #require(bench.admit(lineage, edge).pass).lineage }
        for _ in 0..<5 { #expect(bench.admit(lineage, f).pass?.isRecurrent == true) }
        let edgeBefore = bench.governor.state(of: f)?.bucket
        for _ in 0..<50 { #expect(bench.admit(lineage, f).trip?.reason == .root) }
        #expect(bench.governor.state(of: f)?.bucket == edgeBefore)
        bench.wait(60)
        #expect(bench.admit(lineage, g).pass?.isRecurrent == true, "refusals postponed the next token")
    }

    @Test("the cost of long runs ends a chain that is slow enough for every count")
    func cost() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        var lineage = bench.begin(1)
        var passes = 0
        while let pass = bench.admit(lineage, edge).pass {
            passes += 1
            lineage = pass.lineage
            bench.wait(400)
            bench.governor.finish(lineage, through: edge, seatTime: .seconds(400), at: bench.now)
        }
        // The first is free; each costs 400 and gives 400 / 60 back.
        #expect(passes == 11)
        #expect(bench.admit(lineage, edge).trip?.reason == .cost)
        #expect(bench.governor.budget(of: lineage, through: edge) != nil)
    }

    @Test("a guessed lineage parks nothing, only arms the test")
    func inferred() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        var lineage = Lineage(root: rootID(1), born: bench.now, flags: .inferred)
        var armed = 0
        for _ in 0..<300 {
            let pass = try #require(bench.admit(lineage, edge).pass)
            #expect(!pass.isRecurrent)
            armed += pass.armsDetector ? 1 : 0
            lineage = pass.lineage
        }
        #expect(armed == 299 && bench.notes.isEmpty)
    }

    // MARK: early throttle

    @Test("a suspected root has one seat; its sync calls and other roots have theirs")
    func throttle() throws {
        var bench = Bench()
        let (f, g) = (try edgeID("f"), try edgeID("g"))
        var front: [Lineage] = [try #require(bench.admit(bench.begin(1), f).pass).lineage]
        var parents = 0
        while !bench.notes.contains(.suspect(root: rootID(1), f)), parents < 100 {
            let parent = front.removeFirst()
            for _ in 0..<2 { front.append(try #require(bench.admit(parent, f).pass).lineage) }
            bench.governor.finish(parent, through: f, seatTime: 1, at: bench.now)
            parents += 1
        }
        // m = 2: after four recurrent parents, and the first, which counts for nothing.
        #expect((4...6).contains(parents))
        let (one, two) = (front[front.count - 1], front[front.count - 2])
        #expect(bench.admit(one, f).pass?.isThrottled == true)
        #expect(bench.governor.start(one, through: f) == true)
        #expect(bench.governor.start(two, through: f) == false)
        let call = try #require(bench.admit(one, g, isSync: true).pass).lineage
        let back = try #require(bench.admit(call, f, isSync: true).pass)
        #expect(!back.isThrottled)
        #expect(bench.governor.start(back.lineage, through: f, isSync: true) == true, "its caller waits for it: a dead lock")
        var other = try #require(bench.admit(bench.begin(2), f).pass).lineage
        other = try #require(bench.admit(other, f).pass).lineage
        #expect(bench.governor.start(other, through: f) == true)
        bench.governor.finish(one, through: f, seatTime: 1, at: bench.now)
        #expect(bench.governor.start(two, through: f) == true)
    }

    @Test("one child each: suspected after ten recurrent parents; a slow chain never")
    func suspicion() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        for (root, period) in [(1, 1.0), (2, 60.0)] {
            var lineage = bench.begin(root)
            var passes = 0
            for _ in 0..<16 where bench.notes.isEmpty {
                lineage = try #require(bench.admit(lineage, edge).pass).lineage
                bench.wait(period)
                bench.governor.finish(lineage, through: edge, seatTime: 1, at: bench.now)
                passes += 1
            }
            #expect(root == 1 ? (11...13).contains(passes) : passes == 16)
            #expect(bench.take() == (root == 1 ? [.suspect(root: rootID(1), edge)] : []))
        }
    }

    // MARK: breaking an edge

    @Test("seven roots do not break an edge, the eighth within ten minutes does; the function's other trigger is untouched")
    func eightRoots() throws {
        var bench = Bench()
        let (edge, other) = (try edgeID("f"), try edgeID("f", trigger: "queue"))
        for root in 0..<7 { #expect(bench.loop(root, edge).passes == 17) }
        // One root that trips again and again is one.
        for _ in 0..<20 { #expect(bench.loop(6, edge).trip?.reason == .path) }
        #expect(bench.isClosed(edge))
        bench.wait(599)
        #expect(bench.loop(7, edge).passes == 17)
        #expect(!bench.isClosed(edge))
        #expect(bench.notes.contains(.broke(edge, .manyRoots, all: false)))
        // First visits pass, recurrences do not.
        #expect(bench.loop(8, edge).passes == 1)
        #expect(bench.loop(9, edge).trip?.reason == .edgeBroken)
        #expect(bench.loop(10, other).passes == 17)
    }

    @Test("eight roots in more than ten minutes do not break it")
    func eightSlowRoots() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        for root in 0..<60 {
            #expect(bench.loop(root, edge).passes == 17)
            bench.wait(86)
        }
        #expect(bench.isClosed(edge))
    }

    @Test("broken without lineage: first visits wait too")
    func brokenForAll() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        bench.governor.breakEdge(edge, .detector, all: true, at: bench.now, into: &bench.notes)
        #expect(bench.admit(bench.begin(1), edge).trip?.reason == .edgeBroken)
        #expect(bench.notes.contains(.broke(edge, .detector, all: true)))
    }

    // MARK: alarms

    @Test("one alarm for each edge and reason, and one recovery")
    func alarms() throws {
        var bench = Bench()
        let (f, g) = (try edgeID("f"), try edgeID("g"))
        for root in 0..<5 { #expect(bench.loop(root, f).trip != nil) }
        #expect(bench.loop(9, g).trip != nil)
        let raised = bench.take().compactMap { if case .alarm(let trip) = $0 { trip.edge } else { nil } }
        #expect(raised == [f, g])
        bench.wait(500)
        _ = bench.loop(20, f)
        #expect(!bench.take().contains { if case .alarm = $0 { true } else { false } })
        bench.wait(100)
        #expect(bench.governor.nextDeadline == bench.now)
        bench.tick()
        #expect(bench.take() == [.recovered(g, .path)])
        bench.wait(499)
        bench.tick()
        #expect(bench.take().isEmpty)
        bench.wait(1)
        bench.tick()
        #expect(bench.take() == [.recovered(f, .path)])
        #expect(bench.governor.nextDeadline == nil)
        _ = bench.loop(30, f)
        #expect(bench.take().count { if case .alarm = $0 { true } else { false } } == 1)
    }

    @Test("an edge's recurrences are counted until it is quiet, beyond the time in which its tokens come back")
    func counted() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        _ = bench.loop(1, edge)
        bench.wait(500)
        _ = bench.loop(2, edge)
        #expect(bench.governor.state(of: edge)?.recurrent == 32)
        bench.wait(600)
        bench.tick()
        _ = bench.loop(3, edge)
        #expect(bench.governor.state(of: edge)?.recurrent == 16)
    }

    // MARK: declared recursion

    @Test("declared recursion has its own depth, descendants and pace")
    func declared() throws {
        var bench = Bench()
        let (crawl, parse) = (try edgeID("crawl"), try edgeID("parse"))
        let recursion = try #require(DeclaredRecursion(maxDepth: 200, maxDescendants: 3_000, minInterval: .seconds(2)))
        bench.governor.configure(crawl, EdgeSpec(recursion: recursion), at: bench.now)
        var lineage = try #require(bench.admit(bench.begin(1), crawl).pass).lineage
        let first = lineage
        for step in 1...200 {
            let pass = try #require(bench.admit(lineage, crawl).pass)
            // Two seconds from entry to entry, though all were asked for at once.
            #expect(pass.notBefore == bench.now + .seconds(2 * UInt64(step)))
            #expect(!pass.isThrottled)
            lineage = pass.lineage
            // A helper that is not declared is no deeper for it.
            #expect(bench.admit(lineage, parse).pass?.isRecurrent == false)
        }
        #expect(bench.admit(lineage, crawl).trip?.reason == .path)
        #expect(bench.admit(lineage, crawl).trip?.limit == 200)
        var passed = 200
        while bench.admit(first, crawl).pass != nil { passed += 1 }
        #expect(passed == 3_000)
        #expect(bench.admit(first, crawl).trip?.reason == .root)
        // The same root's undeclared recurrences have the usual budget, untouched.
        var helper = try #require(bench.admit(first, parse).pass).lineage
        for _ in 0..<16 { helper = try #require(bench.admit(helper, parse).pass).lineage }
        #expect(bench.admit(helper, parse).trip?.limit == 16)
        #expect(DeclaredRecursion(maxDepth: 1_000_001, maxDescendants: 1) == nil)
        #expect(DeclaredRecursion(maxDepth: 1, maxDescendants: 0) == nil)
    }

    @Test("declared recursion keeps the edge's bound")
    func declaredEdge() throws {
        var bench = Bench()
        let edge = try edgeID("crawl")
        let recursion = try #require(DeclaredRecursion(maxDepth: 1_000_000, maxDescendants: 1_000_000))
        bench.governor.configure(edge, EdgeSpec(recursion: recursion), at: bench.now)
        let (passes, trip) = bench.loop(1, edge)
        #expect(passes == 10_001 && trip?.reason == .edge)
    }

    // MARK: sync calls

    @Test("a sync call that would wait for its own ancestors' seats is refused at once", arguments: [1, 2, 16])
    func selfCall(seats: Int) throws {
        var bench = Bench()
        let edge = try edgeID("f")
        bench.governor.configure(edge, EdgeSpec(functionSeats: seats), at: bench.now)
        var lineage = try #require(bench.admit(bench.begin(1), edge, isSync: true).pass).lineage
        for _ in 1..<seats { lineage = try #require(bench.admit(lineage, edge, isSync: true).pass).lineage }
        let verdict = bench.admit(lineage, edge, isSync: true)
        guard case .park(let trip, let parking) = verdict else {
            Issue.record("waits for ever at \(seats) seats")
            return
        }
        #expect(trip.reason == .deadlock && trip.limit == UInt64(seats) && parking == .refuse)
        // An event holds no seat: it only waits its turn.
        if seats < 16 { #expect(bench.admit(lineage, edge).pass != nil) }
    }

    @Test("two functions that call each other are refused when the tenant's seats are theirs")
    func mutualCall() throws {
        var bench = Bench()
        let edges = [try edgeID("f"), try edgeID("g")]
        for edge in edges {
            bench.governor.configure(edge, EdgeSpec(functionSeats: 10, tenantSeats: 4, nodeSeats: 5), at: bench.now)
        }
        let foreign = try edgeID("h", tenant: "umbrella")
        bench.governor.configure(foreign, EdgeSpec(functionSeats: 10, tenantSeats: 10, nodeSeats: 5), at: bench.now)
        var lineage = bench.begin(1)
        for hop in 0..<4 { lineage = try #require(bench.admit(lineage, edges[hop % 2], isSync: true).pass).lineage }
        #expect(bench.admit(lineage, edges[0], isSync: true).trip?.reason == .deadlock)
        // Another tenant has seats of its own; the node has five.
        lineage = try #require(bench.admit(lineage, foreign, isSync: true).pass).lineage
        #expect(bench.admit(lineage, foreign, isSync: true).trip?.reason == .deadlock)
    }

    @Test("a long chain of events that then calls itself does not hold its ancestors' seats")
    func chainThenCall() throws {
        var bench = Bench()
        let edge = try edgeID("f")
        bench.governor.configure(edge, EdgeSpec(functionSeats: 2), at: bench.now)
        var lineage = bench.begin(1)
        for _ in 0..<10 { lineage = try #require(bench.admit(lineage, edge).pass).lineage }
        lineage = try #require(bench.admit(lineage, edge, isSync: true).pass).lineage
        #expect(bench.admit(lineage, edge, isSync: true).trip?.reason == .deadlock)
    }
}
