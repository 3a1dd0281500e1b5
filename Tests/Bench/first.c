// SPDX-License-Identifier: Apache-2.0
// The smallest worker: one byte on fd 3, then it waits until the supervisor closes. With an argument it ends at once; with `p` the byte goes to fd 1.
// With BARE there is no libc in it: what glibc does before main (the CPUID instructions alone, each of which leaves a virtual machine) is no part of a start.
#ifdef BARE
static long call(long number, long first, long second, long third) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third) : "rcx", "r11", "memory");
    return result;
}
#define read(file, bytes, size) call(0, file, (long)(bytes), size)
#define write(file, bytes, size) call(1, file, (long)(bytes), size)
#else
#include <unistd.h>
#endif
int main(int argc, char **argv) {
    char byte = 'F';
    int out = argc > 1 && argv[1][0] == 'p' ? 1 : 3;
    if (write(out, &byte, 1) != 1) return 1;
    if (argc > 1) return 0;
    while (read(3, &byte, 1) > 0) {}
    return 0;
}
#ifdef BARE
// The stack at the start holds the count of the arguments, and then them.
__attribute__((used)) static void begin(long *stack) { call(231, main((int)stack[0], (char **)(stack + 1)), 0, 0); }
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall begin\n");
#endif
