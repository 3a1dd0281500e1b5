// SPDX-License-Identifier: Apache-2.0
// The worker protocol (../README.md) in one file, for programs in C: include it once, define a handler, call bulkhead_run.
//
//     static void handle(struct bh_context *c, const void *body, size_t length) { bh_reply(c, "text/plain", body, length); }
//     int main(void) { return bulkhead_run("native", handle, NULL); }
//
// Beside the answer: bh_chunk streams, bh_call, bh_call_async and bh_emit ask the supervisor, bh_cancelled says whether to stop; bulkhead_run_hooks has the hook
// before the end. One invocation at a time. Nothing here allocates after the first frame but for a body larger than any before it, and for what a handler asks.
#ifndef BULKHEAD_H
#define BULKHEAD_H
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BH_HELLO = 1, BH_INIT, BH_READY, BH_INIT_ERROR, BH_INVOKE, BH_RESULT, BH_CHUNK, BH_ERROR, BH_LOG, BH_CALL, BH_CALL_RESULT, BH_EMIT,
       BH_EMIT_RESULT, BH_RETRY_LATER, BH_CANCEL, BH_DRAIN, BH_FREEZE };
enum { BH_T_PROTOCOL = 1, BH_T_RUNTIME, BH_T_PID, BH_T_FUNCTION, BH_T_VERSION, BH_T_HANDLER, BH_T_ENVIRONMENT, BH_T_SECRET, BH_T_MEMORY,
       BH_T_BUCKET, BH_T_TIMEOUT, BH_T_INIT_TIME, BH_T_ERROR_TYPE, BH_T_ERROR_MESSAGE, BH_T_ERROR_STACK, BH_T_INVOCATION, BH_T_DEADLINE,
       BH_T_TRIGGER, BH_T_CONTENT_TYPE, BH_T_ATTEMPT, BH_T_LINEAGE, BH_T_TRACEPARENT, BH_T_BODY, BH_T_STATUS, BH_T_HEADER, BH_T_LEVEL,
       BH_T_MESSAGE, BH_T_TARGET, BH_T_MODE, BH_T_OUTCOME, BH_T_TOPIC, BH_T_EVENT, BH_T_AFTER, BH_T_GRACE, BH_T_REQUEST, BH_T_CONCURRENCY };
#define BH_BODY_LIMIT (8u << 20)
#define BH_FRAME_LIMIT (BH_BODY_LIMIT + (64u << 10))

struct bh_field { const uint8_t *value; uint32_t size; };

struct bh_context {
    int fd;
    uint16_t slot;
    int answered;
    char invocation[40];
    char function[160];
    uint64_t deadline_ms; // milliseconds since 1970
    const char *content_type; // NUL-terminated copy, valid in the handler
    char traceparent[64];     // the place in the caller's trace (W3C Trace Context); empty for none
    int streamed;             // chunks went before
    int cancelled;            // seen so far; ask bh_cancelled
    char outcome[32];         // of the last bh_call, bh_call_async or bh_emit that failed: a word of the outcome taxonomy
    char problem[200];        // and what was said of it
};
typedef void (*bh_handler)(struct bh_context *context, const void *body, size_t length);
// Called with the `init` frame's payload before `ready`; returns NULL or an error message.
typedef const char *(*bh_initializer)(const uint8_t *payload, uint32_t size);
// Called before the worker ends in order.
typedef void (*bh_hook)(void);

static inline int bh_write(int fd, const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t count = send(fd, at, size, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return -1;
        at += count;
        size -= (size_t)count;
    }
    return 0;
}
static inline int bh_read(int fd, void *bytes, size_t size) {
    uint8_t *at = bytes;
    while (size > 0) {
        ssize_t count = read(fd, at, size);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return -1;
        at += count;
        size -= (size_t)count;
    }
    return 0;
}
static inline void bh_put32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (8 * i));
}
static inline uint32_t bh_get32(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24; }
static inline uint64_t bh_get64(const uint8_t *at) { return bh_get32(at) | (uint64_t)bh_get32(at + 4) << 32; }

