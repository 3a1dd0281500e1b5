// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOCore
import NIOHTTP1

/// A whole answer of the control plane.
struct ControlAnswer: Sendable {
    var status: Int
    var headers: [(String, String)]
    var body: [UInt8]

    init(status: Int, contentType: String, body: [UInt8]) {
        self.status = status
        headers = [("Content-Type", contentType)]
        self.body = body
    }

    init(json value: some Encodable, status: Int = 200) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        self.init(status: status, contentType: "application/json", body: (try? encoder.encode(value)).map(Array.init) ?? [])
    }

    init(_ problem: Problem) {
        if let quick = problem.quickJSON {
            self.init(status: problem.status, contentType: "application/problem+json", body: quick)
        } else {
            self.init(json: problem, status: problem.status)
            headers = [("Content-Type", "application/problem+json")]
        }
        if let seconds = problem.retryAfter { headers.append(("Retry-After", "\(Int(max(1, min(2_678_400, seconds.rounded(.up)))))")) }
        if problem.status == 405 {
            let methods = problem.detail.split(separator: " ").filter { $0.allSatisfy(\.isUppercase) }
            headers.append(("Allow", methods.joined(separator: ", ")))
        }
        if problem.status == 401 { headers.append(("WWW-Authenticate", "Bearer")) }
    }

    /// A problem as it is thrown stays one; anything else is a failure of the node.
    init(failure: any Error) {
        self.init(Self.asProblem(failure))
    }

    static func asProblem(_ failure: any Error) -> Problem {
        (failure as? Problem) ?? Problem(code: "internal", title: "The node failed", status: 500, detail: "\(failure)")
    }

    static func problem(_ problem: Problem) -> (body: ByteBuffer, headers: [(String, String)]) {
        let answer = ControlAnswer(problem)
        return (ByteBuffer(bytes: answer.body), answer.headers)
    }
}

/// Every route but the invocation and the upload.
enum ControlRoutes {
    /// `PUT /v1/tenants/T/functions`.
    static func uploadTenant(_ path: RequestPath) -> Name? {
        guard path.parts.count == 4, path.parts[0] == "v1", path.parts[1] == "tenants", path.parts[3] == "functions" else { return nil }
        return Name(path.parts[2])
    }

    /// The tenant that a path is of; nil for one of the node's.
    static func tenant(_ path: RequestPath) -> Name? {
        guard path.parts.count >= 3, path.parts[0] == "v1", path.parts[1] == "tenants" else { return nil }
        return Name(path.parts[2])
    }

    /// Why a caller gets nothing, as far as a request's head tells; nil where it may, and where only the path is wrong.
    static func objection(_ method: HTTPMethod, _ path: RequestPath, _ caller: Caller, _ service: any NodeService) -> Problem? {
        let parts = path.parts
        if parts.count >= 3, parts[0] == "v1", parts[1] == "tenants" {
            guard let tenant = tenant(path) else { return .badRequest("a tenant's name is 1-63 characters of a-z, 0-9 and -") }
            let rest = Array(parts.dropFirst(3))
            let problem = service.objection(caller, tenant: tenant, scope: scope(method == .HEAD ? .GET : method, rest))
            // Who may something here and mistypes a path is to look for the mistake, not for a right.
            guard let problem, problem.status == 403, !Routes.isOfTenant(rest) else { return problem }
            return service.objection(caller, tenant: tenant, scope: .invoke) == nil ? .notFound("such resource") : problem
        }
        // Nothing of the node is open because it was forgotten: what is not in the table is not there, and what is, is the operators'.
        if parts.first == "v1", !Routes.isOfNode(Array(parts.dropFirst())) { return .notFound("such resource") }
        guard parts == ["metrics"] || parts.first == "v1", let problem = service.objection(caller, tenant: nil, scope: .admin) else {
            return nil
        }
        // Figures without any tenant's name are for a scraper on this machine, too.
        if parts == ["metrics"], case .network(_, isLoopback: true) = caller { return nil }
        return problem
    }

    private static func scope(_ method: HTTPMethod, _ rest: [String]) -> Scope {
        // A call that comes here is written wrong, and its caller is told how.
        if rest.count == 3, rest[0] == "functions", rest[2] == "invocations" { return .invoke }
        let isForAdmin = ["keys", "audit"].contains(rest.first) || (rest.first == "buckets" && method != .GET)
        return isForAdmin
            ? .admin : EventRoutes.roots.contains(rest.first ?? "") ? EventRoutes.scope(rest) : method != .GET ? .deploy : .invoke
    }

