// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule
import Store

/// An object's event on its way into the store, for one trigger.
struct HeldObject {
    /// In the order of the reports.
    var number: UInt64
    var event: ObjectEvent
    var trigger: ObjectTrigger
    /// What it was reported with; nil where it was acknowledged already, with its bucket's mark held.
    var batch: UInt64?
    var order: EventOrder
    /// Where it had the governor's word already, and only the disk did not take it: it must not pay twice.
    var draft: EventDraft?

    /// What it is known by in the store; nil where nobody can tell it from another.
    var key: EventKey? { order.key.map { EventKey(function: order.function, key: $0) } }
}

/// What came of a try to store one.
enum ObjectAttempt {
    /// On its way to the disk, which may still refuse it.
    case underWay
    /// Merged, or let go.
    case ended
    case held(EventAcceptance)
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
    private var nextNumber: UInt64 = 0
    /// Refused, until the next second: by tenant, the oldest first.
    private(set) var held: [Name: Deque<HeldObject>] = [:]
    /// Of those, the ones whose report is not acknowledged.
    private var unacknowledged: [Name: Int] = [:]
    /// The disk has refused one: one at a time asks whether it takes them again.
    var isDiskRefusing = false
    var isAskingDisk = false
    /// Keys of what was reported and is not on the disk yet.
    private var underWay: Set<EventKey> = []
    /// Reports whose events are looked for in the store.
    var looking = 0
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

    mutating func number() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    /// False where an event of the key is on its way already. Reports are acknowledged in their order, so that the acknowledgement of the first one's stands for both.
    mutating func begin(_ order: EventOrder) -> Bool {
        guard let key = order.key else { return true }
        return underWay.insert(EventKey(function: order.function, key: key)).inserted
    }

    /// It is on the disk, or nobody's any more: who tells of it again is to be heard.
    mutating func end(_ one: HeldObject) { if let key = one.key { underWay.remove(key) } }

    // MARK: what is held

    var heldCount: Int { held.values.reduce(0) { $0 + $1.count } }

    mutating func hold(_ one: HeldObject) {
        let tenant = one.event.bucket.tenant
        if let first = held[tenant]?.first, first.number > one.number {
            held[tenant]?.prepend(one)
        } else {
            // The disk's answer comes late: what it refused stands before what has come since.
            let place = held[tenant]?.lastIndex { $0.number < one.number }.map { $0 + 1 } ?? 0
            held[tenant, default: []].insert(one, at: place)
        }
        if one.batch != nil { unacknowledged[tenant, default: 0] += 1 }
    }

    /// The oldest of a tenant's, to be tried.
    mutating func popHeld(_ tenant: Name) -> HeldObject? {
        guard let one = held[tenant]?.popFirst() else { return nil }
        if held[tenant]?.isEmpty == true { held[tenant] = nil }
        if one.batch != nil {
            let left = (unacknowledged[tenant] ?? 1) - 1
            unacknowledged[tenant] = left > 0 ? left : nil
        }
        return one
    }

    /// Takes out those of a tenant whose report is not acknowledged, the oldest first.
    mutating func popUnacknowledged(_ tenant: Name) -> [HeldObject] {
        guard let count = unacknowledged.removeValue(forKey: tenant) else { return [] }
        var found: [HeldObject] = []
        // They are the latest, but for one that comes back from the disk.
        while held[tenant]?.last?.batch != nil { if let one = held[tenant]?.popLast() { found.append(one) } }
        found.reverse()
        if found.count < count, let all = held[tenant] {
            found = all.filter { $0.batch != nil } + found
            held[tenant] = all.filter { $0.batch == nil }
        }
        if held[tenant]?.isEmpty == true { held[tenant] = nil }
        return found
    }

    /// Tenants with something held, whose oldest is the oldest first.
    var heldInOrder: [Name] { held.compactMap { tenant, all in all.first.map { (tenant, $0.number) } }.sorted { $0.1 < $1.1 }.map(\.0) }
}
