// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A file descriptor with one owner: closed when the value's life ends, given away by ``release()``.
public struct OwnedFD: ~Copyable, Sendable {
    /// The number, for the length of a call. Never store it.
    public let rawValue: Int32

    /// Takes ownership of an open descriptor.
    public init(_ rawValue: Int32) {
        precondition(rawValue >= 0, "a descriptor is never negative")
        self.rawValue = rawValue
    }

    deinit { close(rawValue) }

    /// Gives the descriptor away; the caller closes it.
    public consuming func release() -> Int32 {
        let number = rawValue
        discard self
        return number
    }
}
