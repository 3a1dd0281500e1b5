// SPDX-License-Identifier: Apache-2.0
import Core
import Dispatch
import Foundation
import Logging
import NIOCore
import Store

/// How object events get into the store, and what becomes of those for which there is no place.
extension EventEngine {
    /// Stores are asked here, in the order of the reports.
    static let known = DispatchQueue(label: "bulkhead.known-objects")

    /// Drops those that the store has already, as after a restart or an overflow of the kernel's queue. It would tell itself, but only after each had taken from its trigger's rate and from
    /// the budgets of its path, and had passed for one more sign of a loop.
    func look(_ found: [HeldObject]) {
        guard !found.isEmpty else { return }
        intake.looking += 1
        let (loop, store, wall) = (loop, store, wall())
        let box = bound((engine: self, found: found))
        let keys = found.map(\.key)
        Self.known.async {
            // Where nobody can say they are taken: the store itself tells them apart.
            let known = (try? store.known(keys, at: wall)) ?? []
            loop.execute { box.value.engine.looked(box.value.found, known) }
        }
    }

    private func looked(_ found: [HeldObject], _ known: Set<Int>) {
        intake.looking -= 1
        for (index, one) in found.enumerated() {
            guard known.contains(index) else {
                takeNew(one)
                continue
            }
            count("events.duplicate")
            intake.end(one)
            done(one.batch, one.event.bucket)
        }
    }

    /// Behind those of its tenant that wait: what happens to an object is stored in the order in which it happened. Only what the disk refuses, which says so later, may come
    /// behind the next.
    private func takeNew(_ one: HeldObject) {
        let tenant = one.event.bucket.tenant
        guard intake.held[tenant] != nil else {
            take(one)
            return
        }
        intake.hold(one)
        if !intake.isDiskRefusing { takeHeld(tenant) }
    }

    /// Stores the event, or holds it until the next second. Only a full quarantine has it merged, which nothing but a person's word empties.
    @discardableResult private func take(_ one: HeldObject) -> ObjectAttempt {
        var one = one
        if one.draft == nil {
            var refused: EventAcceptance?
            one.draft = draft(one.order) { refused = $0 }
            if let refused { return turnAway(one, refused) ? .held(refused) : .ended }
        }
        guard let draft = one.draft else { return .ended }
        let later = one
        if let fault = draft.fault {
            keepAside(later, fault)
            return .ended
        }
        keep(draft) { [weak self] acceptance in self?.stored(later, acceptance) }
        return .underWay
    }

    private func stored(_ one: HeldObject, _ acceptance: EventAcceptance) {
        let hasAsked = intake.isAskingDisk
        intake.isAskingDisk = false
        guard case .refused = acceptance else {
            intake.end(one)
            done(one.batch, one.event.bucket)
            let wasRefusing = intake.isDiskRefusing
            intake.isDiskRefusing = false
            if hasAsked || wasRefusing { takeHeldObjects() }
            return
        }
        intake.isDiskRefusing = true
        _ = turnAway(one, acceptance)
    }

    /// Returns whether it is held.
    private func turnAway(_ one: HeldObject, _ acceptance: EventAcceptance) -> Bool {
        guard case .refused(let outcome, let sentence, let refusal) = acceptance else { return false }
        if refusal?.isOfQuarantine == true {
            merge(one, "the quarantine is full")
            return false
        }
        if outcome == .functionError {
            keepAside(one, sentence)
            return false
        }
        if !intake.isSaid {
            intake.isSaid = true
            logger.warning(
                "object events cannot be stored now: they are tried again each second",
                metadata: ["tenant": "\(one.event.bucket.tenant)", "reason": "\(sentence)"])
        }
        count("objects.held")
        // Where the disk has failed or the node ends it stays unacknowledged for good: the watch tells it again after the restart.
        var one = one
        // It gave its place in quarantine back, and has to ask for it anew.
        if one.draft?.parked != nil { one.draft = nil }
        if refusal?.level == .tenant, let batch = one.batch { return fallBehind(one, batch) }
        intake.hold(one)
        return true
    }

