// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// What the calling process uses of the machine.
public enum OwnUse {
    /// Processor time of all its threads, in microseconds. getrusage(2).
    public static var cpuMicroseconds: UInt64 {
        var usage = rusage()
        unsafe getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        return [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + UInt64($1.tv_sec) * 1_000_000 + UInt64($1.tv_usec) }
    }

    /// Memory that is there, in bytes; nil without a `/proc`. proc_pid_statm(5).
    public static var residentBytes: UInt64? {
        SmallFile.read("/proc/self/statm")?.split(separator: " ").dropFirst().first.flatMap { UInt64($0) }.map {
            $0 * UInt64(sysconf(Int32(_SC_PAGESIZE)))
        }
    }

    /// Gives free memory that the allocator keeps back to the machine. Takes its time, and holds up others that allocate. malloc_trim(3).
    public static func giveMemoryBack() { ck_give_memory_back() }

    /// Open descriptors; nil without a `/proc`. proc_pid_fd(5).
    public static var descriptors: UInt32? {
        guard let folder = unsafe opendir("/proc/self/fd") else { return nil }
        defer { unsafe closedir(folder) }
        var count: UInt32 = 0
        while unsafe readdir(folder) != nil { count += 1 }
        // Two are the folder and the one above it, and one is what reads it.
        return count < 3 ? 0 : count - 3
    }
}
