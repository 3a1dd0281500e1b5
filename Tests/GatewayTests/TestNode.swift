// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Glibc
import Logging
import NIOCore
import NIOPosix
import Store
import Supervision
import Synchronization

@testable import Gateway

/// Answers what the gateway asks for with fixed replies, and records what it was asked.
final class StubService: NodeService {
    let supervisor: Supervisor
    let bodyLimit = 64 << 10
    private let ready = Mutex(true)
    private let answers = Mutex<@Sendable (Caller, Name?, Scope) -> Problem?>({ _, _, _ in nil })
    private let asked = Mutex<[String]>([])
    let recorded = Mutex<[(folder: String, record: AuditRecord)]>([])

    /// What the node keeps; nothing, but where a test fills it in.
    struct State {
        var functions: [FunctionReply] = []
        var versions: [VersionReply] = []
        var keys: [KeyReply] = []
        var buckets: [BucketReply] = []
        var letters: [EventReply] = []
        var loops: [LoopReply] = []
    }
    let state = Mutex(State())

    /// What requests from outside reach, by tenant; queues as `tenant/function/trigger`.
    let routes = Mutex<[Name: RouteTable]>([:])
    let queues = Mutex<[String: TriggerAuthorization]>([:])

    init(_ supervisor: Supervisor) { self.supervisor = supervisor }

    var isReady: Bool { ready.withLock { $0 } }
    /// What the service was asked to do, in order.
    var calls: [String] { asked.withLock { $0 } }
    func setReady(_ isReady: Bool) { ready.withLock { $0 = isReady } }
    func object(_ answer: @escaping @Sendable (Caller, Name?, Scope) -> Problem?) { answers.withLock { $0 = answer } }
    func note(_ call: String) { asked.withLock { $0.append(call) } }

