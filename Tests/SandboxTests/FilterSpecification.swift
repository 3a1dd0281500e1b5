// SPDX-License-Identifier: Apache-2.0
import Glibc

@testable import SandboxKit

/// What the worker's filter must say, written by hand and not taken from the policy: a rule that loses its condition, its action or itself differs from this.
enum FilterSpecification {
    typealias Answer = CompiledFilter.Answer

    /// A call that is judged by its arguments.
    struct Call: Sendable {
        let name: String
        /// The argument that is looked at first.
        let place: Int
        /// Its values that mean something.
        let known: [UInt64]
        /// Where a second argument is looked at: each of its values, too.
        var second: Int?
        let answer: @Sendable (_ arguments: [UInt64], _ network: Bool) -> Answer

        /// Known values, each of them with each one bit changed, small numbers, and single bits; whatever the other arguments are.
        var probes: [[UInt64]] {
            let bits = (0..<64).map { UInt64(1) << UInt64($0) }
            let firsts = Set(known + known.flatMap { value in bits.map { value ^ $0 } } + Array(0...80) + bits + [.max]).sorted()
            let others: [UInt64] = second == nil ? [0, .max] : Array(0...16) + [0x801, 0x80002, 0x80003, 1 << 32, .max]
            return firsts.flatMap { first in
                others.flatMap { other in
                    // The second argument alone, and all others with it.
                    var words = [UInt64](repeating: other, count: 6)
                    words[place] = first
                    guard let second else { return [words] }
                    var alone = [UInt64](repeating: 0, count: 6)
                    alone[place] = first
                    alone[second] = other
                    var rest = words
                    rest[second] = 0
                    return [alone, words, rest]
                }
            }
        }
    }

    /// By the value of one 32-bit argument; any other value is a call that is not listed. The kernel does not look at the upper half, so it changes nothing here either.
    private static func values(
        _ name: String, _ place: Int, allow: [UInt64], refuse: [Int32: [UInt64]] = [:]
    ) -> Call {
        Call(name: name, place: place, known: allow + refuse.values.flatMap { $0 }) { arguments, _ in
            let value = arguments[place] & 0xFFFF_FFFF
            if allow.contains(value) { return .allow }
            return .errno(refuse.first { $0.value.contains(value) }?.key ?? ENOSYS)
        }
    }

    /// Set-id bits make a program run as somebody else.
    private static func mode(_ name: String, _ place: Int) -> Call {
        Call(name: name, place: place, known: [0, 0o755, 0o1777, 0o2755, 0o4755, 0o6755]) { arguments, _ in
            arguments[place] & 0o6000 == 0 ? .allow : .errno(ENOSYS)
        }
    }

    /// Pipes with a name, and no device, file or socket; another type is none.
    private static func node(_ name: String, _ place: Int) -> Call {
        let refused: [UInt64] = [0o020000, 0o060000, 0o100000, 0o140000]
        return Call(name: name, place: place, known: [0o010000, 0o010644, 0o020666] + refused) { arguments, _ in
            let type = arguments[place] & 0o170000
            return type == 0o010000 ? .allow : .errno(refused.contains(type) ? EPERM : ENOSYS)
        }
    }

