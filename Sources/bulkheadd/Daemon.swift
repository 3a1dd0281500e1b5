// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Egress
import Foundation
import Gateway
import Logging
import NIOCore
import NIOPosix
import NodeConfiguration
import Store
import Supervision
import Synchronization
import Wire

/// What the gateway asks for, answered from the supervisor's state and the store.
final class Daemon: NodeService {
    static let version = "0.1.0"

    let supervisor: Supervisor
    let bodyLimit: Int
    let ledger: UsageLedger
    let logger: Logger
    let events: EventStore
    /// What the loop governor knew when the last daemon ended.
    let loops: LoopSnapshot?
    let loopsPath: String
    let savedLoops = Mutex<LoopSnapshot?>(nil)
    let cron: CronTable
    let lineageTokens: LineageTokens
    /// By tenant: what requests from outside may reach, and what they are signed with.
    let publicTriggers = Mutex<[Name: PublicTriggers]>([:])
    let tenantSecrets = Mutex<[Name: [String: Secret]]>([:])
    let bucketWatch = Mutex<BucketWatch?>(nil)
    /// Buckets with triggers.
    let watchedBuckets = Mutex<Set<BucketID>>([])
    /// Buckets that are being counted.
    let measuredBuckets = Mutex<Set<BucketID>>([])
    /// Where the configuration is read again from; nil on embedded defaults.
    let configurationDirectory: String?
    let configuration: Mutex<NodeConfiguration>
    /// What was read of the tenants' files.
    let files: TenantFileCache
    let startedAt = Date()
    let reloading = Atomic(false)
    let calendars = Mutex<[Name: BudgetCalendar]>([:])
    /// How the end users of a tenant and of a version are told apart.
    let userRules = Mutex<[Name: UserKey]>([:])
    let functionRules = Mutex<[VersionID: UserKey]>([:])
    let tokenRules = Mutex<[Name: TenantTokens]>([:])
    let layerRules = Mutex<[Name: LayerRules]>([:])
    let tokenDesk = TenantDesk()
    let verifiedTokens = VerifiedTokens()
    /// The application that a version says it belongs to.
    let applicationLabels = Mutex<[VersionID: String]>([:])
    /// Canaries that the rule has ended and that the store has not kept yet.
    let endedCanaries = Mutex<[CanaryEnd]>([])
    let alarmRules = Mutex(AlarmRules())
    let notices = Mutex(NoticeRoom())
    let diskWatch = Mutex(DiskWatch())
    /// Whether the machine's memory could not be read, and that was said.
    let memoryRule = Mutex(MemoryRule())
    let memoryIsUnknown = Mutex(false)
    let store: StateStore
    let code: CodeStore
    let logs: LogStore
    let buckets: BucketStore
    let egress = EgressGate()
    let traces = Mutex<RunningTraces?>(nil)
    let audit: AuditLog
    let explanations: ExplanationStore
    /// Where HTTP is served, once it is.
    let httpAddress = Mutex<String?>(nil)
    let auditDisk = DispatchQueue(label: "bulkhead.audit-calls")
    let runtimes: [String]
    let keyRing: Mutex<KeyRing>
    /// Whether who calls from this machine needs no key for a tenant that has none. Not as a service: there a proxy on the same machine speaks for everybody.
    let acceptsKeyless: Bool
    let tenantNames = Mutex<Set<Name>>([])
    private let ready = Mutex(false)
    let life = Mutex(Life())
    /// Disks may be slow: everything that waits for one runs here, one at a time.
    private let disk = DispatchQueue(label: "bulkhead.disk")
    /// Searches and listings: a tenant's one after the other, and 16 behind it.
    let reads = TenantDesk("bulkhead.reads", share: 17, width: 1)
    /// Its own, with as many threads as there are calls at once.
    let bucketDisk = DispatchQueue(label: "bulkhead.buckets", attributes: .concurrent)
    let records = Mutex<[VersionID: VersionRecord]>([:])
    /// Bytes of code that each tenant may keep, over all versions.
    let storage = Mutex<[Name: UInt64]>([:])

