// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core

/// The version of one call.
public struct ChosenVersion: Hashable, Sendable {
    public var version: VersionID
    /// The alias that chose between two; nil where there was nothing to choose.
    public var alias: Name?
    public init(version: VersionID, alias: Name? = nil) {
        self.version = version
        self.alias = alias
    }
}

/// What the gateway asks of the daemon about versions, aliases and applications.
public protocol VersionService: Sendable {
    /// The version that a call's reference means, on the supervisor's loop; nil where there is none.
    func choose(
        _ function: FunctionID, version: UInt32?, alias: String?, caller: Caller, header: (String) -> String?
    ) -> Result<ChosenVersion?, Problem>
    func aliases(_ function: FunctionID) async throws -> [AliasReply]
    func setAlias(_ function: FunctionID, _ alias: AliasSpec) async throws -> AliasReply
    func removeAlias(_ function: FunctionID, _ name: Name) async throws
    func rollBack(_ function: FunctionID, _ alias: Name) async throws -> AliasReply
    func removeVersion(_ version: VersionID) async throws
    func applications(_ tenant: Name?) async throws -> [ApplicationReply]
}
