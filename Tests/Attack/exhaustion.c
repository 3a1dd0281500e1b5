// SPDX-License-Identifier: Apache-2.0
// Everything that the kernel counts: a worker must meet its own bound, which is the case's argument, and what it holds must not be missing to another tenant's.
#define _GNU_SOURCE
#include "attack.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 65533 // of the host, where the exhaustion is shown outside
// Where a host allows so many that a worker's memory would end first, its case stops here.
#define ENOUGH_WATCHES 250000
#define ENOUGH_MAPS 70000

// --- bounds of one worker, counted once

static const char *bounded(long count, const char *what) { return count > number(0) ? found("%ld %s, %ld are promised", count, what, number(0)) : NULL; }

static void raise_limit(int resource, rlim_t value) {
    struct rlimit limit = {value, value};
    if (is_outside()) setrlimit(resource, &limit); // inside it is refused, and a case of its own
}
static const char *many_files(void) {
    long count = 3;
    raise_limit(RLIMIT_NOFILE, 4096);
    while (count < 70000 && open("/dev/null", O_RDONLY) >= 0) count++;
    return bounded(count, "files");
}
static const char *many_processes(void) {
    long count = 1;
    for (; count < 3000; count++) {
        pid_t child = fork();
        if (child == 0) for (;;) pause();
        if (child < 0) break;
    }
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (waitpid(-1, NULL, 0) > 0) {}
    return bounded(count, "processes");
}
static const char *many_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    union sigval value = {0};
    long count = 0;
    raise_limit(RLIMIT_SIGPENDING, 4096);
    while (count < 100000 && sigqueue(getpid(), SIGRTMIN, value) == 0) count++;
    return bounded(count, "pending signals");
}
static const char *many_inodes(void) {
    const char *base = is_outside() ? "/dev/shm/attack-inodes" : "/tmp/attack-inodes";
    mkdir(base, 0700);
    char path[128];
    long count = 0;
    for (; count < 20000; count++) {
        snprintf(path, sizeof path, "%s/%ld", base, count);
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        if (file < 0) break;
        close(file);
    }
    for (long at = count; at-- > 0;) {
        snprintf(path, sizeof path, "%s/%ld", base, at);
        unlink(path);
    }
    rmdir(base);
    return bounded(count, "files in /tmp");
}
static long filled(const char *path, long most) {
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    unlink(path);
    signal(SIGXFSZ, SIG_IGN);
    static char block[1 << 20];
    long count = 0;
    ssize_t size = 0;
    while (count < most && (size = write(file, block, sizeof block)) == (ssize_t)sizeof block) count++;
    if (size > 0 && size < (ssize_t)sizeof block) write(file, block, sizeof block); // a part of it fitted: now the reason
    return count;
}
static const char *fill_temporary(void) { return bounded(filled(is_outside() ? "/dev/shm/attack-fill" : "/tmp/attack-fill", 80), "MiB in /tmp"); }

// --- what is taken and kept, and what a modest neighbour needs of the same

static long hold_instances(void) {
    long count = 0;
    while (inotify_init1(IN_CLOEXEC) >= 0) count++;
    return count;
}
static const char *take_instances(void) {
    for (int i = 0; i < 8; i++)
        if (inotify_init1(IN_CLOEXEC) < 0) return "an inotify instance";
    return NULL;
}

static long hold_watches(void) {
    char path[64];
    const char *base = is_outside() ? "/dev/shm/attack-watches" : "/tmp/attack-watches";
    mkdir(base, 0700);
    long count = 0, files = 0;
    for (; files < 15000; files++) {
        snprintf(path, sizeof path, "%s/%ld", base, files);
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        if (file < 0) break;
        close(file);
    }
    int error = 0;
    for (int instance; !error && (instance = inotify_init1(IN_CLOEXEC)) >= 0;)
        for (long i = 0; i < files; i++, count++) {
            snprintf(path, sizeof path, "%s/%ld", base, i);
            if (count >= ENOUGH_WATCHES || inotify_add_watch(instance, path, IN_MODIFY) < 0) {
                error = count >= ENOUGH_WATCHES ? E2BIG : errno;
                break;
            }
        }
    if (error) errno = error;
    return count;
}
static const char *take_watches(void) {
    char path[64];
    int instance = inotify_init1(IN_CLOEXEC);
    if (instance < 0) return "an inotify instance";
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "/tmp/attack-taken-%d", i);
        close(open(path, O_CREAT | O_WRONLY, 0600));
        int failed = inotify_add_watch(instance, path, IN_MODIFY) < 0;
        unlink(path);
        if (failed) return "an inotify watch";
    }
    return NULL;
}

