// SPDX-License-Identifier: Apache-2.0
// fanotify(7): what is only macros, unions and records of varying length.
#define _GNU_SOURCE
#include "ckernel.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

// Newer than some headers.
#ifndef FAN_RENAME
#define FAN_RENAME 0x10000000
#endif
#ifndef FAN_REPORT_PIDFD
#define FAN_REPORT_PIDFD 0x00000080
#endif
#ifndef FAN_EVENT_INFO_TYPE_PIDFD
#define FAN_EVENT_INFO_TYPE_PIDFD 4
#endif
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif
#define OLD_PLACE 10 // FAN_EVENT_INFO_TYPE_OLD_DFID_NAME
#define NEW_PLACE 12 // FAN_EVENT_INFO_TYPE_NEW_DFID_NAME

int ck_file_events_make(void) {
    return fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_REPORT_PIDFD | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_MARKS,
                         O_RDONLY | O_CLOEXEC | O_LARGEFILE);
}

int ck_file_events_mark(int group, int directory, int is_on) {
    uint64_t mask = FAN_CLOSE_WRITE | FAN_CREATE | FAN_DELETE | FAN_ONDIR | FAN_EVENT_ON_CHILD;
    unsigned flags = (is_on ? FAN_MARK_ADD : FAN_MARK_REMOVE) | FAN_MARK_ONLYDIR;
    int result = fanotify_mark(group, flags, mask | FAN_RENAME, directory, NULL);
    // A rename as one event is of Linux 5.17.
    return result && errno == EINVAL ? fanotify_mark(group, flags, mask | FAN_MOVED_FROM | FAN_MOVED_TO, directory, NULL) : result;
}

// File system, handle type, handle: what fanotify says of a directory, and what name_to_handle_at says of it.
static int identify(struct ck_place *place, const void *file_system, const struct file_handle *handle) {
    int type = handle->handle_type & 0xFFFF; // the kernel's own flags are above
    if (8 + sizeof type + handle->handle_bytes > sizeof place->identity) return -1;
    memcpy(place->identity, file_system, 8);
    memcpy(place->identity + 8, &type, sizeof type);
    memcpy(place->identity + 8 + sizeof type, handle->f_handle, handle->handle_bytes);
    place->identity_length = (uint32_t)(8 + sizeof type + handle->handle_bytes);
    return 0;
}

int ck_place_of(int directory, struct ck_place *place) {
    union { struct file_handle handle; char space[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } found = {.handle.handle_bytes = MAX_HANDLE_SZ};
    struct statfs system;
    int mount;
    if (fstatfs(directory, &system)) return -1;
    // Before Linux 6.5 there is no such flag, and the handles are the same.
    if (name_to_handle_at(directory, "", &found.handle, &mount, AT_EMPTY_PATH | AT_HANDLE_FID)) {
        found.handle.handle_bytes = MAX_HANDLE_SZ;
        if (errno != EINVAL || name_to_handle_at(directory, "", &found.handle, &mount, AT_EMPTY_PATH)) return -1;
    }
    place->name_length = 0;
    if (identify(place, &system.f_fsid, &found.handle) == 0) return 0;
    errno = EOVERFLOW;
    return -1;
}

static int read_place(const char *record, size_t size, struct ck_place *place) {
    const struct fanotify_event_info_fid *info = (const void *)record;
    const struct file_handle *handle = (const void *)info->handle;
    size_t fixed = sizeof *info + sizeof *handle;
    if (size < fixed || size - fixed < handle->handle_bytes || identify(place, &info->fsid, handle)) return -1;
    const char *name = (const char *)handle->f_handle + handle->handle_bytes;
    size_t length = strnlen(name, size - fixed - handle->handle_bytes);
    if (length > sizeof place->name) return -1;
    memcpy(place->name, name, length);
    place->name_length = (uint32_t)length;
    return 0;
}

static void read_info(const char *info, const char *end, struct ck_file_event *event) {
    int has_place = 0;
    while (end - info >= (ptrdiff_t)sizeof(struct fanotify_event_info_header)) {
        const struct fanotify_event_info_header *header = (const void *)info;
        if (header->len < sizeof *header || header->len > end - info) return;
        switch (header->info_type) {
        case FAN_EVENT_INFO_TYPE_PIDFD: memcpy(&event->pidfd, info + sizeof *header, sizeof event->pidfd); break;
        case OLD_PLACE: event->has_previous = read_place(info, header->len, &event->previous) == 0; break;
        case NEW_PLACE:
        case FAN_EVENT_INFO_TYPE_DFID_NAME: has_place = read_place(info, header->len, &event->place) == 0; break;
        default: break;
        }
        info += header->len;
    }
    if (!(event->kinds & CK_FILE_RENAMED) || (has_place && event->has_previous)) return;
    // One side of the rename is not watched.
    event->kinds = (event->kinds & ~CK_FILE_RENAMED) | (has_place ? CK_FILE_MOVED_TO : CK_FILE_MOVED_FROM);
    if (!has_place) event->place = event->previous;
    event->has_previous = 0;
}

int ck_file_event_next(const void *bytes, ssize_t length, size_t *offset, struct ck_file_event *event) {
    static const struct { uint64_t theirs, ours; } kinds[] = {
        {FAN_CLOSE_WRITE, CK_FILE_CLOSE_WRITE}, {FAN_CREATE, CK_FILE_CREATED}, {FAN_DELETE, CK_FILE_REMOVED}, {FAN_MOVED_FROM, CK_FILE_MOVED_FROM},
        {FAN_MOVED_TO, CK_FILE_MOVED_TO}, {FAN_RENAME, CK_FILE_RENAMED}, {FAN_ONDIR, CK_FILE_DIRECTORY}, {FAN_Q_OVERFLOW, CK_FILE_OVERFLOW}};
    const struct fanotify_event_metadata *data = (const void *)((const char *)bytes + *offset);
    ssize_t left = length - (ssize_t)*offset;
    if (!FAN_EVENT_OK(data, left) || data->vers != FANOTIFY_METADATA_VERSION) return 0;
    memset(event, 0, sizeof *event);
    event->pid = data->pid;
    event->pidfd = -1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (data->mask & kinds[i].theirs) event->kinds |= kinds[i].ours;
    read_info((const char *)data + data->metadata_len, (const char *)data + data->event_len, event);
    *offset += data->event_len;
    return 1;
}

int ck_pidfd_is_alive(int pidfd) {
    // Not permitted means that there is somebody. pidfd_send_signal(2).
    return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}
