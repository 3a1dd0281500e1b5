// SPDX-License-Identifier: Apache-2.0

/// What one worker may use; enforced by its cgroup, its rlimits and its file systems.
public struct WorkerLimits: Hashable, Sendable {
    /// Bytes of memory, page cache and tmpfs included (`memory.max`).
    public var memoryBytes: UInt64
    /// Thousandths of a processor (`cpu.max`).
    public var cpuMilli: UInt32
    /// Processes and threads (`pids.max`).
    public var processes: UInt32
    /// Bytes in `/tmp`.
    public var temporaryBytes: UInt64
    /// Open descriptors a process (`RLIMIT_NOFILE`).
    public var openFiles: UInt32

    public init(
        memoryBytes: UInt64 = 128 << 20, cpuMilli: UInt32 = 1000, processes: UInt32 = 64, temporaryBytes: UInt64 = 64 << 20,
        openFiles: UInt32 = 1024
    ) {
        self.memoryBytes = memoryBytes
        self.cpuMilli = cpuMilli
        self.processes = processes
        self.temporaryBytes = temporaryBytes
        self.openFiles = openFiles
    }

    /// Bounds of every field, checked wherever limits cross a border.
    public static let memoryRange: ClosedRange<UInt64> = (4 << 20)...(1 << 40)
    public static let cpuRange: ClosedRange<UInt32> = 10...1_024_000
    public static let processRange: ClosedRange<UInt32> = 2...32_768
    public static let temporaryRange: ClosedRange<UInt64> = (64 << 10)...(1 << 40)
    public static let openFileRange: ClosedRange<UInt32> = 16...1_048_576

    /// Whether every field lies within its range.
    public var isValid: Bool {
        Self.memoryRange.contains(memoryBytes) && Self.cpuRange.contains(cpuMilli) && Self.processRange.contains(processes)
            && Self.temporaryRange.contains(temporaryBytes) && Self.openFileRange.contains(openFiles)
    }
}

/// What all workers of one tenant may use together; enforced by the tenant's cgroup.
public struct GroupLimits: Hashable, Sendable {
    public var memoryBytes: UInt64
    public var cpuMilli: UInt32
    public var processes: UInt32
    public init(memoryBytes: UInt64, cpuMilli: UInt32, processes: UInt32) {
        self.memoryBytes = memoryBytes
        self.cpuMilli = cpuMilli
        self.processes = processes
    }
    public var isValid: Bool {
        WorkerLimits.memoryRange.contains(memoryBytes) && WorkerLimits.cpuRange.contains(cpuMilli)
            && processes >= 2 && processes <= 1 << 22
    }
}

/// What a worker has used.
public struct Usage: Hashable, Sendable {
    public var cpuMicroseconds: UInt64
    public var memoryBytes: UInt64
    /// 0 where the kernel does not keep it.
    public var peakMemoryBytes: UInt64
    public var processes: UInt32
    /// How often the process limit refused a fork.
    public var processLimitHits: UInt32
    public init(
        cpuMicroseconds: UInt64 = 0, memoryBytes: UInt64 = 0, peakMemoryBytes: UInt64 = 0, processes: UInt32 = 0,
        processLimitHits: UInt32 = 0
    ) {
        self.cpuMicroseconds = cpuMicroseconds
        self.memoryBytes = memoryBytes
        self.peakMemoryBytes = peakMemoryBytes
        self.processes = processes
        self.processLimitHits = processLimitHits
    }
}
