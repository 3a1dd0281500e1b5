// SPDX-License-Identifier: Apache-2.0
// Shared by the files between clone and exec. Only raw system calls here: the process is a copy of a running program, so its
// locks may be held by nobody, and no libc function that takes one may be called.
#pragma once
#include "sandbox.h"
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RAW(name, ...) syscall(SYS_##name, ##__VA_ARGS__)

struct sbx_channel { int reaper, payload; };

// Ends the process after telling the parent which stage failed.
_Noreturn void sbx_fail(int report_fd, uint32_t stage, int error);
// Fails the stage when `condition` holds (errno is the reason), or when the plan says so for a test.
#define STAGE(plan, fd, stage, condition)                                                    \
    do {                                                                                     \
        if ((plan)->fail_stage == (stage)) sbx_fail((fd), (stage), EREMOTEIO);               \
        if (condition) sbx_fail((fd), (stage), errno);                                       \
    } while (0)

// Goes on as another user, with the same capabilities at every moment: a spawner that is killed takes its workers along, and for that it needs CAP_KILL. The real and
// the saved id stay, so nobody of that id can signal or trace us meanwhile. capabilities(7).
int sbx_act_as(uint32_t id);
_Noreturn void sbx_child(const struct sbx_plan *plan);
_Noreturn void sbx_payload(const struct sbx_plan *plan, struct sbx_channel channel);
_Noreturn void sbx_reap(const struct sbx_plan *plan, struct sbx_channel channel, int payload);
int sbx_buckets_mount(const struct sbx_plan *plan);                     // in the worker's finished root
int sbx_buckets_add(const struct sbx_bucket *buckets, size_t count);    // the same from outside, into the folder that the worker already has
int sbx_mount_each(const struct sbx_bucket *list, size_t count);
// Below /layers, in the worker's finished root or from outside; -1 as folder: there are none.
int sbx_layers_mount(int folder_fd, const struct sbx_bucket *list, size_t count);
void sbx_restrict_paths(const struct sbx_plan *plan, int report_fd);
