// SPDX-License-Identifier: Apache-2.0
import Core
import Egress
import Store
import Supervision
import Wire

/// The node's figures at about one moment. Taken in slices of the loop: a scrape must not hold calls up, however many tenants there are.
struct MetricsSnapshot: Sendable {
    struct Tenant: Sendable {
        var name: Name
        var running: Int
        var queued: Int
        var seats: Int
        var memoryCommitted: UInt64
        var budgets: [(kind: BudgetKind, ratio: Double)]
    }
    struct Events: Sendable {
        var kept: [EventState: UInt64] = [:]
        var counters: [String: UInt64] = [:]
        var loops = LoopCounts()
        var brokenEdges = 0
        /// How long the event that has been due longest has waited, in seconds.
        var age = 0.0
    }

    var functions: [(key: FunctionID, value: FunctionFigures)] = []
    var tenants: [Tenant] = []
    var workers: [WorkerView] = []
    var active = 0
    var deaths: [String: UInt64] = [:]
    var pressureEvictions: UInt64 = 0
    var decisions = FixedHistogram(FixedHistogram.decisions)
    var queueTimes = FixedHistogram(FixedHistogram.waits)
    var startTimes: [StartKind: FixedHistogram] = [:]
    var stageTimes: [StartStage.Key: FixedHistogram] = [:]
    /// Nil before it was told.
    var spawner: ProcessUse?
    /// Nil where nothing is stored.
    var events: Events?
    var cron: (fired: UInt64, skipped: UInt64) = (0, 0)
    /// Notices of alarms that were not sent.
    var droppedNotices: UInt64 = 0
    var bucketBytes: [Name: UInt64] = [:]
    var lineageTokens: [String: UInt64] = [:]
    /// Of tenants that have or had a way out.
    var egress: [Name: EgressFigures] = [:]
    /// Spans that a collector got, and that were dropped; nil where there is no collector.
    var traces: (sent: UInt64, dropped: UInt64)?
    /// Of the state directory; nil before it was looked at.
    var disk: DiskSpace?

    /// `tenants`: who is looked at, one by one; a list that was made off the loop.
    static func take(_ supervisor: Supervisor, tenants names: [Name]) async throws -> MetricsSnapshot {
        var (snapshot, functions) = try await supervisor.onLoop { state in
            var one = MetricsSnapshot()
            one.workers = state.node.workerViews
            one.active = state.node.totals.running + state.node.totals.queued
            one.deaths = state.counters
            one.pressureEvictions = state.node.pressureEvictions
            (one.decisions, one.queueTimes, one.startTimes) = (state.decisions, state.queueTimes, state.startTimes)
            (one.stageTimes, one.spawner) = (state.stageTimes, state.spawnerUse)
            if let engine = state.events {
                one.events = Events(kept: engine.counts.kept, counters: engine.counters, loops: engine.loopCounts)
            }
            return (one, Array(state.figures.keys))
        }
        snapshot.functions = try await supervisor.gather(functions) { state, id in state.figures[id].map { (key: id, value: $0) } }
            .sorted { $0.key < $1.key }
        snapshot.tenants = try await supervisor.gather(names) { state, name in Tenant(state.node, name) }.sorted { $0.name < $1.name }
        return snapshot
    }
}

extension MetricsSnapshot.Tenant {
    init?(_ node: Node, _ name: Name) {
        guard let view = node.tenantView(name) else { return nil }
        let budgets = BudgetKind.allCases.compactMap { kind -> (kind: BudgetKind, ratio: Double)? in
            guard let limit = view.spec.budget[kind]?.limit, limit > 0 else { return nil }
            return (kind, Double(view.budget.spent(kind)) / Double(limit))
        }
        self.init(
            name: name, running: view.running, queued: view.queued, seats: view.spec.concurrency, memoryCommitted: view.memoryCommitted,
            budgets: budgets)
    }
}
