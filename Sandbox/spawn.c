// SPDX-License-Identifier: Apache-2.0
// The parent's half: stages 1 to 8.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const struct { uint32_t number; const char *text; } stages[] = {
#define X(number, name, text) {number, text},
    SBX_STAGES(X)
#undef X
};

const char *sbx_stage_text(uint32_t stage) {
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (stages[i].number == stage) return stages[i].text;
    return NULL;
}

size_t sbx_stage_list(uint32_t *numbers, size_t capacity) {
    size_t count = sizeof stages / sizeof *stages;
    for (size_t i = 0; i < count && i < capacity; i++) numbers[i] = stages[i].number;
    return count;
}

int sbx_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }

static int write_file(int directory, const char *name, const char *text, size_t length) {
    int file = openat(directory, name, O_WRONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t count = write(file, text, length);
    int saved = errno;
    close(file);
    errno = saved;
    return count == (ssize_t)length ? 0 : -1;
}

// Every line of /proc/<pid>/cgroup that belongs to one of our hierarchies must end with the worker's path.
static int check_cgroup(int directory, const struct sbx_plan *plan) {
    if (!plan->cgroup_suffix) return 0;
    int file = openat(directory, "cgroup", O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    char text[8192];
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length < 0) return -1;
    text[length] = 0;
    size_t wanted = strlen(plan->cgroup_suffix), found = 0;
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');
        size_t size = end ? (size_t)(end - line) : strlen(line);
        if (size >= wanted && memcmp(line + size - wanted, plan->cgroup_suffix, wanted) == 0) found++;
        line = end ? end + 1 : NULL;
    }
    errno = ESRCH;
    return found >= plan->cgroup_lines ? 0 : -1;
}

// A worker with network has a network namespace of its own with nothing but loopback in it. This socket is made in there and listened to from outside: what
// leaves the worker leaves through whoever accepts on it. On every address, for loopback has none before the worker brings it up.
static int open_egress(const struct sbx_plan *plan, int directory, int *egress_fd) {
    int own = openat(directory, "ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0) return -1;
    if (setns(own, CLONE_NEWNET)) {
        int error = errno;
        close(own);
        errno = error;
        return -1;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(SBX_EGRESS_PORT)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int failed = listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64);
    int error = errno;
    if (setns(plan->home_network_fd, CLONE_NEWNET)) __builtin_trap();
    close(own);
    if (failed && listener >= 0) close(listener);
    else *egress_fd = listener;
    errno = error;
    return failed ? -1 : 0;
}

int sbx_act_as(uint32_t id) {
    long bits = RAW(prctl, PR_GET_SECUREBITS, 0, 0, 0, 0);
    if (bits < 0 || RAW(prctl, PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0)) return -1;
    long failed = RAW(setresuid, -1, id, -1);
    int error = errno;
    if (RAW(prctl, PR_SET_SECUREBITS, bits, 0, 0, 0)) return -1;
    errno = error;
    return failed ? -1 : 0;
}

static int create(const struct sbx_plan *plan, int cgroup, int *pidfd) {
    struct clone_args arguments = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
    };
    if (cgroup >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)cgroup;
    }
    // The child's mount namespace is a copy of the namespace that the caller is in: the runtime's own, which holds nothing of the host
    // but what workers may see. A network namespace that was made ahead is inherited; the worker's user namespace does not own it.
    if (plan->network_fd >= 0) {
        if (setns(plan->network_fd, CLONE_NEWNET)) return -1;
        arguments.flags &= ~(uint64_t)CLONE_NEWNET;
    }
    if (sbx_namespace_enter(plan->namespace_fd)) {
        int error = errno;
        if (plan->network_fd >= 0 && setns(plan->home_network_fd, CLONE_NEWNET)) __builtin_trap();
        errno = error;
        return -1;
    }
    // Whoever makes a user namespace owns it, and what is counted by user in there (inotify instances and watches, pending signals and timers, processes) is counted
    // against the owner's share of the host, too: with root as the owner of all, one worker could use up what all of them may have together. So each is made by
    // the worker's own id. user_namespaces(7).
    int pid = sbx_act_as(plan->host_id) ? -1 : (int)RAW(clone3, &arguments, sizeof arguments);
    if (pid == 0) sbx_child(plan);
    int saved = errno;
    // A spawner that cannot come home must not go on: every later path would mean something else.
    if (sbx_act_as(0)) __builtin_trap();
    if (sbx_namespace_enter(plan->home_namespace_fd)) __builtin_trap();
    if (plan->network_fd >= 0 && setns(plan->home_network_fd, CLONE_NEWNET)) __builtin_trap();
    errno = saved;
    return pid;
}

