// SPDX-License-Identifier: Apache-2.0

/// A request's target: path parts and query, percent-decoded.
struct RequestPath {
    let parts: [String]
    let query: [String: String]

    init?(_ target: String) {
        // By bytes: to a Character, a slash with an accent behind it is no slash.
        let bytes = target.utf8
        guard bytes.first == 0x2F, bytes.count <= 4096 else { return nil }
        let halves = bytes.split(separator: 0x3F, maxSplits: 1, omittingEmptySubsequences: false)
        var parts: [String] = []
        for part in halves[0].split(separator: 0x2F, omittingEmptySubsequences: true) {
            guard let decoded = Self.decode(part, plus: 0x2B) else { return nil }
            parts.append(decoded)
        }
        self.parts = parts
        var query: [String: String] = [:]
        if halves.count == 2 {
            for pair in halves[1].split(separator: 0x26) {
                let sides = pair.split(separator: 0x3D, maxSplits: 1, omittingEmptySubsequences: false)
                let text = sides.count == 2 ? sides[1] : ""[...].utf8
                guard let key = Self.decode(sides[0], plus: 0x20), let value = Self.decode(text, plus: 0x20) else { return nil }
                query[key] = value
            }
        }
        self.query = query
    }

    /// `plus`: what `+` stands for; a blank in a query, itself in a path.
    static func decode(_ text: Substring.UTF8View, plus: UInt8) -> String? {
        var out: [UInt8] = []
        var bytes = text.makeIterator()
        while let byte = bytes.next() {
            switch byte {
            case 0x25:
                guard let high = bytes.next().flatMap(nibble), let low = bytes.next().flatMap(nibble) else { return nil }
                out.append(high << 4 | low)
            case 0x2B: out.append(plus)
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
