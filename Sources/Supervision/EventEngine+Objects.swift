// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Logging
import NIOCore
import Store

/// A trigger on objects, with the function that it starts.
public struct ObjectTrigger: Sendable, Hashable {
    public var function: FunctionID
    public var trigger: Name
    public var prefix: String
    public var suffix: String
    public var changes: Set<ObjectChange>
    public init(function: FunctionID, trigger: Name, prefix: String, suffix: String, changes: Set<ObjectChange>) {
        self.function = function
        self.trigger = trigger
        self.prefix = prefix
        self.suffix = suffix
        self.changes = changes
    }
}

/// What object events are told apart by.
struct ObjectPlace: Hashable {
    var bucket: BucketID
    var key: ObjectKey
}

/// Object events become events of functions, each with the lineage of whoever wrote.
extension EventEngine {
    /// The triggers on a tenant's buckets, after each change of what is deployed.
    public func watch(_ tenant: Name, _ triggers: [BucketID: [ObjectTrigger]]) {
        objectTriggers = objectTriggers.filter { $0.key.tenant != tenant }.merging(triggers) { _, new in new }
    }

    /// This node is about to write an object itself, for an outcome or for a caller: its event has this cause and no other.
    public func willWrite(_ bucket: BucketID, _ key: ObjectKey, _ cause: Lineage?) {
        guard objectTriggers[bucket] != nil else { return }
        ownWrites[ObjectPlace(bucket: bucket, key: key)] = (cause, now() + Self.announcementLife)
    }

    /// A caller's object is about to be there. Its event has this process as its writer; but one in a new folder is found by a look into that, which knows no writer, and would pass
    /// for the work of whichever function writes there. Once, so that nobody has more beginnings by it than callers have written objects.
    public func willUpload(_ bucket: BucketID, _ key: ObjectKey) {
        guard objectTriggers[bucket] != nil, uploads[bucket.tenant]?.count ?? 0 < Self.mostUploads else { return }
        uploads[bucket.tenant, default: [:]][ObjectPlace(bucket: bucket, key: key)] = now() + Self.announcementLife
    }

    /// Announced uploads of a tenant that no event has told of; others pass for a function's.
    static let mostUploads = 4_096
    /// How long after it was announced a write of this node may be found: where folders are looked through in turn that takes its time.
    static let announcementLife: Nanoseconds = .seconds(60)
    /// How long after its first event a write of this node is told of again: one that was written twice, or seen and found.
    private static let toldLife: Nanoseconds = .seconds(5)

    /// What was announced and not found.
    func forgetAnnouncements(at now: Instant) {
        uploads = uploads.compactMapValues { places in
            let kept = places.filter { now < $0.value }
            return kept.isEmpty ? nil : kept
        }
        ownWrites = ownWrites.filter { now < $0.value.until }
    }

    /// Takes in what a watch reports; `acknowledge` is called with the last one's number when all of them, and all that were reported before, are on the disk.
    ///
    /// What cannot be stored now is tried again each second. It stays unacknowledged until then, so that the watch stops reading when it waits for many; but not where
    /// only its own tenant's share is full: then the mark of its bucket waits instead.
    public func objects(_ events: [ObjectEvent], _ acknowledge: @escaping (UInt64) -> Void) {
        guard let last = events.last?.sequence else { return }
        let batch = intake.open(last, acknowledge)
        var found: [HeldObject] = []
        for event in events {
            let writer = writer(of: event)
            for trigger in objectTriggers[event.bucket] ?? [] {
                guard let change = event.meaning(prefix: trigger.prefix, suffix: trigger.suffix, changes: trigger.changes) else { continue }
                let order = order(event, trigger, change, cause(of: event, writer, for: trigger))
                guard intake.begin(order) else {
                    count("events.duplicate")
                    continue
                }
                intake.expect(batch)
                found.append(HeldObject(number: intake.number(), event: event, trigger: trigger, batch: batch, order: order))
            }
        }
        look(found)
        done(batch)
    }

