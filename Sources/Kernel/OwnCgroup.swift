// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// This process's own place in the v2 hierarchy, where a service manager has given it away.
public enum OwnCgroup {
    /// The leaf that the supervisor's processes live in, beside the workers' tree.
    public static let leaf = "supervisor"

    public struct Failure: Error, Hashable, Sendable, CustomStringConvertible { public let description: String }

    /// The cgroup of `/proc/self/cgroup` (or of the text given) on v2, from the root of the hierarchy; nil where there is none.
    public static func path(_ text: String? = nil) -> String? {
        let lines = (text ?? SmallFile.read("/proc/self/cgroup") ?? "").split(separator: "\n")
        return lines.first { $0.hasPrefix("0::/") }.map { String($0.dropFirst(3)) }
    }

    /// Moves this process into a leaf of its own cgroup, so that controllers can be enabled for that cgroup's children: a cgroup with processes of its own cannot
    /// share its controllers out (cgroups(7), "no internal processes"). The leaf is made anew: in one that cgroup.kill was ever used on, children may die at birth.
    ///
    /// - Parameter mount: where the hierarchy is mounted.
    /// - Returns: the delegated cgroup, from the root of the hierarchy.
    /// - Throws: ``Failure`` where the cgroup was not given away (`Delegate=`) or the move fails.
    public static func settle(mount: String) throws(Failure) -> String {
        guard let own = path() else { throw Failure(description: "/proc/self/cgroup names no cgroup of version 2") }
        let directory = mount + own
        guard unsafe ck_is_delegated(directory) == 1 else {
            throw Failure(
                description: "the service manager has not given the cgroup \(own) away: write `Delegate=cpu memory pids` into the unit")
        }
        let leaf = directory + "/" + leaf
        unsafe rmdir(leaf)
        guard unsafe mkdir(leaf, 0o755) == 0 else { throw Failure(description: "\(KernelError("make the cgroup \(leaf)"))") }
        do throws(KernelError) { try SmallFile.write(leaf + "/cgroup.procs", "\(getpid())") } catch {
            throw Failure(description: "\(error)")
        }
        return own
    }
}
