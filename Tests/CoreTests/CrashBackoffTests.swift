// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct CrashBackoffTests {
    @Test("code that ends just after it is ready is not started without end, with nobody calling it")
    func endlessStarts() throws {
        var stage = Stage()
        stage.lifeTime = .milliseconds(1)
        let version = try stage.add("acme") { $0.minimumWorkers = 1 }
        stage.run(.seconds(600))
        // 10 starts until the wait is the longest, and one each 30 s after that.
        #expect((20...35).contains(stage.starts.count), "\(stage.starts.count) starts in 10 minutes")
        #expect(stage.node.failingVersions == [version])
        let gaps = zip(stage.starts.dropFirst(), stage.starts).map { $0.at - $1.at }
        #expect(gaps.last.map { $0 >= .seconds(30) } == true)
        // The code is whole again: the next worker stays, and after a while all is forgotten.
        stage.lifeTime = nil
        stage.run(.seconds(31))
        #expect(stage.live(version).count == 1 && stage.node.failingVersions == [version])
        stage.run(.seconds(31))
        #expect(stage.node.failingVersions.isEmpty)
    }

    @Test("nor is code that takes memory until it is killed, with nobody calling it", arguments: [1, 3])
    func allocators(minimum: Int) throws {
        var stage = Stage()
        stage.lifeTime = .seconds(1)
        stage.lifeEnd = .outOfMemory(limit: 64 << 20, peak: 64 << 20)
        let version = try stage.add("acme") { $0.minimumWorkers = minimum }
        stage.run(.seconds(600))
        #expect((20...45).contains(stage.starts.count / minimum), "\(stage.starts.count) starts in 10 minutes")
        #expect(stage.node.failingVersions == [version])
    }

    @Test("an idle worker that is killed for its neighbour's memory a few times is started again at once")
    func victims() throws {
        var stage = Stage()
        let version = try stage.add("acme") { $0.minimumWorkers = 1 }
        for _ in 0..<9 {
            stage.run(.milliseconds(50))
            let worker = try #require(stage.live(version).first)
            stage.schedule(.dies(worker, .outOfMemory(limit: 64 << 20, peak: 64 << 20)), after: 1)
        }
        stage.run(.milliseconds(50))
        #expect(stage.live(version).count == 1 && stage.node.failingVersions.isEmpty)
    }

    @Test("several workers that die together are one death in the row")
    func together() throws {
        var stage = Stage()
        let version = try stage.add("acme") { $0.minimumWorkers = 5 }
        stage.run(.seconds(1))
        for id in stage.live(version) { stage.schedule(.dies(id, .signalled(9)), after: 1) }
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 5 && stage.starts.count == 10 && stage.node.failingVersions.isEmpty)
    }

    @Test("who calls during the wait is told how long, and who comes back then is not refused again")
    func callers() throws {
        var stage = Stage()
        stage.lifeTime = .milliseconds(1)
        let version = try stage.add("acme") { $0.minimumWorkers = 1 }
        stage.run(.seconds(5))
        let early = stage.call(version)
        let refusal = try #require(stage.refusal(early), "\(String(describing: stage.verdicts[early]))")
        #expect(refusal.outcome == .crashed && refusal.level == .function)
        let wait = try #require(refusal.retryAfter)
        #expect(wait >= 1 && wait <= 7)
        stage.lifeTime = nil
        stage.run(.seconds(UInt64(wait)))
        let late = stage.call(version)
        stage.run(.seconds(1))
        #expect(stage.verdicts[late] == .completed(.ok), "\(String(describing: stage.verdicts[late]))")
        #expect(stage.node.failingVersions.isEmpty, "an answered call ends the row")
    }

    @Test("who waits for a worker when the wait begins is answered at once")
    func waiting() throws {
        var stage = Stage()
        stage.isDeadly = { _ in true }
        let version = try stage.add("acme") { $0.maximumWorkers = 1 }
        let calls = (0..<12).map { _ in stage.call(version) }
        stage.run(.seconds(1))
        #expect(stage.starts.count == 10)
        #expect(calls.count { stage.refusal($0)?.ceiling == "worker deaths in a row" && stage.refusal($0)?.retryAfter == 1 } == 2)
    }

    @Test("calls that end their workers do not lock out the function's other callers")
    func poison() throws {
        var stage = Stage()
        let version = try stage.add("acme")
        var others: [InvocationID] = []
        for round in 0..<50 {
            for _ in 0..<6 {
                stage.isDeadly = { _ in true }
                stage.call(version)
                stage.run(.milliseconds(50))
            }
            stage.isDeadly = { _ in false }
            others.append(stage.call(version))
            stage.run(.milliseconds(50))
            #expect(stage.verdicts[others[round]] == .completed(.ok), "round \(round)")
        }
        #expect(stage.node.failingVersions.isEmpty)
        // Nothing but such calls: the starts slow down, by a second at most.
        let before = stage.starts.count
        stage.isDeadly = { _ in true }
        for _ in 0..<2_000 {
            stage.call(version)
            stage.run(.milliseconds(50))
        }
        let started = stage.starts.count - before
        #expect((90...130).contains(started), "\(started) starts in 100 s")
        stage.isDeadly = { _ in false }
        stage.run(.seconds(1))
        let last = stage.call(version)
        stage.run(.seconds(1))
        #expect(stage.verdicts[last] == .completed(.ok))
    }

    @Test("workers that the node ends itself are not counted")
    func wanted() throws {
        var stage = Stage()
        let version = try stage.add("acme") {
            $0.idle = .milliseconds(100)
            $0.timeout = .milliseconds(50)
        }
        for _ in 0..<10 {
            stage.runTime = .milliseconds(10)
            stage.call(version)
            stage.run(.seconds(1))
            #expect(stage.live(version).isEmpty, "idle for too long")
            // And one that is killed because it ran past its deadline and did not stop.
            stage.runTime = .seconds(100)
            stage.call(version)
            stage.run(.seconds(1))
            #expect(stage.live(version).isEmpty)
        }
        #expect(stage.starts.count == 20 && stage.node.failingVersions.isEmpty)
    }
}