    private func order(_ event: ObjectEvent, _ trigger: ObjectTrigger, _ change: ObjectChange, _ cause: Lineage?) -> EventOrder {
        var body: [String: JSONPart] = [:]
        body["bucket"] = .text(event.bucket.bucket.text)
        body["key"] = .text(event.key.text)
        body["change"] = .text(change.rawValue)
        body["size"] = .number(Int(clamping: event.size))
        if event.modified > 0 { body["modifiedAt"] = .number(Int(clamping: event.modified / 1_000_000)) }
        if let from = event.from, change == .renamed { body["from"] = .text(from.text) }
        var order = EventOrder(function: trigger.function, payload: Self.json(body))
        order.contentType = "application/json"
        order.trigger = trigger.trigger
        order.cause = cause
        order.subject = event.key.text
        order.object = "\(event.bucket.bucket)/\(event.key)"
        // The same write is told again after a restart or an overflow: it is one event. By the time that its writer cannot set back.
        if event.inode > 0 {
            let path = "\(event.key.text)\n\(event.from?.text ?? "")"
            order.key = "object:\(trigger.trigger):\(change.rawValue):\(Self.hash(path)):\(event.inode):\(event.changed):\(event.size)"
        }
        return order
    }

    static func json(_ body: [String: JSONPart]) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(body)).map { Array($0) } ?? []
    }

    /// Two FNV-1a of 64 bits: an idempotency key is shorter than an object's.
    private static func hash(_ text: String) -> String {
        var (a, b) = (UInt64(0xcbf2_9ce4_8422_2325), UInt64(0x6c62_272e_07bb_0142))
        for byte in text.utf8 {
            a = (a ^ UInt64(byte)) &* 0x100_0000_01b3
            b = (b &* 0x100_0000_01b3) ^ UInt64(byte) &* 0x9e37_79b9
        }
        return String(a, radix: 36) + String(b, radix: 36)
    }

    // MARK: who wrote

    /// Lineages that the write may follow from; none where nobody can say, nil for somebody outside of all functions.
    private func writer(of event: ObjectEvent) -> [Lineage]? {
        let now = now()
        let place = ObjectPlace(bucket: event.bucket, key: event.key)
        let own = ownWrites[place].flatMap { now < $0.until ? $0.cause : nil }
        if let until = ownWrites[place]?.until { ownWrites[place]?.until = min(until, now + Self.toldLife) }
        if event.pid == ownPID {
            uploads[event.bucket.tenant]?[place] = nil
            if let own { note(event, nil, own, now) }
            return own.map { [$0] }
        }
        if !event.cgroups.isEmpty {
            // Kernel's word: the process, its cgroup, its worker. A process in no worker's cgroup belongs to an operator.
            let worker = state.worker(in: event.cgroups)
            let gone = worker == nil ? state.goneWriter(in: event.cgroups) : nil
            guard worker != nil || gone != nil else { return nil }
            let found = worker.map(lineages) ?? gone.map { [$0.lineage] } ?? []
            let function = worker.flatMap { state.processes[$0]?.deployment?.spec.version.function } ?? gone?.function
            if let deepest = found.max(by: { $0.hops < $1.hops }) { note(event, function, deepest, now) }
            return found
        }
        // An outcome's object stays one where a caller has written it, too.
        if event.pid == nil, own == nil, let until = uploads[event.bucket.tenant]?.removeValue(forKey: place), now < until { return nil }
        let file = WriteLedger.File(inode: event.inode, size: event.size, modified: event.modified)
        let tenant = event.bucket.tenant
        var found = [event.inode > 0 ? writes[tenant]?.lineage(of: file, at: now) : nil].compactMap { $0 }
        if event.change == .renamed, !found.isEmpty { return found }
        if let own { found.append(own) }
        if let known = writes[tenant]?.lineage(of: event.from ?? event.key, in: event.bucket, at: now) { found.append(known) }
        // Nobody knows who: any worker that could have written. Who wrote the key before is only one of them, else each round of a loop would pass for the first.
        found += state.workers(writing: event.bucket).flatMap(lineages) + state.goneWriters(of: event.bucket).map(\.lineage)
        if let deepest = found.max(by: { $0.hops < $1.hops }) { note(event, nil, deepest, now) }
        return found
    }

    /// Of those that may have written, the one that has entered the trigger's function most often, then the deepest: a deep path that has never been there would hide a loop.
    private func cause(of event: ObjectEvent, _ writer: [Lineage]?, for trigger: ObjectTrigger) -> Lineage? {
        guard let writer else { return nil }
        let function = FunctionKey(trigger.function)
        return writer.max { ($0.visits(of: function), $0.hops) < ($1.visits(of: function), $1.hops) }
            ?? writes[event.bucket.tenant]?.inferred(event.bucket, prefix: trigger.prefix, function: function, at: now())
    }

    private func note(_ event: ObjectEvent, _ function: FunctionID?, _ lineage: Lineage, _ now: Instant) {
        let file = event.inode > 0 ? WriteLedger.File(inode: event.inode, size: event.size, modified: event.modified) : nil
        // Of the newest 65,536 writes, about 7 MB.
        writes[event.bucket.tenant, default: WriteLedger(capacity: 1 << 16, lineageBytes: 4 << 20)]
            .record(event.bucket, event.key, file, by: function.map { FunctionKey($0) }, lineage, at: now)
    }

    /// Of what runs in a worker or ended there within the last seconds. Where nothing does, what ended last: a thread that it left behind writes for it.
    func lineages(of worker: WorkerID) -> [Lineage] {
        guard let process = state.processes[worker] else { return [] }
        let running = process.slots.compactMap { $0.flatMap { state.pending[$0]?.lineage } }
        let delay = running.isEmpty ? WriteLedger.lifetime : SupervisorState.writeDelay
        guard let recent = process.recent, state.clock.now() - recent.endedAt < delay else { return running }
        return running + [recent.lineage]
    }
}

