// SPDX-License-Identifier: Apache-2.0

public import Core

/// Whose logs: a whole tenant's, a function's, or one version's.
public enum LogTarget: Hashable, Sendable {
    case tenant(Name)
    case function(FunctionID, version: UInt32?)

    /// Reads `TENANT`, `TENANT/FUNCTION` or `TENANT/FUNCTION@VERSION`.
    public init(parsing text: String) throws(Failure) {
        guard text.contains("/") else {
            self = .tenant(try FunctionReference.tenant(text))
            return
        }
        let reference = try FunctionReference(parsing: text)
        switch reference.selector {
        case .latest: self = .function(reference.function, version: nil)
        case .version(let number): self = .function(reference.function, version: number)
        case .alias: throw .usage("\(reference) names an alias; logs are kept by version: write @VERSION, or the function alone.")
        }
    }
}

/// Tells new log lines from those that an earlier answer held already: answers overlap by the lines of one millisecond.
public struct LogCursor: Sendable {
    /// The newest time that was seen, milliseconds since 1970.
    public private(set) var newest: UInt64 = 0
    private var seen: [[UInt8]: Int] = [:]

    public init() {}

    /// The lines of an answer that are new, in order. Every answer holds all lines since ``newest``.
    public mutating func news(_ lines: [(time: UInt64, bytes: [UInt8])]) -> [[UInt8]] {
        var known = seen
        var fresh: [[UInt8]] = []
        for (time, bytes) in lines where time >= newest {
            if let count = known[bytes], count > 0 {
                known[bytes] = count - 1
            } else {
                fresh.append(bytes)
            }
        }
        guard let last = lines.map(\.time).max(), last >= newest else { return fresh }
        newest = last
        seen = [:]
        for (time, bytes) in lines where time == last { seen[bytes, default: 0] += 1 }
        return fresh
    }
}
