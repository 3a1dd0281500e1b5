// SPDX-License-Identifier: Apache-2.0

/// The wall's time for what is due, ages and windows, on a machine whose clock may be set: it never goes back and never stands still.
///
/// Where the clock is set back it goes on from where it was, at the pace of the monotonic clock: what was due in a minute is due in a minute, and not when the clock has
/// come that far again. Where it is set forward, or the machine has slept, it follows after ``patience``: a clock that was set wrong for a moment makes nothing expire, and
/// opens no window of tomorrow, that would then last until tomorrow is over.
public struct PatientTime: Hashable, Sendable {
    public static let patience: Nanoseconds = 600_000_000_000
    /// How far the clock may be ahead at once: the steps of a second that time services make are followed together.
    private static let tolerance: UInt64 = 1_000

    private var origin: UInt64
    private var monotonicOrigin: Instant
    private var isAheadSince: Instant?

    /// - Parameters:
    ///   - saved: the last time that was stored, in milliseconds since 1970.
    ///   - wall: what the clock shows, in milliseconds since 1970.
    public init(saved: UInt64, wall: UInt64, monotonic: Instant) {
        origin = max(saved, wall)
        monotonicOrigin = monotonic
    }

    /// Milliseconds since 1970.
    public mutating func now(wall: UInt64, monotonic: Instant) -> UInt64 {
        let own = origin + (monotonic - monotonicOrigin) / 1_000_000
        guard wall > own + Self.tolerance else {
            isAheadSince = nil
            return own
        }
        let since = isAheadSince ?? monotonic
        isAheadSince = since
        guard monotonic - since >= Self.patience else { return own }
        self = PatientTime(saved: own, wall: wall, monotonic: monotonic)
        return wall
    }
}
