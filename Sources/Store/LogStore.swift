// SPDX-License-Identifier: Apache-2.0
public import Core
import Dispatch
import Foundation
import Glibc
import Synchronization

/// One line of a tenant's log, escaped and bounded.
public struct LogRecord: Hashable, Sendable, Codable {
    /// Milliseconds since 1970.
    public var time: UInt64
    public var function: String
    public var version: UInt32
    public var worker: String
    public var invocation: String
    /// `stdout`, `stderr`, `log`, `supervisor`.
    public var stream: String
    public var level: String
    public var text: String
    public init(
        time: UInt64, function: String, version: UInt32, worker: String, invocation: String, stream: String, level: String, text: String
    ) {
        self.time = time
        self.function = function
        self.version = version
        self.worker = worker
        self.invocation = invocation
        self.stream = stream
        self.level = level
        self.text = text
    }
}

/// Logs by tenant: JSON lines in numbered segments, bounded in size and age. Writing happens on a queue of its own; a caller never waits for a disk.
public final class LogStore: Sendable {
    private struct Writer {
        var file: Int32
        var segment: Int
        var size: UInt64
    }
    private final class State {
        var writers: [Name: Writer] = [:]
    }
    private struct Waiting {
        var bytes = 0
        var byTenant: [Name: Int] = [:]
        /// Lines that were not taken, by whose they are, until that is said.
        var dropped: [Name: Int] = [:]
    }

    /// The longest text of a line, in bytes.
    public static let textLimit = 16 << 10
    /// Bytes of one tenant, and of all, that may wait for the disk; further lines are dropped and counted. A tenant has the small share in any case, so that
    /// others' floods take nothing from who writes little.
    static let backlogOfTenant = 4 << 20
    static let backlog = 32 << 20
    static let smallBacklog = 64 << 10
    static let segments = 8
    /// Files that are open at once; more tenants than these take turns.
    static let openFiles = 256

    let directory: String
    private let bytesPerTenant: UInt64
    private let age: UInt64
    private let queue = DispatchQueue(label: "bulkhead.logs")
    private let waiting = Mutex(Waiting())
    // Confined to the queue.
    nonisolated(unsafe) private let state = State()

    public init(directory: String, bytesPerTenant: UInt64, age: Nanoseconds) {
        self.directory = directory
        self.bytesPerTenant = bytesPerTenant
        self.age = age / 1_000_000
    }

    /// Stores one line soon. Never blocks.
    public func append(_ tenant: Name, _ record: LogRecord) {
        let cost = record.text.utf8.count + 256
        let isTaken = waiting.withLock { waiting in
            let own = waiting.byTenant[tenant] ?? 0
            guard own < Self.backlogOfTenant, waiting.bytes < Self.backlog || own < Self.smallBacklog else {
                waiting.dropped[tenant, default: 0] += 1
                return false
            }
            waiting.byTenant[tenant] = own + cost
            waiting.bytes += cost
            return true
        }
        guard isTaken else { return }
        queue.async {
            let dropped = self.waiting.withLock { waiting in
                waiting.bytes -= cost
                waiting.byTenant[tenant] = waiting.byTenant[tenant].flatMap { $0 > cost ? $0 - cost : nil }
                return waiting.dropped.removeValue(forKey: tenant) ?? 0
            }
            if dropped > 0 {
                var note = record
                (note.stream, note.level, note.invocation) = ("supervisor", "warning", "")
                note.text = "the disk is too slow for this tenant's logs: \(dropped) lines were dropped before this one"
                self.write(tenant, note)
            }
            self.write(tenant, record)
        }
    }

    func folder(_ tenant: Name) -> String { "\(directory)/\(tenant)" }
    func path(_ tenant: Name, _ segment: Int) -> String { "\(folder(tenant))/\(segment).jsonl" }