// Encodes a frame's head into `out` (at least 1 KiB): everything but the body, whose field head comes last. Returns its size.
static inline size_t bh_encode(uint8_t *out, int kind, uint16_t slot, int flags, const uint8_t *tags, const void *const *values,
                               const uint32_t *sizes, int count, uint32_t body_size, int has_body) {
    size_t at = 8;
    for (int i = 0; i < count; i++) {
        out[at] = tags[i];
        bh_put32(out + at + 1, sizes[i]);
        memcpy(out + at + 5, values[i], sizes[i]);
        at += 5 + sizes[i];
    }
    if (has_body) {
        out[at] = BH_T_BODY;
        bh_put32(out + at + 1, body_size);
        at += 5;
    }
    bh_put32(out, (uint32_t)(at - 4 + (has_body ? body_size : 0)));
    out[4] = (uint8_t)kind;
    out[5] = (uint8_t)flags;
    out[6] = (uint8_t)slot;
    out[7] = (uint8_t)(slot >> 8);
    return at;
}

// Whether the payload is whole fields to its end, and of a kind that a supervisor sends.
static inline int bh_is_legal(const uint8_t *payload, uint32_t size) {
    uint32_t at = 4;
    while (at < size) {
        if (size - at < 5 || bh_get32(payload + at + 1) > size - at - 5) return 0;
        at += 5 + bh_get32(payload + at + 1);
    }
    int kind = payload[0];
    return kind == BH_INIT || kind == BH_INVOKE || kind == BH_CALL_RESULT || kind == BH_EMIT_RESULT || (kind >= BH_CANCEL && kind <= BH_FREEZE);
}

// The next field of a payload after `*at` (start with 4); 0 at the end or where the frame is torn.
static inline int bh_next(const uint8_t *payload, uint32_t size, uint32_t *at, int *tag, struct bh_field *field) {
    if (*at + 5 > size) return 0;
    *tag = payload[*at];
    field->size = bh_get32(payload + *at + 1);
    if (field->size > size - *at - 5) return 0;
    field->value = payload + *at + 5;
    *at += 5 + field->size;
    return 1;
}
static inline struct bh_field bh_find(const uint8_t *payload, uint32_t size, int wanted) {
    struct bh_field field, none = {NULL, 0};
    uint32_t at = 4;
    int tag;
    while (bh_next(payload, size, &at, &tag, &field))
        if (tag == wanted) return field;
    return none;
}

static inline void bh_error(struct bh_context *c, const char *type, const char *message);
static size_t bh_length(const char *text, size_t limit) {
    size_t length = 0;
    while (text && length < limit && text[length]) length++;
    return length;
}

#define BH_CHUNK_SIZE (1u << 20)
// A part of the answer, sent at once; the content type is the first part's, of later parts it may be NULL. What bh_reply is given afterwards is the last part.
static inline void bh_chunk(struct bh_context *c, const char *content_type, const void *body, size_t length) {
    const uint8_t *at = body;
    const uint8_t tags[] = {BH_T_CONTENT_TYPE};
    const void *values[] = {content_type};
    const uint32_t sizes[] = {(uint32_t)bh_length(content_type, 200)};
    while (length > 0 && !c->answered) {
        uint8_t head[512];
        uint32_t part = length < BH_CHUNK_SIZE ? (uint32_t)length : BH_CHUNK_SIZE;
        size_t size = bh_encode(head, BH_CHUNK, c->slot, 0, tags, values, sizes, c->streamed++ || !content_type ? 0 : 1, part, 1);
        if (bh_write(c->fd, head, size) || bh_write(c->fd, at, part)) _exit(1);
        at += part;
        length -= part;
    }
}
static inline void bh_reply_status(struct bh_context *c, int status, const char *content_type, const void *body, size_t length) {
    if (length > BH_BODY_LIMIT) {
        char message[100];
        snprintf(message, sizeof message, "the answer has %zu bytes, at most %u are allowed", length, BH_BODY_LIMIT);
        return bh_error(c, "AnswerTooLarge", message);
    }
    if (c->streamed && !c->answered) {
        uint8_t end[8];
        bh_chunk(c, content_type, body, length);
        c->answered++;
        if (bh_write(c->fd, end, bh_encode(end, BH_RESULT, c->slot, 1, NULL, NULL, NULL, 0, 0, 0))) _exit(1);
        return;
    }
    if (!content_type) content_type = "application/octet-stream";
    uint8_t head[1024], code[2] = {(uint8_t)status, (uint8_t)(status >> 8)};
    const uint8_t tags[] = {BH_T_CONTENT_TYPE, BH_T_STATUS};
    const void *values[] = {content_type, code};
    const uint32_t sizes[] = {(uint32_t)(strlen(content_type) < 200 ? strlen(content_type) : 200), 2};
    size_t size = bh_encode(head, BH_RESULT, c->slot, 0, tags, values, sizes, status ? 2 : 1, (uint32_t)length, 1);
    if (c->answered++) return;
    if (bh_write(c->fd, head, size) || bh_write(c->fd, body, length)) _exit(1);
}
static inline void bh_reply(struct bh_context *c, const char *content_type, const void *body, size_t length) {
    bh_reply_status(c, 0, content_type, body, length);
}

