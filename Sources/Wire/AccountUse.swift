// SPDX-License-Identifier: Apache-2.0

/// Processor time that some workers used together, under the number that a daemon gave for whom they worked (``SpawnerRequest/account(_:_:)``).
public struct AccountUse: Hashable, Sendable {
    /// The most of one message.
    public static let maximum = 1024

    public var account: UInt64
    public var cpuMicroseconds: UInt64
    public init(account: UInt64, cpuMicroseconds: UInt64) {
        self.account = account
        self.cpuMicroseconds = cpuMicroseconds
    }
}

extension ByteWriter {
    mutating func accounts(_ entries: [AccountUse]) {
        integer(UInt16(entries.count))
        for entry in entries {
            integer(entry.account)
            integer(entry.cpuMicroseconds)
        }
    }
}

extension ByteReader {
    mutating func accounts() throws(WireError) -> [AccountUse] {
        var entries: [AccountUse] = []
        for _ in 0..<(try integer(UInt16.self)) {
            entries.append(AccountUse(account: try integer(), cpuMicroseconds: try integer()))
        }
        return entries
    }
}
