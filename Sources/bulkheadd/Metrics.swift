// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import Supervision

/// The node's figures in the Prometheus text format 0.0.4. Labels name only tenants and functions that exist, so their number is bounded.
enum Metrics {
    /// `detailed` with the names of tenants and functions, else sums over all.
    static func text(_ state: SupervisorState, detailed: Bool) -> String {
        var out = Writer()
        if detailed {
            functions(state, &out)
            tenants(state, &out)
        } else {
            sums(state, &out)
        }
        out.family("bulkhead_worker_deaths_total", "counter", "Ends of workers by cause.")
        for cause in ["exited", "signalled", "syscall", "outOfMemory", "setupFailed", "killed"] {
            out.line("bulkhead_worker_deaths_total", ["cause": cause], Double(state.counters["deaths.\(cause)"] ?? 0))
        }
        var usage = rusage()
        unsafe getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        out.family("process_cpu_seconds_total", "counter", "Processor time of the daemon.")
        out.line("process_cpu_seconds_total", [:], seconds(usage.ru_utime) + seconds(usage.ru_stime))
        if let pages = SmallFile.read("/proc/self/statm")?.split(separator: " ").dropFirst().first.flatMap({ Double($0) }) {
            out.family("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.")
            out.line("process_resident_memory_bytes", [:], pages * 4096)
        }
        return out.text
    }

