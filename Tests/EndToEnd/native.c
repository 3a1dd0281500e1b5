// SPDX-License-Identifier: Apache-2.0
// A function of the native runtime that answers what it is sent, and says so.
#include "bulkhead.h"

static void handle(struct bh_context *context, const void *body, size_t size) {
    bh_log(context, 1, "native log");
    bh_reply(context, "text/plain", body, size);
}

int main(void) {
    return bulkhead_run("native", handle, NULL);
}
