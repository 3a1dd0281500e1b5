// SPDX-License-Identifier: Apache-2.0
import Core
import Egress
import Foundation
import Kernel
import Logging
import NIOCore
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// Cron and bucket triggers.
extension Daemon {
    /// Tells the cron table and the watch of a tenant's triggers.
    func configureTriggers(of tenant: Name, _ manifests: [(VersionID, FunctionManifest)]) async throws {
        let crons = manifests.flatMap { version, manifest in
            manifest.triggers.compactMap { trigger in if case .cron = trigger.kind { (version.function, trigger) } else { nil } }
        }
        cron.set(tenant, crons.map { (function: $0.0, trigger: $0.1) }, now: Int64(Date().timeIntervalSince1970))
        var objects: [BucketID: [ObjectTrigger]] = [:]
        for (version, manifest) in manifests {
            for trigger in manifest.triggers {
                guard case .bucket(let bucket, let prefix, let suffix, let changes) = trigger.kind else { continue }
                objects[BucketID(tenant: tenant, bucket: bucket), default: []].append(
                    ObjectTrigger(function: version.function, trigger: trigger.name, prefix: prefix, suffix: suffix, changes: changes))
            }
        }
        let found = objects
        try await supervisor.onLoop { $0.events?.watch(tenant, found) }
        watchBuckets(of: tenant, Set(found.keys))
    }

    /// Fires what is due. Once a second, unless the node drains: then once afterwards, as after any time away.
    func tickCron() async {
        let now = Int64(Date().timeIntervalSince1970)
        for firing in isDraining ? [] : cron.due(now) {
            if let previous = firing.previous, firing.overlap != .allow, await isUnderWay(previous, firing.edge.function.tenant) {
                // `queue`: it stays due, and fires when the run before has ended; `skip`: this one is left out.
                if firing.overlap == .skip { cron.fired(firing, nil) }
                continue
            }
            await fire(firing)
        }
        // In a drain, too: of a trigger that came meanwhile the next daemon must know since when it counts.
        do { try await onDisk { [cron] in try cron.save() } } catch {
            logger.error("what cron has fired cannot be stored: a run may come twice", metadata: ["reason": "\(error)"])
        }
    }

    private func isUnderWay(_ event: InvocationID, _ tenant: Name) async -> Bool {
        let events = events
        let found = try? await onDisk { try events.event(event, of: tenant) }
        return (found ?? nil).map { !$0.state.isTerminal && $0.state != .parked } ?? false
    }

    private func fire(_ firing: CronTable.Firing) async {
        let time = Date(timeIntervalSince1970: TimeInterval(firing.time)).ISO8601Format()
        let body: [String: JSONPart] = [
            "time": .text(time), "trigger": .text(firing.edge.trigger.text), "payload": JSONPart(Array(firing.payload.utf8)),
        ]
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        var order = EventOrder(function: firing.edge.function, payload: Array((try? encoder.encode(body)) ?? Data()))
        order.contentType = "application/json"
        order.trigger = firing.edge.trigger
        order.key = firing.key
        switch await accept(order) {
        case .accepted(let receipt): cron.fired(firing, receipt.id)
        case .refused(_, let sentence, let refusal):
            // Of a suspended tenant: once a second, for as long as that lasts.
            let level: Logger.Level = refusal?.ceiling == Node.suspended ? .debug : .error
            logger.log(
                level: level,
                "a cron trigger could not fire, it is tried again", metadata: ["trigger": "\(firing.edge)", "reason": "\(sentence)"])
        }
    }

    /// Takes an event in from off the loop.
    func accept(_ order: EventOrder) async -> EventAcceptance {
        let promise = supervisor.loop.makePromise(of: EventAcceptance.self)
        supervisor.loop.execute { [supervisor] in
            guard let events = supervisor.state.events else {
                return promise.succeed(.refused(.internal, "this node stores no events", nil))
            }
            events.accept(order) { promise.succeed($0) }
        }
        return (try? await promise.futureResult.get()) ?? .refused(.internal, "the node stops", nil)
    }
}

/// Buckets: what is watched, and what a deploy needs of them.
extension Daemon {
    /// Begins to watch, with the spawner's queue of file events where the kernel has one.
    func startWatch(_ descriptor: Int32?, directory: String) {
        let loop = supervisor.loop
        let supervisor = supervisor
        let me = self
        do throws(KernelError) {
            let watch = try BucketWatch(
                root: directory, events: descriptor.map { FileEvents(OwnedFD($0)) },
                watermarkFile: loopsPath.replacing("/loops.json", with: "/watermarks")
            ) { events in
                loop.execute {
                    supervisor.state.events?.objects(events) { sequence in me.bucketWatch.withLock { $0 }?.acknowledge(upTo: sequence) }
                }
            }
            bucketWatch.withLock { $0 = watch }
        } catch {
            logger.error("buckets cannot be watched: their triggers do not fire", metadata: ["reason": "\(error)"])
        }
        if descriptor == nil {
            logger.notice("this kernel does not say who writes into a bucket: every worker that may is taken for the writer")
        }
    }

    /// Watches these buckets of a tenant and no others of it.
    func watchBuckets(of tenant: Name, _ wanted: Set<BucketID>) {
        let (gone, new) = watchedBuckets.withLock { watched in
            let old = watched.filter { $0.tenant == tenant }
            watched.subtract(old)
            watched.formUnion(wanted)
            return (old.subtracting(wanted), wanted.subtracting(old))
        }
        guard let watch = bucketWatch.withLock({ $0 }) else { return }
        for bucket in gone { watch.unwatch(bucket) }
        for bucket in new { watch.watch(bucket) }
    }

