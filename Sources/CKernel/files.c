// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "cfiles.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BENEATH (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

static int beneath(int top, const char *path, uint64_t flags) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = BENEATH};
    int fd;
    do fd = (int)syscall(SYS_openat2, top, path, &how, sizeof how); while (fd < 0 && errno == EINTR);
    return fd;
}

static void fill(const struct stat *status, struct ck_facts *facts) {
    *facts = (struct ck_facts){
        .inode = status->st_ino, .size = (uint64_t)status->st_size, .allocated = (uint64_t)status->st_blocks * 512,
        .modified = (uint64_t)status->st_mtim.tv_sec * 1000000000 + (uint64_t)status->st_mtim.tv_nsec,
        .changed = (uint64_t)status->st_ctim.tv_sec * 1000000000 + (uint64_t)status->st_ctim.tv_nsec,
        .mode = status->st_mode, .links = (uint32_t)status->st_nlink};
}

int ck_facts_of(int fd, struct ck_facts *facts) {
    struct stat status;
    if (fstat(fd, &status)) return -1;
    fill(&status, facts);
    return 0;
}

int ck_look(int folder, const char *name, struct ck_facts *facts) {
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW)) return -1;
    fill(&status, facts);
    return 0;
}

int ck_open_object(int top, const char *path, struct ck_facts *facts) {
    // O_NONBLOCK: a FIFO without a writer would hold us for ever.
    int fd = beneath(top, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return -1;
    if (ck_facts_of(fd, facts) == 0 && S_ISREG(facts->mode)) return fd;
    close(fd);
    errno = ENOENT;
    return -1;
}

// Restores the owner's permissions of a directory that is open as a place.
static int unlock(int place) {
    struct stat status;
    char link[32];
    if (fstat(place, &status) || (status.st_mode & 0700) == 0700) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", place);
    return chmod(link, 0700);
}

int ck_open_folder(int top, const char *path) {
    int fd = beneath(top, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd >= 0) {
        struct stat status;
        // Readable is not enough: names are only reached with search permission.
        if (fstat(fd, &status) || (status.st_mode & 0700) == 0700 || fchmod(fd, 0700) == 0 || errno == EPERM) return fd;
        close(fd);
        return -1;
    }
    if (errno != EACCES) return -1;
    int place = beneath(top, path, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    if (place < 0) return -1;
    fd = unlock(place) ? -1 : beneath(place, ".", O_RDONLY | O_DIRECTORY);
    int reason = errno;
    close(place);
    errno = reason;
    return fd;
}

int ck_open_top(const char *path) {
    int place = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0) return -1;
    // Even its own "." needs search permission.
    int fd = unlock(place) ? -1 : beneath(place, ".", O_RDONLY | O_DIRECTORY), reason = errno;
    close(place);
    errno = reason;
    return fd;
}

int ck_make_folder(int top, const char *path) {
    int here = ck_open_folder(top, ".");
    while (here >= 0 && *path) {
        const char *slash = strchrnul(path, '/');
        char part[256];
        if ((size_t)(slash - path) >= sizeof part) {
            close(here);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(part, path, (size_t)(slash - path));
        part[slash - path] = 0;
        int is_new = mkdirat(here, part, 0700) == 0;
        int next = is_new || errno == EEXIST ? ck_open_folder(here, part) : -1;
        // A name that is not flushed may be gone after a crash, and all below it.
        if (next >= 0 && is_new && fsync(here)) {
            close(next);
            next = -1;
        }
        int reason = errno;
        close(here);
        errno = reason;
        here = next;
        path = *slash ? slash + 1 : slash;
    }
    return here;
}

int ck_is_written(int fd) {
    // Whoever opens the file for writing meanwhile waits until we let go, and we are told by a signal that does nothing; the usual one would end us.
    if (fcntl(fd, F_SETSIG, SIGURG) || fcntl(fd, F_SETLEASE, F_RDLCK)) return errno == EAGAIN;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return 0;
}

int ck_entries(int folder, int64_t *position, struct ck_entry *entries, int capacity, int *end) {
    _Alignas(struct dirent64) char space[8192];
    int count = 0;
    *end = 0;
    if (lseek(folder, *position, SEEK_SET) < 0) return -1;
    while (count < capacity) {
        long size = syscall(SYS_getdents64, folder, space, sizeof space);
        if (size < 0) return -1;
        if (size == 0) {
            *end = 1;
            break;
        }
        for (long at = 0; at < size && count < capacity;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)(space + at);
            at += entry->d_reclen;
            *position = entry->d_off;
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            entries[count].next = entry->d_off;
            strncpy(entries[count].name, entry->d_name, sizeof entries[count].name - 1);
            entries[count].name[sizeof entries[count].name - 1] = 0;
            count++;
        }
    }
    return count;
}

int ck_rename(int from, const char *old_name, int to, const char *new_name, int keeps) {
    return renameat2(from, old_name, to, new_name, keeps ? RENAME_NOREPLACE : 0);
}

int ck_inotify_make(void) { return inotify_init1(IN_CLOEXEC | IN_NONBLOCK); }

int ck_inotify_add(int inotify, int folder) {
    char link[32];
    // By descriptor: the path may lead elsewhere by now.
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    return inotify_add_watch(inotify, link, IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR | IN_EXCL_UNLINK);
}

void ck_inotify_remove(int inotify, int watch) { inotify_rm_watch(inotify, watch); }

int ck_inotify_read(int inotify, struct ck_notice *notices, int capacity) {
    // A notice takes at least 16 bytes; the largest name 272.
    _Alignas(struct inotify_event) char space[16384];
    size_t room = (size_t)capacity * sizeof(struct inotify_event);
    if (room > sizeof space) room = sizeof space;
    if (room < sizeof(struct inotify_event) + 256) {
        errno = EINVAL;
        return -1;
    }
    ssize_t size;
    do size = read(inotify, space, room); while (size < 0 && errno == EINTR);
    if (size < 0) return errno == EAGAIN ? 0 : -1;
    int count = 0;
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const struct inotify_event *)(const void *)(space + at);
        at += (ssize_t)(sizeof *event + event->len);
        struct ck_notice *notice = &notices[count++];
        *notice = (struct ck_notice){.watch = event->wd, .mask = event->mask, .cookie = event->cookie};
        if (event->len) strncpy(notice->name, event->name, sizeof notice->name - 1);
    }
    return count;
}

void ck_event_signal(int fd) {
    uint64_t one = 1;
    ssize_t done = write(fd, &one, sizeof one);
    (void)done;
}

void ck_event_clear(int fd) {
    uint64_t count;
    ssize_t done = read(fd, &count, sizeof count);
    (void)done;
}

int ck_exchange(int folder, const char *name, const char *other) {
    return (int)syscall(SYS_renameat2, folder, name, folder, other, 2 /* RENAME_EXCHANGE, which some headers hide */);
}

int ck_sync_tells(int fd) {
    struct utsname system;
    struct statfs facts;
    int major = 0, minor = 0;
    if (uname(&system) || sscanf(system.release, "%d.%d", &major, &minor) != 2 || major < 5 || (major == 5 && minor < 8) || fstatfs(fd, &facts)) return 0;
    return facts.f_type == EXT4_SUPER_MAGIC || facts.f_type == XFS_SUPER_MAGIC || facts.f_type == BTRFS_SUPER_MAGIC || facts.f_type == F2FS_SUPER_MAGIC
        || facts.f_type == TMPFS_MAGIC;
}

int ck_sync_all(int fd) { return (int)syscall(SYS_syncfs, fd); }
