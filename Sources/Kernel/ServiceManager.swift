// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// The service manager that started this process, if one did: what it wants to hear and which sockets it hands over.
///
/// The protocol of sd_notify(3) and sd_listen_fds(3), written here because it is a datagram and three variables, and the spawner loads no library.
public struct ServiceManager: Sendable {
    /// The variables of the protocol: whoever execs a service in its own place leaves them in the environment.
    public static let variables = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
    /// The first socket that is handed over (SD_LISTEN_FDS_START).
    private static let firstSocket: Int32 = 3

    private let path: String?
    /// How long this process may be silent, in nanoseconds; nil where nobody counts.
    public let watchdog: UInt64?
    /// Listening sockets by name. Theirs is the caller.
    public let sockets: [(name: String, descriptor: Int32)]

    /// `value` reads one variable of the environment. Variables that were meant for another process count as absent.
    public init(process: Int32, value: (String) -> String?) {
        path = value("NOTIFY_SOCKET").flatMap { $0.hasPrefix("/") || $0.hasPrefix("@") ? $0 : nil }
        let isWatched = value("WATCHDOG_PID").map { $0 == "\(process)" } ?? true
        watchdog = isWatched ? value("WATCHDOG_USEC").flatMap { UInt64($0) }.flatMap { $0 > 0 ? $0 &* 1000 : nil } : nil
        guard value("LISTEN_PID") == "\(process)", let count = value("LISTEN_FDS").flatMap({ Int32($0) }), (1...16).contains(count) else {
            sockets = []
            return
        }
        let names = (value("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        sockets = (0..<count).map { (Int($0) < names.count ? names[Int($0)] : "unknown", Self.firstSocket + $0) }
    }

    /// The manager that this process's environment names.
    public static func current() -> ServiceManager {
        ServiceManager(process: getpid()) { name in unsafe getenv(name).map { unsafe String(cString: $0) } }
    }

    public var isPresent: Bool { path != nil }

    /// Says these lines (`READY=1`). Nobody is waited for, and silence is no error: sd_notify(3). Returns whether the manager got them.
    @discardableResult public func notify(_ lines: [String]) -> Bool {
        guard let path else { return false }
        let text = lines.map { $0.replacing("\n", with: " ") }.joined(separator: "\n")
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return false }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { place in
            unsafe place.copyBytes(from: bytes)
            // An abstract name begins with a zero byte. unix(7).
            if bytes.first == UInt8(ascii: "@") { unsafe place[0] = 0 }
        }
        let isAbstract = bytes.first == UInt8(ascii: "@")
        let length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count + (isAbstract ? 0 : 1))
        return unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe sendto(descriptor, text, text.utf8.count, Int32(MSG_NOSIGNAL), $0, length) == text.utf8.count
            }
        }
    }

    /// Microseconds of CLOCK_MONOTONIC, for `MONOTONIC_USEC=`.
    public static var monotonicMicroseconds: UInt64 { MonotonicClock.nanoseconds() / 1000 }
}
