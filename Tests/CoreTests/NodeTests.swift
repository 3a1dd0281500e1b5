// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

private func name(_ text: String) throws -> Name { try #require(Name(text)) }

private func version(_ tenant: String, _ function: String, _ number: UInt32 = 1) throws -> VersionID {
    VersionID(function: FunctionID(tenant: try name(tenant), function: try name(function)), number: number)
}

private func spec(memory: UInt64 = 2 << 30, workers: Int = 40) -> NodeSpec {
    NodeSpec(memoryBytes: memory, maximumWorkers: workers, queue: 100, spareGroups: 2, sealedSpares: 1, prewarmedSpares: ["python3": 1])
}

private func populated(seed: UInt64) throws -> World {
    var world = World(seed: seed, spec: spec())
    world.tell(.spawnerConnected)
    for (index, tenant) in ["acme", "globex", "initech"].enumerated() {
        let limits = GroupLimits(memoryBytes: UInt64(index + 1) * (300 << 20), cpuMilli: 1000, processes: UInt32(200 + 100 * index))
        world.tell(
            .tenantConfigured(
                TenantSpec(
                    tenant: try name(tenant), concurrency: 3 + index, queue: 8, limits: limits,
                    budget: index == 1 ? BudgetSpec(invocations: BudgetCeiling(limit: 150, period: .day)) : BudgetSpec(),
                    weight: Double(index + 1), users: index == 2 ? UserSpec(concurrency: 2) : nil)))
        if index == 1 {
            world.tell(.budgetWindow(try name(tenant), .day, ordinal: 1, ends: world.now + .seconds(86_400), spent: UsageSoFar()))
        }
        for function in 0..<3 {
            world.tell(
                .versionRegistered(
                    FunctionSpec(
                        version: try version(tenant, "f\(function)"), runtime: function == 0 ? "python3" : "native", code: "",
                        limits: WorkerLimits(memoryBytes: UInt64(64 + 32 * function) << 20), instanceConcurrency: function == 2 ? 3 : 1,
                        concurrency: 4 - function, minimumWorkers: function == 1 ? 1 : 0, maximumWorkers: 5, idle: .seconds(1),
                        timeout: .seconds(2))))
        }
    }
    return world
}

@Suite struct NodeTests {
    @Test("ceilings hold and every invocation is answered once, whatever happens in whatever order", arguments: 0..<40)
    func properties(seed: Int) throws {
        var world = try populated(seed: UInt64(seed))
        for step in 0..<3_000 {
            world.step()
            try #require(world.violations.isEmpty, "seed \(seed) step \(step): \(world.violations)")
        }
        world.drainAll()
        #expect(world.violations.isEmpty, "seed \(seed): \(world.violations)")
        #expect(world.verdicts.count == world.arrived.count, "seed \(seed): \(world.arrived.count - world.verdicts.count) never answered")
        #expect(world.node.activeInvocations == 0)
        #expect(world.charges == world.settled, "seed \(seed): every start is charged, once")
        #expect(world.ran.values.contains(150), "seed \(seed): the budget was never used up; the run shows nothing of it")
        let served = world.verdicts.values.count { $0 == .completed(.ok) }
        #expect(served > 50, "seed \(seed): only \(served) served; the run shows nothing")
    }

    @Test(
        "the same while caps are lowered and raised and tenants are removed and come back: what runs drains down, and nothing is lost",
        arguments: 0..<20)
    func reconfiguration(seed: Int) throws {
        var world = try populated(seed: UInt64(seed))
        world.reconfigures = true
        for step in 0..<3_000 {
            world.step()
            try #require(world.violations.isEmpty, "seed \(seed) step \(step): \(world.violations)")
        }
        world.drainAll()
        #expect(world.violations.isEmpty, "seed \(seed): \(world.violations)")
        #expect(world.verdicts.count == world.arrived.count, "seed \(seed): \(world.arrived.count - world.verdicts.count) never answered")
        #expect(world.node.activeInvocations == 0 && world.charges == world.settled, "seed \(seed)")
        #expect(
            world.reconfigurations > 10 && world.verdicts.values.count { $0 == .completed(.ok) } > 50, "seed \(seed): the run shows nothing"
        )
    }

    @Test("the checks see a node that overruns a cap")
    func negativeControl() throws {
        var world = try populated(seed: 1)
        // The world believes in one seat less than the node was told of.
        world.tenants = world.tenants.mapValues { spec in
            var smaller = spec
            smaller.concurrency -= 1
            return smaller
        }
        for _ in 0..<3_000 { world.step() }
        #expect(!world.violations.isEmpty)
    }

    @Test("a tenant at its cap is refused with the level, the limit, the value and a time")
    func refusal() throws {
        var world = World(seed: 1, spec: spec())
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), concurrency: 1, queue: 1, limits: limits)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "")))
        let ids = (0..<3).map { InvocationID(milliseconds: 0, random: (0, UInt64($0))) }
        world.tell(.arrived(Arrival(ids[0], version)))
        while !world.coming.isEmpty { world.happen() }
        world.tell(.arrived(Arrival(ids[1], version)))
        world.tell(.arrived(Arrival(ids[2], version)))
        guard case .refused(let refusal) = world.verdicts[ids[2]] else {
            Issue.record("not refused: \(String(describing: world.verdicts[ids[2]]))")
            return
        }
        #expect(refusal.level == .tenant && refusal.ceiling == "concurrency" && refusal.limit == 1 && refusal.value == 1)
        #expect(refusal.retryAfter ?? 0 >= 1)
        #expect(world.verdicts[ids[1]] == nil, "the second one waits")
    }

    @Test("an end user at its cap waits for its own seat: no worker is started for it, and others are served meanwhile")
    func userCap() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 4 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 5000)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits, users: UserSpec(concurrency: 1))))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "")))
        func call(_ number: UInt64, _ user: String) -> Event {
            .arrived(Arrival(InvocationID(milliseconds: 0, random: (0, number)), version, tenantUser: user))
        }
        for number in 0..<5 { world.tell(call(UInt64(number), "joe")) }
        while !world.coming.isEmpty { world.happen() }
        #expect(world.workers.count == 1, "\(world.workers.count) workers for one user with one seat")
        world.tell(call(9, "ann"))
        while !world.coming.isEmpty { world.happen() }
        #expect(world.workers.values.reduce(0) { $0 + $1.running.count } == 2, "ann waits for nobody")
        for _ in 0..<6 {
            world.finishSomething()
            let running = world.workers.values.flatMap(\.running.values).filter { $0.low < 5 }
            #expect(running.count <= 1, "joe runs \(running.count)")
        }
        #expect(world.verdicts.count == 6 && world.violations.isEmpty, "\(world.violations)")
        #expect(world.node.tenantView(try name("acme"))?.running == 0)
    }

    @Test("what is held and spent never exceeds a budget, and what was not run is not charged")
    func budget() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 4 << 30, queue: 100, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 5000)
        let acme = try name("acme")
        let budget = BudgetSpec(invocations: BudgetCeiling(limit: 3, period: .day))
        world.tell(.tenantConfigured(TenantSpec(tenant: acme, concurrency: 2, limits: limits, budget: budget)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "")))
        let ids = (0..<6).map { InvocationID(milliseconds: 0, random: (0, UInt64($0))) }
        world.tell(.arrived(Arrival(ids[0], version)))
        guard case .refused(let early) = world.verdicts[ids[0]] else {
            Issue.record("admitted before the window is known")
            return
        }
        #expect(early.outcome == .overBudget)
        world.tell(.budgetWindow(acme, .day, ordinal: 1, ends: world.now + .seconds(600), spent: UsageSoFar(invocations: 1)))
        for id in ids[1...] { world.tell(.arrived(Arrival(id, version))) }
        let refused = ids[1...].filter { if case .refused = world.verdicts[$0] { true } else { false } }
        #expect(refused.count == 3, "2 of 3 are left after the 1 of before")
        guard case .refused(let refusal) = world.verdicts[ids[5]] else { return }
        #expect(refusal.level == .budget && refusal.limit == 3 && refusal.value == 3 && refusal.retryAfter == 600)
        // One leaves before it runs: its share comes back.
        world.tell(.abandoned(ids[2]))
        let next = InvocationID(milliseconds: 0, random: (0, 77))
        world.tell(.arrived(Arrival(next, version)))
        #expect(world.verdicts[next] == nil)
        while !world.coming.isEmpty { world.happen() }
        while world.verdicts[next] == nil || world.verdicts[ids[1]] == nil { world.finishSomething() }
        #expect(world.charges.count == 2 && world.settled.count == 2, "\(world.charges) \(world.settled)")
        let view = try #require(world.node.tenantView(acme))
        #expect(view.budget.spent(.invocations) == 3 && view.budget.reserved(.invocations) == 0)
    }

    @Test("a rate admits its burst, says when the next is admitted, and takes nothing from a tenant whose function refuses")
    func rates() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 4 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 5000)
        let tenantRate = try #require(RateSpec(count: 10, period: .seconds(1), burst: 5))
        let functionRate = try #require(RateSpec(count: 1, period: .seconds(1), burst: 2))
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits, rate: tenantRate)))
        let (slow, fast) = (try version("acme", "slow"), try version("acme", "fast"))
        world.tell(.versionRegistered(FunctionSpec(version: slow, runtime: "native", code: "", rate: functionRate)))
        world.tell(.versionRegistered(FunctionSpec(version: fast, runtime: "native", code: "")))
        var number: UInt64 = 0
        func call(_ version: VersionID) -> Refusal? {
            number += 1
            let id = InvocationID(milliseconds: 0, random: (0, number))
            world.tell(.arrived(Arrival(id, version)))
            if case .refused(let refusal) = world.verdicts[id] { return refusal }
            return nil
        }
        #expect(call(slow) == nil && call(slow) == nil)
        for turn in 1...10 {
            let refusal = call(slow)
            #expect(refusal?.level == .function && refusal?.ceiling == "rate" && refusal?.retryAfter == Double(turn))
        }
        // Two of the tenant's five are taken, not twelve.
        #expect(call(fast) == nil && call(fast) == nil && call(fast) == nil)
        #expect(call(fast)?.level == .tenant)
        world.now = world.now + .milliseconds(100)
        #expect(call(fast) == nil && call(fast) != nil)
    }

    @Test("a tenant that waits for the node's memory gets a worker of one that has had more, though that one has work without end")
    func yielding() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 256 << 20, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 5000)
        for tenant in ["acme", "globex"] {
            world.tell(.tenantConfigured(TenantSpec(tenant: try name(tenant), limits: limits)))
            world.tell(.versionRegistered(FunctionSpec(version: try version(tenant, "f"), runtime: "native", code: "")))
        }
        let (greedy, late) = (try version("acme", "f"), try version("globex", "f"))
        for number in UInt64(0)..<60 { world.tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, number)), greedy))) }
        while !world.coming.isEmpty { world.happen() }
        #expect(world.workers.count == 2)
        let first = InvocationID(milliseconds: 0, random: (0, 1000))
        world.tell(.arrived(Arrival(first, late)))
        for _ in 0..<20 where world.verdicts[first] == nil {
            world.now = world.now + .milliseconds(60)
            world.finishSomething()
            while !world.coming.isEmpty { world.happen() }
        }
        #expect(world.verdicts[first] == .completed(.ok) || world.verdicts[first] == .completed(.functionError), "globex starved")
        #expect(world.violations.isEmpty, "\(world.violations)")
    }

    @Test("an invocation that ignores its deadline is answered at the deadline and its worker killed after the grace")
    func deadline() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 1 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "", timeout: .seconds(1))))
        let id = InvocationID(milliseconds: 0, random: (0, 1))
        world.tell(.arrived(Arrival(id, version)))
        while !world.coming.isEmpty { world.happen() }
        let worker = try #require(world.workers.first)
        #expect(worker.value.running.count == 1)
        world.now = world.now + .milliseconds(1001)
        world.tell(.timePassed)
        guard case .failed(.timedOut, _, _) = world.verdicts[id] else {
            Issue.record("not timed out: \(String(describing: world.verdicts[id]))")
            return
        }
        #expect(world.workers[worker.key]?.isKilled == false)
        world.now = world.now + .milliseconds(501)
        world.tell(.timePassed)
        #expect(world.workers[worker.key]?.isKilled == true)
        #expect(world.node.tenantView(try name("acme"))?.running == 1, "the seat is held until the worker is gone")
        while !world.coming.isEmpty { world.happen() }
        #expect(world.node.tenantView(try name("acme"))?.running == 0)
    }

    @Test("a worker whose invocation ran past its deadline serves nobody any more, also when it stopped in time")
    func retirement() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 1 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "", timeout: .seconds(1))))
        world.tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, 1)), version)))
        while !world.coming.isEmpty { world.happen() }
        let worker = try #require(world.workers.keys.first)
        world.now = world.now + .milliseconds(1001)
        world.tell(.timePassed)
        world.finishSomething()
        #expect(world.workers[worker]?.isKilled == true)
        world.tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, 2)), version)))
        #expect(world.workers[worker]?.running.isEmpty == true)
        #expect(world.workers.count == 2, "the next caller gets a new worker")
    }

    @Test("the busy workers of a removed version end when they are done")
    func removal() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 1 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "")))
        world.tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, 1)), version)))
        while !world.coming.isEmpty { world.happen() }
        world.tell(.versionRemoved(version))
        #expect(world.workers.values.allSatisfy { !$0.isDraining })
        world.finishSomething()
        #expect(world.workers.values.allSatisfy { $0.isDraining })
        #expect(world.verdicts.count == 1)
    }

    @Test("a python function takes the prewarmed spare of its tenant's group, and the spare is replaced")
    func prewarmed() throws {
        var world = World(seed: 1, spec: spec())
        world.tell(.spawnerConnected)
        for _ in 0..<100 where !world.coming.isEmpty { world.happen() }
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "python3", code: "")))
        let before = Set(world.workers.keys)
        world.tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, 1)), version)))
        let adopted = try #require(world.workers.first { $0.value.function != nil })
        #expect(before.contains(adopted.key))
        #expect(world.workers.values.count { $0.group == adopted.value.group } == 3, "one adopted, one sealed, one new prewarmed")
        #expect(world.violations.isEmpty)
    }

    @Test("failed starts back off, and a caller in the back-off gets the reason at once")
    func backoff() throws {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 1 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits)))
        let version = try version("acme", "f")
        world.tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "")))
        for attempt in 0..<10 {
            let id = InvocationID(milliseconds: 0, random: (0, UInt64(attempt)))
            world.tell(.arrived(Arrival(id, version)))
            if let worker = world.workers.keys.max() { world.tell(.exited(worker, .exited(code: 1))) }
            world.coming = []
            #expect(world.verdicts[id] != nil)
        }
        #expect(world.usedWorkers.count < 10, "every arrival started a worker: no back-off")
        #expect(world.usedWorkers.count >= 3)
    }
}
