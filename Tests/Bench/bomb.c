// SPDX-License-Identifier: Apache-2.0
// 500 processes that ignore every signal they may, then one byte on fd 3.
#include <signal.h>
#include <unistd.h>
int main(void) {
    for (int s = 1; s < 65; s++) signal(s, SIG_IGN);
    int ready[2];
    if (pipe(ready)) return 1;
    for (int i = 0; i < 499; i++)
        if (fork() == 0) {
            char byte = 'r';
            if (write(ready[1], &byte, 1) != 1) _exit(1);
            for (;;) pause();
        }
    char byte;
    for (int i = 0; i < 499; i++)
        if (read(ready[0], &byte, 1) != 1) return 1;
    if (write(3, &byte, 1) != 1) return 1;
    for (;;) pause();
}
