// SPDX-License-Identifier: Apache-2.0
import Core
import Dispatch
import Egress
import Foundation
import Gateway
import Kernel
import Logging
import NIOCore
import NIOPosix
import NodeConfiguration
import Store
import Supervision
import Synchronization
import Wire

/// The unprivileged daemon: it decides, stores and serves, and holds no capability. Started by the spawner with its socket as fd 3.
@main struct Main {
    struct StartFailure: Error, CustomStringConvertible { let description: String }

    static func main() {
        let journal = Journal(stream: ProcessInfo.processInfo.environment["JOURNAL_STREAM"])
        LoggingSystem.bootstrap { label -> any LogHandler in
            if let journal { return JournalLog(journal) }
            return StreamLogHandler.standardError(label: label)
        }
        // Blocked before there is a second thread, and so in every thread: a signal waits for whoever asks for it. One thread that does not block it is
        // enough for the signal to end the process.
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        unsafe sigaddset(&signals, SIGTERM)
        unsafe sigaddset(&signals, SIGHUP)
        unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
        // Who does not read what it is given, an alarm's command for one, must not end the node.
        signal(SIGPIPE, SIG_IGN)
        Task.detached {
            do {
                try await serve(ProcessInfo.processInfo.environment, Logger(label: "bulkheadd"))
            } catch {
                let words = "bulkheadd: \(error)"
                FileHandle.standardError.write(
                    Data(journal == nil ? Array("\(words)\n".utf8) : JournalEntry(priority: 3, message: words).prefixed))
                // EX_CONFIG, sysexits(3): nothing changes by itself, so the spawner does not try again.
                exit(error is StartFailure ? 78 : 1)
            }
        }
        // Not dispatchMain(): it keeps a thread that takes every signal.
        DispatchSemaphore(value: 0).wait()
    }

