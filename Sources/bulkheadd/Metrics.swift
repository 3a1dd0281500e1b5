// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Egress
import Foundation
import Kernel
import NodeConfiguration
import Store
import Supervision
import Synchronization
import Wire

/// The node's figures in the Prometheus text format 0.0.4. Labels name only tenants and functions that exist, so their number is bounded. Built off the loop.
enum Metrics {
    /// `detailed` with the names of tenants and functions, else sums over all.
    static func text(_ snapshot: MetricsSnapshot, detailed: Bool) -> String {
        var out = Writer()
        out.text.reserveCapacity((64 << 10) + snapshot.tenants.count * 512)
        if detailed {
            functions(snapshot, &out)
            tenants(snapshot, &out)
        } else {
            sums(snapshot, &out)
        }
        out.family("bulkhead_active_invocations", "gauge", "Invocations that run or wait.")
        out.line("bulkhead_active_invocations", [], Double(snapshot.active))
        times(snapshot, &out)
        if let events = snapshot.events { self.events(events, snapshot.cron, &out) }
        out.family("bulkhead_notices_dropped_total", "counter", "Notices of alarms that were not sent, for too many were on their way.")
        out.line("bulkhead_notices_dropped_total", [], Double(snapshot.droppedNotices))
        out.family(
            "bulkhead_lineage_tokens_total", "counter", "Lineage tokens that requests from outside carried, by what they were worth.")
        for result in LineageTokens.results {
            out.line("bulkhead_lineage_tokens_total", [("result", result)], Double(snapshot.lineageTokens[result] ?? 0))
        }
        out.family("bulkhead_worker_deaths_total", "counter", "Ends of workers by cause.")
        for cause in ["exited", "signalled", "syscall", "outOfMemory", "setupFailed", "killed"] {
            out.line("bulkhead_worker_deaths_total", [("cause", cause)], Double(snapshot.deaths["deaths.\(cause)"] ?? 0))
        }
        out.family(
            "bulkhead_pressure_evictions_total", "counter", "Idle workers and spares that ended because the machine was short of memory.")
        out.line("bulkhead_pressure_evictions_total", [], Double(snapshot.pressureEvictions))
        if let traces = snapshot.traces {
            out.family("bulkhead_trace_spans_total", "counter", "Spans: sent to the collector, or dropped (queue full, or refused).")
            for (result, count) in [("sent", traces.sent), ("dropped", traces.dropped)] {
                out.line("bulkhead_trace_spans_total", [("result", result)], Double(count))
            }
        }
        if let disk = snapshot.disk {
            out.family("bulkhead_disk_free_bytes", "gauge", "What is left of the disk of the state directory.")
            out.line("bulkhead_disk_free_bytes", [], Double(disk.freeBytes))
            out.family("bulkhead_disk_free_ratio", "gauge", "The same as a share of it.")
            out.line("bulkhead_disk_free_ratio", [], disk.freeRatio)
        }
        processes(snapshot.spawner, &out)
        return out.text
    }

    /// The daemon's own use by the names that every Prometheus client uses, and the spawner's beside it.
    private static func processes(_ spawner: ProcessUse?, _ out: inout Writer) {
        out.family("process_cpu_seconds_total", "counter", "Processor time of the daemon.")
        out.line("process_cpu_seconds_total", [], Double(OwnUse.cpuMicroseconds) / 1e6)
        if let bytes = OwnUse.residentBytes {
            out.family("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.")
            out.line("process_resident_memory_bytes", [], Double(bytes))
        }
        if let count = OwnUse.descriptors {
            out.family("process_open_fds", "gauge", "Open descriptors of the daemon.")
            out.line("process_open_fds", [], Double(count))
        }
        guard let spawner else { return }
        out.family("bulkhead_spawner_cpu_seconds_total", "counter", "Processor time of the spawner.")
        out.line("bulkhead_spawner_cpu_seconds_total", [], Double(spawner.cpuMicroseconds) / 1e6)
        out.family("bulkhead_spawner_resident_memory_bytes", "gauge", "Resident memory of the spawner.")
        out.line("bulkhead_spawner_resident_memory_bytes", [], Double(spawner.residentBytes))
        out.family("bulkhead_spawner_open_fds", "gauge", "Open descriptors of the spawner: a few of its own, and up to three a worker.")
        out.line("bulkhead_spawner_open_fds", [], Double(spawner.descriptors))
    }

