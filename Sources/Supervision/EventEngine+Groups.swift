// SPDX-License-Identifier: Apache-2.0
public import Core
import Store

/// What is known of a function whose events come in batches.
struct Batching {
    /// The most events of a call.
    var size: Int
    /// How many of its events may be one call: twice as many as were, the last time.
    var fill: Int
    var until: Instant
}

/// Events that run in one call.
struct EventGroup: Sendable {
    var leases: [EventLease]
    /// Whether the function gets a list, also of one.
    var isBatch: Bool

    /// What the function is called with.
    func body() throws(StoreError) -> [UInt8] {
        var payloads: [[UInt8]] = []
        for lease in leases { payloads.append(try lease.payload.bytes()) }
        return isBatch ? BatchRecords.encoded(leases, payloads) : payloads.first ?? []
    }
}

/// Triggers with `batch`. Each event is stored, tried again and given up by itself, as without: only the call is one. So nothing is lost where the node ends between two of
/// them, and of a batch that failed in part only that part runs again.
extension EventEngine {
    /// Functions that are known to have batches, those of late: another one's first batch is as large as what it may have without.
    private static let mostBatching = 256
    /// How long one is known that has no events.
    private static let batchingLife: Nanoseconds = .seconds(600)

    private func note(_ function: FunctionID, _ spec: BatchSpec) {
        if batching[function] == nil, batching.count >= Self.mostBatching,
            let oldest = batching.min(by: { $0.value.until < $1.value.until })?.key
        {
            batching[oldest] = nil
        }
        batching[function, default: Batching(size: spec.size, fill: spec.size, until: now())].size = spec.size
        batching[function]?.until = now() + Self.batchingLife
    }

    func forgetBatching(at now: Instant) { batching = batching.filter { now < $0.value.until } }

    /// The most bytes that one batch gathers; as JSON they may be six times as many.
    private static let batchBytes = 1 << 20

    private func batch(_ event: EventRecord) -> BatchSpec? {
        guard let version = resolve(event.function, event.target) else { return nil }
        return state.deployment(version)?.batch(of: Name(event.trigger) ?? TriggerSpec.direct)
    }

    /// Leases as they will run, in their order.
    func groups(_ leases: [EventLease]) -> [EventGroup] {
        struct Key: Hashable { let function: FunctionID, target: String, trigger: String, user: String?, order: EventClass }
        var groups: [EventGroup] = []
        var open: [Key: (group: Int, bytes: UInt64)] = [:]
        var filled: [FunctionID: (events: Int, calls: Int)] = [:]
        defer {
            for (function, found) in filled {
                guard let known = batching[function] else { continue }
                // One call says only how many there were, and not that they do not come together.
                let seen = 2 * found.events / found.calls
                batching[function]?.fill = max(1, min(known.size, found.calls == 1 ? max(known.fill, seen) : seen))
            }
        }
        for lease in leases {
            let event = lease.event
            guard let spec = batch(event) else {
                groups.append(EventGroup(leases: [lease], isBatch: false))
                if batching[event.function] != nil {
                    filled[event.function, default: (0, 0)].events += 1
                    filled[event.function]?.calls += 1
                }
                continue
            }
            note(event.function, spec)
            filled[event.function, default: (0, 0)].events += 1
            // What has ended its worker once runs alone, lest it end those beside it again and again; what is large is not read here.
            guard event.history.crashes == 0, lease.payload.isInMemory else {
                groups.append(EventGroup(leases: [lease], isBatch: true))
                filled[event.function]?.calls += 1
                continue
            }
            let key = Key(function: event.function, target: event.target, trigger: event.trigger, user: event.user, order: event.order)
            let size = UInt64(event.payloadBytes)
            if let (group, bytes) = open[key], groups[group].leases.count < spec.size, bytes + size <= Self.batchBytes {
                groups[group].leases.append(lease)
                open[key] = (group, bytes + size)
            } else {
                open[key] = (groups.count, size)
                filled[event.function]?.calls += 1
                groups.append(EventGroup(leases: [lease], isBatch: true))
            }
        }
        return groups
    }

    /// An event of a trigger that waits for others is due with them.
    func gather(_ draft: inout EventDraft) {
        guard let version = resolve(draft.function, draft.target), let deployment = state.deployment(version),
            let spec = deployment.batch(of: Name(draft.trigger) ?? TriggerSpec.direct)
        else { return }
        note(draft.function, spec)
        let due = spec.due(draft.notBefore)
        guard due > draft.notBefore else { return }
        draft.notBefore = due
        // It has not waited in vain: its age begins when it may run.
        draft.agesFrom = max(draft.agesFrom ?? draft.createdAt, due)
    }

    /// A call of a batch takes one seat for many events: so many of them are handed out, as the last ones came together. Beside its seats a tenant has no more of them than
    /// one batch, and once all together have as many as the node has calls, none beside its seats. What its other functions may have stays as it is.
    func permitBatches(_ permission: inout ClaimPermission) {
        var sizes: [Name: Int] = [:]
        for (function, known) in batching {
            let calls = max(0, 2 * seats(function) - (runningByFunction[function] ?? 0))
            permission.functions[function] = calls * known.fill
            sizes[function.tenant] = max(sizes[function.tenant] ?? 0, known.size)
        }
        var spares: [Name: Int] = [:]
        for (tenant, size) in sizes {
            let seats = min(state.node.tenantView(tenant)?.spec.concurrency ?? Self.firstShare, Self.mostRunning / 4)
            let held = leased[tenant] ?? 0
            // What it holds counts, too, where the node has handed out enough: else each look would grant as much again.
            let spare = max(0, min(size + seats - held, max(seats - held, Self.mostRunning - beside)))
            permission.tenants[tenant] = max(permission.tenants[tenant] ?? Self.firstShare, min(max(size, seats) - held, spare))
            spares[tenant] = spare
        }
        for function in batching.keys {
            permission.functions[function] = min(permission.functions[function] ?? 0, spares[function.tenant] ?? 0)
        }
    }
}

extension Deployment {
    public func batch(of trigger: Name) -> BatchSpec? { triggers.first { $0.name == trigger }?.batch }
}
