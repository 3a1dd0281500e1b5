// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NIOCore
import NIOPosix
import Testing

@testable import Egress

@Suite struct EgressHeadTests {
    private func head(_ text: String) -> EgressHead? { try? EgressHead(Array(text.utf8)) }

    @Test("a tunnel names a host and a port and sends nothing of its own")
    func tunnel() {
        #expect(
            head("CONNECT api.example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n").map { [$0.host, "\($0.port)"] } == ["api.example.org", "443"])
        #expect(head("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n\r\n").map { [$0.host, "\($0.port)"] } == ["2001:db8::1", "8443"])
        #expect(head("CONNECT a:1 HTTP/1.0\r\n\r\n")?.first == [])
    }

    @Test("a plain request goes on in origin form, with its own host, without this hop's headers, and ends its connection")
    func plain() {
        let text =
            "GET http://example.org/a?b=c#d HTTP/1.1\r\nHost: evil\r\nProxy-Authorization: x\r\nconnection: keep-alive\r\nAccept: */*\r\n\r\n"
        #expect(
            head(text).map { String(decoding: $0.first, as: UTF8.self) }
                == "GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nAccept: */*\r\n\r\n")
        #expect(head(text)?.port == 80)
        #expect(
            head("POST http://h:8080?q HTTP/1.1\r\n\r\n").map { String(decoding: $0.first.prefix(19), as: UTF8.self) }
                == "POST /?q HTTP/1.1\r\n")
    }

    @Test(
        "what is neither is refused",
        arguments: [
            "GET / HTTP/1.1\r\n\r\n", "CONNECT a HTTP/1.1\r\n\r\n", "CONNECT a:0 HTTP/1.1\r\n\r\n", "CONNECT a:65536 HTTP/1.1\r\n\r\n",
            "CONNECT a:+1 HTTP/1.1\r\n\r\n", "CONNECT :1 HTTP/1.1\r\n\r\n", "CONNECT a@b:1 HTTP/1.1\r\n\r\n",
            "CONNECT a b:1 HTTP/1.1\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n", "GET http:///x HTTP/1.1\r\n\r\n", "GET http://a/ HTTP/2\r\n\r\n", "\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nA B: c\r\n\r\n", "GET http://a/ HTTP/1.1\r\n folded\r\n\r\n",
            "GET http://a/\n HTTP/1.1\r\nX: \0\r\n\r\n",
            "GET http://user:pass@a/ HTTP/1.1\r\n\r\n", "CONNECT \(String(repeating: "a", count: 254)):1 HTTP/1.1\r\n\r\n",
        ])
    func refused(text: String) { #expect(head(text) == nil) }
}

@Suite struct EgressRuleTests {
    @Test("hosts are named whole, or by their end below a dot; without a list all are")
    func hosts() {
        var rules = EgressRules()
        #expect(rules.permits(host: "anything"))
        rules.hosts = ["api.example.org", "*.example.com"]
        for host in ["api.example.org", "API.Example.ORG.", "a.example.com", "a.b.example.com"] {
            #expect(rules.permits(host: host), "\(host)")
        }
        for host in ["example.org", "xapi.example.org", "example.com", "badexample.com", ".example.com", "example.com.evil", ""] {
            #expect(!rules.permits(host: host), "\(host)")
        }
        rules.hosts = []
        #expect(!rules.permits(host: "a"))
    }

    @Test("a network holds the addresses that begin like it, of its own family")
    func networks() throws {
        let range = try #require(AddressRange(address: [10, 16, 0, 0], length: 12))
        #expect(range.contains([10, 31, 255, 255]) && !range.contains([10, 32, 0, 0]) && !range.contains([10]))
        #expect(range.description == "10.16.0.0/12")
        #expect(AddressRange(address: [10, 0, 0, 1], length: 8) == nil && AddressRange(address: [1, 2, 3, 4], length: 33) == nil)
        let all = try #require(AddressRange(address: [0, 0, 0, 0], length: 0))
        #expect(all.contains([1, 2, 3, 4]) && !all.contains(Array(repeating: 0, count: 16)))
    }
}

/// The proxy itself, on a socket of the test's.
@Suite(.serialized) struct EgressProxyTests {
    private let tenant = Name("acme") ?? .unnamed