static int make_timer(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
    timer_t timer;
    return timer_create(CLOCK_MONOTONIC, &event, &timer);
}
static long hold_timers(void) {
    long count = 0;
    while (count < 100000 && make_timer() == 0) count++;
    return count;
}
static const char *take_timers(void) {
    for (int i = 0; i < 64; i++)
        if (make_timer()) return "a POSIX timer";
    return NULL;
}

// Pages that pipes may hold are counted by user; above the soft limit a pipe cannot grow, and a new one is a single page. pipe(7).
static long hold_pipes(void) {
    long count = 0;
    for (int ends[2]; pipe2(ends, O_CLOEXEC) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) >= 0;) count++;
    return count;
}
static const char *take_pipes(void) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) || fcntl(ends[1], F_GETPIPE_SZ) < 65536) return "a pipe of the usual size";
    return fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) < 0 ? "a larger pipe" : NULL;
}

static long hold_events(void) {
    long count = 0;
    while (eventfd(0, EFD_CLOEXEC) >= 0) count++;
    return count;
}
static const char *take_events(void) {
    for (int i = 0; i < 64; i++)
        if (eventfd(0, EFD_CLOEXEC) < 0) return "an eventfd";
    return NULL;
}

// Half of the descriptors are watched by each of the other half.
static long hold_polls(void) {
    int watched[512], poll;
    long count = 0, made = 0;
    while (made < 512 && (watched[made] = eventfd(0, EFD_CLOEXEC)) >= 0) made++;
    while ((poll = epoll_create1(EPOLL_CLOEXEC)) >= 0)
        for (long i = 0; i < made; i++) {
            struct epoll_event event = {.events = EPOLLIN};
            if (epoll_ctl(poll, EPOLL_CTL_ADD, watched[i], &event)) return count;
            count++;
        }
    return count;
}
static const char *take_polls(void) {
    struct epoll_event event = {.events = EPOLLIN};
    int poll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < 64; i++)
        if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, eventfd(0, EFD_CLOEXEC), &event)) return "an epoll watch";
    return NULL;
}

