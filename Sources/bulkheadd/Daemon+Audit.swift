// SPDX-License-Identifier: Apache-2.0
import Core
import Dispatch
import Gateway
import Logging
import Store
import Synchronization

/// The record of control actions.
extension Daemon {
    func keyID(_ key: String) -> String? { keyRing.withLock { $0.record(key)?.id } }

    func audit(_ records: [AuditRecord], of tenant: Name?) async {
        let audit = audit
        do { try await onAuditDisk { try audit.append(records, of: tenant) } } catch {
            // The action is done and its caller is told so; only its line is missing.
            let words = records.map { "\($0.who): \($0.action) \($0.target) \($0.outcome)" }.joined(separator: "; ").prefix(1000)
            logger.error("a control action is not on record", metadata: ["action": "\(words)", "reason": "\(error)"])
        }
    }

    func audits(_ query: AuditQuery) async throws -> [AuditRecord] {
        let audit = audit
        return try await onAuditDisk { audit.query(query) }
    }

    func pruneAudit() async {
        let audit = audit
        try? await onAuditDisk { audit.prune(now: Self.wall()) }
    }

    /// Apart from the other disk work: a long question about years of records must hold up no deploy.
    func onAuditDisk<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            auditDisk.async { continuation.resume(with: Result { try body() }) }
        }
    }
}
