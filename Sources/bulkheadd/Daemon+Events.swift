// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import NIOCore
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// What owners and the operator ask about events, loops and triggers.
extension Daemon {
    // MARK: events

    func events(_ query: EventFilter) async throws -> EventPageReply {
        var wanted = EventQuery(tenant: query.tenant, function: query.function, limit: query.limit)
        if let word = query.state { wanted.state = try Self.state(word) }
        if let after = query.after {
            guard let cursor = EventCursor(after) else { throw Problem.badRequest("`after` must be what the last page gave as `next`") }
            wanted.after = cursor
        }
        let (events, asked) = (events, wanted)
        let page = try await onDisk { try events.list(asked) }
        if page.events.isEmpty, query.after == nil { try mustExist(query.function, of: query.tenant) }
        return EventPageReply(events: page.events.map { EventReply($0) }, next: page.next?.description)
    }

    private static func state(_ word: String) throws -> EventState {
        guard let state = EventState.allCases.first(where: { $0.word == word }) else {
            throw Problem.badRequest("a state is one of \(EventReply.states.joined(separator: ", "))")
        }
        return state
    }

    private func record(_ id: InvocationID, _ tenant: Name?) async throws -> EventRecord {
        let events = events
        let found = try await onDisk { try tenant.map { try events.event(id, of: $0) } ?? events.event(id) }
        guard let found else { throw Problem.notFound("event \(id)") }
        return found
    }

    func event(_ id: InvocationID, tenant: Name?) async throws -> EventReply { EventReply(try await record(id, tenant)) }

    func payload(_ id: InvocationID, tenant: Name?) async throws -> (contentType: String, bytes: [UInt8]) {
        let found = try await record(id, tenant)
        let events = events
        let bytes = try await onDisk { try events.payload(id, of: found.function.tenant)?.bytes() }
        guard let bytes else { throw Problem.notFound("event \(id)") }
        return (found.contentType, bytes)
    }

    func stop(_ id: InvocationID, tenant: Name?) async throws -> EventReply {
        let found = try await record(id, tenant)
        let _: Bool = try await engine { engine, done in
            engine.stop(id, of: found.function.tenant, reason: "stopped by its owner", done)
        }
        return EventReply(try await record(id, found.function.tenant))
    }

    /// Asks the engine for something that the disk answers.
    private func engine<T: Sendable>(
        _ body: @escaping @Sendable (EventEngine, @escaping @Sendable (Result<T, StoreError>) -> Void) -> Void
    ) async throws -> T {
        let supervisor = supervisor
        do {
            return try await withCheckedThrowingContinuation { continuation in
                supervisor.loop.execute {
                    guard let engine = supervisor.state.events else {
                        return continuation.resume(throwing: StoreError("this node stores no events"))
                    }
                    body(engine) { continuation.resume(with: $0) }
                }
            }
        } catch let error as StoreError {
            throw Problem.storage(error.description)
        }
    }

    // MARK: dead letters

    private func deadLetters(_ letters: DeadLetters, _ tenant: Name?) async throws -> [EventRecord] {
        let events = events
        return try await onDisk {
            if case .these(let ids) = letters {
                let found = try ids.compactMap { id in try tenant.map { try events.event(id, of: $0) } ?? events.event(id) }
                let dead = found.filter { $0.state == .dead }
                // One that is meant by its id and is none is a mistake; of many some may have been redriven meanwhile.
                if dead.isEmpty, let id = ids.first {
                    throw Problem.notFound("dead letter \(id)" + (found.first.map { ": the event is \($0.state.word)" } ?? ""))
                }
                return dead
            }
            var query = EventQuery(state: .dead, tenant: tenant, limit: EventStore.batchLimit)
            if case .function(let name) = letters { query.function = name }
            var found: [EventRecord] = []
            repeat {
                let page = try events.list(query)
                found += page.events
                query.after = page.next
            } while query.after != nil
            return found
        }
    }

    private func known(_ letters: DeadLetters, _ tenant: Name?) async throws -> [EventRecord] {
        let found = try await deadLetters(letters, tenant)
        if found.isEmpty, case .function(let name) = letters { try mustExist(name, of: tenant) }
        return found
    }

