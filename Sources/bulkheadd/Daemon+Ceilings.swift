// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Egress
import Foundation
import Gateway
import Logging
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// The tenants' files as they were read last; used by one reload at a time.
final class TenantFileCache: Sendable {
    private let files = Mutex(TenantFiles())
    func load(_ directory: String) throws(ConfigurationErrors) -> NodeConfiguration {
        try files.withLock { files throws(ConfigurationErrors) in try NodeConfiguration.load(directory: directory, &files) }
    }
}

extension RateSpec {
    /// The configuration's bounds lie within Core's.
    init?(_ rate: Rate?) {
        guard let rate else { return nil }
        self.init(count: rate.count, period: rate.period, burst: rate.burst)
    }
}

extension UserSpec {
    init?(_ users: UserCeilings?) {
        guard let users else { return nil }
        self.init(concurrency: users.concurrency, rate: RateSpec(users.rate))
    }
}

extension TenantSpec {
    init(_ tenant: TenantConfiguration) {
        self.init(
            tenant: tenant.tenant, concurrency: tenant.concurrency, queue: tenant.queue, limits: tenant.limits,
            rate: RateSpec(tenant.rate), budget: BudgetSpec(compute: tenant.computeBudget, invocations: tenant.invocationBudget),
            weight: tenant.weight, users: UserSpec(tenant.users), isSuspended: tenant.isSuspended)
    }
}

/// What the operator asks about ceilings, and how they change while the node runs.
extension Daemon {
    // MARK: configuration

    /// Gives tenants their ceilings, with what the ledger knows of the present windows.
    func apply(_ tenants: [TenantConfiguration]) async throws {
        var zones: [String: BudgetCalendar] = [:]
        for tenant in tenants where zones[tenant.budgetZone] == nil {
            zones[tenant.budgetZone] = BudgetCalendar(timeZone: tenant.budgetZone)
        }
        guard tenants.allSatisfy({ zones[$0.budgetZone] != nil }) else {
            throw Problem(code: "configuration", title: "The configuration is refused", status: 422, detail: "unknown zone")
        }
        calendars.withLock { for tenant in tenants { $0[tenant.tenant] = zones[tenant.budgetZone] } }
        storage.withLock { for tenant in tenants { $0[tenant.tenant] = tenant.storageBytes } }
        tenantSecrets.withLock { for tenant in tenants { $0[tenant.tenant] = tenant.secrets.isEmpty ? nil : tenant.secrets } }
        // Before both: with many tenants the keys take a while, and a rule whose keys are not there yet refuses everybody.
        let tokens = tenants.map { TenantTokens($0.tokens) }
        userRules.withLock { for tenant in tenants { $0[tenant.tenant] = tenant.users?.key } }
        tokenRules.withLock { for (tenant, rule) in zip(tenants, tokens) { $0[tenant.tenant] = rule } }
        for tenant in tenants { egress.set(tenant.egress, of: tenant.tenant) }
        layerRules.withLock { for tenant in tenants { $0[tenant.tenant] = tenant.layers == LayerRules() ? nil : tenant.layers } }
        for tenant in tenants { buckets.usage.setQuota(tenant.tenant, tenant.bucketBytes) }
        for tenant in tenants where !tenant.buckets.isEmpty { try await makeBuckets(tenant) }
        let (ledger, calendars) = (ledger, zones)
        let wall = try await supervisor.onLoop { $0.time() }
        let specs = try await onDisk {
            // Few are asked for one by one; of many, all at once for each window that there is.
            var windows: [Range<Int64>: [Name: UsageSpent]] = [:]
            return try tenants.map { tenant in
                let spec = TenantSpec(tenant)
                var spent: [BudgetPeriod: UsageSoFar] = [:]
                for period in Set(BudgetKind.allCases.compactMap { spec.budget[$0]?.period }) {
                    guard let window = calendars[tenant.budgetZone]?.window(period, containing: wall) else { continue }
                    let seconds = window.ordinal..<window.end
                    if tenants.count > 100, windows[seconds] == nil { windows[seconds] = try ledger.spent(seconds) }
                    let found: UsageSpent? =
                        if let all = windows[seconds] { all[tenant.tenant] } else { try ledger.spent(tenant.tenant, seconds) }
                    spent[period] = UsageSoFar(microGBSeconds: found?.microGBSeconds ?? 0, invocations: found?.invocations ?? 0)
                }
                return (spec, spent)
            }
        }
        try await supervisor.onLoop(each: specs) { state, tenant in state.configure(tenant.0, spent: tenant.1) }
    }

