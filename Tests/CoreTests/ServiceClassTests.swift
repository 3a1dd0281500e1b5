// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// A node whose tenants are fed by the test, with one function each.
private struct Bench {
    var world: World
    var number: UInt64 = 0
    var service: [InvocationID: ServiceClass] = [:]

    init(_ spec: NodeSpec) {
        world = World(seed: 1, spec: spec)
        world.tell(.spawnerConnected)
    }

    mutating func add(_ tenant: String, concurrency: Int = 100, slots: UInt16 = 1) throws -> VersionID {
        let name = try #require(Name(tenant))
        let limits = GroupLimits(memoryBytes: 8 << 30, cpuMilli: 1000, processes: 50_000)
        world.tell(.tenantConfigured(TenantSpec(tenant: name, concurrency: concurrency, queue: 1_000, limits: limits)))
        let function = FunctionID(tenant: name, function: try #require(Name("f")))
        let version = VersionID(function: function, number: 1)
        world.tell(
            .versionRegistered(
                FunctionSpec(version: version, runtime: "native", code: "", instanceConcurrency: slots, timeout: .seconds(900))))
        return version
    }

    mutating func arrive(_ version: VersionID, _ service: ServiceClass) {
        number += 1
        let id = InvocationID(milliseconds: 0, random: (0, number))
        self.service[id] = service
        world.tell(.arrived(Arrival(id, version, service: service)))
    }

    /// Everything that the node has asked for comes true.
    mutating func settle() {
        while !world.coming.isEmpty {
            let event = world.coming.removeFirst()
            if case .ready(let id) = event { world.workers[id]?.isReady = true }
            world.tell(event)
        }
    }

    func running(_ service: ServiceClass) -> Int {
        world.workers.values.reduce(0) { $0 + $1.running.values.count { self.service[$0] == service } }
    }
}

@Suite struct ServiceClassTests {
    @Test("a tenant's ceiling of 1 means one over all classes, and every class gets its turn")
    func ceilingOverClasses() throws {
        var bench = Bench(NodeSpec(memoryBytes: 8 << 30, spareGroups: 0))
        let version = try bench.add("acme", concurrency: 1, slots: 5)
        for _ in 0..<4 { for service in ServiceClass.allCases { bench.arrive(version, service) } }
        bench.settle()
        var served: Set<ServiceClass> = []
        for _ in 0..<12 {
            let running = ServiceClass.allCases.map(bench.running)
            #expect(running.reduce(0, +) == 1, "\(running) of sync, async and background run")
            for (service, count) in zip(ServiceClass.allCases, running) where count > 0 { served.insert(service) }
            bench.world.now = bench.world.now + .milliseconds(10)
            bench.world.finishSomething()
        }
        #expect(served.count == 3 && bench.world.violations.isEmpty, "\(bench.world.violations)")
        #expect(bench.world.verdicts.count == 12)
    }

    @Test("a function's ceiling holds over all classes")
    func functionCeilingOverClasses() throws {
        var bench = Bench(NodeSpec(memoryBytes: 8 << 30, spareGroups: 0))
        let version = try bench.add("acme", slots: 5)
        bench.world.tell(
            .versionRegistered(
                FunctionSpec(version: version, runtime: "native", code: "", instanceConcurrency: 5, concurrency: 2, timeout: .seconds(900)))
        )
        for _ in 0..<4 { for service in ServiceClass.allCases { bench.arrive(version, service) } }
        bench.settle()
        for _ in 0..<11 {
            #expect(ServiceClass.allCases.map(bench.running).reduce(0, +) == 2)
            bench.world.now = bench.world.now + .milliseconds(10)
            bench.world.finishSomething()
            if bench.world.verdicts.count > 10 { break }
        }
        #expect(bench.world.violations.isEmpty, "\(bench.world.violations)")
    }

    @Test("classes get 70, 25 and 5 % of the node's seats while all want more, and all of them when alone")
    func shares() throws {
        var bench = Bench(NodeSpec(memoryBytes: 8 << 30, seats: 20, spareGroups: 0))
        // One tenant in all classes, two in one each: what a tenant may have does not change what a class may.
        let versions = [try bench.add("acme", slots: 20), try bench.add("globex", slots: 20), try bench.add("initech", slots: 20)]
        let feeds: [(VersionID, ServiceClass)] =
            ServiceClass.allCases.map { (versions[0], $0) } + [(versions[1], .background), (versions[2], .asynchronous)]
        for (version, service) in feeds { for _ in 0..<60 { bench.arrive(version, service) } }
        bench.settle()
        var seatTime: [ServiceClass: Int] = [:]
        for round in 0..<6_000 {
            bench.world.now = bench.world.now + .milliseconds(5)
            if bench.world.node.nextDeadline.map({ $0 <= bench.world.now }) == true { bench.world.tell(.timePassed) }
            let before = bench.world.verdicts.count
            bench.world.finishSomething()
            if round > 500 { for service in ServiceClass.allCases { seatTime[service, default: 0] += bench.running(service) } }
            // What ran or was refused is replaced, in every class.
            if bench.world.verdicts.count > before {
                for (version, service) in feeds { bench.arrive(version, service) }
            }
            bench.settle()
        }
        let total = Double(seatTime.values.reduce(0, +))
        for service in ServiceClass.allCases {
            let share = Double(seatTime[service] ?? 0) / total * 100
            print("\(service): \((share * 10).rounded() / 10) % of the seats")
            #expect(abs(share - Double(service.share)) < 1.5, "\(service) has \(share) %")
        }
        #expect(bench.world.violations.isEmpty, "\(bench.world.violations.prefix(3))")

        var lone = Bench(NodeSpec(memoryBytes: 8 << 30, seats: 20, spareGroups: 0))
        let version = try lone.add("acme", slots: 20)
        for _ in 0..<60 { lone.arrive(version, .background) }
        lone.settle()
        #expect(lone.running(.background) == 20, "what the other classes do not use is lent")
    }

    @Test("where a worker would have to end for another tenant's, the one that is warm goes first, by 200 ms of virtual time and no more")
    func warmPreference() throws {
        var bench = Bench(NodeSpec(memoryBytes: 128 << 20, spareGroups: 0))
        let versions = [try bench.add("acme"), try bench.add("globex")]
        for version in versions { for _ in 0..<150 { bench.arrive(version, .sync) } }
        bench.settle()
        var (runs, changes) = ([0, 0], 0)
        var worst = 0
        var last: VersionID?
        for _ in 0..<400 {
            bench.world.now = bench.world.now + .milliseconds(10)
            guard let version = bench.world.workers.values.first(where: { !$0.running.isEmpty })?.function?.version else { break }
            if version != last { changes += 1 }
            last = version
            runs[version == versions[0] ? 0 : 1] += 1
            worst = max(worst, abs(runs[0] - runs[1]))
            bench.world.finishSomething()
            bench.arrive(version, .sync)
            bench.settle()
        }
        print("warm preference: \(runs) runs of 10 ms, \(changes) changes, at most \(worst) runs apart")
        #expect(runs.allSatisfy { $0 > 150 }, "\(runs)")
        #expect(changes < 40 && changes > 4, "a worker for every \(400 / max(1, changes)) runs")
        #expect(worst <= 50, "half a second is more than was promised, with what the start is charged")
        #expect(bench.world.violations.isEmpty, "\(bench.world.violations.prefix(3))")
    }
}
