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

/// What to look for.
public struct LogQuery: Hashable, Sendable {
    public var function: String?
    public var version: UInt32?
    public var invocation: String?
    public var grep: String?
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    /// The newest so many, in order of time.
    public var tail = 100
    public init() {}
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

    /// The longest text of a line, in bytes.
    public static let textLimit = 16 << 10
    /// Lines that may wait for the disk; more are dropped and counted.
    static let backlogLimit = 20_000
    static let segments = 8

    private let directory: String
    private let bytesPerTenant: UInt64
    private let age: UInt64
    private let queue = DispatchQueue(label: "bulkhead.logs")
    private let waiting = Mutex<(lines: Int, dropped: Int)>((0, 0))
    // Confined to the queue.
    nonisolated(unsafe) private let state = State()

    public init(directory: String, bytesPerTenant: UInt64, age: Nanoseconds) {
        self.directory = directory
        self.bytesPerTenant = bytesPerTenant
        self.age = age / 1_000_000
    }

    /// Stores one line soon. Never blocks.
    public func append(_ tenant: Name, _ record: LogRecord) {
        let isTaken = waiting.withLock { waiting in
            guard waiting.lines < Self.backlogLimit else {
                waiting.dropped += 1
                return false
            }
            waiting.lines += 1
            return true
        }
        guard isTaken else { return }
        queue.async {
            self.waiting.withLock { $0.lines -= 1 }
            self.write(tenant, record)
        }
    }

    private func folder(_ tenant: Name) -> String { "\(directory)/\(tenant)" }

    private func write(_ tenant: Name, _ record: LogRecord) {
        guard var line = try? JSONEncoder().encode(record) else { return }
        line.append(0x0A)
        guard var writer = unsafe state.writers[tenant] ?? open(tenant) else { return }
        if writer.size + UInt64(line.count) > max(64 << 10, bytesPerTenant / UInt64(Self.segments)) {
            close(writer.file)
            unsafe state.writers[tenant] = nil
            guard let next = create(tenant, segment: writer.segment + 1) else { return }
            writer = next
            prune(tenant)
        }
        let count = unsafe line.withUnsafeBytes { unsafe Glibc.write(writer.file, $0.baseAddress, $0.count) }
        // A torn line of a full disk is skipped by the reader.
        if count > 0 { writer.size += UInt64(count) }
        unsafe state.writers[tenant] = writer
    }

    private func open(_ tenant: Name) -> Writer? {
        unsafe mkdir(folder(tenant), 0o700)
        return create(tenant, segment: numbers(tenant).last ?? 1)
    }

    private func create(_ tenant: Name, segment: Int) -> Writer? {
        let file = unsafe Glibc.open("\(folder(tenant))/\(segment).jsonl", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard file >= 0 else { return nil }
        return Writer(file: file, segment: segment, size: UInt64(max(0, lseek(file, 0, SEEK_END))))
    }

    private func numbers(_ tenant: Name) -> [Int] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder(tenant))) ?? []
        return names.compactMap { $0.hasSuffix(".jsonl") ? Int($0.dropLast(6)) : nil }.sorted()
    }

    private func prune(_ tenant: Name) {
        let all = numbers(tenant)
        for number in all.dropLast(Self.segments) { unsafe unlink("\(folder(tenant))/\(number).jsonl") }
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        let oldest = now > age ? now - age : 0
        for number in all.dropLast() {
            let path = "\(folder(tenant))/\(number).jsonl"
            let changed = (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date
            if let changed, UInt64(max(0, changed.timeIntervalSince1970 * 1000)) < oldest { unsafe unlink(path) }
        }
    }

    /// The newest lines that fit, oldest first. Blocks for the disk.
    public func query(_ tenant: Name, _ query: LogQuery) -> [LogRecord] {
        queue.sync {
            var found: [LogRecord] = []
            let decoder = JSONDecoder()
            for number in numbers(tenant).reversed() {
                guard let data = FileManager.default.contents(atPath: "\(folder(tenant))/\(number).jsonl") else { continue }
                var here: [LogRecord] = []
                for line in data.split(separator: 0x0A).reversed() {
                    guard let record = try? decoder.decode(LogRecord.self, from: Data(line)), Self.fits(record, query) else { continue }
                    here.append(record)
                    if found.count + here.count >= query.tail { break }
                }
                found += here
                if found.count >= query.tail { break }
            }
            return found.reversed()
        }
    }

    private static func fits(_ record: LogRecord, _ query: LogQuery) -> Bool {
        (query.function == nil || query.function == record.function) && (query.version == nil || query.version == record.version)
            && (query.invocation == nil || query.invocation == record.invocation) && record.time >= query.since
            && record.time <= query.until
            && (query.grep.map { record.text.contains($0) } ?? true)
    }

    /// Waits until everything that was appended is written.
    public func flush() { queue.sync {} }
}