static long hold_maps(void) {
    long count = 0;
    // Neighbours of unlike protection are not merged.
    while (count < ENOUGH_MAPS && mmap(NULL, 4096, count % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) count++;
    if (count >= ENOUGH_MAPS) errno = E2BIG;
    return count;
}
static const char *take_maps(void) {
    for (int i = 0; i < 1000; i++)
        if (mmap(NULL, 4096, i % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) return "a memory map";
    return NULL;
}

static void *sleep_on(void *unused) {
    for (;;) pause();
    return unused;
}
static int start_thread(void) {
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    errno = pthread_create(&thread, &small, sleep_on, NULL);
    return errno;
}
static long hold_threads(void) {
    long count = 0;
    while (count < 3000 && start_thread() == 0) count++;
    return count;
}
static const char *take_threads(void) {
    for (int i = 0; i < 16; i++)
        if (start_thread()) return "a thread";
    return NULL;
}

// Descriptors that have been sent and not yet received are counted by user. unix(7).
static int send_descriptors(int socket, int descriptor, int count) {
    union { struct cmsghdr align; char space[CMSG_SPACE(250 * sizeof(int))]; } control = {0};
    char byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    for (int i = 0; i < count; i++) memcpy(CMSG_DATA(header) + (size_t)i * sizeof(int), &descriptor, sizeof descriptor);
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -1;
}
static long hold_sent(void) {
    long count = 0;
    for (int ends[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0;) {
        int sent = 0;
        while (send_descriptors(ends[0], ends[0], 250) == 0) {
            count += 250;
            sent = 1;
        }
        if (errno != EAGAIN || !sent) break;
    }
    return count;
}
static const char *take_sent(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return "a socket pair";
    return send_descriptors(ends[0], ends[0], 16) ? "to send a descriptor" : NULL;
}

static long hold_shared(void) { return filled("/dev/shm/attack-shared", 32); }
static const char *take_shared(void) { return filled("/dev/shm/attack-taken", 1) == 1 ? NULL : "a MiB of /dev/shm"; }

static const struct { const char *name; long (*hold)(void); const char *(*take)(void); } resources[] = {
    {"inotify_instances", hold_instances, take_instances}, {"inotify_watches", hold_watches, take_watches}, {"timers", hold_timers, take_timers},
    {"pipe_pages", hold_pipes, take_pipes}, {"eventfds", hold_events, take_events}, {"epoll_watches", hold_polls, take_polls},
    {"memory_maps", hold_maps, take_maps}, {"threads", hold_threads, take_threads}, {"sent_descriptors", hold_sent, take_sent},
    {"shared_memory", hold_shared, take_shared},
};
enum { RESOURCES = sizeof resources / sizeof *resources };

static int index_of(const char *name) {
    for (int i = 0; i < RESOURCES; i++)
        if (strcmp(resources[i].name, name) == 0) return i;
    return -1;
}

static pid_t holder;
// In a child that keeps everything until it is released.
const char *hold_resource(const char *name, char *said, size_t capacity) {
    int index = index_of(name);
    if (index < 0) return "there is no such resource";
    volatile char *ready = said + capacity - 1;
    *ready = 0;
    holder = fork();
    if (holder == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        long count = resources[index].hold();
        snprintf(said, capacity - 1, "held %ld until %s", count, strerrorname_np(errno) ? strerrorname_np(errno) : "0");
        *ready = 1;
        for (;;) pause();
    }
    if (holder < 0) return strerror(errno);
    while (!*ready) {
        if (waitpid(holder, NULL, WNOHANG) == holder) return "the process that was to hold it ended";
        usleep(1000);
    }
    return NULL;
}
void release_resource(void) {
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
}
// In a child, too: what it has had is gone with it.
const char *take_resource(const char *name) {
    int index = index_of(name), status;
    if (index < 0) return "there is no such resource";
    pid_t child = fork();
    if (child == 0) _exit(resources[index].take() != NULL);
    if (child < 0 || waitpid(child, &status, 0) != child) return strerror(errno);
    return status ? "what the neighbour needs cannot be had" : NULL;
}

// Outside, both sides are one user, as they would be in workers that shared one.
static const char *exhaust(const char *name) {
    char *said = mmap(NULL, 1024, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    raise_limit(RLIMIT_NOFILE, 2048);
    raise_limit(RLIMIT_SIGPENDING, 4096);
    if (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)) return NULL;
    raise_limit(RLIMIT_NPROC, 300);
    if (hold_resource(name, said, 1024)) return NULL;
    const char *missing = take_resource(name);
    long held = strtol(said + 5, NULL, 10);
    release_resource();
    if (held > number(0)) return found("%s, %ld are promised", said, number(0));
    return missing ? found("%s: %s", said, missing) : NULL;
}
#define EXHAUST(name) static const char *exhaust_##name(void) { return exhaust(#name); }
EXHAUST(inotify_instances) EXHAUST(inotify_watches) EXHAUST(timers) EXHAUST(pipe_pages) EXHAUST(eventfds) EXHAUST(epoll_watches)
EXHAUST(memory_maps) EXHAUST(threads) EXHAUST(sent_descriptors) EXHAUST(shared_memory)

const struct attack_case exhaustion_cases[] = {
    CASE(many_files), CASE(many_processes), CASE(many_signals), CASE(many_inodes), CASE(fill_temporary), CASE(exhaust_inotify_instances),
    CASE(exhaust_inotify_watches), CASE(exhaust_timers), CASE(exhaust_pipe_pages), CASE(exhaust_eventfds), CASE(exhaust_epoll_watches),
    CASE(exhaust_memory_maps), CASE(exhaust_threads), CASE(exhaust_sent_descriptors), CASE(exhaust_shared_memory), {NULL, NULL},
};
