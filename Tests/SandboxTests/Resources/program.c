// SPDX-License-Identifier: Apache-2.0
// Does what its argument says, inside a worker: `exit N`, `signal N`, `call NUMBER [A B C]` (prints the error number), `i386`, `view`.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAITING = -1, THROUGH = 0 };

// The error number that the call is answered with. In a child, which the call may end, stall or spoil: then it was let through. What it makes a copy of says so, too.
static int answer_of(const unsigned long *v) {
    static volatile int *answer;
    if (!answer) answer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *answer = WAITING;
    pid_t child = fork();
    if (child == 0) {
        errno = 0;
        long result = syscall((long)v[0], v[1], v[2], v[3], 0, 0, 0);
        *answer = result < 0 ? errno : THROUGH;
        _exit(0);
    }
    for (int i = 0; i < 300 && *answer == WAITING && waitpid(child, NULL, WNOHANG) == 0; i++) usleep(1000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return *answer == WAITING ? THROUGH : *answer;
}

int main(int argc, char **argv) {
    if (argc < 2) return 99;
    setvbuf(stdout, NULL, _IONBF, 0);
    if (strcmp(argv[1], "exit") == 0) return atoi(argv[2]);
    if (strcmp(argv[1], "signal") == 0) return raise(atoi(argv[2]));
    if (strcmp(argv[1], "i386") == 0) {
        int result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
        return 0;
    }
    if (strcmp(argv[1], "view") == 0) {
        printf("uid %d pid %d cwd %s", getuid(), getpid(), getcwd(NULL, 0));
        return 0;
    }
    // Many calls in one run: each word is number:a:b:c, answered by number=errno.
    for (int i = 2; i < argc; i++) {
        unsigned long v[4] = {0};
        char *at = argv[i];
        for (int n = 0; n < 4 && *at; n++) {
            v[n] = strtoul(at, &at, 0);
            if (*at == ':') at++;
        }
        printf("%s=%d ", argv[i], answer_of(v));
    }
    return 0;
}
