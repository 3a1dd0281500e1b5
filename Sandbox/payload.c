// SPDX-License-Identifier: Apache-2.0
// The child's second half, stages 30 to 46: everything here is irreversible, and the filter comes last.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

// No privilege by being root, none by changing ids, none by ambience; and none of the bits can be taken back. prctl(2), capabilities(7).
#define LOCKED_BITS                                                                          \
    (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED \
     | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)
#define REPORT 4
#define CHANNEL 5

static int reset_signals(void) {
    // The kernel's own struct: handler, flags, restorer, mask.
    struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } standard = {0};
    for (int number = 1; number <= 64; number++) {
        if (number == SIGKILL || number == SIGSTOP) continue;
        if (RAW(rt_sigaction, number, &standard, NULL, 8)) return -1;
    }
    return 0;
}

// Sources may have any number, so they are first lifted out of the way of the targets.
static int arrange_descriptors(const struct sbx_plan *plan, int channel) {
    const int sources[] = {plan->null_fd, plan->stdout_fd, plan->stderr_fd, plan->control_fd, plan->report_fd, channel};
    int lifted[6];
    for (int i = 0; i < 6; i++)
        if ((lifted[i] = (int)RAW(fcntl, sources[i], F_DUPFD_CLOEXEC, 64)) < 0) return -1;
    for (int i = 0; i < 6; i++)
        if (RAW(dup3, lifted[i], i, i >= REPORT ? O_CLOEXEC : 0) < 0) return -1;
    return 0;
}

static int set_limits(const struct sbx_plan *plan) {
    for (size_t i = 0; i < plan->limit_count; i++) {
        struct rlimit limit = {plan->limits[i].value, plan->limits[i].value}, host;
        // The host's own hard limit may be lower, and lower is never weaker.
        if (RAW(prlimit64, 0, plan->limits[i].resource, NULL, &host)) return -1;
        if (limit.rlim_max > host.rlim_max) limit.rlim_max = limit.rlim_cur = host.rlim_max;
        if (RAW(prlimit64, 0, plan->limits[i].resource, &limit, NULL)) return -1;
    }
    return 0;
}

static int drop_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    if (RAW(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)) return -1;
    return (int)RAW(capset, &header, none);
}

// The kernel must refuse, because there may be none or, on some distributions, because nobody without privilege may have one; that it does is the proof.
static int prove_no_nesting(void) {
    if (RAW(unshare, CLONE_NEWUSER) == 0) errno = EPROTO;
    return errno == ENOSPC || errno == EPERM ? 0 : -1;
}

static int load_filter(const struct sbx_plan *plan) {
    struct sock_fprog program = {.len = plan->filter.count, .filter = plan->filter.instructions};
    return (int)RAW(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static int hand_over(int channel, int listener) {
    union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    char byte = 'L';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    *(int *)(void *)CMSG_DATA(header) = listener;
    long sent = RAW(sendmsg, channel, &message, MSG_NOSIGNAL);
    RAW(close, listener);
    return sent == 1 ? 0 : -1;
}

// Words of an order, laid out for execve. Static: the child is single-threaded and this is its own copy.
static char order_bytes[SBX_ORDER_LIMIT + 1];
static char *order_arguments[SBX_ORDER_WORDS + 1], *order_environment[SBX_ORDER_WORDS + 1];

// The end of the socket is no word.
static int wait_for_root(int channel) {
    char byte = 0;
    long count = RAW(recvfrom, channel, &byte, 1, 0, NULL, NULL);
    errno = EPIPE;
    return count == 1 && byte == 'R' ? 0 : -1;
}

// Before this the code cannot be mounted in: there is no root of our own yet.
static int say_sealed(void) {
    struct sbx_report sealed = {.kind = SBX_REPORT_SEALED};
    return RAW(sendto, REPORT, &sealed, sizeof sealed, MSG_NOSIGNAL, NULL, 0) == sizeof sealed ? 0 : -1;
}

static int wait_for_order(void) {
    long count = RAW(recvfrom, REPORT, order_bytes, SBX_ORDER_LIMIT, 0, NULL, NULL);
    errno = EBADMSG;
    if (count < (long)sizeof(struct sbx_order)) return -1;
    struct sbx_order *order = (struct sbx_order *)(void *)order_bytes;
    if (order->argument_count < 1 || order->argument_count > SBX_ORDER_WORDS || order->environment_count > SBX_ORDER_WORDS) return -1;
    char *text = order->text, *end = order_bytes + count;
    for (uint32_t i = 0; i < order->argument_count + order->environment_count; i++) {
        char **slot = i < order->argument_count ? &order_arguments[i] : &order_environment[i - order->argument_count];
        *slot = text;
        while (text < end && *text) text++;
        if (text >= end) return -1;
        text++;
    }
    return 0;
}

static int enter_directory(void) {
    char path[256];
    if (RAW(chdir, "/function")) return -1;
    if (RAW(getcwd, path, sizeof path) <= 0) return -1;
    errno = ENOTDIR;
    return path[0] == '/' ? 0 : -1; // "(unreachable)" would mean a directory outside our root
}

_Noreturn void sbx_payload(const struct sbx_plan *plan, struct sbx_channel channel) {
    int fd = plan->report_fd;
    STAGE(plan, fd, SBX_SESSION, RAW(setsid) < 0);
    RAW(umask, 077);
    STAGE(plan, fd, SBX_SIGNALS, reset_signals());
    STAGE(plan, fd, SBX_DESCRIPTORS, arrange_descriptors(plan, channel.payload));
    fd = REPORT;
    STAGE(plan, fd, SBX_CLOSE, RAW(close_range, CHANNEL + 1, ~0U, 0));
    STAGE(plan, fd, SBX_LIMITS, set_limits(plan));
    STAGE(plan, fd, SBX_NESTING_PROOF, prove_no_nesting());
    STAGE(plan, fd, SBX_SECUREBITS, RAW(prctl, PR_SET_SECUREBITS, LOCKED_BITS, 0, 0, 0));
    STAGE(plan, fd, SBX_CAPABILITIES, drop_capabilities());
    STAGE(plan, fd, SBX_NO_NEW_PRIVILEGES, RAW(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    STAGE(plan, fd, SBX_ROOT_READY, wait_for_root(CHANNEL));
    if (plan->fail_stage == SBX_LANDLOCK) sbx_fail(fd, SBX_LANDLOCK, EREMOTEIO);
    if (plan->landlock_abi > 0) sbx_restrict_paths(plan, fd);
    int listener;
    STAGE(plan, fd, SBX_FILTER, (listener = load_filter(plan)) < 0);
    STAGE(plan, fd, SBX_LISTENER, hand_over(CHANNEL, listener));
    RAW(close, CHANNEL);
    char *const *arguments = plan->arguments, *const *environment = plan->environment;
    if (plan->wait_for_order || plan->code_fd < 0) STAGE(plan, fd, SBX_ORDER, say_sealed());
    if (plan->wait_for_order) {
        STAGE(plan, fd, SBX_ORDER, wait_for_order());
        arguments = order_arguments;
        environment = order_environment;
    }
    STAGE(plan, fd, SBX_DIRECTORY, enter_directory());
    uint64_t none = 0;
    RAW(rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
    STAGE(plan, fd, SBX_EXECUTE, RAW(execve, arguments[0], arguments, environment));
    __builtin_unreachable();
}
