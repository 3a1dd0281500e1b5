// SPDX-License-Identifier: Apache-2.0
// The smallest worker: one byte on fd 3, then it waits until the supervisor closes. With an argument it ends at once.
#include <unistd.h>
int main(int argc, char **argv) {
    (void)argv;
    char byte = 'F';
    int out = argc > 1 && argv[1][0] == 'p' ? 1 : 3;
    if (write(out, &byte, 1) != 1) return 1;
    if (argc > 1) return 0;
    while (read(3, &byte, 1) > 0) {}
    return 0;
}
