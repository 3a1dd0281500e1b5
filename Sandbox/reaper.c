// SPDX-License-Identifier: Apache-2.0
// The worker's pid 1, stages 50 to 52: no capabilities, no descriptors but its own, a filter of a dozen calls. Only then may the payload go on. It reaps orphans, says
// how the payload ended or which forbidden call it made, and ends; the kernel then kills what is left in the namespace.
#define _GNU_SOURCE
#include "internal.h"
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define REPORT 0
#define CHANNEL 1
#define CHILDREN 2
#define LISTENER 3

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#endif

static _Noreturn void say_and_end(uint32_t kind, uint32_t first, int32_t second, uint32_t arch) {
    struct sbx_report report = {kind, first, second, arch};
    RAW(sendto, REPORT, &report, sizeof report, MSG_NOSIGNAL, NULL, 0);
    RAW(exit_group, 0);
    __builtin_unreachable();
}

static int reduce_descriptors(int report, int channel) {
    int lifted_report = (int)RAW(fcntl, report, 1030 /* F_DUPFD_CLOEXEC */, 64);
    int lifted_channel = (int)RAW(fcntl, channel, 1030, 64);
    if (lifted_report < 0 || lifted_channel < 0) return -1;
    if (RAW(dup3, lifted_report, REPORT, 02000000) < 0 || RAW(dup3, lifted_channel, CHANNEL, 02000000) < 0) return -1;
    uint64_t children = 1ULL << (SIGCHLD - 1);
    int signals = (int)RAW(signalfd4, -1, &children, 8, 02000000 | 04000);
    if (signals < 0 || (signals != CHILDREN && RAW(dup3, signals, CHILDREN, 02000000) < 0)) return -1;
    return (int)RAW(close_range, CHILDREN + 1, ~0U, 0);
}

static int drop_privileges(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    if (RAW(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)) return -1;
    if (RAW(capset, &header, none)) return -1;
    return (int)RAW(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int say_ready(void) { return RAW(sendto, CHANNEL, "R", 1, MSG_NOSIGNAL, NULL, 0) == 1 ? 0 : -1; }

static int receive_listener(void) {
    union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (RAW(recvmsg, CHANNEL, &message, MSG_CMSG_CLOEXEC) != 1) return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    return header && header->cmsg_type == SCM_RIGHTS ? *(int *)(void *)CMSG_DATA(header) : -1;
}

static void reap(int payload) {
    uint8_t drained[512];
    while (RAW(read, CHILDREN, drained, sizeof drained) > 0) {}
    for (;;) {
        // The kernel's siginfo is 128 bytes: signo, errno, code, padding, pid, uid, status.
        int info[32] = {0};
        if (RAW(waitid, P_ALL, 0, info, WEXITED | WNOHANG, NULL) || info[3 + 1] == 0) return;
        if (info[4] == payload) say_and_end(SBX_REPORT_ENDED, (uint32_t)info[2], info[6], 0);
    }
}

// The caller goes on into the kernel, which refuses what takes a capability: the worker has none, also while it is learned from.
static void learn(int listener, const struct seccomp_notif *call) {
    struct sbx_learned learned = {.kind = SBX_REPORT_LEARNED, .number = call->data.nr, .arch = call->data.arch};
    for (int i = 0; i < 6; i++) learned.arguments[i] = call->data.args[i];
    RAW(sendto, REPORT, &learned, sizeof learned, MSG_NOSIGNAL, NULL, 0);
    struct seccomp_notif_resp answer = {.id = call->id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    RAW(ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

_Noreturn void sbx_reap(const struct sbx_plan *plan, struct sbx_channel channel, int payload) {
    int fd = plan->report_fd;
    STAGE(plan, fd, SBX_REAPER_DESCRIPTORS, reduce_descriptors(fd, channel.reaper));
    fd = REPORT;
    STAGE(plan, fd, SBX_REAPER_PRIVILEGES, drop_privileges());
    struct sock_fprog program = {.len = plan->reaper_filter.count, .filter = plan->reaper_filter.instructions};
    STAGE(plan, fd, SBX_REAPER_FILTER, RAW(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    STAGE(plan, fd, SBX_ROOT_READY, say_ready());
    struct pollfd watched[2] = {{.fd = CHILDREN, .events = POLLIN}, {.fd = CHANNEL, .events = POLLIN}};
    for (int listener = -1;;) {
        RAW(ppoll, watched, 2, NULL, NULL, 8);
        if (watched[1].revents) {
            if (listener < 0) {
                listener = receive_listener();
                RAW(close, CHANNEL);
                watched[1].fd = listener; // -1 (the payload died before it had a filter) is ignored by poll
            } else if (watched[1].revents & POLLIN) {
                struct seccomp_notif call = {0};
                if (RAW(ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0) {
                    if (plan->learns) {
                        learn(listener, &call);
                        continue;
                    }
                    // Everybody first: our end closes the listener, and a caller that outlived it would go on with ENOSYS.
                    RAW(kill, -1, SIGKILL);
                    say_and_end(SBX_REPORT_SYSCALL, (uint32_t)call.data.nr, call.data.arch == NATIVE_ARCH && !(call.data.nr & 0x40000000), call.data.arch);
                }
            } else {
                watched[1].fd = -1;
            }
        }
        if (watched[0].revents) reap(payload);
    }
}
