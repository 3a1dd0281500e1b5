// SPDX-License-Identifier: Apache-2.0
public import Core
import Dispatch
import Foundation
import Glibc
import Kernel

/// One control action: who did what, from where, and what came of it.
public struct AuditRecord: Hashable, Sendable, Codable {
    /// Milliseconds since 1970.
    public var time: UInt64
    /// `uid 0`, `key k-0123`, `loopback`, `signal`.
    public var who: String
    /// `control socket` or the caller's address.
    public var from: String
    /// Empty: the node.
    public var tenant: String
    public var action: String
    public var target: String
    /// What it was before and is now, in few words; never a secret.
    public var detail: String
    /// `ok`, else the code of the problem.
    public var outcome: String

    public init(
        time: UInt64, who: String, from: String, tenant: String, action: String, target: String, detail: String, outcome: String
    ) {
        self.time = time
        self.who = who
        self.from = from
        self.tenant = tenant
        self.action = action
        self.target = target
        self.detail = detail
        self.outcome = outcome
    }
}

/// What to look for.
public struct AuditQuery: Hashable, Sendable {
    /// Nil: all tenants and the node.
    public var tenant: Name?
    public var grep: String?
    /// Milliseconds since 1970, both included.
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    /// The newest so many, in order of time.
    public var tail = 100
    public init() {}
}

/// Control actions as JSON lines in numbered segments, one folder a tenant and one for the node: a tenant that does much pushes out its own lines and nobody else's.
/// Every append is on the disk (fsync) when the call returns. All calls block for the disk.
public final class AuditLog: Sendable {
    /// The longest field of a record, in bytes.
    public static let textLimit = 1024
    static let segments = 8
    /// Not a name that a tenant can have.
    private static let nodeFolder = "_node"

    private let directory: String
    private let segmentBytes: Int
    private let age: UInt64
    private let queue = DispatchQueue(label: "bulkhead.audit")

    /// - Parameters:
    ///   - bytes: what one folder may hold.
    ///   - age: how long a segment stays after its last line, in milliseconds.
    public init(directory: String, bytes: Int = 8 << 20, age: UInt64 = 400 * 86_400_000) {
        self.directory = directory
        segmentBytes = max(4096, bytes / Self.segments)
        self.age = age
    }

    /// Appends records of one tenant (nil: of the node) with one fsync.
    public func append(_ records: [AuditRecord], of tenant: Name?) throws(StoreError) {
        guard !records.isEmpty else { return }
        let result: Result<Void, StoreError> = queue.sync {
            do throws(StoreError) { return .success(try write(records, folder(tenant))) } catch { return .failure(error) }
        }
        try result.get()
    }

    private func folder(_ tenant: Name?) -> String { "\(directory)/\(tenant?.text ?? Self.nodeFolder)" }

    private func write(_ records: [AuditRecord], _ folder: String) throws(StoreError) {
        func failure(_ what: String) -> StoreError { StoreError("the audit log cannot be written: \(KernelError("\(what) \(folder)"))") }
        var lines = Data()
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        for record in records {
            guard let line = try? encoder.encode(Self.bounded(record)) else { continue }
            lines += line + [0x0A]
        }
        unsafe mkdir(directory, 0o700)
        guard unsafe mkdir(folder, 0o700) == 0 || errno == EEXIST else { throw failure("make") }
        var number = numbers(folder).last ?? 1
        var file = try open("\(folder)/\(number).jsonl", folder)
        if lseek(file.rawValue, 0, SEEK_END) >= segmentBytes {
            number += 1
            file = try open("\(folder)/\(number).jsonl", folder)
            for old in numbers(folder).dropLast(Self.segments) { unsafe unlink("\(folder)/\(old).jsonl") }
        }
        // What an interruption has torn must not swallow the next line.
        let size = lseek(file.rawValue, 0, SEEK_END)
        var last: UInt8 = 0x0A
        if size > 0, unsafe pread(file.rawValue, &last, 1, size - 1) == 1, last != 0x0A { lines.insert(0x0A, at: 0) }
        var rest = lines[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(file.rawValue, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw failure("write") }
            rest = rest.dropFirst(count)
        }
        guard fsync(file.rawValue) == 0 else { throw failure("flush") }
    }

