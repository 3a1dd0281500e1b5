// SPDX-License-Identifier: Apache-2.0
public import Core
import Store

/// Events that run in one call.
struct EventGroup: Sendable {
    var leases: [EventLease]
    /// Whether the function gets a list, also of one.
    var isBatch: Bool
}

/// Triggers with `batch`. Each event is stored, tried again and given up by itself, as without: only the call is one. So nothing is lost where the node ends between two of
/// them, and of a batch that failed in part only that part runs again.
extension EventEngine {
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
        for lease in leases {
            let event = lease.event
            guard let spec = batch(event) else {
                groups.append(EventGroup(leases: [lease], isBatch: false))
                continue
            }
            batching.insert(event.function)
            // What has ended its worker once runs alone, lest it end those beside it again and again; what is large is not read here.
            guard event.history.crashes == 0, lease.payload.isInMemory else {
                groups.append(EventGroup(leases: [lease], isBatch: true))
                continue
            }
            let key = Key(function: event.function, target: event.target, trigger: event.trigger, user: event.user, order: event.order)
            let size = UInt64(event.payloadBytes)
            if let (group, bytes) = open[key], groups[group].leases.count < spec.size, bytes + size <= Self.batchBytes {
                groups[group].leases.append(lease)
                open[key] = (group, bytes + size)
            } else {
                open[key] = (groups.count, size)
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
        batching.insert(draft.function)
        draft.notBefore = spec.due(draft.notBefore)
    }

    /// A call of a batch takes one seat for many events: so many of them are handed out.
    func permitBatches(_ permission: inout ClaimPermission) {
        let (most, tenants) = (Self.mostRunning / 4, permission.tenants)
        for function in batching {
            let triggers = resolve(function, "latest").flatMap { state.deployment($0) }?.triggers ?? []
            guard let size = triggers.compactMap({ $0.batch?.size }).max() else {
                batching.remove(function)
                continue
            }
            let calls = max(0, 2 * seats(function) - (runningByFunction[function] ?? 0))
            permission.functions[function] = min(calls * size, most)
            let own = min((tenants[function.tenant] ?? Self.firstShare) * size, most)
            permission.tenants[function.tenant] = max(permission.tenants[function.tenant] ?? 0, own)
        }
    }
}

extension Deployment {
    public func batch(of trigger: Name) -> BatchSpec? { triggers.first { $0.name == trigger }?.batch }
}
