// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct StartAheadTests {
    /// Calls that come faster and faster for a minute and a half, up to 90 a second, of 200 ms each, where a start takes half a second.
    private func ramp(_ seed: UInt64, ahead: Bool, edit: (inout FunctionSpec) -> Void = { _ in }) throws -> (
        waited: Int, calls: Int, stage: Stage
    ) {
        var random = Seeded(state: seed)
        var stage = Stage(NodeSpec(memoryBytes: 64 << 30, spareGroups: 0, startsAhead: ahead))
        (stage.startTime, stage.runTime) = (.milliseconds(500), .milliseconds(200))
        let version = try stage.add("acme") {
            $0.maximumWorkers = 100
            edit(&$0)
        }
        var at = 0.0
        while at < 90 {
            at -= Double.random(in: 0.0001...1, using: &random).logarithm / (1 + at)
            stage.schedule(.call(version), after: Nanoseconds(at * 1e9))
        }
        stage.run(.seconds(100))
        let waited = stage.arrivals.count { (id, at) in stage.dispatched[id].map { $0.at > at } ?? true }
        return (waited, stage.arrivals.count, stage)
    }

    @Test("fewer calls of a growing load wait for a start than where workers are started only when they are missed")
    func grows() throws {
        var (with, without) = ((waited: 0, starts: 0), (waited: 0, starts: 0))
        for seed in 1...4 as ClosedRange<UInt64> {
            let (one, other) = (try ramp(seed, ahead: true), try ramp(seed, ahead: false))
            print(
                "seed \(seed): \(one.waited) of \(one.calls) waited, \(other.waited) without; \(one.stage.starts.count) starts, "
                    + "\(other.stage.starts.count) without")
            with = (with.waited + one.waited, with.starts + one.stage.starts.count)
            without = (without.waited + other.waited, without.starts + other.stage.starts.count)
            #expect(one.stage.violations.isEmpty && other.stage.violations.isEmpty, "\(one.stage.violations)")
        }
        #expect(without.waited > 100, "the run shows nothing")
        #expect(with.waited * 4 <= without.waited * 3)
        #expect(with.starts * 4 <= without.starts * 5, "the price")
    }

    @Test("never above a ceiling: workers, seats, memory", arguments: 1...5 as ClosedRange<UInt64>)
    func ceilings(seed: UInt64) throws {
        #expect(try ramp(seed, ahead: true) { $0.maximumWorkers = 5 }.stage.violations.isEmpty)
        let seats = try ramp(seed, ahead: true) { $0.concurrency = 6 }.stage
        #expect(seats.violations.isEmpty && seats.mostWorkers == 6, "\(seats.mostWorkers) workers for 6 seats")
        let memory = try ramp(seed, ahead: true) { $0.limits.memoryBytes = 7 << 30 }.stage
        #expect(memory.violations.isEmpty)
    }

    @Test("one call at a time gets one worker, however fast they follow each other")
    func sequential() throws {
        for run in [1, 20, 400] as [UInt64] {
            var stage = Stage()
            stage.runTime = .milliseconds(run)
            let version = try stage.add("acme")
            for _ in 0..<300 {
                let id = stage.call(version)
                while stage.verdicts[id] == nil { stage.run(1_000_000) }
            }
            #expect(stage.starts.count == 1)
        }
    }

    /// A function that has one worker more than it needs, and its unused one.
    private func prepared(_ stage: inout Stage, _ version: VersionID) throws -> WorkerID {
        stage.runTime = .milliseconds(90)
        for _ in 0..<200 where stage.live(version).count < 3 {
            stage.call(version)
            stage.call(version)
            stage.run(.milliseconds(100))
        }
        #expect(stage.live(version).count == 3 && stage.starts.count == 3)
        return try #require(stage.live(version).last)
    }

    @Test("what was started ahead is the first to go when somebody else needs its memory, and goes soon when nobody uses it")
    func goesFirst() throws {
        let need: UInt64 = 128 << 20
        for isTenant in [true, false] {
            // Room for three workers: of the tenant, or of the node.
            var stage = Stage(NodeSpec(memoryBytes: isTenant ? 64 << 30 : 4 * need, maximumWorkers: 500, spareGroups: 0))
            let version = try stage.add("acme", memory: isTenant ? 3 * need : 64 << 30)
            let other = try isTenant ? stage.function("g", of: "acme") : stage.add("globex") { $0.limits.memoryBytes = 2 * need }
            let unused = try prepared(&stage, version)
            let late = stage.call(other)
            stage.run(.milliseconds(60))
            #expect(stage.ended == [unused], "\(stage.ended), of the tenant: \(isTenant)")
            #expect(stage.verdicts[late] != nil || stage.dispatched[late] != nil)
            #expect(stage.violations.isEmpty)
        }
        var stage = Stage()
        let version = try stage.add("acme")
        let unused = try prepared(&stage, version)
        stage.run(.seconds(61))
        #expect(stage.ended == [unused])
    }

    @Test("what was made of a spare ahead goes as soon, and calls are told of it, not of the spare that takes its place")
    func fromSpare() throws {
        var stage = Stage(NodeSpec(memoryBytes: 64 << 30, spareGroups: 1, sealedSpares: 1))
        stage.runTime = .milliseconds(90)
        let version = try stage.add("acme")
        for _ in 0..<200 where stage.live(version).count < 3 {
            stage.call(version)
            stage.call(version)
            stage.run(.milliseconds(100))
        }
        #expect(stage.live(version).count == 3)
        stage.run(.seconds(61))
        #expect(stage.live(version).count == 2, "the third was never used")
        #expect(stage.violations.isEmpty, "\(stage.violations)")
    }

    @Test("nothing is started ahead while somebody waits for memory", arguments: [true, false])
    func takesNothing(waits: Bool) throws {
        let need: UInt64 = 128 << 20
        var stage = Stage(NodeSpec(memoryBytes: 16 * need, spareGroups: 0))
        stage.runTime = .seconds(100)
        stage.call(
            try stage.add("long") { (spec: inout FunctionSpec) in (spec.limits.memoryBytes, spec.timeout) = (4 * need, .seconds(300)) })
        stage.run(.milliseconds(20))
        stage.runTime = .milliseconds(20)
        let version = try stage.add("acme") { $0.maximumWorkers = 2 }
        for _ in 0..<60 {
            stage.call(version)
            stage.call(version)
            stage.run(.milliseconds(22))
        }
        _ = try stage.function("f", of: "acme") { $0.maximumWorkers = 20 }
        let big = try stage.add("big") { $0.limits.memoryBytes = 12 * need }
        // A third worker would pay now. But somebody waits for what the node has left, and for a little more.
        stage.run(.milliseconds(1))
        let late = waits ? stage.call(big) : nil
        for _ in 0..<3 {
            stage.call(version)
            stage.call(version)
            stage.run(.milliseconds(22))
        }
        #expect(stage.live(version).count == (waits ? 2 : 3))
        #expect(late.map { stage.dispatched[$0] == nil } ?? true)
    }

    @Test("nor of what nobody could take from it: workers that are never idle make no room, and a third would", arguments: [true, false])
    func addsNothing(waits: Bool) throws {
        let need: UInt64 = 128 << 20
        var stage = Stage(NodeSpec(memoryBytes: 16 * need, spareGroups: 0))
        stage.runTime = .seconds(100)
        stage.call(
            try stage.add("long") { (spec: inout FunctionSpec) in (spec.limits.memoryBytes, spec.timeout) = (4 * need, .seconds(300)) })
        stage.run(.milliseconds(20))
        // Three or four at a time, in two workers of two seats: each has always something to do.
        stage.runTime = .milliseconds(40)
        func edit(_ maximum: Int) -> (inout FunctionSpec) -> Void {
            { ($0.maximumWorkers, $0.instanceConcurrency) = (maximum, 2) }
        }
        let version = try stage.add("acme", edit: edit(2))
        for _ in 0..<100 {
            stage.call(version)
            stage.run(.milliseconds(11))
        }
        #expect(stage.live(version).count == 2)
        _ = try stage.function("f", of: "acme", edit: edit(20))
        let big = try stage.add("big") { $0.limits.memoryBytes = 12 * need }
        let late = waits ? stage.call(big) : nil
        let starts = stage.starts.count
        for _ in 0..<3 {
            stage.call(version)
            stage.run(.milliseconds(11))
        }
        // What is started ahead would be ended again for the one who waits, and started again: not the number that live, but that of the starts tells.
        #expect(stage.starts.count - starts == (waits ? 0 : 1))
        #expect(late.map { stage.dispatched[$0] == nil } ?? true)
        #expect(stage.violations.isEmpty, "\(stage.violations)")
    }
}

extension Double {
    /// The natural logarithm of a number in (0, 1], to a millionth: without Foundation.
    fileprivate var logarithm: Double {
        var (x, whole) = (self, 0.0)
        while x < 0.5 {
            x *= 2
            whole -= 0.693147180559945
        }
        // ln x = 2 artanh((x - 1) / (x + 1))
        let t = (x - 1) / (x + 1)
        var (power, sum) = (t, 0.0)
        for odd in stride(from: 1.0, through: 19, by: 2) {
            sum += power / odd
            power *= t * t
        }
        return whole + 2 * sum
    }
}
