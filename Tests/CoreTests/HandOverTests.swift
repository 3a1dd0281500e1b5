// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

private func name(_ text: String) throws -> Name { try #require(Name(text)) }

private func version(_ tenant: String, _ function: String = "f", _ number: UInt32 = 1) throws -> VersionID {
    VersionID(function: FunctionID(tenant: try name(tenant), function: try name(function)), number: number)
}

extension World {
    /// A worker of the daemon before: there, where the node takes it, and else gone.
    fileprivate mutating func inherit(_ one: InheritedWorker) {
        tell(.inherited(one))
        guard node.has(one.worker), workers[one.worker] == nil, let function = functions[one.version] else { return }
        workers[one.worker] = Worker(group: one.group, limits: function.limits, function: function, isReady: true)
        usedWorkers.insert(one.worker)
        let owner = one.version.function.tenant
        if let other = groupOwners[one.group], other != owner { violations.append("\(one.group) of \(other) taken for \(owner)") }
        groupOwners[one.group] = owner
        if groups[one.group] == nil { violations.append("\(one.group) has no limits of this daemon") }
        check()
    }
}

/// Workers that outlive their daemon.
@Suite struct HandOverTests {
    private let roomy = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 1000)

    /// Tenants `acme` and `globex` with one function each, of which nothing runs.
    private func world(_ limits: GroupLimits? = nil, spec: NodeSpec? = nil, edit: (inout FunctionSpec) -> Void = { _ in }) throws -> World {
        var world = World(seed: 1, spec: spec ?? NodeSpec(memoryBytes: 1 << 40))
        world.node = Node(spec: world.node.spec, firstWorker: 1 << 32)
        for tenant in ["acme", "globex"] {
            world.tell(.tenantConfigured(TenantSpec(tenant: try name(tenant), limits: limits ?? roomy)))
            var function = FunctionSpec(
                version: try version(tenant), runtime: "native", code: "", limits: WorkerLimits(memoryBytes: 64 << 20, processes: 10))
            edit(&function)
            world.tell(.versionRegistered(function))
        }
        return world
    }

    private func worker(_ number: UInt64, _ group: UInt32, of tenant: String = "acme") throws -> InheritedWorker {
        InheritedWorker(
            worker: WorkerID(number), group: GroupID(group), version: try version(tenant), start: .prewarmed, hasServed: true)
    }

    @Test("a worker of a tenant that was suspended meanwhile is not taken over, and another's is")
    func suspended() throws {
        var world = try world()
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: roomy, isSuspended: true)))
        world.inherit(try worker(5, 7))
        world.inherit(try worker(6, 8, of: "globex"))
        #expect(!world.node.has(WorkerID(5)) && world.node.has(WorkerID(6)))
        #expect(world.violations.isEmpty, "\(world.violations)")
    }

    @Test("an inherited worker serves the next call as a warm one, and is counted like any other")
    func serves() throws {
        var world = try world()
        world.inherit(try worker(7, 3))
        let view = try #require(world.node.tenantView(try name("acme")))
        #expect(view.workers == 1 && view.memoryCommitted == 64 << 20 && view.processesCommitted == 10)
        #expect(world.groups[GroupID(3)] == roomy, "its group gets the limits of now")
        world.tell(.spawnerConnected)
        let call = InvocationID(milliseconds: 0, random: (0, 1))
        var actions: [Action] = []
        let node = world.node
        node.handle(.arrived(Arrival(call, try version("acme"))), at: world.now, into: &actions)
        #expect(actions.contains { if case .invoke(WorkerID(7), 0, call, _, .warm) = $0 { true } else { false } }, "\(actions)")
        #expect(node.idleWorkers.isEmpty)
        node.handle(.finished(call, WorkerID(7), .ok), at: world.now, into: &actions)
        #expect(node.idleWorkers == [WorkerID(7)])
        node.handle(.exited(WorkerID(7), .killed), at: world.now, into: &actions)
        #expect(node.tenantView(try name("acme"))?.memoryCommitted == 0 && node.totals.workers == world.workers.count - 1)
    }

    @Test("new groups never take the number of an inherited one")
    func groupNumbers() throws {
        var world = try world()
        world.inherit(try worker(7, 3))
        world.tell(.spawnerConnected)
        world.tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, 1)), try version("globex"))))
        while !world.coming.isEmpty { world.happen() }
        #expect(world.violations.isEmpty, "\(world.violations)")
        let mine = world.groupOwners.filter { $0.value.text == "acme" }.map(\.key)
        #expect(mine == [GroupID(3)] && world.groupOwners.count == 2)
    }

    @Test("a worker without room under a ceiling of now, or of a version that is gone, is ended")
    func refused() throws {
        func isTaken(_ world: World, _ one: InheritedWorker) -> Bool {
            let node = world.node
            var actions: [Action] = []
            node.handle(.inherited(one), at: world.now, into: &actions)
            let isKilled = actions.contains(.kill(one.worker))
            #expect(isKilled != node.has(one.worker))
            return !isKilled
        }
        let one = try worker(7, 3), second = try worker(8, 3)
        #expect(isTaken(try world(), one))
        #expect(!isTaken(try world(), try worker(7, .max)), "no number is left for the next group")
        #expect(!isTaken(try world(GroupLimits(memoryBytes: 63 << 20, cpuMilli: 1000, processes: 1000)), one))
        #expect(!isTaken(try world(GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 9)), one))
        #expect(!isTaken(try world(spec: NodeSpec(memoryBytes: 63 << 20)), one))
        #expect(!isTaken(try world(spec: NodeSpec(memoryBytes: 1 << 40, maximumWorkers: 0)), one))
        var crowded = try world { $0.maximumWorkers = 1 }
        crowded.inherit(one)
        #expect(!isTaken(crowded, second))
        var gone = try world()
        gone.tell(.versionRemoved(one.version))
        #expect(!isTaken(gone, one))
        var removed = try world()
        removed.tell(.tenantRemoved(try name("acme")))
        #expect(!isTaken(removed, one))
        // Another tenant's group, and a second group of the same tenant.
        var taken = try world()
        taken.inherit(one)
        #expect(!isTaken(taken, try worker(8, 3, of: "globex")))
        #expect(!isTaken(taken, try worker(8, 4)))
        #expect(isTaken(taken, second))
        #expect(isTaken(taken, try worker(9, 4, of: "globex")))
    }

    @Test("what is told twice counts once")
    func twice() throws {
        var world = try world()
        world.inherit(try worker(7, 3))
        world.inherit(try worker(7, 3))
        #expect(world.node.totals.workers == 1 && world.node.totals.memoryBytes == 64 << 20 && world.violations.isEmpty)
    }

    @Test("a worker that runs, starts or ends is not left to the next daemon")
    func idleOnly() throws {
        var world = try world()
        world.tell(.spawnerConnected)
        let calls = (1...2).map { InvocationID(milliseconds: 0, random: (0, UInt64($0))) }
        world.tell(.arrived(Arrival(calls[0], try version("acme"))))
        #expect(world.node.idleWorkers.isEmpty)
        while world.workers.values.allSatisfy({ $0.running.isEmpty }) { world.happen() }
        #expect(world.node.idleWorkers.isEmpty)
        let id = try #require(world.workers.first { !$0.value.running.isEmpty }?.key)
        world.finishSomething()
        #expect(world.node.idleWorkers == [id])
        world.tell(.linkBroken(id, reason: "closed"))
        #expect(world.node.idleWorkers.isEmpty)
    }

    @Test("a drained node refuses and starts nothing, and takes work again when that is over")
    func drain() throws {
        var world = try world { $0.minimumWorkers = 1 }
        world.tell(.draining)
        world.tell(.spawnerConnected)
        let calls = (1...2).map { InvocationID(milliseconds: 0, random: (0, UInt64($0))) }
        world.tell(.arrived(Arrival(calls[0], try version("acme"))))
        guard case .refused(let refusal)? = world.verdicts[calls[0]] else { Issue.record("not refused"); return }
        #expect(refusal.ceiling == "draining" && refusal.retryAfter != nil && world.node.isDraining && world.workers.isEmpty)
        world.tell(.resumed)
        #expect(world.workers.values.count { $0.function != nil } == 2, "the least number of workers of both functions")
        world.tell(.arrived(Arrival(calls[1], try version("acme"))))
        world.drainAll()
        #expect(world.verdicts[calls[1]] != nil && world.violations.isEmpty && !world.node.isDraining)
    }

    @Test("ceilings hold over any number of hand-overs, whatever changes between them", arguments: 0..<30)
    func properties(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        var world = try world(spec: NodeSpec(memoryBytes: 2 << 30, maximumWorkers: 12, spareGroups: 1, prewarmedSpares: ["native": 1]))
        world.random = Seeded(state: UInt64(seed))
        world.tell(.spawnerConnected)
        var kept = 0, offered = 0
        for round in 0..<6 as Range<UInt64> {
            for _ in 0..<400 { world.step() }
            try #require(world.violations.isEmpty, "seed \(seed): \(world.violations)")
            let idle = world.node.idleWorkers.compactMap { id in
                world.workers[id].flatMap { worker in
                    worker.function.map {
                        InheritedWorker(worker: id, group: worker.group, version: $0.version, start: .cold, hasServed: true)
                    }
                }
            }
            let memory = [128, 256, 1024].randomElement(using: &random) ?? 128
            let most = Int.random(in: 1...6, using: &random)
            var next = try self.world(
                GroupLimits(memoryBytes: UInt64(memory) << 20, cpuMilli: 1000, processes: 1000), spec: world.node.spec
            ) { $0.maximumWorkers = most }
            // A daemon's first worker number lies behind all of the one before.
            next.node = Node(spec: world.node.spec, firstWorker: (round + 2) << 32)
            for tenant in next.tenants.values { next.tell(.tenantConfigured(tenant)) }
            for function in next.functions.values.sorted(by: { $0.version.description < $1.version.description }) {
                next.tell(.versionRegistered(function))
            }
            next.random = Seeded(state: random.next())
            for one in idle { next.inherit(one) }
            (offered, kept) = (offered + idle.count, kept + next.workers.count)
            next.tell(.spawnerConnected)
            world = next
        }
        world.drainAll()
        #expect(world.violations.isEmpty, "seed \(seed): \(world.violations)")
        #expect(world.verdicts.count == world.arrived.count)
        #expect(kept > 0 && kept <= offered, "seed \(seed): \(kept) of \(offered); the run shows nothing")
    }
}