    init(
        supervisor: Supervisor, store: StateStore, code: CodeStore, logs: LogStore, buckets: BucketStore, runtimes: [String],
        bodyLimit: Int,
        keys: [(record: KeyRecord, hash: [UInt8])], ledger: UsageLedger, events: EventStore, loopsPath: String,
        configuration: NodeConfiguration, directory: String?,
        files: TenantFileCache = TenantFileCache(), acceptsKeyless: Bool = true, logger: Logger
    ) {
        self.acceptsKeyless = acceptsKeyless
        self.events = events
        self.loopsPath = loopsPath
        loops = LoopMemory.load(loopsPath, logger)
        audit = AuditLog(directory: loopsPath.replacing("/loops.json", with: "/audit"))
        explanations = ExplanationStore(directory: loopsPath.replacing("/loops.json", with: "/explain"))
        cron = CronTable(path: loopsPath.replacing("/loops.json", with: "/cron.json"))
        lineageTokens = LineageTokens(path: loopsPath.replacing("/loops.json", with: "/lineage.secret"), logger)
        self.supervisor = supervisor
        self.ledger = ledger
        self.logger = logger
        self.configuration = Mutex(configuration)
        configurationDirectory = directory
        self.files = files
        self.store = store
        self.code = code
        self.logs = logs
        self.buckets = buckets
        self.runtimes = runtimes
        self.bodyLimit = bodyLimit
        keyRing = Mutex(KeyRing(keys))
    }

    var isReady: Bool { ready.withLock { $0 } && !isDraining }

    // MARK: life

    /// Loads tenants and versions, then lets the node start its workers.
    func start(_ configuration: NodeConfiguration, _ welcome: SpawnerEvent, _ inheritance: Inheritance? = nil) async throws {
        let (ledger, me) = (ledger, self)
        try await supervisor.onLoop { state in
            state.ledger = ledger
            state.openEgress = { [egress = me.egress] tenant, listener, told in
                EgressEnd(listener: egress.open(tenant, listener: listener, told))
            }
            state.canaryEnded = { end in me.endedCanaries.withLock { $0.append(end) } }
            state.calendar = { name, period, wall in
                me.calendars.withLock { $0[name] }.map {
                    let window = $0.window(period, containing: wall)
                    return (window.ordinal, window.end)
                }
            }
        }
        for warning in ledger.warnings { logger.warning("\(warning)") }
        try await startTraces(configuration)
        try await startAlarms()
        try await beginDrainedWhereMarked()
        try await startEvents(events, loops)
        try await apply(configuration.tenants)
        tenantNames.withLock { $0 = Set(configuration.tenants.map(\.tenant)) }
        await settleImports()
        try await restoreFunctions(of: tenantNames.withLock { $0 })
        await sweepCode()
        buckets.keepMeasuring(every: 60)
        if let inheritance { try await takeWorkers(inheritance) }
        supervisor.received(welcome, descriptors: [])
        ready.withLock { $0 = true }
    }

    func announce(keyless: [Name], _ logger: Logger) {
        guard acceptsKeyless else { return }
        let open = keyRing.withLock { ring in keyless.filter { !ring.hasKeys($0) } }
        guard !open.isEmpty else { return }
        logger.notice(
            "calls without a key are accepted from loopback for tenants that have no key yet",
            metadata: ["tenants": "\(open.map(\.text).joined(separator: " "))"])
    }

    /// Stops admitting, then waits a moment for what runs.
    func drain() async {
        ready.withLock { $0 = false }
        _ = try? await supervisor.onLoop { state in
            state.events?.stop()
            state.beginDraining()
        }
        let end = ContinuousClock.now + .seconds(3)
        while ContinuousClock.now < end, let active = try? await supervisor.onLoop({ $0.node.activeInvocations }), active > 0 {
            try? await Task.sleep(for: .milliseconds(20))
        }
        await closeStores()
    }

