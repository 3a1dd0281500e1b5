// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Glibc

/// What to look for.
public struct LogQuery: Hashable, Sendable {
    public var function: String?
    public var version: UInt32?
    public var invocation: String?
    public var grep: String?
    /// Only lines of these levels; all where it is empty.
    public var levels: Set<String> = []
    /// Milliseconds since 1970, both inclusive.
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    /// The newest so many, in order of time; with ``after``, the oldest so many.
    public var tail = 100
    /// Only what stands behind this position, oldest first.
    public var after: LogPosition?
    public init() {}
}

/// A place between two lines of a tenant's log: `SEGMENT-OFFSET`. It stays right when the log is rotated and when the node restarts.
public struct LogPosition: Hashable, Sendable, Comparable, CustomStringConvertible {
    public var segment: Int
    /// In bytes.
    public var offset: UInt64

    public init(segment: Int, offset: UInt64) {
        self.segment = segment
        self.offset = offset
    }

    public init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, let segment = Int(parts[0]), segment >= 0, let offset = UInt64(parts[1]), offset <= UInt64(Int64.max) else {
            return nil
        }
        (self.segment, self.offset) = (segment, offset)
    }

    /// Before the first line.
    public static let start = LogPosition(segment: 0, offset: 0)
    public var description: String { "\(segment)-\(offset)" }
    public static func < (one: LogPosition, other: LogPosition) -> Bool { (one.segment, one.offset) < (other.segment, other.offset) }
}

/// What was found.
public struct LogPage: Hashable, Sendable {
    public var lines: [LogRecord] = []
    /// Behind what was looked at: where to go on.
    public var position = LogPosition.start
    /// More stands behind ``position`` already.
    public var isMore = false
    /// Lines behind the asked position were removed (size, age) before they were read.
    public var isGap = false
    public init() {}
}

extension LogStore {
    /// How much of a log one answer looks at, in bytes; of the newest lines, how much it holds.
    static let scanLimit = 8 << 20

    /// The newest lines that fit, oldest first; with ``LogQuery/after``, the oldest behind a position. Blocks for the disk.
    public func page(_ tenant: Name, _ query: LogQuery) -> LogPage {
        var query = query
        query.since = max(query.since, oldestTime())
        guard let position = query.after else { return newest(tenant, query) }
        flush()
        return forward(tenant, query, position)
    }

    /// The newest lines that fit, oldest first.
    public func query(_ tenant: Name, _ query: LogQuery) -> [LogRecord] { page(tenant, query).lines }

    private func newest(_ tenant: Name, _ query: LogQuery) -> LogPage {
        // What is there now: a later line is behind the position.
        let (numbers, end) = whileStill { () -> ([Int], LogPosition) in
            let numbers = self.numbers(tenant)
            guard let last = numbers.last else { return ([], .start) }
            return (numbers, LogPosition(segment: last, offset: fileSize(tenant, last)))
        }
        var found: [LogRecord] = []
        let filter = LogMatch(query)
        var budget = Self.scanLimit
        for number in numbers.reversed() where found.count < query.tail && budget > 0 {
            guard var data = FileManager.default.contents(atPath: path(tenant, number)) else { continue }
            if number == end.segment { data = data.prefix(Int(end.offset)) }
            for line in data.split(separator: 0x0A).reversed() {
                guard let record = filter.record(line) else { continue }
                budget -= line.count
                if budget < 0 { break }
                found.append(record)
                if found.count >= query.tail { break }
            }
        }
        var page = LogPage()
        page.lines = found.reversed()
        page.position = end
        return page
    }

