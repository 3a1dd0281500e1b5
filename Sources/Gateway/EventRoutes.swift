// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOHTTP1

/// Events, dead letters, failed calls, loops and triggers: below `/v1/tenants/T`, and below `/v1` for the whole node.
enum EventRoutes {
    static let roots: Set<String> = ["events", "dead-letters", "failures", "loops", "triggers", "invocations"]

    /// What a caller must be allowed to. Payloads and reasons are the tenant's: a key that only invokes sees the one event whose id it was given, and may stop it.
    static func scope(_ rest: [String]) -> Scope { rest.first == "invocations" ? .invoke : .deploy }

    /// Nil where the path is none of these; `rest` is what stands below `/v1/tenants/T` or `/v1`.
    static func answer(
        _ method: HTTPMethod, _ tenant: Name?, _ rest: [String], _ path: RequestPath, _ body: [UInt8], _ service: any EventService
    ) async throws -> ControlAnswer? {
        switch rest {
        case ["events"], ["dead-letters"]:
            try ControlRoutes.need(method, .GET)
            return ControlAnswer(json: try await service.events(try filter(path, tenant, onlyDead: rest == ["dead-letters"])))
        case ["dead-letters", "redrive"]:
            try ControlRoutes.need(method, .POST)
            let (letters, request) = try deadLetters(body, tenant)
            return ControlAnswer(json: try await service.redrive(letters, tenant: tenant, ratePerSecond: request.ratePerSecond))
        case ["dead-letters", "purge"]:
            try ControlRoutes.need(method, .POST)
            return ControlAnswer(json: try await service.purge(try deadLetters(body, tenant).0, tenant: tenant))
        case ["failures"]:
            try ControlRoutes.need(method, .GET)
            return ControlAnswer(json: try await service.failures(try failures(path, tenant)))
        case ["loops"]:
            try ControlRoutes.need(method, .GET)
            return ControlAnswer(json: try await service.loops(tenant: tenant))
        case ["loops", "resume"]:
            try ControlRoutes.need(method, .POST)
            let (edge, resume) = try self.resume(body, tenant)
            return ControlAnswer(json: try await service.resume(edge, resume))
        case ["triggers"]:
            try ControlRoutes.need(method, .GET)
            return ControlAnswer(json: try await service.triggers(tenant: tenant, function: try function(path.query["function"])))
        case let rest where rest.count == 2 && rest[0] == "invocations":
            if method != .DELETE { try ControlRoutes.need(method, .GET, or: .DELETE) }
            let id = try ControlRoutes.invocation(rest[1])
            return ControlAnswer(
                json: method == .GET ? try await service.event(id, tenant: tenant) : try await service.stop(id, tenant: tenant))
        case let rest where rest.count == 3 && rest[0] == "events" && rest[2] == "payload":
            try ControlRoutes.need(method, .GET)
            let (type, bytes) = try await service.payload(try ControlRoutes.invocation(rest[1]), tenant: tenant)
            // The caller's words: what could break the head is not repeated.
            let isSafe = !type.isEmpty && type.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7F }
            return ControlAnswer(status: 200, contentType: isSafe ? type : "application/octet-stream", body: bytes)
        default: return nil
        }
    }

    private static func filter(_ path: RequestPath, _ tenant: Name?, onlyDead: Bool) throws -> EventFilter {
        var filter = EventFilter()
        filter.tenant = tenant
        filter.function = try function(path.query["function"])
        filter.after = path.query["after"]
        if onlyDead {
            filter.state = "dead"
        } else if let state = path.query["state"] {
            guard EventReply.states.contains(state) else {
                throw Problem.badRequest("state is one of \(EventReply.states.joined(separator: ", "))")
            }
            filter.state = state
        }
        filter.limit = try limit(path) ?? filter.limit
        return filter
    }

    private static func failures(_ path: RequestPath, _ tenant: Name?) throws -> FailureFilter {
        func time(_ key: String) throws -> UInt64? {
            guard let text = path.query[key] else { return nil }
            guard let value = UInt64(text) else { throw Problem.badRequest("\(key) is a time in milliseconds since 1970") }
            return value
        }
        var filter = FailureFilter()
        filter.tenant = tenant
        filter.function = try function(path.query["function"])
        filter.since = try time("since") ?? 0
        filter.until = try time("until") ?? .max
        guard filter.since <= filter.until else { throw Problem.badRequest("until is before since: change one, or leave it away") }
        filter.limit = try limit(path) ?? filter.limit
        if let text = path.query["outcome"] {
            guard let outcome = Outcome(rawValue: text), outcome != .ok else {
                let words = Outcome.allCases.filter { $0 != .ok }.map(\.rawValue)
                throw Problem.badRequest("outcome is one of \(words.joined(separator: ", "))")
            }
            filter.outcome = outcome
        }
        return filter
    }

    private static func limit(_ path: RequestPath) throws -> Int? {
        guard let text = path.query["limit"] else { return nil }
        guard let limit = Int(text), (1...1000).contains(limit) else { throw Problem.badRequest("limit is a number from 1 to 1000") }
        return limit
    }

    private static func function(_ text: String?) throws -> Name? {
        guard let text else { return nil }
        guard let name = Name(text) else { throw Problem.badRequest("a function's name is 1-63 characters of a-z, 0-9 and -") }
        return name
    }

    private static func deadLetters(_ body: [UInt8], _ tenant: Name?) throws -> (DeadLetters, DeadLetterRequest) {
        let form = "send one of {\"ids\": [...]} with 1 to 1000 ids, {\"function\": NAME} and {\"all\": true}"
        guard let request = try? JSONDecoder().decode(DeadLetterRequest.self, from: Data(body)) else { throw Problem.badRequest(form) }
        if let rate = request.ratePerSecond, !(rate > 0 && rate <= 100_000) {
            throw Problem.badRequest("ratePerSecond is above 0 and at most 100000")
        }
        switch (request.ids, request.function, request.all) {
        case (let ids?, nil, nil):
            guard (1...1000).contains(ids.count) else { throw Problem.badRequest(form) }
            return (.these(try ids.map(ControlRoutes.invocation)), request)
        case (nil, let text?, nil):
            guard let name = try function(text), tenant != nil else { throw Problem.badRequest("a function is named below its tenant") }
            return (.function(name), request)
        case (nil, nil, true): return (.all, request)
        default: throw Problem.badRequest(form)
        }
    }

    private static func resume(_ body: [UInt8], _ tenant: Name?) throws -> (EdgeID, LoopResume) {
        guard let request = try? JSONDecoder().decode(LoopResumeRequest.self, from: Data(body)) else {
            throw Problem.badRequest("send {\"edge\": \"FUNCTION/TRIGGER\", \"mode\": \"discard\"}; the mode is discard, replay or keep")
        }
        let parts = request.edge.split(separator: "/", omittingEmptySubsequences: false).map { Name($0) }
        let owner = parts.count == 3 ? parts[0] : tenant
        guard (2...3).contains(parts.count), let owner, let function = parts[parts.count - 2], let trigger = parts[parts.count - 1] else {
            throw Problem.badRequest("an edge is written as TENANT/FUNCTION/TRIGGER, as `loops` lists it")
        }
        guard tenant == nil || owner == tenant else { throw Problem.notFound("edge \(request.edge.prefix(200))") }
        let edge = EdgeID(trigger: trigger, function: FunctionID(tenant: owner, function: function))
        if let count = request.count, count < 1 { throw Problem.badRequest("count is 1 or more") }
        switch request.mode {
        case "discard": return (edge, .discard)
        case "keep": return (edge, .keep)
        case "replay":
            let rate = request.ratePerSecond ?? 1
            guard rate >= 0.001, rate <= 1000 else { throw Problem.badRequest("ratePerSecond is from 0.001 to 1000") }
            return (edge, .replay(count: request.count ?? .max, every: Nanoseconds((1e9 / rate).rounded())))
        default: throw Problem.badRequest("the mode is discard, replay or keep")
        }
    }
}
