// SPDX-License-Identifier: Apache-2.0
public import Core

extension NodeConfiguration {
    /// One setting that changed. `tenant` is empty for a setting of the node; `key` is written as in the file.
    public typealias Difference = (tenant: String, key: String, before: String, after: String)

    /// What a reload from `old` to this configuration changes, by tenant and then in the order of the file. A tenant that comes or goes
    /// is one entry with the key `tenant`.
    public func difference(from old: NodeConfiguration) -> [Difference] {
        difference(from: old, tenantChanges(from: old))
    }

    /// The same, where it is known which tenants changed.
    public func difference(from old: NodeConfiguration, _ tenants: [TenantChange]) -> [Difference] {
        var changes = Self.compare("", old.settings, settings)
        for change in tenants {
            let name = change.name.text
            switch (change.before, change.after) {
            case (nil, _): changes.append((name, "tenant", "", "added"))
            case (_, nil): changes.append((name, "tenant", "", "removed"))
            case (let before?, let after?):
                changes += Self.compare(name, before.settings, after.settings)
                changes += Self.secrets(name, before.secrets, after.secrets)
                // Never the values: one may be a secret.
                if let old = before.tokens?.keys, let new = after.tokens?.keys, old != new {
                    changes.append((name, "tokens.key", "set", "changed"))
                }
            }
        }
        return changes
    }

    /// A tenant that came (no `before`), went (no `after`), or has another setting.
    public struct TenantChange: Sendable {
        public var name: Name
        public var before: TenantConfiguration?
        public var after: TenantConfiguration?
    }

    /// What became of the tenants, by their names. Of 100,000 few change, and most stand where they stood: only those between the first and the last that
    /// came or went are looked up by name.
    public func tenantChanges(from old: NodeConfiguration) -> [TenantChange] {
        var changes: [TenantChange] = []
        func compare(_ before: TenantConfiguration, _ after: TenantConfiguration) {
            if before != after { changes.append(TenantChange(name: after.tenant, before: before, after: after)) }
        }
        let (before, after) = (old.tenants, tenants)
        var first = 0, tail = 0
        let shorter = min(before.count, after.count)
        while first < shorter, before[first].tenant == after[first].tenant {
            compare(before[first], after[first])
            first += 1
        }
        while tail < shorter - first, before[before.count - 1 - tail].tenant == after[after.count - 1 - tail].tenant {
            compare(before[before.count - 1 - tail], after[after.count - 1 - tail])
            tail += 1
        }
        var known = Dictionary(before[first..<before.count - tail].map { ($0.tenant, $0) }, uniquingKeysWith: { first, _ in first })
        for tenant in after[first..<after.count - tail] {
            if let before = known.removeValue(forKey: tenant.tenant) {
                compare(before, tenant)
            } else {
                changes.append(TenantChange(name: tenant.tenant, before: nil, after: tenant))
            }
        }
        changes += known.values.map { TenantChange(name: $0.tenant, before: $0, after: nil) }
        return changes.sorted { $0.name < $1.name }
    }

    private static func compare(_ tenant: String, _ old: [(String, String)], _ new: [(String, String)]) -> [Difference] {
        zip(old, new).compactMap { before, after in
            before.1 == after.1 ? nil : (tenant: tenant, key: after.0, before: before.1, after: after.1)
        }
    }

    /// Which secrets came, went or have another value; never the values.
    private static func secrets(_ tenant: String, _ old: [String: Secret], _ new: [String: Secret]) -> [Difference] {
        Set(old.keys).union(new.keys).sorted().compactMap { name in
            guard old[name] != new[name] else { return nil }
            let before = old[name] == nil ? Wording.none : "set"
            return (tenant, "secrets.\(name)", before, new[name] == nil ? Wording.none : old[name] == nil ? "set" : "changed")
        }
    }

    /// Every setting of the node as the file would say it; always the same keys in the same order.
    private var settings: [(String, String)] {
        [
            ("memory", memoryBytes == 0 ? Wording.none : Wording.bytes(memoryBytes)), ("workers", "\(maximumWorkers)"),
            ("seats", "\(seats)"), ("bodyLimit", Wording.bytes(UInt64(bodyLimit))),
            ("prewarm.python3", "\(prewarmed["python3"] ?? 0)"), ("prewarm.nodejs", "\(prewarmed["nodejs"] ?? 0)"),
            ("prewarm.sealed", "\(sealedSpares)"), ("prewarm.groups", "\(spareGroups)"),
            ("logs.perTenant", Wording.bytes(logBytesPerTenant)), ("logs.age", Wording.span(logAge)),
            ("notify", Wording.list(notify.map(\.shown))), ("webhooks", mayCallPrivate ? "any" : "public"),
            ("traces.endpoint", traceEndpoint ?? Wording.none),
            ("retention.versions", "\(retention.versions)"), ("retention.age", Wording.span(retention.age)),
            ("layers", Wording.list(layers.map(\.text))),
        ]
    }
}

