// SPDX-License-Identifier: Apache-2.0
// Files in directories that somebody hostile changes at the same time: no path is followed out of its top or through a link, and nothing is waited for.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct ck_facts {
    uint64_t inode, size, allocated; // bytes
    uint64_t modified, changed;      // nanoseconds since 1970
    uint32_t mode, links;
};
struct ck_entry {
    int64_t next; // position behind it
    char name[256];
};

// A regular file below `top` for reading; -1 with errno, ENOENT also where it is anything else than a regular file. openat2(2).
int ck_open_object(int top, const char *path, struct ck_facts *facts);
// A directory by a path that nobody hostile can change, for listing. -1 with errno.
int ck_open_top(const char *path);
// A directory below `top` for listing ("." for itself). One whose mode locks its owner out is opened up first. -1 with errno.
int ck_open_folder(int top, const char *path);
// The directory `path` below `top`, made where it is missing and then durable. -1 with errno.
int ck_make_folder(int top, const char *path);
// Of one name in a directory, links not followed; 0 or -1 with errno.
int ck_look(int folder, const char *name, struct ck_facts *facts);
int ck_facts_of(int fd, struct ck_facts *facts);
// Whether somebody has the file open for writing right now. fcntl(2), F_SETLEASE: needs the file's owner; 0 where the file system cannot tell.
int ck_is_written(int fd);
// Up to `capacity` entries from `position` on (0: from the beginning), without . and ..; `end`: 1 after the last one. -1 with errno. getdents64(2).
int ck_entries(int folder, int64_t *position, struct ck_entry *entries, int capacity, int *end);
// Another name on the same file system, replacing what is there; RENAME_NOREPLACE where `keeps`.
int ck_rename(int from, const char *old_name, int to, const char *new_name, int keeps);

#define CK_NAME_BYTES 256
struct ck_notice {
    int32_t watch;
    uint32_t mask, cookie;
    char name[CK_NAME_BYTES];
};
int ck_inotify_make(void);
// Watches an open directory for everything that can happen to a name in it.
int ck_inotify_add(int inotify, int folder);
void ck_inotify_remove(int inotify, int watch);
// The next notices, 0 where there are none now, -1 with errno.
int ck_inotify_read(int inotify, struct ck_notice *notices, int capacity);
void ck_event_signal(int fd);
void ck_event_clear(int fd);

// Puts each of two entries of a folder in the other's place, at once. 0, or -1 with errno. renameat2(2).
int ck_exchange(int folder, const char *name, const char *other);

// Whether ck_sync_all of a file on this file system tells of everything that could not be written since the file was opened: Linux 5.8 or newer, and a file system that has its
// own disk (or none) and is no layer on another.
int ck_sync_tells(int fd);
// Writes everything out that the file's file system holds in memory. 0, or -1 with errno. syncfs(2).
int ck_sync_all(int fd);
