// SPDX-License-Identifier: Apache-2.0
public import Core
import Dispatch
import Foundation
import NIOCore
public import Store
import Synchronization
import Wire

extension EventEngine {
    /// Large payloads are read here and not on the loop.
    static let payloads = DispatchQueue(label: "bulkhead.event-payloads", attributes: .concurrent)

    /// Bodies of batches, and answers to them, that are written or read on the loop, in bytes.
    private static let smallBody = 4 << 10

    // MARK: a lease

    /// Begins the runs of some events: one call, unless they are held back.
    func begin(_ group: EventGroup) {
        var group = group
        group.leases = group.leases.filter(start)
        for lease in group.leases.dropFirst() { uncount(lease) }
        guard let first = group.leases.first else { return }
        if group.leases.count > 1 {
            let call = group.leases.map(\.id)
            for id in call { running[id]?.call = call }
        }
        // What is large comes alone. A batch is made into one body, which takes its time, too.
        let isSmall = group.leases.reduce(0) { $0 + $1.event.payloadBytes } <= Self.smallBody
        guard first.payload.isInMemory, isSmall || !group.isBatch else {
            let (box, loop, whole) = (bound(self), loop, group)
            return Self.payloads.async {
                do throws(StoreError) {
                    let body = try whole.body()
                    loop.execute { box.value.run(whole, body) }
                } catch {
                    loop.execute { for lease in whole.leases { box.value.end(lease, .dead(reason: error.description, result: [])) } }
                }
            }
        }
        run(group, (try? group.body()) ?? [])
    }

    /// False where it may not run now: then its lease has ended.
    private func start(_ lease: EventLease) -> Bool {
        let event = lease.event
        let edge = EdgeID(trigger: Name(event.trigger) ?? TriggerSpec.direct, function: event.function)
        let lineage = Lineage(encoded: event.lineage) ?? Lineage(root: event.id, born: now())
        running[event.id] = Run(lease: lease, lineage: lineage, edge: edge)
        runningByTenant[event.function.tenant, default: 0] += 1
        runningByFunction[event.function, default: 0] += 1
        leased[event.function.tenant, default: 0] += 1
        // A test pauses the edge, or a suspected root has one seat, which is taken: it comes back soon.
        if let wait = testPause(edge) {
            end(lease, .retry(.system, afterMs: wait, reason: "the edge is under test for a loop"))
            return false
        }
        guard governor.start(lineage, through: edge) else {
            end(lease, .retry(.system, afterMs: 500, reason: "a suspected loop runs one at a time"))
            return false
        }
        running[event.id]?.isStarted = true
        return true
    }

    private func run(_ begun: EventGroup, _ body: [UInt8]) {
        // Ended meanwhile: those leases are stale. The function is told of them nevertheless, as of one that is stopped while it runs.
        let group = EventGroup(leases: begun.leases.filter { running[$0.id]?.lease.token == $0.token }, isBatch: begun.isBatch)
        guard let lease = group.leases.first, let run = running[lease.id] else { return }
        guard !group.leases.allSatisfy({ running[$0.id]?.isStopped == true }) else {
            for lease in group.leases { end(lease, .release) }
            return
        }
        let event = lease.event
        guard let version = resolve(event.function, event.target), let deployment = state.deployment(version) else {
            for lease in group.leases {
                end(lease, .dead(reason: "there is no \(event.function) \(event.target) any more", result: []))
            }
            return
        }
        // A version with another form of it came while it was read.
        guard group.isBatch == (deployment.batch(of: run.edge.trigger) != nil) else {
            for lease in group.leases { end(lease, .release) }
            return
        }
        guard body.count <= Frame.maximumBody else {
            let reason = "as a record of a batch it has \(body.count) bytes, of at most \(Frame.maximumBody)"
            for lease in group.leases { end(lease, .dead(reason: reason, result: [])) }
            return
        }
        for lease in group.leases where lease.attempt == 1 {
            retryBudgets[event.function.tenant, default: RetryBudget()].start()
        }
        var order = InvocationOrder(
            version: version, body: ByteBuffer(bytes: body), contentType: group.isBatch ? "application/json" : event.contentType,
            trigger: deployment.kind(of: run.edge.trigger))
        // As deep as the deepest of them: what it causes must not look younger than any of its causes.
        let lineage = Lineage.merged(group.leases.compactMap { running[$0.id]?.lineage }) ?? run.lineage
        order.event = EventRun(
            id: event.id, attempt: group.leases.map(\.attempt).max() ?? lease.attempt, lineage: lineage,
            service: event.order == .background ? .background : .asynchronous)
        order.through = run.edge.trigger
        (order.tenantUser, order.functionUser) = EventOrder.users(event.user)
        order.traceparent = event.trace ?? ""
        let box = bound(self)
        let answer = AnswerCollector(
            limit: group.isBatch || !event.destination.isEmpty ? AnswerCollector.limit : 0)
        _ = state.submit(
            order,
            InvocationObserver(
                began: { answer.began($0) }, chunk: { answer.add($0) }, ended: { report in box.value.ended(group, report, answer) }))
    }