static inline void bh_error(struct bh_context *c, const char *type, const char *message) {
    uint8_t head[1024];
    const uint8_t tags[] = {BH_T_ERROR_TYPE, BH_T_ERROR_MESSAGE};
    const void *values[] = {type, message};
    const uint32_t sizes[] = {(uint32_t)bh_length(type, 100), (uint32_t)bh_length(message, 700)};
    size_t size = bh_encode(head, BH_ERROR, c->slot, 0, tags, values, sizes, 2, 0, 0);
    if (c->answered++) return;
    if (bh_write(c->fd, head, size)) _exit(1);
}
static inline void bh_retry_later(struct bh_context *c, uint32_t seconds) {
    uint8_t head[64], after[4];
    bh_put32(after, seconds);
    const uint8_t tags[] = {BH_T_AFTER};
    const void *values[] = {after};
    const uint32_t sizes[] = {4};
    size_t size = bh_encode(head, BH_RETRY_LATER, c->slot, 0, tags, values, sizes, 1, 0, 0);
    if (c->answered++) return;
    if (bh_write(c->fd, head, size)) _exit(1);
}
static inline void bh_log(struct bh_context *c, int level, const char *message) {
    uint8_t head[1024], value = (uint8_t)level;
    const uint8_t tags[] = {BH_T_LEVEL, BH_T_MESSAGE};
    const void *values[] = {&value, message};
    const uint32_t sizes[] = {1, (uint32_t)bh_length(message, 900)};
    size_t size = bh_encode(head, BH_LOG, c->slot, 0, tags, values, sizes, 2, 0, 0);
    if (bh_write(c->fd, head, size)) _exit(1);
}

static uint8_t *bh_payload;
static uint32_t bh_capacity;
// Frames that came while a handler waited for another one, in their order.
struct bh_stashed { struct bh_stashed *next; uint32_t size; uint8_t payload[]; };
static struct bh_stashed *bh_first, **bh_last = &bh_first;

// Reads one length word; 0 at the end or after a breach. Waits by poll and not by read, which the kernel wakes for room to write as well: each time that the
// supervisor takes an answer from the socket.
static inline uint32_t bh_receive_size(int fd) {
    uint8_t length[4];
    struct pollfd readable = {fd, POLLIN, 0};
    while (poll(&readable, 1, -1) < 0 && errno == EINTR) {}
    if (bh_read(fd, length, 4)) return 0;
    uint32_t size = bh_get32(length);
    return size < 4 || size > BH_FRAME_LIMIT ? 0 : size;
}
// The next frame, in bh_payload; its size, or 0 at the end or after a breach.
static inline uint32_t bh_receive(int fd) {
    struct bh_stashed *stashed = bh_first;
    uint32_t size = stashed ? stashed->size : bh_receive_size(fd);
    if (size > bh_capacity) {
        uint8_t *larger = realloc(bh_payload, size);
        if (!larger) return 0;
        bh_payload = larger;
        bh_capacity = size;
    }
    if (!stashed) return size && !bh_read(fd, bh_payload, size) ? size : 0;
    memcpy(bh_payload, stashed->payload, size);
    if (!(bh_first = stashed->next)) bh_last = &bh_first;
    free(stashed);
    return size;
}

static inline void bh_copy(char *to, size_t capacity, struct bh_field field) {
    size_t size = field.size < capacity ? field.size : capacity - 1;
    if (field.value) memcpy(to, field.value, size);
    to[field.value ? size : 0] = 0;
}

// --- what a handler asks. Its event stays where it is meanwhile.