    private static func sums(_ snapshot: MetricsSnapshot, _ out: inout Writer) {
        out.family("bulkhead_invocations_total", "counter", "Ended invocations by outcome.")
        for outcome in Outcome.allCases {
            let count = snapshot.functions.reduce(0) { $0 + $1.value.outcomes[outcome.ordinal] }
            out.line("bulkhead_invocations_total", [("outcome", outcome.rawValue)], Double(count))
        }
        out.family("bulkhead_workers", "gauge", "Live workers.")
        for word in ["starting", "spare", "ready", "busy", "draining", "dying"] {
            out.line("bulkhead_workers", [("state", word)], Double(snapshot.workers.count { $0.state == word }))
        }
    }

    private static func functions(_ snapshot: MetricsSnapshot, _ out: inout Writer) {
        let all = snapshot.functions
        out.family("bulkhead_invocations_total", "counter", "Ended invocations by outcome.")
        for (function, figures) in all {
            for outcome in Outcome.allCases where figures.outcomes[outcome.ordinal] > 0 {
                out.line(
                    "bulkhead_invocations_total", labels(function, [("outcome", outcome.rawValue)]),
                    Double(figures.outcomes[outcome.ordinal])
                )
            }
        }
        out.family("bulkhead_duration_seconds", "histogram", "Run time of invocations.")
        for (function, figures) in all {
            out.histogram(
                "bulkhead_duration_seconds", labels(function), FunctionFigures.bounds, figures.durations, figures.durationSeconds)
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
            out.line("bulkhead_starts_total", [("kind", kind.rawValue)], Double(count))
        }
        var workers: [String: Int] = [:]
        for view in snapshot.workers {
            let place = view.version?.function
            workers[
                "tenant=\"\(place?.tenant.text ?? "")\",function=\"\(place?.function.text ?? "")\",state=\"\(view.state)\"", default: 0] +=
                1
        }
        out.family("bulkhead_workers", "gauge", "Live workers; spares have no tenant.")
        for (labels, count) in workers.sorted(by: { $0.key < $1.key }) { out.raw("bulkhead_workers{\(labels)} \(count)") }
    }