    private func ended(_ group: EventGroup, _ report: InvocationReport, _ answer: AnswerCollector) {
        answer.finish(report)
        guard group.isBatch, case .completed(.ok) = report.verdict else { return ended(group, report, answer, [:]) }
        let ids = group.leases.map(\.id)
        guard answer.count > Self.smallBody else { return ended(group, report, answer, answer.faults(of: ids)) }
        let (box, loop) = (bound(self), loop)
        Self.payloads.async {
            let faults = answer.faults(of: ids)
            loop.execute { box.value.ended(group, report, answer, faults) }
        }
    }

    private func ended(_ group: EventGroup, _ report: InvocationReport, _ answer: AnswerCollector, _ faults: [InvocationID: String]) {
        // Each has its part of what is kept of the answer: it is kept for each of them.
        answer.share(among: group.leases.count)
        let share = report.billed / UInt64(max(1, group.leases.count))
        for lease in group.leases {
            guard let run = running[lease.id], run.lease.token == lease.token else { continue }
            running[lease.id]?.isStarted = false
            governor.finish(run.lineage, through: run.edge, seatTime: share, at: now())
            ended(lease, report, answer, fault: faults[lease.id])
        }
    }

    /// - Parameter fault: what the answer to a batch says against this one of it.
    private func ended(_ lease: EventLease, _ report: InvocationReport, _ answer: AnswerCollector, fault: String?) {
        let tenant = lease.event.function.tenant
        switch report.verdict {
        case .completed(.ok):
            guard let fault else { return end(lease, .done(result: result(lease, report, answer))) }
            retry(lease, .functionError, "\(BatchRecords.faultType): \(fault)", result: result(lease, report, answer, fault: fault))
        case .completed(.functionError) where report.fault?.type == "RetryLater" && report.fault?.retryAfter != nil:
            let seconds = UInt64(report.fault?.retryAfter ?? 1)
            end(lease, .retry(.system, afterMs: max(1, seconds * 1_000), reason: "the function asked to be called again"))
        case .completed(.cancelled): end(lease, .release)
        case .completed(.functionError), .initFailed:
            retry(lease, .functionError, Self.sentence(report), result: result(lease, report, answer))
        case .completed(let outcome), .failed(let outcome, _, _):
            let isCrash = [.crashed, .outOfMemory, .timedOut].contains(outcome)
            retry(lease, isCrash ? .crash : .system, Self.sentence(report), result: result(lease, report, answer))
        case .refused(let refusal):
            if refusal.ceiling == "draining" || refusal.ceiling == Node.suspended { return end(lease, .release) }
            // The ceiling is the tenant's or the node's: what waits behind this event would meet it too.
            let wait = UInt64(max(0.1, min(refusal.retryAfter ?? 1, 30)) * 1_000)
            if refusal.level == .function {
                pausedFunctions[lease.event.function] = max(pausedFunctions[lease.event.function] ?? 0, wall() + wait)
            } else {
                pausedUntil[tenant] = max(pausedUntil[tenant] ?? 0, wall() + wait)
            }
            retry(lease, .system, "\(refusal.level.rawValue): \(refusal.ceiling) at its limit of \(refusal.limit)", atLeast: wait)
        }
    }

    private func result(_ lease: EventLease, _ report: InvocationReport, _ answer: AnswerCollector, fault: String? = nil) -> [UInt8] {
        lease.event.destination.isEmpty ? [] : answer.result(report, fault: fault)
    }