    private func rules(_ port: UInt16) -> EgressRules {
        var rules = EgressRules()
        rules.ports = [port]
        rules.networks = [AddressRange(address: [127, 0, 0, 1], length: 32)].compactMap { $0 }
        return rules
    }

    @Test("a connection beyond the tenant's is refused with a sentence, and the place of one that ends is free again")
    func places() throws {
        let far = try Socket.listening()
        let gate = EgressGate()
        var rules = rules(far.port)
        rules.connections = 1
        gate.set(rules, of: tenant)
        let way = try Socket.listening()
        let listener = gate.open(tenant, listener: way.release()) { _ in }
        defer { listener.close() }
        let first = try Socket.connected(way.port)
        first.send("CONNECT 127.0.0.1:\(far.port) HTTP/1.1\r\n\r\n")
        #expect(first.received(until: "\r\n\r\n").hasPrefix("HTTP/1.1 200"))
        let second = try Socket.connected(way.port)
        #expect(second.received(until: nil).contains("429 Too Many Requests"))
        try far.accepted().close()
        first.close()
        // It is noticed a moment later.
        let answers = (0..<200).lazy.map { _ in
            usleep(20_000)
            guard let third = try? Socket.connected(way.port) else { return "" }
            third.send("CONNECT 127.0.0.1:\(far.port) HTTP/1.1\r\n\r\n")
            return third.received(until: "\r\n\r\n")
        }
        #expect(answers.contains { $0.hasPrefix("HTTP/1.1 200") })
    }

    @Test("a connection whose far end takes nothing keeps its place when the worker's side has ended")
    func farEnd() throws {
        let far = try Socket.listening()
        let gate = EgressGate()
        var rules = rules(far.port)
        (rules.connections, rules.bandwidth) = (1, 1 << 30)
        gate.set(rules, of: tenant)
        let way = try Socket.listening()
        let listener = gate.open(tenant, listener: way.release()) { _ in }
        defer { listener.close() }
        let near = try Socket.connected(way.port)
        near.send("CONNECT 127.0.0.1:\(far.port) HTTP/1.1\r\n\r\n")
        #expect(near.received(until: "\r\n\r\n").hasPrefix("HTTP/1.1 200"))
        let accepted = try far.accepted()
        near.fill()
        near.reset()
        func answer() throws -> String { try Socket.connected(way.port).received(until: nil) }
        for _ in 0..<50 where gate.figures[tenant]?.open == 1 { usleep(20_000) }
        #expect(try answer().contains("429 Too Many Requests"))
        accepted.close()
        for _ in 0..<500 where gate.figures[tenant]?.open != 0 { usleep(20_000) }
        #expect(gate.figures[tenant]?.open == 0)
    }

    @Test(
        "a tenant without rules, another port, a host that is not listed and an address that no network names are refused, each with its reason"
    )
    func refusals() throws {
        let far = try Socket.listening()
        let gate = EgressGate()
        let way = try Socket.listening()
        let listener = gate.open(tenant, listener: way.release()) { _ in }
        defer { listener.close() }
        func answer(_ host: String = "127.0.0.1") throws -> String {
            let one = try Socket.connected(way.port)
            one.send("CONNECT \(host):\(far.port) HTTP/1.1\r\n\r\n")
            return one.received(until: nil)
        }
        #expect(try answer().contains("does not allow egress"))
        gate.set(EgressRules(), of: tenant)
        #expect(try answer().contains("`egress.ports`"))
        var rules = rules(far.port)
        rules.networks = []
        gate.set(rules, of: tenant)
        #expect(try answer().contains("private network"))
        #expect(try answer("localhost").contains("private network"), "by name as well")
        // Other spellings of the same address, as getaddrinfo(3) reads them.
        for spelling in ["2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"] {
            #expect(try answer(spelling).contains("403 Forbidden"), "\(spelling)")
        }
        rules.hosts = ["example.org"]
        gate.set(rules, of: tenant)
        #expect(try answer().contains("`egress.hosts`"))
        gate.set(self.rules(far.port), of: tenant)
        gate.forbid(port: far.port)
        #expect(try answer().contains("403 Forbidden"), "the node's own port")
        #expect(gate.figures[tenant]?.refused == 11)
    }

