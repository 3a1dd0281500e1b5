// SPDX-License-Identifier: Apache-2.0
// execve(2) into a newer program of the same process: what is left to it, and how it is tried before.
#define _GNU_SOURCE
#include "ckernel.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOT_EXECUTABLE 0x0008U // MFD_NOEXEC_SEAL, Linux 6.3

int ck_sealed_file(const void *bytes, size_t length) {
    int file = (int)syscall(SYS_memfd_create, "spawner-state", MFD_CLOEXEC | MFD_ALLOW_SEALING | NOT_EXECUTABLE);
    if (file < 0 && errno == EINVAL) file = (int)syscall(SYS_memfd_create, "spawner-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0) return -1;
    size_t done = 0;
    while (done < length) {
        ssize_t count = write(file, (const char *)bytes + done, length - done);
        if (count <= 0 && errno != EINTR) break;
        if (count > 0) done += (size_t)count;
    }
    if (done == length && lseek(file, 0, SEEK_SET) == 0
        && fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return file;
    int error = errno;
    close(file);
    errno = error;
    return -1;
}

static _Noreturn void become_probe(int program, int state, int output, const char *name, pid_t parent) {
    sigset_t empty;
    sigemptyset(&empty);
    int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    // Out of each other's way first.
    program = fcntl(program, F_DUPFD_CLOEXEC, 16);
    state = fcntl(state, F_DUPFD_CLOEXEC, 16);
    output = fcntl(output, F_DUPFD_CLOEXEC, 16);
    if (input < 0 || program < 0 || state < 0 || output < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0 || dup2(state, 3) < 0
        || dup3(program, 4, O_CLOEXEC) < 0 || syscall(SYS_close_range, 5U, ~0U, 0U))
        _exit(126);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != parent) _exit(126);
    sigprocmask(SIG_SETMASK, &empty, NULL);
    char *arguments[] = {(char *)(uintptr_t)name, (char *)(uintptr_t) "--probe-state", (char *)(uintptr_t) "3", NULL};
    ck_execute(4, arguments);
    _exit(127);
}

int ck_start_probe(int program, int state, int output, const char *name) {
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) become_probe(program, state, output, name, parent);
    return child;
}

int ck_keep_open(int fd, int is_kept) { return fcntl(fd, F_SETFD, is_kept ? 0 : FD_CLOEXEC); }

int ck_execute(int program, char *const *arguments) { return (int)syscall(SYS_execveat, program, "", arguments, environ, AT_EMPTY_PATH); }

int ck_close_others(const int *kept, size_t count) {
    unsigned next = 3;
    for (size_t i = 0; i < count; i++) {
        unsigned number = (unsigned)kept[i];
        if (number > next && syscall(SYS_close_range, next, number - 1, 0U)) return -1;
        next = number + 1;
    }
    return (int)syscall(SYS_close_range, next, ~0U, 0U);
}

void ck_name_self(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
