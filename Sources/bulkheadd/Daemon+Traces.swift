// SPDX-License-Identifier: Apache-2.0
import NodeConfiguration
import Supervision
import Synchronization

/// An exporter with the task that it works in.
struct RunningTraces: Sendable {
    var exporter: TraceExporter
    var task: Task<Void, Never>
}

extension Daemon {
    /// Begins to send traces where a collector is configured; else nothing is made and nothing is asked for.
    func startTraces(_ configuration: NodeConfiguration) async throws {
        guard let endpoint = configuration.traceEndpoint else { return }
        let exporter = TraceExporter(endpoint: endpoint, logger: logger)
        let task = Task { await exporter.run() }
        traces.withLock { $0 = RunningTraces(exporter: exporter, task: task) }
        try await supervisor.onLoop { state in state.traced = { exporter.add($0) } }
    }

    /// Sends what is left, for a moment.
    func stopTraces() async {
        guard let running = traces.withLock({ $0 }) else { return }
        running.task.cancel()
        let flush = Task { await running.exporter.flush() }
        let limit = Task {
            try? await Task.sleep(for: .seconds(2))
            flush.cancel()
        }
        await flush.value
        limit.cancel()
    }
}
