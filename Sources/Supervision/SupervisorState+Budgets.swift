// SPDX-License-Identifier: Apache-2.0
public import Core
import NIOCore
import Store

/// When the windows of one tenant's budgets end.
struct TenantWindows {
    var periods: Set<BudgetPeriod>
    /// The first of them, in milliseconds since 1970.
    var nextEnd = UInt64.max
}

/// Tenants, and the windows of their budgets as time passes.
extension SupervisorState {
    /// Adds or changes a tenant. `spent` is what the ledger knows of the present window of each period.
    public func configure(_ tenant: TenantSpec, spent: [BudgetPeriod: UsageSoFar] = [:]) {
        handle(.tenantConfigured(tenant))
        if tenant.isSuspended {
            suspended.insert(tenant.tenant)
        } else if suspended.remove(tenant.tenant) != nil {
            events?.pump()
        }
        let periods = Set(BudgetKind.allCases.compactMap { tenant.budget[$0]?.period })
        budgets[tenant.tenant] = periods.isEmpty ? nil : TenantWindows(periods: periods)
        open(tenant.tenant, time(), spent)
        // What was used before this daemon began was told by another one; that it is over is told by this one.
        for kind in BudgetKind.allCases where (node.budget(tenant.tenant)?.mark(kind) ?? .below) > .below {
            markedBudgets[tenant.tenant, default: []].insert(kind)
        }
        reviewMarks(tenant.tenant)
    }

    /// The tenant's workers end and its functions are gone.
    public func remove(_ tenant: Name) {
        suspended.remove(tenant)
        budgets[tenant] = nil
        markedBudgets[tenant] = nil
        frameShares[tenant] = nil
        for function in latest.keys where function.tenant == tenant { unregister(function) }
        handle(.tenantRemoved(tenant))
    }

    /// Milliseconds since 1970 in ``PatientTime``: windows, charges and events go by it.
    public func time() -> UInt64 {
        let (wall, monotonic) = (clock.wall(), clock.now())
        var time = patientTime ?? PatientTime(saved: ledger?.now(0) ?? 0, wall: wall, monotonic: monotonic)
        let now = time.now(wall: wall, monotonic: monotonic)
        patientTime = time
        return ledger?.now(now) ?? now
    }

    /// Begins to open the windows that have come; also says that the daemon lives. Called for every invocation and once a second.
    ///
    /// Many windows end at the same moment. Those of tenants with calls under way are opened at once, for they are charged by them; the others follow in slices of
    /// the loop, and a call opens its own tenant's first.
    @discardableResult public func passTime() -> UInt64 {
        let wall = time()
        guard wall >= nextWindow else { return wall }
        nextWindow = .max
        let isUnderWay = !windowRound.isEmpty
        windowRound = Array(budgets.keys)
        for name in Set(pending.values.map(\.order.version.function.tenant)) { openWindows(of: name, wall) }
        if !isUnderWay { openSlice() }
        return wall
    }

    /// Opens the windows of one tenant that have come; called before each of its calls is judged.
    func openWindows(of name: Name, _ wall: UInt64) {
        guard !windowRound.isEmpty, let windows = budgets[name], wall >= windows.nextEnd else { return }
        open(name, wall, [:])
    }

    private func openSlice() {
        let wall = time()
        let end = NIODeadline.now() + Supervisor.slice
        while let name = windowRound.popLast() {
            if let windows = budgets[name] {
                if wall >= windows.nextEnd { open(name, wall, [:]) } else { nextWindow = min(nextWindow, windows.nextEnd) }
            }
            if NIODeadline.now() >= end { break }
        }
        guard !windowRound.isEmpty else { return }
        loop.assumeIsolated().execute { [weak self] in self?.openSlice() }
    }

    private func open(_ name: Name, _ wall: UInt64, _ spent: [BudgetPeriod: UsageSoFar]) {
        guard let periods = budgets[name]?.periods else { return }
        var next = UInt64.max
        for period in periods {
            guard let window = calendar?(name, period, wall) else { continue }
            let end = UInt64(max(0, window.end)) * 1000
            next = min(next, end)
            handle(
                .budgetWindow(
                    name, period, ordinal: window.ordinal, ends: clock.now() + .milliseconds(end > wall ? end - wall : 0),
                    spent: spent[period] ?? UsageSoFar()))
        }
        budgets[name]?.nextEnd = next
        nextWindow = min(nextWindow, next)
        reviewMarks(name)
    }

    /// Tells of budgets that are no longer used up: a new window has begun, or the limit was raised.
    private func reviewMarks(_ name: Name) {
        guard let marked = markedBudgets[name] else { return }
        let over = marked.filter { (node.budget(name)?.mark($0) ?? .below) == .below }
        guard !over.isEmpty else { return }
        let left = marked.subtracting(over)
        markedBudgets[name] = left.isEmpty ? nil : left
        for kind in over { budgetMarked?(name, kind, .below) }
    }

    func countForAlarms(_ function: FunctionID, _ verdict: Verdict) {
        var refusal: Refusal?
        if case .refused(let one) = verdict { refusal = one }
        recentCalls[function, default: RecentCalls()].count(verdict.outcome, by: refusal, of: function)
    }

    /// What ended since the last time, by function.
    public func takeRecentCalls() -> [FunctionID: RecentCalls] {
        defer { recentCalls = [:] }
        return recentCalls
    }
}
