// SPDX-License-Identifier: Apache-2.0
import DequeModule
import Dispatch
import Foundation
import GRDB
import Synchronization

/// The one writer of the event store: it gathers what many callers want and commits it together, for a commit waits for the disk and a row does not.
///
/// While one commit waits for the disk the next batch gathers. A batch is up to ``batchLimit`` operations. After a commit that carried several, their callers are
/// given up to ``patienceMs`` to come back before the next one ends, so that two half-filled batches do not take turns; who is alone never waits.
///
/// It owns the checkpoints too. SQLite before 3.51.3 can damage a database where two connections write or checkpoint at the same moment; here only one ever does.
final class EventWriter: Sendable {
    /// One caller's part of a transaction. `run` returns what to do once it is committed.
    struct Operation: Sendable {
        /// Bytes it keeps in memory until then.
        var bytes = 0
        /// Whether it may be refused because too many wait.
        var isRefusable = false
        var run: @Sendable (EventTransaction) throws -> @Sendable () -> Void
        var fail: @Sendable (StoreError) -> Void
    }

    static let batchLimit = 256
    static let patienceMs = 2
    /// How many the writer waits for at a time while it gathers: to wake it for each one would cost more than the one does.
    private static let stride = 32
    /// Submits that may wait for the disk, and their bytes: about a second of work.
    static let waitingLimit = 65_536
    static let waitingBytesLimit = 64 << 20
    /// Pages in the log after which SQLite itself makes a checkpoint, within the commit; ours come before.
    static let checkpointBackstop = 16_384
    static let checkpointPages = 1_000

    private struct State {
        var operations: Deque<Operation> = []
        var bytes = 0
        var isRunning = false
        /// How many operations the writer waits for, where it waits.
        var wanted: Int?
        var failure: StoreError?
        var isClosed = false
    }

    private let database: DatabaseQueue
    private let files: EventFiles
    private let retention: EventRetention
    private let waiting: Mutex<WaitingFunctions>
    private let state = Mutex(State())
    private let gathered = DispatchSemaphore(value: 0)
    private let pagesSinceCheckpoint: Atomic<Int>
    private let onFailure: @Sendable (StoreError) -> Void

    /// - Parameter pagesInLog: what earlier runs have left in the log: short ones that each made no checkpoint would let it grow to the backstop.
    init(
        _ database: DatabaseQueue, files: EventFiles, retention: EventRetention, waiting: WaitingFunctions, pagesInLog: Int,
        onFailure: @escaping @Sendable (StoreError) -> Void
    ) {
        self.database = database
        self.files = files
        self.retention = retention
        self.waiting = Mutex(waiting)
        pagesSinceCheckpoint = Atomic(pagesInLog)
        self.onFailure = onFailure
    }

    /// Why nothing can be written any more, or nil.
    var failure: StoreError? { state.withLock { $0.failure } }

    func submit(_ operation: Operation) {
        enum Answer { case refused(StoreError), start, wake, wait }
        let answer = state.withLock { state -> Answer in
            if let failure = state.failure { return .refused(failure) }
            if state.isClosed { return .refused(StoreError("the event store is closed")) }
            if operation.isRefusable, state.operations.count >= Self.waitingLimit || state.bytes + operation.bytes > Self.waitingBytesLimit
            {
                return .refused(StoreError("\(state.operations.count) operations wait for the disk already: try again in a second"))
            }
            state.operations.append(operation)
            state.bytes += operation.bytes
            if !state.isRunning {
                state.isRunning = true
                return .start
            }
            guard let wanted = state.wanted, state.operations.count >= wanted else { return .wait }
            state.wanted = nil
            return .wake
        }
        switch answer {
        case .refused(let error): operation.fail(error)
        case .start: database.asyncWriteWithoutTransaction { self.drain($0) }
        case .wake: gathered.signal()
        case .wait: break
        }
    }

    /// Waits until everything that was submitted is committed or refused, and closes the database. Nothing can be submitted after it.
    func close() {
        state.withLock { $0.isClosed = true }
        // Runs after the drain that is under way, and there is none after that.
        database.writeWithoutTransaction { _ in }
        try? database.close()
    }

    // MARK: on the database's queue

    private func drain(_ database: Database) {
        var last = 1
        while true {
            let patience = DispatchTime.now() + .milliseconds(Self.patienceMs)
            if last > 1 { gather(1, until: patience) }
            let first = take(Self.batchLimit, isFirst: true)
            if first.isEmpty { return }
            last = commit(first, expecting: min(last, Self.batchLimit), until: patience, database)
            checkpoint(database)
        }
    }

