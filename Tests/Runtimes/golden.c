// SPDX-License-Identifier: Apache-2.0
// The C header's codec for run.py. A line `e KIND FLAGS SLOT TAG:HEX ...` is answered with the frame in hexadecimal digits, a line `d HEX` with the other form, or
// with `refused`.
#include "../../Sandbox/runtimes/native/bulkhead.h"

static uint8_t bytes[8192], frame[8192];

static uint32_t from_hex(const char *text, uint8_t *out) {
    uint32_t size = 0;
    for (unsigned value; sscanf(text, "%2x", &value) == 1; text += 2) out[size++] = (uint8_t)value;
    return size;
}

static void print_hex(const uint8_t *from, size_t size) {
    for (size_t i = 0; i < size; i++) printf("%02x", from[i]);
}

static void encode(void) {
    int kind = atoi(strtok(NULL, " ")), flags = atoi(strtok(NULL, " ")), slot = atoi(strtok(NULL, " ")), count = 0, has_body = 0;
    uint8_t tags[32], *at = bytes;
    const void *values[32];
    uint32_t sizes[32];
    for (char *word; (word = strtok(NULL, " ")); count++) {
        tags[count] = (uint8_t)strtoul(word, &word, 10);
        values[count] = at;
        at += sizes[count] = from_hex(word + 1, at);
        has_body = tags[count] == BH_T_BODY;
    }
    // The body is written apart, after a head that ends with its size.
    if (has_body) count--;
    size_t size = bh_encode(frame, kind, (uint16_t)slot, flags, tags, values, sizes, count, has_body ? sizes[count] : 0, has_body);
    print_hex(frame, size);
    if (has_body) print_hex(values[count], sizes[count]);
}

static void decode(const char *text) {
    uint32_t size = from_hex(text, frame), at = 4;
    const uint8_t *payload = frame + 4;
    if (size < 8 || bh_get32(frame) != size - 4) {
        printf("refused");
        return;
    }
    struct bh_field field;
    printf("%u %u %u", payload[0], payload[1], payload[2] | payload[3] << 8);
    for (int tag; bh_next(payload, size - 4, &at, &tag, &field);) {
        printf(" %d:", tag);
        print_hex(field.value, field.size);
    }
    if (at != size - 4) printf(" refused");
}

int main(void) {
    static char line[32768];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (strcmp(strtok(line, " "), "e") == 0) encode();
        else decode(strtok(NULL, " "));
        printf("\n");
    }
    return 0;
}