    /// The tenant's own share is full. Its events must not keep those of others from being read: they are acknowledged, and for their sake the bucket's mark stays
    /// where it is until they are stored. Of those that find no room here the watch tells again.
    private func fallBehind(_ one: HeldObject, _ batch: UInt64) -> Bool {
        let bucket = one.event.bucket
        if intake.behind[bucket] == nil {
            intake.behind[bucket] = false
            markBucket(bucket, .held)
        }
        if intake.lateOfTenant[bucket.tenant] ?? 0 < ObjectIntake.mostLate {
            var late = one
            late.batch = nil
            intake.addLate(bucket, 1)
            intake.hold(late)
            done(batch, bucket)
            return true
        }
        if one.event.change != .created {
            // No look through a bucket finds what is not there any more.
            merge(one, "the tenant's share of waiting events is full")
            return false
        }
        count("objects.letGo")
        intake.behind[bucket] = true
        intake.end(one)
        done(batch, bucket)
        return false
    }

    /// Buckets that have caught up; one of which events were let go is looked through again, as soon as its tenant has room for more than a few.
    private func catchUp() {
        for (bucket, isMissing) in intake.behind where intake.late[bucket] == nil {
            let most = Self.mostWaitingOfTenant
            if isMissing, refusal(bucket.tenant, events: most.events / 8, bytes: Int(most.bytes / 8)) != nil { continue }
            intake.behind[bucket] = nil
            markBucket(bucket, isMissing ? .again : .moving)
        }
    }

    /// One that will never be taken as it is must not keep the others for ever: a person is told and decides.
    private func keepAside(_ one: HeldObject, _ fault: String) {
        if let draft = one.draft, draft.parked != nil { unparked(draft, .refused(.internal, fault, nil)) }
        logger.error("an object event cannot be stored as it is", metadata: ["object": "\(one.event.key)", "reason": "\(fault)"])
        merge(one, fault)
    }

    func done(_ batch: UInt64?, _ bucket: BucketID) {
        guard let batch else { return intake.addLate(bucket, -1) }
        done(batch)
    }

    func done(_ batch: UInt64) { for acknowledge in intake.done(batch) { acknowledge() } }

    /// Once a second: what was refused is tried again, the oldest first. One is asked for all that wait for the same thing: of a tenant whose share is full its oldest, of all the oldest
    /// where the node is full or the disk. As soon as that one is taken, so are the others.
    func takeHeldObjects() {
        guard store.failure == nil, !isStopping else { return }
        if intake.held.isEmpty { intake.isSaid = false }
        for tenant in intake.heldInOrder {
            if intake.isDiskRefusing {
                if intake.isAskingDisk || askDisk(tenant) { break }
            } else if !takeHeld(tenant) {
                break
            }
        }
        catchUp()
        for (place, merge) in intake.merges where !merge.isUnderWay { storeMerge(place) }
    }

    /// Tries one of a tenant's. Returns whether it is on its way to the disk.
    private func askDisk(_ tenant: Name) -> Bool {
        while let one = intake.popHeld(tenant) {
            switch take(one) {
            case .underWay:
                intake.isAskingDisk = true
                return true
            case .ended: continue
            case .held(let why):
                letOthersPass(tenant, why)
                return false
            }
        }
        return false
    }

    /// What waits for its own tenant's sake must not keep others' reports from being acknowledged.
    private func letOthersPass(_ tenant: Name, _ why: EventAcceptance) {
        guard why.refusal?.level == .tenant else { return }
        for late in intake.popUnacknowledged(tenant) { _ = turnAway(late, why) }
    }

    /// Tries those of a tenant until one is refused. Returns false where others' would be refused, too.
    @discardableResult private func takeHeld(_ tenant: Name) -> Bool {
        while let one = intake.popHeld(tenant) {
            guard case .held(let why) = take(one) else { continue }
            letOthersPass(tenant, why)
            return why.refusal?.level == .tenant
        }
        return true
    }