    /// Waits until so many operations are there, but not for long.
    private func gather(_ count: Int, until patience: DispatchTime) {
        let isThere = state.withLock { state in
            if state.operations.count >= count { return true }
            state.wanted = count
            return false
        }
        if isThere { return }
        if gathered.wait(timeout: patience) == .success { return }
        // Where the signal is on its way it has to be taken, or it would end the next wait.
        let isComing = state.withLock { state in
            defer { state.wanted = nil }
            return state.wanted == nil
        }
        if isComing { gathered.wait() }
    }

    /// Takes what waits. The first of a batch that finds nothing ends the drain.
    private func take(_ most: Int, isFirst: Bool) -> [Operation] {
        state.withLock { state in
            let count = min(most, state.operations.count)
            if isFirst, count == 0 { state.isRunning = false }
            var batch: [Operation] = []
            batch.reserveCapacity(count)
            // One after another: what waits behind them may be many thousands, and stays where it is.
            for _ in 0..<count { batch.append(state.operations.removeFirst()) }
            for operation in batch { state.bytes -= operation.bytes }
            return batch
        }
    }

    /// Carries out and commits a batch, and what comes until it is as large as the last one was or until `patience` ends: what is there is worked on meanwhile.
    /// Returns how many it carried.
    private func commit(_ first: [Operation], expecting expected: Int, until patience: DispatchTime, _ database: Database) -> Int {
        var batch = first
        if let failure {
            for operation in batch { operation.fail(failure) }
            return batch.count
        }
        let transaction = EventTransaction(
            database, files: files, retention: retention,
            waiting: waiting.withLock { waiting in
                // Moved and not copied: a copy would be made anew at every commit.
                defer { waiting = WaitingFunctions() }
                return waiting
            })
        var completions: [@Sendable () -> Void] = []
        completions.reserveCapacity(max(batch.count, expected))
        do {
            try database.inTransaction(.immediate) {
                while true {
                    for operation in batch[completions.count...] { completions.append(try operation.run(transaction)) }
                    guard batch.count < expected else { break }
                    gather(min(expected - batch.count, Self.stride), until: patience)
                    let more = take(Self.batchLimit - batch.count, isFirst: false)
                    if more.isEmpty { break }
                    batch += more
                }
                try transaction.finish()
                return .commit
            }
        } catch {
            let failure = recover(from: error, transaction)
            for operation in batch { operation.fail(failure) }
            return batch.count
        }
        waiting.withLock { $0 = transaction.waiting }
        // After the commit: a row never names a file that is gone.
        for file in transaction.abandonedFiles { files.remove(file) }
        let bytes = batch.reduce(0) { $0 + $1.bytes }
        pagesSinceCheckpoint.add(6 + batch.count / 2 + bytes / 4096, ordering: .relaxed)
        for completion in completions { completion() }
        return batch.count
    }

    /// After a transaction that failed: a full disk is told and survived, everything else ends the store.
    private func recover(from error: any Error, _ transaction: EventTransaction) -> StoreError {
        if Self.isDiskFull(error) {
            do {
                try transaction.findWaiting()
                waiting.withLock { $0 = transaction.waiting }
                return StoreError("the disk is full: \(error). Make room on it; nothing was changed")
            } catch { return fail(error) }
        }
        return fail(error)
    }

    static func isDiskFull(_ error: any Error) -> Bool {
        guard let error = error as? DatabaseError else { return false }
        return error.resultCode == .SQLITE_FULL || error.extendedResultCode == .SQLITE_IOERR_SHMSIZE
    }

    /// Stops for good. After a failed fsync Linux takes the lost pages for written: only a new start, which reads what the disk really holds, tells what is there.
    private func fail(_ error: any Error) -> StoreError {
        let failure = StoreError(
            "the event store cannot go on: \(error). What was not confirmed may or may not be stored; start the daemon again, and look at the disk"
        )
        state.withLock { $0.failure = failure }
        onFailure(failure)
        return failure
    }

    /// Copies the log into the database between two commits, where nobody waits for it.
    private func checkpoint(_ database: Database) {
        guard pagesSinceCheckpoint.load(ordering: .relaxed) >= Self.checkpointPages, failure == nil else { return }
        pagesSinceCheckpoint.store(0, ordering: .relaxed)
        do { _ = try database.checkpoint(.passive) } catch {
            if !Self.isDiskFull(error) { _ = fail(error) }
        }
    }
}
