// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Kernel
import Synchronization

/// What every invocation used and what every tenant spent, kept so that a kill of the daemon at any instruction neither loses nor doubles a charge.
///
/// A record goes into a file in shared memory (``begin(_:_:reserved:memoryBytes:wallMs:)`` and its kin: no system call, fit for an event loop) and is
/// counted into SQLite by ``checkpoint()`` together with the place up to which records are counted. What a *failure of power* may take are the
/// records since the last checkpoint. At the start, an invocation that has no end ran when the daemon died: it is charged for the time until then, at most
/// what was reserved, and counted once, with an error.
///
/// Times only move forward here: a wall clock that steps back is replaced by the latest time seen (``now(_:)``), for a budget's windows never reopen.
public final class UsageLedger: Sendable {
    private struct Running {
        var function: FunctionID
        var reserved: UInt64
        var memoryBytes: UInt64
    }
    private struct State: Sendable {
        var current: UsageSegment
        var full: [UsageSegment] = []
        var spares: [UsageSegment] = []
        var running: [InvocationID: Running] = [:]
        var clock: UInt64
        var files = 0
    }
    private struct Folded: Sendable {
        var database: UsageDatabase
        var position: UsageDatabase.Position
        var prunedHour: UInt64 = 0
    }

    /// Damage that was found at the start and what became of it: for the log.
    public let warnings: [String]
    private let directory: String
    private let slots: Int
    private let retention: UsageRetention
    private let lock: OwnedFD
    private let state: Mutex<State>
    private let folded: Mutex<Folded>

    /// Opens or creates the ledger in a directory that exists, and counts what the last run left. Blocks for the disk.
    /// - Parameters:
    ///   - now: milliseconds since 1970.
    ///   - segmentRecords: records a file; 16,383 make 4 MiB.
    /// - Throws: a sentence where the directory is not writable, in use, full, or written by a newer release. Damaged records are no error.
    public init(directory: String, now: UInt64, retention: UsageRetention = UsageRetention(), segmentRecords: Int = 16_383)
        throws(StoreError)
    {
        self.directory = directory
        self.retention = retention
        slots = min(max(2, segmentRecords), UsageSegment.slotLimit)
        lock = try UsageRecovery.lock(directory)
        let database = try UsageDatabase(path: "\(directory)/usage.sqlite")
        var recovery = try UsageRecovery(directory: directory, database: database)
        let clock = try recovery.fold(into: database, now: now)
        warnings = recovery.warnings
        var first = try UsageSegment(path: Self.path(directory, 0), slots: slots)
        first.activate(number: recovery.position.segment + 1)
        state = Mutex(State(current: first, clock: clock, files: 1))
        folded = Mutex(Folded(database: database, position: recovery.position))
        try prepare()
    }

    private static func path(_ directory: String, _ file: Int) -> String { "\(directory)/usage-\(file)\(UsageSegment.suffix)" }

    // MARK: on the event loop

    /// The time to go by for windows and records: the latest of `wallMs` and every time seen before. Also notes that the daemon lives, which is what an
    /// invocation is charged up to after a crash: call it once a second.
    public func now(_ wallMs: UInt64) -> UInt64 {
        state.withLock { state in
            state.clock = max(state.clock, wallMs)
            state.current.tick(state.clock)
            return state.clock
        }
    }

    /// Notes a start, before the worker is given the invocation.
    /// - Throws: where no room for the end of every running invocation can be made, because the disk is full; then nothing may start.
    ///   It waits for the disk where ``checkpoint()`` has fallen behind by two segments, else never.
    public func begin(_ id: InvocationID, _ function: FunctionID, reserved: UInt64, memoryBytes: UInt64, wallMs: UInt64) throws(StoreError)
    {
        try state.withLock { state throws(StoreError) in
            guard state.running[id] == nil else { throw StoreError("the invocation \(id) runs already") }
            // This record and the ends of all that run.
            while state.current.room + state.spares.count * slots < state.running.count + 2 { try addSpare(&state) }
            state.running[id] = Running(function: function, reserved: reserved, memoryBytes: memoryBytes)
            append(
                UsageRecord(kind: .begin, id: id, function: function, wallMs: wallMs, reserved: reserved, memoryBytes: memoryBytes), &state)
        }
    }

    /// Notes an end. Never waits for a disk and never fails for want of room.
    /// - Parameter charged: millionths of a GB-second; at most what was reserved counts.
    /// - Returns: what is charged, nil where no such invocation runs (nothing is noted then).
    @discardableResult
    public func settle(_ id: InvocationID, _ outcome: Outcome, charged: UInt64, durationUs: UInt64, cpuUs: UInt64, wallMs: UInt64)
        -> UInt64?
    {
        state.withLock { state in
            guard let running = state.running.removeValue(forKey: id) else { return nil }
            var record = UsageRecord(
                kind: .settle, id: id, function: running.function, wallMs: wallMs, reserved: running.reserved,
                memoryBytes: running.memoryBytes)
            record.charged = min(charged, running.reserved)
            record.durationUs = durationUs
            record.cpuUs = cpuUs
            record.outcome = outcome
            append(record, &state)
            return record.charged
        }
    }

    /// Notes that an invocation that was begun never ran: it is not counted. False where none is running.
    @discardableResult
    public func void(_ id: InvocationID, wallMs: UInt64) -> Bool {
        state.withLock { state in
            guard let running = state.running.removeValue(forKey: id) else { return false }
            append(
                UsageRecord(
                    kind: .void, id: id, function: running.function, wallMs: wallMs, reserved: running.reserved,
                    memoryBytes: running.memoryBytes), &state)
            return true
        }
    }

