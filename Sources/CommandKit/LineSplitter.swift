// SPDX-License-Identifier: Apache-2.0

/// Cuts a stream of bytes into lines, whatever pieces it arrives in.
public struct LineSplitter: Sendable {
    /// The longest line that is kept; the rest of a longer one is dropped. Bytes.
    public static let limit = 1 << 20
    private var rest: [UInt8] = []

    public init() {}

    /// The lines that the bytes complete, without their line breaks.
    public mutating func add(_ bytes: some Collection<UInt8>) -> [[UInt8]] {
        var lines: [[UInt8]] = []
        for byte in bytes {
            if byte == 10 {
                lines.append(rest)
                rest = []
            } else if rest.count < Self.limit {
                rest.append(byte)
            }
        }
        return lines
    }

    /// What stands behind the last line break, if anything does.
    public mutating func finish() -> [UInt8]? {
        defer { rest = [] }
        return rest.isEmpty ? nil : rest
    }
}
