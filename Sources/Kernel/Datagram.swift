// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc
import SystemPackage

/// Whole messages with descriptors over a `SOCK_SEQPACKET` socket (unix(7)).
public enum Datagram {
    /// Sends one message. The descriptors stay the caller's.
    public static func send(_ socket: Int32, _ bytes: [UInt8], descriptors: [Int32] = []) throws(KernelError) {
        let count = unsafe ck_send(socket, bytes, bytes.count, descriptors, descriptors.count)
        guard count == bytes.count else { throw KernelError("send a message of \(bytes.count) bytes") }
    }

    /// Waits for one message; nil where the peer has closed. The descriptors become the caller's. A message or a list that does not fit is an error, and nothing of it is kept.
    public static func receive(
        _ socket: Int32, limit: Int, maximumDescriptors: Int
    ) throws(KernelError) -> (bytes: [UInt8], descriptors: [Int32])? {
        var bytes = [UInt8](repeating: 0, count: limit)
        var descriptors = [Int32](repeating: -1, count: max(1, maximumDescriptors))
        var count = 0
        let length = unsafe ck_receive(socket, &bytes, limit, &descriptors, maximumDescriptors, &count)
        guard length >= 0 else { throw KernelError("receive a message") }
        guard length > 0 else { return nil }
        return (Array(bytes.prefix(length)), Array(descriptors.prefix(count)))
    }
}

/// Two connected sockets.
public struct SocketPair: ~Copyable {
    public let first: OwnedFD
    public let second: OwnedFD

    /// A pair that keeps message borders (`SOCK_SEQPACKET`), close-on-exec.
    public static func messages() throws(KernelError) -> SocketPair { try make(SOCK_SEQPACKET) }
    /// A byte stream, close-on-exec.
    public static func stream() throws(KernelError) -> SocketPair { try make(SOCK_STREAM) }

    private static func make(_ type: __socket_type) throws(KernelError) -> SocketPair {
        var ends: [Int32] = [-1, -1]
        guard unsafe socketpair(AF_UNIX, Int32(type.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw KernelError("make a socket pair")
        }
        return SocketPair(first: OwnedFD(ends[0]), second: OwnedFD(ends[1]))
    }

    /// Gives both ends away.
    public consuming func release() -> (first: Int32, second: Int32) { (first.release(), second.release()) }
}