    private static func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }

    private static func sums(_ state: SupervisorState, _ out: inout Writer) {
        out.family("bulkhead_invocations_total", "counter", "Ended invocations by outcome.")
        for outcome in Outcome.allCases {
            let count = state.figures.values.reduce(0) { $0 + $1.outcomes[outcome.ordinal] }
            out.line("bulkhead_invocations_total", ["outcome": outcome.rawValue], Double(count))
        }
        out.family("bulkhead_workers", "gauge", "Live workers.")
        let views = state.node.workerViews
        for word in ["starting", "spare", "ready", "busy", "draining", "dying"] {
            out.line("bulkhead_workers", ["state": word], Double(views.count { $0.state == word }))
        }
        let totals = state.node.totals
        out.family("bulkhead_active_invocations", "gauge", "Invocations that run or wait.")
        out.line("bulkhead_active_invocations", [:], Double(totals.running + totals.queued))
    }

    private static func functions(_ state: SupervisorState, _ out: inout Writer) {
        let all = state.figures.sorted { $0.key < $1.key }
        out.family("bulkhead_invocations_total", "counter", "Ended invocations by outcome.")
        for (function, figures) in all {
            for outcome in Outcome.allCases where figures.outcomes[outcome.ordinal] > 0 {
                out.line(
                    "bulkhead_invocations_total", labels(function, ["outcome": outcome.rawValue]), Double(figures.outcomes[outcome.ordinal])
                )
            }
        }
        out.family("bulkhead_duration_seconds", "histogram", "Run time of invocations.")
        for (function, figures) in all {
            var sum: UInt64 = 0
            for (index, count) in figures.durations.enumerated() {
                sum += count
                let bound = index < FunctionFigures.bounds.count ? "\(FunctionFigures.bounds[index])" : "+Inf"
                out.line("bulkhead_duration_seconds_bucket", labels(function, ["le": bound]), Double(sum))
            }
            out.line("bulkhead_duration_seconds_sum", labels(function), figures.durationSeconds)
            out.line("bulkhead_duration_seconds_count", labels(function), Double(sum))
        }
        out.family("bulkhead_queue_seconds_total", "counter", "Time that invocations waited before they ran.")
        for (function, figures) in all { out.line("bulkhead_queue_seconds_total", labels(function), figures.queueSeconds) }
        out.family("bulkhead_cpu_seconds_total", "counter", "Processor time of a function's workers.")
        for (function, figures) in all {
            out.line("bulkhead_cpu_seconds_total", labels(function), Double(figures.cpuMicroseconds) / 1e6)
        }
        out.family("bulkhead_starts_total", "counter", "First and later invocations by how their worker came to be.")
        for kind in [StartKind.warm, .prewarmed, .cold] {
            let count = all.reduce(0) { $0 + ($1.value.starts[kind] ?? 0) }
            out.line("bulkhead_starts_total", ["kind": kind.rawValue], Double(count))
        }
        var workers: [String: Int] = [:]
        for view in state.node.workerViews {
            let place = view.version?.function
            workers[
                "tenant=\"\(place?.tenant.text ?? "")\",function=\"\(place?.function.text ?? "")\",state=\"\(view.state)\"", default: 0] +=
                1
        }
        out.family("bulkhead_workers", "gauge", "Live workers; spares have no tenant.")
        for (labels, count) in workers.sorted(by: { $0.key < $1.key }) { out.raw("bulkhead_workers{\(labels)} \(count)") }
    }

    private static func tenants(_ state: SupervisorState, _ out: inout Writer) {
        let names = state.node.tenantNames
        var throttled: [Name: [Level: UInt64]] = [:]
        for (function, figures) in state.figures {
            for (level, count) in figures.refusals { throttled[function.tenant, default: [:]][level, default: 0] += count }
        }
        let views = names.compactMap { name in state.node.tenantView(name).map { (name.text, $0) } }
        out.family("bulkhead_seats_in_use", "gauge", "Invocations that run.")
        for (name, view) in views { out.line("bulkhead_seats_in_use", ["tenant": name], Double(view.running)) }
        out.family("bulkhead_seats_cap", "gauge", "Invocations that may run.")
        for (name, view) in views { out.line("bulkhead_seats_cap", ["tenant": name], Double(view.spec.concurrency)) }
        out.family("bulkhead_queued", "gauge", "Invocations that wait.")
        for (name, view) in views { out.line("bulkhead_queued", ["tenant": name], Double(view.queued)) }
        out.family("bulkhead_memory_committed_bytes", "gauge", "Memory limits of a tenant's workers together.")
        for (name, view) in views { out.line("bulkhead_memory_committed_bytes", ["tenant": name], Double(view.memoryCommitted)) }
        out.family("bulkhead_throttled_total", "counter", "Refusals by the level that refused.")
        for name in names {
            for (level, count) in (throttled[name] ?? [:]).sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
                out.line("bulkhead_throttled_total", ["tenant": name.text, "level": level.rawValue], Double(count))
            }
        }
        out.family("bulkhead_budget_used_ratio", "gauge", "Spent share of a budget in its present window.")
        for (name, view) in views {
            for kind in BudgetKind.allCases {
                guard let limit = view.spec.budget[kind]?.limit, limit > 0 else { continue }
                out.line(
                    "bulkhead_budget_used_ratio", ["tenant": name, "budget": kind.rawValue],
                    Double(view.budget.spent(kind)) / Double(limit))
            }
        }
        let totals = state.node.totals
        out.family("bulkhead_active_invocations", "gauge", "Invocations that run or wait.")
        out.line("bulkhead_active_invocations", [:], Double(totals.running + totals.queued))
    }

    private static func labels(_ function: FunctionID, _ more: [String: String] = [:]) -> [String: String] {
        more.merging(["tenant": function.tenant.text, "function": function.function.text]) { first, _ in first }
    }

    private struct Writer {
        var text = ""
        mutating func family(_ name: String, _ type: String, _ help: String) { text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n" }
        mutating func raw(_ line: String) { text += line + "\n" }
        mutating func line(_ name: String, _ labels: [String: String], _ value: Double) {
            // Names and words of our own: nothing in them needs an escape.
            let list = labels.sorted { $0.key < $1.key }.map { "\($0.key)=\"\($0.value)\"" }.joined(separator: ",")
            let number = value == value.rounded() && abs(value) < 1e15 ? "\(Int64(value))" : "\(value)"
            text += list.isEmpty ? "\(name) \(number)\n" : "\(name){\(list)} \(number)\n"
        }
    }
}