// Takes in one frame while a handler runs. A cancel is noted, the answer to `request` is handed out (the caller frees it), what was asked for by one that gave up is
// forgotten, and the rest waits its turn. Ends the process where there is nobody left to work for, or nobody to be understood.
static inline struct bh_stashed *bh_take_in(struct bh_context *c, uint32_t request) {
    uint8_t first;
    if (recv(c->fd, &first, 1, MSG_PEEK) == 0) _exit(0);
    uint32_t size = bh_receive_size(c->fd);
    struct bh_stashed *frame = size ? malloc(sizeof *frame + size) : NULL;
    if (!frame || bh_read(c->fd, frame->payload, size) || !bh_is_legal(frame->payload, size)) _exit(1);
    frame->size = size;
    frame->next = NULL;
    int kind = frame->payload[0];
    if (kind == BH_CALL_RESULT || kind == BH_EMIT_RESULT) {
        struct bh_field number = bh_find(frame->payload, size, BH_T_REQUEST);
        if (request && number.size == 4 && bh_get32(number.value) == request) return frame;
        free(frame);
    } else if (kind == BH_CANCEL) {
        if ((frame->payload[2] | frame->payload[3] << 8) == c->slot) c->cancelled = 1;
        free(frame);
    } else {
        *bh_last = frame;
        bh_last = &frame->next;
    }
    return NULL;
}
// Whether the supervisor wants this invocation to stop. Then return soon, without an answer or with one: half a second after its deadline the worker is killed.
static inline int bh_cancelled(struct bh_context *c) {
    struct pollfd watched = {c->fd, POLLIN, 0};
    while (!c->cancelled && poll(&watched, 1, 0) == 1) bh_take_in(c, 0);
    return c->cancelled;
}
static inline struct bh_stashed *bh_ask(struct bh_context *c, int kind, int mode, const char *target, const char *content_type, const void *body, size_t length) {
    static uint32_t requests;
    uint8_t head[1024], number[4], word = (uint8_t)mode;
    struct bh_stashed *frame = NULL;
    size_t size = strlen(target);
    snprintf(c->outcome, sizeof c->outcome, "functionError");
    snprintf(c->problem, sizeof c->problem, "a name has at most 255 bytes and a body at most %u", BH_BODY_LIMIT);
    if (size > 255 || length > BH_BODY_LIMIT) return NULL;
    snprintf(c->outcome, sizeof c->outcome, "cancelled");
    snprintf(c->problem, sizeof c->problem, "the invocation was cancelled");
    if (c->cancelled) return NULL;
    if (++requests == 0) requests = 1;
    bh_put32(number, requests);
    const uint8_t tags[] = {BH_T_REQUEST, kind == BH_CALL ? BH_T_TARGET : BH_T_TOPIC, BH_T_CONTENT_TYPE, BH_T_MODE};
    const void *values[] = {number, target, content_type, &word};
    const uint32_t sizes[] = {4, (uint32_t)size, (uint32_t)bh_length(content_type, 200), 1};
    size = bh_encode(head, kind, c->slot, 0, tags, values, sizes, kind == BH_CALL ? 4 : 3, (uint32_t)length, 1);
    if (bh_write(c->fd, head, size) || bh_write(c->fd, body, length)) _exit(1);
    while (!c->cancelled && !(frame = bh_take_in(c, requests))) {}
    if (!frame) return NULL;
    bh_copy(c->outcome, sizeof c->outcome, bh_find(frame->payload, frame->size, BH_T_OUTCOME));
    bh_copy(c->problem, sizeof c->problem, bh_find(frame->payload, frame->size, BH_T_ERROR_MESSAGE));
    if (strcmp(c->outcome, "ok") == 0) return frame;
    free(frame);
    return NULL;
}
static inline int bh_event_of(struct bh_stashed *frame, char event[64]) {
    if (!frame) return -1;
    bh_copy(event, 64, bh_find(frame->payload, frame->size, BH_T_EVENT));
    free(frame);
    return 0;
}
// Invokes another function of the tenant and waits. 0, and `*answer` is valid until the next call; or -1, and c->outcome and c->problem say why.
static inline int bh_call(struct bh_context *c, const char *target, const char *content_type, const void *body, size_t length, struct bh_field *answer) {
    static struct bh_stashed *last;
    // The body may be the last answer.
    struct bh_stashed *next = bh_ask(c, BH_CALL, 0, target, content_type, body, length);
    free(last);
    last = next;
    if (last) *answer = bh_find(last->payload, last->size, BH_T_BODY);
    return last ? 0 : -1;
}
// Leaves the call to the supervisor, which keeps it until it is done. 0 and the event's id, or -1.
static inline int bh_call_async(struct bh_context *c, const char *target, const char *content_type, const void *body, size_t length, char event[64]) {
    return bh_event_of(bh_ask(c, BH_CALL, 1, target, content_type, body, length), event);
}
// Publishes an event. 0 and its id, or -1.
static inline int bh_emit(struct bh_context *c, const char *topic, const char *content_type, const void *body, size_t length, char event[64]) {
    return bh_event_of(bh_ask(c, BH_EMIT, 0, topic, content_type, body, length), event);
}

