// SPDX-License-Identifier: Apache-2.0
import ControlAPI

extension Problem {
    /// The problem as `JSONEncoder` with sorted keys and plain slashes writes it, in a hundredth of its time: under a flood, refusals are most of the answers. Nil where
    /// a text has control characters, which are left to the encoder.
    var quickJSON: [UInt8]? {
        guard errors == nil else { return nil }
        var out: [UInt8] = [0x7B]
        out.reserveCapacity(384)
        guard Self.add("ceiling", ceiling, &out), Self.add("code", code, &out), Self.add("detail", detail, &out),
            Self.add("errorMessage", errorMessage, &out), Self.add("errorStack", errorStack, &out), Self.add("errorType", errorType, &out),
            Self.add("invocation", invocation, &out), Self.add("level", level, &out)
        else { return nil }
        if let limit { Self.add("limit", number: String(limit), &out) }
        if let retryAfter {
            guard let whole = Int32(exactly: retryAfter) else { return nil }
            Self.add("retryAfter", number: String(whole), &out)
        }
        Self.add("status", number: String(status), &out)
        guard Self.add("title", title, &out) else { return nil }
        if let value { Self.add("value", number: String(value), &out) }
        out[out.count - 1] = 0x7D
        return out
    }

    private static func add(_ key: String, number: String, _ out: inout [UInt8]) {
        open(key, &out)
        out.append(contentsOf: number.utf8)
        out.append(0x2C)
    }

    private static func add(_ key: String, _ text: String?, _ out: inout [UInt8]) -> Bool {
        guard let text else { return true }
        open(key, &out)
        out.append(0x22)
        for byte in text.utf8 {
            guard byte >= 0x20 else { return false }
            if byte == 0x22 || byte == 0x5C { out.append(0x5C) }
            out.append(byte)
        }
        out.append(0x22)
        out.append(0x2C)
        return true
    }

    private static func open(_ key: String, _ out: inout [UInt8]) {
        out.append(0x22)
        out.append(contentsOf: key.utf8)
        out.append(0x22)
        out.append(0x3A)
    }
}