    /// - Parameter result: what a destination is told, where this was its last try.
    private func retry(
        _ lease: EventLease, _ failure: RunFailure, _ reason: String, result: @autoclosure () -> [UInt8] = [], atLeast: UInt64 = 0
    ) {
        var history = lease.event.history
        history.note(failure)
        var delay = max(atLeast, RetryPolicy.delayMs(after: failure, history, random: UInt64.random(in: 0 ... .max)))
        if failure != .system { delay = retryBudgets[lease.event.function.tenant, default: RetryBudget()].delayMs(delay) }
        let again = wall().addingReportingOverflow(delay).partialValue
        let exhaustion = lease.event.retry.exhaustion(history) ?? (again >= lease.event.expiresAt ? .age : nil)
        // Or its age ends before, by the store's clock a little later.
        let isLast = exhaustion != nil || wall().addingReportingOverflow(delay + 60_000).partialValue >= lease.event.expiresAt
        end(lease, .retry(failure, afterMs: delay, reason: reason, result: isLast ? result() : []), exhaustion: exhaustion)
    }

    /// Settles a lease, and looks for what may run instead.
    /// - Parameter exhaustion: why the store will give it up.
    func end(_ lease: EventLease, _ settlement: EventSettlement, exhaustion: RetryExhaustion? = nil) {
        guard let run = running.removeValue(forKey: lease.id) else { return }
        if run.isStarted { governor.finish(run.lineage, through: run.edge, seatTime: 0, at: now()) }
        Self.takeOff(&leased, lease.event.function.tenant)
        if run.isCounted {
            Self.takeOff(&runningByTenant, lease.event.function.tenant)
            Self.takeOff(&runningByFunction, lease.event.function)
        } else {
            beside -= 1
        }
        var end: (isDone: Bool, reason: String)?
        defer { if end != nil { flowed(run.edge) } }
        switch settlement {
        case .done: end = (true, "")
        case .dead(let reason, _): end = (false, reason)
        case .retry(_, _, let reason, _): end = exhaustion.map { (false, "\($0.rawValue): \(reason)") }
        case .park, .release: break
        }
        settle(Unsettled(lease: lease, settlement: settlement, end: end))
    }

    private func settle(_ one: Unsettled) {
        let box = bound(self)
        let loop = loop
        store.settle(one.lease.id, token: one.lease.token, one.settlement, at: wall()) { result in
            loop.execute { box.value.settled(one, result) }
        }
    }

    /// Once a second: a disk that was full may have room again. Until then the event is leased and runs nowhere.
    func settleAgain() {
        guard store.failure == nil else { return }
        for one in unsettled.values where !one.isUnderWay {
            unsettled[one.lease.id]?.isUnderWay = true
            settle(one)
        }
    }

    /// An event that runs with another one is no call of its own.
    private func uncount(_ lease: EventLease) {
        running[lease.id]?.isCounted = false
        beside += 1
        Self.takeOff(&runningByTenant, lease.event.function.tenant)
        Self.takeOff(&runningByFunction, lease.event.function)
    }

    private static func takeOff<Key>(_ counts: inout [Key: Int], _ key: Key) {
        let left = (counts[key] ?? 1) - 1
        counts[key] = left > 0 ? left : nil
    }

    func settled(_ one: Unsettled, _ result: Result<Bool, StoreError>) {
        let event = one.lease.event
        if case .failure = result {
            if unsettled.updateValue(one, forKey: event.id) == nil {
                runningByTenant[event.function.tenant, default: 0] += 1
                runningByFunction[event.function, default: 0] += 1
            }
        } else if unsettled.removeValue(forKey: event.id) != nil {
            Self.takeOff(&runningByTenant, event.function.tenant)
            Self.takeOff(&runningByFunction, event.function)
        }
        switch result {
        case .success(true):
            if !event.destination.isEmpty { lookForDestinations() }
            guard let end = one.end else { break }
            if end.isDone { count("events.done") } else { gaveUp(event, end.reason) }
        case .success(false): count("events.stale")
        case .failure: count("events.unsettled")
        }
        pump()
    }

    /// Counts and tells a dead letter.
    func gaveUp(_ event: EventRecord, _ reason: String) {
        count("events.dead")
        tellBadEnd(.deadLetter, event.function, "an event of \(event.function) is a dead letter: \(reason)")
    }

