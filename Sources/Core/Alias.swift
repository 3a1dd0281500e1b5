// SPDX-License-Identifier: Apache-2.0

/// The second version of an alias, on trial for a share of the calls.
public struct Canary: Hashable, Sendable {
    public var version: UInt32
    /// Its share of the calls, in ten-thousandths: 1 to 9,999.
    public var weight: UInt32
    /// Nil for a weight that leaves one of the two nothing.
    public init?(version: UInt32, weight: UInt32) {
        guard version > 0, (1..<AliasSpec.whole).contains(weight) else { return nil }
        self.version = version
        self.weight = weight
    }
}

/// A name that points at one version of a function, or at two with weights. `latest` always exists, and deploys move it.
public struct AliasSpec: Hashable, Sendable {
    /// All calls, in ten-thousandths.
    public static let whole: UInt32 = 10_000

    public var name: Name
    /// The version that serves what the canary does not.
    public var primary: UInt32
    public var canary: Canary?
    /// Whether ``CanaryWatch`` may end the canary.
    public var isAutomatic: Bool

    public init(name: Name, primary: UInt32, canary: Canary? = nil, isAutomatic: Bool = true) {
        self.name = name
        self.primary = primary
        self.canary = canary
        self.isAutomatic = isAutomatic
    }

    public func names(_ version: UInt32) -> Bool { version == primary || version == canary?.version }

    /// The version for a call that falls on `point`, 0 to 9,999.
    public func version(at point: UInt32) -> UInt32 {
        guard let canary, point < canary.weight else { return primary }
        return canary.version
    }

    /// Where the calls of one caller fall: always the same place for an alias and a key, so that a caller keeps its version. A growing weight only moves callers
    /// to the canary, never back.
    public static func point(_ function: FunctionID, _ alias: Name, key: String) -> UInt32 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        // FNV-1a; the 0 between the parts keeps `ab`, `c` and `a`, `bc` apart.
        for part in [function.tenant.text, function.function.text, alias.text, key] {
            for byte in part.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
            hash = hash &* 0x100_0000_01b3
        }
        return point(random: hash)
    }

    /// Where a call without a key falls. `random`: 64 bits. Mixed by the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    public static func point(random: UInt64) -> UInt32 {
        var mixed = (random ^ (random >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        mixed ^= mixed >> 31
        return UInt32(truncatingIfNeeded: mixed.multipliedFullWidth(by: UInt64(whole)).high)
    }
}
