// SPDX-License-Identifier: Apache-2.0

/// What a process uses of the machine, as it sees it itself.
public struct ProcessUse: Hashable, Sendable {
    /// Processor time since its start.
    public var cpuMicroseconds: UInt64
    public var residentBytes: UInt64
    /// Open descriptors.
    public var descriptors: UInt32
    public init(cpuMicroseconds: UInt64 = 0, residentBytes: UInt64 = 0, descriptors: UInt32 = 0) {
        self.cpuMicroseconds = cpuMicroseconds
        self.residentBytes = residentBytes
        self.descriptors = descriptors
    }
}

extension ByteWriter {
    mutating func use(_ use: ProcessUse) {
        integer(use.cpuMicroseconds)
        integer(use.residentBytes)
        integer(use.descriptors)
    }
}

extension ByteReader {
    mutating func use() throws(WireError) -> ProcessUse {
        ProcessUse(cpuMicroseconds: try integer(), residentBytes: try integer(), descriptors: try integer())
    }
}
