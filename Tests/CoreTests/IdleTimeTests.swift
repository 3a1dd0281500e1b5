// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

@Suite struct IdleTimeTests {
    /// Calls `count` times with pauses between, each of `burst` calls at once; returns how many of the bursts found a worker from before.
    private func warm(_ stage: inout Stage, _ version: VersionID, pause: Nanoseconds, count: Int, burst: Int = 1) -> Int {
        var found = 0
        for _ in 0..<count {
            let first = stage.call(version)
            for _ in 1..<burst { stage.call(version) }
            stage.run(pause)
            if stage.dispatched[first]?.kind == .warm { found += 1 }
        }
        return found
    }

    @Test("a function that is called every 10 s keeps its worker, and one that is called every 100 s too")
    func periodic() throws {
        for pause in [10, 100] as [UInt64] {
            var stage = Stage()
            let version = try stage.add("acme")
            #expect(warm(&stage, version, pause: .seconds(pause), count: 200) == 199, "every \(pause) s")
            #expect(stage.starts.count == 1)
        }
    }

    @Test("what is called in bursts an hour apart lets its workers go early, and has them again once the bursts are five minutes apart")
    func bursts() throws {
        var stage = Stage()
        let version = try stage.add("acme") {
            $0.idle = .seconds(600)
            $0.maximumWorkers = 50
        }
        #expect(warm(&stage, version, pause: .seconds(3_600), count: 10, burst: 50) == 0)
        #expect(stage.starts.count == 500)
        for _ in 0..<50 { stage.call(version) }
        stage.run(.seconds(5))
        #expect(stage.live(version).count == 50, "not so early that a pause of seconds costs them")
        stage.run(.seconds(10))
        #expect(stage.live(version).isEmpty, "\(stage.live(version).count) workers wait for a burst that is an hour away")
        let found = warm(&stage, version, pause: .seconds(300), count: 30, burst: 50)
        #expect(found >= 20, "\(found) of 30 bursts found workers")
    }

    @Test("nothing is known of a new function: its worker stays as long as the manifest says")
    func unknown() throws {
        var stage = Stage()
        let version = try stage.add("acme")
        for _ in 0..<1_000 {
            stage.call(version)
            stage.run(.milliseconds(20))
        }
        stage.run(.seconds(290))
        #expect(stage.live(version).count == 1)
        stage.run(.seconds(20))
        #expect(stage.live(version).isEmpty)
    }

    @Test("never longer than the manifest says, and never shorter than the floor where it says more", arguments: 0..<20)
    func bounds(seed: UInt64) {
        var random = Seeded(state: seed)
        var gaps = GapHistogram()
        #expect(gaps.keep(ceiling: .seconds(300)) == .seconds(300))
        for round in 0..<500 {
            let longest = UInt64.random(in: 1...50, using: &random)
            gaps.add(UInt64.random(in: 0...(1 << longest), using: &random))
            for ceiling in [1, .milliseconds(300), .seconds(9), .seconds(11), .seconds(300), .seconds(86_400)] as [Nanoseconds] {
                let keep = gaps.keep(ceiling: ceiling)
                #expect(keep <= ceiling && keep >= min(ceiling, GapHistogram.floor), "seed \(seed) round \(round)")
            }
        }
        // Nothing overflows, however long a version was without a call.
        for _ in 0..<1_000 { gaps.add(.max) }
        #expect(gaps.keep(ceiling: .seconds(86_400)) == GapHistogram.floor)
    }
}
