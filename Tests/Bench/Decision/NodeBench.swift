// SPDX-License-Identifier: Apache-2.0
import Core

/// The whole decision, as the daemon makes it: `Node.handle` of a run's end, which frees its seat, settles its budget and gives the seat to whose turn it is, and of an arrival, which is
/// asked for its tenant's, function's and trigger's rate, holds its worst case of both budgets, and waits within every bound of the queue.
///
/// Every tenant has a rate, a compute and a call budget, one function with a rate, one route with a rate, one ready worker, and two invocations at all times: what ends is called
/// again at once. Time is simulated, 400 us a decision, so that a run takes 100 ms in the mean; what is due of the node's timers is timed on its own.
struct NodeBench {
    static let seats = 256
    static let step: Nanoseconds = 400_000
    var node: Node
    var now = Instant(nanoseconds: 1_000_000_000)
    var versions: [VersionID] = []
    var actions: [Action] = []
    var running: [(invocation: InvocationID, worker: WorkerID, tenant: Int)] = []
    /// Whose each worker is: numbers are given in their order, from 1.
    var tenantOf: [Int] = [0]
    var number: UInt64 = 0
    var random: UInt64 = 1
    var row = NodeRow()
    let route: Name

    init(tenants: Int, overhead: UInt64) {
        guard let route = Name("route"), let rate = RateSpec(count: 1_000_000, period: .seconds(1), burst: 10_000_000) else {
            fatalError("no such name or rate")
        }
        self.route = route
        row.tenants = tenants
        versions.reserveCapacity(tenants)
        tenantOf.reserveCapacity(tenants + 1)
        node = Node(
            spec: NodeSpec(
                memoryBytes: 1 << 60, maximumWorkers: 4 * tenants, seats: Self.seats, queue: 100_000_000, queueWait: .seconds(1_000_000),
                spareGroups: 0, concurrentStarts: 1_000, startsAhead: false), firstWorker: 1)
        tell(.spawnerConnected)
        let before = resident()
        for index in 0..<tenants { add(index, rate) }
        // The lists of versions and of tenants are the bench's own.
        row.bytesPerTenant = (resident() - before) / tenants - MemoryLayout<VersionID>.stride - MemoryLayout<Int>.stride
        row.direct = directCalls(overhead)
        let beforeQueueing = resident()
        for _ in 0..<2 { for tenant in 0..<tenants { call(tenant) } }
        row.bytesPerQueued = (resident() - beforeQueueing) / (2 * tenants)
    }

    /// A tenant with every ceiling there is but those of end users.
    mutating func add(_ index: Int, _ rate: RateSpec) {
        guard let name = Name("t\(index)"), let function = Name("f") else { fatalError("no such name") }
        let month = { (limit: UInt64) in BudgetCeiling(limit: limit, period: .month) }
        tell(
            .tenantConfigured(
                TenantSpec(
                    tenant: name, concurrency: 8, limits: GroupLimits(memoryBytes: 1 << 40, cpuMilli: 1_000, processes: 1_000), rate: rate,
                    budget: BudgetSpec(compute: month(1 << 50), invocations: month(1 << 50)))))
        tell(.budgetWindow(name, .month, ordinal: 1, ends: now + .seconds(2_678_400), spent: UsageSoFar()))
        let version = VersionID(function: FunctionID(tenant: name, function: function), number: 1)
        versions.append(version)
        tenantOf.append(index)
        tell(
            .versionRegistered(
                FunctionSpec(
                    version: version, runtime: "native", code: "", concurrency: 8, minimumWorkers: 1, maximumWorkers: 1,
                    timeout: .seconds(30), startTimeout: .seconds(1_000_000), rate: rate, triggerRates: [route: rate])))
        // At once, so that no tenant ever waits for room to start a worker.
        tell(.greeted(WorkerID(UInt64(index + 1))))
        tell(.ready(WorkerID(UInt64(index + 1))))
    }

    mutating func tell(_ event: Event) {
        actions.removeAll(keepingCapacity: true)
        node.handle(event, at: now, into: &actions)
    }

    mutating func call(_ tenant: Int) {
        tell(.arrived(arrival(tenant)))
        _ = collect()
    }

    /// Numbers as the gateway draws them: random, so that the tables are touched anywhere.
    mutating func arrival(_ tenant: Int) -> Arrival {
        number += 1
        return Arrival(InvocationID(milliseconds: number, random: (0, next())), versions[tenant], bytes: 100, trigger: route)
    }