    private func forward(_ tenant: Name, _ query: LogQuery, _ start: LogPosition) -> LogPage {
        var page = LogPage()
        page.position = start
        let numbers = self.numbers(tenant)
        guard let first = numbers.first, let last = numbers.last else { return page }
        if start.segment < first {
            page.isGap = start != .start
            page.position = LogPosition(segment: first, offset: 0)
        } else if start.segment > last || (start.segment == last && start.offset > fileSize(tenant, last)) {
            // Of a log that was here before, on a state that was restored or emptied since.
            page.isGap = true
            page.position = LogPosition(segment: first, offset: 0)
        }
        var budget = Self.scanLimit
        let filter = LogMatch(query)
        while true {
            guard let data = read(tenant, page.position, budget) else {
                page.isMore = page.position.segment < last
                if page.isMore { skip(tenant, &page) }
                return page
            }
            budget -= data.count
            guard filter.take(data, &page), budget > 0 else {
                page.isMore = true
                return page
            }
            // Behind the last whole line of this segment. A later one is there only when nothing more comes to this one.
            guard page.position.segment < last else { return page }
            if data.isEmpty || page.position.offset >= fileSize(tenant, page.position.segment) { page.position.nextSegment(of: numbers) }
        }
    }

    /// Whole lines from a position on, as far as the budget goes; nil where the segment cannot be read.
    private func read(_ tenant: Name, _ position: LogPosition, _ budget: Int) -> [UInt8]? {
        let file = unsafe open(path(tenant, position.segment), O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        // A line may be longer than what is left of the budget.
        var bytes = [UInt8](repeating: 0, count: max(1 << 20, budget))
        let count = unsafe pread(file, &bytes, bytes.count, off_t(position.offset))
        guard count >= 0 else { return nil }
        let end = bytes[..<count].lastIndex(of: 0x0A).map { $0 + 1 } ?? 0
        return Array(bytes[..<end])
    }

    /// A segment that was removed between the listing and the reading.
    private func skip(_ tenant: Name, _ page: inout LogPage) {
        page.isGap = true
        page.position.nextSegment(of: numbers(tenant))
    }
}

/// Tells whether lines fit.
struct LogMatch {
    let query: LogQuery
    /// What a line must hold as it is in the file, so that most lines of a search need not be read as JSON.
    private let needles: [Data]
    private let decoder = JSONDecoder()

    init(_ query: LogQuery) {
        self.query = query
        var needles = [query.grep, query.invocation].compactMap { $0.flatMap(Self.written) }
        if let function = query.function { needles.append(Data("\"function\":\"\(function)\"".utf8)) }
        if query.levels.count == 1, let level = query.levels.first { needles.append(Data("\"level\":\"\(level)\"".utf8)) }
        self.needles = needles
    }

    /// A text as it stands in the file: every character is written for itself there, whatever is beside it.
    private static func written(_ text: String) -> Data? {
        guard let literal = try? JSONEncoder().encode(text), literal.count > 2 else { return nil }
        return literal.dropFirst().dropLast()
    }

    /// Whether all of it was looked at; else the page is full.
    func take(_ data: [UInt8], _ page: inout LogPage) -> Bool {
        var start = 0
        while start < data.count, let end = data[start...].firstIndex(of: 0x0A) {
            if page.lines.count >= query.tail { return false }
            if let record = record(Data(data[start..<end])) { page.lines.append(record) }
            page.position.offset += UInt64(end + 1 - start)
            start = end + 1
        }
        return true
    }

    func record(_ line: Data) -> LogRecord? {
        guard let record = parsed(line), fits(record) else { return nil }
        return record
    }

    /// A line that may fit.
    func parsed(_ line: Data) -> LogRecord? {
        for needle in needles where line.range(of: needle) == nil { return nil }
        return try? decoder.decode(LogRecord.self, from: Data(line))
    }

    /// When a line was written, whatever it holds.
    static func time(_ line: Data) -> UInt64? { try? JSONDecoder().decode(LogRecord.self, from: Data(line)).time }

    func fits(_ record: LogRecord) -> Bool {
        (query.function == nil || query.function == record.function) && (query.version == nil || query.version == record.version)
            && (query.invocation == nil || query.invocation == record.invocation) && record.time >= query.since
            && record.time <= query.until && (query.levels.isEmpty || query.levels.contains(record.level))
            && (query.grep.map { record.text.contains($0) } ?? true)
    }
}

extension LogPosition {
    /// To the beginning of the next segment that is there.
    fileprivate mutating func nextSegment(of numbers: [Int]) {
        guard let next = numbers.first(where: { $0 > segment }) else { return }
        self = LogPosition(segment: next, offset: 0)
    }
}
