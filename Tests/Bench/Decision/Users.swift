// SPDX-License-Identifier: Apache-2.0
import Core

/// A million end users of one tenant, each with a seat and a rate of his own, and each called once: what the node remembers of them, and what a call costs meanwhile.
struct Users {
    static let count = 1_000_000
    /// What the flood may add to the resident memory.
    static let bound = 64 << 20
    var node = Node(spec: NodeSpec(memoryBytes: 64 << 30, spareGroups: 0), firstWorker: 1)
    var actions: [Action] = []

    private mutating func tell(_ event: Event, _ now: Instant) {
        actions.removeAll(keepingCapacity: true)
        node.handle(event, at: now, into: &actions)
    }

    /// Nil where a call of this user runs; it ends at once.
    private mutating func call(_ user: String, _ number: UInt64, _ version: VersionID, _ now: Instant) -> Refusal? {
        let id = InvocationID(milliseconds: 0, random: (0, number))
        tell(.arrived(Arrival(id, version, tenantUser: user)), now)
        for case .reply(_, .refused(let refusal)) in actions { return refusal }
        tell(.finished(id, WorkerID(1), .ok), now)
        return nil
    }

    /// A sentence with the figures, and whether the bounds held.
    mutating func measure() -> (text: String, isHeld: Bool) {
        guard let tenant = Name("acme"), let day = RateSpec(count: 1, period: .seconds(86_400), burst: 2) else {
            fatalError("these are a name and a rate")
        }
        let version = VersionID(function: FunctionID(tenant: tenant, function: tenant), number: 1)
        let start = Instant(nanoseconds: 1)
        let limits = GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 512)
        tell(.spawnerConnected, start)
        tell(.tenantConfigured(TenantSpec(tenant: tenant, limits: limits, users: UserSpec(concurrency: 1, rate: day))), start)
        tell(.versionRegistered(FunctionSpec(version: version, runtime: "native", code: "", minimumWorkers: 1)), start)
        tell(.greeted(WorkerID(1)), start)
        tell(.ready(WorkerID(1)), start)
        let before = resident()
        var ran = 0, most = 0
        let began = monotonic()
        for number in 0..<Self.count {
            // Within an hour: nobody's rate, which takes a day, is whole again.
            let now = Instant(nanoseconds: 1 + UInt64(number) * 3_600_000)
            if call("user-\(number)", UInt64(number), version, now) == nil { ran += 1 }
        }
        let each = (monotonic() - began) / UInt64(Self.count)
        most = node.tenantView(tenant)?.users ?? 0
        let grown = resident() - before
        let end = Instant(nanoseconds: 3_600_000_000_001)
        // Somebody who was there before the table was full: the second of his burst, and no third.
        let keeps = call("user-7", UInt64(Self.count), version, end) == nil && call("user-7", UInt64(Self.count) + 1, version, end) != nil
        let text =
            "\(Self.count) end users of one tenant: \(grown >> 10) KiB more, \(most) remembered, \(ran) calls ran, \(each) ns a call; an early one \(keeps ? "has" : "HAS NOT") what he had"
        return (text, grown <= Self.bound && most <= 65_537 && ran < most + 4 && keeps)
    }
}
