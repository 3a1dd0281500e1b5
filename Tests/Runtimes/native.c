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
    if (is(body, length, "fail")) return bh_error(c, "ValueError", "a bad thing");
    if (is(body, length, "later")) return bh_retry_later(c, 7);
    if (is(body, length, "status")) return bh_reply_status(c, 418, "text/plain", "teapot", 6);
    if (is(body, length, "log")) {
        bh_log(c, 2, "a line");
        return bh_reply(c, "text/plain", "logged", 6);
    }
    if (is(body, length, "size")) {
        size_t wanted = strtoul(word, NULL, 10);
        char *answer = calloc(1, wanted);
        bh_reply(c, "application/octet-stream", answer, wanted);
        free(answer);
    }
}

int main(void) { return bulkhead_run("native", handle, NULL); }