    func redrive(_ letters: DeadLetters, tenant: Name?, ratePerSecond: Double?) async throws -> RedriveReply {
        let found = try await known(letters, tenant)
        let interval = ratePerSecond.map { Nanoseconds(1e9 / max($0, 0.001)) } ?? 0
        let days = Double(found.count) * Double(interval) / 86_400e9
        guard days <= 7 else {
            throw Problem.badRequest(
                "\(found.count) dead letters at this rate take \(Int(days.rounded(.up))) days, and at most 7 are allowed: give a higher rate, or fewer of them"
            )
        }
        let begin = try await supervisor.onLoop { $0.time() }
        var redriven = 0
        // In slices: there may be any number.
        for first in stride(from: 0, to: found.count, by: 256) {
            let slice = Array(found[first..<min(first + 256, found.count)])
            redriven += try await engine { engine, done in engine.redrive(slice, first: first, from: begin, every: interval, done) }
        }
        let now = interval > 0 ? min(1, redriven) : redriven
        return RedriveReply(redriven: now, scheduled: redriven - now, left: found.count - redriven)
    }

    func purge(_ letters: DeadLetters, tenant: Name?) async throws -> PurgeReply {
        var count = 0
        let byTenant = Dictionary(grouping: try await known(letters, tenant)) { $0.function.tenant }
        for (name, records) in byTenant {
            for start in stride(from: 0, to: records.count, by: EventStore.batchLimit) {
                let ids = records[start..<min(start + EventStore.batchLimit, records.count)].map(\.id)
                count += try await engine { engine, done in engine.store.purge(ids, of: name, completion: done) }
            }
        }
        return PurgeReply(purged: count)
    }

    // MARK: loops

    func loops(tenant: Name?) async throws -> [LoopReply] {
        let views = try await supervisor.onLoop { $0.events?.loops(of: tenant) ?? [] }
        return views.map { reply($0) }
    }

    func resume(_ edge: EdgeID, _ resume: LoopResume) async throws -> LoopReply {
        let known = try await supervisor.onLoop { $0.events?.loops(of: edge.function.tenant).contains { $0.edge == edge } ?? false }
        guard known else { throw Problem.notFound("loop \(edge.function)/\(edge.trigger)") }
        let _: Int = try await engine { engine, done in engine.resume(edge, resume, done) }
        let view = try await supervisor.onLoop { $0.events?.loops(of: edge.function.tenant).first { $0.edge == edge } }
        return reply(view ?? LoopView(edge: edge))
    }

    private func reply(_ view: LoopView) -> LoopReply {
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        let manifests = newestRecords(of: view.edge.function.tenant).compactMap { try? FunctionManifest(yaml: Array($0.manifest.utf8)) }
        let trigger = manifests.first { $0.function == view.edge.function.function }?.triggers.first { $0.name == view.edge.trigger }
        let graph = DeployLint.graph(view.edge.function.tenant, manifests)
        let source = trigger.map { $0.source } ?? "direct calls"
        // One way round as the grants allow it: what is written, who is started, and so on back to the function.
        var cycle: [String] = []
        for function in graph.cycle(through: view.edge) ?? [] {
            if !cycle.isEmpty { cycle.append(function.function.text) } else { cycle = [source, function.function.text] }
        }
        if !cycle.isEmpty { cycle.append(source) }
        return LoopReply(
            edge: "\(view.edge.function)/\(view.edge.trigger)", tenant: view.edge.function.tenant.text,
            function: view.edge.function.function.text, trigger: view.edge.trigger.text, source: source, state: view.state,
            recurrent: view.recurrent, parked: UInt64(view.parkedEvents), parkedBytes: UInt64(view.parkedBytes),
            since: now - min(now, view.sinceMs ?? 0), why: view.why, probeAt: view.probeInMs.map { now + $0 }, cycle: cycle,
            way: view.way.flatMap(\.words))
    }

    // MARK: triggers

