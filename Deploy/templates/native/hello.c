// Build before each deploy (static, because the host's libraries are not yours to count on):
//     cc -O2 -static -o hello hello.c -I DIR
// DIR holds bulkhead.h: Sandbox/runtimes/native in the source tree, /runtime/native inside a worker.
#include "bulkhead.h"

// `body` is what was posted; a handler answers once, with bh_reply or bh_error.
static void handle(struct bh_context *context, const void *body, size_t length) {
    bh_log(context, 1, "called");
    bh_reply(context, "application/octet-stream", body, length);
}

int main(void) { return bulkhead_run("native", handle, NULL); }
