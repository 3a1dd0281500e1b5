// SPDX-License-Identifier: Apache-2.0
import Glibc
public import SystemPackage

/// A call to the kernel that failed: what was done, to what, and why.
public struct KernelError: Error, Hashable, Sendable, CustomStringConvertible {
    public let operation: String
    public let errno: Errno
    public init(_ operation: String, _ errno: Errno) {
        self.operation = operation
        self.errno = errno
    }
    /// Takes the reason from `errno`.
    public init(_ operation: String) { self.init(operation, Errno(rawValue: Glibc.errno)) }
    public var description: String { "\(operation): \(errno)" }
}
