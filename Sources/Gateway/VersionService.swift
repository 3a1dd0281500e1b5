// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
public import NIOCore

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

/// What a call's reference means, as far as it is known at once.
public enum VersionChoice: Sendable {
    /// Nil where there is none.
    case found(ChosenVersion?)
    case refused(Problem)
    /// The end user decides, whose token is being verified: then it is chosen again. The future never fails.
    case pending(EventLoopFuture<Result<EndUsers, Problem>>)
}

/// What the gateway asks of the daemon about versions, aliases and applications.
public protocol VersionService: Sendable {
    /// The version that a call's reference means, on the supervisor's loop. `users` is what became of a choice that was pending.
    func choose(
        _ function: FunctionID, version: UInt32?, alias: String?, caller: Caller, users: Result<EndUsers, Problem>?,
        header: (String) -> String?
    ) -> VersionChoice
    func aliases(_ function: FunctionID) async throws -> [AliasReply]
    func setAlias(_ function: FunctionID, _ alias: AliasSpec) async throws -> AliasReply
    func removeAlias(_ function: FunctionID, _ name: Name) async throws
    func rollBack(_ function: FunctionID, _ alias: Name) async throws -> AliasReply
    func removeVersion(_ version: VersionID) async throws
    func applications(_ tenant: Name?) async throws -> [ApplicationReply]
}
