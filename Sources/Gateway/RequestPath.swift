// SPDX-License-Identifier: Apache-2.0

/// A request's target: path parts and query, percent-decoded.
struct RequestPath {
    let parts: [String]
    let query: [String: String]

    init?(_ target: String) {
        guard target.hasPrefix("/"), target.utf8.count <= 4096 else { return nil }
        let halves = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        var parts: [String] = []
        for part in halves[0].split(separator: "/", omittingEmptySubsequences: true) {
            guard let decoded = Self.decode(part) else { return nil }
            parts.append(decoded)
        }
        self.parts = parts
        var query: [String: String] = [:]
        if halves.count == 2 {
            for pair in halves[1].split(separator: "&") {
                let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                guard let key = Self.decode(sides[0]), let value = Self.decode(sides.count == 2 ? sides[1] : "") else { return nil }
                query[key] = value
            }
        }
        self.query = query
    }

    private static func decode(_ text: Substring) -> String? {
        guard text.utf8.contains(0x25) || text.utf8.contains(0x2B) else { return String(text) }
        var out: [UInt8] = []
        var bytes = text.utf8.makeIterator()
        while let byte = bytes.next() {
            switch byte {
            case 0x25:
                guard let high = bytes.next().flatMap(nibble), let low = bytes.next().flatMap(nibble) else { return nil }
                out.append(high << 4 | low)
            case 0x2B: out.append(0x20)
            default: out.append(byte)
            }
        }
        return String(validating: out, as: UTF8.self)
    }

    private static func nibble(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x41 + 10
        case 0x61...0x66: byte - 0x61 + 10
        default: nil
        }
    }
}
