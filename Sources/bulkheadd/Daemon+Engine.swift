// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Egress
import Foundation
import Gateway
import Logging
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// Durable events: how the engine is started, what it is told of the deployed functions, and how it ends.
extension Daemon {
    /// Before the first worker starts.
    func startEvents(_ events: EventStore, _ snapshot: LoopSnapshot?) async throws {
        let me = self
        let quarantine = try await onDisk { try events.quarantine() }
        try await supervisor.onLoop { state in
            let engine = EventEngine(state: state, store: events, governor: snapshot) { function, target in
                me.resolve(function, version: UInt32(target), alias: UInt32(target) == nil ? target : nil)
            }
            engine.recount(quarantine)
            engine.alarmed = { me.notify($0) }
            engine.deliver = { delivery, done in me.deliver(delivery, done) }
            engine.markBucket = { bucket, mark in me.bucketWatch.withLock { $0 }?.setMark(bucket, mark) }
            // The end of a pause looks for work, and no function is known yet: only the beginning of one.
            if me.isDraining { engine.setPaused(true) }
            state.events = engine
        }
        if events.recovered > 0 {
            logger.notice("events that ran when the last daemon ended run again", metadata: ["events": "\(events.recovered)"])
        }
    }

    /// Tells the governor which edges can take part in a loop, after each change of what is deployed.
    func configureEdges(of tenant: Name) async throws {
        let newest = newestRecords(of: tenant)
        let seats = configuration.withLock { $0.tenants.first { $0.tenant == tenant }?.concurrency } ?? .max
        let nodeSeats = configuration.withLock { $0.seats }
        let manifests = newest.compactMap { record in
            (try? FunctionManifest(yaml: Array(record.manifest.utf8))).map { (record.version, $0) }
        }
        let graph = DeployLint.graph(tenant, manifests.map(\.1))
        var edges: [EdgeID: EdgeSpec] = [:]
        var outcomes: [(function: Name, trigger: TriggerSpec)] = []
        for (version, manifest) in manifests {
            for trigger in manifest.triggers + [TriggerSpec(name: TriggerSpec.direct, kind: .queue(authorization: .none))] {
                let edge = EdgeID(trigger: trigger.name, function: version.function)
                var spec = EdgeSpec(isOnCycle: graph.isOnCycle(edge), recursion: manifest.recursion, revision: UInt64(version.number))
                spec.functionSeats = manifest.maximumConcurrency
                spec.tenantSeats = seats
                spec.nodeSeats = nodeSeats
                if case .bucket = trigger.kind { spec.source = .object }
                edges[edge] = spec
                if case .outcome = trigger.kind { outcomes.append((version.function.function, trigger)) }
            }
        }
        let (specs, followers) = (edges, outcomes)
        try await supervisor.onLoop { state in
            state.events?.configure(specs)
            state.events?.follow(tenant, followers)
        }
        try await configureTriggers(of: tenant, manifests)
        try await configureRoutes(of: tenant)
    }

    /// What a function's manifest names of its tenant's secrets; those that are not there are left out and said.
    func secrets(_ manifest: FunctionManifest, of tenant: Name) -> [String: String] {
        guard !manifest.secrets.isEmpty else { return [:] }
        let known = configuration.withLock { $0.tenants.first { $0.tenant == tenant }?.secrets ?? [:] }
        var found: [String: String] = [:]
        for name in manifest.secrets {
            if let secret = known[name] {
                found[name] = String(decoding: secret.bytes, as: UTF8.self)
            } else {
                logger.warning("a function's secret is not in its tenant's file", metadata: ["tenant": "\(tenant)", "secret": "\(name)"])
            }
        }
        return found
    }

    /// The newest version of each function of a tenant.
    func newestRecords(of tenant: Name) -> [VersionRecord] {
        var newest: [FunctionID: VersionRecord] = [:]
        for record in records.withLock({ Array($0.values) }) where record.version.function.tenant == tenant {
            if record.version.number >= newest[record.version.function]?.version.number ?? 0 { newest[record.version.function] = record }
        }
        return newest.values.sorted { $0.version.function < $1.version.function }
    }

    /// Once a second: what time brings to events, and the governor's memory to the disk.
    func tickEvents() async {
        guard
            let snapshot = try? await supervisor.onLoop({ state in
                state.events?.passTime()
                return state.events?.loopSnapshot
            })
        else { return }
        guard savedLoops.withLock({ $0 != snapshot.withoutTime }) else { return }
        savedLoops.withLock { $0 = snapshot.withoutTime }
        let path = loopsPath
        do { try await onDisk { try LoopMemory.save(snapshot, path) } } catch {
            logger.error("what the loop governor knows cannot be stored", metadata: ["reason": "\(error)"])
        }
    }

    /// Gives back what still runs and closes the store, at the end of an orderly stop.
    func stopEvents() async {
        let found = try? await supervisor.onLoop { state in
            state.events?.giveBack(at: state.time())
            return (state.events?.store, state.events?.loopSnapshot)
        }
        guard let found else { return }
        let path = loopsPath
        bucketWatch.withLock { $0 }?.stop()
        _ = try? await onDisk {
            if let snapshot = found.1 { try LoopMemory.save(snapshot, path) }
            found.0?.close()
        }
    }
}

/// The governor's memory on the disk: a file that is replaced as a whole.
enum LoopMemory {
    /// Nil where there is none; one that cannot be read is put aside and said, for a daemon that does not start helps nobody.
    static func load(_ path: String, _ logger: Logger) -> LoopSnapshot? {
        guard let data = FileManager.default.contents(atPath: path) else { return nil }
        if let found = try? JSONDecoder().decode(LoopSnapshot.self, from: data) { return found }
        logger.error("what the loop governor knew cannot be read: budgets begin anew", metadata: ["file": "\(path).damaged"])
        try? FileManager.default.moveItem(atPath: path, toPath: path + ".damaged")
        return nil
    }

    static func save(_ snapshot: LoopSnapshot, _ path: String) throws {
        try JSONEncoder().encode(snapshot).write(to: URL(fileURLWithPath: path), options: .atomic)
    }
}

extension LoopSnapshot {
    /// For telling whether something has changed.
    var withoutTime: LoopSnapshot {
        var copy = self
        copy.time = Instant(nanoseconds: 0)
        return copy
    }
}

/// The supervisor's hold on a worker's way out.
struct EgressEnd: WorkerEgress {
    let listener: EgressListener
    var descriptor: CInt? { listener.descriptor }
    func close() { listener.close() }
}
