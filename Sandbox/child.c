// SPDX-License-Identifier: Apache-2.0
// The child's first half, stages 10 to 27: it has every capability in its own user namespace and nothing outside it.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>

_Noreturn void sbx_fail(int report_fd, uint32_t stage, int error) {
    struct sbx_report report = {.kind = SBX_REPORT_FAILED, .first = stage, .second = error};
    RAW(sendto, report_fd, &report, sizeof report, MSG_NOSIGNAL, NULL, 0);
    RAW(exit_group, 125);
    __builtin_unreachable();
}

static char *digits(char *end, uint64_t value) {
    *end = 0;
    do { *--end = (char)('0' + value % 10); } while (value /= 10);
    return end;
}

static void append(char *to, const char *text) {
    while (*to) to++;
    while ((*to++ = *text++)) {}
}

static int mount_tmpfs(const char *target, uint64_t bytes, uint32_t inodes) {
    char options[128] = "mode=1777,size=", number[24];
    append(options, digits(number + 23, bytes));
    append(options, ",nr_inodes=");
    append(options, digits(number + 23, inodes));
    return (int)RAW(mount, "tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options);
}

static int forbid_nesting(void) {
    // The sysctl is per user namespace and is looked up by who writes: this sets ours, through the host's /proc that is still mounted.
    int file = (int)RAW(openat, AT_FDCWD, "/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC, 0);
    if (file < 0) return -1;
    long count = RAW(write, file, "0", 1);
    RAW(close, file);
    return count == 1 ? 0 : -1;
}

static int loopback_up(void) {
    int fd = (int)RAW(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_name[0] = 'l';
    request.ifr_name[1] = 'o';
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    long result = RAW(ioctl, fd, SIOCSIFFLAGS, &request);
    RAW(close, fd);
    return (int)result;
}

// The parent's end of the socket vanishes with the parent: then this returns -1.
static int go_ahead(int report_fd) {
    char bytes[2] = {0, 0};
    long count = RAW(recvfrom, report_fd, bytes, sizeof bytes, 0, NULL, NULL);
    errno = EPIPE;
    return count == 1 && bytes[0] == 'G' ? 0 : -1;
}

static int die_with_parent(void) { return (int)RAW(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); }

_Noreturn void sbx_child(const struct sbx_plan *plan) {
    int fd = plan->report_fd;
    STAGE(plan, fd, SBX_PARENT_DEATH, die_with_parent());
    // Our copy of the parent's end would keep the socket alive after the parent's death.
    RAW(close, plan->parent_report_fd);
    STAGE(plan, fd, SBX_GO_AHEAD, go_ahead(fd));
    STAGE(plan, fd, SBX_IDENTITY, RAW(setresgid, SBX_INNER_ID, SBX_INNER_ID, SBX_INNER_ID) || RAW(setresuid, SBX_INNER_ID, SBX_INNER_ID, SBX_INNER_ID));
    // Changing ids clears the death signal and may change dumpability: both are set after it.
    STAGE(plan, fd, SBX_PARENT_DEATH, die_with_parent());
    STAGE(plan, fd, SBX_DUMPABLE, RAW(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
    STAGE(plan, fd, SBX_KEYRING, RAW(keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL, 0, 0, 0) < 0);
    STAGE(plan, fd, SBX_CGROUP_NAMESPACE, RAW(unshare, CLONE_NEWCGROUP));
    STAGE(plan, fd, SBX_NO_NESTING, forbid_nesting());
    STAGE(plan, fd, SBX_PROPAGATION, RAW(mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    // A mount that came with the copied namespace is locked in place; a bind of it is ours to pivot to, its submounts stay locked.
    STAGE(plan, fd, SBX_ROOT, RAW(mount, "/root", "/root", NULL, MS_BIND | MS_REC, NULL));
    STAGE(plan, fd, SBX_TEMPORARY, mount_tmpfs("/root/tmp", plan->temporary_bytes, plan->temporary_inodes));
    STAGE(plan, fd, SBX_SHARED_MEMORY, mount_tmpfs("/root/dev/shm", plan->temporary_bytes / 4 + 4096, 1024));
    STAGE(plan, fd, SBX_PROC, RAW(mount, "proc", "/root/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2,subset=pid"));
    STAGE(plan, fd, SBX_CODE, plan->code_fd >= 0 && RAW(move_mount, plan->code_fd, "", AT_FDCWD, "/root/function", MOVE_MOUNT_F_EMPTY_PATH));
    STAGE(plan, fd, SBX_PIVOT, RAW(chdir, "/root") || RAW(pivot_root, ".", "."));
    STAGE(plan, fd, SBX_DETACH, RAW(umount2, ".", MNT_DETACH) || RAW(chdir, "/"));
    STAGE(plan, fd, SBX_LOOPBACK, plan->network && loopback_up());
    STAGE(plan, fd, SBX_HOSTNAME, RAW(sethostname, "worker", 6) || RAW(setdomainname, "", 0));
    int pair[2];
    STAGE(plan, fd, SBX_CHANNEL, RAW(socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    struct sbx_channel channel = {.reaper = pair[0], .payload = pair[1]};
    long payload;
    STAGE(plan, fd, SBX_FORK, (payload = RAW(clone, SIGCHLD, 0, 0, 0, 0)) < 0);
    if (payload == 0) sbx_payload(plan, channel);
    sbx_reap(plan, channel, (int)payload);
}
