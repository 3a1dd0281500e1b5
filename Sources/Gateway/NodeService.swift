// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
public import NIOCore
import Supervision

/// Who asks.
public enum Caller: Hashable, Sendable {
    /// The control socket, by a user that the kernel names and that may operate the node.
    case `operator`
    /// TCP, with or without a key.
    case network(key: String?, isLoopback: Bool)

    /// Whose request the present task answers; nil where it answers none.
    @TaskLocal public static var asking: Caller?
}

/// What a key may be for.
public enum Scope: String, Sendable { case invoke, deploy, admin }

/// What the gateway asks of the daemon.
public protocol NodeService: VersionService, EventService, AuditService, SnapshotService, TriggerService, LifeService {
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
    /// `tenant` nil: of all, by time.
    func logs(_ tenant: Name?, _ query: LogFilter) async throws -> LogLines
    func keys(_ tenant: Name) async throws -> [KeyReply]
    func createKey(_ tenant: Name, scopes: [String]) async throws -> KeyReply
    func revokeKey(_ tenant: Name, id: String) async throws
    /// A path for an upload, and what becomes of it.
    func uploadPath() -> String
    func deploy(_ tenant: Name, archive: String, bytes: UInt64) async throws -> VersionReply
    func discard(upload: String)
    func delete(_ function: FunctionID) async throws
    func node() async throws -> NodeReply
    /// In the Prometheus text format; `detailed` with the names of tenants and functions.
    func metrics(detailed: Bool) async throws -> String
    /// Who the end user is by the tenant's and by the function's rule, on the supervisor's loop, which it does not keep for longer than a look takes.
    func users(_ version: VersionID, _ caller: Caller, _ header: (String) -> String?) -> Identification
    func rotateKey(_ tenant: Name, id: String, graceSeconds: UInt64) async throws -> KeyReply
    func quota(_ tenant: Name) async throws -> QuotaReply
    /// Times in milliseconds since 1970.
    func usage(_ tenant: Name, from: UInt64, to: UInt64, by: String) async throws -> [UsageReply]
    func top(_ tenant: Name?) async throws -> TopReply
    func reload(dryRun: Bool) async throws -> ReloadReply

    /// The largest object, in bytes.
    var objectLimit: UInt64 { get }
    func buckets(_ tenant: Name) async throws -> [BucketReply]
    func createBucket(_ bucket: BucketID) async throws -> BucketReply
    func deleteBucket(_ bucket: BucketID, force: Bool) async throws
    func objects(_ bucket: BucketID, prefix: String, after: String?, limit: Int) async throws -> ObjectPage
    func deleteObject(_ bucket: BucketID, _ key: ObjectKey) async throws
    /// Begins to write an object. Blocks for the disk.
    func writeObject(_ bucket: BucketID, _ key: ObjectKey, length: UInt64?) throws -> any ObjectSink
    /// Opens an object. Blocks for the disk.
    func readObject(_ bucket: BucketID, _ key: ObjectKey) throws -> any ObjectSource
}

/// An object that is being written; every call blocks for the disk. Nothing shows before ``commit()``.
public protocol ObjectSink: Sendable {
    func write(_ bytes: [UInt8]) throws
    func commit() throws -> ObjectReply
    func cancel()
}

/// An open object.
public protocol ObjectSource: Sendable {
    var object: ObjectReply { get }
    /// Blocks for the disk; empty at the end.
    func read(at offset: UInt64, limit: Int) throws -> [UInt8]
}

/// The end user of a call; nil where no rule tells users apart.
public struct EndUsers: Hashable, Sendable {
    public var tenant: String?
    public var function: String?
    public init(tenant: String? = nil, function: String? = nil) {
        self.tenant = tenant
        self.function = function
    }
}

/// Who an end user is, as far as it is known at once.
public enum Identification: Sendable {
    case known(EndUsers)
    case refused(Problem)
    /// A token is being verified; the future never fails.
    case pending(EventLoopFuture<Result<EndUsers, Problem>>)
}
