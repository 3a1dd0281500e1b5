// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

/// Invented names of end users: more than the table has room for.
@Suite struct UserFloodTests {
    private let day = RateSpec(count: 1, period: .seconds(86_400), burst: 2)

    @Test(
        "a million names, none of which can be forgotten, cost as many entries as the table has room for; who was there before keeps his own"
    )
    func bounded() throws {
        let rate = try #require(day)
        var table = UserTable()
        let now = Instant(nanoseconds: 1)
        var shared = 0
        for number in 0..<1_000_000 {
            let name = table.admit("user-\(number)", rate: rate, now: now)
            // Somebody who has used up some of his rate.
            if name == UserTable.others { shared += 1 } else { table[name].meter.take(rate, at: now) }
        }
        #expect(table.count == UserTable.capacity + 1, "\(table.count) entries")
        #expect(shared == 1_000_000 - UserTable.capacity)
        #expect(table.admit("user-7", rate: rate, now: now) == "user-7")
        // A day later their rates are whole: they are forgotten for the sake of those who come, a few at a time.
        let later = Instant(nanoseconds: 86_400_000_000_001)
        for number in 0..<UserTable.capacity { _ = table.admit("late-\(number)", rate: rate, now: later) }
        #expect(table.count <= UserTable.capacity + 1)
        #expect(table.admit("late-65535", rate: rate, now: later) == "late-65535")
    }

    @Test("beyond the table's capacity strangers share one entry's ceilings, and those who have their own keep it")
    func overflow() throws {
        let tenant = try #require(Name("acme"))
        let version = VersionID(function: FunctionID(tenant: tenant, function: tenant), number: 1)
        let node = Node(spec: NodeSpec(memoryBytes: 64 << 30, spareGroups: 0), firstWorker: 1)
        var actions: [Action] = []
        func tell(_ event: Event, _ now: Instant = Instant(nanoseconds: 1)) {
            actions.removeAll(keepingCapacity: true)
            node.handle(event, at: now, into: &actions)
        }
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        tell(.spawnerConnected)
        tell(.tenantConfigured(TenantSpec(tenant: tenant, limits: limits, users: UserSpec(concurrency: 1, rate: day))))
        tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "", minimumWorkers: 1)))
        tell(.greeted(WorkerID(1)))
        tell(.ready(WorkerID(1)))
        /// Nil where it ran.
        func call(_ user: String, _ number: Int) -> Refusal? {
            let id = InvocationID(milliseconds: 0, random: (0, UInt64(number)))
            tell(.arrived(Arrival(id, version, tenantUser: user)))
            for case .reply(_, .refused(let refusal)) in actions { return refusal }
            if !actions.contains(where: { if case .invoke = $0 { true } else { false } }) { Issue.record("\(user) waits") }
            tell(.finished(id, WorkerID(1), .ok))
            return nil
        }
        for number in 0..<UserTable.capacity where call("user-\(number)", number) != nil { Issue.record("user \(number) was refused") }
        var answers: [Refusal?] = []
        for number in 0..<10 { answers.append(call("stranger-\(number)", 1_000_000 + number)) }
        #expect(answers.prefix(2).allSatisfy { $0 == nil }, "the burst of all strangers together")
        #expect(answers.dropFirst(2).allSatisfy { $0?.level == .user && $0?.ceiling == "rate" }, "\(answers)")
        #expect(call("user-7", 2_000_000) == nil && call("user-7", 2_000_001)?.level == .user)
        #expect(node.tenantView(tenant)?.users == UserTable.capacity + 1)
    }
}
