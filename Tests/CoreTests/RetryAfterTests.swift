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

    /// The time is told to each as if it were alone: to add up who was refused before would keep a caller away for the sake of those who never come back, and a flood that does not
    /// obey would tell all others to stay away for minutes. So of a crowd that obeys, those for whom there is no room come back again; this says how often.
    @Test("of a crowd of which everybody obeys, all are admitted, and each return is worth at least a burst")
    func crowds() throws {
        let rate = try #require(RateSpec(count: 10, period: .seconds(1), burst: 5))
        var paced = Stage()
        let version = try paced.add("acme") { $0.rate = rate }
        let (refusals, last) = crowd(of: 40, calling: version, on: &paced)
        print(
            "rate 10/s burst 5, 40 at once: \(refusals.count { $0 > 1 }) refused again, at most \(refusals.max() ?? 0) times, all in after \(last / 1_000_000) ms"
        )
        // 5 of 40 at once, and 5 a second, which is what the burst lets in at one moment.
        #expect(refusals.count { $0 == 0 } == 5 && refusals.max() == 7 && last == .seconds(7))

        let (prepared, full) = try stage(.tenant, run: .milliseconds(2_700))
        var busy = prepared
        let (again, end) = crowd(of: 60, calling: full, on: &busy)
        print(
            "4 seats of 2.7 s and a queue of 5, 60 at once: \(again.count { $0 > 1 }) refused again, at most \(again.max() ?? 0) times, all in after \(end / 1_000_000) ms"
        )
        #expect(again.count { $0 == 0 } >= 9)
        // 60 runs of 2.7 s on 4 seats take 40.5 s: what obeying costs the whole crowd is at most as much again.
        #expect(end <= .seconds(81))
    }

    @Test("those who are refused together are not all told the same, and nobody less than a run or more than a fifth beyond the estimate")
    func spread() throws {
        let (prepared, version) = try stage(.tenant, run: .seconds(9))
        var stage = prepared
        let refusals = (0..<400).compactMap { _ in
            let id = stage.call(version)
            return stage.refusal(id)
        }
        let waits = refusals.compactMap(\.retryAfter)
        // One runs and 8 wait, 3 of them for a worker alone: 9 times 9 s over 4 seats are 20.25 s.
        #expect(waits.count > 300 && waits.allSatisfy { (17...25).contains($0) }, "\(Set(waits))")
        #expect(Set(waits).count >= 5, "\(Set(waits))")
        for number in 0..<1_000 as Range<UInt64> {
            let share = Node.spread(InvocationID(milliseconds: 0, random: (0, number)))
            #expect(share >= 0.8 && share <= 1.2)
        }
    }
}
