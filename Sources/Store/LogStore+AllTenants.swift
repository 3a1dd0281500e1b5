// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Glibc

/// A line, and whose it is.
public struct TenantLogRecord: Hashable, Sendable {
    public var tenant: Name
    public var record: LogRecord
}

extension LogStore {
    /// How much one answer over all tenants reads, in bytes.
    public static let readLimit = 64 << 20

    /// The newest lines of all tenants that fit, by time, the oldest first; and whether some of that time may have been left out: for their number, for their size, or for what would have
    /// to be read. ``LogQuery/after`` is a place in one tenant's log and says nothing here. Blocks for the disk.
    public func newest(_ query: LogQuery, readLimit: Int = LogStore.readLimit) -> (lines: [TenantLogRecord], isMore: Bool) {
        guard query.tail > 0 else { return ([], false) }
        var query = query
        query.since = max(query.since, oldestTime())
        // What was written before the question is there; what a writer is at just now has no end yet and is no line.
        flush()
        var search = LogSearch(query, readLimit)
        search.run(logs(query))
        return (search.found.reversed().map { TenantLogRecord(tenant: $0.tenant, record: $0.record) }, search.isMore)
    }

    /// Of every tenant that may have lines of that time; the one that wrote last is the last. Also of those that are not configured any more.
    private func logs(_ query: LogQuery) -> [UnreadLog] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        let all = names.compactMap { Name($0) }.compactMap { tenant -> UnreadLog? in
            let segments = numbers(tenant)
            guard let last = segments.last else { return nil }
            let newest = min(LogSearch.later(written(tenant, last)), query.until)
            return newest < query.since ? nil : UnreadLog(tenant: tenant, folder: folder(tenant), segments: segments, newest: newest)
        }
        return all.sorted { ($0.newest, $0.tenant) < ($1.newest, $1.tenant) }
    }
}

/// What is to be read of a tenant's log, from its end on.
private struct UnreadLog {
    let tenant: Name
    let folder: String
    /// Those before the one that is being read, the newest last.
    var segments: [Int]
    /// No line that was not read is newer.
    var newest: UInt64
    var segment = 0
    /// What was not read of the segment ends here.
    var end = 0

    var path: String { "\(folder)/\(segment).jsonl" }
}

/// A search in the logs of all tenants. They are read from their ends, a piece at a time, and always that one whose unread lines may be the newest: so the bound goes to the time that is
/// asked for, whoever wrote then, and who wrote nothing of late costs nothing.
private struct LogSearch {
    struct Line {
        var tenant: Name
        var record: LogRecord
        /// Lines of one time stand as their tenant wrote them.
        var position: LogPosition
        var bytes: Int
    }
    /// What may be read has been read.
    struct Exhausted: Error {}

    /// By how many milliseconds a file's time may be behind its last line's, and a line's behind that of the one before it.
    private static let slack: UInt64 = 1000
    /// A time with that, as far as there is one.
    static func later(_ time: UInt64) -> UInt64 { time < .max - slack ? time + slack : .max }
    /// More than a line has.
    private static let piece = 64 << 10
    /// Some lines: enough for a look at the time at some place.
    private static let probe = 16 << 10

    let query: LogQuery
    private let match: LogMatch
    /// How many bytes may still be read.
    private var left: Int
    /// The newest first.
    private(set) var found: [Line] = []
    private(set) var isMore = false
    /// Lines that fit were left out, for there are newer ones enough: what is older than the last one is not wanted any more.
    private var isFull = false

    init(_ query: LogQuery, _ limit: Int) {
        self.query = query
        match = LogMatch(query)
        left = limit
    }

    /// Older lines are not wanted. To be asked for between two pieces, when the lines are in order.
    private var floor: UInt64 { isFull ? max(query.since, found.last?.record.time ?? 0) : query.since }

