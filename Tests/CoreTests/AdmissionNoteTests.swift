// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// What `explain` is told of an invocation that was admitted.
@Suite struct AdmissionNoteTests {
    private func notes(_ stage: inout Stage, _ arrival: Arrival) -> [Decision] {
        var actions: [Action] = []
        stage.node.handle(.arrived(arrival), at: stage.now, into: &actions)
        return actions.compactMap { if case .note(arrival.id, let decision) = $0 { decision } else { nil } }
    }

    private func id(_ number: UInt64) -> InvocationID { InvocationID(milliseconds: 0, random: (1, number)) }

    @Test("every rate, both budgets, the queue and the seat are told with what they hold and what is left")
    func everything() throws {
        let route = try #require(Name("route"))
        let rates = try [(10, 5), (100, 4), (1, 3)].map { try #require(RateSpec(count: $0.0, period: .seconds(1), burst: $0.1)) }
        var stage = Stage()
        let version = try stage.add("acme") {
            $0.rate = rates[1]
            $0.triggerRates = [route: rates[2]]
            $0.limits.memoryBytes = 1 << 30
            $0.timeout = .seconds(2)
        }
        let name = version.function.tenant
        let day = { (limit: UInt64) in BudgetCeiling(limit: limit, period: .day) }
        stage.tell(
            .tenantConfigured(
                TenantSpec(
                    tenant: name, concurrency: 2, limits: GroupLimits(memoryBytes: 64 << 30, cpuMilli: 1000, processes: 1000),
                    rate: rates[0],
                    budget: BudgetSpec(compute: day(100_000_000), invocations: day(50)))))
        stage.tell(
            .budgetWindow(
                name, .day, ordinal: 1, ends: stage.now + .seconds(3600), spent: UsageSoFar(microGBSeconds: 10_000_000, invocations: 7)))

        // Nothing is warm yet: it waits for a worker.
        let first = notes(&stage, Arrival(id(1), version, trigger: route))
        guard first.count == 4, case .admitted(let admission) = first[1], case .queued(let position, let service, let behind, _) = first[3]
        else {
            Issue.record("\(first)")
            return
        }
        #expect(position == 1 && service == .sync && behind == 0)
        #expect(admission.rates.map(\.level) == [.tenant, .function, .trigger] && admission.rates.map(\.spec) == rates)
        #expect(admission.rates.map(\.left) == [4, 3, 2])
        // 2 s, half a second of grace and one to be killed in, of 1 GiB.
        #expect(admission.held == 3_500_000)
        #expect(admission.compute == BudgetRoom(left: 86_500_000, limit: 100_000_000))
        #expect(admission.invocations == BudgetRoom(left: 42, limit: 50))

        // A tenth of a second later one token of the tenant has come back, and none of the trigger's; and a caller's own call takes none of those.
        stage.startTime = .milliseconds(1)
        stage.tell(.greeted(WorkerID(1)))
        stage.tell(.ready(WorkerID(1)))
        stage.run(.milliseconds(100))
        // The actions of the first call were read here, not obeyed by the stage.
        stage.tell(.finished(id(1), WorkerID(1), .ok))
        let second = notes(&stage, Arrival(id(2), version))
        guard second.count == 4, case .admitted(let admission) = second[1], case .seated(let seat) = second[2],
            case .dispatched(_, slot: 0, .warm) = second[3]
        else {
            Issue.record("\(second)")
            return
        }
        #expect(admission.rates.map(\.level) == [.tenant, .function] && admission.rates.map(\.left) == [4, 3])
        #expect(seat.service == .sync && (seat.tenant, seat.tenantCap) == (1, 2) && (seat.function, seat.functionCap) == (1, 100))
        #expect(seat.charged > 0)
    }

    @Test("a call that a ceiling refuses is told of no admission")
    func refused() throws {
        let rate = try #require(RateSpec(count: 1, period: .seconds(1), burst: 1))
        var stage = Stage()
        let version = try stage.add("acme") { $0.rate = rate }
        #expect(notes(&stage, Arrival(id(1), version)).contains { if case .admitted = $0 { true } else { false } })
        let told = notes(&stage, Arrival(id(2), version))
        #expect(told.count == 2 && told.first == .arrived)
        guard case .replied(.refused(let refusal)) = told.last else {
            Issue.record("\(told)")
            return
        }
        #expect(refusal.level == .function && refusal.ceiling == "rate")
    }

    @Test("what a rate says is left is what it then admits at once", arguments: 0..<50)
    func left(seed: UInt64) throws {
        var random = Seeded(state: seed)
        let spec = try #require(
            RateSpec(
                count: UInt64.random(in: 1...1_000, using: &random),
                period: UInt64.random(in: 1_000_000_000...90_000_000_000, using: &random),
                burst: UInt64.random(in: 1...30, using: &random)))
        var meter = RateMeter()
        var now = Instant(nanoseconds: 1)
        for _ in 0..<300 {
            now = now + UInt64.random(in: 0...(2 * spec.period / spec.count), using: &random)
            var probe = meter
            var admitted: UInt64 = 0
            while probe.wait(spec, at: now) == 0 {
                probe.take(spec, at: now)
                admitted += 1
            }
            #expect(meter.left(spec, at: now) == admitted)
            if meter.wait(spec, at: now) == 0 { meter.take(spec, at: now) }
        }
    }
}
