// SPDX-License-Identifier: Apache-2.0
public import Core
import Synchronization

/// How much the buckets of each tenant hold, and may hold.
///
/// What comes through ``BucketStore`` is counted before it is written, so it never crosses the quota. What workers write into a mounted bucket is found by the next
/// measurement: until then a tenant can be over by what its workers write in that time, and no refusal undoes it. Charged is what an entry takes on the disk, at least
/// 4 KiB for each name, directories included, so that neither holes nor empty files make it wrong or free.
public final class BucketUsage: Sendable {
    /// The least that one name is charged, in bytes.
    public static let leastCharge: UInt64 = 4096

    struct Measure {
        var bytes: UInt64 = 0
        var objects: UInt64 = 0
        /// Changed by the store since the last measurement began.
        var change: Int64 = 0
        var isMeasured = false
        /// Some of it could not be looked at, so it counts as over.
        var isUnknown = false
        var total: UInt64 { UInt64(max(0, Int64(clamping: bytes) + change)) }
    }
    private struct State {
        var quotas: [Name: UInt64] = [:]
        var measures: [BucketID: Measure] = [:]
        var reserved: [Name: UInt64] = [:]
    }
    private let state = Mutex(State())
    private let defaultQuota: UInt64

    init(defaultQuota: UInt64) { self.defaultQuota = defaultQuota }

    static func charge(_ bytes: UInt64) -> UInt64 { max(leastCharge, (bytes &+ 4095) & ~4095) }

    public func setQuota(_ tenant: Name, _ bytes: UInt64) { state.withLock { $0.quotas[tenant] = bytes } }

    /// Bytes used, what is being written included, and bytes allowed.
    public func usage(_ tenant: Name) -> (used: UInt64, allowed: UInt64) {
        state.withLock { (Self.used($0, tenant), $0.quotas[tenant] ?? defaultQuota) }
    }

    /// Bytes and objects of one bucket, as last measured.
    public func usage(_ bucket: BucketID) -> (bytes: UInt64, objects: UInt64) {
        state.withLock { state in state.measures[bucket].map { ($0.total, $0.objects) } ?? (0, 0) }
    }

    /// Whether the tenant holds more than it may, or so deep that nobody can tell.
    public func isOver(_ tenant: Name) -> Bool {
        state.withLock { state in
            Self.used(state, tenant) > state.quotas[tenant] ?? defaultQuota
                || state.measures.contains { $0.key.tenant == tenant && $0.value.isUnknown }
        }
    }

    /// Bytes used by each tenant that has any.
    public func used() -> [Name: UInt64] {
        state.withLock { state in
            var all = state.reserved.filter { $0.value > 0 }
            for (bucket, measure) in state.measures where measure.total > 0 { all[bucket.tenant, default: 0] &+= measure.total }
            return all
        }
    }

    private static func used(_ state: State, _ tenant: Name) -> UInt64 {
        state.measures.reduce(state.reserved[tenant] ?? 0) { $1.key.tenant == tenant ? $0 &+ $1.value.total : $0 }
    }

    /// Sets bytes aside for a write that is about to be done.
    func reserve(_ bytes: UInt64, for tenant: Name) throws(BucketError) {
        let refusal = state.withLock { state -> BucketError? in
            let (used, allowed) = (Self.used(state, tenant), state.quotas[tenant] ?? defaultQuota)
            let isUnknown = state.measures.contains { $0.key.tenant == tenant && $0.value.isUnknown }
            guard !isUnknown, used <= allowed, bytes <= allowed - used else {
                return .overQuota(tenant: tenant, used: used, allowed: allowed)
            }
            state.reserved[tenant, default: 0] += bytes
            return nil
        }
        if let refusal { throw refusal }
    }

    func release(_ bytes: UInt64, for tenant: Name) {
        state.withLock { state in
            let left = state.reserved[tenant, default: 0] &- min(bytes, state.reserved[tenant, default: 0])
            state.reserved[tenant] = left == 0 ? nil : left
        }
    }

    /// Something of the store's own doing came (above 0) or went.
    func add(_ bytes: Int64, to bucket: BucketID) { state.withLock { $0.measures[bucket, default: Measure()].change += bytes } }

    /// A measurement begins; ``finish(_:bytes:objects:isUnknown:)`` ends it. What the store changes between the two may count twice until the next one: never too little.
    func begin(_ bucket: BucketID) -> Int64 { state.withLock { $0.measures[bucket]?.change ?? 0 } }

    func finish(_ bucket: BucketID, began: Int64, bytes: UInt64, objects: UInt64, isUnknown: Bool) {
        state.withLock { state in
            var measure = state.measures[bucket] ?? Measure()
            measure.bytes = bytes
            measure.objects = objects
            measure.change = max(0, measure.change - began)
            measure.isUnknown = isUnknown
            measure.isMeasured = true
            state.measures[bucket] = measure
        }
    }

    func isMeasured(_ bucket: BucketID) -> Bool { state.withLock { $0.measures[bucket]?.isMeasured ?? false } }
    func forget(_ bucket: BucketID) { state.withLock { $0.measures[bucket] = nil } }
}
