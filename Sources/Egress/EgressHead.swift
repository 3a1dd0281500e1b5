// SPDX-License-Identifier: Apache-2.0

/// What a worker asks its way out for: a tunnel (`CONNECT host:port`), or one request to a plain HTTP address (`GET http://host/path`). RFC 9112 3.2, RFC 9110 9.3.6.
struct EgressHead: Hashable, Sendable {
    /// The longest head, in bytes.
    static let limit = 16 << 10

    var host: String
    var port: UInt16
    /// What the far end is sent first; empty for a tunnel.
    var first: [UInt8]

    struct Fault: Error, Hashable { let text: String }

    /// - Parameter bytes: a head with its empty line.
    init(_ bytes: [UInt8]) throws(Fault) {
        guard bytes.allSatisfy({ $0 == 0x0D || $0 == 0x0A || $0 == 0x09 || ($0 >= 0x20 && $0 != 0x7F) }) else {
            throw Fault(text: "the request has control characters")
        }
        var lines = String(decoding: bytes, as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: false)
        let words = lines.removeFirst().split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2] == "HTTP/1.1" || words[2] == "HTTP/1.0" else {
            throw Fault(text: "expected `CONNECT host:port HTTP/1.1` or `GET http://host/path HTTP/1.1`")
        }
        if words[0] == "CONNECT" {
            (host, port) = try Self.authority(words[1], defaultPort: nil)
            first = []
            return
        }
        guard words[1].lowercased().hasPrefix("http://") else {
            throw Fault(text: "this is a way out for HTTP: ask for `http://host/path`, or for a tunnel with CONNECT")
        }
        let rest = words[1].dropFirst("http://".count)
        let cut = rest.firstIndex { "/?#".contains($0) } ?? rest.endIndex
        (host, port) = try Self.authority(rest[..<cut], defaultPort: 80)
        let path = rest[cut...].prefix { $0 != "#" }
        var head = "\(words[0]) \(path.hasPrefix("/") ? "" : "/")\(path) \(words[2])\r\nHost: \(rest[..<cut])\r\nConnection: close\r\n"
        for line in lines where !line.isEmpty {
            guard let colon = line.firstIndex(of: ":"), colon > line.startIndex,
                !line[..<colon].contains(where: { $0 == " " || $0 == "\t" })
            else { throw Fault(text: "a header line has no name") }
            // Of this hop alone. RFC 9110 7.6.1.
            if ["host", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"]
                .contains(line[..<colon].lowercased())
            {
                continue
            }
            head += line + "\r\n"
        }
        first = Array((head + "\r\n").utf8)
    }

    private static func authority(_ text: Substring, defaultPort: UInt16?) throws(Fault) -> (String, UInt16) {
        var host = text
        var port = defaultPort
        if let colon = text.lastIndex(of: ":"), text[colon...].allSatisfy({ $0 != "]" }),
            !text.hasPrefix("[") || text[..<colon].hasSuffix("]")
        {
            let digits = text[text.index(after: colon)...]
            guard digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = UInt16(digits), number > 0 else {
                throw Fault(text: "the address has no valid port")
            }
            (host, port) = (text[..<colon], number)
        }
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        guard let port else { throw Fault(text: "the address has no port") }
        let isName = host.utf8.allSatisfy { (97...122).contains($0 | 0x20) || (48...57).contains($0) || [45, 46, 58, 95].contains($0) }
        guard isName, (1...253).contains(host.utf8.count) else { throw Fault(text: "the address has no valid host") }
        return (String(host), port)
    }
}