    /// Reads the configuration again: all of it is applied, or nothing.
    func reload(dryRun: Bool) async throws -> ReloadReply {
        guard let directory = configurationDirectory else {
            throw Problem(
                code: "configuration", title: "There is no configuration", status: 422, detail: "this node runs on embedded defaults")
        }
        guard reloading.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged else {
            throw Problem(code: "busy", title: "Busy", status: 409, detail: "another reload is under way: try again")
        }
        defer { reloading.store(false, ordering: .releasing) }
        let new: NodeConfiguration
        do {
            let files = files
            new = try await onDisk { try files.load(directory) }
        } catch let refused as ConfigurationErrors {
            var problem = Problem(
                code: "configuration", title: "The configuration is refused", status: 422,
                detail: "the configuration has \(refused.errors.count) mistake(s), nothing was changed")
            problem.errors = refused.errors.map { "\($0)" }
            throw problem
        }
        let old = configuration.withLock { $0 }
        let tenants = new.tenantChanges(from: old)
        let changes = new.difference(from: old, tenants).map { change in
            ReloadChange(
                tenant: change.tenant, key: change.key, before: change.before,
                after: change.tenant.isEmpty && !Self.isTakenAtOnce(change.key) ? "\(change.after) (at the next start)" : change.after)
        }
        guard !dryRun else { return ReloadReply(applied: false, changes: changes) }
        let gone = Set(tenants.filter { $0.after == nil }.map(\.name))
        if !gone.isEmpty {
            tenantNames.withLock { $0.subtract(gone) }
            for tenant in gone { egress.set(nil, of: tenant) }
            records.withLock { records in records = records.filter { !gone.contains($0.key.function.tenant) } }
            try await supervisor.onLoop(each: gone.sorted()) { $0.remove($1) }
        }
        try await apply(tenants.compactMap(\.after))
        let layered = Set(
            tenants.filter { $0.before.map(\.layers) != $0.after.map(\.layers) && $0.before != nil && $0.after != nil }.map(\.name))
        try await applyLayers(to: layered)
        let added = Set(tenants.filter { $0.before == nil }.map(\.name))
        if !added.isEmpty {
            // Their functions look up their secrets there.
            configuration.withLock { $0.tenants = new.tenants }
            do { try await restoreFunctions(of: added) } catch {
                configuration.withLock { $0.tenants = old.tenants }
                throw error
            }
        }
        tenantNames.withLock { $0.formUnion(added) }
        endImports(added)
        // What needs a restart stays as it runs, so that each reload says it again until then.
        configuration.withLock { current in
            (current.tenants, current.notify, current.retention, current.layers) = (new.tenants, new.notify, new.retention, new.layers)
        }
        // The last of 100,000 tenants' settings go here and not under the lock, where callers would wait for it.
        withExtendedLifetime(old) {}
        await sweepVersions()
        return ReloadReply(applied: true, changes: changes)
    }

    /// A setting of the node that a reload changes.
    private static func isTakenAtOnce(_ key: String) -> Bool { key.hasPrefix("retention.") || key == "notify" || key == "layers" }

    /// Gives the kept versions of some tenants the layers that they have now; workers with others end when they are done.
    private func applyLayers(to tenants: Set<Name>) async throws {
        guard !tenants.isEmpty else { return }
        for record in records.withLock({ $0.values.filter { tenants.contains($0.version.function.tenant) } }) {
            guard let manifest = try? FunctionManifest(yaml: Array(record.manifest.utf8)) else { continue }
            let layers = layers(manifest, of: record.version.function.tenant)
            try await supervisor.onLoop { state in
                guard var deployment = state.deployment(record.version) else { return }
                (deployment.spec.layers, deployment.missingLayers) = layers
                state.register(deployment)
            }
        }
    }

