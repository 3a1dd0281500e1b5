// SPDX-License-Identifier: Apache-2.0
public import Core
import Dispatch
import Foundation
import GRDB
import Glibc
import Kernel
import Synchronization

/// Durable events: every one that was confirmed is in exactly one ``EventState``, whatever happens to the process or to the power.
///
/// An event starts at least once. Its change of state and the record for its destination happen exactly once, in one transaction. All changes go through one
/// writer, which commits them in groups with `synchronous=FULL`; a completion is called after the commit that holds its change, on the writer's thread: it must be
/// short and must not block. Times are milliseconds since 1970 and are passed in; they should never go back.
///
/// After a failure of the disk everything is refused with the same sentence (``failure``): the process has to end and start again.
public final class EventStore: Sendable {
    /// The most ids of one call, and the most rows of one page.
    public static let batchLimit = 1_000
    /// The longest payload of an event that is taken in with others, in bytes: none of them needs a file of its own.
    public static let batchPayloadLimit = EventFiles.inlineLimit

    /// How many events were running when the last process ended.
    public let recovered: Int
    let reader: DatabaseQueue
    /// Held by every read: SQLite does not survive one after its end.
    let reading = NSLock()
    /// For what looks at every event, which takes seconds where there are a million: nobody else waits for it.
    let counter: DatabaseQueue
    let counting = NSLock()
    let isClosed = Atomic(false)
    let files: EventFiles
    private let writer: EventWriter
    private let lock: Mutex<OwnedFD?>
    /// Large payloads wait for the disk here and not on their caller's thread.
    private let payloadBytes = Atomic<Int>(0)
    private let payloads = DispatchQueue(label: "bulkhead.payloads", attributes: .concurrent)

    /// Opens or creates `events.sqlite` and its folder of payloads in a directory that exists. Blocks for the disk.
    /// - Parameters:
    ///   - now: milliseconds since 1970.
    ///   - onFailure: called once, when the disk fails.
    /// - Throws: a sentence where the directory is not writable, in use or full, or the file is damaged or of a newer release.
    public convenience init(
        directory: String, now: UInt64, retention: EventRetention = EventRetention(),
        onFailure: @escaping @Sendable (StoreError) -> Void = { _ in }
    ) throws(StoreError) {
        try self.init(directory: directory, now: now, retention: retention, synchronous: "FULL", onFailure: onFailure)
    }

    /// - Parameter synchronous: `NORMAL` loses what was confirmed when the power fails: for the test that shows it.
    package init(
        directory: String, now: UInt64, retention: EventRetention = EventRetention(), synchronous: String,
        onFailure: @escaping @Sendable (StoreError) -> Void = { _ in }
    ) throws(StoreError) {
        let path = "\(directory)/events.sqlite"
        lock = Mutex(try Self.lock(directory))
        files = try EventFiles(directory: "\(directory)/payloads")
        do {
            let queue = try DatabaseQueue(path: path, configuration: EventSchema.configuration(synchronous: synchronous))
            var found = (recovered: 0, waiting: WaitingFunctions())
            let files = files
            try queue.writeWithoutTransaction { database in
                let transaction = EventTransaction(database, files: files, retention: retention, waiting: WaitingFunctions())
                try database.inTransaction(.immediate) {
                    try EventSchema.prepare(database, path: path)
                    found.recovered = try transaction.recover(now: now)
                    try transaction.finish()
                    return .commit
                }
                try transaction.removeOrphans()
                try transaction.findWaiting()
                found.waiting = transaction.waiting
            }
            recovered = found.recovered
            let log = try? FileManager.default.attributesOfItem(atPath: path + "-wal")[.size] as? UInt64
            writer = EventWriter(
                queue, files: files, retention: retention, waiting: found.waiting, pagesInLog: Int((log ?? 0) / 4096), onFailure: onFailure)
            var configuration = Configuration()
            configuration.readonly = true
            reader = try DatabaseQueue(path: path, configuration: configuration)
            counter = try DatabaseQueue(path: path, configuration: configuration)
        } catch let error as StoreError {
            throw error
        } catch {
            throw StoreError(
                "the events \(path) cannot be opened: \(error). Check that the directory is writable, that the disk has room and that the file is whole"
            )
        }
    }

    /// One store a directory: a second one would hand out what the first has handed out.
    private static func lock(_ directory: String) throws(StoreError) -> OwnedFD {
        let number = unsafe open("\(directory)/events.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard number >= 0 else {
            throw StoreError(
                "the events in \(directory) cannot be opened: \(KernelError("lock them")). Check that the directory is writable")
        }
        let file = OwnedFD(number)
        guard ProcessControl.lockExclusively(number, patience: 2_000) else {
            throw StoreError("the events in \(directory) are in use by another process: stop it, or use another state directory")
        }
        return file
    }

