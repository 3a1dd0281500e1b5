// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The sockets that outlive the daemon.
enum Listeners {
    struct Failure: Error, CustomStringConvertible { let description: String }

    /// An IPv4 TCP listener; `port` 0 takes a free one. Returns the descriptor and the port it has.
    static func tcp(host: String, port: UInt16) throws(Failure) -> (descriptor: Int32, port: UInt16) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(description: "cannot make a TCP socket: \(reason())") }
        var one: Int32 = 1
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        guard unsafe inet_pton(AF_INET, host, &address.sin_addr) == 1 else {
            close(descriptor)
            throw Failure(description: "\(host) is not an IPv4 address")
        }
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(descriptor, $0, size) == 0 }
        }
        guard isBound, listen(descriptor, 1024) == 0 else {
            let text = errno == EADDRINUSE ? "port \(port) is taken: choose another with --port, or stop the program that has it" : reason()
            close(descriptor)
            throw Failure(description: "cannot listen on \(host):\(port): \(text)")
        }
        var length = size
        _ = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe getsockname(descriptor, $0, &length) }
        }
        return (descriptor, UInt16(bigEndian: address.sin_port))
    }

    /// The IPv4 address and port that a socket which was handed over listens on; nil where it is something else.
    static func address(of descriptor: Int32) -> String? {
        var listens: Int32 = 0
        var size = socklen_t(4)
        guard unsafe getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0, listens == 1 else { return nil }
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isKnown = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe getsockname(descriptor, $0, &length) == 0 }
        }
        guard isKnown, Int32(address.sin_family) == AF_INET else { return nil }
        let number = UInt32(bigEndian: address.sin_addr.s_addr)
        let parts = [24, 16, 8, 0].map { "\(number >> UInt32($0) & 0xFF)" }
        return "\(parts.joined(separator: ".")):\(UInt16(bigEndian: address.sin_port))"
    }

    /// A Unix listener, 0660, the daemon's. A socket that nobody answers on is replaced.
    static func unix(_ path: String, owner: (uid: UInt32, gid: UInt32)) throws(Failure) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(description: "cannot make a Unix socket: \(reason())") }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let capacity = MemoryLayout.size(ofValue: address.sun_path)
        guard path.utf8.count < capacity else {
            close(descriptor)
            throw Failure(
                description: "\(path) is too long for a socket (at most \(capacity - 1) bytes): choose a shorter --state directory")
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        func with(_ call: (UnsafePointer<sockaddr>) -> Int32) -> Int32 {
            unsafe withUnsafePointer(to: &address) {
                unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe call($0) }
            }
        }
        if unsafe with({ unsafe connect(descriptor, $0, size) }) == 0 {
            close(descriptor)
            throw Failure(description: "another node answers on \(path)")
        }
        unsafe unlink(path)
        guard unsafe with({ unsafe bind(descriptor, $0, size) }) == 0, unsafe chmod(path, 0o660) == 0,
            unsafe chown(path, owner.uid, owner.gid) == 0, listen(descriptor, 256) == 0
        else {
            let text = reason()
            close(descriptor)
            throw Failure(description: "cannot listen on \(path): \(text)")
        }
        return descriptor
    }

    private static func reason() -> String { unsafe String(cString: strerror(errno)) }
}
