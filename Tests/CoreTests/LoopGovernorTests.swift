// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// The published guarantees, as properties of whole runs. What single rules do is in ``LoopRuleTests``.
@Suite struct LoopGovernorTests {
    private static func edges(_ count: Int, tenant: String = "acme") throws -> [EdgeID] {
        try (0..<count).map { try edgeID("f\($0)", tenant: tenant) }
    }

    /// m children on average, whole ones for certain and the rest by chance.
    private static func offspring(_ mean: Double, _ random: inout Seeded) -> Int {
        let whole = Int(mean)
        return whole + (Double.random(in: 0..<1, using: &random) < mean - Double(whole) ? 1 : 0)
    }

    // MARK: G1, G2: loops end

    @Test("a self-loop of any width ends within its budget", arguments: [1, 1.05, 1.5, 2, 3, 10, 100], 0..<4)
    func selfLoop(mean: Double, seed: Int) throws {
        let root = rootID(seed)
        var world = LoopWorld(seed: UInt64(seed), edges: try Self.edges(1)) { _, random in
            Array(repeating: (edge: 0, delay: 0), count: Self.offspring(mean, &random))
        }
        world.begin(root)
        world.run(seconds: 7_200)
        world.judge("m = \(mean), seed \(seed)")
        let recurrent = world.recurrent[root]?.count ?? 0
        // The bound, and that it was the bound which ended it.
        #expect(recurrent <= 1_000 + Int(world.seconds(world.now) / 60))
        let first = world.notes.first { if case .alarm = $0.note { true } else { false } }
        if mean >= 2 || mean == 1 {
            #expect(world.parked > 0)
            #expect(first != nil)
            #expect(recurrent >= 16)
        }
        if mean == 1 { #expect(recurrent == 16) }
        // Long before the alarm, which comes with the first event that is parked, the root is on one seat.
        if mean >= 2 { #expect(world.notes.first.map { world.seconds($0.at) < 10 } == true) }
    }

    @Test("a cycle of any length ends within its budget", arguments: [2, 3, 5, 8, 9, 12, 31, 32, 33, 40, 100, 200], [false, true])
    func cycles(length: Int, isWide: Bool) throws {
        let root = rootID(length)
        var world = LoopWorld(seed: UInt64(length), edges: try Self.edges(length)) { job, _ in
            Array(repeating: (edge: (job.edge + 1) % length, delay: 0), count: isWide && job.edge == length / 2 ? 3 : 1)
        }
        world.begin(root)
        world.run(seconds: 86_400)
        world.judge("a cycle of \(length)")
        #expect(world.parked > 0)
        if length > 64 { #expect(world.admitted <= 200) }
        if length <= Lineage.pathCapacity { #expect(world.imagined == 0) }
    }

    @Test("a wide cycle longer than the table of a path ends within its budget")
    func longWideCycle() throws {
        // Slow enough that hops are no bound: 40 functions, each of them twice as wide at every fourth hop.
        let root = rootID(1)
        var world = LoopWorld(seed: 1, edges: try Self.edges(40), seats: 5_000) { job, _ in
            Array(repeating: (edge: (job.edge + 1) % 40, delay: 59), count: job.edge % 8 == 0 ? 2 : 1)
        }
        world.begin(root)
        world.run(seconds: 20_000)
        world.judge("a slow wide cycle of 40")
        #expect(world.recurrent[root]?.isEmpty == false && world.parked > 0)
    }

    @Test("two tenants that trigger each other share one root's budget, and both edges trip", arguments: [1, 2, 4])
    func twoTenants(width: Int) throws {
        let edges = [try edgeID("f", tenant: "acme"), try edgeID("f", tenant: "umbrella")]
        var world = LoopWorld(seed: 1, edges: edges) { job, _ in Array(repeating: (edge: 1 - job.edge, delay: 0.01), count: width) }
        for number in 0..<20 { world.begin(rootID(number), edge: number % 2) }
        world.run(seconds: 7_200)
        world.judge("two tenants, width \(width)")
        var alarmed: Set<EdgeID> = []
        for case .alarm(let trip) in world.notes.map(\.note) { alarmed.insert(trip.edge) }
        #expect(alarmed == Set(edges))
    }

    @Test("a slow wide loop has no more than its budget and the refill")
    func slowWideLoop() throws {
        let root = rootID(1)
        var world = LoopWorld(seed: 3, edges: try Self.edges(1), seats: 5_000) { _, _ in [(0, 600), (0, 600)] }
        world.begin(root)
        world.run(seconds: 86_400)
        world.judge("m = 2 every 10 min")
        let recurrent = world.recurrent[root]?.count ?? 0
        #expect(recurrent > 1_000 && recurrent <= 1_000 + 1_440)
    }

    // MARK: G3, G4

    @Test("an edge has its budget whatever the number of roots", arguments: 0..<3)
    func manyRoots(seed: Int) throws {
        // Roots alone would not stop it: each may recur 16 times.
        var limits = LoopLimits()
        limits.rootsToBreak = .max
        var world = LoopWorld(seed: UInt64(seed), edges: try Self.edges(1), seats: 5_000, limits: limits) { _, _ in [(0, 0)] }
        for number in 0..<2_000 { world.begin(rootID(number), after: Double(number) / 100) }
        world.run(seconds: 3_600)
        world.judge("2,000 roots")
        #expect(world.recurrentOfEdge[0]?.count ?? 0 >= 10_000)
        #expect(world.trips[.edge] == 1, "the first empty bucket opens the edge")
        #expect(world.trips[.edgeBroken, default: 0] > 0)
    }

    @Test("10,000 uploads that each loop end with the edge's budget, long before each has used its own")
    func uploads() throws {
        var world = LoopWorld(seed: 1, edges: try Self.edges(1), seats: 5_000) { _, _ in [(0, 0)] }
        for number in 0..<10_000 { world.begin(rootID(number), after: Double(number) / 1_000) }
        world.run(seconds: 3_600)
        world.judge("10,000 uploads")
        #expect(world.notes.contains { $0.note == .broke(world.edges[0], .edgeBudget, all: false) })
        #expect(world.admitted >= 10_000, "first visits go through a broken edge")
    }

    @Test("the cost of one root is at most its seat-seconds and what runs at the trip", arguments: 0..<4)
    func cost(seed: Int) throws {
        let root = rootID(seed)
        let (seats, service) = (20, 100.0)
        var world = LoopWorld(seed: UInt64(seed), edges: try Self.edges(1), seats: seats, service: service) { _, _ in [(0, 0), (0, 0)] }
        world.begin(root)
        world.run(seconds: 100_000, steps: 100_000)
        world.judge("cost, seed \(seed)")
        #expect(world.trips[.cost, default: 0] > 0)
        // What was admitted before a trip was in flight then or had been charged.
        let spent = Double(world.recurrent[root]?.count ?? 0) * service
        #expect(spent <= 3_600 + world.seconds(world.now) / 60 + Double(world.mostInFlight) * service)
        #expect(spent < 1_000 * service / 2, "the count was not what ended it")
    }

    // MARK: G5, G6: work that is no loop goes through

    /// Nothing was parked and nothing slowed down.
    private func expectUntouched(_ world: LoopWorld, _ what: String) {
        world.judge(what)
        #expect(world.parked == 0, "\(what): \(world.trips)")
        #expect(world.imagined == 0, "\(what)")
        #expect(world.notes.isEmpty, "\(what): \(world.notes.prefix(3))")
    }

    @Test("map-reduce 1 -> 10,000 -> 1 on one root")
    func mapReduce() throws {
        var world = LoopWorld(seed: 1, edges: try Self.edges(3)) { job, _ in
            switch job.edge {
            case 0: Array(repeating: (edge: 1, delay: 0), count: 10_000)
            case 1: [(2, 0)]
            default: []
            }
        }
        world.begin(rootID(1))
        world.run(seconds: 100_000)
        #expect(world.done == 20_001)
        expectUntouched(world, "map-reduce")
    }

    @Test("a fan-out at the end of a pipeline of 30 functions", arguments: [7, 8, 9, 29])
    func deepFanOut(depth: Int) throws {
        var world = LoopWorld(seed: 1, edges: try Self.edges(depth + 1), seats: 500) { job, _ in
            if job.edge < depth - 1 { return [(job.edge + 1, 0)] }
            return job.edge == depth - 1 ? Array(repeating: (edge: depth, delay: 0), count: 3_000) : []
        }
        world.begin(rootID(1))
        world.run(seconds: 100_000)
        #expect(world.done == depth + 3_000)
        expectUntouched(world, "a fan-out after \(depth) functions")
    }

    @Test("three levels of 22, a saga with compensation, a flash crowd")
    func ordinary() throws {
        var tree = LoopWorld(seed: 1, edges: try Self.edges(4)) { job, _ in
            job.edge < 3 ? Array(repeating: (edge: job.edge + 1, delay: 0), count: 22) : []
        }
        tree.begin(rootID(1))
        tree.run(seconds: 100_000)
        #expect(tree.done == 1 + 22 + 484 + 10_648)
        expectUntouched(tree, "22 x 22 x 22")

        // order -> pay -> ship, which fails: refund -> cancel -> tell; each step reports to the log.
        var saga = LoopWorld(seed: 2, edges: try Self.edges(7)) { job, _ in job.edge < 5 ? [(job.edge + 1, 0.1), (6, 0)] : [] }
        for number in 0..<2_000 { saga.begin(rootID(number), after: Double(number % 50)) }
        saga.run(seconds: 100_000)
        expectUntouched(saga, "saga")

        var crowd = LoopWorld(seed: 3, edges: try Self.edges(2), seats: 500) { job, _ in job.edge == 0 ? [(1, 0)] : [] }
        for number in 0..<20_000 { crowd.begin(rootID(number), after: 10 + Double(number % 1_000) / 1_000) }
        crowd.run(seconds: 100_000)
        expectUntouched(crowd, "flash crowd")
    }

    @Test("a chain that re-enters itself once a minute or slower runs for ever", arguments: [60.0, 61, 600])
    func slowChain(period: Double) throws {
        var world = LoopWorld(seed: 1, edges: try Self.edges(1)) { _, _ in [(0, period - 1)] }
        world.begin(rootID(1))
        world.run(seconds: 5 * 86_400)
        #expect(world.done >= Int(5 * 86_400 / period) - 1)
        expectUntouched(world, "every \(period) s")
    }

    @Test("a chain a little faster than once a minute uses its tokens up, no sooner than it must")
    func almostSlowChain() throws {
        var world = LoopWorld(seed: 1, edges: try Self.edges(1)) { _, _ in [(0, 58)] }
        world.begin(rootID(1))
        world.run(seconds: 5 * 86_400)
        world.judge("every 59 s")
        // Each of them is a sixtieth of a token short: 15 whole ones last for 15 x 60 re-entries.
        #expect(world.trips[.path] == 1)
        #expect((900...965).contains(world.done))
    }

    @Test("30 self-requeues with back-off over 45 minutes")
    func requeue() throws {
        var world = LoopWorld(seed: 1, edges: try Self.edges(1)) { job, _ in
            job.generation <= 30 ? [(0, min(100, 5 * Double(1 << min(job.generation, 10))))] : []
        }
        for number in 0..<50 { world.begin(rootID(number)) }
        world.run(seconds: 100_000)
        #expect(world.done == 50 * 31)
        expectUntouched(world, "requeue")
    }

    @Test("a million events of random acyclic work: none is parked", .timeLimit(.minutes(5)))
    func millionLegitimate() throws {
        var governor = LoopGovernor(seed: 1)
        var random = Seeded(state: 20_260_101)
        let edges = try Self.edges(400)
        var notes: [LoopNote] = []
        var now = at(seconds: 1_000)
        var events = 0
        var parked = 0
        var root = 0
        while events < 1_000_000 {
            root += 1
            // A path through different functions, in which every step is as wide as it likes; or a slow chain.
            let isChain = root % 2 == 0
            var front = [Lineage(root: rootID(root), born: now)]
            let first = Int.random(in: 0..<360, using: &random)
            for level in 0..<Int.random(in: 1...30, using: &random) {
                now = now + (isChain ? 60_000_000_000 : UInt64.random(in: 0..<1_000_000, using: &random))
                var next: [Lineage] = []
                for cause in front {
                    for _ in 0..<(isChain ? 1 : Int.random(in: 1...6, using: &random)) where next.count < 300 {
                        events += 1
                        let verdict = governor.admit(cause, through: edges[isChain ? first : first + level], at: now, into: &notes)
                        if let pass = verdict.pass { next.append(pass.lineage) } else { parked += 1 }
                    }
                }
                front = next
            }
        }
        #expect(parked == 0)
        #expect(notes.isEmpty)
        #expect(governor.counts.recurrent > 1_000, "the run shows nothing")
    }

    // MARK: the last token, clocks

    @Test("siblings that race for the last token: exactly 1,000 pass", arguments: 0..<20)
    func lastToken(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        var governor = LoopGovernor(seed: UInt64(seed))
        var notes: [LoopNote] = []
        let edges = try Self.edges(5)
        let now = at(seconds: 1_000)
        let root = Lineage(root: rootID(seed), born: now)
        // Paths that have been everywhere once; each is a copy that knows nothing of the others.
        var fronts: [Lineage] = []
        for _ in 0..<300 {
            var lineage = root
            for edge in edges.shuffled(using: &random) {
                lineage = try #require(governor.admit(lineage, through: edge, at: now, into: &notes).pass).lineage
            }
            fronts.append(lineage)
        }
        var admitted = 0
        for _ in 0..<6_000 {
            let cause = fronts[Int.random(in: 0..<fronts.count, using: &random)]
            let verdict = governor.admit(cause, through: edges[Int.random(in: 0..<5, using: &random)], at: now, into: &notes)
            if let pass = verdict.pass {
                admitted += 1
                if pass.lineage.hops < 12 { fronts.append(pass.lineage) }
            } else {
                #expect(verdict.trip?.reason == .root || verdict.trip?.reason == .edgeBroken)
            }
        }
        #expect(admitted == 1_000)
    }

    @Test("a clock that goes back grants nothing and takes nothing")
    func clockSteps() throws {
        // While it runs only the monotonic clock counts.
        var steady = SteadyTime(saved: at(seconds: 0), wall: at(seconds: 1_000_000), monotonic: at(seconds: 50))
        #expect(steady.now(monotonic: at(seconds: 60)) == at(seconds: 1_000_010))
        // Started anew an hour back: time stands where it was stored.
        steady = SteadyTime(saved: at(seconds: 1_000_010), wall: at(seconds: 1_000_010 - 3_600), monotonic: at(seconds: 5))
        #expect(steady.now(monotonic: at(seconds: 5)) == at(seconds: 1_000_010))
        #expect(steady.now(monotonic: at(seconds: 1)) == at(seconds: 1_000_010))

        // A caller that hands in earlier times all the same.
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        var lineage = Lineage(root: rootID(1), born: at(seconds: 10_000))
        var admitted = 0
        for step in 0..<200 {
            let time = at(seconds: step % 2 == 0 ? 10_000 : 10_000 - 3_600)
            guard let pass = governor.admit(lineage, through: edge, at: time, into: &notes).pass else { continue }
            lineage = pass.lineage
            admitted += 1
        }
        #expect(admitted == 17)
        // And a slow chain right after such a step is not parked.
        for step in 0..<100 {
            let time = at(seconds: 10_000 - 3_600 + 60 * Double(step))
            let fresh = Lineage(root: rootID(2 + step), born: time)
            #expect(governor.admit(fresh, through: edge, at: time, into: &notes).pass != nil)
        }
    }
}