    /// Waits until everything is committed, and closes the files. Everything is refused afterwards.
    public func close() {
        payloads.sync(flags: .barrier) {}
        writer.close()
        reading.withLock {
            isClosed.store(true, ordering: .relaxed)
            try? reader.close()
        }
        counter.interrupt()
        counting.withLock { try? counter.close() }
        lock.withLock { $0 = nil }
    }

    /// Why nothing can be changed any more, or nil: the process should end.
    public var failure: StoreError? { writer.failure }

    // MARK: the way of an event

    /// Takes an event in. The completion's receipt means that it is on the disk.
    public func enqueue(_ draft: EventDraft, completion: @escaping @Sendable (Result<EventReceipt, StoreError>) -> Void) {
        store(draft, completion) { transaction, stored in try transaction.insert(draft, stored) }
    }

    /// Takes several events in, in one transaction: all of them, or none. Their payloads are at most ``batchPayloadLimit`` long.
    public func enqueue(_ drafts: [EventDraft], completion: @escaping @Sendable (Result<BatchReceipt, StoreError>) -> Void) {
        for draft in drafts {
            let isLong = draft.payload.count > Self.batchPayloadLimit
            if let fault = draft.fault ?? (isLong ? "its payload is too long for a batch" : nil) {
                return completion(.failure(StoreError("the event \(draft.id) is refused: \(fault)")))
            }
        }
        let bytes = drafts.reduce(0) { $0 + $1.payload.count + $1.lineage.count + $1.destination.count + 256 }
        perform(bytes: bytes, isRefusable: true, completion) { transaction in try transaction.insert(drafts) }
    }

    /// Takes in an event that stands for several, in short: where one of the same key and trigger still waits in the state that this one would come into, that
    /// one's payload becomes what `add` makes of it and of the draft's. An event that was let go or has ended is never added to: then the draft is a new one.
    public func merge(
        _ draft: EventDraft, adding add: @escaping @Sendable (_ old: [UInt8], _ new: [UInt8]) -> [UInt8],
        completion: @escaping @Sendable (Result<MergeReceipt, StoreError>) -> Void
    ) {
        let isLong = draft.payload.count > Self.batchPayloadLimit
        if let fault = draft.fault ?? (draft.key == nil ? "it has no key" : isLong ? "its payload is too long" : nil) {
            return completion(.failure(StoreError("the event \(draft.id) is refused: \(fault)")))
        }
        perform(bytes: draft.payload.count + 256, isRefusable: true, completion) { try $0.merge(draft, add) }
    }

    /// Hands out events that are due, at most 256, under tokens that no lease has had. The tenants take turns; within one its classes, then its oldest go first.
    ///
    /// A lease has no time limit: it ends by ``settle(_:token:_:at:completion:)``, by a stop, or when the store is opened again.
    public func claim(
        limit: Int, _ permission: ClaimPermission, at now: UInt64, completion: @escaping @Sendable (Result<EventClaim, StoreError>) -> Void
    ) {
        let limit = max(0, min(limit, EventWriter.batchLimit))
        perform(completion) { try $0.claim(limit: limit, permission, now: now) }
    }

    /// Ends a lease. False where the token is stale (stopped, or settled before): then nothing has changed.
    public func settle(
        _ id: InvocationID, token: UInt64, _ settlement: EventSettlement, at now: UInt64,
        completion: @escaping @Sendable (Result<Bool, StoreError>) -> Void
    ) {
        perform(completion) { try $0.settle(id, token: token, settlement, now: now) }
    }

    /// Forgets a destination's record, because it is delivered, or because `draft` will deliver it, which is taken in in the same transaction.
    /// False where there is no such record any more: then the draft is not taken.
    public func complete(
        destination number: Int64, with draft: EventDraft?, completion: @escaping @Sendable (Result<Bool, StoreError>) -> Void
    ) {
        guard let draft else { return perform(completion) { try $0.deliver(number, nil, nil) } }
        store(draft, completion) { transaction, stored in try transaction.deliver(number, draft, stored) }
    }

    // MARK: owners and time

    /// Ends an event. Returns it as it was, or nil where it has ended already or is another tenant's. One that was leased still runs: the caller ends that.
    public func stop(
        _ id: InvocationID, of tenant: Name, reason: String, at now: UInt64,
        completion: @escaping @Sendable (Result<EventRecord?, StoreError>) -> Void
    ) {
        perform(completion) { try $0.stop(id, tenant, reason: reason, now: now) }
    }

    /// Makes dead letters ready again under their ids, with all attempts, a new age and a new lineage. Returns how many; the others were no dead letters.
    /// - Parameter due: when they may start; now where that is later.
    public func redrive(
        _ ids: [InvocationID], of tenant: Name, lineage: [UInt8]?, due: UInt64 = 0, at now: UInt64,
        completion: @escaping @Sendable (Result<Int, StoreError>) -> Void
    ) {
        perform(completion) {
            try $0.restart(Array(ids.prefix(Self.batchLimit)), tenant, from: .dead, lineage: lineage, due: max(due, now), now: now)
        }
    }

