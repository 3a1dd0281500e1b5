// SPDX-License-Identifier: Apache-2.0
import CSandbox
import Glibc
import Kernel

/// One ability of the host.
public struct HostAbility: Sendable, Hashable {
    public let ability: String
    public let isPresent: Bool
    /// Whether nothing starts without it.
    public let isNeeded: Bool
    /// What it is for, what is there, or how to get it.
    public let detail: String
}

/// What this host can and cannot give, before anything runs. The seal is refused rather than weakened.
public enum HostProbe {
    /// Without this ability no function with buckets starts.
    public static let idmappedMounts = "idmapped mounts"

    /// `folder` exists and is on the file system where the node keeps what it keeps.
    public static func run(folder: String = "/") -> [HostAbility] {
        let tree = CgroupTree(name: "bulkhead-probe")
        let landlock = sbx_landlock_abi()
        return [
            HostAbility(
                ability: "root", isPresent: geteuid() == 0, isNeeded: true, detail: "the spawner starts as root and keeps few capabilities"),
            HostAbility(
                ability: "user namespaces", isPresent: sbx_can_user_namespace() != 0, isNeeded: true,
                detail: "every worker has its own; if missing: sysctl user.max_user_namespaces=15000, CONFIG_USER_NS"),
            HostAbility(
                ability: "mount API", isPresent: sbx_has_mount_api() != 0, isNeeded: true, detail: "mount_setattr(2), Linux 5.12 or newer"),
            HostAbility(
                ability: "seccomp notification", isPresent: sbx_has_notify() != 0, isNeeded: true,
                detail: "names the system call that ended a worker; Linux 5.5 or newer with CONFIG_SECCOMP_FILTER"),
            HostAbility(
                ability: "cgroups", isPresent: tree != nil, isNeeded: true,
                detail: tree.map { "\($0.kind.rawValue): memory, pids, cpu" }
                    ?? "memory, pids and cpu of version 2 on /sys/fs/cgroup, or of version 1, with cpuacct"
            ),
            HostAbility(
                ability: idmappedMounts, isPresent: unsafe sbx_can_map_mounts(folder) != 0, isNeeded: false,
                detail: "buckets: every worker sees the daemon's files as its own. \(folder) must be on ext4, xfs, btrfs or tmpfs"),
            HostAbility(
                ability: "file events", isPresent: (try? FileEvents()) != nil, isNeeded: false,
                detail: "the kernel's word about which worker wrote into a bucket: fanotify with pidfds, Linux 5.15 or newer"),
            HostAbility(
                ability: "Landlock", isPresent: landlock > 0, isNeeded: false,
                detail: landlock > 0
                    ? "version \(landlock)" : "a second layer on paths, sockets and signals; Linux 5.13 or newer with lsm=landlock"),
        ]
    }
}

extension SandboxHost {
    /// Keeps only the capabilities that starting and ending workers takes; no groups, no core dump, not inspectable.
    public static func reducePrivileges() throws(SandboxFailure) {
        let error = sbx_reduce_self()
        if error != 0 { throw SandboxFailure("drop the spawner's own privileges", errno: error) }
    }

    /// Gives back the memory that only the start of the program needed.
    public static func forgetStart() { sbx_forget_start() }
}