    /// What a function has of the operator's layers, and what it names and may not have.
    func layers(_ manifest: FunctionManifest, of tenant: Name) -> (granted: [Name], missing: [Name]) {
        (layerRules.withLock { $0[tenant] } ?? LayerRules()).applied(to: manifest.layers)
    }

    /// Registers the kept versions of some tenants.
    func restoreFunctions(of tenants: Set<Name>) async throws {
        // First of all: a version learns from them whether it keeps workers.
        try await restoreAliases(of: tenants)
        let store = store
        for record in try await onDisk({ try store.versions() }) where tenants.contains(record.version.function.tenant) {
            guard let deployment = deployment(record) else { continue }
            records.withLock { $0[record.version] = record }
            try await supervisor.onLoop { $0.register(deployment) }
        }
        for tenant in Set(records.withLock { $0.keys.map(\.function.tenant) }).intersection(tenants) {
            try await configureEdges(of: tenant)
        }
    }

    /// Until it is cancelled: once a second what time brings, every ten seconds what the workers used and what is left of the disk. The memory is watched beside it: the rest
    /// waits for the disk, which is slowest when memory is short.
    func keepHouse() async {
        async let watch: Void = watchMemory()
        await keepTime()
        await watch
    }

    private func watchMemory() async {
        while !Task.isCancelled {
            try? await Task.sleep(for: .seconds(1))
            await tickMemory()
        }
    }

    private func keepTime() async {
        var seconds = 0
        await lookAtDisk()
        while !Task.isCancelled {
            try? await Task.sleep(for: .seconds(1))
            await tick()
            await keepExplanations()
            seconds += 1
            if seconds % 10 == 0 {
                try? await supervisor.refreshUsage()
                // As often: a flood of writes fills a disk within a minute.
                await lookAtDisk()
            }
            if seconds % 3600 == 0 {
                await sweepVersions()
                await pruneAudit()
                await pruneExplanations()
                await pruneLogs()
            }
        }
    }

    /// SIGHUP: says in the log what became of it, and returns it as a printable sentence of at most 2,000 bytes.
    func reloadOnSignal() async -> String {
        do {
            let reply = try await reload(dryRun: false)
            for change in reply.changes {
                logger.notice("changed", metadata: ["tenant": "\(change.tenant)", "key": "\(change.key)", "after": "\(change.after)"])
            }
            logger.notice(
                "the configuration was read again",
                metadata: ["changes": "\(reply.changes.count)", "directory": "\(configurationDirectory ?? "")"])
            // Said in the log as well: without a service manager nobody reads the sentence.
            let notice = Self.copyNotice(configurationDirectory)
            if let notice { logger.warning("\(notice)", metadata: ["copy": "\(configurationDirectory ?? "")"]) }
            await AuditTrail.signalled(reply, failure: "", self)
            return "The configuration was read again, \(reply.changes.count) changes." + (notice.map { " " + $0 } ?? "")
        } catch {
            let problem = error as? Problem
            let reason = problem?.errors?.joined(separator: "; ") ?? problem?.detail ?? "\(error)"
            await AuditTrail.signalled(nil, failure: problem?.code ?? "internal", self)
            logger.error("the configuration is refused and nothing was changed", metadata: ["reason": "\(reason)"])
            let printable = reason.unicodeScalars.map { (0x20..<0x7F).contains($0.value) ? Character($0) : "?" }
            return "The configuration is refused and nothing was changed: " + String(printable.prefix(1900))
        }
    }

    /// A daemon that may not read the administrator's files reads the copy that root made of them, which SIGHUP does not renew.
    static func copyNotice(_ directory: String?) -> String? {
        guard let directory, directory.hasSuffix("/data/config") else { return nil }
        return "This was the node's own copy, and not what is edited: `bulkhead reload` copies that anew and has it read."
    }

