// SPDX-License-Identifier: Apache-2.0

/// Calls of one function that ended since they were last looked at.
public struct RecentCalls: Hashable, Sendable {
    /// All of them, refused ones included.
    public var calls: UInt64 = 0
    /// Refused by a ceiling of their own tenant, function or user.
    public var throttled: UInt64 = 0
    /// Those that came to their function.
    public var ran: UInt64 = 0
    /// Of those: errors, crashes, time limits and memory limits.
    public var failed: UInt64 = 0
    /// Of ``throttled``: by which ceiling.
    var ceilings: [RefusingCeiling.Place: RefusingCeiling] = [:]
    public init() {}

    /// - Parameter refusal: with ``Outcome/throttled``, of `function`.
    public mutating func count(_ outcome: Outcome, by refusal: Refusal? = nil, of function: FunctionID) {
        calls += 1
        if outcome == .throttled, let refusal {
            let one = RefusingCeiling(count: 1, function: function, refusal: refusal)
            ceilings[one.place] = ceilings[one.place]?.adding(one) ?? one
        }
        switch outcome {
        case .ok: ran += 1
        case .functionError, .timedOut, .outOfMemory, .crashed:
            ran += 1
            failed += 1
        case .throttled: throttled += 1
        case .overBudget, .overloaded, .loop, .cancelled, .expired, .internal: break
        }
    }
}

/// A ceiling that refused calls.
public struct RefusingCeiling: Hashable, Sendable {
    /// What tells ceilings apart. A tenant's own is the same for all its functions.
    struct Place: Hashable, Sendable {
        var level: Level
        var ceiling: String
        var function: FunctionID?
    }
    /// How many.
    public var count: UInt64
    /// Whose call was refused last, and in which words.
    public var function: FunctionID
    public var refusal: Refusal

    var place: Place {
        Place(level: refusal.level, ceiling: refusal.ceiling, function: refusal.level == .tenant ? nil : function)
    }

    func adding(_ later: Self) -> Self { Self(count: count + later.count, function: later.function, refusal: later.refusal) }
}

/// When a share of calls is an alarm.
public struct ShareRule: Hashable, Sendable {
    /// Fewer calls within ``AlarmRules/window`` say nothing.
    public var minimum: UInt64
    /// More than this share is an alarm; it is over at half of it, so that it does not come and go.
    public var percent: UInt64
    public init(minimum: UInt64, percent: UInt64) {
        self.minimum = minimum
        self.percent = percent
    }
    /// One refusal among a few calls is none.
    public static let throttling = ShareRule(minimum: 20, percent: 5)
    public static let errors = ShareRule(minimum: 50, percent: 20)
}

/// Something that began or is over, told once each.
public struct AlarmTurn: Hashable, Sendable {
    public enum Subject: Hashable, Sendable {
        /// A tenant's calls are refused.
        case throttling(Name)
        /// A function's calls fail.
        case errors(FunctionID)
        /// A version's workers do not start: the node waits between tries.
        case crashLoop(VersionID)
    }
    public var subject: Subject
    public var isRecovery: Bool
    /// Of ``calls`` within the window; both zero for a crash loop.
    public var bad: UInt64
    public var calls: UInt64
    /// Which ceiling refused most of ``bad``; nil where none did.
    public var ceiling: RefusingCeiling?
}

/// What is counted within the last five minutes, in tenths of them.
struct ShareWindow: Hashable, Sendable {
    private var tenths = [(calls: UInt64, bad: UInt64)](repeating: (0, 0), count: 10)
    private var ceilings = [[RefusingCeiling.Place: RefusingCeiling]](repeating: [:], count: 10)
    private var newest: UInt64
    var isRaised = false

    init(at tenth: UInt64) { newest = tenth }

    static func == (a: Self, b: Self) -> Bool {
        a.newest == b.newest && a.isRaised == b.isRaised && a.tenths.elementsEqual(b.tenths) { $0 == $1 }
    }
    func hash(into hasher: inout Hasher) { hasher.combine(newest) }

    /// Forgets what has become too old.
    mutating func advance(to tenth: UInt64) {
        guard tenth > newest else { return }
        for step in 1...min(10, tenth - newest) {
            tenths[Int((newest + step) % 10)] = (0, 0)
            ceilings[Int((newest + step) % 10)] = [:]
        }
        newest = tenth
    }

    mutating func add(calls: UInt64, bad: UInt64) {
        tenths[Int(newest % 10)].calls += calls
        tenths[Int(newest % 10)].bad += bad
    }