extension TenantConfiguration {
    /// Every setting as the file would say it; always the same keys in the same order.
    fileprivate var settings: [(String, String)] {
        [
            ("suspended", "\(isSuspended)"), ("quota.concurrency", "\(concurrency)"), ("quota.rate", rate?.description ?? Wording.none),
            ("quota.queue", "\(queue)"),
            ("quota.memory", Wording.bytes(limits.memoryBytes)), ("quota.cpu", Wording.thousandths(UInt64(limits.cpuMilli))),
            ("quota.processes", "\(limits.processes)"), ("quota.storage", Wording.bytes(storageBytes)),
            ("quota.buckets", Wording.bytes(bucketBytes)),
            ("quota.budget.compute", computeBudget.map { "\($0.limit / 1_000_000) GB-s/\($0.period.rawValue)" } ?? Wording.none),
            ("quota.budget.invocations", invocationBudget.map { "\($0.limit)/\($0.period.rawValue)" } ?? Wording.none),
            ("quota.budget.zone", budgetZone), ("weight", Wording.thousandths(UInt64((weight * 1000).rounded()))),
            ("users.default.concurrency", users?.concurrency.map(String.init) ?? Wording.none),
            ("users.default.rate", users?.rate?.description ?? Wording.none), ("users.key", users?.key.description ?? Wording.none),
            ("tokens.header", tokens?.header ?? Wording.none), ("tokens.issuer", tokens?.issuer ?? Wording.none),
            ("tokens.audience", tokens?.audience ?? Wording.none), ("tokens.algorithm", tokens?.algorithm.rawValue ?? Wording.none),
            ("notify", Wording.list(notify.map(\.shown))), ("buckets", Wording.list(buckets.map(\.text))),
            ("retention.versions", retention.map { "\($0.versions)" } ?? Wording.none),
            ("retention.age", retention.map { Wording.span($0.age) } ?? Wording.none),
            ("network", egress == nil ? "none" : "egress"),
            ("layers.force", Wording.list(layers.force.map(\.text))), ("layers.allow", Wording.list(layers.allow.map(\.text))),
            ("egress.hosts", egress.map { $0.hosts.map(Wording.list) ?? "all" } ?? Wording.none),
            ("egress.ports", Wording.list(egress?.ports.map(String.init) ?? [])),
            ("egress.networks", Wording.list(egress?.networks.map(\.description) ?? [])),
            ("egress.connections", egress.map { "\($0.connections)" } ?? Wording.none),
            ("egress.bandwidth", egress.map { Wording.bytes($0.bandwidth) } ?? Wording.none),
        ]
    }
}

extension Rate: CustomStringConvertible {
    /// As in the file: `200/s burst 400`; the burst only where it is not one period's worth.
    public var description: String { "\(count)/\(Wording.period(period))" + (burst == count ? "" : " burst \(burst)") }
}

/// Quantities as the files say them, without loss.
private enum Wording {
    static let none = "none"

    static func list(_ items: [String]) -> String { items.isEmpty ? none : items.joined(separator: ", ") }

    static func bytes(_ number: UInt64) -> String {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] as [(String, UInt64)]
        where number > 0 && number & ((1 << shift) - 1) == 0 { return "\(number >> shift)\(unit)" }
        return "\(number)B"
    }

    static func span(_ span: Nanoseconds) -> String {
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] as [(String, UInt64)]
        where span > 0 && span % Nanoseconds.milliseconds(size) == 0 { return "\(span / Nanoseconds.milliseconds(size))\(unit)" }
        return "\(span / .milliseconds(1))ms"
    }

    /// `2500` is `2.5`.
    static func thousandths(_ number: UInt64) -> String {
        var fraction = String(String(number % 1000 + 1000).dropFirst())
        while fraction.last == "0" { fraction.removeLast() }
        return fraction.isEmpty ? "\(number / 1000)" : "\(number / 1000).\(fraction)"
    }

    static func period(_ period: Nanoseconds) -> String {
        switch period {
        case .seconds(1): "s"
        case .seconds(60): "minute"
        case .seconds(3600): "hour"
        case .seconds(86_400): "day"
        case .seconds(2_592_000): "month"
        default: span(period)
        }
    }
}