    /// Writes down what is only in memory and closes what the next daemon opens.
    func closeStores() async {
        await stopEvents()
        await stopTraces()
        await keepExplanations()
        logs.flush()
        let ledger = ledger
        _ = try? await onDisk { try ledger.checkpoint() }
    }

    static func store(_ line: LogLine, _ logs: LogStore) {
        logs.append(
            line.version.function.tenant,
            LogRecord(
                time: line.time, function: line.version.function.function.text, version: line.version.number,
                worker: line.worker.description,
                invocation: line.invocation?.description ?? "", stream: line.stream.rawValue,
                level: LogRoutes.levels[Int(min(line.level, 3))],
                text: escaped(line.bytes, limit: LogStore.textLimit)))
    }

    /// A version's manifest as the supervisor needs it; nil where a newer release wrote what this one cannot read.
    func deployment(_ record: VersionRecord) -> Deployment? {
        guard let manifest = try? FunctionManifest(yaml: Array(record.manifest.utf8)) else { return nil }
        let layers = layers(manifest, of: record.version.function.tenant)
        let spec = FunctionSpec(
            version: record.version, runtime: manifest.runtime, code: record.codeHash, command: manifest.command, limits: manifest.limits,
            network: manifest.hasEgress,
            instanceConcurrency: manifest.runtime == "command" || manifest.runtime == "native" ? 1 : manifest.instanceConcurrency,
            concurrency: manifest.maximumConcurrency, minimumWorkers: manifest.minimumWorkers, maximumWorkers: manifest.maximumWorkers,
            idle: manifest.idle, timeout: manifest.timeout, rate: RateSpec(manifest.rate),
            triggerRates: Dictionary(
                manifest.triggers.compactMap { trigger in trigger.rate.map { (trigger.name, $0) } }, uniquingKeysWith: { first, _ in first }
            ),
            users: UserSpec(manifest.users),
            buckets: manifest.buckets, layers: layers.granted)
        functionRules.withLock { $0[record.version] = manifest.users?.key }
        applicationLabels.withLock { $0[record.version] = manifest.application.isEmpty ? nil : manifest.application }
        return Deployment(
            spec: spec, handler: manifest.handler, environment: manifest.environment,
            secrets: secrets(manifest, of: record.version.function.tenant),
            triggers: manifest.triggers, asynchronous: manifest.async, calls: manifest.calls, missingLayers: layers.missing)
    }

