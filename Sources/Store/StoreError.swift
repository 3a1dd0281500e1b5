// SPDX-License-Identifier: Apache-2.0

/// A sentence about the state on disk: what happened, to what, and what to do.
public struct StoreError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// Text that may hold anything, made fit for a terminal, a log line or an error: control characters and broken UTF-8 are written as `\x1b`.
public func escaped(_ bytes: some Sequence<UInt8>, limit: Int = 4096) -> String {
    var out = ""
    for scalar in String(decoding: Array(bytes), as: UTF8.self).unicodeScalars {
        guard out.utf8.count < limit else { return out + "..." }
        switch scalar.value {
        case 0x09, 0x20...0x7E, 0xA0...: out.unicodeScalars.append(scalar)
        default: out += "\\x" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
        }
    }
    return out
}
