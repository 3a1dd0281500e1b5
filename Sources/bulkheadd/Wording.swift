// SPDX-License-Identifier: Apache-2.0
import Core

/// Decisions and counters as text.
enum Wording {
    /// One line a ceiling of an admission, one of everything else.
    static func decisions(_ decision: Decision) -> [(word: String, detail: String)] {
        if case .admitted(let admission) = decision { admission.rates.map(rate) + budgets(admission) } else { [self.decision(decision)] }
    }

    private static func rate(_ rate: Admission.Rate) -> (word: String, detail: String) {
        let spec = rate.spec
        let period = spec.period == .seconds(1) ? "second" : "\(Double(spec.period) / 1e9) s"
        return ("rate", "\(rate.level.rawValue): took 1, \(rate.left) of \(spec.burst) left, \(spec.count) more every \(period)")
    }

    /// The worst case is held whether there is a ceiling or not: one that is added later counts it.
    private static func budgets(_ admission: Admission) -> [(word: String, detail: String)] {
        func gigabytes(_ amount: UInt64) -> String { "\(Double(amount) / 1e6) GB-s" }
        let room = admission.compute.map { "\(gigabytes($0.left)) of \(gigabytes($0.limit)) left" } ?? "no ceiling"
        let calls: [(word: String, detail: String)] =
            admission.invocations.map { [("budget", "invocations: holds 1, \($0.left) of \($0.limit) left")] } ?? []
        return [("budget", "compute: holds \(gigabytes(admission.held)) for the worst case, \(room)")] + calls
    }

    static func decision(_ decision: Decision) -> (word: String, detail: String) {
        switch decision {
        case .arrived: ("arrived", "")
        // Told as several lines, see `decisions`.
        case .admitted: ("admitted", "")
        case .queued(let position, let service, let behind, let reason):
            (
                "queued",
                "at place \(position), waits for \(reason); class \(word(service)), \(milliseconds(behind)) ms of virtual time behind"
            )
        case .seated(let seat):
            (
                "seat",
                "class \(word(seat.service)): \(seat.tenant) of \(seat.tenantCap) of the tenant, "
                    + "\(seat.function) of \(seat.functionCap) of the function, "
                    + "charged \(seat.charged / 1_000_000) ms of virtual time beforehand"
            )
        case .starting(let worker, let kind): ("starting", "\(worker), \(kind.rawValue)")
        case .dispatched(let worker, let slot, let kind): ("dispatched", "to \(worker) slot \(slot), \(kind.rawValue)")
        case .deadlinePassed: ("deadlinePassed", "")
        case .cancelSent(let worker): ("cancelSent", "to \(worker)")
        case .killSent(let worker, let reason): ("killSent", "to \(worker): \(reason)")
        case .callerLeft: ("callerLeft", "")
        case .replied(let verdict): ("replied", self.verdict(verdict))
        }
    }

    private static func milliseconds(_ seconds: Float) -> UInt64 { UInt64(max(0, seconds) * 1000) }

    private static func word(_ service: ServiceClass) -> String {
        switch service {
        case .sync: "sync"
        case .asynchronous: "async"
        case .background: "background"
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
        case .initFailed(let type, let message): "functionError: \(Phrase.error(type, message))"
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
