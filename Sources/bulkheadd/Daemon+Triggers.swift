// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Logging
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

    /// Fires what is due. Once a second.
    func tickCron() async {
        let now = Int64(Date().timeIntervalSince1970)
        for firing in cron.due(now) {
            if let previous = firing.previous, firing.overlap != .allow, await isUnderWay(previous, firing.edge.function.tenant) {
                // `queue`: it stays due, and fires when the run before has ended; `skip`: this one is left out.
                if firing.overlap == .skip { cron.fired(firing, nil) }
                continue
            }
            await fire(firing)
        }
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
        // After a crash it may be due again: it is one event.
        order.key = "cron:\(firing.edge.trigger):\(firing.time)"
        switch await accept(order) {
        case .accepted(let receipt): cron.fired(firing, receipt.id)
        case .refused(_, let sentence, _):
            logger.error(
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
