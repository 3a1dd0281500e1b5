// SPDX-License-Identifier: Apache-2.0
//
// A disk that keeps only what was flushed, for LD_PRELOAD. Every fsync(2) and fdatasync(2) of a file below DISK_ROOT copies the file to DISK_KEPT, and
// that of a directory copies the list of its names; nothing else survives the power cut that the test then makes of DISK_KEPT. The real flush is left out.
// DISK_FAIL=n: the n-th flush of a file that ends with `-wal` fails with EIO, and so do all after it.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static _Atomic long flushes;
static _Atomic long number;

static int copy(const char *path, const char *target) {
	char temporary[4200];
	int from = open(path, O_RDONLY | O_CLOEXEC);
	if (from < 0) return -1;
	snprintf(temporary, sizeof temporary, "%s.%ld.part", target, atomic_fetch_add(&number, 1));
	int to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to < 0) {
		close(from);
		return -1;
	}
	char buffer[1 << 16];
	off_t offset = 0;
	for (;;) {
		ssize_t count = pread(from, buffer, sizeof buffer, offset);
		if (count < 0 || (count > 0 && write(to, buffer, (size_t)count) != count)) {
			close(to);
			close(from);
			return -1;
		}
		if (count == 0) break;
		offset += count;
	}
	close(to);
	close(from);
	return rename(temporary, target);
}

static int names(const char *path, const char *target) {
	char temporary[4200];
	snprintf(temporary, sizeof temporary, "%s.%ld.part", target, atomic_fetch_add(&number, 1));
	DIR *folder = opendir(path);
	FILE *list = fopen(temporary, "w");
	if (!folder || !list) return -1;
	for (struct dirent *entry; (entry = readdir(folder));)
		if (entry->d_name[0] != '.') fprintf(list, "%s\n", entry->d_name);
	closedir(folder);
	fclose(list);
	return rename(temporary, target);
}

static int flush(int file) {
	const char *root = getenv("DISK_ROOT"), *kept = getenv("DISK_KEPT"), *fail = getenv("DISK_FAIL");
	char link[64], path[4096], target[4100];
	snprintf(link, sizeof link, "/proc/self/fd/%d", file);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0 || !root || !kept) return length < 0 ? -1 : 0;
	path[length] = 0;
	size_t rootLength = strlen(root);
	if (strncmp(path, root, rootLength)) return 0;
	if (fail && length > 4 && !strcmp(path + length - 4, "-wal") && atomic_fetch_add(&flushes, 1) + 1 >= atol(fail)) {
		errno = EIO;
		return -1;
	}
	int count = snprintf(target, sizeof target, "%s/%%", kept);
	for (const char *c = path + rootLength; *c && count < (int)sizeof target - 1; c++) target[count++] = *c == '/' ? '%' : *c;
	target[count] = 0;
	struct stat status;
	if (fstat(file, &status)) return -1;
	if (S_ISDIR(status.st_mode)) {
		strncat(target, "%names", sizeof target - strlen(target) - 1);
		return names(path, target);
	}
	return copy(link, target);
}

int fsync(int file) { return flush(file); }
int fdatasync(int file) { return flush(file); }
