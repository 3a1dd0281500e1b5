// SPDX-License-Identifier: Apache-2.0
// Another tenant's live worker as the target. Arguments: the host's numbers of its reaper and of its main process, its uid, and the folder that the node keeps
// it and its code in. The neighbour has written and bound what `NEIGHBOUR` in run.py says.
#define _GNU_SOURCE
#include "attack.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { REAPER, MAIN, UID, FOLDER, KEY };

// The neighbour's two processes; 0 where the number stands for one of our own in here.
static pid_t target(int index) {
    pid_t pid = (pid_t)number(index);
    return is_outside() || (pid > 3 && pid != getpid() && pid != getppid()) ? pid : 0;
}
// EPERM says that the process was found: even to learn that it is there is too much.
static int reached(long result) { return result >= 0 || errno == EPERM; }
#define EACH(pid) for (int index_ = REAPER; index_ <= MAIN; index_++) for (pid_t pid = target(index_); pid; pid = 0)

static const char *neighbour_signal(void) {
    EACH(pid) {
        if (reached(kill(pid, 0))) return found("kill reaches process %d", pid);
        if (reached(syscall(SYS_tkill, pid, 0))) return found("tkill reaches process %d", pid);
        if (reached(syscall(SYS_tgkill, pid, pid, 0))) return found("tgkill reaches process %d", pid);
        if (reached(kill(-pid, 0))) return found("kill reaches group %d", pid);
    }
    return NULL;
}
static const char *neighbour_pidfd(void) {
    EACH(pid) if (reached(syscall(SYS_pidfd_open, pid, 0))) return found("a pidfd of process %d can be had", pid);
    return NULL;
}
static const char *neighbour_trace(void) {
    EACH(pid) {
        if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) return found("process %d can be traced", pid);
        if (errno == ESRCH) return found("ptrace looks for process %d", pid);
    }
    return NULL;
}
static const char *neighbour_memory(void) {
    char byte = 0;
    struct iovec local = {&byte, 1}, remote = {NULL, 1};
    EACH(pid) {
        // Address 0 is nobody's: EFAULT means that the kernel has looked there.
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) >= 0 || errno == EFAULT || errno == ESRCH) return found("the memory of process %d can be read", pid);
        if (process_vm_writev(pid, &local, 1, &remote, 1, 0) >= 0 || errno == EFAULT || errno == ESRCH) return found("the memory of process %d can be written", pid);
        if (syscall(SYS_kcmp, pid, pid, 0, 0, 0) >= 0) return found("process %d can be compared", pid);
    }
    return NULL;
}
static const char *neighbour_proc(void) {
    const char *names[] = {"", "/status", "/stat", "/cmdline", "/environ", "/maps", "/mem", "/fd", "/root", "/cwd", "/ns/user", "/task"};
    char path[64];
    EACH(pid)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            snprintf(path, sizeof path, "/proc/%d%s", pid, names[i]);
            if (access(path, F_OK) == 0) return found("%s is visible", path);
        }
    return NULL;
}
static const char *neighbour_root(void) {
    char path[96];
    EACH(pid) {
        snprintf(path, sizeof path, "/proc/%d/root/tmp/attack-neighbour", pid);
        if (open(path, O_RDONLY) >= 0) return found("%s can be read", path);
    }
    return NULL;
}
static const char *neighbour_files(void) {
    const char *paths[] = {"/tmp/attack-neighbour", "/dev/shm/attack-neighbour"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (access(paths[i], F_OK) == 0) return found("%s of the neighbour is there", paths[i]);
    return NULL;
}
static const char *neighbour_folder(void) { return access(arguments[FOLDER], F_OK) == 0 ? found("%s is visible", arguments[FOLDER]) : NULL; }
static const char *neighbour_owner(void) {
    uid_t uid = (uid_t)number(UID);
    const char *path = is_outside() ? "/dev/shm/attack-owner" : "/tmp/attack-owner";
    int file = open(path, O_CREAT | O_RDWR, 0600);
    int given = file >= 0 && fchown(file, uid, (gid_t)-1) == 0;
    unlink(path);
    if (given) return found("a file can be given to uid %u", uid);
    return setresuid(uid, uid, uid) == 0 ? found("uid %u can be taken", uid) : NULL;
}
static const char *connects(const char *name, size_t length) {
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, length);
    int result = connect(file, (struct sockaddr *)&address, (socklen_t)(sizeof(sa_family_t) + length));
    close(file);
    return result == 0 ? found("the neighbour's socket %s answers", name[0] ? name : name + 1) : NULL;
}
static const char *neighbour_socket(void) { return connects("/tmp/attack-neighbour.socket", 29); }
static const char *neighbour_abstract(void) { return connects("\0attack-neighbour", 17); }
static const char *neighbour_scheduling(void) {
    struct rlimit limit;
    cpu_set_t set;
    EACH(pid) {
        errno = 0;
        if (getpriority(PRIO_PROCESS, (id_t)pid) != -1 || errno == 0) return found("the priority of process %d can be read", pid);
        if (reached(setpriority(PRIO_PROCESS, (id_t)pid, 19))) return found("the priority of process %d can be set", pid);
        if (sched_getaffinity(pid, sizeof set, &set) == 0) return found("the processors of process %d can be read", pid);
        if (sched_getscheduler(pid) >= 0) return found("the scheduling of process %d can be read", pid);
        if (syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, NULL, &limit) == 0) return found("the limits of process %d can be read", pid);
        if (getpgid(pid) >= 0 || getsid(pid) >= 0) return found("the group of process %d can be read", pid);
        if (syscall(SYS_ioprio_get, 1, pid) >= 0) return found("the I/O priority of process %d can be read", pid);
    }
    errno = 0;
    return getpriority(PRIO_USER, (id_t)number(UID)) != -1 || errno == 0 ? found("processes of uid %ld can be found", number(UID)) : NULL;
}
// The suite itself holds one of each under this key: no worker can make one, and none may find one.
static const char *neighbour_sysv(void) {
    key_t key = (key_t)number(KEY);
    if (shmget(key, 0, 0) >= 0) return found("System V memory of others can be opened");
    if (msgget(key, 0) >= 0) return found("a System V queue of others can be opened");
    return semget(key, 0, 0) >= 0 ? found("a System V semaphore of others can be opened") : NULL;
}
static const char *neighbour_queue(void) { return syscall(SYS_mq_open, "attack-neighbour", O_RDONLY, 0, NULL) >= 0 ? found("a message queue of others can be opened") : NULL; }

const struct attack_case neighbour_cases[] = {
    CASE(neighbour_signal), CASE(neighbour_pidfd), CASE(neighbour_trace), CASE(neighbour_memory), CASE(neighbour_proc), CASE(neighbour_root),
    CASE(neighbour_files), CASE(neighbour_folder), CASE(neighbour_owner), CASE(neighbour_socket), CASE(neighbour_abstract),
    CASE(neighbour_scheduling), CASE(neighbour_sysv), CASE(neighbour_queue), {NULL, NULL},
};