    static func answer(
        _ method: HTTPMethod, _ path: RequestPath, _ body: [UInt8], _ caller: Caller, _ service: any NodeService
    ) async -> ControlAnswer {
        // HEAD is GET whose body is left away on its way out (RFC 9110, section 9.3.2).
        let method = method == .HEAD ? .GET : method
        do { return try await Caller.$asking.withValue(caller) { try await route(method, path, body, caller, service) } } catch {
            return ControlAnswer(failure: error)
        }
    }

    private static func route(
        _ method: HTTPMethod, _ path: RequestPath, _ body: [UInt8], _ caller: Caller, _ service: any NodeService
    ) async throws -> ControlAnswer {
        let parts = path.parts
        switch parts {
        case ["healthz"]:
            try need(method, .GET)
            return ControlAnswer(status: 200, contentType: "text/plain", body: Array("ok\n".utf8))
        case ["readyz"]:
            try need(method, .GET)
            return service.isReady
                ? ControlAnswer(status: 200, contentType: "text/plain", body: Array("ready\n".utf8))
                : ControlAnswer(
                    status: 503, contentType: "text/plain", body: Array("\(service.isDraining ? "draining" : "starting")\n".utf8))
        default: break
        }
        if let problem = objection(method, path, caller, service) { throw problem }
        if let tenant = tenant(path) {
            return try await tenantRoute(method, tenant, Array(parts.dropFirst(3)), path, body, service)
        }
        if parts.first == "v1" { try path.check(Array(parts.dropFirst())) }
        if parts.first == "v1", let answer = try await EventRoutes.answer(method, nil, Array(parts.dropFirst()), path, body, service) {
            return answer
        }
        switch parts {
        case ["metrics"]:
            try need(method, .GET)
            return ControlAnswer(
                status: 200, contentType: "text/plain; version=0.0.4",
                body: Array(try await service.metrics(detailed: caller == .operator).utf8))
        case ["v1", "version"]:
            try need(method, .GET)
            return ControlAnswer(json: try await service.node())
        case ["v1", "logs"]:
            try need(method, .GET)
            return try await LogRoutes.answer(nil, nil, path, service)
        case ["v1", "audit"]:
            try need(method, .GET)
            return try await AuditRoutes.answer(nil, path, service)
        case let parts where parts.count > 1 && SnapshotRoutes.roots.contains(parts[1]):
            return try await SnapshotRoutes.answer(method, Array(parts.dropFirst()), path, body, service)
        case ["v1", "applications"]:
            try need(method, .GET)
            return ControlAnswer(json: try await service.applications(nil))
        case ["v1", "top"]:
            try need(method, .GET)
            return ControlAnswer(json: try await service.top(nil))
        case ["v1", "reload"]:
            try need(method, .POST)
            guard body.isEmpty || (try? JSONDecoder().decode(ReloadRequest.self, from: Data(body))) != nil else {
                throw Problem.badRequest("send {\"dryRun\": true} or false")
            }
            let request = try? JSONDecoder().decode(ReloadRequest.self, from: Data(body))
            return ControlAnswer(json: try await service.reload(dryRun: request?.dryRun ?? false))
        case ["v1", "restart"], ["v1", "drain"]: return try await LifeRoutes.answer(method, parts[1], body, service)
        case ["v1", "tenants"]:
            try need(method, .GET)
            return ControlAnswer(json: try await service.tenants())
        case ["v1", "functions"]:
            try need(method, .GET)
            return ControlAnswer(json: try await service.functions(tenant: nil))
        case ["v1", "workers"]:
            try need(method, .GET)
            return ControlAnswer(json: try await service.workers(tenant: nil))
        case let parts where parts.count == 3 && parts[0] == "v1" && parts[1] == "workers":
            try need(method, .GET)
            guard let worker = WorkerID(parts[2]) else { throw Problem.notFound("worker \(parts[2].prefix(40))") }
            return ControlAnswer(json: try await service.inspect(worker))
        case let parts where parts.count == 4 && parts[0] == "v1" && parts[1] == "invocations" && parts[3] == "explain":
            try need(method, .GET)
            return ControlAnswer(json: try await service.explain(try invocation(parts[2]), tenant: nil))
        default: throw Problem.notFound("such resource")
        }
    }

