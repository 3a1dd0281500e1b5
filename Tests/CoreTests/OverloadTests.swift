// SPDX-License-Identifier: Apache-2.0
import Core
import HeapModule
import Testing

/// Callers who wait for a second and then go, in front of workers that exist already.
private struct Rush {
    struct Due: Comparable {
        enum Kind { case arrival(Int), finish(InvocationID, WorkerID), departure(InvocationID) }
        let at: Instant
        let number: UInt64
        let kind: Kind
        static func < (a: Due, b: Due) -> Bool { (a.at, a.number) < (b.at, b.number) }
        static func == (a: Due, b: Due) -> Bool { a.number == b.number }
    }

    static let patience: Nanoseconds = .seconds(1)
    var node: Node
    var random: Seeded
    var now = Instant(nanoseconds: 1_000_000_000)
    var due = Heap<Due>()
    var number: UInt64 = 0
    var versions: [VersionID] = []
    var rates: [Double] = []
    var services: [Nanoseconds] = []
    /// When each arrived, and whose it is.
    var callers: [InvocationID: (at: Instant, tenant: Int)] = [:]
    var good: [Int] = []
    var refused: [Int] = []
    /// What a refusal came after, in ms.
    var waits: [Double] = []
    var service: ServiceClass = .sync

    init(seed: UInt64, seats: Int = 100_000) {
        node = Node(spec: NodeSpec(memoryBytes: 8 << 30, seats: seats, spareGroups: 0), firstWorker: 1)
        random = Seeded(state: seed)
        tell(.spawnerConnected)
    }

    /// A tenant with so many seats, one worker with as many slots, and callers at `rate` a second.
    mutating func add(_ tenant: String, seats: Int, runs: Nanoseconds, rate: Double, queue: Int = 1_000) throws {
        let name = try #require(Name(tenant))
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 5_000)
        tell(.tenantConfigured(TenantSpec(tenant: name, concurrency: seats, queue: queue, limits: limits)))
        let version = VersionID(function: FunctionID(tenant: name, function: try #require(Name("f"))), number: 1)
        tell(
            .versionRegistered(
                FunctionSpec(
                    version: version, runtime: "native", code: "", instanceConcurrency: UInt16(seats), minimumWorkers: 1, maximumWorkers: 1,
                    timeout: .seconds(60))))
        versions.append(version)
        rates.append(rate)
        services.append(runs)
        good.append(0)
        refused.append(0)
        schedule(.arrival(versions.count - 1), after: 1)
    }

    mutating func schedule(_ kind: Due.Kind, after: Nanoseconds) {
        number += 1
        due.insert(Due(at: now + after, number: number, kind: kind))
    }

    mutating func tell(_ event: Event) {
        var actions: [Action] = []
        node.handle(event, at: now, into: &actions)
        for action in actions {
            switch action {
            case .spawn(let order):
                tell(.spawned(order.worker))
                tell(.greeted(order.worker))
            case .initialize(let worker, _): tell(.ready(worker))
            case .invoke(let worker, _, let id, _, _):
                let tenant = callers[id]?.tenant ?? 0
                schedule(.finish(id, worker), after: Nanoseconds(Double(services[tenant]) * Double.random(in: 0.5...1.5, using: &random)))
            case .reply(let id, let verdict):
                guard let caller = callers.removeValue(forKey: id) else { continue }
                if case .refused = verdict {
                    refused[caller.tenant] += 1
                    waits.append(Double(now - caller.at) / 1e6)
                } else if verdict == .completed(.ok), now - caller.at <= Self.patience {
                    good[caller.tenant] += 1
                }
            default: break
            }
        }
    }

    mutating func run(_ seconds: UInt64) {
        let end = now + .seconds(seconds)
        while let next = due.popMin(), next.at < end {
            now = next.at
            if node.nextDeadline.map({ $0 <= now }) == true { tell(.timePassed) }
            switch next.kind {
            case .arrival(let tenant):
                number += 1
                let id = InvocationID(milliseconds: 0, random: (0, number))
                callers[id] = (now, tenant)
                tell(.arrived(Arrival(id, versions[tenant], service: service)))
                if callers[id] != nil { schedule(.departure(id), after: Self.patience) }
                schedule(.arrival(tenant), after: Nanoseconds(1e9 / rates[tenant] * Double.random(in: 0...2, using: &random)))
            case .finish(let id, let worker): tell(.finished(id, worker, .ok))
            case .departure(let id): if callers[id] != nil { tell(.abandoned(id)) }
            }
        }
        now = end
    }
}

@Suite struct OverloadTests {
    /// Answers in time of callers that come at `factor` times what can be served: one tenant at its own cap, with a long queue.
    private func goodput(_ factor: Double, seed: UInt64) throws -> Int {
        var rush = Rush(seed: seed)
        try rush.add("acme", seats: 10, runs: .milliseconds(200), rate: 50 * factor)
        rush.run(30)
        return rush.good[0]
    }

