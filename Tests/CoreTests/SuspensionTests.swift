// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct SuspensionTests {
    private func suspend(_ stage: inout Stage, _ tenant: String, _ isSuspended: Bool) throws {
        let name = try #require(Name(tenant))
        var spec = try #require(stage.node.tenantView(name)?.spec)
        spec.isSuspended = isSuspended
        stage.tell(.tenantConfigured(spec))
    }

    @Test("what runs ends, what waits and what comes is refused, no worker stays or is started, and others notice nothing")
    func suspended() throws {
        var stage = Stage()
        stage.runTime = .seconds(1)
        let version = try stage.add("acme", seats: 2) { $0.minimumWorkers = 3 }
        let other = try stage.add("globex")
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 3)
        let calls = (0..<4).map { _ in stage.call(version) }
        stage.run(.milliseconds(100))
        try suspend(&stage, "acme", true)
        #expect(stage.node.isSuspended(version.function.tenant) && !stage.node.isSuspended(other.function.tenant))
        for waiting in calls[2...] { #expect(stage.refusal(waiting)?.ceiling == "suspended") }
        let late = stage.call(version)
        let refusal = try #require(stage.refusal(late))
        #expect(refusal.outcome == .throttled && refusal.level == .tenant && refusal.ceiling == "suspended" && refusal.retryAfter == nil)
        let neighbour = stage.call(other)
        stage.run(.seconds(2))
        for running in calls[..<2] { #expect(stage.verdicts[running] == .completed(.ok)) }
        #expect(stage.verdicts[neighbour] == .completed(.ok))
        #expect(stage.live(version).count == 2, "the idle one went at once")
        stage.run(.seconds(400))
        #expect(stage.live(version).isEmpty)
        let started = stage.starts.count
        stage.run(.seconds(400))
        #expect(stage.starts.count == started)
        try suspend(&stage, "acme", false)
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 3)
        let again = stage.call(version)
        stage.run(.seconds(2))
        #expect(stage.verdicts[again] == .completed(.ok) && stage.violations.isEmpty)
    }

    @Test("a tenant that is suspended from the start has no workers before that is over")
    func fromTheStart() throws {
        var stage = Stage()
        let name = try #require(Name("acme"))
        let limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 1000, processes: 1000)
        stage.tell(.tenantConfigured(TenantSpec(tenant: name, limits: limits, isSuspended: true)))
        let version = try stage.function("f", of: "acme") { $0.minimumWorkers = 1 }
        stage.run(.seconds(10))
        #expect(stage.starts.isEmpty)
        try suspend(&stage, "acme", false)
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 1)
    }
}
