// SPDX-License-Identifier: Apache-2.0
// The child's first half, stages 10 to 29: it has every capability in its own user namespace and nothing outside it.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/capability.h>
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

static int forbid_nesting(int sysctl_fd) {
    // The sysctl is per user namespace and is looked up by who opens it: this sets ours, though the directory is the host's.
    int file = (int)RAW(openat, sysctl_fd, "user/max_user_namespaces", O_WRONLY | O_CLOEXEC, 0);
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

static int empty_bounding_set(void) {
    // Numbers are dense: the first that the kernel does not know ends the list.
    for (int capability = 0; capability < 64; capability++)
        if (RAW(prctl, PR_CAPBSET_DROP, capability, 0, 0, 0)) {
            if (errno != EINVAL || capability <= CAP_SYS_ADMIN) return -1;
            break;
        }
    return 0;
}

static int die_with_parent(void) { return (int)RAW(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); }

// The payload is a process of its own in our memory until it executes: to copy that, and to throw the copy away, took a quarter of a start. Both go on at once, so it
// has a stack of its own and an errno of its own, which is all that is kept by thread here.
static _Alignas(16) char payload_stack[64 << 10], payload_thread[16 << 10];
static struct { const struct sbx_plan *plan; struct sbx_channel channel; } payload_start;

static int run_payload(void *unused) {
    (void)unused;
    sbx_payload(payload_start.plan, payload_start.channel);
}

static long fork_payload(const struct sbx_plan *plan, struct sbx_channel channel) {
    long offset = (char *)&errno - (char *)__builtin_thread_pointer(), room = sizeof payload_thread / 2;
    if (offset < -room || offset > room - (long)sizeof errno) {
        errno = ENOTSUP;
        return -1;
    }
    *(void **)(void *)(payload_thread + room) = payload_thread + room; // x86-64 finds the thread's own memory by this
    payload_start.plan = plan;
    payload_start.channel = channel;
    return clone(run_payload, payload_stack + sizeof payload_stack, CLONE_VM | CLONE_SETTLS | SIGCHLD, NULL, NULL, payload_thread + room, NULL);
}

// The namespace that we got a copy of is the worker's root already, made once a runtime: nothing is pivoted and nothing detached here, for taking a mount away
// waits until every processor has passed a quiet moment, which on a busy machine takes longer than all the rest. The payload is forked as soon as it has its ids,
// its cgroup and no way to nest: it drops what it has while we mount what is the worker's own, and waits for a byte before it looks at a path. We say that byte
// when we, too, have nothing left: no tenant's code ever runs beside a pid 1 that could do more than reap.
_Noreturn void sbx_child(const struct sbx_plan *plan) {
    int fd = plan->report_fd, pair[2];
    STAGE(plan, fd, SBX_PARENT_DEATH, die_with_parent());
    // Our copy of the parent's end would keep the socket alive after the parent's death.
    RAW(close, plan->parent_report_fd);
    // What needs no ids is done while the parent writes the maps.
    STAGE(plan, fd, SBX_BOUNDING_SET, empty_bounding_set());
    STAGE(plan, fd, SBX_HOSTNAME, RAW(sethostname, "worker", 6) || RAW(setdomainname, "", 0));
    STAGE(plan, fd, SBX_CHANNEL, RAW(socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    STAGE(plan, fd, SBX_PROPAGATION, RAW(mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    STAGE(plan, fd, SBX_GO_AHEAD, go_ahead(fd));
    STAGE(plan, fd, SBX_IDENTITY, RAW(setresgid, SBX_INNER_ID, SBX_INNER_ID, SBX_INNER_ID) || RAW(setresuid, SBX_INNER_ID, SBX_INNER_ID, SBX_INNER_ID));
    // Changing ids clears the death signal and may change dumpability: both are set after it.
    STAGE(plan, fd, SBX_PARENT_DEATH, die_with_parent());
    STAGE(plan, fd, SBX_DUMPABLE, RAW(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
    STAGE(plan, fd, SBX_KEYRING, RAW(keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL, 0, 0, 0) < 0);
    STAGE(plan, fd, SBX_CGROUP_NAMESPACE, RAW(unshare, CLONE_NEWCGROUP));
    STAGE(plan, fd, SBX_NO_NESTING, forbid_nesting(plan->sysctl_fd));
    struct sbx_channel channel = {.reaper = pair[0], .payload = pair[1]};
    long payload;
    STAGE(plan, fd, SBX_FORK, (payload = fork_payload(plan, channel)) < 0);
    STAGE(plan, fd, SBX_TEMPORARY, mount_tmpfs("/tmp", plan->temporary_bytes, plan->temporary_inodes));
    STAGE(plan, fd, SBX_SHARED_MEMORY, mount_tmpfs("/dev/shm", plan->temporary_bytes / 4 + 4096, 1024));
    STAGE(plan, fd, SBX_PROC, RAW(mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2,subset=pid"));
    STAGE(plan, fd, SBX_CODE, plan->code_fd >= 0 && RAW(move_mount, plan->code_fd, "", AT_FDCWD, "/function", MOVE_MOUNT_F_EMPTY_PATH));
    STAGE(plan, fd, SBX_BUCKETS, sbx_buckets_mount(plan));
    STAGE(plan, fd, SBX_LAYERS, sbx_layers_mount(plan->layer_folder_fd, plan->layers, plan->layer_count));
    STAGE(plan, fd, SBX_LOOPBACK, plan->network && loopback_up());
    sbx_reap(plan, channel, (int)payload);
}
