// SPDX-License-Identifier: Apache-2.0
public import Core
import Yams

/// `tenants.d/NAME.yaml`: one tenant's ceilings. Keys that a later stage enforces are read and checked already.
public struct TenantConfiguration: Hashable, Sendable {
    public var tenant: Name
    public var concurrency = 50
    public var queue = 100
    public var limits = GroupLimits(memoryBytes: 4 << 30, cpuMilli: 2000, processes: 1024)
    public var storageBytes: UInt64 = 2 << 30
    public var rate: Rate?
    public var computeBudget: Allowance?
    public var invocationBudget: Allowance?

    public init(tenant: Name) { self.tenant = tenant }

    /// Throws every error of the file. `name` is the file's name without `.yaml`.
    public init(yaml bytes: [UInt8], file: String, name: String) throws(ConfigurationErrors) {
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
            if let quota = root.mapping("quota") { value.readQuota(quota) }
            if let network = root.text("network"), network != "none" {
                document.fail(root.value("network"), "`network` can only be none in this release")
            }
            for later in ["weight", "users", "notify"] {
                if let found = root.value(later) { document.fail(found, "`\(later)` is not supported by this release: remove it") }
            }
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
        for later in ["rate", "budget"] {
            if let found = quota.value(later) {
                quota.document.fail(
                    found, "`\(later)` is not enforced by this release, and a ceiling that does not hold is worse than none: remove it")
            }
        }
        quota.finish()
    }
}