    /// A new segment's name is on the disk, too.
    private func open(_ path: String, _ folder: String) throws(StoreError) -> OwnedFD {
        let isNew = unsafe access(path, F_OK) != 0
        let file = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw StoreError("the audit log cannot be written: \(KernelError("open \(path)"))") }
        guard isNew else { return OwnedFD(file) }
        for name in [folder, directory] {
            let number = unsafe Glibc.open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            if number >= 0 { fsync(OwnedFD(number).rawValue) }
        }
        return OwnedFD(file)
    }

    private func numbers(_ folder: String) -> [Int] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return names.compactMap { $0.hasSuffix(".jsonl") ? Int($0.dropLast(6)) : nil }.sorted()
    }

    /// Removes segments whose last line is too old; `now` in milliseconds since 1970.
    public func prune(now: UInt64) {
        queue.sync {
            for folder in folders(nil) {
                for number in numbers(folder) {
                    let path = "\(folder)/\(number).jsonl"
                    let changed = (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date
                    if let changed, changed.timeIntervalSince1970 * 1000 + Double(age) < Double(now) { unsafe unlink(path) }
                }
            }
        }
    }

    private func folders(_ tenant: Name?) -> [String] {
        if let tenant { return [folder(tenant)] }
        return ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []).map { "\(directory)/\($0)" }
    }

    /// The newest records that fit, oldest first.
    public func query(_ query: AuditQuery) -> [AuditRecord] {
        queue.sync {
            var found: [AuditRecord] = []
            let decoder = JSONDecoder()
            for folder in folders(query.tenant) {
                var here: [AuditRecord] = []
                for number in numbers(folder).reversed() where here.count < query.tail {
                    guard let data = FileManager.default.contents(atPath: "\(folder)/\(number).jsonl") else { continue }
                    for line in data.split(separator: 0x0A).reversed() where here.count < query.tail {
                        guard let record = try? decoder.decode(AuditRecord.self, from: Data(line)), Self.fits(record, query) else {
                            continue
                        }
                        here.append(record)
                    }
                }
                found += here.reversed()
            }
            // The order of one folder stays where times are alike.
            let sorted = found.enumerated().sorted { ($0.element.time, $0.offset) < ($1.element.time, $1.offset) }.map(\.element)
            return Array(sorted.suffix(query.tail))
        }
    }

    private static func fits(_ record: AuditRecord, _ query: AuditQuery) -> Bool {
        guard record.time >= query.since, record.time <= query.until else { return false }
        guard let text = query.grep else { return true }
        return [record.who, record.from, record.tenant, record.action, record.target, record.detail, record.outcome]
            .contains { $0.contains(text) }
    }

    private static func bounded(_ record: AuditRecord) -> AuditRecord {
        AuditRecord(
            time: record.time, who: bounded(record.who), from: bounded(record.from), tenant: bounded(record.tenant),
            action: bounded(record.action), target: bounded(record.target), detail: bounded(record.detail), outcome: bounded(record.outcome)
        )
    }

    /// Cut, and without characters that a terminal may act on: these files are read with `cat`, too.
    private static func bounded(_ text: String) -> String {
        var out = ""
        for scalar in text.unicodeScalars {
            guard out.utf8.count < textLimit else { return out + "... (\(text.utf8.count) bytes)" }
            switch scalar.value {
            case 0..<0x20, 0x7F...0x9F, 0x200B...0x200F, 0x2028...0x202E, 0x2060...0x206F, 0xFEFF, 0xE0000...0xE007F:
                out += "\\u{\(String(scalar.value, radix: 16))}"
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out
    }
}