    /// `logs`: the one that may have the newest line is the last.
    mutating func run(_ logs: [UnreadLog]) {
        var logs = logs
        while var log = logs.popLast() {
            guard log.newest >= floor else {
                // All the others are older still.
                isMore = isMore || log.newest >= query.since
                return
            }
            do throws(Exhausted) {
                guard try look(&log) else { continue }
            } catch {
                isMore = true
                return
            }
            let older = logs.lastIndex { ($0.newest, $0.tenant) < (log.newest, log.tenant) }
            logs.insert(log, at: older.map { $0 + 1 } ?? 0)
        }
    }

    /// Looks at the piece of a log before those that were looked at; false where it has no older lines that are wanted.
    private mutating func look(_ log: inout UnreadLog) throws(Exhausted) -> Bool {
        while log.end == 0 {
            guard let segment = log.segments.popLast() else { return false }
            log.segment = segment
            log.end = try end(of: log)
        }
        let start = max(0, log.end - Self.piece)
        let data = try read(log, start, log.end)
        // Of the first line the beginning may be in the piece before.
        let cut = start == 0 ? 0 : (data.firstIndex(of: 0x0A) ?? data.count) + 1
        // No line is as long as a piece: what has no end there is damaged.
        log.end = data.isEmpty ? 0 : cut < data.count ? start + cut : start
        let lines = Self.lines(data.dropFirst(cut))
        let floor = floor
        defer { trim() }
        for line in lines.reversed() {
            guard let record = match.parsed(line) else { continue }
            if Self.later(record.time) < floor {
                isMore = isMore || record.time >= query.since
                return false
            }
            guard match.fits(record) else { continue }
            let position = LogPosition(segment: log.segment, offset: UInt64(start + line.startIndex))
            found.append(Line(tenant: log.tenant, record: record, position: position, bytes: line.count))
        }
        if let oldest = Self.time(lines) { log.newest = min(log.newest, Self.later(oldest)) }
        return log.newest >= query.since
    }

    /// Keeps the newest: as many as are asked for, and as much as an answer holds.
    private mutating func trim() {
        found.sort { ($0.record.time, $0.tenant, $0.position) > ($1.record.time, $1.tenant, $1.position) }
        var room = LogStore.scanLimit
        let fits = found.prefix(query.tail).prefix { line in
            room -= line.bytes
            return room >= 0
        }
        guard fits.count < found.count else { return }
        found = Array(fits)
        (isFull, isMore) = (true, true)
    }

    /// Where the lines of a segment end that may be asked for: those behind it are later. What was asked for at 03:12 is found at noon without reading the morning.
    private mutating func end(of log: UnreadLog) throws(Exhausted) -> Int {
        var info = stat()
        guard unsafe stat(log.path, &info) == 0 else { return 0 }
        var high = Int(info.st_size)
        guard high > Self.piece, query.until < .max else { return high }
        let later = Self.later(query.until)
        var (low, middle) = (0, 0)
        while high - low > Self.probe, let line = try firstLine(of: log, behind: middle, before: high) {
            if line.time > later { high = line.start } else { low = line.start }
            middle = (low + high) / 2
        }
        return high
    }

    /// The first line that begins behind a place.
    private mutating func firstLine(of log: UnreadLog, behind place: Int, before end: Int) throws(Exhausted) -> (
        start: Int, time: UInt64
    )? {
        let data = try read(log, place, min(end, place + Self.probe))
        guard let first = data.firstIndex(of: 0x0A), let time = Self.time(Self.lines(data.dropFirst(first + 1))) else { return nil }
        return (place + first + 1, time)
    }

    /// Empty where the segment was removed meanwhile.
    private mutating func read(_ log: UnreadLog, _ start: Int, _ end: Int) throws(Exhausted) -> Data {
        guard end - start <= left else { throw Exhausted() }
        left -= end - start
        let file = unsafe open(log.path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return Data() }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: end - start)
        let count = unsafe pread(file, &bytes, bytes.count, off_t(start))
        return Data(bytes[..<max(0, count)])
    }

    private static func lines(_ data: Data) -> [Data] { data.split(separator: 0x0A) }

    /// Of the first line that can be read.
    private static func time(_ lines: [Data]) -> UInt64? {
        for line in lines { if let time = LogMatch.time(line) { return time } }
        return nil
    }
}
