// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
import Foundation
import NIOHTTP1
public import Store

/// What the gateway asks of the daemon about the record of control actions.
public protocol AuditService: Sendable {
    /// The id of a valid key; nil for any other text.
    func keyID(_ key: String) -> String?
    /// Returns when the disk has the records; what cannot be kept is said in the node's log. `tenant` nil: the node's.
    func audit(_ records: [AuditRecord], of tenant: Name?) async
    func audits(_ query: AuditQuery) async throws -> [AuditRecord]
}

/// `GET /v1/audit` and `GET /v1/tenants/T/audit`.
enum AuditRoutes {
    static func answer(_ tenant: Name?, _ path: RequestPath, _ service: any AuditService) async throws -> ControlAnswer {
        var query = AuditQuery()
        query.tenant = tenant
        func number<T: FixedWidthInteger>(_ key: String, _ type: T.Type = T.self) throws -> T? {
            guard let text = path.query[key] else { return nil }
            guard let value = T(text) else { throw Problem.badRequest("\(key) must be a number") }
            return value
        }
        query.since = try number("since") ?? 0
        query.until = try number("until") ?? .max
        query.tail = min(10_000, max(1, try number("tail") ?? 100))
        query.grep = path.query["grep"]
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        var out: [UInt8] = []
        for record in try await service.audits(query) { out += Array(try encoder.encode(record)) + [0x0A] }
        return ControlAnswer(status: 200, contentType: "application/x-ndjson", body: out)
    }
}

/// The one place where control actions are put on record.
public struct AuditTrail: Sendable {
    let caller: Caller
    /// The user behind the control socket, as the kernel names it.
    let peer: UInt32?
    /// The address, for any other caller.
    let address: String
    let service: any NodeService

    /// Performs a request. An action goes on record before it is answered, whatever came of it, but for callers who may not do anything with the tenant:
    /// strangers must not be able to fill the log.
    func perform(
        _ method: HTTPMethod, _ path: RequestPath, _ body: [UInt8], _ perform: () async -> ControlAnswer
    ) async -> ControlAnswer {
        guard var action = ControlAction(method, path) else { return await perform() }
        let isStranger = service.objection(caller, tenant: action.tenant, scope: .invoke) != nil
        guard !isStranger || caller == .operator else { return await perform() }
        if action.word == "rollback" {
            let request = try? JSONDecoder().decode(RollbackRequest.self, from: Data(body))
            action.alias = request?.alias.flatMap { Name($0) } ?? .latest
        }
        let state = isStranger ? nil : await AuditState(action, service)
        let looked = await state?.words(action, body) ?? ""
        let answer = await perform()
        let reply = try? JSONDecoder().decode(AuditWords.self, from: Data(answer.body))
        let isGood = answer.status < 400
        var detail = AuditWords.text(Array(body.prefix(64 << 10)), AuditWords.asked)
        if isGood {
            let before = action.word == "deploy" ? state?.before(deployOf: reply?.function) ?? "" : looked
            var after = AuditWords.text(answer.body, AuditWords.answered)
            if action.word == "key rotate" { after = "key \(reply?.id ?? ""), \(after)" }
            if AuditState.isOf(action) {
                if after.isEmpty { after = await state?.words(action, body) ?? "" }
                after = "\(before.isEmpty ? "none" : before) -> \(after.isEmpty ? "none" : after)"
            }
            detail = [detail, after].filter { !$0.isEmpty }.joined(separator: "; ")
        }
        // An operator who misspells a tenant makes no folder.
        let owner = isStranger ? nil : action.tenant ?? (isGood ? reply?.tenant.flatMap { Name($0) } : nil)
        let record = AuditRecord(
            time: Self.now(), who: who, from: address, tenant: (owner ?? action.tenant)?.text ?? "", action: action.word,
            target: action.target.isEmpty && isGood ? reply?.target ?? "" : action.target, detail: detail,
            outcome: isGood ? "ok" : reply?.code ?? "\(answer.status)")
        await service.audit([record], of: owner)
        if action.word == "reload", isGood, let reply = try? JSONDecoder().decode(ReloadReply.self, from: Data(answer.body)) {
            await Self.note(reply, who: who, from: address, service)
        }
        return answer
    }

    private var who: String {
        if let peer { return "uid \(peer)" }
        guard case .network(let key?, _) = caller else { return "loopback" }
        return service.keyID(key).map { "key \($0)" } ?? "key"
    }

    private static func now() -> UInt64 { UInt64(Date().timeIntervalSince1970 * 1000) }

    /// Tells each tenant what a reload has changed for it; where very many change at once, only the node's record tells.
    static func note(_ reply: ReloadReply, who: String, from: String, _ service: any AuditService) async {
        guard reply.applied else { return }
        let byTenant = Dictionary(grouping: reply.changes, by: \.tenant)
        guard byTenant.count <= 200 else { return }
        for (tenant, changes) in byTenant.sorted(by: { $0.key < $1.key }) {
            let records = changes.prefix(200).map {
                AuditRecord(
                    time: now(), who: who, from: from, tenant: tenant, action: "configuration", target: $0.key,
                    detail: "\($0.before) -> \($0.after)", outcome: "ok")
            }
            await service.audit(records, of: Name(tenant))
        }
    }
}

/// The few words of a request's or an answer's JSON that go on record. Only what is named here does: no key's value, no payload, no secret.
struct AuditWords: Decodable {
    static let asked = [
        "targets", "automaticRollback", "alias", "function", "all", "ids", "ratePerSecond", "edge", "mode", "count", "scopes",
        "graceSeconds", "dryRun", "undo", "spawner",
    ]
    static let answered = [
        "version", "weight", "canary", "codeHash", "aliases", "scopes", "redriven", "scheduled", "left", "purged", "state", "parked",
        "applied", "functions", "versions", "keys", "objects", "bytes", "draining",
    ]

    var code: String?
    var tenant: String?
    var function: String?
    private var edge: String?
    var id: String?

    var target: String? { edge ?? function ?? id }

    static func text(_ body: [UInt8], _ keys: [String]) -> String {
        guard let object = try? JSONSerialization.jsonObject(with: Data(body)) as? [String: Any] else { return "" }
        return keys.compactMap { key in object[key].map { "\(key) \(word($0))" } }.joined(separator: ", ")
    }

    private static func word(_ value: Any) -> String {
        switch value {
        case let list as [Any]: list.prefix(10).map { word($0) }.joined(separator: " ") + (list.count > 10 ? " (of \(list.count))" : "")
        case let object as [String: Any]:
            ["version", "weight"].compactMap { key in object[key].map { word($0) } }.joined(separator: "@")
        default: String("\(value)".prefix(256))
        }
    }
}

extension AuditTrail {
    /// A reload that a signal asked for. `failure`: the problem's code.
    public static func signalled(_ reply: ReloadReply?, failure: String, _ service: any AuditService) async {
        let record = AuditRecord(
            time: now(), who: "signal", from: "SIGHUP", tenant: "", action: "reload", target: "", detail: "",
            outcome: reply == nil ? failure : "ok")
        await service.audit([record], of: nil)
        if let reply { await note(reply, who: "signal", from: "SIGHUP", service) }
    }
}