    private static func tenants(_ snapshot: MetricsSnapshot, _ out: inout Writer) {
        var throttled: [Name: [Level: UInt64]] = [:]
        for (function, figures) in snapshot.functions {
            for (level, count) in figures.refusals { throttled[function.tenant, default: [:]][level, default: 0] += count }
        }
        func gauge(_ name: String, _ help: String, _ value: (MetricsSnapshot.Tenant) -> Double) {
            out.family(name, "gauge", help)
            for one in snapshot.tenants { out.line(name, [("tenant", one.name.text)], value(one)) }
        }
        gauge("bulkhead_seats_in_use", "Invocations that run.") { Double($0.running) }
        gauge("bulkhead_seats_cap", "Invocations that may run.") { Double($0.seats) }
        gauge("bulkhead_queued", "Invocations that wait.") { Double($0.queued) }
        gauge("bulkhead_memory_committed_bytes", "Memory limits of a tenant's workers together.") { Double($0.memoryCommitted) }
        out.family("bulkhead_throttled_total", "counter", "Refusals by the level that refused.")
        for one in snapshot.tenants {
            for (level, count) in (throttled[one.name] ?? [:]).sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
                out.line("bulkhead_throttled_total", [("level", level.rawValue), ("tenant", one.name.text)], Double(count))
            }
        }
        out.family("bulkhead_budget_used_ratio", "gauge", "Spent share of a budget in its present window.")
        for one in snapshot.tenants {
            for (kind, ratio) in one.budgets {
                out.line("bulkhead_budget_used_ratio", [("budget", kind.rawValue), ("tenant", one.name.text)], ratio)
            }
        }
        out.family("bulkhead_bucket_bytes", "gauge", "Bytes in a tenant's buckets, of tenants that have any.")
        for (name, bytes) in snapshot.bucketBytes.sorted(by: { $0.key < $1.key }) {
            out.line("bulkhead_bucket_bytes", [("tenant", name.text)], Double(bytes))
        }
        egress(snapshot.egress.sorted { $0.key < $1.key }, &out)
    }

    private static func egress(_ all: [(key: Name, value: EgressFigures)], _ out: inout Writer) {
        out.family("bulkhead_egress_connections", "gauge", "Connections that leave through workers' ways out at present.")
        for (name, figures) in all { out.line("bulkhead_egress_connections", [("tenant", name.text)], Double(figures.open)) }
        out.family("bulkhead_egress_connections_total", "counter", "Connections of workers to their ways out.")
        for (name, figures) in all { out.line("bulkhead_egress_connections_total", [("tenant", name.text)], Double(figures.connections)) }
        out.family("bulkhead_egress_refused_total", "counter", "Connections and requests that the rules of ways out refused.")
        for (name, figures) in all { out.line("bulkhead_egress_refused_total", [("tenant", name.text)], Double(figures.refused)) }
        out.family("bulkhead_egress_bytes_total", "counter", "Bytes through ways out, to the far ends and from them.")
        for (name, figures) in all {
            out.line("bulkhead_egress_bytes_total", [("tenant", name.text), ("direction", "sent")], Double(figures.sent))
            out.line("bulkhead_egress_bytes_total", [("tenant", name.text), ("direction", "received")], Double(figures.received))
        }
    }

    private static func times(_ snapshot: MetricsSnapshot, _ out: inout Writer) {
        out.family("bulkhead_decision_seconds", "histogram", "Time that the node's rules took for one event.")
        out.histogram("bulkhead_decision_seconds", [], snapshot.decisions)
        out.family("bulkhead_queue_seconds", "histogram", "Time from an invocation's arrival to its run, or to its refusal.")
        out.histogram("bulkhead_queue_seconds", [], snapshot.queueTimes)
        out.family("bulkhead_start_seconds", "histogram", "From a worker's start, or a spare's function, until it could serve.")
        for kind in [StartKind.prewarmed, .cold] {
            out.histogram(
                "bulkhead_start_seconds", [("kind", kind.rawValue)], snapshot.startTimes[kind] ?? FixedHistogram(FixedHistogram.waits))
        }
        out.family(
            "bulkhead_start_stage_seconds", "histogram",
            "The parts of a start: until the sandbox is there, until the runtime has said hello, until the function's code is loaded.")
        for kind in [StartKind.prewarmed, .cold] {
            // A prewarmed runtime has said hello before.
            for stage in StartStage.allCases where kind == .cold || stage != .runtime {
                out.histogram(
                    "bulkhead_start_stage_seconds", [("kind", kind.rawValue), ("stage", stage.rawValue)],
                    snapshot.stageTimes[StartStage.Key(kind: kind, stage: stage)] ?? FixedHistogram(FixedHistogram.waits))
            }
        }
    }

    private static func events(_ events: MetricsSnapshot.Events, _ cron: (fired: UInt64, skipped: UInt64), _ out: inout Writer) {
        out.family("bulkhead_events", "gauge", "Kept events by state.")
        for state in EventState.allCases { out.line("bulkhead_events", [("state", state.word)], Double(events.kept[state] ?? 0)) }
        out.family("bulkhead_event_age_seconds", "gauge", "How long the event has waited that has been due longest.")
        out.line("bulkhead_event_age_seconds", [], events.age)
        func counter(_ name: String, _ help: String, _ value: UInt64) {
            out.family(name, "counter", help)
            out.line(name, [], Double(value))
        }
        counter("bulkhead_dead_letters_total", "Events that became dead letters.", events.counters["events.dead"] ?? 0)
        counter("bulkhead_loop_recurrent_total", "Recurrent invocations that were let through.", events.loops.recurrent)
        counter("bulkhead_loop_parked_total", "Events that were held back as part of a loop.", events.loops.stored)
        out.family("bulkhead_loop_trips_total", "counter", "Alarms of the loop governor by reason.")
        for reason in LoopReason.allCases {
            out.line("bulkhead_loop_trips_total", [("reason", reason.rawValue)], Double(events.loops.trips[reason] ?? 0))
        }
        out.family("bulkhead_loop_edges_broken", "gauge", "Edges that are broken now.")
        out.line("bulkhead_loop_edges_broken", [], Double(events.brokenEdges))
        out.family("bulkhead_destinations_total", "counter", "Tries to deliver outcomes: delivered, failed and tried again, given up.")
        for result in ["delivered", "failed", "givenUp"] {
            out.line("bulkhead_destinations_total", [("result", result)], Double(events.counters["destinations.\(result)"] ?? 0))
        }
        out.family("bulkhead_cron_total", "counter", "Runs of cron triggers: fired, or skipped for the one before.")
        for (result, count) in [("fired", cron.fired), ("skipped", cron.skipped)] {
            out.line("bulkhead_cron_total", [("result", result)], Double(count))
        }
    }

    private typealias Labels = [(name: String, value: String)]

    /// In the order of their names: `le`, `outcome` and the rest stand between `function` and `tenant`.
    private static func labels(_ function: FunctionID, _ more: Labels = []) -> Labels {
        [("function", function.function.text)] + more + [("tenant", function.tenant.text)]
    }

    private struct Writer {
        var text = ""
        mutating func family(_ name: String, _ type: String, _ help: String) { text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n" }
        mutating func raw(_ line: String) { text += line + "\n" }
        /// Labels in the order of their names. With 100,000 tenants there are 700,000 lines: nothing is made for one that is not written.
        mutating func line(_ name: String, _ labels: Labels, _ value: Double) {
            text += name
            // Names and words of our own: nothing in them needs an escape.
            for (index, label) in labels.enumerated() {
                text += index == 0 ? "{" : ","
                text += label.name
                text += "=\""
                text += label.value
                text += "\""
            }
            text += labels.isEmpty ? " " : "} "
            text += value == value.rounded() && abs(value) < 1e15 ? String(Int64(value)) : "\(value)"
            text += "\n"
        }
        /// `counts`: one a bound, and one beyond the last.
        mutating func histogram(_ name: String, _ labels: Labels, _ bounds: [Double], _ counts: [UInt64], _ seconds: Double) {
            var sum: UInt64 = 0
            let place = labels.firstIndex { $0.name > "le" } ?? labels.count
            var bounded = labels
            bounded.insert(("le", ""), at: place)
            for (index, count) in counts.enumerated() {
                sum += count
                bounded[place].value = index < bounds.count ? "\(bounds[index])" : "+Inf"
                line(name + "_bucket", bounded, Double(sum))
            }
            line(name + "_sum", labels, seconds)
            line(name + "_count", labels, Double(sum))
        }
        mutating func histogram(_ name: String, _ labels: Labels, _ times: FixedHistogram) {
            histogram(name, labels, times.bounds.map { Double($0) / 1e9 }, times.counts, times.seconds)
        }
    }
}

extension Daemon {
    func metrics(detailed: Bool) async throws -> String {
        let tenants = detailed ? configuration.withLock { $0.tenants } : []
        var snapshot = try await MetricsSnapshot.take(supervisor, tenants: tenants.map(\.tenant))
        if snapshot.events != nil {
            let (events, now) = (events, try await supervisor.onLoop { $0.time() })
            snapshot.events?.age = Double((try? await onDisk { try events.oldestDue(at: now) }) ?? 0) / 1000
            // As it was a second ago: the governor's memory is taken for the disk then.
            snapshot.events?.brokenEdges = savedLoops.withLock { $0?.edges.values.count { $0.circuit != .closed } ?? 0 }
        }
        snapshot.cron = cron.counts
        snapshot.droppedNotices = notices.withLock { $0.dropped }
        snapshot.lineageTokens = lineageTokens.counts
        snapshot.disk = diskWatch.withLock { $0.last }
        snapshot.traces = traces.withLock { $0?.exporter.counts }
        if detailed {
            snapshot.bucketBytes = buckets.usage.used()
            snapshot.egress = egress.figures
        }
        return Metrics.text(snapshot, detailed: detailed)
    }
}
