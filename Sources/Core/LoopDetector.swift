// SPDX-License-Identifier: Apache-2.0

/// Why an edge is tested for a loop that leaves no lineage. None of them is a verdict: a popular file and a mailing look the same.
public enum LoopArming: String, Hashable, Sendable, CaseIterable {
    /// 50 starts of one key in 30 minutes.
    case hotKey
    /// A key that a function seems to have prefixed again and again: `thumb-thumb-thumb-a.jpg`.
    case repeatedAffix
    /// Arrivals grow beyond what the last hour explains.
    case growth
    /// At its ceiling for 30 s while the backlog grows.
    case backlog
    /// A guessed lineage comes back to its function (``LoopPass/armsDetector``).
    case lineage
}

/// Looks for loops through the outside on one asynchronous edge: cheap signs arm a test, and the test decides.
public struct LoopDetector: Sendable {
    public enum Step: Hashable, Sendable {
        case wait
        /// Let no event of the edge start; they queue as usual.
        case pause
        case run
        /// The test is over; the edge runs unless the governor breaks it.
        case verdict(Switchback.Verdict)
    }

    public static let pauseBetweenTests: Nanoseconds = .seconds(3_600)
    private var keys = HotKeys()
    private var growth = GrowthTest()
    private var backlog: (since: Instant, size: Int)?
    private var lastTest: Instant?
    private var wasPaused = false
    public private(set) var test: Switchback?

    public init() {}

    /// An event came to the edge.
    /// - Parameter key: of its object or its subject, empty where it has none.
    /// - Returns: why a test should begin, where one may.
    public mutating func arrived(key: String, at now: Instant) -> LoopArming? {
        test?.arrived(at: now)
        let isHot = !key.isEmpty && keys.count(key, at: now) >= HotKeys.armingCount
        let grows = growth.count(at: now)
        guard mayTest(at: now) else { return nil }
        if isHot { return .hotKey }
        if !key.isEmpty, RepeatedAffix.isIn(key) { return .repeatedAffix }
        return grows ? .growth : nil
    }

    /// How many events of the edge wait, at least every few seconds while it is at its ceiling.
    public mutating func observe(backlog size: Int, isAtCap: Bool, at now: Instant) -> LoopArming? {
        guard isAtCap else {
            backlog = nil
            return nil
        }
        guard let began = backlog, size > began.size else {
            backlog = (now, size)
            return nil
        }
        return now - began.since >= .seconds(30) && mayTest(at: now) ? .backlog : nil
    }

    /// At most one test an hour: each costs the edge's users half of its time for eleven minutes.
    public func mayTest(at now: Instant) -> Bool { test == nil && lastTest.map { now - $0 >= Self.pauseBetweenTests } ?? true }

    /// - Parameter coin: a fresh one.
    public mutating func begin(coin: Bool, at now: Instant) -> Step {
        let test = Switchback(coin: coin, at: now)
        self.test = test
        lastTest = now
        wasPaused = false
        return step(test.pausesNow)
    }

    /// When ``timePassed(at:coin:)`` is due; nil without a test.
    public var nextDeadline: Instant? { test?.deadline }

    /// - Parameter coin: a fresh one each time.
    public mutating func timePassed(at now: Instant, coin: Bool) -> Step {
        guard let verdict = test?.advance(at: now, coin: coin) else { return step(test?.pausesNow ?? false) }
        return end(verdict)
    }

    /// Gives the test up: an event of the edge was refused, so its senders learn what the edge does, and their next ones may follow from that.
    public mutating func abandon() -> Step { test == nil ? .wait : end(.noLoop) }

    private mutating func end(_ verdict: Switchback.Verdict) -> Step {
        test = nil
        wasPaused = false
        return .verdict(verdict)
    }

    private mutating func step(_ isPaused: Bool) -> Step {
        defer { wasPaused = isPaused }
        return isPaused == wasPaused ? .wait : isPaused ? .pause : .run
    }
}

/// The most frequent keys of the last half hour, by two space-saving tables of 64: the present half hour's and the one's before.
struct HotKeys: Sendable {
    static let armingCount = 50.0
    static let capacity = 64
    static let span: Nanoseconds = .seconds(1_800)

    struct Entry: Sendable {
        var hash: UInt64
        var count: UInt32
        /// What it may have too much.
        var inherited: UInt32
    }
    private var present: [Entry] = []
    private var previous: [Entry] = []
    private var began: Instant?

