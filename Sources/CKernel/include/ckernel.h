// SPDX-License-Identifier: Apache-2.0
// What Swift's module of the C library hides: control messages, macros with side effects, a child between fork and exec.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// sendmsg(2) with descriptors (SCM_RIGHTS); bytes sent or -1 with errno.
ssize_t ck_send(int fd, const void *bytes, size_t length, const int *descriptors, size_t count);
// recvmsg(2). Descriptors arrive close-on-exec. A message or a list of descriptors that did not fit is an error (EMSGSIZE) and what came of it is closed.
ssize_t ck_receive(int fd, void *bytes, size_t limit, int *descriptors, size_t capacity, size_t *count);

struct ck_daemon {
    const char *executable;
    char *const *environment;
    uint32_t uid, gid;
    int control; // becomes fd 3
    const char *writable; // the only folder below which it may change anything, where the kernel has Landlock
};
// Starts the unprivileged daemon; its pid or -1 with errno. The child dies with the caller.
int ck_start_daemon(const struct ck_daemon *daemon);

int ck_pidfd_kill(int pidfd, int signal);
int ck_exclusive_lock(int fd); // flock(2), without waiting
int ck_peer_uid(int fd, uint32_t *uid); // SO_PEERCRED

int ck_epoll_make(void);
int ck_epoll_add(int epoll, int fd, uint64_t token); // input, level-triggered
void ck_epoll_remove(int epoll, int fd);
int ck_epoll_wait(int epoll, uint64_t *tokens, int capacity, int milliseconds);

int ck_signal_make(const int *signals, size_t count); // blocks them and returns a signalfd
int ck_signal_next(int fd);                           // 0: none is pending
int ck_event_make(void);

// How long the caller and its later children run at a time while others wait. Linux 6.12 (older ones ignore it). sched_setattr(2), sched_runtime.
int ck_slice(uint64_t nanoseconds);

// Unmaps the program's code, most of which only the start needed; what is needed again comes back from the page cache. madvise(2), MADV_DONTNEED.
void ck_forget_code(void);

// A store that no earlier store of this thread may follow.
static inline void ck_store_release(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline void *ck_map_failed(void) { return (void *)-1; } // MAP_FAILED
