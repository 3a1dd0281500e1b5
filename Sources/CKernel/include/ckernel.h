// SPDX-License-Identifier: Apache-2.0
// What Swift's module of the C library hides: control messages, macros with side effects, a child between fork and exec.
#pragma once
#include "cfiles.h"
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
// Whether the service manager gave the cgroup directory away (`Delegate=`): the extended attribute that it marks it with.
int ck_is_delegated(const char *cgroup);

// A program in the place of another, in one process (replace.c).
int ck_sealed_file(const void *bytes, size_t length); // a memfd that nobody can change any more; -1 with errno
// Runs the open program with `--probe-state 3`, where 3 is `state`; what it says goes to `output`. Its pid or -1 with errno. The child dies with the caller.
int ck_start_probe(int program, int state, int output, const char *name);
int ck_keep_open(int fd, int is_kept); // over execve
// Executes the open program with the present environment; returns only where that fails.
int ck_execute(int program, char *const *arguments);
// Closes every descriptor from 3 on but these, which rise.
int ck_close_others(const int *kept, size_t count);
void ck_name_self(const char *name); // its first 15 bytes

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

// File events (fanotify(7)). A group for events with directory handle, name and pidfd; non-blocking, close-on-exec; -1 with errno. For root.
int ck_file_events_make(void);
// Watches (or no longer) the entries of a directory that the caller may read.
int ck_file_events_mark(int group, int directory, int is_on);

static const uint64_t CK_FILE_CLOSE_WRITE = 1, CK_FILE_CREATED = 2, CK_FILE_REMOVED = 4, CK_FILE_MOVED_FROM = 8, CK_FILE_MOVED_TO = 16, CK_FILE_RENAMED = 32,
                      CK_FILE_DIRECTORY = 64, CK_FILE_OVERFLOW = 128;

// A directory, as the kernel names it, and an entry of it.
struct ck_place {
    uint8_t identity[144], name[256];
    uint32_t identity_length, name_length;
};
struct ck_file_event {
    uint64_t kinds;
    int32_t pid;
    int32_t pidfd; // the receiver's; negative where the process had ended
    int has_previous;
    struct ck_place place, previous;
};
// Takes the event at `offset` of what was read from a group and moves the offset on; 1, or 0 at the end.
int ck_file_event_next(const void *bytes, ssize_t length, size_t *offset, struct ck_file_event *event);
// The identity of an open directory, in the words of the events; -1 with errno where the file system has none.
int ck_place_of(int directory, struct ck_place *place);
// Whether the process of a pidfd has not been waited for yet, by signal 0.
int ck_pidfd_is_alive(int pidfd);
// malloc_trim(3), whose header Swift does not see.
void ck_give_memory_back(void);
