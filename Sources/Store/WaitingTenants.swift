// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule
import HeapModule

/// Which tenants may have an event that is due, so that a claim looks at those and at no others.
///
/// A hint, never the truth: a tenant may be here without an event, but none that has one may be missing. So additions need not be undone when a transaction
/// fails, and removals must.
struct WaitingTenants {
    private struct Later: Comparable {
        var due: UInt64
        var tenant: Name
        static func < (a: Later, b: Later) -> Bool { (a.due, a.tenant) < (b.due, b.tenant) }
    }

    /// Those whose time has come, in the order of their turns.
    private var turn: Deque<Name> = []
    private var isInTurn: Set<Name> = []
    private var later: Heap<Later> = []
    /// The earliest entry of each tenant in `later`.
    private var earliest: [Name: UInt64] = [:]

    /// How many tenants may have something due.
    var count: Int { turn.count }
    /// When the next one comes to the others, in milliseconds since 1970.
    var nextDue: UInt64? { later.min?.due }

    /// The tenant has an event that may start at `due`.
    mutating func add(_ tenant: Name, due: UInt64, now: UInt64) {
        if isInTurn.contains(tenant) { return }
        if due <= now {
            isInTurn.insert(tenant)
            turn.append(tenant)
        } else if due < earliest[tenant] ?? .max {
            earliest[tenant] = due
            later.insert(Later(due: due, tenant: tenant))
        }
    }

    /// Moves those whose time has come to the end of the turn.
    mutating func advance(to now: UInt64) {
        while let first = later.min, first.due <= now {
            later.removeMin()
            // An entry that an earlier one has replaced says nothing new.
            guard earliest[first.tenant] == first.due else { continue }
            earliest[first.tenant] = nil
            if isInTurn.insert(first.tenant).inserted { turn.append(first.tenant) }
        }
    }

    /// Takes the tenant whose turn it is. It comes back by ``add(_:due:now:)``.
    mutating func next() -> Name? {
        guard let tenant = turn.popFirst() else { return nil }
        isInTurn.remove(tenant)
        return tenant
    }
}
