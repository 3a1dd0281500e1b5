// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Logging
import NIOCore
import Store

/// An object's event on its way into the store, for one trigger.
struct HeldObject {
    var event: ObjectEvent
    var trigger: ObjectTrigger
    /// What it was reported with; nil where it was acknowledged already, with its bucket's mark held.
    var batch: UInt64?
    var order: EventOrder
    /// Where it had the governor's word already, and only the disk did not take it: it must not pay twice.
    var draft: EventDraft?
}

/// Objects that one event stands for, because there is no place for each of them, on their way to the disk.
struct ObjectMerge {
    var count = 0
    var lastKey = ""
    /// Why they are held back.
    var reason = ""
    var batches: [UInt64?] = []
    var isUnderWay = false
}

struct MergePlace: Hashable {
    var bucket: BucketID
    var trigger: ObjectTrigger
}

/// What a watch has reported and the disk does not have yet.
struct ObjectIntake {
    /// Events of one tenant that wait here for room in its own share. Beyond, they are let go, and its buckets are looked through again.
    static let mostLate = 1_024

    private struct Batch {
        var last: UInt64
        /// One for each of its events that is under way, and one while it is read.
        var left = 1
        var acknowledge: (UInt64) -> Void
    }
    private var batches: [UInt64: Batch] = [:]
    private var first: UInt64 = 0
    private var next: UInt64 = 0
    /// Refused, until the next second.
    var held: [HeldObject] = []
    /// Whether the log has heard of those; it hears again when none was held for a second.
    var isSaid = false
    var merges: [MergePlace: ObjectMerge] = [:]
    /// Buckets whose mark is held: whether events of them were let go.
    var behind: [BucketID: Bool] = [:]
    /// Events that were acknowledged and are not stored.
    private(set) var late: [BucketID: Int] = [:]
    private(set) var lateOfTenant: [Name: Int] = [:]

    mutating func addLate(_ bucket: BucketID, _ count: Int) {
        let (one, all) = ((late[bucket] ?? 0) + count, (lateOfTenant[bucket.tenant] ?? 0) + count)
        late[bucket] = one == 0 ? nil : one
        lateOfTenant[bucket.tenant] = all == 0 ? nil : all
    }

    mutating func open(_ last: UInt64, _ acknowledge: @escaping (UInt64) -> Void) -> UInt64 {
        defer { next += 1 }
        batches[next] = Batch(last: last, acknowledge: acknowledge)
        return next
    }

    mutating func expect(_ batch: UInt64) { batches[batch]?.left += 1 }

    /// One thing of the batch is done with. Returns what may be acknowledged now, in the order of the reports: a number stands for all before it.
    mutating func done(_ batch: UInt64) -> [() -> Void] {
        batches[batch]?.left -= 1
        var ready: [() -> Void] = []
        while let oldest = batches[first], oldest.left == 0 {
            batches[first] = nil
            first += 1
            ready.append { oldest.acknowledge(oldest.last) }
        }
        return ready
    }

    mutating func takeHeld() -> [HeldObject] {
        defer { held = [] }
        return held
    }
}

/// How object events get into the store, and what becomes of those for which there is no place.
extension EventEngine {
    /// Stores the event, or holds it until the next second. Only a full quarantine has it merged, which nothing but a person's word empties.
    func take(_ one: HeldObject) {
        var one = one
        if one.draft == nil {
            var refused: EventAcceptance?
            one.draft = draft(one.order) { refused = $0 }
            if let refused { return turnAway(one, refused) }
        }
        guard let draft = one.draft else { return }
        let later = one
        if let fault = draft.fault { return keepAside(later, fault) }
        keep(draft) { [weak self] acceptance in
            if case .refused = acceptance { self?.turnAway(later, acceptance) } else { self?.done(later.batch, later.event.bucket) }
        }
    }

    private func turnAway(_ one: HeldObject, _ acceptance: EventAcceptance) {
        guard case .refused(let outcome, let sentence, let refusal) = acceptance else { return }
        if refusal?.isOfQuarantine == true { return merge(one, "the quarantine is full") }
        if outcome == .functionError { return keepAside(one, sentence) }
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
        intake.held.append(one)
    }

    /// The tenant's own share is full. Its events must not keep those of others from being read: they are acknowledged, and for their sake the bucket's mark stays
    /// where it is until they are stored. Of those that find no room here the watch tells again.
    private func fallBehind(_ one: HeldObject, _ batch: UInt64) {
        let bucket = one.event.bucket
        if intake.behind[bucket] == nil {
            intake.behind[bucket] = false
            markBucket(bucket, .held)
        }
        if intake.lateOfTenant[bucket.tenant] ?? 0 < ObjectIntake.mostLate {
            var late = one
            late.batch = nil
            intake.addLate(bucket, 1)
            intake.held.append(late)
        } else if one.event.change != .created {
            // No look through a bucket finds what is not there any more.
            return merge(one, "the tenant's share of waiting events is full")
        } else {
            count("objects.letGo")
            intake.behind[bucket] = true
        }
        done(batch, bucket)
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

    /// Once a second: what was refused is tried again, the oldest first.
    func takeHeldObjects() {
        guard store.failure == nil, !isStopping else { return }
        if intake.held.isEmpty { intake.isSaid = false }
        for one in intake.takeHeld() { take(one) }
        catchUp()
        for (place, merge) in intake.merges where !merge.isUnderWay { storeMerge(place) }
    }

    // MARK: merging

    /// One parked event stands for all objects that have no place: it says how many and which was the last. Whoever replays it lists the bucket.
    private func merge(_ one: HeldObject, _ reason: String) {
        count("loop.merged")
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
        let box = NIOLoopBound(self, eventLoop: loop)
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