    func objection(_ caller: Caller, tenant: Name?, scope: Scope) -> Problem? { answers.withLock { $0 }(caller, tenant, scope) }
    /// The functions that were looked for, in order.
    let sought = Mutex<[FunctionID]>([])
    func resolve(_ function: FunctionID, version: UInt32?, alias: String?) -> VersionID? {
        sought.withLock { $0.append(function) }
        guard alias == nil, let latest = supervisor.state.latestVersion(function), version == nil || version == latest.number else {
            return nil
        }
        return latest
    }
    func workers(tenant: Name?) async throws -> [WorkerReply] { [] }
    func inspect(_ worker: WorkerID) async throws -> InspectReply { InspectReply(worker: worker.description, checks: []) }
    func functions(tenant: Name?) async throws -> [FunctionReply] { state.withLock { $0.functions } }
    func versions(_ function: FunctionID) async throws -> [VersionReply] { state.withLock { $0.versions } }
    func tenants() async throws -> [TenantReply] { [] }
    func explain(_ id: InvocationID, tenant: Name?) async throws -> ExplainReply {
        ExplainReply(invocation: id.description, function: "acme/echo@1", arrivedAt: 1, entries: [])
    }
    func logs(_ tenant: Name?, _ query: LogFilter) async throws -> LogLines {
        note("logs \(tenant?.text ?? "-") \(query.function?.text ?? "-") tail=\(query.tail) since=\(query.since) grep=\(query.grep ?? "-")")
        let line = LogReply(time: 1, function: "f", version: 1, worker: "w-1", invocation: "", stream: "log", level: "info", text: "x")
        return LogLines(
            lines: [line, line], position: tenant == nil ? nil : "1-2", isMore: query.after != nil || query.grep == "more",
            isGap: query.level != nil)
    }
    func keys(_ tenant: Name) async throws -> [KeyReply] { state.withLock { $0.keys } }
    func createKey(_ tenant: Name, scopes: [String]) async throws -> KeyReply {
        KeyReply(id: "k1", key: "secret", tenant: tenant.text, scopes: scopes, createdAt: 1, revoked: false)
    }
    func revokeKey(_ tenant: Name, id: String) async throws {
        note("revoke \(tenant) \(id)")
        state.withLock { state in for index in state.keys.indices where state.keys[index].id == id { state.keys[index].revoked = true } }
    }
    func uploadPath() -> String { NSTemporaryDirectory() + "gateway-upload-\(UUID().uuidString)" }
    func deploy(_ tenant: Name, archive: String, bytes: UInt64) async throws -> VersionReply {
        note("deploy \(tenant) \(bytes)")
        let kept = FileManager.default.contents(atPath: archive)?.count ?? -1
        return VersionReply(
            tenant: tenant.text, function: "f", version: 1, runtime: "native", memoryBytes: 1, codeBytes: UInt64(max(0, kept)),
            codeHash: "",
            createdAt: 1)
    }
    func discard(upload: String) {
        note("discard")
        try? FileManager.default.removeItem(atPath: upload)
    }
    func delete(_ function: FunctionID) async throws {
        note("delete \(function)")
        state.withLock { $0.versions = [] }
    }
    func node() async throws -> NodeReply { NodeReply(version: "1", runtimes: []) }
    func metrics(detailed: Bool) async throws -> String { "bulkhead_up \(detailed ? 2 : 1)\n" }
    func users(_ version: VersionID, _ caller: Caller, _ header: (String) -> String?) -> Identification {
        let user = header("x-user")
        if user == "too-long" { return .refused(.badRequest("the end user's name is too long")) }
        return .known(EndUsers(tenant: user))
    }
    func rotateKey(_ tenant: Name, id: String, graceSeconds: UInt64) async throws -> KeyReply {
        note("rotate \(tenant) \(id) \(graceSeconds)")
        return KeyReply(id: "k2", key: "secret", tenant: tenant.text, scopes: ["invoke"], createdAt: 1, revoked: false)
    }
    func quota(_ tenant: Name) async throws -> QuotaReply {
        let gauge = Gauge(limit: 1, used: 0)
        return QuotaReply(
            tenant: tenant.text, weight: 1, concurrency: gauge, queue: gauge, memory: gauge, processes: gauge, cpu: 1, storage: gauge)
    }
    func usage(_ tenant: Name, from: UInt64, to: UInt64, by: String) async throws -> [UsageReply] {
        note("usage \(tenant) \(from) \(to) \(by)")
        return []
    }
    func top(_ tenant: Name?) async throws -> TopReply {
        note("top \(tenant?.text ?? "-")")
        return TopReply(
            node: TopNode(
                uptimeSeconds: 1, running: 0, queued: 0, workers: 0, memoryBytes: 0, memoryLimitBytes: 0, cpuSeconds: 0, invocations: 0,
                refusals: 0), rows: [])
    }
    let objectLimit: UInt64 = 4 << 20
    private let stored = Mutex<[ObjectKey: [UInt8]]>([:])
    struct Sink: ObjectSink {
        let key: ObjectKey
        let service: StubService
        func write(_ bytes: [UInt8]) throws {
            if bytes.contains(0xFF) { throw Problem(code: "overQuota", title: "Full", status: 507, detail: "full") }
            service.stored.withLock { $0[key, default: []] += bytes }
        }
        func commit() throws -> ObjectReply { StubService.reply(key, service.stored.withLock { $0[key] ?? [] }) }
        func cancel() { service.note("cancel \(key)") }
    }
    struct Source: ObjectSource {
        let object: ObjectReply
        let bytes: [UInt8]
        func read(at offset: UInt64, limit: Int) throws -> [UInt8] { Array(bytes.dropFirst(Int(offset)).prefix(limit)) }
    }
    private static func reply(_ key: ObjectKey, _ bytes: [UInt8]) -> ObjectReply {
        ObjectReply(key: key.text, size: UInt64(bytes.count), modifiedAt: 1, etag: "W/\"x\"")
    }
    func buckets(_ tenant: Name) async throws -> [BucketReply] { state.withLock { $0.buckets } }
    func createBucket(_ bucket: BucketID) async throws -> BucketReply {
        BucketReply(tenant: bucket.tenant.text, bucket: bucket.bucket.text, objects: 0, bytes: 0, tenantBytes: 0, tenantLimitBytes: 1)
    }
    func deleteBucket(_ bucket: BucketID, force: Bool) async throws {
        note("delete \(bucket) \(force)")
        state.withLock { $0.buckets = [] }
    }
    func objects(_ bucket: BucketID, prefix: String, after: String?, limit: Int) async throws -> ObjectPage {
        note("objects \(bucket) \(prefix) \(after ?? "-") \(limit)")
        return ObjectPage(objects: [], next: nil)
    }
    func deleteObject(_ bucket: BucketID, _ key: ObjectKey) async throws { note("delete \(bucket)/\(key)") }
    func writeObject(_ bucket: BucketID, _ key: ObjectKey, length: UInt64?) throws -> any ObjectSink {
        note("write \(bucket)/\(key) \(length ?? 0)")
        stored.withLock { $0[key] = [] }
        return Sink(key: key, service: self)
    }
    func readObject(_ bucket: BucketID, _ key: ObjectKey) throws -> any ObjectSource {
        let bytes = stored.withLock { $0[key] } ?? Array("object".utf8)
        return Source(object: Self.reply(key, bytes), bytes: bytes)
    }
    func reload(dryRun: Bool) async throws -> ReloadReply {
        note("reload \(dryRun)")
        return ReloadReply(applied: !dryRun, changes: [])
    }
}

/// A supervisor with stand-in workers, served by the real gateway on a loopback port and on a Unix socket.
final class TestNode: Sendable {
    let supervisor: Supervisor
    let spawner: FakeSpawner
    let port: UInt16
    let controlPath: String
    /// The gateway's; for looking only.
    let listener: CInt
    let room: BodyRoom
    /// Of callers without a key.
    var openBodies: OpenBodies { room.anybody }
    private let channels: [any Channel]
    let server: GatewayServer