    private func write(_ tenant: Name, _ record: LogRecord) {
        guard var line = try? JSONEncoder().encode(record) else { return }
        line.append(0x0A)
        guard var writer = unsafe state.writers[tenant] ?? open(tenant) else { return }
        if writer.size + UInt64(line.count) > max(64 << 10, bytesPerTenant / UInt64(Self.segments)) {
            guard let next = rotate(tenant, writer) else { return }
            writer = next
            prune(tenant)
        }
        let count = unsafe line.withUnsafeBytes { unsafe Glibc.write(writer.file, $0.baseAddress, $0.count) }
        if count == line.count {
            writer.size += UInt64(count)
        } else if count > 0 {
            // The disk is full: without this the next line would be glued to the torn one, and both be lost.
            ftruncate(writer.file, off_t(writer.size))
        }
        unsafe state.writers[tenant] = writer
    }

    private func rotate(_ tenant: Name, _ writer: Writer) -> Writer? {
        close(writer.file)
        unsafe state.writers[tenant] = nil
        let next = create(tenant, segment: writer.segment + 1)
        unsafe state.writers[tenant] = next
        return next
    }

    private func open(_ tenant: Name) -> Writer? {
        if unsafe state.writers.count >= Self.openFiles {
            for writer in unsafe state.writers.values { close(writer.file) }
            unsafe state.writers = [:]
        }
        unsafe mkdir(folder(tenant), 0o700)
        return create(tenant, segment: numbers(tenant).last ?? 1)
    }

    private func create(_ tenant: Name, segment: Int) -> Writer? {
        let file = unsafe Glibc.open(path(tenant, segment), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard file >= 0 else { return nil }
        var size = UInt64(max(0, lseek(file, 0, SEEK_END)))
        var last: UInt8 = 0x0A
        if size > 0, unsafe pread(file, &last, 1, off_t(size - 1)) == 1, last != 0x0A {
            // An earlier run ended within a line.
            last = 0x0A
            if unsafe Glibc.write(file, &last, 1) == 1 { size += 1 }
        }
        return Writer(file: file, segment: segment, size: size)
    }

    /// The segments that are there, in order. Numbers are never used twice: the highest one is never removed.
    func numbers(_ tenant: Name) -> [Int] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder(tenant))) ?? []
        return names.compactMap { $0.hasSuffix(".jsonl") ? Int($0.dropLast(6)) : nil }.sorted()
    }

    private func prune(_ tenant: Name) {
        let all = numbers(tenant)
        for number in all.dropLast(Self.segments) { unsafe unlink(path(tenant, number)) }
        let oldest = oldestTime()
        for number in all.dropLast() where written(tenant, number) < oldest { unsafe unlink(path(tenant, number)) }
    }

    /// Lines before this time, in milliseconds since 1970, are too old to be kept or shown.
    func oldestTime() -> UInt64 {
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        return now > age ? now - age : 0
    }

    /// When the last line of a segment came, in milliseconds since 1970.
    func written(_ tenant: Name, _ segment: Int) -> UInt64 {
        var info = stat()
        guard unsafe stat(path(tenant, segment), &info) == 0 else { return .max }
        return UInt64(max(0, info.st_mtim.tv_sec)) * 1000 + UInt64(info.st_mtim.tv_nsec / 1_000_000)
    }

    /// Removes what is too old of every tenant, also of those that write nothing any more or are not configured any more. Blocks for the disk.
    public func prune() {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [] {
            guard let tenant = Name(name) else { continue }
            queue.sync {
                guard let last = numbers(tenant).last else { return }
                let isEmpty = unsafe state.writers[tenant].map { $0.size == 0 } ?? (fileSize(tenant, last) == 0)
                if !isEmpty, written(tenant, last) < oldestTime(),
                    let writer = unsafe state.writers[tenant] ?? create(tenant, segment: last)
                {
                    _ = rotate(tenant, writer)
                }
                prune(tenant)
            }
        }
    }

    func fileSize(_ tenant: Name, _ segment: Int) -> UInt64 {
        var info = stat()
        return unsafe stat(path(tenant, segment), &info) == 0 ? UInt64(max(0, info.st_size)) : 0
    }

    /// Waits until everything that was appended is written.
    public func flush() { queue.sync {} }

    /// Does something while nothing is written.
    func whileStill<T>(_ body: () -> T) -> T { queue.sync(execute: body) }
}