    private static func tenantRoute(
        _ method: HTTPMethod, _ tenant: Name, _ rest: [String], _ path: RequestPath, _ body: [UInt8], _ service: any NodeService
    ) async throws -> ControlAnswer {
        try path.check(rest)
        if EventRoutes.roots.contains(rest.first ?? ""),
            let answer = try await EventRoutes.answer(method, tenant, rest, path, body, service)
        {
            return answer
        }
        switch rest.first {
        case "buckets": return try await BucketRoutes.answer(method, tenant, Array(rest.dropFirst()), path, service)
        case "workers" where rest.count == 1:
            try need(method, .GET)
            return ControlAnswer(json: try await service.workers(tenant: tenant))
        case "invocations" where rest.count == 3 && rest[2] == "explain":
            try need(method, .GET)
            return ControlAnswer(json: try await service.explain(try invocation(rest[1]), tenant: tenant))
        case "quota" where rest.count == 1:
            try need(method, .GET)
            return ControlAnswer(json: try await service.quota(tenant))
        case "top" where rest.count == 1:
            try need(method, .GET)
            return ControlAnswer(json: try await service.top(tenant))
        case "usage" where rest.count == 1:
            try need(method, .GET)
            func time(_ key: String) throws -> UInt64? {
                guard let text = path.query[key] else { return nil }
                guard let value = UInt64(text) else { throw Problem.badRequest("\(key) must be a time in milliseconds since 1970") }
                return value
            }
            return ControlAnswer(
                json: try await service.usage(
                    tenant, from: try time("from") ?? 0, to: try time("to") ?? UInt64(Int64.max), by: path.query["by"] ?? "total"))
        case "audit" where rest.count == 1:
            try need(method, .GET)
            return try await AuditRoutes.answer(tenant, path, service)
        case "keys": return try await keyRoute(method, tenant, rest, body, service)
        case "logs" where rest.count == 1:
            try need(method, .GET)
            return try await LogRoutes.answer(tenant, nil, path, service)
        case "functions":
            if rest.count == 1 {
                try need(method, .GET, or: .PUT)
                return ControlAnswer(json: try await service.functions(tenant: tenant))
            }
            guard let name = Name(rest[1]) else { throw Problem.badRequest("a function's name is 1-63 characters of a-z, 0-9 and -") }
            let function = FunctionID(tenant: tenant, function: name)
            switch Array(rest.dropFirst(2)) {
            case []:
                try need(method, .DELETE)
                try await service.delete(function)
                return ControlAnswer(status: 204, contentType: "application/json", body: [])
            case ["versions"]:
                try need(method, .GET)
                return ControlAnswer(json: try await service.versions(function))
            case ["logs"]:
                try need(method, .GET)
                return try await LogRoutes.answer(tenant, name, path, service)
            case ["invocations"]: throw Problem.badRequest("a version is a number from 1 to \(UInt32.max)")
            case let rest: return try await VersionRoutes.answer(method, function, rest, body, service)
            }
        case "applications" where rest.count == 1:
            try need(method, .GET)
            return ControlAnswer(json: try await service.applications(tenant))
        default: throw Problem.notFound("such resource")
        }
    }

    private static func keyRoute(
        _ method: HTTPMethod, _ tenant: Name, _ rest: [String], _ body: [UInt8], _ service: any NodeService
    ) async throws -> ControlAnswer {
        if rest.count == 3, rest[2] == "rotate" {
            try need(method, .POST)
            guard let request = try? JSONDecoder().decode(KeyRotationRequest.self, from: Data(body)) else {
                throw Problem.badRequest("send {\"graceSeconds\": N}")
            }
            return ControlAnswer(json: try await service.rotateKey(tenant, id: rest[1], graceSeconds: request.graceSeconds), status: 201)
        }
        if rest.count == 2 {
            try need(method, .DELETE)
            try await service.revokeKey(tenant, id: rest[1])
            return ControlAnswer(status: 204, contentType: "application/json", body: [])
        }
        guard rest.count == 1 else { throw Problem.notFound("such resource") }
        if method == .GET { return ControlAnswer(json: try await service.keys(tenant)) }
        try need(method, .POST, or: .GET)
        let form = "send {\"scopes\": [...]} with invoke, deploy or admin, each once"
        guard let request = try? JSONDecoder().decode(KeyRequest.self, from: Data(body)) else { throw Problem.badRequest(form) }
        let known = [Scope.invoke, .deploy, .admin]
        guard (1...known.count).contains(request.scopes.count), Set(request.scopes).count == request.scopes.count else {
            throw Problem.badRequest(form)
        }
        if let other = request.scopes.first(where: { scope in !known.contains { $0.rawValue == scope } }) {
            throw Problem.badRequest("'\(other.prefix(40))' is no scope of a key: it is invoke, deploy or admin")
        }
        return ControlAnswer(json: try await service.createKey(tenant, scopes: request.scopes), status: 201)
    }

    static func invocation(_ text: String) throws -> InvocationID {
        guard let id = InvocationID(text) else { throw Problem.badRequest("an invocation's id has 32 hexadecimal digits") }
        return id
    }

    /// `other`: what the same path takes elsewhere.
    static func need(_ method: HTTPMethod, _ wanted: HTTPMethod, or other: HTTPMethod? = nil) throws {
        guard method == wanted else {
            let methods = [wanted, other].compactMap { $0?.rawValue }.joined(separator: " or ")
            throw Problem(code: "methodNotAllowed", title: "Method not allowed", status: 405, detail: "use \(methods) here")
        }
    }
}
