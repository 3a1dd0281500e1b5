// SPDX-License-Identifier: Apache-2.0
// Filters are compiled once, by libseccomp, in the parent; a child only loads bytes.
#define _GNU_SOURCE
#include "sandbox.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void *sbx_filter_begin(int default_errno) {
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_ERRNO((uint32_t)default_errno));
    if (!context) return NULL;
    // Another ABI has other numbers for other calls: nothing about it can be judged here, so the process ends.
    if (seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS)
        || seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2)
        || seccomp_attr_set(context, SCMP_FLTATR_CTL_NNP, 0)) {
        seccomp_release(context);
        return NULL;
    }
    return context;
}

int sbx_filter_add(void *filter, int number, int action, const struct sbx_condition *conditions, size_t count) {
    struct scmp_arg_cmp compare[6];
    if (count > 6) return E2BIG;
    for (size_t i = 0; i < count; i++)
        compare[i] = SCMP_CMP(conditions[i].argument, SCMP_CMP_MASKED_EQ, conditions[i].mask, conditions[i].value);
    uint32_t what = action == 0 ? SCMP_ACT_ALLOW : action < 0 ? SCMP_ACT_NOTIFY : SCMP_ACT_ERRNO((uint32_t)action);
    return -seccomp_rule_add_array(filter, what, number, (unsigned)count, compare);
}

int sbx_filter_finish(void *filter, struct sbx_filter *out) {
    int file = memfd_create("filter", MFD_CLOEXEC), error = 0;
    struct stat status;
    if (file < 0 || seccomp_export_bpf(filter, file) || fstat(file, &status)) {
        error = errno ? errno : EINVAL;
    } else if (!(out->instructions = malloc((size_t)status.st_size))
               || pread(file, out->instructions, (size_t)status.st_size, 0) != status.st_size) {
        error = ENOMEM;
    } else {
        out->count = (uint16_t)((size_t)status.st_size / sizeof(struct sock_filter));
    }
    if (file >= 0) close(file);
    seccomp_release(filter);
    return error;
}

void sbx_filter_learn(struct sbx_filter *filter) {
    // In the program and not by the library, which takes no notice as what an unlisted call gets.
    struct sock_filter *instructions = filter->instructions;
    for (uint16_t i = 0; i < filter->count; i++)
        if (instructions[i].code == (BPF_RET | BPF_K) && (instructions[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO)
            instructions[i].k = SECCOMP_RET_USER_NOTIF;
}

int sbx_reaper_filter(struct sbx_filter *out) {
    static const char *calls[] = {"ppoll", "poll", "read", "recvmsg", "sendto", "waitid", "close", "kill", "ioctl", "exit_group", "restart_syscall", "rt_sigreturn"};
    void *filter = sbx_filter_begin(EPERM);
    if (!filter) return ENOMEM;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int number = seccomp_syscall_resolve_name(calls[i]);
        if (number < 0 || sbx_filter_add(filter, number, 0, NULL, 0)) {
            seccomp_release(filter);
            return EINVAL;
        }
    }
    return sbx_filter_finish(filter, out);
}