    @Test("what is closed closes its connections, and rules that go end what they allowed")
    func ends() throws {
        let far = try Socket.listening()
        let gate = EgressGate()
        gate.set(rules(far.port), of: tenant)
        let way = try Socket.listening()
        let listener = gate.open(tenant, listener: way.release()) { _ in }
        func opened() throws -> (near: Socket, far: Socket) {
            let near = try Socket.connected(way.port)
            near.send("CONNECT 127.0.0.1:\(far.port) HTTP/1.1\r\n\r\n")
            #expect(near.received(until: "\r\n\r\n").hasPrefix("HTTP/1.1 200"))
            return (near, try far.accepted())
        }
        let first = try opened()
        gate.set(nil, of: tenant)
        first.far.send("more")
        #expect(!first.near.received(until: nil).contains("HTTP"), "the connection ends")
        gate.set(rules(far.port), of: tenant)
        let second = try opened()
        listener.close()
        #expect(second.near.received(until: nil) == "" && second.far.received(until: nil) == "")
    }

    @Test("a tenant moves its bandwidth and no more")
    func bandwidth() {
        let gate = EgressGate()
        var rules = EgressRules()
        rules.bandwidth = 1 << 20
        gate.set(rules, of: tenant)
        // A burst is a tenth of a second's, and at least one read's; then 1 MiB takes a second.
        var waits: [Int64] = []
        let began = NIODeadline.now()
        for _ in 0..<20 { waits.append(gate.moved(64 << 10, tenant, isSent: true)?.nanoseconds ?? -1) }
        let passed = (NIODeadline.now() - began).nanoseconds
        #expect(waits[0] == 0 && waits[19] + passed > 1_000_000_000, "20 reads are 1.25 MiB: \(waits)")
        #expect(gate.figures[tenant]?.sent == 20 * 64 << 10)
        #expect(gate.moved(1, Name("other") ?? .unnamed, isSent: true) == nil, "a tenant without rules")
    }
}

/// A blocking TCP socket on loopback that waits at most ten seconds.
private final class Socket {
    private var number: Int32
    let port: UInt16

    struct Failure: Error {}

    private init(_ number: Int32, port: UInt16) {
        (self.number, self.port) = (number, port)
        var wait = timeval(tv_sec: 10, tv_usec: 0)
        unsafe setsockopt(number, SOL_SOCKET, SO_RCVTIMEO, &wait, socklen_t(MemoryLayout<timeval>.size))
    }
    deinit { close() }

    private static func address(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }

    static func listening() throws -> Socket {
        let number = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = address(0)
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(number, $0, size) == 0 && listen(number, 16) == 0 && getsockname(number, $0, &size) == 0
            }
        }
        guard isBound else { throw Failure() }
        return Socket(number, port: UInt16(bigEndian: address.sin_port))
    }

    static func connected(_ port: UInt16) throws -> Socket {
        let number = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = address(port)
        let isOpen = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(number, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        guard isOpen else { throw Failure() }
        return Socket(number, port: port)
    }

    func accepted() throws -> Socket {
        let number = Glibc.accept(number, nil, nil)
        guard number >= 0 else { throw Failure() }
        return Socket(number, port: port)
    }

    /// Closes without a farewell: the other side notices it whether it reads or not.
    func reset() {
        var now = linger(l_onoff: 1, l_linger: 0)
        unsafe setsockopt(number, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    /// Sends until nothing more is taken.
    func fill() {
        var wait = timeval(tv_sec: 3, tv_usec: 0)
        unsafe setsockopt(number, SOL_SOCKET, SO_SNDTIMEO, &wait, socklen_t(MemoryLayout<timeval>.size))
        let bytes = [UInt8](repeating: 7, count: 1 << 20)
        while unsafe Glibc.send(number, bytes, bytes.count, Int32(MSG_NOSIGNAL)) > 0 {}
    }

    func send(_ text: String) { _ = unsafe Glibc.send(number, text, text.utf8.count, Int32(MSG_NOSIGNAL)) }

    /// What comes until a text is in it, or the end, or ten seconds without a byte.
    func received(until mark: String?) -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = unsafe recv(number, &chunk, chunk.count, 0)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk.prefix(count)
            let text = String(decoding: bytes, as: UTF8.self)
            if let mark, text.contains(mark) { return text }
        }
    }

    func release() -> Int32 {
        defer { number = -1 }
        return number
    }

    func close() {
        if number >= 0 { Glibc.close(number) }
        number = -1
    }
}