/// A worker that has ended: what it wrote last may be noticed only now.
struct GoneWriter {
    var cgroup: String
    var function: FunctionID
    var buckets: Set<Name>
    var lineage: Lineage
    var at: Instant
}

extension SupervisorState {
    /// The worker whose cgroup is among these.
    func worker(in cgroups: Set<String>) -> WorkerID? {
        for path in cgroups {
            // `/TOP/GROUP/LEAF`, in every hierarchy, whatever it is mounted under.
            var end = path[...]
            while !end.isEmpty {
                if let worker = workersByCgroup[String(end.drop { $0 == "/" })] { return worker }
                guard let slash = end.dropFirst().firstIndex(of: "/") else { break }
                end = end[slash...]
            }
        }
        return nil
    }

    /// Before the worker is forgotten. Bounded: the last 256 of a tenant.
    func rememberWriter(_ worker: WorkerID) {
        guard let process = processes[worker], let spec = process.deployment?.spec else { return }
        let buckets = Set(spec.buckets.filter(\.isWritable).map(\.bucket))
        guard !buckets.isEmpty, let lineage = events?.lineages(of: worker).max(by: { $0.hops < $1.hops }) else { return }
        let now = clock.now()
        let tenant = spec.version.function.tenant
        var gone = (goneWriters[tenant] ?? []).filter { now - $0.at <= Self.writeDelay }
        if gone.count >= 256 { gone.removeFirst() }
        gone.append(
            GoneWriter(
                cgroup: String(process.cgroup.drop { $0 == "/" }), function: spec.version.function, buckets: buckets, lineage: lineage,
                at: now))
        goneWriters[tenant] = gone
    }

    func forgetGoneWriters() {
        let now = clock.now()
        goneWriters = goneWriters.filter { $0.value.contains { now - $0.at <= Self.writeDelay } }
    }

    func goneWriter(in cgroups: Set<String>) -> GoneWriter? {
        for writers in goneWriters.values {
            if let found = writers.last(where: { gone in cgroups.contains { ($0 + "/").contains("/\(gone.cgroup)/") } }) { return found }
        }
        return nil
    }

    func goneWriters(of bucket: BucketID) -> [GoneWriter] {
        let now = clock.now()
        return (goneWriters[bucket.tenant] ?? []).filter { $0.buckets.contains(bucket.bucket) && now - $0.at < Self.writeDelay }
    }

    /// Workers that may write into the bucket.
    func workers(writing bucket: BucketID) -> [WorkerID] {
        processes.compactMap { worker, process in
            guard let spec = process.deployment?.spec, spec.version.function.tenant == bucket.tenant else { return nil }
            return spec.buckets.contains { $0.bucket == bucket.bucket && $0.isWritable } ? worker : nil
        }
    }
}