    /// Remembers what the last actions started; the count is returned.
    mutating func collect() -> Int {
        var starts = 0
        for case .invoke(let worker, _, let id, _, _) in actions {
            running.append((id, worker, tenantOf[Int(worker.number)]))
            starts += 1
        }
        return starts
    }

    mutating func next() -> UInt64 {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return random
    }

    mutating func measure(decisions: Int, overhead: UInt64) -> NodeRow {
        var finishes: [UInt64] = []
        var arrivals: [UInt64] = []
        var wholes: [UInt64] = []
        finishes.reserveCapacity(decisions)
        arrivals.reserveCapacity(decisions)
        wholes.reserveCapacity(decisions)
        var timers: UInt64 = 0
        // The first tenth warms up.
        for round in 0..<decisions + decisions / 10 {
            now = now + Self.step
            let began = monotonic()
            if let due = node.nextDeadline, due <= now { tell(.timePassed) }
            if round >= decisions / 10 { timers += less(monotonic() - began, overhead) }
            let ended = running.remove(at: Int(next() % UInt64(running.count)))
            let arrival = arrival(ended.tenant)
            actions.removeAll(keepingCapacity: true)
            let t0 = monotonic()
            node.handle(.finished(ended.invocation, ended.worker, .ok), at: now, into: &actions)
            let t1 = monotonic()
            node.handle(.arrived(arrival), at: now, into: &actions)
            let t2 = monotonic()
            guard collect() == 1 else { fatalError("a seat was not given away") }
            if round < decisions / 10 { continue }
            finishes.append(less(t1 - t0, overhead))
            arrivals.append(less(t2 - t1, overhead))
            wholes.append(less(t2 - t0, 2 * overhead))
        }
        row.finish = finishes.sorted()
        row.arrive = arrivals.sorted()
        row.whole = wholes.sorted()
        row.timersMean = timers / UInt64(decisions)
        return row
    }

    /// Arrival, start without waiting, and end, on an idle node.
    mutating func directCalls(_ overhead: UInt64) -> [UInt64] {
        var samples: [UInt64] = []
        samples.reserveCapacity(100_000)
        for _ in 0..<100_000 {
            let arrival = arrival(Int(next() % UInt64(versions.count)))
            now = now + Self.step
            if let due = node.nextDeadline, due <= now { tell(.timePassed) }
            actions.removeAll(keepingCapacity: true)
            let from = monotonic()
            node.handle(.arrived(arrival), at: now, into: &actions)
            let between = monotonic()
            guard collect() == 1, let started = running.popLast() else { fatalError("no direct start on an idle node") }
            let again = monotonic()
            node.handle(.finished(started.invocation, started.worker, .ok), at: now, into: &actions)
            samples.append(less(between - from + monotonic() - again, 2 * overhead))
        }
        return samples.sorted()
    }
}

struct NodeRow {
    var tenants = 0
    var arrive: [UInt64] = []
    var finish: [UInt64] = []
    var whole: [UInt64] = []
    var direct: [UInt64] = []
    var timersMean: UInt64 = 0
    var bytesPerTenant = 0
    var bytesPerQueued = 0

    static let head = [
        "tenants", "arrival p50/p99", "end + dispatch p50/p99", "decision p50/p99/p99.9", "direct call p50/p99", "timers mean", "B/tenant",
        "B/queued",
    ]

    var cells: [String] {
        [
            "\(tenants)", pair(arrive), pair(finish), "\(pair(whole))/\(at(whole, 0.999))", pair(direct), "\(timersMean)",
            "\(bytesPerTenant)", "\(bytesPerQueued)",
        ]
    }

    var json: String {
        """
        {"tenants":\(tenants),"decision_p50_ns":\(at(whole, 0.5)),"decision_p99_ns":\(at(whole, 0.99)),"decision_p999_ns":\(at(whole, 0.999)),\
        "arrival_p50_ns":\(at(arrive, 0.5)),"arrival_p99_ns":\(at(arrive, 0.99)),"end_p50_ns":\(at(finish, 0.5)),"end_p99_ns":\(at(finish, 0.99)),\
        "direct_call_p50_ns":\(at(direct, 0.5)),"direct_call_p99_ns":\(at(direct, 0.99)),"timers_mean_ns":\(timersMean),\
        "bytes_per_tenant":\(bytesPerTenant),"bytes_per_queued":\(bytesPerQueued)}
        """
    }
}
