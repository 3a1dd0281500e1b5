// SPDX-License-Identifier: Apache-2.0
public import Core
import Crypto
import Foundation
import Synchronization

/// What was found in tokens that hold, so that a token which comes with every call is verified once. Kept are its hash, its times, which are looked at each time, and the
/// claims that were asked for; never the token.
public final class VerifiedTokens: Sendable {
    /// The most tokens of one tenant, and of all.
    public static let share = 1024
    public static let limit = 16_384
    /// The longest claim that is kept, in bytes.
    private static let wordLimit = 256

    /// A token under the rule that verified it, for the claims that a call needs of it.
    public struct Key: Hashable, Sendable {
        let tenant: Name
        let rule: UInt64
        let digest: SHA256Digest
        let names: [String]

        /// - Parameter rule: another number where the tenant's keys, issuer or audience are others.
        public init(_ token: String, tenant: Name, rule: UInt64, names: [String]) {
            (self.tenant, self.rule, self.names) = (tenant, rule, names)
            digest = SHA256.hash(data: Array(token.utf8))
        }
    }

    /// Those used of late and those used before: what was not used for as long as it took the others to fill half of the share is forgotten.
    private struct Shelf {
        var young: [Key: TokenClaims] = [:]
        var old: [Key: TokenClaims] = [:]

        /// Returns how many it forgot.
        mutating func turn() -> Int {
            defer { (young, old) = ([:], young) }
            return old.count
        }
    }

    private struct State {
        var shelves: [Name: Shelf] = [:]
        var count = 0

        mutating func keep(_ claims: TokenClaims, _ key: Key) {
            var shelf = shelves.removeValue(forKey: key.tenant) ?? Shelf()
            if shelf.young.count >= VerifiedTokens.share / 2 { count -= shelf.turn() }
            if shelf.old.removeValue(forKey: key) != nil { count -= 1 }
            if shelf.young.updateValue(claims, forKey: key) == nil { count += 1 }
            shelves[key.tenant] = shelf
            while count > VerifiedTokens.limit {
                for tenant in shelves.keys { count -= shelves[tenant]?.turn() ?? 0 }
                shelves = shelves.filter { !$0.value.young.isEmpty || !$0.value.old.isEmpty }
            }
        }
    }

    private let state = Mutex(State())

    public init() {}

    public var count: Int { state.withLock { $0.count } }

    /// What the token says, where it was verified before and its time is not over.
    public func claims(_ key: Key, at now: Double) -> TokenClaims? {
        state.withLock { state in
            if let claims = state.shelves[key.tenant]?.young[key] { return claims.fault(at: now) == nil ? claims : nil }
            guard let claims = state.shelves[key.tenant]?.old[key], claims.fault(at: now) == nil else { return nil }
            state.keep(claims, key)
            return claims
        }
    }

    /// Remembers what a token says that has just been verified; not where one of the claims is longer than a user's name may be.
    public func keep(_ claims: TokenClaims, _ key: Key) {
        guard let kept = claims.only(key.names, upTo: Self.wordLimit) else { return }
        state.withLock { $0.keep(kept, key) }
    }
}
