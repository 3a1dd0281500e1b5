// SPDX-License-Identifier: Apache-2.0
// Layers: folders of the operator that a worker sees under /layers. The daemon says a name; that it is a folder of root's in the one folder that the policy knows is
// found out here, each time anew, so that a daemon that was taken over can mount nothing else and an operator can put a new folder in the place of an old one.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/stat.h>

// No link anywhere on the way: what one says may be somebody else's word.
static int open_of_root(int from, const char *path, uint64_t resolve) {
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | resolve};
    int folder = (int)RAW(openat2, from, path, &how, sizeof how);
    struct stat status;
    if (folder < 0) return -1;
    if (fstat(folder, &status) == 0 && status.st_uid == 0 && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0) return folder;
    close(folder);
    errno = EPERM;
    return -1;
}

int sbx_open_layer(const char *root, const char *name, int *tree_fd) {
    int folder = open_of_root(AT_FDCWD, root, 0), layer = -1, error = 0;
    if (folder < 0 || (layer = open_of_root(folder, name, RESOLVE_BENEATH)) < 0) error = errno;
    if (!error) error = sbx_open_code(layer, tree_fd);
    if (layer >= 0) close(layer);
    if (folder >= 0) close(folder);
    return error;
}

int sbx_layers_mount(int folder_fd, const struct sbx_bucket *list, size_t count) {
    if (folder_fd < 0) return 0;
    if (RAW(move_mount, folder_fd, "", AT_FDCWD, "/layers", MOVE_MOUNT_F_EMPTY_PATH)) return -1;
    return sbx_mount_each(list, count);
}
