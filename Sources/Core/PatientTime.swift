// SPDX-License-Identifier: Apache-2.0

/// The wall's time for what is due, ages and windows, on a machine whose clock may be set while the daemon runs: it never goes back and never stands still.
///
/// Where the clock is set forward, or the machine has slept, it follows after ``patience``: a clock that was wrong for a moment makes nothing expire, and opens no
/// window of tomorrow. Where it is set back it goes on at half its pace until the two meet: what was due in a minute is due in two, and not when the clock has come
/// that far again. A daemon that starts takes the clock as it is, for it knows of no other.
public struct PatientTime: Hashable, Sendable {
    public static let patience: Nanoseconds = 600_000_000_000
    /// How far the clock may be ahead at once: the small steps that time services make are followed together.
    private static let tolerance: Nanoseconds = 1_000_000_000

    /// Nanoseconds since 1970.
    private var last: Nanoseconds
    private var lastMonotonic: Instant
    private var isAheadSince: Instant?

    /// - Parameters:
    ///   - saved: the last time that was stored, in milliseconds since 1970.
    ///   - wall: what the clock shows, in milliseconds since 1970.
    public init(saved: UInt64, wall: UInt64, monotonic: Instant) {
        last = Self.nanoseconds(max(saved, wall))
        lastMonotonic = monotonic
    }

    /// Up to the year 2500: what is beyond is no time.
    private static func nanoseconds(_ milliseconds: UInt64) -> Nanoseconds { min(milliseconds, 16_725_225_600_000) * 1_000_000 }

    /// Milliseconds since 1970.
    public mutating func now(wall: UInt64, monotonic: Instant) -> UInt64 {
        let passed = monotonic - lastMonotonic
        let clock = Self.nanoseconds(wall)
        last = min(max(clock, last + passed / 2), last + passed)
        lastMonotonic = max(lastMonotonic, monotonic)
        if clock > last + Self.tolerance {
            let since = isAheadSince ?? monotonic
            isAheadSince = since
            if monotonic - since >= Self.patience { (last, isAheadSince) = (clock, nil) }
        } else {
            isAheadSince = nil
        }
        return last / 1_000_000
    }
}
