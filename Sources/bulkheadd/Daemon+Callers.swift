// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Store
import Synchronization

/// Who may ask for what, and the keys that show it.
extension Daemon {
    func objection(_ caller: Caller, tenant: Name?, scope: Scope) -> Problem? {
        let isKnown = tenant.map { name in tenantNames.withLock { $0.contains(name) } } ?? true
        switch caller {
        case .operator: return isKnown ? nil : .notFound("tenant \(tenant?.text ?? "")")
        case .network(let key, let isLoopback):
            if let key {
                // A key of another tenant and a tenant that is not there look alike.
                guard let record = keyRing.withLock({ $0.record(key, at: UInt64(Date().timeIntervalSince1970 * 1000)) }) else {
                    return Self.unauthorized("this key is not valid")
                }
                guard let tenant, record.tenant == tenant, isKnown else { return .notFound("tenant or resource for this key") }
                guard record.scopes.contains(scope.rawValue) || record.scopes.contains(Scope.admin.rawValue) else {
                    let scopes = record.scopes.joined(separator: ", ")
                    return Problem(
                        code: "forbidden", title: "Forbidden", status: 403,
                        detail: "this key may not \(scope.rawValue): its scopes are \(scopes); create one with --scope \(scope.rawValue)")
                }
                return nil
            }
            guard let tenant else { return Self.unauthorized("what concerns the whole node is answered on its control socket alone") }
            guard isLoopback, acceptsKeyless else { return Self.unauthorized("send a key: Authorization: Bearer KEY") }
            if keyRing.withLock({ $0.hasKeys(tenant) }) { return Self.unauthorized("send a key: Authorization: Bearer KEY") }
            return isKnown ? nil : .notFound("tenant \(tenant)")
        }
    }

    private static func unauthorized(_ detail: String) -> Problem {
        Problem(code: "unauthorized", title: "Unauthorized", status: 401, detail: detail)
    }

    func keys(_ tenant: Name) async throws -> [KeyReply] {
        let store = store
        return try await onDisk { try store.keys(of: tenant).map { Self.reply($0.record, nil) } }
    }

    func createKey(_ tenant: Name, scopes: [String]) async throws -> KeyReply {
        let store = store
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        try needsRoom(tenant, now)
        let made = try await onDisk { try store.createKey(tenant: tenant, scopes: scopes, at: now) }
        keyRing.withLock { $0.add(made.record, made.key) }
        return Self.reply(made.record, made.key)
    }

    func rotateKey(_ tenant: Name, id: String, graceSeconds: UInt64) async throws -> KeyReply {
        guard graceSeconds <= 30 * 86_400 else { throw Problem.badRequest("graceSeconds must be at most 30 days") }
        let store = store
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        try needsRoom(tenant, now)
        let end = now + graceSeconds * 1000
        let made = try await onDisk { try store.rotateKey(id, tenant: tenant, at: now, oldUntil: end) }
        guard let made else { throw Problem.notFound("key \(id.prefix(40))") }
        keyRing.withLock {
            $0.end(id, tenant, at: end)
            $0.add(made.record, made.key)
        }
        return Self.reply(made.record, made.key)
    }

    func revokeKey(_ tenant: Name, id: String) async throws {
        let store = store
        // First in memory: whoever revokes a key that got out must not depend on a disk that is full.
        keyRing.withLock { $0.revoke(id, tenant) }
        guard try await onDisk({ try store.revokeKey(id, tenant: tenant) }) else { throw Problem.notFound("key \(id.prefix(40))") }
    }

    private func needsRoom(_ tenant: Name, _ now: UInt64) throws {
        guard keyRing.withLock({ $0.hasRoom(tenant, at: now) }) else {
            throw Problem(
                code: "overQuota", title: "Too many keys", status: 429,
                detail: "tenant \(tenant) has \(KeyRing.limit) valid keys, and more are not made: revoke those that nobody uses")
        }
    }

    private static func reply(_ record: KeyRecord, _ key: String?) -> KeyReply {
        KeyReply(
            id: record.id, key: key, tenant: record.tenant.text, scopes: record.scopes, createdAt: record.createdAt,
            revoked: record.isRevoked, lastUsedAt: record.lastUsedAt)
    }
}
