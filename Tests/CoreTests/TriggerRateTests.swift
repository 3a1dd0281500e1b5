// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

private func name(_ text: String) throws -> Name { try #require(Name(text)) }

/// Triggers with a rate of their own.
@Suite struct TriggerRateTests {
    private let rate = RateSpec(count: 1, period: .seconds(1), burst: 2)

    private func version(_ number: UInt32 = 1) throws -> VersionID {
        VersionID(function: FunctionID(tenant: try name("acme"), function: try name("hook")), number: number)
    }

    private func world(_ rates: [String: RateSpec?], tenant: RateSpec? = nil) throws -> World {
        var world = World(seed: 1, spec: NodeSpec(memoryBytes: 4 << 30, spareGroups: 0))
        world.tell(.spawnerConnected)
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 5000)
        world.tell(.tenantConfigured(TenantSpec(tenant: try name("acme"), limits: limits, rate: tenant)))
        try register(1, rates, in: &world)
        return world
    }

    private func register(_ number: UInt32, _ rates: [String: RateSpec?], in world: inout World) throws {
        let named = Dictionary(uniqueKeysWithValues: try rates.compactMap { key, rate in try rate.map { (try name(key), $0) } })
        world.tell(.versionRegistered(FunctionSpec(version: try version(number), runtime: "native", code: "", triggerRates: named)))
    }

    private func call(_ world: inout World, _ trigger: String?, _ number: UInt32 = 1) throws -> Refusal? {
        let id = InvocationID(milliseconds: 0, random: (0, UInt64(world.arrived.count) + 1))
        world.tell(.arrived(Arrival(id, try version(number), trigger: try trigger.map(name))))
        if case .refused(let refusal) = world.verdicts[id] { return refusal }
        return nil
    }

    @Test(
        "calls through it are admitted up to its burst, then told when the next one is; other ways in and the tenant's rate are not touched"
    )
    func calls() throws {
        var world = try world(["http-1": rate, "http-2": nil], tenant: RateSpec(count: 1, period: .seconds(3600), burst: 5))
        #expect(try call(&world, "http-1") == nil && call(&world, "http-1") == nil)
        for turn in 1...10 {
            let refusal = try call(&world, "http-1")
            #expect(refusal?.outcome == .throttled && refusal?.level == .trigger && refusal?.ceiling == "rate")
            #expect(refusal?.limit == 2 && refusal?.value == 2 && refusal?.retryAfter == Double(turn))
        }
        // Two of the tenant's five are taken, not twelve.
        #expect(try call(&world, "http-2") == nil && call(&world, nil) == nil)
        world.now = world.now + .milliseconds(999)
        #expect(try call(&world, "http-1")?.level == .trigger)
        world.now = world.now + .milliseconds(1)
        #expect(try call(&world, "http-1") == nil, "whoever waits as long as it was told is not refused again")
        #expect(try call(&world, "http-2")?.level == .tenant)
    }

    @Test("messages that come together are taken all or none, and more than the burst never")
    func pushes() throws {
        let world = try world(["orders": RateSpec(count: 1, period: .seconds(1), burst: 5)])
        let (version, orders) = (try version(), try name("orders"))
        #expect(world.node.triggerRefusal(version, orders, count: 5, at: world.now) == nil)
        let many = world.node.triggerRefusal(version, orders, count: 6, at: world.now + .seconds(3600))
        #expect(many?.level == .trigger && many?.limit == 5 && many?.value == 6 && many?.retryAfter == nil)
        for _ in 0..<3 { #expect(world.node.takeTrigger(version, orders, at: world.now) == 0) }
        #expect(world.node.triggerRefusal(version, orders, count: 2, at: world.now) == nil)
        let late = world.node.triggerRefusal(version, orders, count: 4, at: world.now)
        #expect(late?.retryAfter == 2 && late?.value == 5)
        #expect(world.node.triggerRefusal(version, orders, count: 4, at: world.now + .milliseconds(1999)) != nil)
        #expect(world.node.triggerRefusal(version, orders, count: 4, at: world.now + .seconds(2)) == nil)
        // A trigger without a rate, and one that is not there, refuse nothing.
        #expect(world.node.triggerRefusal(version, try name("none"), count: 1_000_000, at: world.now) == nil)
        #expect(world.node.takeTrigger(version, try name("none"), at: world.now) == 0)
    }

    @Test("what cannot be refused gets its turn: in every second no more than the rate, none forgotten, the burst first")
    func turns() throws {
        var world = try world(["bucket-1": rate])
        let (version, bucket) = (try version(), try name("bucket-1"))
        let waits = (0..<6).map { _ in world.node.takeTrigger(version, bucket, at: world.now) }
        #expect(waits == [0, 0, .seconds(1), .seconds(2), .seconds(3), .seconds(4)])
        world.now = world.now + .milliseconds(2500)
        #expect(world.node.takeTrigger(version, bucket, at: world.now) == .milliseconds(2500))
        // What would wait too long is told so and takes nothing: who comes after it does not pay for it.
        #expect(world.node.takeTrigger(version, bucket, most: .seconds(3), at: world.now) == .seconds(3))
        #expect(world.node.takeTrigger(version, bucket, most: .seconds(9), at: world.now) == .milliseconds(3500))
        // Long after the last turn it is as at the beginning.
        world.now = world.now + .seconds(100)
        #expect((0..<3).map { _ in world.node.takeTrigger(version, bucket, at: world.now) } == [0, 0, .seconds(1)])
    }

    @Test("a new version goes on where the old one was, at its own rate; one without a rate has none")
    func versions() throws {
        var world = try world(["http-1": rate])
        #expect(try call(&world, "http-1") == nil && call(&world, "http-1") == nil)
        try register(2, ["http-1": RateSpec(count: 10, period: .seconds(1), burst: 3)], in: &world)
        // Two stay taken, of three; the next is due after a tenth of a second and not after one.
        #expect(try call(&world, "http-1", 2) == nil)
        #expect(try call(&world, "http-1", 2)?.retryAfter == 0.1)
        try register(3, [:], in: &world)
        for _ in 0..<5 { #expect(try call(&world, "http-1", 3)?.level != .trigger) }
    }

    @Test(
        "one route fills a hundred places of its tenant's queue and no more; other routes and direct calls have the rest, and who left makes room"
    )
    func queueShare() throws {
        var world = try world(["http-1": nil, "http-2": nil])
        var admitted = 0
        while admitted < 1_000, try call(&world, "http-1") == nil { admitted += 1 }
        #expect(admitted >= 100 && admitted < 1_000)
        let refusal = try call(&world, "http-1")
        #expect(refusal?.outcome == .throttled && refusal?.level == .trigger && refusal?.ceiling == "queue")
        #expect(refusal?.limit == 100 && refusal?.value == 100 && refusal?.retryAfter ?? 0 >= 1)
        #expect(try call(&world, "http-2") == nil)
        for _ in 0..<300 { #expect(try call(&world, "direct") == nil) }
        // Two that wait are given up: as many more may come.
        for number in UInt64(admitted - 1)...UInt64(admitted) { world.tell(.abandoned(InvocationID(milliseconds: 0, random: (0, number)))) }
        #expect(try call(&world, "http-1") == nil && call(&world, "http-1") == nil)
        #expect(try call(&world, "http-1")?.ceiling == "queue")
    }
}
