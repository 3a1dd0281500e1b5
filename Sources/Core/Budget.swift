// SPDX-License-Identifier: Apache-2.0

/// How long a budget lasts. Where a window begins and ends is the shell's matter: Core knows no calendar.
public enum BudgetPeriod: String, Hashable, Sendable, CaseIterable {
    case hour, day, month
}

/// What a ceiling counts.
public enum BudgetKind: String, Hashable, Sendable, CaseIterable {
    case compute, invocations
}

/// One ceiling: so much a period.
public struct BudgetCeiling: Hashable, Sendable {
    /// Millionths of a GB-second for ``BudgetKind/compute``, else a count.
    public var limit: UInt64
    public var period: BudgetPeriod
    public init(limit: UInt64, period: BudgetPeriod) {
        self.limit = limit
        self.period = period
    }
}

/// A tenant's budget. Nil: no ceiling.
public struct BudgetSpec: Hashable, Sendable {
    public var compute: BudgetCeiling?
    public var invocations: BudgetCeiling?
    public init(compute: BudgetCeiling? = nil, invocations: BudgetCeiling? = nil) {
        self.compute = compute
        self.invocations = invocations
    }
    public subscript(kind: BudgetKind) -> BudgetCeiling? {
        switch kind {
        case .compute: compute
        case .invocations: invocations
        }
    }
}

/// Memory held over time, in millionths of a GB-second. 1 GB is 2^30 bytes here, as in the bills of the large function services
/// (AWS Lambda: 1,024 MB for one second is one GB-second).
public enum Compute {
    /// Rounded up, so that no use is free; saturates.
    public static func microGBSeconds(memoryBytes: UInt64, duration: Nanoseconds) -> UInt64 {
        // bytes / 2^30 x ns / 10^9 x 10^6
        let divisor: UInt64 = 1000 << 30
        let product = memoryBytes.multipliedFullWidth(by: duration)
        guard product.high < divisor else { return .max }
        let (quotient, remainder) = divisor.dividingFullWidth(product)
        return remainder == 0 || quotient == .max ? quotient : quotient + 1
    }
}

/// Why nothing was reserved: the first ceiling that has no room.
public struct BudgetRefusal: Hashable, Sendable {
    public var kind: BudgetKind
    public var ceiling: BudgetCeiling
    public var spent: UInt64
    public var reserved: UInt64
    public var asked: UInt64
    /// True once a window, for an alarm: worst cases are reserved, so a window may be closed to a call long before all of it is spent.
    public var isFirst: Bool
}

/// How much of a ceiling is spent.
public enum BudgetMark: Int, Hashable, Sendable, Comparable {
    case below = 0
    case eighty = 80
    case hundred = 100
    public static func < (a: BudgetMark, b: BudgetMark) -> Bool { a.rawValue < b.rawValue }
}

/// Marks that a call crossed, each told once a window; ``BudgetMark/below`` where none was.
public struct BudgetCrossings: Hashable, Sendable {
    public var compute = BudgetMark.below
    public var invocations = BudgetMark.below
    public init() {}
}

/// What is left of a ceiling, in its unit.
public struct BudgetRoom: Hashable, Sendable {
    public var left: UInt64
    public var limit: UInt64
    public init(left: UInt64, limit: UInt64) {
        self.left = left
        self.limit = limit
    }
}

/// One tenant's budget: what is spent in the present windows and what is reserved. For every ceiling, after every call, in every window:
/// `spent <= limit`, because nothing starts unless `spent + reserved + worst case <= limit`. (A limit that is lowered refuses further
/// calls; what already ran stays counted.)
///
/// The shell calls ``openWindow(_:ordinal:)`` with the wall clock before every other call, and gives the ledger the same time.
public struct BudgetAccount: Hashable, Sendable {
    /// What is counted of one kind. The reserved amount is kept also without a ceiling, so that one which is added later knows of the running calls.
    struct Tally: Hashable, Sendable {
        var ceiling: BudgetCeiling?
        /// Nil until the window is known: nothing is reserved before.
        var window: Int64?
        var spent: UInt64 = 0
        var reserved: UInt64 = 0
        var told = BudgetMark.below
        var hasRefused = false
    }

    private var compute = Tally()
    private var invocations = Tally()

    /// Every ceiling waits for ``restore(_:ordinal:spent:)`` or ``openWindow(_:ordinal:)``.
    public init(_ spec: BudgetSpec) {
        compute.ceiling = spec.compute
        invocations.ceiling = spec.invocations
    }

    public var spec: BudgetSpec { BudgetSpec(compute: compute.ceiling, invocations: invocations.ceiling) }

    /// In the present window, in the ceiling's unit.
    public func spent(_ kind: BudgetKind) -> UInt64 { self[kind].spent }
    /// Held for calls that have not ended.
    public func reserved(_ kind: BudgetKind) -> UInt64 { self[kind].reserved }
    /// What is neither spent nor held of a ceiling; nil where there is none.
    public func room(_ kind: BudgetKind) -> BudgetRoom? {
        let tally = self[kind]
        guard let limit = tally.ceiling?.limit else { return nil }
        let used = saturating(tally.spent, tally.reserved)
        return BudgetRoom(left: used < limit ? limit - used : 0, limit: limit)
    }
    /// How far it is spent in the open window.
    public func mark(_ kind: BudgetKind) -> BudgetMark { self[kind].mark }
    /// The open window, nil before the first.
    public func window(_ kind: BudgetKind) -> Int64? { self[kind].window }