    // MARK: merging

    /// One parked event stands for all objects that have no place: it says how many and which was the last. Whoever replays it lists the bucket.
    private func merge(_ one: HeldObject, _ reason: String) {
        count("loop.merged")
        intake.end(one)
        let place = MergePlace(bucket: one.event.bucket, trigger: one.trigger)
        var merge = intake.merges[place] ?? ObjectMerge()
        merge.count += 1
        (merge.lastKey, merge.reason) = (one.event.key.text, reason)
        merge.batches.append(one.batch)
        intake.merges[place] = merge
        if !merge.isUnderWay { storeMerge(place) }
    }

    /// One write at a time for each: what comes meanwhile goes with the next.
    private func storeMerge(_ place: MergePlace) {
        guard let merge = intake.merges[place], merge.count > 0 else { return }
        intake.merges[place] = ObjectMerge(isUnderWay: true)
        let trigger = place.trigger
        let body: [String: JSONPart] = [
            "bucket": .text(place.bucket.bucket.text), "prefix": .text(trigger.prefix), "merged": .flag(true),
            "count": .number(merge.count), "lastKey": .text(merge.lastKey),
        ]
        var draft = EventDraft(id: state.newID(wall()), function: trigger.function, payload: Self.json(body), createdAt: wall())
        draft.contentType = "application/json"
        draft.trigger = trigger.trigger.text
        // Of the one that is parked, whichever that is: see `EventStore.merge`.
        draft.key = "merged:\(trigger.trigger)"
        draft.parked = "\(merge.reason): this event stands for all objects under \(trigger.prefix) that came since"
        let box = bound(self)
        let loop = loop
        store.merge(draft, adding: { Self.sum($0, $1) }) { result in loop.execute { box.value.merged(place, merge, result) } }
    }

    private func merged(_ place: MergePlace, _ merge: ObjectMerge, _ result: Result<MergeReceipt, StoreError>) {
        guard case .success(let receipt) = result else {
            // Tried again with the next second.
            var waiting = intake.merges[place] ?? ObjectMerge()
            if waiting.count == 0 { (waiting.lastKey, waiting.reason) = (merge.lastKey, merge.reason) }
            waiting.count += merge.count
            waiting.batches = merge.batches + waiting.batches
            waiting.isUnderWay = false
            intake.merges[place] = waiting
            return
        }
        // It is in quarantine like the others, and leaves it like them.
        let edge = EdgeID(trigger: place.trigger.trigger, function: place.trigger.function)
        let more = receipt.payloadBytes - (receipt.bytesBefore ?? 0)
        governor.merged(edge, events: receipt.bytesBefore == nil ? 1 : 0, bytes: more)
        for batch in merge.batches { done(batch, place.bucket) }
        if intake.merges[place]?.count ?? 0 > 0 {
            storeMerge(place)
        } else {
            intake.merges[place] = nil
        }
        pump()
    }

    /// The older event's count and the newer one's together, and what the newer says of the rest.
    private static func sum(_ old: [UInt8], _ new: [UInt8]) -> [UInt8] {
        guard case .object(let before) = JSONPart(old), case .object(var body) = JSONPart(new), case .number(let more)? = body["count"]
        else { return new }
        // Those of older releases have no count; they stand for one at least.
        var first = 1
        if case .number(let count)? = before["count"] { first = count }
        body["count"] = .number(first.addingReportingOverflow(more).partialValue)
        return json(body)
    }
}

extension Refusal {
    /// Of an event that the loop governor holds back, where there is no room to keep it.
    var isOfQuarantine: Bool { ceiling == Self.quarantinedEvents || ceiling == Self.quarantinedBytes }
    static let quarantinedEvents = "quarantined events"
    static let quarantinedBytes = "quarantined bytes"
}