    mutating func add(_ more: [RefusingCeiling.Place: RefusingCeiling]) {
        ceilings[Int(newest % 10)].merge(more) { $0.adding($1) }
    }

    /// The ceiling that refused most, in its latest words.
    var worst: RefusingCeiling? {
        var sums: [RefusingCeiling.Place: RefusingCeiling] = [:]
        for step in 1...10 { sums.merge(ceilings[Int((newest + UInt64(step)) % 10)]) { $0.adding($1) } }
        return sums.values.max { ($0.count, $1.refusal.ceiling) < ($1.count, $0.refusal.ceiling) }
    }

    var calls: UInt64 { tenths.reduce(0) { $0 + $1.calls } }
    var bad: UInt64 { tenths.reduce(0) { $0 + $1.bad } }

    /// Whether the alarm is on after this; nil where that has not changed.
    mutating func judge(_ rule: ShareRule) -> Bool? {
        let (calls, bad) = (calls, bad)
        let isHigh = calls >= rule.minimum && bad * 100 > calls * rule.percent
        let isLow = calls < rule.minimum || bad * 200 <= calls * rule.percent
        guard isRaised ? isLow : isHigh else { return nil }
        isRaised = !isRaised
        return isRaised
    }
}

/// Throttling, error rates and crash loops: pure rules over figures that are fed about once a second. Keeps only who has had calls within the window, or has an alarm.
public struct AlarmRules: Sendable {
    /// What shares are taken of.
    public static let window: Nanoseconds = .seconds(300)
    private static let tenth = window / 10

    private var throttling: [Name: ShareWindow] = [:]
    private var errors: [FunctionID: ShareWindow] = [:]
    private var failing: Set<VersionID> = []
    private var lastTenth: UInt64 = 0

    public init() {}

    /// Tenants and functions that are looked at.
    var subjects: Int { throttling.count + errors.count }

    /// - Parameters:
    ///   - recent: what ended since the last time.
    ///   - failing: all versions whose workers do not start now.
    public mutating func pass(_ recent: [FunctionID: RecentCalls], failing now: Set<VersionID>, at time: Instant) -> [AlarmTurn] {
        let tenth = time.nanoseconds / Self.tenth
        var turns: [AlarmTurn] = []
        // Old calls leave all windows together, ten times a window; in between only who has had calls is judged.
        if tenth > lastTenth {
            Self.advance(&throttling, to: tenth, .throttling, &turns) { .throttling($0) }
            Self.advance(&errors, to: tenth, .errors, &turns) { .errors($0) }
            lastTenth = tenth
        }
        var touched: Set<Name> = []
        for (function, one) in recent {
            touched.insert(function.tenant)
            throttling[function.tenant, default: ShareWindow(at: lastTenth)].add(calls: one.calls, bad: one.throttled)
            if !one.ceilings.isEmpty { throttling[function.tenant]?.add(one.ceilings) }
            guard one.ran > 0 else { continue }
            errors[function, default: ShareWindow(at: lastTenth)].add(calls: one.ran, bad: one.failed)
            Self.judge(&errors[function], .errors, .errors(function), &turns)
        }
        for tenant in touched { Self.judge(&throttling[tenant], .throttling, .throttling(tenant), &turns) }
        for version in now.symmetricDifference(failing) {
            turns.append(AlarmTurn(subject: .crashLoop(version), isRecovery: failing.contains(version), bad: 0, calls: 0))
        }
        failing = now
        return turns
    }

    private static func advance<Key: Hashable>(
        _ windows: inout [Key: ShareWindow], to tenth: UInt64, _ rule: ShareRule, _ turns: inout [AlarmTurn],
        _ subject: (Key) -> AlarmTurn.Subject
    ) {
        for key in windows.keys {
            windows[key]?.advance(to: tenth)
            judge(&windows[key], rule, subject(key), &turns)
            if let window = windows[key], window.calls == 0, !window.isRaised { windows[key] = nil }
        }
    }

    private static func judge(_ window: inout ShareWindow?, _ rule: ShareRule, _ subject: AlarmTurn.Subject, _ turns: inout [AlarmTurn]) {
        guard let isRaised = window?.judge(rule), let window else { return }
        turns.append(AlarmTurn(subject: subject, isRecovery: !isRaised, bad: window.bad, calls: window.calls, ceiling: window.worst))
    }
}