    func onDisk<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
        do {
            return try await withCheckedThrowingContinuation { continuation in
                disk.async { continuation.resume(with: Result { try body() }) }
            }
        } catch let error as StoreError {
            throw Problem.storage(error.description)
        }
    }

    // MARK: changing

    func uploadPath() -> String { code.newPath(".archive") }
    func discard(upload: String) { code.discard(upload) }

    func deploy(_ tenant: Name, archive: String, bytes: UInt64) async throws -> VersionReply {
        let tree = code.newPath("")
        defer { code.discard(tree) }
        let file = unsafe open(archive, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw Problem.storage("the upload is gone") }
        defer { close(file) }
        do {
            let intake = try CodeIntake(root: tree, inputBytes: bytes)
            // The intake is used by one thread at a time: the unpacking one, then this one.
            nonisolated(unsafe) let reader = intake
            try await supervisor.unpack(archive: file) { part in unsafe try reader.feed(part) }
            let (hash, size) = unsafe try reader.finish()
            return try await publish(tenant, tree, hash, size, unsafe reader.listing)
        } catch let error as IntakeError where error.isStorage {
            throw Problem.storage("\(error). Nothing was deployed")
        } catch let error as IntakeError {
            throw Problem(code: "badArchive", title: "The archive is refused", status: 422, detail: "\(error). Nothing was deployed")
        } catch let error as ArchiveFailure {
            throw Problem(code: "badArchive", title: "The archive is refused", status: 422, detail: "\(error). Nothing was deployed")
        }
    }

    private func publish(_ tenant: Name, _ tree: String, _ hash: String, _ size: UInt64, _ listing: CodeListing) async throws
        -> VersionReply
    {
        func refuse(_ detail: String) -> Problem {
            Problem(code: "badManifest", title: "The manifest is refused", status: 422, detail: "\(detail). Nothing was deployed")
        }
        guard let text = code.file("function.yaml", in: tree, limit: 256 << 10) else {
            throw refuse("the archive has no file function.yaml at its top (or it is a link, or larger than 256 KiB)")
        }
        let manifest: FunctionManifest
        do throws(ConfigurationErrors) { manifest = try FunctionManifest(yaml: text) } catch { throw refuse("\(error)") }
        guard runtimes.contains(manifest.runtime) else {
            throw refuse("this node has no runtime \(manifest.runtime): `bulkhead doctor` says what is missing")
        }
        let layers = layers(manifest, of: tenant)
        if let reason = manifest.missingCode(in: listing, hasLayers: !(layers.granted + layers.missing).isEmpty) { throw refuse(reason) }
        let objections = try await objections(manifest, tenant: tenant)
        guard objections.isEmpty else { throw refuse(objections.joined(separator: ". ")) }
        if let quota = try await supervisor.onLoop({ $0.node.tenantView(tenant)?.spec.limits }) {
            guard manifest.limits.memoryBytes <= quota.memoryBytes, manifest.limits.processes <= quota.processes else {
                throw refuse(
                    "function.yaml asks for more memory or processes than tenant \(tenant) has in all (\(quota.memoryBytes >> 20) MiB, \(quota.processes) processes)"
                )
            }
        }
        let used = records.withLock { $0.values.reduce(0) { $0 + ($1.version.function.tenant == tenant ? $1.codeBytes : 0) } }
        let allowed = storage.withLock { $0[tenant] ?? 0 }
        guard used + size <= allowed else {
            throw refuse(
                "tenant \(tenant) keeps \(used >> 10) KiB of code and may keep \(allowed >> 10) KiB (quota: storage), and this deploy has \(size >> 10) KiB: delete a function"
            )
        }
        let (code, store) = (code, store)
        let function = FunctionID(tenant: tenant, function: manifest.function)
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        let (record, aliases) = try await onDisk {
            try code.keep(tree, hash: hash)
            do {
                let manifest = String(decoding: text, as: UTF8.self)
                let record = try store.addVersion(function, codeHash: hash, codeBytes: size, manifest: manifest, at: now)
                return (record, try store.aliases(of: function))
            } catch {
                // A disk that is full must not also keep the code of a version that it has not.
                if let kept = try? store.codeHashes(), !kept.contains(hash) { _ = code.remove(hash) }
                throw error
            }
        }
        guard let deployment = deployment(record) else { throw refuse("function.yaml cannot be read") }
        records.withLock { $0[record.version] = record }
        var reply = try await supervisor.onLoop { state in
            state.register(deployment)
            for alias in aliases { state.setAlias(function, alias.spec, step: alias.step) }
            return Self.reply(record, deployment.spec)
        }
        try await configureEdges(of: tenant)
        await sweepVersions(of: function)
        // It is deployed: what cannot be asked any more is no failure of that.
        reply.warnings = try? await warnings(manifest, tenant: tenant)
        return reply
    }

    func delete(_ function: FunctionID) async throws {
        let store = store
        guard try await onDisk({ try store.removeFunction(function) }) else { throw Problem.notFound("function \(function)") }
        records.withLock { records in records = records.filter { $0.key.function != function } }
        try await supervisor.onLoop { $0.unregister(function) }
        try await configureEdges(of: function.tenant)
    }
}
