// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "ckernel.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DESCRIPTOR_LIMIT 16

ssize_t ck_send(int fd, const void *bytes, size_t length, const int *descriptors, size_t count) {
    union { struct cmsghdr align; char space[CMSG_SPACE(DESCRIPTOR_LIMIT * sizeof(int))]; } control;
    struct iovec part = {(void *)(uintptr_t)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > DESCRIPTOR_LIMIT) {
        errno = EINVAL;
        return -1;
    }
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
    }
    ssize_t sent;
    do sent = sendmsg(fd, &message, MSG_NOSIGNAL); while (sent < 0 && errno == EINTR);
    return sent;
}

ssize_t ck_receive(int fd, void *bytes, size_t limit, int *descriptors, size_t capacity, size_t *count) {
    union { struct cmsghdr align; char space[CMSG_SPACE(DESCRIPTOR_LIMIT * sizeof(int))]; } control;
    struct iovec part = {bytes, limit};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t received;
    *count = 0;
    do received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC); while (received < 0 && errno == EINTR);
    if (received < 0) return -1;
    int is_whole = !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof descriptor);
            if (*count < capacity) descriptors[(*count)++] = descriptor;
            else {
                close(descriptor);
                is_whole = 0;
            }
        }
    }
    if (is_whole) return received;
    for (size_t i = 0; i < *count; i++) close(descriptors[i]);
    *count = 0;
    errno = EMSGSIZE;
    return -1;
}

// landlock(7): read and execute anywhere, change files below one folder alone; and write to /dev/null, as a program that is started for an alarm expects.
// A kernel without Landlock leaves file permissions as the only wall.
static int confine(const char *writable) {
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi <= 0) return 0;
    // Refer (ABI 2) and truncate (ABI 3) are newer than some headers.
    uint64_t rights = ((1ULL << 13) - 1) | (abi >= 2 ? 1ULL << 13 : 0) | (abi >= 3 ? 1ULL << 14 : 0);
    struct landlock_ruleset_attr attributes = {.handled_access_fs = rights};
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes.handled_access_fs, 0);
    struct { const char *path; uint64_t rights; } rules[] = {
        {"/", LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR}, {writable, rights},
        {"/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE}};
    for (int i = 0; ruleset >= 0 && i < 3; i++) {
        struct landlock_path_beneath_attr rule = {.allowed_access = rules[i].rights, .parent_fd = open(rules[i].path, O_PATH | O_CLOEXEC)};
        if (i == 2 && rule.parent_fd < 0) break;
        if (rule.parent_fd < 0 || syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0)) return -1;
        close(rule.parent_fd);
    }
    return ruleset < 0 || syscall(SYS_landlock_restrict_self, ruleset, 0) ? -1 : close(ruleset);
}

// Only calls that are safe after fork from here to exec.
static _Noreturn void become_daemon(const struct ck_daemon *daemon, pid_t parent) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    sigset_t empty;
    sigemptyset(&empty);
    for (int number = 1; number < 65; number++) signal(number, SIG_DFL);
    int input = open("/dev/null", O_RDONLY);
    int control = fcntl(daemon->control, F_DUPFD, 10);
    // stdout belongs to whoever waits for the READY line; the daemon's log goes to stderr.
    if (input < 0 || control < 0 || dup2(input, 0) < 0 || dup2(2, 1) < 0 || dup2(control, 3) < 0) _exit(126);
    if (syscall(SYS_close_range, 4U, ~0U, 0U)) _exit(126);
    for (int capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) && errno != EINVAL) _exit(126);
    if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, daemon->gid, daemon->gid, daemon->gid)
        || syscall(SYS_setresuid, daemon->uid, daemon->uid, daemon->uid) || syscall(SYS_capset, &header, none)
        || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != parent || confine(daemon->writable))
        _exit(126);
    setsid();
    if (chdir("/")) _exit(126);
    sigprocmask(SIG_SETMASK, &empty, NULL);
    char *arguments[] = {(char *)(uintptr_t)daemon->executable, NULL};
    execve(daemon->executable, arguments, daemon->environment);
    _exit(127);
}

int ck_start_daemon(const struct ck_daemon *daemon) {
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) become_daemon(daemon, parent);
    return child;
}

int ck_pidfd_kill(int pidfd, int signal) { return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0); }

int ck_exclusive_lock(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }

int ck_peer_uid(int fd, uint32_t *uid) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length)) return -1;
    *uid = credentials.uid;
    return 0;
}

int ck_is_delegated(const char *cgroup) {
    char value = 0;
    return (getxattr(cgroup, "trusted.delegate", &value, 1) == 1 || getxattr(cgroup, "user.delegate", &value, 1) == 1) && value == '1';
}

int ck_epoll_make(void) { return epoll_create1(EPOLL_CLOEXEC); }

int ck_epoll_add(int epoll, int fd, uint64_t token) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = token};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

void ck_epoll_remove(int epoll, int fd) { epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }

int ck_epoll_wait(int epoll, uint64_t *tokens, int capacity, int milliseconds) {
    struct epoll_event events[64];
    int count = epoll_wait(epoll, events, capacity < 64 ? capacity : 64, milliseconds);
    for (int i = 0; i < count; i++) tokens[i] = events[i].data.u64;
    return count;
}

int ck_signal_make(const int *signals, size_t count) {
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < count; i++) sigaddset(&set, signals[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL)) return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int ck_signal_next(int fd) {
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

int ck_slice(uint64_t nanoseconds) {
    // struct sched_attr, which not every libc has. Policy 0 is SCHED_OTHER; the nice value has to be said again.
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attributes
        = {.size = sizeof attributes, .nice = getpriority(PRIO_PROCESS, 0), .runtime = nanoseconds};
    return (int)syscall(SYS_sched_setattr, 0, &attributes, 0U);
}

int ck_event_make(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

// Marks that the linker sets around the program's code. end(3).
extern char __executable_start, etext;

void ck_forget_code(void) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)&__executable_start, last = (uintptr_t)&etext & ~(page - 1);
    madvise((void *)first, last - first, MADV_DONTNEED);
}

void ck_give_memory_back(void) { malloc_trim(0); }