    /// What `acme`, which has room, and `small`, which has one seat and one place to wait, can run.
    static let functions = [
        "echo", "fail", "later", "hang", "crash", "oom", "filtered", "broken", "status", "headers", "stream", "request", "shaped", "eager",
        "partial", "caller", "deaf",
    ]

    static func withNode<T>(connectionLimit: Int = GatewayServer.mostConnections, _ body: (TestNode, StubService) async throws -> T)
        async throws -> T
    {
        let spawner = FakeSpawner()
        let supervisor = try await supervisor(spawner)
        let service = StubService(supervisor)
        let node = try await TestNode(supervisor, spawner, service, connectionLimit: connectionLimit)
        do {
            let value = try await body(node, service)
            await node.stop()
            return value
        } catch {
            await node.stop()
            throw error
        }
    }

    static func supervisor(_ spawner: FakeSpawner, clock: SupervisorClock = .system) async throws -> Supervisor {
        let spec = NodeSpec(memoryBytes: 1 << 40, spareGroups: 0, sealedSpares: 0)
        let supervisor = try await Supervisor.make(
            loop: MultiThreadedEventLoopGroup.singleton.next(), node: Node(spec: spec, firstWorker: 1), logger: quiet,
            spawner: { spawner.received($0) }, log: { _ in }, clock: clock)
        try await supervisor.onLoop { state in
            let limits = GroupLimits(memoryBytes: 64 << 30, cpuMilli: 1000, processes: 10_000)
            for (name, seats, queue) in [("acme", 20, 20), ("small", 1, 1)] {
                guard let tenant = Name(name) else { continue }
                state.configure(TenantSpec(tenant: tenant, concurrency: seats, queue: queue, limits: limits))
                for word in functions {
                    guard let function = Name(word) else { continue }
                    let version = VersionID(function: FunctionID(tenant: tenant, function: function), number: 1)
                    let spec = FunctionSpec(
                        version: version, runtime: "native", code: "", limits: WorkerLimits(), timeout: .seconds(3600),
                        startTimeout: .seconds(600))
                    state.register(Deployment(spec: spec, handler: ["x"], environment: [:]))
                }
            }
        }
        spawner.connect(supervisor)
        return supervisor
    }

    static let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    init(
        _ supervisor: Supervisor, _ spawner: FakeSpawner, _ service: any NodeService, connectionLimit: Int = GatewayServer.mostConnections
    ) async throws {
        self.supervisor = supervisor
        self.spawner = spawner
        server = GatewayServer(service: service, supervisor: supervisor, connectionLimit: connectionLimit, logger: Self.quiet)
        room = server.room
        let (tcp, port) = Self.loopback()
        self.port = port
        listener = tcp
        controlPath = NSTemporaryDirectory() + "gw-\(UUID().uuidString.prefix(8)).sock"
        let control = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard unsafe withUnixAddress(controlPath, { unsafe bind(control, $0, $1) }) == 0 else { throw ClientError(description: "bind") }
        channels = [try await server.listen(tcp, isControl: false), try await server.listen(control, isControl: true)]
    }

    func stop() async {
        for channel in channels { try? await channel.close().get() }
        spawner.disconnect()
        unsafe unlink(controlPath)
    }

    private static func loopback() -> (CInt, UInt16) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        _ = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, size)
                unsafe getsockname(descriptor, $0, &size)
            }
        }
        return (descriptor, UInt16(bigEndian: address.sin_port))
    }

    /// Invocations of a tenant that wait.
    func queued(_ tenant: String) async throws -> Int {
        try await supervisor.onLoop { state in Name(tenant).flatMap { state.node.tenantView($0)?.queued } ?? 0 }
    }

    // MARK: asking

    func connect() throws -> Client { try Client(port: port) }
    func connectControl() throws -> Client { try Client(path: controlPath) }

    /// One request on a connection of its own.
    func ask(_ method: String, _ target: String, headers: [String] = [], body: String = "") async throws -> Answer {
        let client = try connect()
        try await client.send(Self.request(method, target, headers: headers, body: body))
        return try await client.answer(toHead: method == "HEAD")
    }

    func invoke(_ function: String, tenant: String = "acme", headers: [String] = [], body: String = "") async throws -> Answer {
        try await ask("POST", "/v1/tenants/\(tenant)/functions/\(function)/invocations", headers: headers, body: body)
    }

    static func request(_ method: String, _ target: String, headers: [String] = [], body: String = "") -> String {
        let lines = ["\(method) \(target) HTTP/1.1", "Host: node", "Content-Length: \(body.utf8.count)"] + headers
        return lines.joined(separator: "\r\n") + "\r\n\r\n" + body
    }
    static func invocation(_ function: String, tenant: String = "acme", body: String = "") -> String {
        request("POST", "/v1/tenants/\(tenant)/functions/\(function)/invocations", body: body)
    }
}
