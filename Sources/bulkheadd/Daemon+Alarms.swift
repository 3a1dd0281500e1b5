// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Gateway
import Logging
import Store
import Supervision
import Synchronization

/// Alarms of ceilings, of functions that fail and of canaries that were ended: each is told once, and once more when it is over.
extension Daemon {
    /// Before the first tenant has a budget.
    func startAlarms() async throws {
        let me = self
        try await supervisor.onLoop { state in
            state.budgetMarked = { name, kind, mark in me.notify(Self.alarm(name, kind, mark)) }
        }
    }

    static func alarm(_ name: Name, _ kind: BudgetKind, _ mark: BudgetMark) -> Alarm {
        // One subject a budget: 100 % follows on 80 %, and both are over together.
        let text =
            mark == .below
            ? "the budget \(kind.rawValue) of tenant \(name) has room again"
            : "\(mark.rawValue) % of the budget \(kind.rawValue) of tenant \(name) are used"
        return Alarm(
            kind: .budget, tenant: name, subject: "budget \(kind.rawValue)", text: text,
            isRecovery: mark == .below)
    }

    /// Once a second. The rules are judged off the loop: many tenants may have calls.
    func tickAlarms() async {
        guard
            let (recent, failing, now) = try? await supervisor.onLoop({ state in
                (state.takeRecentCalls(), state.node.failingVersions, state.now)
            })
        else { return }
        for turn in alarmRules.withLock({ $0.pass(recent, failing: failing, at: now) }) {
            let alarm = Self.alarm(turn)
            logger.log(
                level: turn.isRecovery ? .notice : .warning, "\(turn.isRecovery ? "alarm over" : "alarm")",
                metadata: ["alarm": "\(alarm.kind.rawValue)", "subject": "\(alarm.subject)", "what": "\(alarm.text)"])
            notify(alarm)
        }
    }

    /// Never over: only a person gives the alias a canary again, and that one's end is another.
    static func alarm(_ end: CanaryEnd, _ record: AliasRecord) -> Alarm {
        let alias = "\(end.function):\(end.alias)"
        return Alarm(
            kind: .canary, tenant: end.function.tenant, subject: "canary of \(alias)",
            text:
                "the node has taken \(alias) back from its canary, version \(end.canary), to version \(record.spec.primary): \(end.verdict)",
            isRecovery: false)
    }

    static func alarm(_ turn: AlarmTurn) -> Alarm {
        let share = "\(turn.bad) of \(turn.calls) calls within 5 minutes"
        switch turn.subject {
        case .throttling(let tenant):
            return Alarm(
                kind: .throttling, tenant: tenant, subject: "throttling of \(tenant)",
                text: turn.isRecovery
                    ? "tenant \(tenant) is served again: \(share) refused"
                    : "tenant \(tenant) meets its ceilings: \(share) refused\(most(turn, tenant))",
                isRecovery: turn.isRecovery)
        case .errors(let function):
            return Alarm(
                kind: .errorRate, tenant: function.tenant, subject: "errors of \(function)",
                text: turn.isRecovery ? "\(function) is well again: \(share) failed" : "\(function) fails: \(share)",
                isRecovery: turn.isRecovery)
        case .crashLoop(let version):
            return Alarm(
                kind: .crashLoop, tenant: version.function.tenant, subject: "crash loop of \(version)",
                text:
                    "workers of \(version) \(turn.isRecovery ? "start again, or it is gone" : "do not start: the node waits between tries")",
                isRecovery: turn.isRecovery)
        }
    }

    /// The ceiling that refused most, as its refusals name it, and where it is seen and raised.
    private static func most(_ turn: AlarmTurn, _ tenant: Name) -> String {
        guard let worst = turn.ceiling else { return "" }
        return ", \(worst.count) of them because \(OutcomeMapping.sentence(worst.refusal, worst.function)); "
            + "see `bulkhead quota show \(tenant)`" + remedy(worst, tenant)
    }

    private static func remedy(_ worst: RefusingCeiling, _ tenant: Name) -> String {
        switch (worst.refusal.level, worst.refusal.ceiling) {
        case (_, Node.suspended): ", `bulkhead quota set \(tenant) suspended=false` ends that"
        // The same for everybody, and set nowhere.
        case (.tenant, "queued bytes"), (.user, "queue"), (.trigger, "queue"): ""
        case (.tenant, _): ", `bulkhead quota set \(tenant)` raises it"
        default: ", it is set for \(worst.function), in its function.yaml or the tenant's file"
        }
    }
}
