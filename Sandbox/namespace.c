// SPDX-License-Identifier: Apache-2.0
// Mount namespaces, prepared once a runtime: a worker starts in a copy of one, so nothing of the host's tree is ever in its reach,
// and a start copies a score of mounts instead of building them.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

int sbx_namespace_enter(int namespace_fd) { return setns(namespace_fd, CLONE_NEWNS) ? errno : 0; }

int sbx_network_home(int *network_fd) {
    *network_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    return *network_fd < 0 ? errno : 0;
}

// Making one is the dearest step of a start (loopback device, sysctl tables, proc entries), and it needs to know nothing of the worker.
int sbx_network_make(int home_network_fd, int *network_fd) {
    if (unshare(CLONE_NEWNET)) return errno;
    int error = sbx_network_home(network_fd);
    if (setns(home_network_fd, CLONE_NEWNET)) __builtin_trap();
    return error;
}

static int own_namespace(int *namespace_fd) {
    *namespace_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return *namespace_fd < 0 ? errno : 0;
}

int sbx_namespace_home(int is_there, int *namespace_fd) {
    // What workers hold of it, /dev/null, lives as long as it does: a program in the place of another stays in it.
    if (is_there) return own_namespace(namespace_fd);
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return errno;
    return own_namespace(namespace_fd);
}

// From a mount of our own that nobody else sees: where we run in a container the visible one may be read-only.
int sbx_sysctl_open(int *sysctl_fd) {
    int system = (int)RAW(fsopen, "proc", FSOPEN_CLOEXEC), mounted = -1, error = 0;
    if (system < 0) return errno;
    if (RAW(fsconfig, system, FSCONFIG_CMD_CREATE, NULL, NULL, 0)
        || (mounted = (int)RAW(fsmount, system, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)) < 0
        || (*sysctl_fd = openat(mounted, "sys", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        error = errno;
    if (mounted >= 0) close(mounted);
    close(system);
    return error;
}

int sbx_namespace_begin(const char *scratch) {
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return errno;
    return mount("bulkhead", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,nr_inodes=2048,mode=755") ? errno : 0;
}

static int read_only_tree(int tree, int device) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID};
    attributes.attr_set |= device ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV;
    return (int)RAW(mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes);
}

int sbx_bind(const char *source, const char *target, int device) {
    int tree = (int)RAW(open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree < 0) return errno;
    int error = 0;
    if (read_only_tree(tree, device) || RAW(move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)) error = errno;
    close(tree);
    return error;
}

int sbx_namespace_seal(const char *scratch, int *namespace_fd) {
    char path[4096];
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    if (RAW(mount_setattr, AT_FDCWD, scratch, 0, &attributes, sizeof attributes)) return errno;
    // A worker may mount a /proc of its own only where it sees one, and so may we in a container: before the host's is gone. The worker mounts its own on top, and has no
    // right to take it away again; this one shows processes of the reader's own id and nothing else. mount_namespaces(7).
    snprintf(path, sizeof path, "%s/proc", scratch);
    if (mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2,subset=pid")) return errno;
    if (chdir(scratch) || RAW(pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/")) return errno;
    *namespace_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return *namespace_fd < 0 ? errno : 0;
}

int sbx_open_code(int directory_fd, int *tree_fd) {
    int tree = (int)RAW(open_tree, directory_fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
    if (tree < 0) return errno;
    if (read_only_tree(tree, 0)) {
        int error = errno;
        close(tree);
        return error;
    }
    *tree_fd = tree;
    return 0;
}

// As the owner of the worker's user namespace, who needs no CAP_SYS_RESOURCE of the host's for that: a container's root may have none.
static int lower_limits_of(int payload, const struct sbx_limit *limits, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct rlimit limit = {limits[i].value, limits[i].value}, born;
        if (RAW(prlimit64, payload, limits[i].resource, NULL, &born)) return -1;
        // The host's own hard limit may be lower, and lower is never weaker.
        if (limit.rlim_max > born.rlim_max) limit.rlim_max = limit.rlim_cur = born.rlim_max;
        if (RAW(prlimit64, payload, limits[i].resource, &limit, NULL)) return -1;
    }
    return 0;
}

// The payload is the reaper's first child, and the reaper ends with it. prlimit(2), proc_pid_task(5).
static int lower_limits(int reaper, const struct sbx_limit *limits, size_t count) {
    char path[64], text[24] = {0};
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", reaper, reaper);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    int payload = length > 0 ? atoi(text) : 0;
    errno = ESRCH;
    if (payload <= 1) return -1;
    int64_t owner = sbx_namespace_owner(reaper);
    if (owner < 0 || sbx_act_as((uint32_t)owner)) return -1;
    int failed = lower_limits_of(payload, limits, count), error = errno;
    if (sbx_act_as(0)) __builtin_trap();
    errno = error;
    return failed;
}

// The caller enters the worker's mount namespace for a few calls and comes home: no tenant's code has run in that namespace yet, so what the paths
// mean is what the seal made them mean.
uint32_t sbx_assign(int home_namespace_fd, int pid, const struct sbx_assignment *what, uint32_t fail_stage) {
    if (lower_limits(pid, what->limits, what->limit_count)) return SBX_ASSIGN;
    char path[40], options[48];
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
    snprintf(options, sizeof options, "size=%llu", (unsigned long long)what->temporary_bytes);
    int worker = open(path, O_RDONLY | O_CLOEXEC);
    if (worker < 0) return SBX_ASSIGN;
    if (setns(worker, CLONE_NEWNS)) {
        close(worker);
        return SBX_ASSIGN;
    }
    uint32_t stage = 0;
    errno = EREMOTEIO;
    if (fail_stage == SBX_ASSIGN || (what->code_fd >= 0 && RAW(move_mount, what->code_fd, "", AT_FDCWD, "/function", MOVE_MOUNT_F_EMPTY_PATH))
        || (what->temporary_bytes > 0 && mount(NULL, "/tmp", NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV, options)))
        stage = SBX_ASSIGN;
    else if (fail_stage == SBX_BUCKET_ADD || sbx_buckets_add(what->buckets, what->bucket_count))
        stage = SBX_BUCKET_ADD;
    else if (fail_stage == SBX_LAYER_ADD || sbx_layers_mount(what->layer_folder_fd, what->layers, what->layer_count))
        stage = SBX_LAYER_ADD;
    int error = errno;
    if (setns(home_namespace_fd, CLONE_NEWNS)) __builtin_trap();
    close(worker);
    errno = error;
    return stage;
}
