// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Yams

/// `tenants.d/NAME.yaml`: one tenant's ceilings. Keys that a later stage enforces are read and checked already.
public struct TenantConfiguration: Hashable, Sendable {
    public var tenant: Name
    /// Whether nothing of it is run until further notice.
    public var isSuspended = false
    public var concurrency = 50
    public var queue = 1000
    public var limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 2000, processes: 1024)
    public var storageBytes: UInt64 = 2 << 30
    /// What the objects of all its buckets may take.
    public var bucketBytes: UInt64 = 2 << 30
    public var rate: Rate?
    public var computeBudget: BudgetCeiling?
    public var invocationBudget: BudgetCeiling?
    /// The time zone whose calendar ends an hour, a day or a month of a budget.
    public var budgetZone = "UTC"
    /// The tenant's share where tenants compete, against the others' weights.
    public var weight = 1.0
    /// The ceilings of each end user.
    public var users: UserCeilings?
    /// How the tokens of its end users are verified; nil where it takes none.
    public var tokens: TokenRules?
    /// By name. Functions get those that their manifests list.
    public var secrets: [String: Secret] = [:]
    public var notify: [NotifyTarget] = []
    /// Buckets that are made where they are missing; none is ever removed for not being here.
    public var buckets: [Name] = []
    /// What is kept of old versions; nil for the node's rule.
    public var retention: RetentionRule?
    /// What its functions with `network: egress` may reach; nil where none may have it.
    public var egress: EgressRules?
    /// The operator's layers that its functions have or may have.
    public var layers = LayerRules()

    public init(tenant: Name) { self.tenant = tenant }

    /// Throws every error of the file. `name` is the file's name without `.yaml`; `directory` is the one below which secrets' files are.
    public init(yaml bytes: [UInt8], file: String, name: String, directory: String? = nil) throws(ConfigurationErrors) {
        let document = YAMLDocument(file: file)
        var value = TenantConfiguration(tenant: .unnamed)
        if let root = document.root(bytes) {
            if let text = root.text("tenant") {
                if let tenant = Name(text) {
                    value.tenant = tenant
                } else {
                    document.fail(root.value("tenant"), "`tenant` must be 1-63 characters of a-z, 0-9 and -, beginning with a letter")
                }
                if text != name { document.fail(root.value("tenant"), "`tenant` must be the file's name: \(name)") }
            } else {
                document.fail(root.node, "`tenant` (its name) is missing")
            }
            value.isSuspended = root.parsed("suspended", "true or false") { ["true": true, "false": false][$0] } ?? false
            if let quota = root.mapping("quota") { value.readQuota(quota) }
            value.egress = root.egressRules()
            value.layers = root.layerRules()
            // 0 would starve the tenant, and a huge weight all the others.
            if let thousandths = root.ranged(
                "weight", "a number like 2 or 0.5", 1...1_000_000, "from 0.001 to 1000", Units.thousandths)
            {
                value.weight = Double(thousandths) / 1000
            }
            value.users = root.mapping("users").map(UserCeilings.ofTenant)
            value.tokens = root.mapping("tokens").flatMap { TokenRules.read($0, directory: directory) }
            if case .claim = value.users?.key, root.value("tokens") == nil {
                document.fail(root.value("users"), "`key: claim:NAME` needs `tokens`: how the token is verified that has the claim")
            }
            value.secrets = root.secrets("secrets", directory: directory)
            value.notify = root.tenantTargets("notify", secrets: value.secrets)
            value.buckets = Set(root.list("buckets", limit: 1000, of: "buckets' names") { Name($0) } ?? []).sorted()
            value.retention = root.retention(over: RetentionRule())
            root.finish()
        }
        guard document.errors.isEmpty else { throw ConfigurationErrors(document.errors) }
        self = value
    }

    private mutating func readQuota(_ quota: Mapping) {
        concurrency = quota.integer("concurrency", 1...100_000) ?? concurrency
        queue = quota.integer("queue", 0...1_000_000) ?? queue
        limits.memoryBytes =
            quota.ranged("memory", "a size like 4GiB", (16 << 20)...WorkerLimits.memoryRange.upperBound, "at least 16MiB", Units.bytes)
            ?? limits.memoryBytes
        if let cpu = quota.ranged("cpu", "processors like 2.0", 10...1_024_000, "from 0.01 to 1024", Units.thousandths) {
            limits.cpuMilli = UInt32(cpu)
        }
        if let processes = quota.integer("processes", 4...1_000_000) { limits.processes = UInt32(processes) }
        storageBytes = quota.ranged("storage", "a size like 2GiB", (1 << 20)...(1 << 50), "at least 1MiB", Units.bytes) ?? storageBytes
        bucketBytes = quota.ranged("buckets", "a size like 2GiB", (1 << 20)...(1 << 50), "at least 1MiB", Units.bytes) ?? bucketBytes
        rate = quota.rate("rate")
        if let budget = quota.mapping("budget") { readBudget(budget) }
        quota.finish()
    }

    /// The largest budget: in thousandths or millionths of its unit it still fits 64 bits.
    private static let largestBudget: UInt64 = 1_000_000_000_000

    private mutating func readBudget(_ budget: Mapping) {
        computeBudget = Self.allowance(budget, "compute", "3600 GB-s/hour", Units.compute)
        invocationBudget = Self.allowance(budget, "invocations", "100000/day", Units.count)
        if let zone = budget.text("zone") {
            if BudgetCalendar(timeZone: zone) == nil {
                budget.document.fail(
                    budget.value("zone"), "`zone` must be a time zone like Europe/Berlin or UTC, not `\(zone.prefix(60))`")
            }
            budgetZone = zone
        }
        budget.finish()
    }

    private static func allowance(_ budget: Mapping, _ key: String, _ example: String, _ parse: (String) -> BudgetCeiling?)
        -> BudgetCeiling?
    {
        let form = "an amount a period like \(example); the period is hour, day or month"
        guard let value = budget.parsed(key, form, parse) else { return nil }
        let unit: UInt64 = key == "compute" ? 1_000_000 : 1
        if value.limit / unit > largestBudget { budget.document.fail(budget.value(key), "`\(key)` must be at most \(largestBudget)") }
        return value
    }
}
