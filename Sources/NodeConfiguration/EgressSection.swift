// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc

extension Mapping {
    /// `network` and `egress` of a tenant; nil where its functions have no way out.
    func egressRules() -> EgressRules? {
        let isAllowed = allowsEgress()
        guard let section = mapping("egress") else { return isAllowed ? EgressRules() : nil }
        var rules = EgressRules()
        rules.hosts = section.list("hosts", limit: EgressRules.mostEntries, of: "hosts or *.domains", Self.host)
        rules.ports =
            section.list("ports", limit: EgressRules.mostEntries, of: "ports") { UInt16($0).flatMap { $0 > 0 ? $0 : nil } } ?? rules.ports
        rules.networks = section.list("networks", limit: EgressRules.mostEntries, of: "networks like 10.1.0.0/16", Self.range) ?? []
        rules.connections = section.integer("connections", 1...1000) ?? rules.connections
        rules.bandwidth =
            section.ranged("bandwidth", "a size like 10MiB, each second", (64 << 10)...(1 << 40), "at least 64KiB", Units.bytes)
            ?? rules.bandwidth
        section.finish()
        if !isAllowed {
            document.fail(value("egress"), "`egress` says what functions may reach, and `network: egress` that they may: add it")
        }
        return rules
    }

    /// `network: egress`, of a tenant or a function.
    func allowsEgress() -> Bool {
        guard let text = text("network") else { return false }
        if text != "none", text != "egress" { document.fail(value("network"), "`network` must be none or egress") }
        return text == "egress"
    }

    /// A name, an address, or `*.` and the end of names, in lower case.
    private static func host(_ text: String) -> String? {
        let name = EgressRules.canonical(text)
        let rest = name.hasPrefix("*.") ? name.dropFirst(2) : name[...]
        let isName = rest.utf8.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || [45, 46, 58, 95].contains($0) }
        return isName && (1...253).contains(rest.utf8.count) && !rest.hasPrefix(".") ? name : nil
    }

    /// An address, or the beginning of one and how many bits of it count. inet_pton(3).
    private static func range(_ text: String) -> AddressRange? {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard let first = parts.first, parts.count <= 2, first.utf8.count < 64 else { return nil }
        for (family, size) in [(AF_INET, 4), (AF_INET6, 16)] {
            var bytes = [UInt8](repeating: 0, count: size)
            guard unsafe inet_pton(family, String(first), &bytes) == 1 else { continue }
            guard parts.count == 2 else { return AddressRange(address: bytes, length: size * 8) }
            return Int(parts[1]).flatMap { AddressRange(address: bytes, length: $0) }
        }
        return nil
    }
}
