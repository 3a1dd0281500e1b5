// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
import Supervision

/// Who asks.
public enum Caller: Hashable, Sendable {
    /// The control socket, by a user that the kernel names and that may operate the node.
    case `operator`
    /// TCP, with or without a key.
    case network(key: String?, isLoopback: Bool)
}

/// What a key may be for.
public enum Scope: String, Sendable { case invoke, deploy, admin }

/// What the gateway asks of the daemon.
public protocol NodeService: Sendable {
    /// The largest body of an invocation, in bytes.
    var bodyLimit: Int { get }
    var isReady: Bool { get }
    /// Nil where the caller may; else the problem to answer with. `tenant` nil: something of the whole node.
    func objection(_ caller: Caller, tenant: Name?, scope: Scope) -> Problem?
    /// The version that a reference means, on the supervisor's loop; nil where there is none.
    func resolve(_ function: FunctionID, version: UInt32?, alias: String?) -> VersionID?

    func workers(tenant: Name?) async throws -> [WorkerReply]
    func inspect(_ worker: WorkerID) async throws -> InspectReply
    func functions(tenant: Name?) async throws -> [FunctionReply]
    func versions(_ function: FunctionID) async throws -> [VersionReply]
    func tenants() async throws -> [TenantReply]
    func explain(_ id: InvocationID, tenant: Name?) async throws -> ExplainReply
    func logs(_ tenant: Name, _ query: LogFilter) async throws -> [LogReply]
    func keys(_ tenant: Name) async throws -> [KeyReply]
    func createKey(_ tenant: Name, scopes: [String]) async throws -> KeyReply
    func revokeKey(_ tenant: Name, id: String) async throws
    /// A path for an upload, and what becomes of it.
    func uploadPath() -> String
    func deploy(_ tenant: Name, archive: String, bytes: UInt64) async throws -> VersionReply
    func discard(upload: String)
    func delete(_ function: FunctionID) async throws
    func node() async throws -> NodeReply
    func metrics() async throws -> String
}

/// What a caller wants of the logs.
public struct LogFilter: Hashable, Sendable {
    public var function: Name?
    public var version: UInt32?
    public var invocation: String?
    public var grep: String?
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    public var tail = 100
    public init() {}
}
