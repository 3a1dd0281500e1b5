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
    /// The reason as the kernel numbers it: `ENOENT`.
    public var number: Int32 { errno.rawValue }
    /// For callers that do not have `Errno`.
    public init(_ operation: String, number: Int32) { self.init(operation, Errno(rawValue: number)) }
    public var description: String { "\(operation): \(errno)" }
}
