// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NodeConfiguration
import Supervision

/// What runs now, for `bulkhead top`.
extension Daemon {
    func top(_ tenant: Name?) async throws -> TopReply {
        try await supervisor.refreshUsage()
        let began = startedAt
        return try await supervisor.onLoop { state in
            var memory: [FunctionID: UInt64] = [:]
            for report in state.workerReports {
                if let function = report.version?.function { memory[function, default: 0] += report.usage.memoryBytes }
            }
            var rows: [TopRow] = []
            for (function, figures) in state.figures where tenant == nil || function.tenant == tenant {
                var row = TopRow(
                    tenant: function.tenant.text, function: function.function.text, running: 0, concurrency: 0, queued: 0, workers: 0,
                    invocations: figures.invocations, refusals: figures.refused, cpuSeconds: Double(figures.cpuMicroseconds) / 1e6,
                    memoryBytes: memory[function] ?? 0, memoryLimitBytes: 0)
                for version in state.versions(of: function) {
                    guard let view = state.node.versionView(version) else { continue }
                    row.running += view.running
                    row.queued += view.queued
                    row.workers += view.workers
                    row.concurrency = max(row.concurrency, view.spec.concurrency)
                    row.memoryLimitBytes += UInt64(view.workers) * view.spec.limits.memoryBytes
                }
                rows.append(row)
            }
            rows.sort { ($0.tenant, $0.function) < ($1.tenant, $1.function) }
            let totals = state.node.totals
            let used = rows.reduce(0) { $0 + $1.memoryBytes }
            return TopReply(
                node: TopNode(
                    uptimeSeconds: Date().timeIntervalSince(began),
                    running: tenant == nil ? totals.running : rows.reduce(0) { $0 + $1.running },
                    queued: tenant == nil ? totals.queued : rows.reduce(0) { $0 + $1.queued },
                    workers: tenant == nil ? totals.workers : rows.reduce(0) { $0 + $1.workers }, memoryBytes: used,
                    memoryLimitBytes: tenant == nil ? state.node.spec.memoryBytes : rows.reduce(0) { $0 + $1.memoryLimitBytes },
                    cpuSeconds: rows.reduce(0) { $0 + $1.cpuSeconds }, invocations: rows.reduce(0) { $0 + $1.invocations },
                    refusals: rows.reduce(0) { $0 + $1.refusals }),
                tenants: Self.tenants(of: rows, state), rows: rows)
        }
    }

    /// The sums of their functions, and their ceilings as they hold now.
    private static func tenants(of rows: [TopRow], _ state: SupervisorState) -> [TopTenant] {
        Dictionary(grouping: rows, by: \.tenant).sorted { $0.key < $1.key }.compactMap { (text, rows) in
            guard let view = Name(text).flatMap({ state.node.tenantView($0) }) else { return nil }
            return TopTenant(
                tenant: text, suspended: view.spec.isSuspended, running: view.running, concurrency: view.spec.concurrency,
                queued: view.queued, queue: view.spec.queue, rate: view.spec.rate.map { Self.words($0) }, workers: view.workers,
                invocations: rows.reduce(0) { $0 + $1.invocations }, refusals: rows.reduce(0) { $0 + $1.refusals },
                cpuSeconds: rows.reduce(0) { $0 + $1.cpuSeconds }, cpuLimit: Double(view.spec.limits.cpuMilli) / 1000,
                memoryBytes: rows.reduce(0) { $0 + $1.memoryBytes }, memoryLimitBytes: view.spec.limits.memoryBytes)
        }
    }

    private static func words(_ rate: RateSpec) -> String { Rate(count: rate.count, period: rate.period, burst: rate.burst).description }
}
