// SPDX-License-Identifier: Apache-2.0

/// Why a run of an event brought no answer.
public enum RunFailure: String, Hashable, Sendable, CaseIterable {
    /// The function answered with an error. Uses an attempt.
    case functionError
    /// The worker died (signal, memory, timeout). Uses an attempt.
    case crash
    /// The node ended while it ran. Uses no attempt, for nobody knows whether it ran, but it is a crash: the event may be what killed the node.
    case nodeLost
    /// Throttled, overloaded or a fault of the platform: not the function's doing. Uses no attempt.
    case system
}

/// What an event has been through.
public struct RunHistory: Hashable, Sendable {
    /// Runs that the function itself failed, by an error or by a crash.
    public var attempts: UInt32 = 0
    /// Deaths of its worker or of the node while it ran.
    public var crashes: UInt32 = 0
    /// How often it was handed out and may have begun to run.
    public var deliveries: UInt32 = 0
    /// Failures of the system since the last attempt.
    public var postponements: UInt32 = 0

    public init() {}

    /// The event is handed out.
    public mutating func deliver() { deliveries &+= 1 }

    /// Notes how a delivery ended.
    public mutating func note(_ failure: RunFailure) {
        switch failure {
        case .functionError, .crash:
            attempts &+= 1
            if failure == .crash { crashes &+= 1 }
            postponements = 0
        case .nodeLost: crashes &+= 1
        case .system:
            postponements = postponements == .max ? .max : postponements + 1
            // Six hours of throttling are hundreds of these: they must not count as deliveries without a result.
            deliveries -= min(deliveries, 1)
        }
    }
}

/// How often and how long an event is tried. Times are in milliseconds, for an event outlives the monotonic clock.
public struct RetryPolicy: Hashable, Sendable {
    public static let attemptRange: ClosedRange<UInt8> = 0...25
    /// 60 s to 7 days.
    public static let ageRange: ClosedRange<UInt64> = 60_000...604_800_000
    /// Deaths after which an event is poison: the next might take the node with it.
    public static let crashLimit: UInt32 = 3
    /// Deliveries without any recorded attempt after which an event is given up.
    public static let deliveryLimit: UInt32 = 10

    /// Runs that may fail; 0 and 1 both mean that no failure is retried.
    public let maxAttempts: UInt8
    /// How long after its creation it may still start, in milliseconds.
    public let maxAgeMs: UInt64

    /// Three attempts within six hours.
    public static let standard = RetryPolicy(validAttempts: 3, ageMs: 21_600_000)

    /// Nil where a value is outside its range.
    public init?(maxAttempts: UInt8 = 3, maxAgeMs: UInt64 = 21_600_000) {
        guard Self.attemptRange.contains(maxAttempts), Self.ageRange.contains(maxAgeMs) else { return nil }
        self.init(validAttempts: maxAttempts, ageMs: maxAgeMs)
    }
    private init(validAttempts: UInt8, ageMs: UInt64) {
        maxAttempts = validAttempts
        maxAgeMs = ageMs
    }

    /// Why the event must not run again, or nil where it may.
    public func exhaustion(_ history: RunHistory) -> RetryExhaustion? {
        if history.crashes >= Self.crashLimit { return .poison }
        if history.attempts >= max(1, UInt32(maxAttempts)) { return .attempts }
        if history.deliveries >= Self.deliveryLimit, history.deliveries - Self.deliveryLimit >= history.attempts { return .deliveries }
        return nil
    }

    /// How long to wait after a failure that the history already counts, in milliseconds.
    ///
    /// After the function's own failures `U(0.5, 1) * min(1 h, 60 s * 2^(k - 1))` for the k-th attempt, after the system's `U(0, 1) * min(5 min, 1 s * 2^k)` for
    /// the k-th of them in a row, from 0; none after the end of the node. The spread keeps events that failed together from coming back together.
    /// - Parameter random: 64 random bits.
    public static func delayMs(after failure: RunFailure, _ history: RunHistory, random: UInt64) -> UInt64 {
        switch failure {
        case .functionError, .crash:
            let doublings = min(history.attempts == 0 ? 0 : history.attempts - 1, 6)
            let whole: UInt64 = min(3_600_000, 60_000 << UInt64(doublings))
            return whole / 2 + part(of: whole - whole / 2, random)
        case .nodeLost: return 0
        case .system:
            let doublings = min(history.postponements == 0 ? 0 : history.postponements - 1, 9)
            let whole: UInt64 = min(300_000, 1000 << UInt64(doublings))
            return part(of: whole, random)
        }
    }

    /// `whole * random / 2^64`, rounded to the nearest so that both ends can be reached.
    private static func part(of whole: UInt64, _ random: UInt64) -> UInt64 {
        let product = whole.multipliedFullWidth(by: random)
        return product.high + (product.low >> 63)
    }
}

/// Why an event is given up.
public enum RetryExhaustion: String, Hashable, Sendable {
    /// It killed its worker too often.
    case poison
    /// Every attempt failed.
    case attempts
    /// It was handed out again and again and nothing was ever heard of it.
    case deliveries
    /// Its age was used up before an attempt did well.
    case age
}

/// A tenant's retries, at most one for ten starts in the long run. A retry beyond it is not refused but waits twice as long: a function that fails always
/// must not double the load of its tenant.
public struct RetryBudget: Hashable, Sendable {
    /// Tenths of a retry. Ten retries to begin with, a hundred at most.
    private var tenths: UInt32 = 100
    private static let most: UInt32 = 1000

    public init() {}

    /// A first run starts.
    public mutating func start() { tenths = min(Self.most, tenths + 1) }

    /// Takes one retry; the delay to use for it, in milliseconds.
    public mutating func delayMs(_ delayMs: UInt64) -> UInt64 {
        guard tenths >= 10 else { return delayMs.multipliedReportingOverflow(by: 2).overflow ? .max : delayMs * 2 }
        tenths -= 10
        return delayMs
    }
}
