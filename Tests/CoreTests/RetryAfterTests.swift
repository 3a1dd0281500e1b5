// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

/// P13: who waits as long as he was told is not refused again for the same reason, where nobody else comes meanwhile.
@Suite struct RetryAfterTests {
    enum Ceiling: String, CaseIterable { case tenant, tenantWithoutQueue, function, user, userQueue, workers, memory, node }

    /// A node at one of its ceilings after a burst, its run time well known.
    private func stage(_ ceiling: Ceiling, run: Nanoseconds) throws -> (Stage, VersionID) {
        var stage = Stage(
            NodeSpec(memoryBytes: ceiling == .node ? 256 << 20 : 64 << 30, queue: ceiling == .node ? 3 : 50_000, spareGroups: 0))
        stage.runTime = run
        let users: UserSpec? = ceiling == .user ? UserSpec(concurrency: 2) : ceiling == .userQueue ? UserSpec(concurrency: 50) : nil
        let queues: [Ceiling: Int] = [.tenantWithoutQueue: 0, .tenant: 5, .function: 3, .user: 8, .userQueue: 6, .workers: 2, .memory: 2]
        let version = try stage.add(
            "acme", memory: ceiling == .memory ? 256 << 20 : 32 << 30,
            seats: [.tenant, .tenantWithoutQueue, .userQueue].contains(ceiling) ? 4 : 100,
            users: users, queue: queues[ceiling] ?? 1_000
        ) {
            $0.timeout = .seconds(300)
            if ceiling == .function { $0.concurrency = 3 }
            if ceiling == .workers { $0.maximumWorkers = 2 }
        }
        for _ in 0..<60 {
            stage.call(version, user: users.map { _ in "ann" })
            stage.run(run + .seconds(1))
        }
        return (stage, version)
    }

