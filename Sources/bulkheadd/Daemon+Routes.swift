// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Logging
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// What requests from outside may reach of one tenant.
struct PublicTriggers: Sendable {
    var routes = RouteTable()
    var queues: [FunctionID: [Name: TriggerAuthorization]] = [:]

    init(_ functions: [(FunctionID, [TriggerSpec])]) {
        for (function, triggers) in functions {
            routes.set(function.function, triggers)
            for trigger in triggers {
                if case .queue(let authorization) = trigger.kind { queues[function, default: [:]][trigger.name] = authorization }
            }
        }
    }
}

/// HTTP routes and queues: who answers, and who may ask.
extension Daemon {
    /// Takes the routes and queues of what `latest` names of each function; after each change of that. A version that went back takes its routes along.
    func configureRoutes(of tenant: Name) async throws {
        let functions = Set(records.withLock { $0.keys.map(\.function) }.filter { $0.tenant == tenant }).sorted()
        try await supervisor.onLoop { [self] state in
            // On the loop, so that of two changes at a time the later one's routes stay.
            let found = functions.compactMap { function in
                state.latestVersion(function).flatMap { state.deployment($0) }.map { (function, $0.triggers) }
            }
            publicTriggers.withLock { $0[tenant] = PublicTriggers(found) }
        }
    }

    func route(_ tenant: Name, _ method: String, _ path: String) -> RouteTable.Match {
        guard tenantNames.withLock({ $0.contains(tenant) }) else { return .none }
        return publicTriggers.withLock { $0[tenant]?.routes.match(method, path) } ?? .none
    }

    func queue(_ function: FunctionID, _ trigger: Name) -> TriggerAuthorization? {
        guard tenantNames.withLock({ $0.contains(function.tenant) }) else { return nil }
        return publicTriggers.withLock { $0[function.tenant]?.queues[function]?[trigger] }
    }

    /// Secrets of deployed triggers that were found missing.
    private static let toldOf = Mutex<Set<String>>([])

    func signatureProblem(_ tenant: Name, secret: String, header: (String) -> String?, body: [UInt8]) -> Problem? {
        guard let known = tenantSecrets.withLock({ $0[tenant]?[secret] }) else {
            // Once: anybody can ask.
            if Self.toldOf.withLock({ $0.insert("\(tenant)/\(secret)").inserted }) {
                logger.error(
                    "a trigger's secret is not in its tenant's file: its requests are refused",
                    metadata: ["tenant": "\(tenant)", "secret": "\(secret)"])
            }
            return Problem(
                code: "unavailable", title: "Not available", status: 503,
                detail: "signatures cannot be checked now: the owner of this path has to add its secret")
        }
        let sentence: String
        switch Signature.fault(header, body, secret: known.bytes, at: UInt64(Date().timeIntervalSince1970)) {
        case nil: return nil
        case .missing: sentence = "the request is not signed"
        case .malformed: sentence = "the signature cannot be read"
        case .expired: sentence = "the signature's time is more than \(Signature.tolerance) s away: sign anew, and set the clocks"
        case .wrong: sentence = "the signature is not of this body under the secret of this path"
        }
        return Problem(code: "unauthorized", title: "Unauthorized", status: 401, detail: sentence)
    }

    func lineage(_ token: String, of tenant: Name) -> Lineage? {
        lineageTokens.lineage(token, of: tenant, at: UInt64(Date().timeIntervalSince1970 * 1000))
    }
}