    /// Once a second: time passes also where nobody calls, and what was noted is counted.
    func tick() async {
        _ = try? await supervisor.onLoop { $0.passTime() }
        await tickEvents()
        await tickCron()
        await tickBuckets()
        await tickAlarms()
        await keepEndedCanaries()
        let (ledger, logger) = (ledger, logger)
        do {
            for warning in try await onDisk({ try ledger.checkpoint() }) { logger.warning("\(warning)") }
        } catch { logger.error("use cannot be counted now, it is kept", metadata: ["reason": "\(error)"]) }
        let used = keyRing.withLock { $0.takeUses() }
        if !used.isEmpty {
            let store = store
            try? await onDisk { try store.noteUses(used) }
        }
    }

    // MARK: answers

    func quota(_ name: Name) async throws -> QuotaReply {
        guard let tenant = configuration.withLock({ $0.tenants.first { $0.tenant == name } }) else {
            throw Problem.notFound("tenant \(name)")
        }
        let code = records.withLock { $0.values.reduce(0) { $0 + ($1.version.function.tenant == name ? $1.codeBytes : 0) } }
        let calendar = calendars.withLock { $0[name] }
        let (wall, view) = try await supervisor.onLoop { ($0.time(), $0.node.tenantView(name)) }
        guard let view else { throw Problem.notFound("tenant \(name)") }
        var reply = QuotaReply(
            tenant: name.text, weight: tenant.weight, concurrency: Gauge(limit: UInt64(view.spec.concurrency), used: UInt64(view.running)),
            queue: Gauge(limit: UInt64(view.spec.queue), used: UInt64(view.queued)),
            memory: Gauge(limit: view.spec.limits.memoryBytes, used: view.memoryCommitted),
            processes: Gauge(limit: UInt64(view.spec.limits.processes), used: view.processesCommitted),
            cpu: Double(view.spec.limits.cpuMilli) / 1000, storage: Gauge(limit: tenant.storageBytes, used: code),
            rate: tenant.rate?.description)
        reply.suspended = view.spec.isSuspended
        let held = buckets.usage.usage(name)
        reply.buckets = Gauge(limit: held.allowed, used: held.used)
        for kind in BudgetKind.allCases {
            guard let ceiling = view.spec.budget[kind], let calendar else { continue }
            let unit = kind == .compute ? 1e6 : 1
            reply.budgets.append(
                BudgetReply(
                    kind: kind.rawValue, period: ceiling.period.rawValue, zone: tenant.budgetZone, limit: Double(ceiling.limit) / unit,
                    spent: Double(view.budget.spent(kind)) / unit, reserved: Double(view.budget.reserved(kind)) / unit,
                    resetsAt: UInt64(max(0, calendar.window(ceiling.period, containing: wall).end)) * 1000))
        }
        if let users = tenant.users {
            reply.users = UsersReply(concurrency: users.concurrency, rate: users.rate?.description, active: view.users)
        }
        return reply
    }

    func usage(_ name: Name, from: UInt64, to: UInt64, by: String) async throws -> [UsageReply] {
        let groupings: [String: UsageQuery.Grouping] = ["hour": .hour, "day": .day, "function": .function, "total": .total]
        guard let grouping = groupings[by] else { throw Problem.badRequest("by must be hour, day, function or total") }
        guard from < to else { throw Problem.badRequest("from must be before to") }
        let seconds = Int64(clamping: from / 1000)..<max(Int64(clamping: from / 1000) + 1, Int64(clamping: to / 1000))
        let ledger = ledger
        return try await onDisk {
            try ledger.usage(UsageQuery(tenant: name, seconds: seconds, by: grouping)).map { row in
                UsageReply(
                    tenant: row.tenant.text, function: row.function?.text ?? "",
                    start: grouping == .hour || grouping == .day ? UInt64(max(0, row.start)) * 1000 : 0,
                    invocations: row.invocations, errors: row.errors, gbSeconds: row.gbSeconds, cpuSeconds: row.cpuSeconds,
                    durationSeconds: row.durationSeconds)
            }
        }
    }
}
