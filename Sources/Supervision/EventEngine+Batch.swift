// SPDX-License-Identifier: Apache-2.0
public import Core
import NIOCore
public import Store

/// What became of several events that are taken together or not at all.
public enum BatchAcceptance: Sendable {
    /// All are on the disk; in their order.
    case accepted([EventReceipt])
    /// None was stored: the key of the one at `index`, from 0, is that of `first`, which has another payload or content type.
    case ofOtherPayload(index: Int, first: InvocationID)
    /// None was stored. `index`: the one that was refused, from 0; nil where it is about all of them.
    case refused(index: Int?, Outcome, String, Refusal?)
}

extension EventEngine {
    /// Takes several events of one function in, in one transaction. `done` is called on the loop, after the disk has all of them or with why none was stored.
    ///
    /// Each has the governor's word. What it took for those before one that is refused stays taken: a budget may be asked too much, never too little.
    public func accept(batch orders: [EventOrder], _ done: @escaping (BatchAcceptance) -> Void) {
        guard let first = orders.first else { return done(.accepted([])) }
        let tenant = first.function.tenant
        let bytes = orders.reduce(0) { $0 + $1.payload.count }
        if let refusal = refusal(tenant, events: UInt64(orders.count), bytes: bytes) {
            abandonTest(EdgeID(trigger: first.trigger, function: first.function))
            return done(.refused(index: nil, .throttled, Self.sentence(refusal, tenant), refusal))
        }
        // All of them or none: what a part of them would take is not given back.
        if let version = resolve(first.function, first.target),
            let refusal = pushRefusal(first, version, count: orders.count)
        {
            abandonTest(EdgeID(trigger: first.trigger, function: first.function))
            return done(.refused(index: nil, .throttled, Self.sentence(refusal, first), refusal))
        }
        var drafts: [EventDraft] = []
        for (index, order) in orders.enumerated() {
            var refused: EventAcceptance?
            if let draft = draft(order, { refused = $0 }) {
                drafts.append(draft)
                continue
            }
            guard case .refused(let outcome, let sentence, let refusal) = refused else { return }
            for draft in drafts where draft.parked != nil { unparked(draft, .refused(outcome, sentence, refusal)) }
            return done(.refused(index: index, outcome, sentence, refusal))
        }
        keep(drafts, of: tenant, bytes: UInt64(bytes), done)
    }

    private func keep(_ drafts: [EventDraft], of tenant: Name, bytes: UInt64, _ done: @escaping (BatchAcceptance) -> Void) {
        let events = UInt64(drafts.count)
        sentSinceCount[tenant, default: (0, 0)].events += events
        sentSinceCount[tenant, default: (0, 0)].bytes += bytes
        let box = bound((engine: self, done: done))
        let loop = loop
        store.enqueue(drafts) { result in
            loop.execute {
                let (engine, done) = box.value
                engine.storedSinceCount[tenant, default: (0, 0)].events += events
                engine.storedSinceCount[tenant, default: (0, 0)].bytes += bytes
                done(engine.stored(drafts, result))
                engine.pump()
            }
        }
    }

    private func stored(_ drafts: [EventDraft], _ result: Result<BatchReceipt, StoreError>) -> BatchAcceptance {
        switch result {
        case .success(.stored(let receipts)):
            for (draft, receipt) in zip(drafts, receipts) {
                count(receipt.isDuplicate ? "events.duplicate" : "events.accepted")
                if draft.parked != nil { unparked(draft, .accepted(receipt)) }
            }
            return .accepted(receipts)
        case .success(.ofOtherPayload(let index, let first)):
            let refused = EventAcceptance.refused(.functionError, "the idempotency key is that of event \(first)", nil)
            for draft in drafts where draft.parked != nil { unparked(draft, refused) }
            return .ofOtherPayload(index: index, first: first)
        case .failure(let error):
            let refused = EventAcceptance.refused(.overloaded, error.description, Self.plain(.overloaded))
            for draft in drafts where draft.parked != nil { unparked(draft, refused) }
            return .refused(index: nil, .overloaded, error.description, Self.plain(.overloaded))
        }
    }
}
