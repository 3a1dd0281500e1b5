// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Gateway
import Store
import Synchronization

extension StubService {
    func keyID(_ key: String) -> String? { key == "good" ? "k-1" : nil }
    func audit(_ records: [AuditRecord], of tenant: Name?) async { recorded.withLock { $0 += records.map { (tenant?.text ?? "-", $0) } } }
    func makeSnapshot(buckets: Bool, logs: Bool) async throws -> SnapshotReply {
        note("snapshot buckets=\(buckets) logs=\(logs)")
        return SnapshotReply(id: "0123456789abcdef", release: "1", schemas: [:])
    }
    func makeExport(_ tenant: Name, buckets: Bool) async throws -> ExportReply {
        note("export \(tenant) buckets=\(buckets)")
        return ExportReply(id: "0123456789abcdef", tenant: tenant.text, release: "1")
    }
    func importTenant(_ id: String, as tenant: Name) async throws -> ImportReply {
        note("import \(id) \(tenant)")
        return ImportReply(tenant: tenant.text, functions: 1, versions: 2, keys: 3, keysLeftOut: 0)
    }
    func undoImport(_ tenant: Name) async throws { note("undo \(tenant)") }
    func removeSnapshot(_ id: String) async throws { note("remove snapshot \(id)") }
    func audits(_ query: AuditQuery) async throws -> [AuditRecord] {
        note("audit \(query.tenant?.text ?? "-") \(query.since) \(query.grep ?? "-") \(query.tail)")
        return []
    }
}