    /// Counts one and says how often the key came in the last half hour: an estimate, in the long run of a steady rate not too high.
    mutating func count(_ key: String, at now: Instant) -> Double {
        let start = turn(at: now)
        let hash = FunctionKey.mix(key.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 })
        let certain = Double(add(hash))
        guard let old = previous.first(where: { $0.hash == hash }) else { return certain }
        let left = 1 - Double(now - start) / Double(Self.span)
        return certain + left * Double(old.count - old.inherited)
    }

    private mutating func turn(at now: Instant) -> Instant {
        guard let began, now - began < 2 * Self.span else {
            (present, previous, self.began) = ([], [], now)
            return now
        }
        guard now - began >= Self.span else { return began }
        (previous, present, self.began) = (present, [], began + Self.span)
        return began + Self.span
    }

    private mutating func add(_ hash: UInt64) -> UInt32 {
        if let place = present.firstIndex(where: { $0.hash == hash }) {
            present[place].count &+= 1
            return present[place].count - present[place].inherited
        }
        if present.count < Self.capacity {
            present.append(Entry(hash: hash, count: 1, inherited: 0))
        } else if let least = present.indices.min(by: { present[$0].count < present[$1].count }) {
            let inherited = present[least].count
            present[least] = Entry(hash: hash, count: inherited &+ 1, inherited: inherited)
        }
        return 1
    }
}

/// Page's cumulative sum for Poisson arrivals that double, in windows of 10 s against the mean of the last hour.
struct GrowthTest: Sendable {
    /// ln(10^7): windows between false alarms of a steady source.
    static let threshold = 16.1
    static let window: Nanoseconds = .seconds(10)
    private static let learning = 30.0
    private static let hour = 360.0
    private static let ln2 = 0.693_147_180_559_945_3

    private var began: Instant?
    private var arrivals = 0.0
    private var windows = 0.0
    private var rate = 0.0
    private var sum = 0.0

    /// Counts one and says whether a window that ended shows growth.
    mutating func count(at now: Instant) -> Bool {
        var grows = false
        if let began {
            let passed = (now - began) / Self.window
            // After an hour of silence it begins anew.
            if passed > UInt64(Self.hour) { self = GrowthTest() }
            for _ in 0..<min(passed, UInt64(Self.hour)) where self.began != nil { grows = close() || grows }
        }
        if began == nil { began = now }
        arrivals += 1
        return grows
    }

    private mutating func close() -> Bool {
        // Below one in a window there is nothing to tell a doubling by.
        let expected = max(rate, 1)
        let hasLearned = windows >= Self.learning
        if hasLearned { sum = max(0, sum + arrivals * Self.ln2 - expected) }
        windows += 1
        rate += (arrivals - rate) / min(windows, Self.hour)
        arrivals = 0
        began = began.map { $0 + Self.window }
        guard hasLearned, sum >= Self.threshold else { return false }
        sum = 0
        return true
    }
}

/// Whether a key begins or ends with the same piece three times running, as when a function adds a prefix to what it wrote itself.
enum RepeatedAffix {
    static let longest = 64

    /// Looks at both ends of the key, at the beginning of its last component and at the end of its stem. A piece has 2 to 64 bytes and not only digits: dates and counters repeat too.
    static func isIn(_ key: String) -> Bool {
        let bytes = Array(key.utf8.suffix(1_024))
        let slash = bytes.lastIndex(of: UInt8(ascii: "/")).map { $0 + 1 } ?? 0
        if begins(bytes[...]) || begins(bytes[slash...]) || ends(bytes[...]) { return true }
        guard let dot = bytes[slash...].lastIndex(of: UInt8(ascii: ".")) else { return false }
        return ends(bytes[..<dot])
    }

    private static func begins(_ bytes: ArraySlice<UInt8>) -> Bool { pieces(bytes).contains { isTriple(bytes, bytes.startIndex, $0) } }

    private static func ends(_ bytes: ArraySlice<UInt8>) -> Bool { pieces(bytes).contains { isTriple(bytes, bytes.endIndex - 3 * $0, $0) } }

    private static func pieces(_ bytes: ArraySlice<UInt8>) -> ClosedRange<Int> { 2...max(2, min(longest, bytes.count / 3)) }

    private static func isTriple(_ bytes: ArraySlice<UInt8>, _ start: Int, _ length: Int) -> Bool {
        guard bytes.count >= 3 * length else { return false }
        for index in start..<start + 2 * length where bytes[index] != bytes[index + length] { return false }
        let piece = bytes[start..<start + length]
        // More than one letter, and no counter: "aaa" and "202020" are nobody's prefix.
        return piece.contains { !(48...57).contains($0) } && piece.contains { $0 != piece[start] }
    }
}