    @Test("a caller who comes back when he was told to, alone, is not refused for the same reason", arguments: Ceiling.allCases)
    func obeyed(ceiling: Ceiling) throws {
        for run in [.milliseconds(300), .milliseconds(2_700), .milliseconds(7_900)] as [Nanoseconds] {
            let (prepared, version) = try stage(ceiling, run: run)
            var stage = prepared
            let user = [.user, .userQueue].contains(ceiling) ? "joe" : nil
            var first: Refusal?
            for _ in 0..<400 where first == nil {
                let id = stage.call(version, user: user)
                // Long enough for a worker to start: else the seats are free and what is short is workers.
                stage.run(.milliseconds(20))
                first = stage.refusal(id)
            }
            let refusal = try #require(first, "\(ceiling) was never reached")
            let wait = try #require(refusal.retryAfter)
            stage.run(Nanoseconds(wait * 1e9))
            let again = stage.call(version, user: user)
            if let second = stage.refusal(again) {
                #expect(
                    second.level != refusal.level || second.ceiling != refusal.ceiling, "\(ceiling), \(run) ns: \(refusal), then \(second)")
            }
        }
    }

    /// So many call at once, and each who is refused comes back exactly when it was told to, until it is admitted.
    private func crowd(of size: Int, calling version: VersionID, on stage: inout Stage) -> (refusals: [Int], last: Nanoseconds) {
        let began = stage.now
        var refusals = Array(repeating: 0, count: size)
        var due = (0..<size).map { (at: began, caller: $0) }
        while let next = due.min(by: { ($0.at, $0.caller) < ($1.at, $1.caller) }) {
            due.removeAll { $0.caller == next.caller }
            if next.at > stage.now { stage.run(next.at - stage.now) }
            let id = stage.call(version)
            guard let refusal = stage.refusal(id) else { continue }
            refusals[next.caller] += 1
            guard let wait = refusal.retryAfter, refusals[next.caller] <= size else {
                Issue.record("caller \(next.caller) gets nowhere: \(refusal)")
                return (refusals, 0)
            }
            // Whole seconds, rounded up, as the header has them.
            due.append((stage.now + .seconds(UInt64(wait.rounded(.up))), next.caller))
        }
        return (refusals, stage.now - began)
    }

    @Test(
        "of a crowd of which everybody obeys nobody is refused twice, at a rate and at seats with a queue, and it takes no longer than it must"
    )
    func crowds() throws {
        let rate = try #require(RateSpec(count: 10, period: .seconds(1), burst: 5))
        for isOfTenant in [false, true] {
            var paced = Stage()
            let version = try paced.add("acme", rate: isOfTenant ? rate : nil) { if !isOfTenant { $0.rate = rate } }
            let (refusals, last) = crowd(of: 40, calling: version, on: &paced)
            // 5 of 40 at once, and 5 in each second, which is what the burst lets in at one moment.
            #expect(refusals.count { $0 == 0 } == 5 && refusals.max() == 1 && last == .seconds(7), "\(refusals), \(last) ns")
        }
        for (run, size) in [(.milliseconds(2_700), 30), (.milliseconds(300), 100)] as [(Nanoseconds, Int)] {
            for (ceiling, seats, queue) in [(Ceiling.tenant, 4, 5), (.tenantWithoutQueue, 4, 0), (.function, 3, 3)] {
                let (prepared, full) = try stage(ceiling, run: run)
                var busy = prepared
                let (again, end) = crowd(of: size, calling: full, on: &busy)
                print("\(ceiling), \(run / 1_000_000) ms each, \(size) at once: all in after \(end / 1_000_000) ms")
                #expect(again.max() == 1, "\(ceiling), \(run) ns: \(again)")
                // As fast as the seats serve them; or, in the whole seconds of a header, as many in each as seats are free and half a queue takes, and one without either.
                let served = run * UInt64(size) / UInt64(seats)
                let each = (run < .seconds(1) ? seats : 1) + queue / 2
                let told = Nanoseconds.seconds(UInt64(size / each))
                #expect(end <= max(served, told) * 11 / 10 + .seconds(2), "\(ceiling), \(run) ns: \(end) ns")
            }
        }
    }

    @Test("a flood that does not obey keeps others away for no longer than it took to be told from a crowd")
    func floods() throws {
        let rate = try #require(RateSpec(count: 10, period: .seconds(1), burst: 5))
        var stage = Stage()
        let version = try stage.add("acme") { $0.rate = rate }
        var waits: [Double] = []
        for _ in 0..<5_000 {
            let id = stage.call(version)
            if let wait = stage.refusal(id)?.retryAfter { waits.append(wait) }
            stage.run(.milliseconds(2))
        }
        // Three hundred fill the time ahead, and none of them comes back.
        #expect(waits.count > 4_800 && waits.allSatisfy { $0 <= 30.2 }, "\(waits.max() ?? 0)")
        #expect(waits.suffix(3_900).allSatisfy { $0 <= 0.2 } && waits.count { $0 > 0.2 } < 600, "\(waits.count { $0 > 0.2 })")
        // When all who were promised a turn could have had it, another crowd is told apart from it again.
        stage.run(.seconds(40))
        let (refusals, _) = crowd(of: 40, calling: version, on: &stage)
        #expect(refusals.max() == 1, "\(refusals)")
    }

    @Test(
        "beyond those who were promised a turn nobody is told less than a run or more than a fifth beyond the estimate, and not all the same"
    )
    func spread() throws {
        let (prepared, version) = try stage(.tenant, run: .seconds(9))
        var stage = prepared
        let refusals = (0..<400).compactMap { _ in
            let id = stage.call(version)
            return stage.refusal(id)
        }
        let told = refusals.compactMap(\.retryAfter)
        #expect(told.allSatisfy { (17...55).contains($0) }, "\(Set(told))")
        // One runs and 8 wait, 3 of them for a worker alone: 9 times 9 s over 4 seats are 20.25 s.
        let waits = told.filter { $0 <= 25 }
        #expect(waits.count > 300, "\(Set(told))")
        #expect(Set(waits).count >= 5, "\(Set(waits))")
        for number in 0..<1_000 as Range<UInt64> {
            let share = Node.spread(InvocationID(milliseconds: 0, random: (0, number)))
            #expect(share >= 0.8 && share <= 1.2)
        }
    }
}
