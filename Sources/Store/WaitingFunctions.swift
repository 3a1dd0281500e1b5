// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule
import HeapModule

/// Who may have an event that is due, so that a claim looks at those and at no others: tenants in turn, and the functions of each in turn, so that neither the
/// backlog of a tenant nor that of one function delays another's events.
///
/// A hint, never the truth: a function may be here without an event, but none that has one may be missing. So additions need not be undone when a transaction
/// fails, and removals must.
struct WaitingFunctions {
    private(set) var tenants = Turns()
    private var functions: [Name: Turns] = [:]

    /// The function has an event that may start at `due`.
    mutating func add(_ function: FunctionID, due: UInt64, now: UInt64) {
        functions[function.tenant, default: Turns()].add(function.function, due: due, now: now)
        tenants.add(function.tenant, due: due, now: now)
    }

    mutating func advance(to now: UInt64) { tenants.advance(to: now) }

    /// Takes the tenant whose turn it is, with its functions. They come back by ``giveBack(_:of:now:)`` or by ``add(_:due:now:)``.
    mutating func next() -> (tenant: Name, functions: Turns)? {
        guard let tenant = tenants.next() else { return nil }
        return (tenant, functions.removeValue(forKey: tenant) ?? Turns())
    }

    /// Puts the tenant behind the others, or where its functions' time comes, or nowhere where it has none.
    mutating func giveBack(_ own: Turns, of tenant: Name, now: UInt64) {
        guard let due = own.count > 0 ? now : own.nextDue else { return }
        functions[tenant] = own
        tenants.add(tenant, due: due, now: now)
    }
}

/// Names in turn, and those whose time has not come.
struct Turns {
    private struct Later: Comparable {
        var due: UInt64
        var name: Name
        static func < (a: Later, b: Later) -> Bool { (a.due, a.name) < (b.due, b.name) }
    }

    /// Those whose time has come, in the order of their turns.
    private var turn: Deque<Name> = []
    private var isInTurn: Set<Name> = []
    private var later: Heap<Later> = []
    /// The earliest entry of each name in `later`.
    private var earliest: [Name: UInt64] = [:]

    /// How many may have something due.
    var count: Int { turn.count }
    /// When the next one comes to the others, in milliseconds since 1970.
    var nextDue: UInt64? { later.min?.due }

    mutating func add(_ name: Name, due: UInt64, now: UInt64) {
        if isInTurn.contains(name) { return }
        if due <= now {
            isInTurn.insert(name)
            turn.append(name)
        } else if due < earliest[name] ?? .max {
            earliest[name] = due
            later.insert(Later(due: due, name: name))
        }
    }

    /// Moves those whose time has come to the end of the turn.
    mutating func advance(to now: UInt64) {
        while let first = later.min, first.due <= now {
            later.removeMin()
            // An entry that an earlier one has replaced says nothing new.
            guard earliest[first.name] == first.due else { continue }
            earliest[first.name] = nil
            if isInTurn.insert(first.name).inserted { turn.append(first.name) }
        }
    }

    /// Takes the one whose turn it is.
    mutating func next() -> Name? {
        guard let name = turn.popFirst() else { return nil }
        isInTurn.remove(name)
        return name
    }
}