    /// Notes processor time of a function's workers. Invocations share workers and outlast them, so it is nobody's in particular.
    /// - Returns: whether it is noted; false where the room that is left is for the ends of what runs, and none can be made. Then it is still the caller's to tell.
    public func used(_ function: FunctionID, cpuUs: UInt64, wallMs: UInt64) -> Bool {
        state.withLock { state in
            while state.current.room + state.spares.count * slots < state.running.count + 1 {
                do { try addSpare(&state) } catch { return false }
            }
            var record = UsageRecord(
                kind: .processor, id: InvocationID(milliseconds: 0, random: (0, 0)), function: function, wallMs: wallMs, reserved: 0,
                memoryBytes: 0)
            record.cpuUs = cpuUs
            append(record, &state)
            return true
        }
    }

    /// Whether ``checkpoint()`` should come before its time: a segment is full.
    public var needsCheckpoint: Bool { state.withLock { !$0.full.isEmpty || $0.spares.isEmpty } }

    private func append(_ record: UsageRecord, _ state: inout State) {
        state.clock = max(state.clock, record.wallMs)
        var record = record
        record.wallMs = state.clock
        if state.current.room == 0 {
            let number = state.current.number + 1
            state.full.append(state.current)
            // There is one: `begin` saw to it.
            state.current = state.spares.removeFirst()
            state.current.activate(number: number)
        }
        state.current.append(record)
    }

    private func addSpare(_ state: inout State) throws(StoreError) {
        let file = state.files
        state.files += 1
        state.spares.append(try UsageSegment(path: Self.path(directory, file), slots: slots))
    }

    // MARK: on a queue for the disk

    /// Counts what was noted, frees full segments and prepares the next. Blocks for the disk; call it once a second.
    /// - Returns: damage to log.
    /// - Throws: where SQLite cannot write; the records stay and the next call tries again.
    @discardableResult
    public func checkpoint() throws(StoreError) -> [String] {
        try folded.withLock { folded throws(StoreError) in try fold(&folded) }
    }

    /// What a tenant spent in some seconds since 1970. Exact where both bounds are whole quarters of an hour, else a little more than the truth.
    public func spent(_ tenant: Name, _ seconds: Range<Int64>) throws(StoreError) -> UsageSpent {
        try folded.withLock { folded throws(StoreError) in
            try fold(&folded)
            return try folded.database.spent(tenant, seconds)
        }
    }

    /// The same for all tenants at once; those that spent nothing are left out.
    public func spent(_ seconds: Range<Int64>) throws(StoreError) -> [Name: UsageSpent] {
        try folded.withLock { folded throws(StoreError) in
            try fold(&folded)
            return try folded.database.spent(seconds)
        }
    }

    /// Sums of what has ended, everything up to this call included. Hours that are old are one day of UTC, at its first second.
    public func usage(_ query: UsageQuery) throws(StoreError) -> [UsageRow] {
        try folded.withLock { folded throws(StoreError) in
            try fold(&folded)
            return try folded.database.usage(query)
        }
    }

    @discardableResult
    private func fold(_ folded: inout Folded) throws(StoreError) -> [String] {
        let (segments, clock) = state.withLock { ($0.full + [$0.current], $0.clock) }
        var batch = UsageBatch()
        batch.clock = clock
        var warnings: [String] = []
        var end = folded.position
        for segment in segments {
            let first = segment.number == folded.position.segment ? folded.position.slot : 0
            let contents = segment.contents(first..<segment.used)
            for record in contents.records { batch.add(record) }
            let lost = segment.used - first - contents.records.count
            if lost > 0 { warnings.append(UsageRecovery.quarantine(segment.path, lost: lost)) }
            end = .init(segment: segment.number, slot: segment.used)
        }
        let filled = segments.reduce(0) { $0 + $1.used } - (segments.first?.number == folded.position.segment ? folded.position.slot : 0)
        if end != folded.position { try folded.database.fold(batch, to: end) }
        folded.position = end
        let done = state.withLock { state in
            let done = state.full.filter { $0.number < end.segment }
            state.full.removeAll { $0.number < end.segment }
            return done
        }
        for segment in done { UsageRecovery.remove(segment.path) }
        if folded.prunedHour != clock / 3_600_000 {
            try folded.database.prune(retention, now: Int64(clamping: clock / 1000))
            folded.prunedHour = clock / 3_600_000
        }
        try prepare()
        prepare(slots: filled)
        return warnings
    }

    /// Readies the next slots, as many as were filled since the last time and half as many again: the first touch of a page of the file takes longer than all else that is
    /// done for a record, and it is the event loop's.
    private func prepare(slots filled: Int) {
        guard filled > 0 else { return }
        let (current, next) = state.withLock { ($0.current, $0.spares.first) }
        let wanted = filled + filled / 2
        current.prepare(min(wanted, current.room), after: current.used)
        if wanted > current.room { next?.prepare(min(wanted - current.room, slots), after: 0) }
    }

    /// Makes the next segment ahead of its use, without the lock.
    private func prepare() throws(StoreError) {
        let file = state.withLock { state -> Int? in
            guard state.spares.isEmpty else { return nil }
            state.files += 1
            return state.files - 1
        }
        guard let file else { return }
        let spare = try UsageSegment(path: Self.path(directory, file), slots: slots)
        state.withLock { $0.spares.append(spare) }
    }
}
