// SPDX-License-Identifier: Apache-2.0
// Buckets: directories of the daemon that a worker sees under /buckets as its own. On the disk everything in them belongs to the daemon, whoever wrote it: the
// mount that a worker gets maps the daemon's id to the worker's, so that neither ids nor modes stand between the workers of a tenant, and no id is shared.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define FOLDER "/buckets"
// Newer than some headers (Linux 5.14): links in a bucket are not followed, so that none written by one worker leads another one astray.
#define NO_LINKS 0x00200000
#define PLAIN (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

static int write_map(pid_t pid, const char *map, uint32_t inside, uint32_t outside) {
    char path[48], text[48];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, map);
    int length = snprintf(text, sizeof text, "%u %u 1", inside, outside), file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t count = write(file, text, (size_t)length);
    close(file);
    return count == length ? 0 : -1;
}

static int stay(void *parent) {
    RAW(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    while (RAW(getppid) == *(const pid_t *)parent) RAW(ppoll, NULL, 0, NULL, NULL, 8);
    return 0;
}

// What a mount is mapped with is a user namespace; nobody has to be in it, but only a process in one can be given maps. It shares our memory, as copying that
// would take most of the time, and does nothing in it.
static int make_map(const struct sbx_bucket_ids *ids) {
    static _Alignas(16) char stack[16384];
    static pid_t parent;
    parent = getpid();
    pid_t child = clone(stay, stack + sizeof stack, CLONE_VM | CLONE_NEWUSER, &parent);
    if (child < 0) return -1;
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/ns/user", child);
    int space = write_map(child, "uid_map", ids->uid, ids->worker) || write_map(child, "gid_map", ids->gid, ids->worker) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    int error = errno;
    kill(child, SIGKILL);
    waitpid(child, NULL, __WALL);
    errno = error;
    return space;
}

static int open_bucket(int root_fd, const struct sbx_bucket *bucket, uint32_t owner) {
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    int directory = (int)RAW(openat2, root_fd, bucket->source, &how, sizeof how), tree = -1;
    struct stat status;
    if (directory < 0 || fstat(directory, &status)) goto done;
    errno = EPERM;
    // Another owner's would be nobody's inside.
    if (status.st_uid == owner) tree = (int)RAW(open_tree, directory, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
done:;
    int error = errno;
    if (directory >= 0) close(directory);
    errno = error;
    return tree;
}

uint32_t sbx_buckets_open(int root_fd, const struct sbx_bucket_ids *ids, struct sbx_bucket *list, size_t count, uint32_t fail_stage, size_t *which) {
    for (*which = 0; *which < count; ++*which) {
        if (fail_stage == SBX_BUCKET_OPEN) errno = EREMOTEIO;
        if (fail_stage == SBX_BUCKET_OPEN || (list[*which].tree_fd = open_bucket(root_fd, &list[*which], ids->uid)) < 0) return SBX_BUCKET_OPEN;
    }
    int map = fail_stage == SBX_BUCKET_MAP ? (errno = EREMOTEIO, -1) : make_map(ids);
    *which = 0;
    if (map < 0) return SBX_BUCKET_MAP;
    for (; *which < count; ++*which) {
        struct mount_attr attributes = {.attr_set = PLAIN | NO_LINKS | MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)map};
        if (!list[*which].is_writable) attributes.attr_set |= MOUNT_ATTR_RDONLY;
        if (RAW(mount_setattr, list[*which].tree_fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes)) break;
    }
    int error = errno;
    close(map);
    errno = error;
    return *which < count ? SBX_BUCKET_MAP : 0;
}

int sbx_can_map_mounts(const char *path) {
    const struct sbx_bucket_ids ids = {1, 1, 1};
    struct mount_attr attributes = {.attr_set = PLAIN | NO_LINKS | MOUNT_ATTR_IDMAP};
    int tree = (int)RAW(open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), map = tree < 0 ? -1 : make_map(&ids);
    attributes.userns_fd = (uint64_t)map;
    int is_mapped = map >= 0 && RAW(mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0;
    if (map >= 0) close(map);
    if (tree >= 0) close(tree);
    return is_mapped;
}

// A bucket's or layer's own mount point; that of a directory in a bucket is the directory.
static const char *point(const struct sbx_bucket *bucket) {
    const char *name = strchr(bucket->target + 1, '/') + 1;
    return strchr(name, '/') ? NULL : name;
}

static int lock_folder(int folder, const char *path, int flags, int is_locked) {
    struct mount_attr attributes = {.attr_set = is_locked ? MOUNT_ATTR_RDONLY : 0, .attr_clr = is_locked ? 0 : MOUNT_ATTR_RDONLY};
    return (int)RAW(mount_setattr, folder, path, flags, &attributes, sizeof attributes);
}

int sbx_bucket_folder(const struct sbx_bucket *list, size_t count, int *folder_fd) {
    int system = (int)RAW(fsopen, "tmpfs", FSOPEN_CLOEXEC), folder = -1, error = 0;
    if (system < 0) return errno;
    if (RAW(fsconfig, system, FSCONFIG_SET_STRING, "size", "4k", 0) || RAW(fsconfig, system, FSCONFIG_SET_STRING, "nr_inodes", "64", 0)
        || RAW(fsconfig, system, FSCONFIG_SET_STRING, "mode", "755", 0) || RAW(fsconfig, system, FSCONFIG_CMD_CREATE, NULL, NULL, 0)
        || (folder = (int)RAW(fsmount, system, FSMOUNT_CLOEXEC, PLAIN)) < 0)
        error = errno;
    close(system);
    for (size_t i = 0; !error && i < count; i++)
        if (point(&list[i]) && mkdirat(folder, point(&list[i]), 0755)) error = errno;
    if (!error && lock_folder(folder, "", AT_EMPTY_PATH, 1)) error = errno;
    if (error && folder >= 0) close(folder);
    else *folder_fd = folder;
    return error;
}

int sbx_mount_each(const struct sbx_bucket *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (RAW(move_mount, list[i].tree_fd, "", AT_FDCWD, list[i].target, MOVE_MOUNT_F_EMPTY_PATH)) return -1;
    return 0;
}

int sbx_buckets_mount(const struct sbx_plan *plan) {
    if (plan->bucket_folder_fd < 0) return 0;
    if (RAW(move_mount, plan->bucket_folder_fd, "", AT_FDCWD, FOLDER, MOVE_MOUNT_F_EMPTY_PATH)) return -1;
    return sbx_mount_each(plan->buckets, plan->bucket_count);
}

int sbx_buckets_add(const struct sbx_bucket *list, size_t count) {
    if (count == 0) return 0;
    if (lock_folder(AT_FDCWD, FOLDER, 0, 0)) return -1;
    for (size_t i = 0; i < count; i++)
        if (point(&list[i]) && mkdir(list[i].target, 0755)) return -1;
    return sbx_mount_each(list, count) || lock_folder(AT_FDCWD, FOLDER, 0, 1) ? -1 : 0;
}
