// SPDX-License-Identifier: Apache-2.0
import Core
import Store

/// The rates of triggers of their own, where events come in. See ``Core/Node/triggerRefusal(_:_:count:at:)``.
extension EventEngine {
    /// Why a queue takes no more messages now; nil for every other trigger: nobody could send again what it is told of.
    func pushRefusal(_ order: EventOrder, _ version: VersionID, count: Int = 1) -> Refusal? {
        guard isPush(order, version) else { return nil }
        return state.node.triggerRefusal(version, order.trigger, count: count, at: state.clock.now())
    }

    static func sentence(_ refusal: Refusal, _ order: EventOrder) -> String {
        let more = refusal.retryAfter == nil ? ": that many never fit at once, send fewer" : ""
        return
            "trigger \(order.trigger) of \(order.function) is at its limit of \(refusal.ceiling): \(refusal.value) of \(refusal.limit)\(more)"
    }

    /// Takes an event from its trigger's rate. Where that has none left the event is stored and due when its turn comes; its age begins then.
    func pace(_ draft: inout EventDraft, _ order: EventOrder, _ version: VersionID, _ wall: UInt64) {
        let wait = state.node.takeTrigger(version, order.trigger, most: Self.longestTurn * 1_000_000, at: state.clock.now())
        guard wait > 0, !isPush(order, version) else { return }
        count("events.paced")
        let turn = wall + (wait + 999_999) / 1_000_000
        draft.notBefore = max(draft.notBefore, turn)
        draft.agesFrom = turn
    }

    /// The longest that an event waits for its turn, in milliseconds; beyond, the rate gives way: what waits for years would fill the tenant's share for ever.
    static let longestTurn: UInt64 = 7 * 86_400_000

    private func isPush(_ order: EventOrder, _ version: VersionID) -> Bool {
        state.deployment(version)?.triggers.contains { trigger in
            if trigger.name == order.trigger, case .queue = trigger.kind { true } else { false }
        } ?? false
    }
}
