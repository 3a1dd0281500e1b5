// SPDX-License-Identifier: Apache-2.0

/// A point in monotonic time, in nanoseconds. Core never asks a clock; the shell passes `now` in.
public struct Instant: Hashable, Comparable, Codable, Sendable {
    public var nanoseconds: UInt64
    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// Saturates instead of overflowing.
    public static func + (a: Instant, b: Nanoseconds) -> Instant {
        let (sum, overflow) = a.nanoseconds.addingReportingOverflow(b)
        return Instant(nanoseconds: overflow ? .max : sum)
    }
    /// Zero where `b` is later.
    public static func - (a: Instant, b: Instant) -> Nanoseconds { a.nanoseconds > b.nanoseconds ? a.nanoseconds - b.nanoseconds : 0 }
    public static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }
}

/// A span of time in nanoseconds.
public typealias Nanoseconds = UInt64

extension Nanoseconds {
    public static func seconds(_ count: UInt64) -> Nanoseconds { count &* 1_000_000_000 }
    public static func milliseconds(_ count: UInt64) -> Nanoseconds { count &* 1_000_000 }
}
