// SPDX-License-Identifier: Apache-2.0
// Stands in the daemon's place and measures the spawner from outside: fd 3 is the spawner's SOCK_SEQPACKET socket.
// What to measure comes in BENCH_MODE; one line of JSON goes to the file BENCH_OUT. Wire layout: Sources/Wire/Spawner*.swift.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *code_hash = "0000000000000000000000000000000000000000000000000000000000000001";
static uint64_t next_worker = 1;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
static void fail(const char *what) {
    fprintf(stderr, "bench driver: %s\n", what);
    exit(3);
}

struct message { uint8_t bytes[4096]; size_t length; };
static void put(struct message *m, const void *p, size_t n) { memcpy(m->bytes + m->length, p, n); m->length += n; }
#define PUT(type, value) do { type v_ = (value); put(m, &v_, sizeof v_); } while (0)
static void put_text(struct message *m, const char *text) { PUT(uint32_t, strlen(text)); put(m, text, strlen(text)); }
static void put_limits(struct message *m) {
    PUT(uint64_t, 64ull << 20); PUT(uint32_t, 1000); PUT(uint32_t, 600); PUT(uint64_t, 16ull << 20); PUT(uint32_t, 256);
}
static void send_message(struct message *m) {
    if (send(3, m->bytes, m->length, MSG_NOSIGNAL) != (ssize_t)m->length) fail("the spawner does not take a request");
}
static void set_group(uint32_t group) {
    struct message message = {.length = 0}, *m = &message;
    PUT(uint8_t, 3); PUT(uint32_t, group); PUT(uint64_t, 4ull << 30); PUT(uint32_t, 2000); PUT(uint32_t, 20000);
    send_message(m);
}
static void put_command(struct message *m, const char *program, const char *argument) {
    PUT(uint16_t, argument ? 2 : 1);
    put_text(m, program);
    if (argument) put_text(m, argument);
}
// How many buckets each worker gets: `b0`, `b1`, ... of the tenant `bench`, writable.
static int buckets;
static void put_buckets(struct message *m, int count) {
    PUT(uint8_t, (uint8_t)count);
    if (count > 0) put_text(m, "bench");
    for (int i = 0; i < count; i++) {
        char name[3] = {'b', (char)('0' + i), 0};
        put_text(m, name); PUT(uint8_t, 1); put_text(m, "");
    }
    PUT(uint8_t, 0); // layers
}
static uint64_t spawn_worker(int prepared, const char *program, const char *argument) {
    struct message message = {.length = 0}, *m = &message;
    uint64_t worker = next_worker++;
    PUT(uint8_t, 5); PUT(uint64_t, worker); PUT(uint32_t, 1); put_text(m, "native");
    PUT(uint8_t, prepared ? 1 : 3); put_limits(m); PUT(uint8_t, 0);
    if (prepared) { put_text(m, ""); PUT(uint16_t, 0); } else { put_text(m, code_hash); put_command(m, program, argument); }
    put_buckets(m, prepared ? 0 : buckets);
    send_message(m);
    return worker;
}
static void assign_worker(uint64_t worker, const char *program) {
    struct message message = {.length = 0}, *m = &message;
    PUT(uint8_t, 6); PUT(uint64_t, worker); put_text(m, "native"); put_limits(m); put_text(m, code_hash); put_command(m, program, NULL);
    put_buckets(m, buckets);
    send_message(m);
}
static void kill_worker(uint64_t worker) {
    struct message message = {.length = 0}, *m = &message;
    PUT(uint8_t, 7); PUT(uint64_t, worker);
    send_message(m);
}

struct event { uint8_t kind, cause; uint32_t detail; uint64_t worker; int fds[4]; int count; char text[512]; };
// One event, or 0 when none comes in `timeout` milliseconds.
static int next_event(struct event *e, int timeout) {
    static uint8_t bytes[65536];
    struct pollfd p = {.fd = 3, .events = POLLIN};
    if (poll(&p, 1, timeout) <= 0) return 0;
    union { struct cmsghdr align; char space[CMSG_SPACE(8 * sizeof(int))]; } control;
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(3, &header, MSG_CMSG_CLOEXEC);
    if (n <= 0) fail("the spawner is gone");
    memset(e, 0, sizeof *e);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            e->count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(e->fds, CMSG_DATA(c), (size_t)e->count * sizeof(int) > sizeof e->fds ? sizeof e->fds : (size_t)e->count * sizeof(int));
        }
    e->kind = bytes[0];
    if (n >= 9) memcpy(&e->worker, bytes + 1, 8);
    if (e->kind == 5 && n >= 14) {
        e->cause = bytes[9];
        memcpy(&e->detail, bytes + 10, 4);
        if (e->cause == 5 && n > 18) snprintf(e->text, sizeof e->text, "%.*s, errno %u", bytes[14], bytes + 18, bytes[18 + bytes[14]]);
    }
    if (e->kind == 4 && n > 13) snprintf(e->text, sizeof e->text, "%.*s", (int)(n - 13 > 500 ? 500 : n - 13), bytes + 13);
    return 1;
}
static void close_event(struct event *e) { for (int i = 0; i < e->count && i < 4; i++) close(e->fds[i]); }
static void wait_for(struct event *e, uint8_t kind, uint64_t worker) {
    for (;;) {
        if (!next_event(e, 20000)) fail("no answer within 20 s");
        if (e->kind == 4) { fprintf(stderr, "bench driver: worker failed: %s\n", e->text); exit(3); }
        if (e->kind == kind && e->worker == worker) return;
        close_event(e);
    }
}
static void wait_byte(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;
    if (poll(&p, 1, 20000) > 0 && read(fd, &byte, 1) == 1) return;
    struct event e;
    while (fd != 1 && next_event(&e, 1000))
        if (e.kind == 5) fprintf(stderr, "bench driver: worker %llu ended: cause %u, %u %s\n", (unsigned long long)e.worker, e.cause, e.detail, e.text);
    fail("the worker wrote nothing");
}