#define PARENT_STAGE(stage, condition)                                     \
    do {                                                                   \
        if (plan->fail_stage == (stage)) { errno = EREMOTEIO; reached = (stage); goto failed; } \
        if (condition) { reached = (stage); goto failed; }                 \
    } while (0)

struct sbx_started sbx_spawn(const struct sbx_plan *plan) {
    struct sbx_started out = {.pid = -1, .pidfd = -1, .egress_fd = -1};
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    uint32_t reached = SBX_CLONE;
    int directory = -1;
    PARENT_STAGE(SBX_CLONE, (out.pid = create(plan, plan->cgroup_fd, &out.pidfd)) < 0);

    // /proc/<pid> is opened once; the pidfd then says that the number still means our child.
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", out.pid);
    directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct pollfd alive = {.fd = out.pidfd, .events = POLLIN};
    if (directory < 0 || poll(&alive, 1, 0) != 0) {
        if (directory >= 0) errno = ESRCH;
        goto failed;
    }
    char text[64];
    int length = snprintf(text, sizeof text, "%d", plan->oom_score);
    // From the parent: what the child wrote itself it could lower again.
    PARENT_STAGE(SBX_OOM_SCORE, write_file(directory, "oom_score_adj", text, (size_t)length));
    PARENT_STAGE(SBX_SETGROUPS_DENY, write_file(directory, "setgroups", "deny", 4));
    length = snprintf(text, sizeof text, "%d %u 1", SBX_INNER_ID, plan->host_id);
    PARENT_STAGE(SBX_GID_MAP, write_file(directory, "gid_map", text, (size_t)length));
    PARENT_STAGE(SBX_UID_MAP, write_file(directory, "uid_map", text, (size_t)length));
    length = snprintf(text, sizeof text, "%d", out.pid);
    PARENT_STAGE(SBX_CGROUP_JOIN, 0);
    for (size_t i = 0; i < plan->join_count; i++)
        PARENT_STAGE(SBX_CGROUP_JOIN, pwrite(plan->join_fds[i], text, (size_t)length, 0) != length);
    PARENT_STAGE(SBX_CGROUP_CHECK, check_cgroup(directory, plan));
    PARENT_STAGE(SBX_EGRESS, plan->network && open_egress(plan, directory, &out.egress_fd));
    PARENT_STAGE(SBX_GO, send(plan->parent_report_fd, "G", 1, MSG_NOSIGNAL) != 1);
    close(directory);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return out;

failed:
    out.failed_stage = reached;
    out.error = errno;
    // A child that failed by itself makes the parent's steps fail too; what it says is the cause.
    struct sbx_report report;
    if (recv(plan->parent_report_fd, &report, sizeof report, MSG_DONTWAIT) == sizeof report && report.kind == SBX_REPORT_FAILED) {
        out.failed_stage = report.first;
        out.error = report.second;
    }
    if (directory >= 0) close(directory);
    if (out.pid > 0) {
        RAW(pidfd_send_signal, out.pidfd, SIGKILL, NULL, 0);
        waitpid(out.pid, NULL, 0);
    }
    if (out.pidfd >= 0) close(out.pidfd);
    if (out.egress_fd >= 0) close(out.egress_fd);
    out.pid = out.pidfd = out.egress_fd = -1;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return out;
}
