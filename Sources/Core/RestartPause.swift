// SPDX-License-Identifier: Apache-2.0

/// How long the spawner waits before it starts the daemon again: twice as long after each end, so that one that cannot run does not take the machine, and as at first
/// after one that lived long enough to have shown that it can.
public struct RestartPause: Hashable, Sendable {
    public static let first: Nanoseconds = .milliseconds(100)
    public static let longest: Nanoseconds = .seconds(10)
    public static let provenAfter: Nanoseconds = .seconds(60)

    /// The pause after the next end, unless that daemon has lived long.
    public private(set) var next: Nanoseconds

    public init(next: Nanoseconds = first) { self.next = next }

    /// The pause after the end of a daemon that has lived so long; 0 for one that could not be started at all.
    public mutating func take(lived: Nanoseconds) -> Nanoseconds {
        let pause = lived > Self.provenAfter ? Self.first : next
        next = min(pause * 2, Self.longest)
        return pause
    }
}