    static let calls: [Call] = [
        // CLONE_PTRACE, _PARENT, _UNTRACED, and every namespace: NS, CGROUP, UTS, IPC, USER, PID, NET.
        Call(name: "clone", place: 0, known: [0, 0x11, 0x3D_0F00, 0x0120_0011, 0x4111, 0x1000_0000]) { arguments, _ in
            let forbidden: [UInt64] = [
                0x2000, 0x8000, 0x80_0000, 0x2_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000,
            ]
            return forbidden.allSatisfy { arguments[0] & $0 == 0 } ? .allow : .errno(ENOSYS)
        },
        // TIOCSTI, TIOCLINUX and FS_IOC_GETFLAGS; FICLONE.
        values(
            "ioctl", 1, allow: [0x5401, 0x5413, 0x540F, 0x541B, 0x5421, 0x5450, 0x5451],
            refuse: [ENOTTY: [0x5412, 0x541C, 0x8008_6601], EOPNOTSUPP: [0x4004_9409]]),
        // Locks of both kinds; owners and signals, leases and notes of directories.
        values(
            "fcntl", 1, allow: [0, 1, 2, 3, 4, 9, 1030, 1031, 1032, 1033, 1034],
            refuse: [ENOLCK: [5, 6, 7, 36, 37, 38], EPERM: [8, 10, 15, 1024, 1025, 1026]]),
        Call(
            name: "prctl", place: 0,
            known: [1, 2, 3, 15, 16, 21, 23, 27, 29, 30, 36, 37, 38, 39, 40, 41, 42, 52, 0x5356_4D41, 47] + secrets,
            second: 1
        ) { arguments, _ in
            let option = arguments[0] & 0xFFFF_FFFF
            // Of the ambient set only the question is let through: PR_CAP_AMBIENT_IS_SET.
            if option == 47 { return arguments[1] & 0xFFFF_FFFF == 1 ? .allow : .errno(ENOSYS) }
            if secrets.contains(option) { return .errno(EPERM) }
            let harmless: [UInt64] = [1, 2, 3, 15, 16, 21, 23, 27, 29, 30, 36, 37, 38, 39, 40, 41, 42, 52, 0x5356_4D41]
            return harmless.contains(option) ? .allow : .errno(ENOSYS)
        },
        // Without a new limit: a pointer, of which all 64 bits count.
        Call(name: "prlimit64", place: 2, known: [0, 0x7FFF_0000_0000]) { arguments, _ in arguments[2] == 0 ? .allow : .errno(ENOSYS) },
        mode("chmod", 1), mode("fchmod", 1), mode("fchmodat", 2), mode("fchmodat2", 2),
        node("mknod", 1), node("mknodat", 2),
        // The default and the question; never ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC or another system's.
        values("personality", 0, allow: [0, 0xFFFF_FFFF]),
        // Thread-local storage; never ARCH_SET_CPUID, ARCH_MAP_VDSO_*, shadow stacks (ARCH_SHSTK_*, 0x5001 and on) or CET_*.
        values("arch_prctl", 0, allow: [0x1001, 0x1002, 0x1003, 0x1004]),
        values("socketpair", 0, allow: [1], refuse: [EAFNOSUPPORT: (0...45).filter { $0 != 1 }]),
        Call(name: "socket", place: 0, known: Array(0...46), second: 1, answer: socket),
        Call(name: "socket", place: 0, known: [16, 2, 10], second: 2, answer: socket),
    ]

    /// What changes how a process may be seen or what it may have: DUMPABLE, KEEPCAPS, SECCOMP, CAPBSET_DROP, TSC, SECUREBITS, MM,
    /// SPECULATION_CTRL, SCHED_CORE, MDWE, PTRACER.
    private static let secrets: [UInt64] = [4, 8, 22, 24, 26, 28, 35, 53, 62, 65, 0x5961_6D61]

    @Sendable private static func socket(_ arguments: [UInt64], _ network: Bool) -> Answer {
        let family = arguments[0] & 0xFFFF_FFFF
        switch (family, network) {
        case (1, _): return .allow
        case (2, true), (10, true):
            // SOCK_STREAM and SOCK_DGRAM; raw, rdm, seqpacket, dccp and packet are the network without its rules.
            switch arguments[1] & 0xF {
            case 1, 2: return .allow
            case 0, 3, 4, 5, 6, 10: return .errno(EPERM)
            default: return .errno(ENOSYS)
            }
        // NETLINK_ROUTE, of the worker's own network namespace.
        case (16, true): return arguments[2] & 0xFFFF_FFFF == 0 ? .allow : .errno(ENOSYS)
        default: return .errno(family <= 45 ? EAFNOSUPPORT : ENOSYS)
        }
    }

    /// Never let through, whatever the arguments: another process, namespaces and mounts, the kernel, ids, keys, memory that the filter does not see, locks.
    static let never: [String] = """
        ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp process_madvise process_mrelease mount umount2 unshare setns chroot pivot_root
        open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr bpf perf_event_open fanotify_init fanotify_mark keyctl add_key request_key
        setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset seccomp setrlimit quotactl quotactl_fd syslog
        sethostname setdomainname name_to_handle_at open_by_handle_at vhangup sync syncfs mbind set_mempolicy migrate_pages move_pages modify_ldt
        setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr clone3 io_uring_setup io_uring_enter io_uring_register userfaultfd
        memfd_secret io_setup io_submit shmget shmat msgget semget mq_open tee vmsplice execveat flock kexec_load kexec_file_load init_module
        finit_module delete_module reboot swapon swapoff iopl ioperm acct settimeofday clock_settime clock_adjtime adjtimex uselib ustat sysfs
        nfsservctl remap_file_pages lookup_dcookie create_module
        """.split(whereSeparator: \.isWhitespace).map(String.init)

    /// Where a filter differs from this, at most the first.
    static func difference(_ filter: CompiledFilter, network: Bool, only name: String? = nil) -> String? {
        for call in calls where name == nil || call.name == name {
            guard let number = SyscallTable.number(call.name) else { return "there is no \(call.name)" }
            for arguments in call.probes {
                let answer = filter.answer(number, arguments)
                let wanted = call.answer(arguments, network)
                if answer != wanted {
                    let words = arguments.map { "0x" + String($0, radix: 16) }
                    return "\(call.name)(\(words.joined(separator: ", "))) is \(answer) instead of \(wanted)"
                }
            }
        }
        return nil
    }
}
