// SPDX-License-Identifier: Apache-2.0
// What run.py asks of a native function.
#include "../../Sandbox/runtimes/native/bulkhead.h"

static int is(const char *body, size_t length, const char *order) {
    size_t size = strlen(order);
    return length >= size && memcmp(body, order, size) == 0 && (length == size || body[size] == ' ');
}

static void handle(struct bh_context *c, const void *bytes, size_t length) {
    const char *body = bytes, *space = memchr(body, ' ', length);
    const char *rest = space ? space + 1 : body + length;
    size_t size = length - (size_t)(rest - body);
    char word[64] = {0};
    memcpy(word, rest, size < 63 ? size : 63);
    if (is(body, length, "echo")) return bh_reply(c, c->content_type, rest, size);
    if (is(body, length, "env")) return bh_reply(c, "text/plain", getenv(word), strlen(getenv(word)));
    if (is(body, length, "trace")) return bh_reply(c, "text/plain", c->traceparent, strlen(c->traceparent));
    if (is(body, length, "fail")) return bh_error(c, "ValueError", "a bad thing");
    if (is(body, length, "later")) return bh_retry_later(c, 7);
    if (is(body, length, "status")) return bh_reply_status(c, 418, "text/plain", "teapot", 6);
    if (is(body, length, "log")) {
        bh_log(c, 2, "a line");
        return bh_reply(c, "text/plain", "logged", 6);
    }
    struct bh_field answer;
    char event[64], part[64];
    if (is(body, length, "call")) {
        if (bh_call(c, word, "text/plain", "1", 1, &answer) == 0) return bh_reply(c, "text/plain", answer.value, answer.size);
        return c->cancelled ? (void)0 : bh_error(c, c->outcome, c->problem);
    }
    if (is(body, length, "chain")) {
        if (bh_call(c, word, "text/plain", "1", 1, &answer) == 0 && bh_call(c, word, "text/plain", answer.value, answer.size, &answer) == 0)
            bh_reply(c, "text/plain", answer.value, answer.size);
        return;
    }
    if (is(body, length, "async") || is(body, length, "emit")) {
        int (*ask)(struct bh_context *, const char *, const char *, const void *, size_t, char *) = is(body, length, "async") ? bh_call_async : bh_emit;
        if (ask(c, word, "text/plain", "1", 1, event) == 0) return bh_reply(c, "text/plain", event, strlen(event));
        return c->cancelled ? (void)0 : bh_error(c, c->outcome, c->problem);
    }
    if (is(body, length, "stream")) {
        for (unsigned long number = 0; number < strtoul(word, NULL, 10) && !bh_cancelled(c); number++)
            bh_chunk(c, "text/plain; charset=utf-8", part, (size_t)snprintf(part, sizeof part, "part %lu\n", number));
        return;
    }
    if (is(body, length, "spin")) {
        bh_log(c, 1, "spinning");
        while (!bh_cancelled(c)) usleep(1000);
        return;
    }
    if (is(body, length, "size")) {
        size_t wanted = strtoul(word, NULL, 10);
        char *answer = calloc(1, wanted);
        bh_reply(c, "application/octet-stream", answer, wanted);
        free(answer);
    }
}

static const char *initialize(const uint8_t *payload, uint32_t size) {
    (void)payload, (void)size;
    return getenv("REFUSE") ? "refused" : NULL;
}
static void stop(void) { puts("stopping"); }

int main(void) { return bulkhead_run_hooks("native", handle, initialize, stop); }
