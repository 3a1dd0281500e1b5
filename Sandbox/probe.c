// SPDX-License-Identifier: Apache-2.0
// What this kernel gives, and what the spawner keeps of its own privilege.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/nsfs.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

int sbx_landlock_abi(void) {
    long abi = RAW(landlock_create_ruleset, NULL, 0, 1);
    return abi > 0 ? (int)abi : 0;
}

int sbx_has_notify(void) {
    uint32_t action = SECCOMP_RET_USER_NOTIF;
    return RAW(seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

int sbx_has_mount_api(void) {
    // mount_setattr(2) is the newest of the calls that a root is built with (5.12).
    return !(RAW(mount_setattr, -1, NULL, 0, NULL, 0) < 0 && errno == ENOSYS);
}

int sbx_can_user_namespace(void) {
    pid_t child = fork();
    if (child == 0) _exit(unshare(CLONE_NEWUSER) ? 1 : 0);
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int sbx_reduce_self(void) {
    // mount, namespaces, cgroups: SYS_ADMIN and SYS_CHROOT. Ids of workers and daemon: SETUID, SETGID, SETPCAP. Other uids' processes: KILL, SYS_PTRACE
    // (reading /proc of workers). Files of the daemon's uid: DAC_OVERRIDE, CHOWN, FOWNER. Scores and limits: SYS_RESOURCE. lo in a worker: NET_ADMIN.
    static const cap_value_t kept[] = {CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_KILL, CAP_SYS_PTRACE, CAP_DAC_OVERRIDE, CAP_CHOWN, CAP_FOWNER, CAP_SYS_RESOURCE, CAP_NET_ADMIN, CAP_NET_BIND_SERVICE};
    cap_t have = cap_get_proc(), want = cap_init();
    int error = 0;
    if (!have || !want) error = ENOMEM;
    for (size_t i = 0; !error && i < sizeof kept / sizeof *kept; i++) {
        cap_flag_value_t permitted = CAP_CLEAR;
        cap_get_flag(have, kept[i], CAP_PERMITTED, &permitted);
        if (permitted == CAP_SET
            && (cap_set_flag(want, CAP_PERMITTED, 1, &kept[i], CAP_SET) || cap_set_flag(want, CAP_EFFECTIVE, 1, &kept[i], CAP_SET)))
            error = errno;
    }
    for (cap_value_t value = 0; !error && value < cap_max_bits(); value++) {
        cap_flag_value_t keep = CAP_CLEAR;
        cap_get_flag(want, value, CAP_PERMITTED, &keep);
        if (keep == CAP_CLEAR && cap_drop_bound(value)) error = errno;
    }
    if (!error && (setgroups(0, NULL) || cap_set_proc(want))) error = errno;
    // 1 as the hard limit: workers get exactly 1, which no core handler starts for. core(5).
    struct rlimit none = {0, 1};
    if (!error && (setrlimit(RLIMIT_CORE, &none) || prctl(PR_SET_DUMPABLE, 0))) error = errno;
    if (have) cap_free(have);
    if (want) cap_free(want);
    return error;
}

char *sbx_capability_text(uint64_t mask) {
    cap_t set = cap_init();
    if (!set) return NULL;
    for (cap_value_t value = 0; value < 64; value++)
        if (mask >> value & 1) cap_set_flag(set, CAP_PERMITTED, 1, &value, CAP_SET);
    char *text = cap_to_text(set, NULL), *copy = NULL;
    if (text) {
        size_t length = 0;
        while (text[length]) length++;
        if ((copy = malloc(length + 1)))
            for (size_t i = 0; i <= length; i++) copy[i] = text[i];
        cap_free(text);
    }
    cap_free(set);
    return copy;
}

int64_t sbx_namespace_owner(int pid) {
    char path[48];
    uid_t owner = 0;
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int failed = file < 0 || ioctl(file, NS_GET_OWNER_UID, &owner);
    if (file >= 0) close(file);
    return failed ? -1 : (int64_t)owner;
}

// What only the start of a program needed lies in memory as long as it runs, for the kernel maps sixteen pages of a file around each one that is asked for. It comes back
// from the file where it is needed again. madvise(2).
void sbx_forget_start(void) {
    extern char __executable_start, etext;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)&__executable_start & ~(page - 1), end = (uintptr_t)&etext & ~(page - 1);
    madvise((void *)begin, end - begin, MADV_DONTNEED);
    malloc_trim(0);
}
