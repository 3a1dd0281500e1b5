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
