// SPDX-License-Identifier: Apache-2.0
// What the files of hostile cases share. A case returns what was possible, or NULL where nothing was.
#ifndef ATTACK_H
#define ATTACK_H
#include <stddef.h>

struct attack_case {
    const char *name;
    const char *(*run)(void);
};
#define CASE(name) {#name, name}
#define ARGUMENTS 6

extern const struct attack_case neighbour_cases[], exhaustion_cases[]; // each ends with {NULL, NULL}
extern const char *arguments[ARGUMENTS];                              // the words after the case's name; "" where there is none
extern int first_own_descriptor;                                      // the lowest that may not be open: what is below came with the worker

const char *found(const char *format, ...);
long number(int index);   // an argument as a number
int is_outside(void);     // run by the suite itself, as root on the host

// Exhaustion that lasts, in a worker that holds fd 3: `hold NAME` takes all that it can get and keeps it, `take NAME` asks for what a modest function needs.
const char *hold_resource(const char *name, char *said, size_t capacity); // NULL and `said`, or what went wrong
const char *take_resource(const char *name);                            // NULL, or what could not be had
void release_resource(void);
#endif