// Serves until the supervisor closes or drains. Returns the exit status.
static inline int bulkhead_run_hooks(const char *runtime, bh_handler handler, bh_initializer initializer, bh_hook pre_stop) {
    uint8_t head[512], version[2] = {1, 0}, pid[4];
    struct bh_context context = {.fd = 3};
    char content_type[200];
    bh_put32(pid, (uint32_t)getpid());
    const uint8_t tags[] = {BH_T_PROTOCOL, BH_T_RUNTIME, BH_T_PID};
    const void *values[] = {version, runtime, pid};
    const uint32_t sizes[] = {2, (uint32_t)bh_length(runtime, 64), 4};
    if (bh_write(3, head, bh_encode(head, BH_HELLO, 0, 0, tags, values, sizes, 3, 0, 0))) return 1;
    for (uint32_t size; (size = bh_receive(3)) > 0;) {
        if (!bh_is_legal(bh_payload, size)) return 1;
        context.slot = (uint16_t)(bh_payload[2] | bh_payload[3] << 8);
        context.answered = context.streamed = context.cancelled = 0;
        switch (bh_payload[0]) {
        case BH_INIT: {
            struct bh_field field;
            uint32_t at = 4;
            for (int tag; bh_next(bh_payload, size, &at, &tag, &field);)
                if (tag == BH_T_ENVIRONMENT || tag == BH_T_SECRET) {
                    char *pair = malloc(field.size + 1);
                    if (!pair) return 1;
                    bh_copy(pair, field.size + 1, field);
                    putenv(pair);
                }
            bh_copy(context.function, sizeof context.function, bh_find(bh_payload, size, BH_T_FUNCTION));
            const char *problem = initializer ? initializer(bh_payload, size) : NULL;
            uint8_t took[8] = {0};
            const uint8_t ready_tags[] = {BH_T_INIT_TIME}, failed_tags[] = {BH_T_ERROR_TYPE, BH_T_ERROR_MESSAGE};
            const void *ready_values[] = {took}, *failed_values[] = {"InitError", problem};
            const uint32_t ready_sizes[] = {8}, failed_sizes[] = {9, problem ? (uint32_t)bh_length(problem, 300) : 0};
            size_t length = problem ? bh_encode(head, BH_INIT_ERROR, 0, 0, failed_tags, failed_values, failed_sizes, 2, 0, 0)
                                    : bh_encode(head, BH_READY, 0, 0, ready_tags, ready_values, ready_sizes, 1, 0, 0);
            if (bh_write(3, head, length)) return 1;
            break;
        }
        case BH_INVOKE: {
            struct bh_field body = bh_find(bh_payload, size, BH_T_BODY), deadline = bh_find(bh_payload, size, BH_T_DEADLINE);
            bh_copy(context.invocation, sizeof context.invocation, bh_find(bh_payload, size, BH_T_INVOCATION));
            bh_copy(content_type, sizeof content_type, bh_find(bh_payload, size, BH_T_CONTENT_TYPE));
            context.content_type = content_type;
            bh_copy(context.traceparent, sizeof context.traceparent, bh_find(bh_payload, size, BH_T_TRACEPARENT));
            context.deadline_ms = deadline.size == 8 ? bh_get64(deadline.value) : 0;
            handler(&context, body.value, body.size);
            if (context.answered) break;
            if (context.cancelled) bh_error(&context, "Cancelled", "the invocation was cancelled");
            else if (context.streamed) bh_reply(&context, "", "", 0);
            else bh_error(&context, "NoAnswer", "the handler returned without an answer");
            break;
        }
        case BH_DRAIN:
            if (pre_stop) pre_stop();
            return 0;
        default: break; // a cancel that came too late, or the answer to a call that gave up
        }
    }
    return 0;
}
static inline int bulkhead_run(const char *runtime, bh_handler handler, bh_initializer initializer) {
    return bulkhead_run_hooks(runtime, handler, initializer, NULL);
}
#endif