    /// Makes parked events ready, with a new age. Returns how many.
    public func resume(
        _ ids: [InvocationID], of tenant: Name, lineage: [UInt8]?, at now: UInt64,
        completion: @escaping @Sendable (Result<Int, StoreError>) -> Void
    ) {
        perform(completion) {
            try $0.restart(Array(ids.prefix(Self.batchLimit)), tenant, from: .parked, lineage: lineage, due: now, now: now)
        }
    }

    /// Ends parked events: they are stopped. Returns which; the others were not parked any more.
    public func discard(
        _ ids: [InvocationID], of tenant: Name, reason: String, at now: UInt64,
        completion: @escaping @Sendable (Result<Set<InvocationID>, StoreError>) -> Void
    ) {
        perform(completion) { transaction in
            try Set(ids.prefix(Self.batchLimit)).filter { id in
                guard try transaction.record(id)?.state == .parked else { return false }
                return try transaction.stop(id, tenant, reason: reason, now: now) != nil
            }
        }
    }

    /// Removes events that have ended, except those whose destination has not been told yet. Returns how many.
    public func purge(_ ids: [InvocationID], of tenant: Name, completion: @escaping @Sendable (Result<Int, StoreError>) -> Void) {
        perform(completion) { try $0.purge(Array(ids.prefix(Self.batchLimit)), tenant, [.done, .dead, .stopped, .expired]) }
    }

    /// Does what time does: what waited too long ends, what ended long ago and old keys are removed. Call it every second.
    public func sweep(limit: Int = 256, at now: UInt64, completion: @escaping @Sendable (Result<EventSweep, StoreError>) -> Void) {
        perform(completion) { try $0.sweep(limit: max(0, min(limit, Self.batchLimit)), now: now) }
    }

    // MARK: helpers

    /// Waits for a completion: `try store.wait { store.sweep(at: now, completion: $0) }`. Never on an event loop or in a completion.
    public func wait<T: Sendable>(_ start: (@escaping @Sendable (Result<T, StoreError>) -> Void) -> Void) throws(StoreError) -> T {
        let reply = Reply<T>()
        start { reply.set($0) }
        return try reply.get()
    }

    private func perform<T: Sendable>(
        bytes: Int = 0, isRefusable: Bool = false, _ completion: @escaping @Sendable (Result<T, StoreError>) -> Void,
        failed: @escaping @Sendable () -> Void = {}, _ body: @escaping @Sendable (EventTransaction) throws -> T
    ) {
        writer.submit(
            .init(
                bytes: bytes, isRefusable: isRefusable,
                run: { transaction in
                    let result = try body(transaction)
                    return { completion(.success(result)) }
                },
                fail: {
                    failed()
                    completion(.failure($0))
                }))
    }

    /// Puts a large payload on the disk first, then performs.
    private func store<T: Sendable>(
        _ draft: EventDraft, _ completion: @escaping @Sendable (Result<T, StoreError>) -> Void,
        _ body: @escaping @Sendable (EventTransaction, EventFiles.Stored?) throws -> T
    ) {
        if let fault = draft.fault { return completion(.failure(StoreError("the event \(draft.id) is refused: \(fault)"))) }
        let bytes = draft.payload.count + draft.lineage.count + draft.destination.count + 256
        guard draft.payload.count > EventFiles.inlineLimit else {
            return perform(bytes: bytes, isRefusable: true, completion) { try body($0, nil) }
        }
        let size = draft.payload.count
        guard payloadBytes.add(size, ordering: .relaxed).newValue <= EventWriter.waitingBytesLimit else {
            payloadBytes.subtract(size, ordering: .relaxed)
            return completion(.failure(StoreError("too many large payloads wait for the disk already: try again in a second")))
        }
        payloads.async { [self] in
            defer { payloadBytes.subtract(size, ordering: .relaxed) }
            do throws(StoreError) {
                let stored = try files.store(draft.payload, for: draft.id)
                perform(
                    bytes: 256, isRefusable: true, completion,
                    failed: { [self] in
                        // Where the disk failed the row may be there all the same, and then needs its file; the next start tells.
                        if failure == nil { files.remove(stored.name) }
                    }
                ) { try body($0, stored) }
            } catch { completion(.failure(error)) }
        }
    }
}

/// A place for one result that somebody waits for.
private final class Reply<T: Sendable>: Sendable {
    private let result = Mutex<Result<T, StoreError>?>(nil)
    private let isThere = DispatchSemaphore(value: 0)

    func set(_ value: Result<T, StoreError>) {
        result.withLock { $0 = value }
        isThere.signal()
    }

    func get() throws(StoreError) -> T {
        isThere.wait()
        guard let result = result.withLock({ $0 }) else { throw StoreError("nothing came back") }
        return try result.get()
    }
}