    /// Ends an event for its owner; what runs of it is cancelled. `done` gets whether there was something to end.
    public func stop(_ id: InvocationID, of tenant: Name, reason: String, _ done: @escaping @Sendable (Result<Bool, StoreError>) -> Void) {
        let box = bound(self)
        let loop = loop
        store.stop(id, of: tenant, reason: reason, at: wall()) { result in
            loop.execute {
                if case .success(let event?) = result, event.state == .leased, let run = box.value.running[id] {
                    box.value.running[id]?.isStopped = true
                    // The others of a batch run on.
                    if run.call.allSatisfy({ box.value.running[$0]?.isStopped ?? true }) {
                        box.value.state.handle(.abandoned(run.call.first ?? id))
                    }
                }
                if case .success(let event?) = result, event.state == .parked { box.value.released([event]) }
                done(result.map { $0 != nil })
            }
        }
    }

    static func sentence(_ report: InvocationReport) -> String {
        switch report.verdict {
        case .completed: report.fault.map { Phrase.error($0.type, $0.message) } ?? report.outcome.rawValue
        case .refused(let refusal): "\(refusal.level.rawValue): \(refusal.ceiling)"
        case .failed(_, let reason, _): reason
        case .initFailed(let type, let message): "the code could not be loaded: \(Phrase.error(type, message))"
        }
    }
}

/// A lease that has ended, on its way to the disk.
struct Unsettled {
    var lease: EventLease
    var settlement: EventSettlement
    /// Where that ends the event: whether well, and why not.
    var end: (isDone: Bool, reason: String)?
    var isUnderWay = false
}

/// Keeps the beginning of a function's answer, for its destination.
final class AnswerCollector: Sendable {
    /// The longest answer that goes to a destination, in bytes; a longer one is cut, and said to be.
    static let limit = 256 << 10

    private let limit: Int
    private let kept = Mutex((contentType: "", body: ByteBuffer(), isCut: false))

    init(limit: Int) { self.limit = limit }

    func began(_ answer: FunctionAnswer) { kept.withLock { $0.contentType = answer.contentType } }

    func add(_ part: ByteBuffer) -> Bool {
        kept.withLock { kept in
            let room = limit - kept.body.readableBytes
            if part.readableBytes > room { kept.isCut = true }
            if let slice = part.getSlice(at: part.readerIndex, length: max(0, min(room, part.readableBytes))) {
                kept.body.writeImmutableBuffer(slice)
            }
        }
        return true
    }

    /// The call has ended: once, before anything is asked.
    func finish(_ report: InvocationReport) {
        guard limit > 0, let answer = report.answer, !answer.isStreamed else { return }
        began(answer)
        _ = add(answer.body)
    }

    /// Bytes that are kept of it.
    var count: Int { kept.withLock { $0.body.readableBytes } }

    /// Keeps only so much that each of so many may have as much.
    func share(among count: Int) {
        kept.withLock { kept in
            let most = limit / max(1, count)
            guard kept.body.readableBytes > most else { return }
            kept.body = kept.body.getSlice(at: kept.body.readerIndex, length: most) ?? ByteBuffer()
            kept.isCut = true
        }
    }

    /// What it says against events of a batch: why each that it names has failed.
    func faults(of ids: [InvocationID]) -> [InvocationID: String] {
        let found = kept.withLock { $0 }
        return BatchRecords.faults(Array(found.body.readableBytesView), isCut: found.isCut, of: ids)
    }

    func result(_ report: InvocationReport, fault: String? = nil) -> [UInt8] {
        guard limit > 0 else { return [] }
        let found = kept.withLock { $0 }
        return StoredResult(
            outcome: fault == nil ? report.outcome.rawValue : Outcome.functionError.rawValue, contentType: found.contentType,
            body: Data(found.body.readableBytesView), isCut: found.isCut,
            errorType: fault == nil ? report.fault?.type ?? "" : BatchRecords.faultType, errorMessage: fault ?? report.fault?.message ?? ""
        ).encoded
    }
}

extension Deployment {
    /// What a worker is told of the trigger: `async` for a direct call.
    func kind(of trigger: Name) -> String {
        guard let found = triggers.first(where: { $0.name == trigger }) else { return "async" }
        switch found.kind {
        case .http: return "http"
        case .cron: return "cron"
        case .bucket: return "bucket"
        case .outcome: return "outcome"
        case .queue: return "queue"
        }
    }
}