    /// Takes the right to write from tenants whose buckets are over their quota, and gives it back below it. Once a second.
    func tickBuckets() async {
        let names = Set(buckets.tenants())
        guard !names.isEmpty else { return }
        let over = names.filter { buckets.usage.isOver($0) }
        let written = try? await supervisor.onLoop { state in
            for name in names { state.setBuckets(of: name, areOver: over.contains(name)) }
            return state.writableBuckets
        }
        for bucket in written ?? [] { measure(bucket) }
    }

    /// Counts a bucket that a worker may be writing into, unless that is under way: so a tenant is over its quota for a few seconds, and not for the minute
    /// between two measurements of all buckets.
    private func measure(_ bucket: BucketID) {
        guard measuredBuckets.withLock({ $0.insert(bucket).inserted }) else { return }
        let me = self
        bucketDisk.async {
            me.buckets.measure(bucket) { usleep(1_000) }
            // A large bucket keeps its measurement from being repeated at once.
            usleep(2_000_000)
            me.measuredBuckets.withLock { _ = $0.remove(bucket) }
        }
    }

    /// Makes the buckets of a tenant's file where they are missing.
    func makeBuckets(_ tenant: TenantConfiguration) async throws {
        let buckets = buckets
        try await onDisk {
            for name in tenant.buckets {
                let bucket = BucketID(tenant: tenant.tenant, bucket: name)
                if !buckets.exists(bucket) { try buckets.create(bucket) }
            }
        }
    }

    /// What of a deployed manifest is hardly meant; nil where nothing is.
    func warnings(_ manifest: FunctionManifest, tenant: Name) async throws -> [String]? {
        let functions = Set(newestRecords(of: tenant).map(\.version.function.function))
        let processors = UInt32(clamping: max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) * 1000)
        let machine = MachineCeilings(ProcessInfo.processInfo.environment)
        let room = try await supervisor.onLoop { state in
            DeployLint.Room(
                tenantCPU: state.node.tenantView(tenant)?.spec.limits.cpuMilli ?? .max, nodeCPU: min(processors, machine.cpuMilli),
                nodeMemoryBytes: min(state.node.spec.memoryBytes, machine.memoryBytes))
        }
        let found = DeployLint.warnings(manifest, tenant: tenant, functions: functions, room: room)
        return found.isEmpty ? nil : found
    }

    /// What is wrong with a deploy's buckets, routes and secrets, as sentences; makes the directories that its grants name.
    func objections(_ manifest: FunctionManifest, tenant: Name) async throws -> [String] {
        let others = newestRecords(of: tenant).filter { $0.version.function.function != manifest.function }
            .compactMap { try? FunctionManifest(yaml: Array($0.manifest.utf8)) }
        var found = DeployLint.refusals(manifest, tenant: tenant, others: others)
        let known = configuration.withLock { $0.tenants.first { $0.tenant == tenant }?.secrets ?? [:] }
        for name in manifest.neededSecrets where known[name] == nil {
            found.append("tenant \(tenant) has no secret \(name): add it to `secrets` in its file")
        }
        if case .claim = manifest.users?.key, tokenRules.withLock({ $0[tenant] == nil }) {
            found.append(
                "tenant \(tenant) takes no tokens, which `users: {key: claim:...}` needs: the operator adds `tokens` to the tenant's file")
        }
        if manifest.hasEgress, egress.rules(of: tenant) == nil {
            found.append("tenant \(tenant) may not reach the network: the operator allows it by `network: egress` in the tenant's file")
        }
        for name in layers(manifest, of: tenant).missing {
            found.append("tenant \(tenant) may not use the layer \(name): the operator grants it by `layers` in the tenant's file")
        }
        let wanted = manifest.neededBuckets.map { BucketID(tenant: tenant, bucket: $0) }
        let (buckets, grants) = (buckets, manifest.buckets)
        let missing = try await onDisk { wanted.filter { !buckets.exists($0) } }
        found += missing.map { "tenant \(tenant) has no bucket \($0.bucket): `bulkhead bucket create \($0)`" }
        guard found.isEmpty else { return found }
        try await onDisk {
            for grant in grants where !grant.prefix.isEmpty {
                try buckets.makeDirectory(grant.prefix, in: BucketID(tenant: tenant, bucket: grant.bucket))
            }
        }
        return []
    }
}

extension FunctionManifest {
    /// Buckets that it names anywhere.
    var neededBuckets: [Name] {
        var names = Set(buckets.map(\.bucket))
        for trigger in triggers { if case .bucket(let bucket, _, _, _) = trigger.kind { names.insert(bucket) } }
        for destination in [async.onSuccess, async.onFailure] { if case .bucket(let bucket, _) = destination { names.insert(bucket) } }
        return names.sorted()
    }

    /// Secrets of its tenant that it names anywhere.
    var neededSecrets: [String] {
        var names = Set(secrets)
        for destination in [async.onSuccess, async.onFailure] { if case .webhook(_, let secret?) = destination { names.insert(secret) } }
        for trigger in triggers {
            switch trigger.kind {
            case .http(_, _, .hmac(let secret), _), .queue(.hmac(let secret)): names.insert(secret)
            default: break
            }
        }
        return names.sorted()
    }
}
