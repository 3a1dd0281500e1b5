// SPDX-License-Identifier: Apache-2.0

/// A bucket that holds `burst` tokens and gets one back every `interval`.
public struct TokenRule: Hashable, Sendable {
    /// At most 10^6, so that no arithmetic on a whole bucket overflows.
    public let burst: UInt64
    /// At most an hour.
    public let interval: Nanoseconds
    public init(burst: UInt64, every interval: Nanoseconds) {
        self.burst = min(burst, 1_000_000)
        self.interval = min(max(interval, 1), .seconds(3_600))
    }
    /// Time in which an empty bucket becomes full.
    var capacity: Nanoseconds { burst * interval }
}

/// How far a bucket is drawn down: one timestamp (the generic cell rate algorithm), 8 bytes, so that it can travel with an event.
///
/// In every closed window of length T at most `burst + T / interval` tokens are taken. The rule is given at each call: under a larger burst the same
/// bucket simply has more left.
public struct TokenBucket: Hashable, Codable, Sendable {
    /// When it is full again; not after now: it is full.
    public private(set) var fullAt: Instant
    public init(fullAt: Instant) { self.fullAt = fullAt }

    /// Time until a token is there; 0 if one is. Changes nothing.
    public func wait(_ rule: TokenRule, at now: Instant) -> Nanoseconds {
        let (needed, overflow) = (fullAt - now).addingReportingOverflow(rule.interval)
        if overflow { return .max }
        return needed > rule.capacity ? needed - rule.capacity : 0
    }

    /// Takes one. Only right where ``wait(_:at:)`` said 0 for the same `now`.
    public mutating func take(_ rule: TokenRule, at now: Instant) { fullAt = max(fullAt, now) + rule.interval }

    /// Takes a fraction or a multiple of a token whether it is there or not: what was used is used.
    /// - Parameter amount: in billionths of a token.
    public mutating func charge(_ rule: TokenRule, billionths amount: UInt64, at now: Instant) {
        let (high, low) = amount.multipliedFullWidth(by: rule.interval)
        let debt: UInt64 = high < 1_000_000_000 ? UInt64(1_000_000_000).dividingFullWidth((high, low)).quotient : .max
        fullAt = max(fullAt, now) + debt
    }

    /// Whether it holds nothing that a new bucket would not.
    public func isFull(at now: Instant) -> Bool { fullAt <= now }

    /// The emptier of two.
    func emptier(_ other: TokenBucket) -> TokenBucket { fullAt >= other.fullAt ? self : other }
}

/// Time that survives a restart and never goes back, for buckets that are stored: the wall clock at the start, then the monotonic clock.
///
/// A step of the wall clock while the daemon runs changes nothing. One that was set back between two starts costs the time in between; one that was set forward refills
/// as if so much time had passed, for nothing on the machine can tell the two apart.
public struct SteadyTime: Hashable, Sendable {
    private let origin: Instant
    private let monotonicOrigin: Instant

    /// - Parameters:
    ///   - saved: the last time that was stored.
    ///   - wall: nanoseconds since 1970.
    public init(saved: Instant, wall: Instant, monotonic: Instant) {
        origin = max(saved, wall)
        monotonicOrigin = monotonic
    }

    public func now(monotonic: Instant) -> Instant { origin + (monotonic - monotonicOrigin) }
}
