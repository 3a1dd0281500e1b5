// SPDX-License-Identifier: Apache-2.0
import Glibc

enum SystemClock {
    /// Milliseconds since 1970 (`clock_gettime(2)`, CLOCK_REALTIME).
    static func milliseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
    }
}

/// The system's random numbers (`getentropy(3)`), fetched 32 at a time: a system call for each would cost more than the rest of an id.
struct RandomReserve {
    private var reserve = [UInt64](repeating: 0, count: 32)
    private var used = 32

    mutating func next<T: FixedWidthInteger & UnsignedInteger>() -> T {
        if used == reserve.count {
            var system = SystemRandomNumberGenerator()
            if unsafe getentropy(&reserve, reserve.count * 8) != 0 { for i in reserve.indices { reserve[i] = system.next() } }
            used = 0
        }
        defer { used += 1 }
        return T(truncatingIfNeeded: reserve[used])
    }
}
