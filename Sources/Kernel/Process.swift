// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// Processes, by descriptor where a number could be reused.
public enum ProcessControl {
    /// Gives back the memory of the program's code: what is needed again comes back from the page cache at once, and what only the start or a rare request has needed
    /// stays away.
    public static func forgetCode() { ck_forget_code() }

    /// From now on this process and all that it starts run in the shortest slices that the kernel has, 0.1 ms: who wakes up beside a busy neighbour waits for
    /// no longer than that where the processor's fair share is not used up, and no worker can choose a shorter one. A worker that chooses a longer one only
    /// hurts itself: the kernel protects a running process for the shortest slice among those who wait. Without effect before Linux 6.12.
    /// Measured, with 200 computing threads beside: the 99th percentile of a warm invocation inside the node falls from 3.9 to 1.1 ms, with ``CgroupTree/share``.
    @discardableResult public static func useShortSlices() -> Bool { ck_slice(100_000) == 0 }

    /// Sends a signal through a pidfd; false where the process is gone. pidfd_send_signal(2).
    @discardableResult public static func signal(pidfd: Int32, _ number: Int32) -> Bool { ck_pidfd_kill(pidfd, number) == 0 }

    /// The user id of the process at the other end of a Unix socket (`SO_PEERCRED`), or nil.
    public static func peerUID(_ socket: Int32) -> UInt32? {
        var uid: UInt32 = 0
        return unsafe ck_peer_uid(socket, &uid) == 0 ? uid : nil
    }

    /// Takes the lock or says that another process has it. flock(2).
    /// - Parameter patience: how long to wait for it, in milliseconds. A lock belongs to the open file: where the holder has closed it, a child that it is just starting still has
    ///   a copy until it executes.
    public static func lockExclusively(_ file: Int32, patience: Int = 0) -> Bool {
        for _ in 0..<patience / 10 {
            if ck_exclusive_lock(file) == 0 { return true }
            usleep(10_000)
        }
        return ck_exclusive_lock(file) == 0
    }

    /// Starts the daemon with an own uid and gid, no capability, no group, no new privileges, exactly this environment, and `control` as fd 3.
    /// It may change nothing outside the folder `writable`, where the kernel has Landlock.
    public static func startDaemon(
        executable: String, environment: [String], uid: UInt32, gid: UInt32, control: Int32, writable: String
    ) throws(KernelError) -> Int32 {
        var words = unsafe environment.map { unsafe strdup($0) }
        unsafe words.append(nil)
        defer { for index in unsafe words.indices { unsafe free(words[index]) } }
        let pid = unsafe executable.withCString { path in
            unsafe writable.withCString { writable in
                unsafe words.withUnsafeMutableBufferPointer { words -> Int32 in
                    guard let base = words.baseAddress else { return -1 }
                    var daemon = unsafe ck_daemon(
                        executable: path, environment: base, uid: uid, gid: gid, control: control, writable: writable)
                    return unsafe ck_start_daemon(&daemon)
                }
            }
        }
        guard pid > 0 else { throw KernelError("start \(executable)") }
        return pid
    }
}