    @Test("three times what a tenant's seats can serve: as many are answered in time as at the best load", arguments: 1...4)
    func tenantAtItsCap(seed: UInt64) throws {
        let peak = try [0.8, 0.9, 1, 1.1].map { try goodput($0, seed: seed) }.max() ?? 0
        let rushed = try goodput(3, seed: seed)
        print("seed \(seed): \(peak) in time at the best load, \(rushed) at three times the capacity")
        #expect(Double(rushed) >= 0.95 * Double(peak) && peak > 1_000)
    }

    @Test("three times what the node's seats can serve: as many are answered in time, the rest refused soon; a quiet tenant is not refused")
    func nodeIsFull() throws {
        func measure(_ factor: Double) throws -> Rush {
            var rush = Rush(seed: 7, seats: 20)
            try rush.add("acme", seats: 20, runs: .milliseconds(200), rate: 50 * factor)
            try rush.add("globex", seats: 20, runs: .milliseconds(200), rate: 50 * factor)
            try rush.add("quiet", seats: 20, runs: .milliseconds(50), rate: 1)
            rush.run(30)
            return rush
        }
        let (peak, rushed) = (try measure(1), try measure(3))
        #expect(Double(rushed.good[0] + rushed.good[1]) >= 0.95 * Double(peak.good[0] + peak.good[1]))
        #expect(abs(rushed.good[0] - rushed.good[1]) < rushed.good[0] / 10, "the two share: \(rushed.good)")
        #expect(rushed.refused[2] == 0 && rushed.good[2] >= 20, "quiet: \(rushed.good[2]) good, \(rushed.refused[2]) refused")
        let waits = rushed.waits.sorted()
        print(
            "full node: \(peak.good) at the best load, \(rushed.good) at three times; refused after \(waits[waits.count / 2]) ms (median)")
        #expect(waits.count > 1_000 && waits[waits.count / 2] < 500, "who is refused waits for it")
    }

    @Test("a burst that its seats work off is served in its order, all of it")
    func burst() throws {
        var rush = Rush(seed: 3)
        try rush.add("acme", seats: 1, runs: .milliseconds(5), rate: 0.001)
        for number in UInt64(0)..<15 { rush.tell(.arrived(Arrival(InvocationID(milliseconds: 9, random: (1, number)), rush.versions[0]))) }
        rush.run(1)
        #expect(rush.refused == [0] && rush.node.activeInvocations == 0)
    }

    @Test("an end user whose last waiting call is refused for its wait by the next one is served in his turn")
    func lastOfItsLeaf() throws {
        var stage = Stage(NodeSpec(memoryBytes: 64 << 30, seats: 1, spareGroups: 0))
        stage.runTime = .seconds(2)
        let version = try stage.add("acme", users: UserSpec(concurrency: 5))
        let runs = stage.call(version, user: "ann")
        stage.run(.milliseconds(500))
        let late = stage.call(version, user: "joe")
        stage.run(.milliseconds(500))
        let next = stage.call(version, user: "joe")
        #expect(stage.refusal(late)?.ceiling == "wait", "else the rest shows nothing")
        // Whatever place of the queue was free is another's by now.
        let other = try stage.add("globex", users: UserSpec(concurrency: 5))
        let others = stage.call(other, user: "kim")
        stage.run(.seconds(10))
        for id in [runs, next, others] { #expect(stage.verdicts[id] == .completed(.ok)) }
        #expect(stage.node.totals.queued == 0 && stage.violations.isEmpty, "\(stage.violations)")
    }

    @Test("what is not synchronous is neither refused for its wait nor overtaken")
    func asynchronousWaits() throws {
        var rush = Rush(seed: 5, seats: 4)
        rush.service = .asynchronous
        try rush.add("acme", seats: 4, runs: .milliseconds(100), rate: 60, queue: 100_000)
        rush.run(5)
        #expect(rush.refused == [0], "\(rush.refused) refused")
    }
}