    func triggers(tenant: Name?, function: Name?) async throws -> [TriggerReply] {
        let names = tenant.map { [$0] } ?? tenantNames.withLock { $0.sorted() }
        let states = try await supervisor.onLoop { state in
            Dictionary((state.events?.loops(of: tenant) ?? []).map { ($0.edge, $0.state) }) { first, _ in first }
        }
        return names.flatMap { tenant in
            let manifests = newestRecords(of: tenant).compactMap { try? FunctionManifest(yaml: Array($0.manifest.utf8)) }
            let graph = DeployLint.graph(tenant, manifests)
            return manifests.filter { function == nil || $0.function == function }.flatMap { manifest in
                let id = FunctionID(tenant: tenant, function: manifest.function)
                let direct = EdgeID(trigger: TriggerSpec.direct, function: id)
                func functions(_ edge: EdgeID) -> [String] { graph.grantees(of: edge).map(\.function.text) }
                let own = TriggerReply(
                    tenant: tenant.text, function: manifest.function.text, trigger: "direct", kind: "direct", source: "direct calls",
                    authorization: "key", functions: functions(direct), state: states[direct] ?? "closed", onCycle: graph.isOnCycle(direct))
                return [own]
                    + manifest.triggers.map { trigger in
                        let edge = EdgeID(trigger: trigger.name, function: id)
                        return TriggerReply(
                            tenant: tenant.text, function: manifest.function.text, trigger: trigger.name.text, kind: trigger.word,
                            source: trigger.source, authorization: trigger.authorization, functions: functions(edge),
                            state: states[edge] ?? "closed", onCycle: graph.isOnCycle(edge),
                            nextAt: cron.next(edge).map { UInt64(max(0, $0)) * 1000 },
                            url: trigger.path(of: id),
                            rate: trigger.rate.map { Rate(count: $0.count, period: $0.period, burst: $0.burst).description })
                    }
            }
        }
    }
}

extension TriggerSpec {
    var word: String {
        switch kind {
        case .http: "http"
        case .cron: "cron"
        case .bucket: "bucket"
        case .outcome: "outcome"
        case .queue: "queue"
        }
    }

    /// Where requests from outside reach it, below the node's address; nil where they do not.
    func path(of function: FunctionID) -> String? {
        switch kind {
        case .http(let route, _, _, _): "/t/\(function.tenant)\(route)"
        case .queue: "/q/\(function)/\(name)"
        default: nil
        }
    }

    /// What it listens to, for a person.
    var source: String {
        switch kind {
        case .http(let route, let methods, _, _): "\(methods.isEmpty ? "any" : methods.joined(separator: ",")) \(route)"
        case .cron(let schedule, let zone, _, _): "\(schedule) \(zone)"
        case .bucket(let bucket, let prefix, let suffix, _): "bucket:\(bucket)/\(prefix)\(suffix.isEmpty ? "" : "*\(suffix)")"
        case .outcome(let of, let onSuccess, let onFailure):
            "\(of) \(onSuccess && onFailure ? "ends" : onSuccess ? "succeeds" : "fails")"
        case .queue: "queue:\(name)"
        }
    }

    var authorization: String {
        let found: TriggerAuthorization
        switch kind {
        case .http(_, _, let authorization, _), .queue(let authorization): found = authorization
        // Who may put objects, beside the functions that may write there.
        case .bucket: found = .key
        case .cron: return "clock"
        case .outcome: return "function"
        }
        switch found {
        case .none: return "none"
        case .key: return "key"
        case .hmac(let secret): return "hmac:\(secret)"
        }
    }
}

extension EventState {
    /// Its word in replies, in the order of ``EventReply/states``.
    var word: String { EventReply.states[rawValue] }
}

extension EventReply {
    fileprivate init(_ event: EventRecord) {
        let lineage = Lineage(encoded: event.lineage)
        self.init(
            id: event.id.description, tenant: event.function.tenant.text, function: event.function.function.text, target: event.target,
            trigger: event.trigger, state: event.state.word, since: event.since, createdAt: event.createdAt, expiresAt: event.expiresAt,
            attempts: event.history.attempts, maxAttempts: UInt32(max(1, event.retry.maxAttempts)), crashes: event.history.crashes,
            deliveries: event.history.deliveries, contentType: event.contentType, payloadBytes: event.payloadBytes,
            idempotencyKey: event.key, reason: event.reason, root: lineage?.root.description, hops: lineage?.hops)
    }
}
