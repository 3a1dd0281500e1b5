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
        case .refused(let refusal) where refusal.level == .budget: budget(refusal)
        case .refused(let refusal) where refusal.ceiling == Node.suspended: "\(refusal.outcome.rawValue): the tenant is suspended"
        case .refused(let refusal):
            "\(refusal.outcome.rawValue): \(refusal.level.rawValue) \(refusal.ceiling), \(refusal.value) of \(refusal.limit)"
        case .failed(let outcome, let reason, _): "\(outcome.rawValue): \(reason)"
        case .initFailed(let type, let message): "functionError: \(type): \(message)"
        }
    }

    /// `value` is what is spent and what is held for the worst case of the calls that run.
    private static func budget(_ refusal: Refusal) -> String {
        let isCompute = refusal.ceiling == BudgetKind.compute.rawValue
        func shown(_ amount: UInt64) -> String { isCompute ? "\(Double(amount) / 1e6) GB-s" : "\(amount)" }
        let wait =
            refusal.retryAfter.map { ", the next window begins in \(UInt64(max(0, $0))) s" } ?? ", one call alone is more than the budget"
        let used = "\(shown(refusal.value)) of \(shown(refusal.limit)) spent or held for calls that run"
        return "\(refusal.outcome.rawValue): budget \(refusal.ceiling), \(used)\(wait)"
    }
}
