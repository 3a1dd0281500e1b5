// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Gateway
import Synchronization

extension StubService {
    func choose(
        _ function: FunctionID, version: UInt32?, alias: String?, caller: Caller, users: Result<EndUsers, Problem>?,
        header: (String) -> String?
    ) -> VersionChoice {
        if header("bulkhead-alias-key") == "too-long" { return .refused(.badRequest("the key is too long")) }
        return .found(resolve(function, version: version, alias: alias).map { ChosenVersion(version: $0) })
    }

    private func reply(_ function: FunctionID, _ name: String) -> AliasReply {
        AliasReply(
            tenant: function.tenant.text, function: function.function.text, alias: name, version: 7, weight: 100, canary: nil,
            canaryWeight: nil, automaticRollback: true, changedAt: 1, changedBy: "set", reason: "", previous: nil)
    }

    func aliases(_ function: FunctionID) async throws -> [AliasReply] {
        // Only where a test has filled the node in: for all others there are always two.
        let gone =
            state.withLock { $0.functions.isEmpty }
            ? [] : calls.compactMap { $0.hasPrefix("remove \(function):") ? String($0.drop { $0 != ":" }.dropFirst()) : nil }
        return ["latest", "prod"].filter { !gone.contains($0) }.map { reply(function, $0) }
    }
    func setAlias(_ function: FunctionID, _ alias: AliasSpec) async throws -> AliasReply {
        let canary = alias.canary.map { " \($0.version) \($0.weight)" } ?? ""
        note("set \(function):\(alias.name) \(alias.primary)\(canary)\(alias.isAutomatic ? "" : " by hand")")
        return reply(function, alias.name.text)
    }
    func removeAlias(_ function: FunctionID, _ name: Name) async throws { note("remove \(function):\(name)") }
    func rollBack(_ function: FunctionID, _ alias: Name) async throws -> AliasReply {
        note("rollback \(function):\(alias)")
        return reply(function, alias.text)
    }
    func removeVersion(_ version: VersionID) async throws {
        note("remove \(version)")
        state.withLock { $0.versions.removeAll { $0.version == version.number } }
    }
    func applications(_ tenant: Name?) async throws -> [ApplicationReply] { [] }
}
