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
        world.tell(.tenantConfigured(TenantSpec(tenant: try name(tenant), concurrency: 3 + index, queue: 8, limits: limits)))
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
        let served = world.verdicts.values.count { $0 == .completed(.ok) }
        #expect(served > 50, "seed \(seed): only \(served) served; the run shows nothing")
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