    private subscript(kind: BudgetKind) -> Tally {
        get { kind == .compute ? compute : invocations }
        set {
            switch kind {
            case .compute: compute = newValue
            case .invocations: invocations = newValue
            }
        }
    }

    /// Takes the worst case of one invocation from every ceiling, or says which one has no room and takes nothing.
    /// - Parameter worstCase: memory limit x longest duration, see ``Compute/microGBSeconds(memoryBytes:duration:)``.
    public mutating func reserve(compute worstCase: UInt64) -> BudgetRefusal? {
        if let refusal = compute.refusal(.compute, asked: worstCase) ?? invocations.refusal(.invocations, asked: 1) {
            self[refusal.kind].hasRefused = true
            return refusal
        }
        compute.reserved = saturating(compute.reserved, worstCase)
        invocations.reserved = saturating(invocations.reserved, 1)
        return nil
    }

    /// Ends a reservation with what was really used, at most what was reserved: the shell ends the run before.
    public mutating func settle(reserved worstCase: UInt64, actual: UInt64) -> BudgetCrossings {
        compute.settle(reserved: worstCase, actual: actual)
        invocations.settle(reserved: 1, actual: 1)
        return crossings()
    }

    /// Gives back what was reserved for an invocation that never started.
    public mutating func release(reserved worstCase: UInt64) {
        compute.settle(reserved: worstCase, actual: 0)
        invocations.settle(reserved: 1, actual: 0)
    }

    /// Begins the window `ordinal` of every ceiling with this period. Windows only move forward: a wall clock that steps back changes nothing.
    /// What is reserved stays reserved and is charged to the window in which it settles.
    public mutating func openWindow(_ period: BudgetPeriod, ordinal: Int64) {
        compute.open(period, ordinal)
        invocations.open(period, ordinal)
    }

    /// Opens a window with what the ledger says was spent in it, after a start or ``reconfigure(_:)``. What settled since then is added, for the
    /// ledger may not have seen it: counting twice is safe where counting less is not. Marks that are passed already are not told again.
    public mutating func restore(_ kind: BudgetKind, ordinal: Int64, spent: UInt64) {
        self[kind].restore(ordinal, spent)
    }

    /// New limits at once. A ceiling that is new or has another period refuses until ``restore(_:ordinal:spent:)``; one that has gone counts on nothing.
    public mutating func reconfigure(_ spec: BudgetSpec) -> BudgetCrossings {
        compute.reconfigure(spec.compute)
        invocations.reconfigure(spec.invocations)
        return crossings()
    }

    private mutating func crossings() -> BudgetCrossings {
        var crossed = BudgetCrossings()
        crossed.compute = compute.cross()
        crossed.invocations = invocations.cross()
        return crossed
    }
}

extension BudgetAccount.Tally {
    func refusal(_ kind: BudgetKind, asked: UInt64) -> BudgetRefusal? {
        guard let ceiling else { return nil }
        let held = spent.addingReportingOverflow(reserved)
        let total = held.partialValue.addingReportingOverflow(asked)
        let fits = window != nil && !held.overflow && !total.overflow && total.partialValue <= ceiling.limit
        return fits
            ? nil
            : BudgetRefusal(kind: kind, ceiling: ceiling, spent: spent, reserved: reserved, asked: asked, isFirst: !hasRefused)
    }

    mutating func settle(reserved amount: UInt64, actual: UInt64) {
        reserved -= min(reserved, amount)
        spent = saturating(spent, min(actual, amount))
    }

    mutating func open(_ period: BudgetPeriod, _ ordinal: Int64) {
        guard ceiling?.period == period else { return }
        guard let window else {
            self.window = ordinal
            return
        }
        if ordinal > window { begin(ordinal) }
    }

    mutating func restore(_ ordinal: Int64, _ amount: UInt64) {
        guard ceiling != nil else { return }
        if let window {
            guard ordinal >= window else { return }
            if ordinal > window { begin(ordinal) }
            spent = max(spent, amount)
        } else {
            window = ordinal
            spent = saturating(spent, amount)
        }
        told = mark
    }

    mutating func reconfigure(_ new: BudgetCeiling?) {
        let old = ceiling
        ceiling = new
        guard let new, let old, new.period == old.period else {
            window = nil
            spent = 0
            told = .below
            hasRefused = false
            return
        }
        // More room: the marks may be crossed once more.
        if new.limit > old.limit {
            told = min(told, mark)
            hasRefused = false
        }
    }

    private mutating func begin(_ ordinal: Int64) {
        window = ordinal
        spent = 0
        told = .below
        hasRefused = false
    }

    fileprivate var mark: BudgetMark {
        guard let limit = ceiling?.limit, limit > 0, window != nil else { return .below }
        if spent >= limit { return .hundred }
        // Four fifths, rounded up.
        return spent >= limit - limit / 5 ? .eighty : .below
    }

    mutating func cross() -> BudgetMark {
        let now = mark
        guard now > told else { return .below }
        told = now
        return now
    }
}

private func saturating(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let (sum, overflow) = a.addingReportingOverflow(b)
    return overflow ? .max : sum
}
