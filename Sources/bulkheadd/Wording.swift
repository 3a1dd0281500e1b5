// SPDX-License-Identifier: Apache-2.0
import Core

/// Decisions and counters as text.
enum Wording {
    static func decision(_ decision: Decision) -> (word: String, detail: String) {
        switch decision {
        case .arrived: ("arrived", "")
        case .queued(let position, let reason): ("queued", "at place \(position), waits for \(reason)")
        case .starting(let worker, let kind): ("starting", "\(worker), \(kind.rawValue)")
        case .dispatched(let worker, let slot, let kind): ("dispatched", "to \(worker) slot \(slot), \(kind.rawValue)")
        case .deadlinePassed: ("deadlinePassed", "")
        case .cancelSent(let worker): ("cancelSent", "to \(worker)")
        case .killSent(let worker, let reason): ("killSent", "to \(worker): \(reason)")
        case .callerLeft: ("callerLeft", "")
        case .replied(let verdict): ("replied", self.verdict(verdict))
        }
    }

    private static func verdict(_ verdict: Verdict) -> String {
        switch verdict {
        case .completed(let outcome): outcome.rawValue
        case .refused(let refusal):
            "\(refusal.outcome.rawValue): \(refusal.level.rawValue) \(refusal.ceiling), \(refusal.value) of \(refusal.limit)"
        case .failed(let outcome, let reason, _): "\(outcome.rawValue): \(reason)"
        case .initFailed(let type, let message): "functionError: \(type): \(message)"
        }
    }

    /// Prometheus text format 0.0.4.
    static func metrics(_ counters: [String: UInt64], outcomes: [UInt64], workers: [WorkerView], active: Int) -> String {
        var out = "# TYPE bulkhead_invocations_total counter\n"
        for outcome in Outcome.allCases {
            out += "bulkhead_invocations_total{outcome=\"\(outcome.rawValue)\"} \(outcomes[outcome.ordinal])\n"
        }
        out += "# TYPE bulkhead_worker_deaths_total counter\n"
        for cause in ["exited", "signalled", "syscall", "outOfMemory", "setupFailed", "killed"] {
            out += "bulkhead_worker_deaths_total{cause=\"\(cause)\"} \(counters["deaths.\(cause)"] ?? 0)\n"
        }
        out += "# TYPE bulkhead_workers gauge\n"
        for state in ["starting", "spare", "ready", "busy", "draining", "dying"] {
            out += "bulkhead_workers{state=\"\(state)\"} \(workers.count { $0.state == state })\n"
        }
        return out + "# TYPE bulkhead_active_invocations gauge\nbulkhead_active_invocations \(active)\n"
    }
}
