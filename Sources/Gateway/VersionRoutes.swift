// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOHTTP1

/// What is below `/v1/tenants/T/functions/F`, but for invocations, versions as a list, and logs.
enum VersionRoutes {
    /// `rest`: the path's parts behind the function.
    static func answer(
        _ method: HTTPMethod, _ function: FunctionID, _ rest: [String], _ body: [UInt8], _ service: any VersionService
    ) async throws -> ControlAnswer {
        let nothing = ControlAnswer(status: 204, contentType: "application/json", body: [])
        switch (rest.first, rest.count) {
        case ("aliases", 1):
            try ControlRoutes.need(method, .GET)
            return ControlAnswer(json: try await service.aliases(function))
        case ("aliases", 2):
            guard let name = Name(rest[1]) else { throw Problem.badRequest("an alias's name is 1-63 characters of a-z, 0-9 and -") }
            switch method {
            case .GET:
                let found = try await service.aliases(function).first { $0.alias == name.text }
                guard let found else { throw Problem.notFound("alias \(name) of \(function)") }
                return ControlAnswer(json: found)
            case .PUT: return ControlAnswer(json: try await service.setAlias(function, try alias(name, body)))
            case .DELETE:
                try await service.removeAlias(function, name)
                return nothing
            default:
                throw Problem(code: "methodNotAllowed", title: "Method not allowed", status: 405, detail: "use GET or PUT or DELETE here")
            }
        case ("rollback", 1):
            try ControlRoutes.need(method, .POST)
            return ControlAnswer(json: try await service.rollBack(function, try rollback(body)))
        case ("versions", 2):
            try ControlRoutes.need(method, .DELETE)
            guard let number = UInt32(rest[1]), number > 0, rest[1].utf8.first != 0x2B else {
                throw Problem.badRequest("a version is a number from 1 to \(UInt32.max)")
            }
            try await service.removeVersion(VersionID(function: function, number: number))
            return nothing
        default: throw Problem.notFound("such resource")
        }
    }

    private static func rollback(_ body: [UInt8]) throws -> Name {
        guard !body.isEmpty else { return .latest }
        guard let request = try? JSONDecoder().decode(RollbackRequest.self, from: Data(body)), let name = Name(request.alias ?? "latest")
        else { throw Problem.badRequest("send nothing, or {\"alias\": \"NAME\"}") }
        return name
    }

    static func refused(_ detail: String) -> Problem {
        Problem(code: "badAlias", title: "The alias is refused", status: 422, detail: detail + ". Nothing was changed")
    }

    private static func alias(_ name: Name, _ body: [UInt8]) throws -> AliasSpec {
        guard let request = try? JSONDecoder().decode(AliasRequest.self, from: Data(body)) else {
            throw Problem.badRequest(
                "send {\"targets\": [{\"version\": 7, \"weight\": 90}, {\"version\": 8, \"weight\": 10}]}, or one target")
        }
        let targets = request.targets
        guard targets.count == 1 || targets.count == 2 else {
            throw refused("an alias points at one version or at two, not at \(targets.count)")
        }
        guard targets.allSatisfy({ $0.version > 0 }) else { throw refused("versions are numbered from 1") }
        let weights = try targets.map { try share($0, isAlone: targets.count == 1) }
        guard weights.reduce(0, +) == AliasSpec.whole else {
            throw refused("the weights \(targets.map { text($0.weight ?? 0) }.joined(separator: " and ")) do not add up to 100")
        }
        let isAutomatic = request.automaticRollback ?? true
        guard targets.count == 2 else { return AliasSpec(name: name, primary: targets[0].version, isAutomatic: isAutomatic) }
        guard targets[0].version != targets[1].version else { throw refused("both targets are version \(targets[0].version)") }
        guard let canary = Canary(version: targets[1].version, weight: weights[1]) else {
            throw refused("a weight of 0 or 100 leaves one version nothing: name one version alone")
        }
        return AliasSpec(name: name, primary: targets[0].version, canary: canary, isAutomatic: isAutomatic)
    }

    /// A weight in ten-thousandths.
    private static func share(_ target: AliasTarget, isAlone: Bool) throws -> UInt32 {
        guard let weight = target.weight else {
            guard isAlone else { throw refused("each of two versions needs its weight") }
            return AliasSpec.whole
        }
        guard (0...100).contains(weight), abs(weight * 100 - (weight * 100).rounded()) < 1e-6 else {
            throw refused("a weight is from 0 to 100 percent with at most two places, not \(text(weight))")
        }
        return UInt32((weight * 100).rounded())
    }

    private static func text(_ weight: Double) -> String {
        weight == weight.rounded() && abs(weight) < 1e9 ? "\(Int(weight))" : "\(weight)"
    }
}
