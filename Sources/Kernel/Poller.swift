// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// Waits for many descriptors at once (epoll(7), level-triggered).
public struct Poller: ~Copyable {
    private let epoll: OwnedFD
    private var tokens = [UInt64](repeating: 0, count: 64)

    public init() throws(KernelError) {
        let number = ck_epoll_make()
        guard number >= 0 else { throw KernelError("make an epoll instance") }
        epoll = OwnedFD(number)
    }

    /// Watches for input; `token` comes back from ``wait(milliseconds:)``.
    public func add(_ descriptor: Int32, token: UInt64) throws(KernelError) {
        guard ck_epoll_add(epoll.rawValue, descriptor, token) == 0 else { throw KernelError("watch a descriptor") }
    }

    /// Call before closing a descriptor that others may share.
    public func remove(_ descriptor: Int32) { ck_epoll_remove(epoll.rawValue, descriptor) }

    /// The tokens that have input, an end or an error; empty after the time. -1 waits without end.
    public mutating func wait(milliseconds: Int32) -> [UInt64] {
        let count = unsafe ck_epoll_wait(epoll.rawValue, &tokens, Int32(tokens.count), milliseconds)
        return count > 0 ? Array(tokens.prefix(Int(count))) : []
    }
}

/// Signals as input of a descriptor (signalfd(2)).
public struct SignalFD: ~Copyable {
    public let descriptor: OwnedFD

    /// Blocks the signals for this thread and reads them from a descriptor instead.
    public init(_ signals: [Int32]) throws(KernelError) {
        let number = unsafe ck_signal_make(signals, signals.count)
        guard number >= 0 else { throw KernelError("make a signal descriptor") }
        descriptor = OwnedFD(number)
    }

    /// The next pending signal, or nil.
    public func next() -> Int32? {
        let number = ck_signal_next(descriptor.rawValue)
        return number > 0 ? number : nil
    }
}

/// Monotonic time (clock_gettime(2), CLOCK_MONOTONIC).
public enum MonotonicClock {
    public static func nanoseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