static int compare(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return x < y ? -1 : x > y; }
static void report(FILE *out, const char *name, double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    fprintf(out, "{\"name\":\"%s\",\"n\":%d,\"min\":%.1f,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}\n", name, n, v[0], v[n / 2], v[(int)(n * 0.99)], v[n - 1]);
    fflush(out);
}
static void gap(int milliseconds) { struct timespec t = {milliseconds / 1000, (milliseconds % 1000) * 1000000L}; if (milliseconds) nanosleep(&t, NULL); }

static void end_worker(uint64_t worker, struct event *spawned) {
    struct event e;
    close_event(spawned);
    kill_worker(worker);
    wait_for(&e, 5, worker);
}

// The worker's program: `./bare`, or `./first`, which has a libc.
static const char *program = "./bare";
// Spawn request -> first byte on fd 3, nothing of the worker prepared.
static void cold(FILE *out, const char *name, int count, int pause) {
    double v[count];
    for (int i = 0; i < count; i++) {
        gap(pause);
        double start = now_us();
        struct event e;
        uint64_t worker = spawn_worker(0, program, NULL);
        wait_for(&e, 2, worker);
        wait_byte(e.fds[0]);
        v[i] = now_us() - start;
        end_worker(worker, &e);
    }
    report(out, name, v, count);
}
// Assign request -> first byte, from a sandbox that was sealed before.
static void sealed(FILE *out, const char *name, int count, int pause) {
    double v[count];
    for (int i = 0; i < count; i++) {
        struct event e, assigned;
        uint64_t worker = spawn_worker(1, NULL, NULL);
        wait_for(&e, 2, worker);
        gap(pause > 20 ? pause : 20);
        double start = now_us();
        assign_worker(worker, program);
        wait_byte(e.fds[0]);
        v[i] = now_us() - start;
        (void)assigned;
        end_worker(worker, &e);
    }
    report(out, name, v, count);
}
// As many full lives (start, first byte, end, cgroup removed) as fit, a window of them at a time.
static void sustained(FILE *out, const char *name, double seconds, int window) {
    double begin = now_us(), end = begin + seconds * 1e6;
    int started = 0, ended = 0, backlog = 0;
    while (now_us() < end) {
        while (started - ended < window) { spawn_worker(0, program, "e"); started++; }
        struct event e;
        if (!next_event(&e, 20000)) fail("no event within 20 s");
        if (e.kind == 4) { fprintf(stderr, "bench driver: worker failed: %s\n", e.text); exit(3); }
        if (e.kind == 5) ended++;
        close_event(&e);
    }
    double elapsed = (now_us() - begin) / 1e6;
    int within = ended;
    double drain = now_us();
    for (backlog = started - ended; ended < started;) {
        struct event e;
        if (!next_event(&e, 20000)) fail("the backlog does not drain");
        if (e.kind == 5) ended++;
        close_event(&e);
    }
    fprintf(out, "{\"name\":\"%s\",\"per_second\":%.1f,\"seconds\":%.1f,\"backlog\":%d,\"drain_ms\":%.1f}\n", name, within / elapsed, elapsed, backlog, (now_us() - drain) / 1e3);
    fflush(out);
}
// The spawner keeps things ready once it has started some: what it has then is what it must have at the end. Waits for whoever looks, for a file beside the results.
static void cycles(FILE *out, int count, const char *results) {
    double begin = now_us();
    for (int i = -100; i < count; i++) {
        if (i == 0) {
            fputs("{\"name\":\"warm\"}\n", out);
            fflush(out);
            char looked[4096];
            snprintf(looked, sizeof looked, "%s.looked", results);
            while (access(looked, F_OK)) gap(10);
            begin = now_us();
        }
        struct event e;
        uint64_t worker = spawn_worker(0, program, NULL);
        wait_for(&e, 2, worker);
        wait_byte(e.fds[0]);
        end_worker(worker, &e);
    }
    fprintf(out, "{\"name\":\"cycles\",\"n\":%d,\"seconds\":%.1f}\n", count, (now_us() - begin) / 1e6);
    fflush(out);
}
// 500 processes that ignore signals: kill request -> `exited` (the cgroup is empty and the uid reusable).
static void bomb(FILE *out, int count) {
    double v[count];
    for (int i = 0; i < count; i++) {
        struct event e, gone;
        uint64_t worker = spawn_worker(0, "./bomb", NULL);
        wait_for(&e, 2, worker);
        wait_byte(e.fds[0]);
        double start = now_us();
        kill_worker(worker);
        wait_for(&gone, 5, worker);
        v[i] = now_us() - start;
        close_event(&e);
    }
    report(out, "kill_fork_bomb_500", v, count);
}
// Another program that starts the same binary: fork -> first byte on its stdout.
static void peer(FILE *out, const char *name, char *command, int count, int pause) {
    double v[count];
    for (int i = 0; i < count; i++) {
        gap(pause);
        int p[2];
        if (pipe(p)) fail("pipe");
        double start = now_us();
        pid_t pid = fork();
        if (pid == 0) {
            dup2(p[1], 1);
            close(p[0]);
            char *words[64];
            int n = 0;
            for (char *word = strtok(command, " "); word && n < 63; word = strtok(NULL, " ")) words[n++] = word;
            words[n] = NULL;
            execvp(words[0], words);
            _exit(127);
        }
        close(p[1]);
        wait_byte(p[0]);
        v[i] = now_us() - start;
        close(p[0]);
        waitpid(pid, NULL, 0);
    }
    report(out, name, v, count);
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "peer") == 0) {
        char *command = strdup(argv[3]);
        char label[128];
        snprintf(label, sizeof label, "%s", argv[2]);
        peer(stdout, label, command, 200, 0);
        snprintf(label, sizeof label, "%s_idle", argv[2]);
        peer(stdout, label, command, atoi(argv[4]), 1000);
        return 0;
    }
    const char *mode = getenv("BENCH_MODE"), *path = getenv("BENCH_OUT");
    FILE *out = path ? fopen(path, "w") : NULL;
    if (!mode || !out) fail("BENCH_MODE and BENCH_OUT are not set");
    struct event e;
    if (!next_event(&e, 20000) || e.kind != 1) fail("no welcome");
    close_event(&e);
    struct message message = {.length = 0}, *m = &message;
    PUT(uint8_t, 1); PUT(uint16_t, PROTOCOL);
    send_message(m);
    set_group(1);
    if (strcmp(mode, "starts") == 0) {
        cold(out, "warmup", 20, 0);
        cold(out, "cold", 400, 0);
        cold(out, "cold_idle", 30, 1000);
        sealed(out, "sealed", 100, 20);
        sealed(out, "sealed_idle", 30, 1000);
        sustained(out, "sustained", 20, 8);
        cold(out, "cold_after_sustained", 50, 0);
        program = "./first";
        cold(out, "cold_libc", 200, 0);
        cold(out, "cold_libc_idle", 20, 1000);
        sealed(out, "sealed_libc_idle", 20, 1000);
        bomb(out, 30);
    } else if (strcmp(mode, "quick") == 0) {
        // A look at the path while working on it.
        cold(out, "warmup", 20, 0);
        cold(out, "cold", 400, 0);
        cold(out, "cold_idle", 10, 1000);
        sealed(out, "sealed", 100, 20);
        sealed(out, "sealed_idle", 10, 1000);
    } else if (strcmp(mode, "buckets") == 0) {
        // In turn, so that a disturbance of the machine meets all.
        cold(out, "warmup", 20, 0);
        for (int turn = 0; turn < 3; turn++)
            for (int n = 0; n <= 4; n += n ? 3 : 1) {
                char name[24];
                buckets = n;
                snprintf(name, sizeof name, "cold_%d_%d", n, turn);
                cold(out, name, 150, 0);
                snprintf(name, sizeof name, "sealed_%d_%d", n, turn);
                sealed(out, name, 40, 20);
            }
    } else if (strcmp(mode, "cycles") == 0) {
        cycles(out, getenv("BENCH_COUNT") ? atoi(getenv("BENCH_COUNT")) : 10000, getenv("BENCH_OUT"));
    } else {
        fail("unknown BENCH_MODE");
    }
    fputs("{\"name\":\"done\"}\n", out);
    fclose(out);
    for (;;) pause();
}