    private static func serve(_ environment: [String: String], _ logger: Logger) async throws {
        guard let state = environment["BULKHEAD_STATE"], let address = environment["BULKHEAD_ADDRESS"] else {
            throw StartFailure(description: "it is started by bulkhead-spawner: use `bulkhead up`")
        }
        umask(0o077)
        let link = SpawnerLink(socket: 3)
        let files = TenantFileCache()
        let first = try link.receive()
        let (prepared, inheritance, welcome) = try Inheritance.begin(first, link) {
            // The stores are opened when the daemon before has closed them: whether they can be is asked while it may still go on.
            if case .succession = first.event { try StateProbe.check(state) }
            return try load(environment["BULKHEAD_CONFIG"], files)
        }
        // The daemon before may have read its configuration again since then.
        let configuration = inheritance == nil ? prepared : (try? load(environment["BULKHEAD_CONFIG"], files)) ?? prepared
        guard case .welcome(let version, let names, let runtimes) = welcome.event, version == spawnerProtocolVersion,
            names.count == welcome.descriptors.count
        else { throw StartFailure(description: "the spawner speaks another protocol version: install both of one release") }
        if inheritance == nil { link.send(.hello(version: spawnerProtocolVersion)) }
        let directory = environment["BULKHEAD_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        let machine = MachineCeilings(environment)
        let service = try await prepare(
            // Only the service has a control socket at a place of its own, whatever release started its spawner; earlier ones called it `up`, too.
            state, configuration, directory, files, runtimes,
            acceptsKeyless: environment["BULKHEAD_MODE"] == "up" && environment["BULKHEAD_CONTROL"] == nil,
            { link.send(machine.bounded($0)) }, logger)
        if let port = address.split(separator: ":").last.flatMap({ UInt16($0) }) { service.egress.forbid(port: port) }
        let ends = AsyncStream.makeStream(of: (format: UInt16, socket: CInt).self)
        service.life.withLock { $0.ask = { link.send($0 ? .restartWhole : .restart) } }
        Thread.detachNewThread {
            link.run { event, descriptors in
                switch event {
                case .handOver(let format):
                    if let socket = descriptors.first { ends.continuation.yield((format, socket)) }
                case .handOverFailed(let reason): service.restartFailed(reason)
                case .spawnerReplaced: service.spawnerReplaced()
                default: service.supervisor.received(event, descriptors: descriptors)
                }
            }
            // Without the spawner there are no workers, and a new one starts a new daemon.
            exit(0)
        }
        let fileEvents = zip(names, welcome.descriptors).first { $0.0 == fileEventsName }?.1
        service.startWatch(fileEvents, directory: state + "/buckets")
        try await service.start(configuration, welcome.event, inheritance)
        let server = GatewayServer(service: service, supervisor: service.supervisor, logger: logger)
        if let inheritance { service.takeConnections(inheritance, server) }
        for (name, descriptor) in zip(names, welcome.descriptors) where name != fileEventsName {
            _ = try await server.listen(descriptor, isControl: name == "control")
        }
        service.httpAddress.withLock { $0 = address }
        service.announce(keyless: configuration.tenants.map(\.tenant), logger)
        let control = environment["BULKHEAD_CONTROL"] ?? "\(state.hasSuffix("/data") ? String(state.dropLast(5)) : state)/run/control.sock"
        link.send(.ready(text: "READY http=\(address) control=\(control)"))
        let hangup = AsyncStream.makeStream(of: Void.self)
        let housekeeping = Task { await service.keepHouse() }
        let handOver = Task { for await end in ends.stream { await service.handOver(server, format: end.format, to: end.socket, link) } }
        let reloads = Task { for await _ in hangup.stream { link.send(.reloaded(text: await service.reloadOnSignal())) } }
        defer {
            housekeeping.cancel()
            reloads.cancel()
            handOver.cancel()
        }
        await withCheckedContinuation { (ended: CheckedContinuation<Void, Never>) in
            Thread.detachNewThread {
                var signals = sigset_t(), number: Int32 = 0
                unsafe sigemptyset(&signals)
                unsafe sigaddset(&signals, SIGTERM)
                unsafe sigaddset(&signals, SIGHUP)
                while unsafe sigwait(&signals, &number) == 0, number == SIGHUP { hangup.continuation.yield() }
                ended.resume()
            }
        }
        await service.drain()
        exit(0)
    }

    private static func load(_ directory: String?, _ files: TenantFileCache) throws -> NodeConfiguration {
        guard let directory, !directory.isEmpty else { return NodeConfiguration() }
        do throws(ConfigurationErrors) { return try files.load(directory) } catch {
            throw StartFailure(description: "the configuration is refused, nothing was started:\n\(error)")
        }
    }

    private static func prepare(
        _ state: String, _ configuration: NodeConfiguration, _ directory: String?, _ files: TenantFileCache, _ runtimes: [String],
        acceptsKeyless: Bool, _ spawner: @escaping @Sendable (SpawnerRequest) -> Void, _ logger: Logger
    ) async throws -> Daemon {
        do {
            try CodeStore.refuseLostDatabase(state + "/bulkhead.sqlite", code: state + "/code")
            let store = try StateStore(path: state + "/bulkhead.sqlite")
            let code = try CodeStore(directory: state + "/code", incoming: state + "/incoming")
            let logs = LogStore(directory: state + "/logs", bytesPerTenant: configuration.logBytesPerTenant, age: configuration.logAge)
            let usage = state + "/usage"
            try FileManager.default.createDirectory(atPath: usage, withIntermediateDirectories: true)
            let eventDirectory = state + "/events"
            try FileManager.default.createDirectory(atPath: eventDirectory, withIntermediateDirectories: true)
            let events = try EventStore(directory: eventDirectory, now: UInt64(Date().timeIntervalSince1970 * 1000)) { error in
                // What is on the disk is not known any more: nothing may be confirmed until a new start has read it.
                logger.critical("events cannot be stored: the daemon ends and starts again", metadata: ["reason": "\(error)"])
                exit(1)
            }
            // Far more workers than a run of the daemon starts; the next run begins behind them.
            let first = try store.reserveWorkers(1 << 32)
            let loop = MultiThreadedEventLoopGroup.singleton.next()
            let memory = configuration.memoryBytes > 0 ? configuration.memoryBytes : UInt64(ProcessInfo.processInfo.physicalMemory) / 4 * 3
            let prewarmed = configuration.prewarmed.filter { $0.value > 0 && runtimes.contains($0.key) }
            let spec = NodeSpec(
                memoryBytes: memory, maximumWorkers: configuration.maximumWorkers, seats: configuration.seats,
                spareGroups: configuration.spareGroups, sealedSpares: runtimes.contains("sealed") ? configuration.sealedSpares : 0,
                prewarmedSpares: prewarmed)
            let supervisor = try await Supervisor.make(
                loop: loop, node: Node(spec: spec, firstWorker: first), logger: logger, spawner: spawner,
                log: { line in Daemon.store(line, logs) })
            return Daemon(
                supervisor: supervisor, store: store, code: code, logs: logs,
                buckets: try BucketStore(directory: state + "/buckets"), runtimes: runtimes, bodyLimit: configuration.bodyLimit,
                keys: try store.keys(),
                ledger: try UsageLedger(directory: usage, now: UInt64(Date().timeIntervalSince1970 * 1000), segmentRecords: 4095),
                events: events, loopsPath: state + "/loops.json", configuration: configuration, directory: directory, files: files,
                acceptsKeyless: acceptsKeyless, logger: logger)
        } catch let error as StoreError {
            throw StartFailure(description: error.description)
        }
    }
}
