// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOCore
import NIOPosix
import Supervision
import Synchronization
import Testing
import Wire

@testable import Gateway
@testable import bulkheadd

private func name(_ text: String) -> Name {
    guard let name = Name(text) else { preconditionFailure("\(text) is no name") }
    return name
}

/// What the daemon says of itself: reloads, decisions, alarms, figures.
@Suite struct DaemonTests {
    private let acme = GatewayTests.name("acme")

    @Test("a setting of the node that needs a restart is said again at each reload until then; others once")
    func reloads() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1)]) { _, daemon, state async throws in
            let config = state + "/config"
            try "workers: 99\nretention: {versions: 3}\n".write(toFile: config + "/bulkhead.yaml", atomically: true, encoding: .utf8)
            try "tenant: acme\nweight: 2\n".write(toFile: config + "/tenants.d/acme.yaml", atomically: true, encoding: .utf8)
            let first = try await daemon.reload(dryRun: false).changes
            #expect(Set(first.map(\.key)) == ["workers", "retention.versions", "weight"], "\(first)")
            #expect(first.first { $0.key == "workers" }?.after == "99 (at the next start)")
            #expect(first.first { $0.key == "retention.versions" }?.after == "3")
            #expect(try await daemon.reload(dryRun: false).changes.map(\.key) == ["workers"])
        }
    }

    @Test("a suspended tenant's calls and events are refused, what runs ends, what waits waits, and all goes on afterwards")
    func suspension() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1), ("hang", 1)]) { node, daemon, state async throws in
            func set(_ text: String) async throws -> [String] {
                try "tenant: acme\n\(text)".write(toFile: state + "/config/tenants.d/acme.yaml", atomically: true, encoding: .utf8)
                return try await daemon.reload(dryRun: false).changes.map(\.key)
            }
            let asynchronous = ["Bulkhead-Invocation-Type: async"]
            let running = try node.connect()
            try await running.send(TestNode.invocation("hang"))
            try await eventually("it runs") { node.spawner.invoked == ["hang"] }
            // Nothing is handed out before the tenant is suspended.
            try await node.supervisor.onLoop { $0.events?.setPaused(true) }
            #expect(try await node.invoke("echo", headers: asynchronous, body: "\"early\"").status == 202)
            #expect(try await set("suspended: true\n") == ["suspended"])
            for headers in [[], asynchronous] {
                let answer = try await node.invoke("echo", headers: headers, body: "1")
                #expect(answer.status == 403 && answer.problem?.code == "suspended" && answer.problem?.level == "tenant", "\(answer.text)")
                #expect(answer.header("retry-after") == nil && answer.text.contains("suspended by the operator"))
            }
            #expect(try await daemon.quota(acme).suspended)
            #expect(try await daemon.tenants().first?.suspended == true)
            let top = try await daemon.top(nil)
            #expect(top.tenants[0].tenant == "acme" && top.tenants[0].suspended && !top.tenants[1].suspended && top.tenants[0].running == 1)
            #expect(top.tenants[0].refusals == 1 && top.tenants[0].concurrency == 50 && top.tenants[0].queue == 1000)
            // The event is due, and nothing of it is tried: it would be refused, which is counted.
            try await node.supervisor.onLoop { $0.events?.setPaused(false) }
            await daemon.tickEvents()
            try await eventually("it was looked for") { try await node.supervisor.onLoop { $0.events?.isQuiet } == true }
            #expect(node.spawner.invoked == ["hang"] && node.spawner.cancelled.isEmpty)
            #expect(try await daemon.top(nil).tenants[0].refusals == 1)
            #expect(try await set("") == ["suspended"])
            try await eventually("the event runs") { node.spawner.invoked == ["hang", "echo"] }
            #expect(try await node.invoke("echo", body: "2").status == 200)
            #expect(try await daemon.quota(acme).suspended == false)
        }
    }

    @Test("a cron trigger of a suspended tenant does not fire, and once when that is over")
    func suspendedCron() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1)]) { node, daemon, state async throws in
            func set(_ text: String) async throws {
                try "tenant: acme\n\(text)".write(toFile: state + "/config/tenants.d/acme.yaml", atomically: true, encoding: .utf8)
                _ = try await daemon.reload(dryRun: false)
            }
            try await set("suspended: true\n")
            let kind = TriggerSpec.Kind.cron(schedule: "* * * * *", timeZone: "UTC", payload: "", overlap: .allow)
            let echo = FunctionID(tenant: acme, function: GatewayTests.name("echo"))
            // As of two minutes ago: it is due.
            daemon.cron.set(
                acme, [(function: echo, trigger: TriggerSpec(name: GatewayTests.name("tick"), kind: kind))],
                now: Int64(Date().timeIntervalSince1970) - 120)
            for _ in 0..<3 { await daemon.tickCron() }
            #expect(daemon.cron.counts == (fired: 0, skipped: 0) && node.spawner.invoked.isEmpty)
            try await set("")
            await daemon.tickCron()
            #expect(daemon.cron.counts == (fired: 1, skipped: 0))
            try await eventually("its run") { node.spawner.invoked == ["echo"] }
        }
    }

    @Test("a node that is to begin drained runs nothing: calls, crons and events wait for the end of the drain, which the disk remembers")
    func drainedStart() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1)], isDrained: true) { node, daemon, state async throws in
            #expect(try await node.ask("GET", "/readyz").text == "draining\n")
            for headers in [[], ["Bulkhead-Invocation-Type: async"]] {
                let answer = try await node.invoke("echo", headers: headers, body: "1")
                #expect(answer.status == 503 && answer.problem?.code == "draining", "\(answer.text)")
            }
            let echo = FunctionID(tenant: acme, function: GatewayTests.name("echo"))
            let kind = TriggerSpec.Kind.cron(schedule: "* * * * *", timeZone: "UTC", payload: "", overlap: .allow)
            // As of two minutes ago: it is due.
            daemon.cron.set(
                acme, [(function: echo, trigger: TriggerSpec(name: GatewayTests.name("tick"), kind: kind))],
                now: Int64(Date().timeIntervalSince1970) - 120)
            for _ in 0..<3 { await daemon.tickCron() }
            #expect(daemon.cron.counts == (fired: 0, skipped: 0))
            #expect(FileManager.default.fileExists(atPath: state + "/cron.json"), "from when on it counts is kept for the next daemon")
            // As one that the state came with.
            guard case .accepted = await daemon.accept(EventOrder(function: echo, payload: Array("2".utf8))) else {
                Issue.record("the event was not stored")
                return
            }
            await daemon.tickEvents()
            #expect(try await node.supervisor.onLoop { $0.events?.isQuiet } == true)
            try await eventually("it is counted") { try await daemon.drainStatus().eventsWaiting == 1 }
            #expect(node.spawner.invoked.isEmpty)
            // The operator's own drain is not what ends with the next daemon here.
            #expect(try await daemon.setDraining(true).draining && FileManager.default.fileExists(atPath: state + "/drained"))
            #expect(try await daemon.setDraining(false).draining == false)
            #expect(!FileManager.default.fileExists(atPath: state + "/drained"))
            try await eventually("the event runs") { node.spawner.invoked == ["echo"] }
            await daemon.tickCron()
            #expect(daemon.cron.counts == (fired: 1, skipped: 0))
            #expect(try await node.invoke("echo", body: "3").status == 200)
        }
    }

    @Test("whoever reads a copy says after SIGHUP that it was the copy, and how it is made anew")
    func copies() {
        #expect(Daemon.copyNotice("/var/lib/bulkhead/data/config")?.contains("bulkhead reload") == true)
        #expect(Daemon.copyNotice("/etc/bulkhead") == nil && Daemon.copyNotice(nil) == nil)
    }

    @Test("a decision on a budget says what is spent, in the budget's unit, and when there is more")
    func budgetWords() {
        var refusal = Refusal(outcome: .overBudget, level: .budget, ceiling: "compute", limit: 10_000_000, value: 9_500_000, retryAfter: 60)
        #expect(
            Wording.decision(.replied(.refused(refusal))).detail
                == "overBudget: budget compute, 9.5 GB-s of 10.0 GB-s spent or held for calls that run, the next window begins in 60 s")
        (refusal.ceiling, refusal.limit, refusal.value, refusal.retryAfter) = ("invocations", 5, 5, nil)
        #expect(Wording.decision(.replied(.refused(refusal))).detail.hasPrefix("overBudget: budget invocations, 5 of 5 spent"))
    }

    @Test("a budget's marks are told once each a window, and that they are over when the next one begins or the limit is raised")
    func budgetMarks() async throws {
        let wall = Atomic<UInt64>(1_000_000_000)
        let told = Mutex<[String]>([])
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let spawner = FakeSpawner()
        let clock = SupervisorClock(
            now: { SupervisorClock.system.now() + (wall.load(ordering: .relaxed) - 1_000_000_000) * 1_000_000 },
            wall: { wall.load(ordering: .relaxed) })
        let supervisor = try await Supervisor.make(
            loop: loop, node: Node(spec: NodeSpec(memoryBytes: 1 << 40, spareGroups: 0, sealedSpares: 0), firstWorker: 1),
            logger: TestNode.quiet, spawner: { spawner.received($0) }, log: { _ in }, clock: clock)
        spawner.connect(supervisor)
        let (acme, other) = (acme, name("other"))
        @Sendable func spec(_ name: Name, _ limit: UInt64) -> TenantSpec {
            TenantSpec(
                tenant: name, concurrency: 5, queue: 5, limits: GroupLimits(memoryBytes: 1 << 34, cpuMilli: 1000, processes: 1000),
                budget: BudgetSpec(invocations: BudgetCeiling(limit: limit, period: .hour)))
        }
        func hour() -> UInt64 { wall.load(ordering: .relaxed) / 3_600_000 }
        try await supervisor.onLoop { state in
            state.calendar = { _, _, wall in (Int64(wall / 3_600_000), Int64(wall / 3_600_000 + 1) * 3600) }
            state.budgetMarked = { name, kind, mark in told.withLock { $0.append("\(name) \(kind) \(mark.rawValue)") } }
            // What was spent under an earlier daemon was told by it.
            state.configure(spec(acme, 10), spent: [.hour: UsageSoFar(microGBSeconds: 0, invocations: 8)])
            state.configure(spec(other, 10), spent: [.hour: UsageSoFar(microGBSeconds: 0, invocations: 9)])
        }
        #expect(told.withLock { $0 } == [])
        try await supervisor.onLoop { $0.configure(spec(acme, 100), spent: [.hour: UsageSoFar(microGBSeconds: 0, invocations: 8)]) }
        #expect(told.withLock { $0 } == ["acme invocations 0"])
        _ = try await supervisor.onLoop { $0.passTime() }
        wall.store((hour() + 1) * 3_600_000, ordering: .relaxed)
        _ = try await supervisor.onLoop { $0.passTime() }
        try await eventually("the next window") { told.withLock { $0 } == ["acme invocations 0", "other invocations 0"] }
        _ = try await supervisor.onLoop { $0.passTime() }
        #expect(told.withLock { $0.count } == 2)
        spawner.disconnect()
    }

    @Test("the windows of many tenants open in slices, and a call opens its own tenant's before it is judged")
    func manyWindows() async throws {
        let wall = Atomic<UInt64>(1_000_000_000)
        let clock = SupervisorClock(
            now: { SupervisorClock.system.now() + (wall.load(ordering: .relaxed) - 1_000_000_000) * 1_000_000 },
            wall: { wall.load(ordering: .relaxed) })
        let supervisor = try await Supervisor.make(
            loop: MultiThreadedEventLoopGroup.singleton.next(),
            node: Node(spec: NodeSpec(memoryBytes: 1 << 40, spareGroups: 0, sealedSpares: 0), firstWorker: 1),
            logger: TestNode.quiet, spawner: { _ in }, log: { _ in }, clock: clock)
        let names = (0..<4000).compactMap { Name("t\($0)") }
        try await supervisor.onLoop { state in
            state.calendar = { _, _, wall in (Int64(wall / 3_600_000), Int64(wall / 3_600_000 + 1) * 3600) }
            for name in names {
                state.configure(
                    TenantSpec(
                        tenant: name, concurrency: 5, queue: 5, limits: GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 10),
                        budget: BudgetSpec(invocations: BudgetCeiling(limit: 1, period: .hour))),
                    spent: [.hour: UsageSoFar(microGBSeconds: 0, invocations: 1)])
            }
        }
        let old = Int64(wall.load(ordering: .relaxed) / 3_600_000)
        wall.store(UInt64(old + 1) * 3_600_000, ordering: .relaxed)
        @Sendable func open(_ state: SupervisorState) -> Int { names.count { state.node.budget($0)?.window(.invocations) == old + 1 } }
        let (first, own) = try await supervisor.onLoop { state in
            state.passTime()
            let first = open(state)
            let closed = names.first { state.node.budget($0)?.window(.invocations) == old }
            guard let closed else { return (first, false) }
            let version = VersionID(function: FunctionID(tenant: closed, function: name("f")), number: 1)
            _ = supervisor.submit(
                InvocationOrder(version: version, body: .init()),
                observer: InvocationObserver(began: { _ in }, chunk: { _ in true }, ended: { _ in }))
            return (first, state.node.budget(closed)?.window(.invocations) == old + 1)
        }
        #expect(first < names.count, "all windows opened in one go")
        #expect(own, "a call was judged by the window before")
        try await eventually("all windows are open") { try await supervisor.onLoop { open($0) } == names.count }
        // And the round after that begins again.
        wall.store(UInt64(old + 2) * 3_600_000, ordering: .relaxed)
        _ = try await supervisor.onLoop { $0.passTime() }
        try await eventually("all windows are open again") {
            try await supervisor.onLoop { state in names.count { state.node.budget($0)?.window(.invocations) == old + 2 } } == names.count
        }
    }

    @Test("figures of the rules' time, of starts, queues, events, loops, destinations, cron and buckets are there and add up")
    func metrics() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1), ("fail", 1)]) { node, daemon, _ async throws in
            for _ in 0..<3 { _ = try await node.invoke("echo") }
            let text = try await daemon.metrics(detailed: true)
            func value(_ line: String) -> Double? {
                text.split(separator: "\n").first { $0.hasPrefix(line + " ") }.flatMap { Double($0.split(separator: " ").last ?? "") }
            }
            #expect(value("bulkhead_queue_seconds_count") == 3)
            #expect(value("bulkhead_start_seconds_count{kind=\"cold\"}") == 1)
            #expect(value("bulkhead_start_seconds_count{kind=\"prewarmed\"}") == 0)
            for stage in ["sandbox", "runtime", "code"] {
                #expect(value("bulkhead_start_stage_seconds_count{kind=\"cold\",stage=\"\(stage)\"}") == 1)
                let spare = value("bulkhead_start_stage_seconds_count{kind=\"prewarmed\",stage=\"\(stage)\"}")
                #expect(spare == (stage == "runtime" ? nil : 0))
            }
            // What the spawner said last, and nothing before.
            #expect(!text.contains("bulkhead_spawner_"))
            node.supervisor.received(
                .ping(7, ProcessUse(cpuMicroseconds: 2_500_000, residentBytes: 3 << 20, descriptors: 42)), descriptors: [])
            let told = try await daemon.metrics(detailed: false)
            for line in ["cpu_seconds_total 2.5", "resident_memory_bytes 3145728", "open_fds 42"] {
                #expect(told.contains("\nbulkhead_spawner_\(line)\n"))
            }
            #expect((value("bulkhead_decision_seconds_count") ?? 0) > 6)
            #expect(value("bulkhead_invocations_total{function=\"echo\",outcome=\"ok\",tenant=\"acme\"}") == 3)
            #expect(value("bulkhead_seats_in_use{tenant=\"acme\"}") == 0)
            for name in [
                "bulkhead_events{state=\"ready\"}", "bulkhead_event_age_seconds", "bulkhead_dead_letters_total",
                "bulkhead_loop_recurrent_total",
                "bulkhead_loop_parked_total", "bulkhead_loop_trips_total{reason=\"root\"}", "bulkhead_loop_edges_broken",
                "bulkhead_destinations_total{result=\"givenUp\"}", "bulkhead_cron_total{result=\"fired\"}",
            ] { #expect(value(name) == 0, "\(name)") }
            let plain = try await daemon.metrics(detailed: false)
            #expect(!plain.contains("tenant="), "a scraper without rights learns names")
            #expect(plain.contains("bulkhead_queue_seconds_count 3\n"))
        }
    }

    @Test("calls are served while figures of many tenants are taken")
    func manyTenants() async throws {
        let spawner = FakeSpawner()
        let supervisor = try await TestNode.supervisor(spawner)
        try await supervisor.onLoop { state in
            for number in 0..<5000 {
                guard let name = Name("t\(number)") else { continue }
                state.configure(
                    TenantSpec(
                        tenant: name, concurrency: 5, queue: 5, limits: GroupLimits(memoryBytes: 1 << 30, cpuMilli: 1000, processes: 10)))
            }
        }
        let names = try await supervisor.onLoop { $0.node.unsortedTenantNames }
        // One that went between the list and the look is left out.
        let gone = try #require(Name("gone"))
        #expect(names.count == 5002)
        #expect(try await MetricsSnapshot.take(supervisor, tenants: names + [gone]).tenants.map(\.name) == names.sorted())
        // Each item takes its time, and notes how often others had their turn before it.
        let turns = Atomic(0), isDone = Atomic(false)
        @Sendable func turn() {
            turns.add(1, ordering: .relaxed)
            if !isDone.load(ordering: .relaxed) { supervisor.loop.execute { turn() } }
        }
        supervisor.loop.execute { turn() }
        let seen = try await supervisor.gather(Array(0..<1000)) { _, _ in
            let end = NIODeadline.now() + .microseconds(20)
            while NIODeadline.now() < end {}
            return turns.load(ordering: .relaxed)
        }
        isDone.store(true, ordering: .relaxed)
        #expect(seen.count == 1000 && Set(seen).count > 4, "the loop was held: \(Set(seen).count) slices")
        spawner.disconnect()
    }

    @Test(
        "the notice of a tenant that meets its ceilings names the one that refused most, and where it is raised",
        arguments: [
            (
                Level.tenant, "rate",
                "tenant acme is at its limit of rate: 5 of 5; see `bulkhead quota show acme`, `bulkhead quota set acme` raises it"
            ),
            (.function, "rate", "function acme/f is at its limit of rate: 5 of 5; see `bulkhead quota show acme`, it is set for acme/f"),
            (.tenant, Node.suspended, "see `bulkhead quota show acme`, `bulkhead quota set acme suspended=false` ends that"),
            (.trigger, "queue", "see `bulkhead quota show acme`"),
        ])
    func throttling(level: Level, ceiling: String, words: String) throws {
        let function = FunctionID(tenant: acme, function: name("f"))
        var recent = RecentCalls()
        let refusal = Refusal(outcome: .throttled, level: level, ceiling: ceiling, limit: 5, value: 5, retryAfter: 1)
        for _ in 0..<30 { recent.count(.throttled, by: refusal, of: function) }
        var rules = AlarmRules()
        let turn = try #require(rules.pass([function: recent], failing: [], at: Instant(nanoseconds: .seconds(1000))).first)
        let text = Daemon.alarm(turn).text
        #expect(text.contains("30 of 30 calls within 5 minutes refused, 30 of them because "), "\(text)")
        #expect(ceiling == "rate" && level == .function ? text.contains(words) : text.hasSuffix(words), "\(text)")
    }

    @Test("functions that fail and tenants that meet their ceilings are counted for alarms, once each")
    func recentCalls() async throws {
        try await VersionRouteTests().withDaemon([("echo", 1), ("fail", 1)]) { node, daemon, _ async throws in
            for _ in 0..<5 { _ = try await node.invoke("fail") }
            _ = try await node.invoke("echo")
            let recent = try await daemon.supervisor.onLoop { $0.takeRecentCalls() }
            let fail = recent[FunctionID(tenant: acme, function: name("fail"))]
            #expect(fail?.calls == 5 && fail?.ran == 5 && fail?.failed == 5)
            #expect(recent[FunctionID(tenant: acme, function: name("echo"))]?.failed == 0)
            #expect(try await daemon.supervisor.onLoop { $0.takeRecentCalls() }.isEmpty)
        }
    }
}
