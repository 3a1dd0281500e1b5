// SPDX-License-Identifier: Apache-2.0

/// What functions of a tenant may reach that ask for `network: egress`. Everything else is refused.
public struct EgressRules: Hashable, Sendable {
    /// The most names that a tenant may list, and addresses.
    public static let mostEntries = 256

    /// Names of hosts in lower case, or `*.` and the end of names; nil for every host.
    public var hosts: [String]?
    public var ports: [UInt16] = [80, 443]
    /// Addresses that may be reached though they are not of the public internet.
    public var networks: [AddressRange] = []
    /// Connections at a time, over all of the tenant's workers.
    public var connections = 64
    /// Bytes a second over all of them, both ways together.
    public var bandwidth: UInt64 = 10 << 20

    public init() {}

    /// Whether a host may be asked for, before it is looked up. A name ends with or without a dot, in any case.
    public func permits(host: String) -> Bool {
        guard let hosts else { return true }
        let name = Self.canonical(host)
        return hosts.contains { $0.hasPrefix("*.") ? name.hasSuffix($0.dropFirst()) && name.utf8.count > $0.utf8.count - 1 : $0 == name }
    }

    /// Whether an address may be connected to, that a name has led to. `isPublic`: it is of the public internet and not this machine's own.
    public func permits(address: [UInt8], isPublic: Bool) -> Bool { isPublic || networks.contains { $0.contains(address) } }

    /// In lower case, without the root's dot.
    public static func canonical(_ host: String) -> String {
        let name = host.lowercased()
        return name.hasSuffix(".") ? String(name.dropLast()) : name
    }
}

/// Addresses that begin alike: `10.0.0.0/8`, `fd00::/8`. RFC 4632, RFC 4291.
public struct AddressRange: Hashable, Sendable, CustomStringConvertible {
    /// 4 or 16 bytes.
    public let address: [UInt8]
    /// Leading bits that count.
    public let length: Int

    /// Nil where there are more bits than the address has, or bits behind those that count.
    public init?(address: [UInt8], length: Int) {
        guard address.count == 4 || address.count == 16, (0...address.count * 8).contains(length) else { return nil }
        (self.address, self.length) = (address, length)
        guard address.indices.allSatisfy({ address[$0] & ~mask($0) == 0 }) else { return nil }
    }

    /// Whether an address of the same family begins so.
    public func contains(_ other: [UInt8]) -> Bool {
        other.count == address.count && address.indices.allSatisfy { (address[$0] ^ other[$0]) & mask($0) == 0 }
    }

    public var description: String {
        let groups = stride(from: 0, to: address.count, by: 2).map { UInt16(address[$0]) << 8 | UInt16(address[$0 + 1]) }
        let text =
            address.count == 4
            ? address.map { "\($0)" }.joined(separator: ".") : groups.map { String($0, radix: 16) }.joined(separator: ":")
        return "\(text)/\(length)"
    }

    private func mask(_ index: Int) -> UInt8 {
        let bits = min(8, max(0, length - index * 8))
        return bits == 0 ? 0 : ~UInt8(0) << UInt8(8 - bits)
    }
}
