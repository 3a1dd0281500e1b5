// SPDX-License-Identifier: Apache-2.0
// Writes the specification's golden vector as the C header encodes it.
#include "../../Sandbox/runtimes/native/bulkhead.h"

int main(void) {
    uint8_t out[1024], after[4];
    bh_put32(after, 5);
    const uint8_t tags[] = {BH_T_ERROR_TYPE, BH_T_AFTER};
    const void *values[] = {"E", after};
    const uint32_t sizes[] = {1, 4};
    size_t size = bh_encode(out, BH_ERROR, 0x0102, 1, tags, values, sizes, 2, 0, 0);
    return fwrite(out, 1, size, stdout) == size ? 0 : 1;
}
