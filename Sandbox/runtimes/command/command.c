// SPDX-License-Identifier: Apache-2.0
// The command runtime: one process an invocation, event on stdin, answer on stdout, stderr is the log. Exit 0 is an answer, 111 asks for a
// retry in a second, anything else is a function error. Built static: `cc -O2 -static -o bulkhead-command command.c`.
#define _GNU_SOURCE
#include "../native/bulkhead.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define ANSWER_LIMIT (8u << 20)
#define WORDS 64
#define RETRY_STATUS 111

static char *words[WORDS + 1];
static uint8_t *answer;

static const char *remember_command(const uint8_t *payload, uint32_t size) {
    struct bh_field field;
    uint32_t at = 4;
    int count = 0;
    for (int tag; bh_next(payload, size, &at, &tag, &field);)
        if (tag == BH_T_HANDLER && count < WORDS) {
            if (!(words[count] = malloc(field.size + 1))) return "out of memory";
            bh_copy(words[count++], field.size + 1, field);
        }
    if (count == 0) return "the manifest names no command (handler)";
    static char message[400], path[256];
    // `run.sh` means the file in the function's folder, never something on PATH.
    if (!strchr(words[0], '/')) {
        snprintf(path, sizeof path, "./%s", words[0]);
        words[0] = path;
    }
    if (access(words[0], X_OK)) {
        snprintf(message, sizeof message, "the code has no executable file %s: %s", words[0], strerror(errno));
        return message;
    }
    return NULL;
}

static _Noreturn void become(struct bh_context *context, int input, int output) {
    char text[32];
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(input, 0) < 0 || dup2(output, 1) < 0 || close_range(3, ~0U, 0)) _exit(126);
    setenv("BULKHEAD_INVOCATION_ID", context->invocation, 1);
    setenv("BULKHEAD_FUNCTION", context->function, 1);
    setenv("BULKHEAD_CONTENT_TYPE", context->content_type, 1);
    if (context->traceparent[0]) setenv("TRACEPARENT", context->traceparent, 1);
    snprintf(text, sizeof text, "%llu", (unsigned long long)context->deadline_ms);
    setenv("BULKHEAD_DEADLINE_MS", text, 1);
    execv(words[0], words);
    dprintf(2, "cannot execute %s: %s\n", words[0], strerror(errno));
    _exit(127);
}

// Nothing of one invocation may live on into the next. Orphans are our children (subreaper), so waiting finds them all.
static void end_all(pid_t leader) {
    kill(-leader, SIGKILL);
    for (int quiet = 0; quiet < 2;) {
        char path[64], list[4096];
        snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t count = file >= 0 ? read(file, list, sizeof list - 1) : 0;
        if (file >= 0) close(file);
        list[count > 0 ? count : 0] = 0;
        int found = 0;
        for (char *at = list; *at;) {
            pid_t pid = (pid_t)strtol(at, &at, 10);
            if (pid > 1) {
                kill(pid, SIGKILL);
                found = 1;
            }
            while (*at == ' ') at++;
        }
        while (waitpid(-1, NULL, found ? 0 : WNOHANG) > 0) {}
        if (!found) quiet++;
    }
}

// Feeds the event and gathers the answer at once. -1: too long; -2: cancelled or the supervisor is gone.
static long exchange(int *input, int output, const uint8_t *body, size_t length) {
    size_t gathered = 0;
    int control = 3;
    for (int is_open = 1; is_open;) {
        struct pollfd watched[3] = {{output, POLLIN, 0}, {*input, POLLOUT, 0}, {control, POLLIN, 0}};
        if (poll(watched, 3, -1) < 0 && errno != EINTR) return -2;
        if (watched[2].revents) {
            uint8_t head[8];
            if (recv(3, head, sizeof head, MSG_PEEK | MSG_DONTWAIT) != (ssize_t)sizeof head) return -2;
            if (head[4] == BH_CANCEL) return -2;
            control = -1; // it waits its turn; to look again would find it again, at once and for ever
        }
        if (watched[1].revents) {
            ssize_t count = write(*input, body, length);
            if (count > 0) {
                body += count;
                length -= (size_t)count;
            } else if (errno != EAGAIN && errno != EINTR) {
                length = 0; // it does not want the rest
            }
            if (length == 0) {
                close(*input);
                *input = -1;
            }
        }
        if (watched[0].revents) {
            ssize_t count = read(output, answer + gathered, ANSWER_LIMIT + 1 - gathered);
            if (count > 0) gathered += (size_t)count;
            else if (count == 0 || errno != EINTR) is_open = 0;
            if (gathered > ANSWER_LIMIT) return -1;
        }
    }
    return (long)gathered;
}

static void handle(struct bh_context *context, const void *body, size_t length) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) return bh_error(context, "Pipe", strerror(errno));
    pid_t child = fork();
    if (child == 0) become(context, in[0], out[1]);
    if (child > 0) setpgid(child, child); // both do it: the group must be there before anybody kills it
    close(in[0]);
    close(out[1]);
    if (child < 0) {
        close(in[1]);
        close(out[0]);
        return bh_error(context, "Fork", "the process limit leaves no room for the command");
    }
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    if (length == 0) {
        close(in[1]);
        in[1] = -1;
    }
    long gathered = exchange(&in[1], out[0], body, length);
    if (in[1] >= 0) close(in[1]);
    close(out[0]);
    int status = 0;
    if (gathered < 0) kill(-child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    end_all(child);
    char message[200];
    if (gathered == -1) return bh_error(context, "AnswerTooLarge", "the command wrote more than 8 MiB to stdout");
    if (gathered == -2) return bh_error(context, "Cancelled", "the invocation was cancelled");
    if (WIFEXITED(status) && WEXITSTATUS(status) == RETRY_STATUS) return bh_retry_later(context, 1);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        int is_json = gathered > 0 && (answer[0] == '{' || answer[0] == '[');
        int is_text = memchr(answer, 0, (size_t)gathered) == NULL;
        return bh_reply(context, is_json ? "application/json" : is_text ? "text/plain; charset=utf-8" : "application/octet-stream", answer, (size_t)gathered);
    }
    if (WIFSIGNALED(status)) {
        snprintf(message, sizeof message, "the command was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
        return bh_error(context, "Signal", message);
    }
    snprintf(message, sizeof message, "the command exited with code %d", WEXITSTATUS(status));
    bh_error(context, "ExitCode", message);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) || !(answer = malloc(ANSWER_LIMIT + 1))) return 1;
    return bulkhead_run("command", handle, remember_command);
}
