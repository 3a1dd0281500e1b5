// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Logging
import Store
import Synchronization

/// The lineages that leave this node with webhooks and come back with requests.
///
/// A token says which root a request continues, and nothing else: it opens no door. Who shows one without need harms his own request, which then may be parked. One that is shown
/// again is believed again: were it not, a loop whose receiver calls back twice would begin a new root with every second call. So what one token can use up is its root's budget.
final class LineageTokens: Sendable {
    /// What a receiver may pass back.
    static let header = "Bulkhead-Lineage"
    /// How long a token is good for, in milliseconds.
    static let lifetime: UInt64 = 15 * 60 * 1000
    /// Tokens that are remembered to tell those that come again; beyond, the count of these is too low.
    private static let memory = 16_384
    /// `foreign`: accepted, from another tenant.
    static let results = ["accepted", "reused", "foreign", "malformed", "forged", "expired"]

    private struct State {
        var counts: [String: UInt64] = [:]
        /// Of the present and of the last lifetime.
        var seen: (new: Set<Int>, old: Set<Int>) = ([], [])
        var turnedAt: UInt64 = 0
        var toldAt: [String: UInt64] = [:]
    }
    private let state = Mutex(State())
    private let secret: [UInt8]
    private let logger: Logger

    init(path: String, _ logger: Logger) {
        secret = NodeSecret.load(path, logger)
        self.logger = logger
    }

    /// - Parameter now: milliseconds since 1970, as below.
    func sign(_ lineage: Lineage, of tenant: Name, at now: UInt64) -> String {
        LineageToken.sign(lineage, tenant: tenant, expiresAt: now + Self.lifetime, secret: secret)
    }

    /// What a request goes on from; nil where the token is not one of this node or too old, which is counted and, once a minute, told in the log.
    /// A loop may go through several tenants, each of which posts to a receiver that calls the next.
    func lineage(_ token: String, of tenant: Name, at now: UInt64) -> Lineage? {
        do throws(LineageToken.Fault) {
            let (lineage, sender) = try LineageToken.verify(token, at: now, secret: secret)
            guard sender == tenant else {
                note("foreign")
                return lineage.returned.crossing(from: sender, to: tenant)
            }
            note(isNew(token, at: now) ? "accepted" : "reused")
            return lineage.returned
        } catch {
            if note(error.rawValue, at: now) {
                logger.notice("a lineage token was not believed", metadata: ["tenant": "\(tenant)", "reason": "\(error.rawValue)"])
            }
            return nil
        }
    }

    /// Since the start, by one of ``results``.
    var counts: [String: UInt64] { state.withLock { $0.counts } }

    private func note(_ result: String) { state.withLock { $0.counts[result, default: 0] += 1 } }

    /// Whether it should be told.
    private func note(_ result: String, at now: UInt64) -> Bool {
        state.withLock { state in
            state.counts[result, default: 0] += 1
            if let last = state.toldAt[result], now < last + 60_000 { return false }
            state.toldAt[result] = now
            return true
        }
    }

    private func isNew(_ token: String, at now: UInt64) -> Bool {
        // Seeded anew by each process: nobody outside can choose two that meet.
        let hash = token.hashValue
        return state.withLock { state in
            if now >= state.turnedAt + Self.lifetime { (state.seen, state.turnedAt) = (([], state.seen.new), now) }
            if state.seen.new.contains(hash) || state.seen.old.contains(hash) { return false }
            if state.seen.new.count < Self.memory { state.seen.new.insert(hash) }
            return true
        }
    }
}

/// What this node signs its lineage tokens with: 32 random bytes that never leave it. No backup has them: tokens are good for minutes.
enum NodeSecret {
    static let length = 32

    /// The secret in the file `path`; made where there is none or where it has another length. One that cannot be stored is good until the daemon ends:
    /// tokens then do not outlive a restart, and a daemon that does not start helps nobody.
    static func load(_ path: String, _ logger: Logger) -> [UInt8] {
        if let found = FileManager.default.contents(atPath: path), found.count == length { return Array(found) }
        var generator = SystemRandomNumberGenerator()
        let secret = (0..<length).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
        // A file that is there keeps its mode: it must not lend a new secret a mode that others can read.
        try? FileManager.default.removeItem(atPath: path)
        if !FileManager.default.createFile(atPath: path, contents: Data(secret), attributes: [.posixPermissions: 0o600]) {
            logger.error("the secret for lineage tokens cannot be stored: they end with this daemon", metadata: ["file": "\(path)"])
        }
        return secret
    }
}
