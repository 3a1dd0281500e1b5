// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Foundation
import Glibc
import Synchronization

struct ClientError: Error, CustomStringConvertible { let description: String }

/// Runs blocking calls on a thread of their own: the tests' threads are the very ones on which the gateway answers.
func onThread<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result(catching: body)) }
    }
}

/// Waits for a condition; a test that never sees it fails.
func eventually(_ what: String, within seconds: Double = 60, _ condition: () async throws -> Bool) async throws {
    let end = ContinuousClock.now + .seconds(seconds)
    while try await !condition() {
        guard ContinuousClock.now < end else { throw ClientError(description: "\(what): not within \(seconds) s") }
        try await Task.sleep(for: .milliseconds(5))
    }
}

struct Answer: Sendable {
    var status: Int
    var headers: [(name: String, value: String)]
    var body: [UInt8]

    var text: String { String(decoding: body, as: UTF8.self) }
    func header(_ name: String) -> String? { headers.first { $0.name.lowercased() == name.lowercased() }?.value }
    /// The body as RFC 9457 has it; nil where it is anything else or says so with another type.
    var problem: Problem? {
        guard header("content-type") == "application/problem+json" else { return nil }
        return try? JSONDecoder().decode(Problem.self, from: Data(body))
    }
}

/// A raw connection: sends exactly the bytes it is given and reads answers as strictly as a proxy would.
final class Client: Sendable {
    let socket: CInt
    private let buffer = Mutex<[UInt8]>([])

    init(port: UInt16) throws {
        socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe connect(socket, $0, size) }
        }
        guard result == 0 else { throw ClientError(description: "connect: \(unsafe String(cString: strerror(errno)))") }
        limitWaits()
    }

    init(path: String) throws {
        socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard unsafe withUnixAddress(path, { unsafe connect(socket, $0, $1) }) == 0 else {
            throw ClientError(description: "connect: \(unsafe String(cString: strerror(errno)))")
        }
        limitWaits()
    }

    deinit { close(socket) }

    private func limitWaits() {
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        unsafe setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        unsafe setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Sends all of it, or as much as the server takes before it closes.
    func send(_ bytes: [UInt8]) async throws {
        try await onThread { [socket] in
            var at = 0
            while at < bytes.count {
                let count = unsafe bytes[at...].withUnsafeBytes { unsafe Glibc.send(socket, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
                guard count > 0 else { return }
                at += count
            }
        }
    }
    func send(_ text: String) async throws { try await send(Array(text.utf8)) }

    /// Says that nothing more will be sent, and still reads.
    func endSending() { shutdown(socket, CInt(SHUT_WR)) }
    /// Leaves at once.
    func leave() { shutdown(socket, CInt(SHUT_RDWR)) }

    /// The next final answer. `toHead`: it answers HEAD, so it has no body whatever its headers say.
    func answer(toHead: Bool = false) async throws -> Answer {
        try await onThread {
            var answer = try self.head()
            while answer.status == 100 { answer = try self.head() }
            if toHead || answer.status == 204 || answer.status == 304 { return answer }
            if answer.header("transfer-encoding") == "chunked" {
                answer.body = try self.chunks()
            } else if let length = answer.header("content-length").flatMap({ Int($0) }) {
                answer.body = try self.take(length)
            } else if answer.header("connection") == "close" {
                answer.body = try self.rest()
            } else {
                throw ClientError(description: "an answer \(answer.status) without framing")
            }
            return answer
        }
    }

    /// One head, informational ones too.
    func anyHead() async throws -> Answer { try await onThread { try self.head() } }

    /// Everything until the server closes; throws where it does not.
    func untilEnd() async throws -> [UInt8] { try await onThread { try self.rest() } }

    private func head() throws -> Answer {
        var lines: [String] = []
        while true {
            let line = try line()
            if line.isEmpty { break }
            lines.append(line)
        }
        let words = (lines.first ?? "").split(separator: " ", maxSplits: 2)
        guard words.count >= 2, words[0] == "HTTP/1.1" || words[0] == "HTTP/1.0", let status = Int(words[1]) else {
            throw ClientError(description: "no status line but \(lines.first ?? "nothing")")
        }
        let headers = lines.dropFirst().map { line -> (name: String, value: String) in
            let sides = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            return (String(sides[0]), sides.count == 2 ? sides[1].trimmingCharacters(in: .whitespaces) : "")
        }
        return Answer(status: status, headers: headers, body: [])
    }

    private func chunks() throws -> [UInt8] {
        var body: [UInt8] = []
        while true {
            guard let size = Int(try line(), radix: 16) else { throw ClientError(description: "no chunk size") }
            body += try take(size)
            guard try line().isEmpty else { throw ClientError(description: "a chunk without its end") }
            if size == 0 { return body }
        }
    }

    private func line() throws -> String {
        while true {
            let found = buffer.withLock { buffer -> String? in
                guard let end = buffer.firstIndex(of: 0x0A) else { return nil }
                let line = String(decoding: buffer[..<end], as: UTF8.self).replacing("\r", with: "")
                buffer.removeFirst(end + 1)
                return line
            }
            if let found { return found }
            guard try fill() else { throw ClientError(description: "the connection ended inside a line") }
        }
    }

    private func take(_ count: Int) throws -> [UInt8] {
        while buffer.withLock({ $0.count < count }) {
            guard try fill() else { throw ClientError(description: "the connection ended inside a body") }
        }
        return buffer.withLock { buffer in
            defer { buffer.removeFirst(count) }
            return Array(buffer.prefix(count))
        }
    }

    private func rest() throws -> [UInt8] {
        while try fill() {}
        return buffer.withLock { buffer in
            defer { buffer = [] }
            return buffer
        }
    }

    /// False at the end, also where the server reset the connection.
    private func fill() throws -> Bool {
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        let count = unsafe recv(socket, &bytes, bytes.count, 0)
        if count < 0, errno == EAGAIN { throw ClientError(description: "nothing came for 60 s") }
        if count > 0 { buffer.withLock { $0 += bytes.prefix(count) } }
        return count > 0
    }
}

/// Calls with the address of a Unix socket.
func withUnixAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt) -> CInt {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: Array(path.utf8).prefix($0.count - 1)) }
    return unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
}
