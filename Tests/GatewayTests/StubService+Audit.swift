// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Gateway
import Store
import Synchronization

extension StubService {
    func keyID(_ key: String) -> String? { key == "good" ? "k-1" : nil }
    func audit(_ records: [AuditRecord], of tenant: Name?) async { recorded.withLock { $0 += records.map { (tenant?.text ?? "-", $0) } } }
    func makeSnapshot() async throws -> SnapshotReply { SnapshotReply(id: "0123456789abcdef", release: "1", schemas: [:]) }
    func removeSnapshot(_ id: String) async throws { note("remove snapshot \(id)") }
    func audits(_ query: AuditQuery) async throws -> [AuditRecord] {
        note("audit \(query.tenant?.text ?? "-") \(query.since) \(query.grep ?? "-") \(query.tail)")
        return []
    }
}
