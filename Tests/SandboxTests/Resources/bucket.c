// SPDX-License-Identifier: Apache-2.0
// File work in buckets, inside a worker. `attack` tries what must fail, `work` what must not, each answered by `case=errno`; `write PATH TEXT`, `read PATH`,
// `remove PATH` do one thing; `wait` says that it is there and stays.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(name, expression) do { errno = 0; long r_ = (long)(expression); printf("%s=%d\n", name, r_ < 0 ? errno : 0); } while (0)

static int make(const char *path) { int f = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666); return f < 0 ? -1 : close(f); }
static int look(const char *path) { int f = open(path, O_RDONLY); return f < 0 ? -1 : close(f); }

static int listen_at(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    return bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof a);
}
static int execute(const char *path) {
    int child = fork(), status = 0;
    if (child == 0) {
        execl(path, path, "exit", "0", (char *)0);
        _exit(errno);
    }
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}
static int map_code(const char *path) {
    int f = open(path, O_RDONLY);
    return mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, f, 0) == MAP_FAILED ? -1 : 0;
}
static void list(const char *path) {
    DIR *d = opendir(path);
    int count = 0;
    for (struct dirent *e; d && (e = readdir(d));) count += e->d_name[0] != '.';
    if (d) closedir(d);
    printf("count=%d\n", count);
}
static int set_id_bits(void) {
    struct stat s;
    int f = open("/buckets/write/born-set-id", O_WRONLY | O_CREAT, 06755);
    return f < 0 || fstat(f, &s) ? -1 : (int)(s.st_mode & 06000);
}

static void attack(void) {
    TRY("read only: create", make("/buckets/read/new"));
    TRY("read only: write", make("/buckets/read/object"));
    TRY("read only: unlink", unlink("/buckets/read/object"));
    TRY("read only: rename", rename("/buckets/read/object", "/buckets/read/other"));
    TRY("read only: mkdir", mkdir("/buckets/read/new", 0700));
    TRY("read only: chmod", chmod("/buckets/read/object", 0644));
    TRY("read only: touch", utimensat(AT_FDCWD, "/buckets/read/object", 0, 0));
    TRY("prefix: create outside", make("/buckets/part/new"));
    TRY("prefix: create outside by ..", make("/buckets/part/out/../new"));
    TRY("prefix: rename out", rename("/buckets/part/out/object", "/buckets/part/object"));
    TRY("prefix: rename it", rename("/buckets/part/out", "/buckets/part/in"));
    TRY("folder: mkdir", mkdir("/buckets/new", 0700));
    TRY("folder: rmdir", rmdir("/buckets/write"));
    TRY("other tenant: by name", look("/buckets/secret"));
    TRY("other tenant: by ..", look("/buckets/write/../../globex/secret/object"));
    TRY("other tenant: by ../..", look("/buckets/write/../../../globex/secret/object"));
    TRY("not granted", look("/buckets/hidden/object"));
    TRY("planted link to a file", look("/buckets/write/to-passwd"));
    TRY("planted link to another tenant", look("/buckets/write/to-globex/object"));
    TRY("planted link to a bucket", look("/buckets/write/to-hidden/object"));
    TRY("make a link", symlink("/etc/passwd", "/buckets/write/my-link"));
    TRY("make a pipe", mkfifo("/buckets/write/pipe", 0600));
    TRY("make a socket", listen_at("/buckets/write/socket"));
    TRY("make a device", mknod("/buckets/write/device", S_IFCHR | 0600, 0x103));
    TRY("hard link from the code", link("/function/bucket", "/buckets/write/hard"));
    TRY("hard link from a bucket that is read", link("/buckets/read/object", "/buckets/write/hard"));
    TRY("hard link from /tmp", (make("/tmp/mine"), link("/tmp/mine", "/buckets/write/hard")));
    TRY("hard link to /tmp", link("/buckets/write/object", "/tmp/hard"));
    TRY("rename to another bucket", rename("/buckets/write/object", "/buckets/part/out/taken"));
    TRY("execute", execute("/buckets/write/program"));
    TRY("map as code", map_code("/buckets/write/program"));
    TRY("set-id by chmod", chmod("/buckets/write/object", 04755));
    TRY("give away", chown("/buckets/write/object", 0, 0));
    TRY("give to nobody", chown("/buckets/write/object", 65534, 65534));
    TRY("lower the oom score of the host", make("/buckets/write/../proc/1/oom_score_adj"));
    printf("set-id at birth=%o\n", set_id_bits());
}

static void work(void) {
    struct stat s;
    const char *made = "/buckets/write/made";
    list("/buckets");
    TRY("read", look("/buckets/read/object"));
    TRY("read in a prefix", look("/buckets/part/object"));
    TRY("create", make(made));
    TRY("create in a prefix", make("/buckets/part/out/made"));
    TRY("own", stat(made, &s) || s.st_uid != 1000 || s.st_gid != 1000 ? -1 : 0);
    TRY("own what the daemon wrote", stat("/buckets/write/object", &s) || s.st_uid != 1000 || s.st_gid != 1000 ? -1 : 0);
    int f = open(made, O_RDWR);
    TRY("write", write(f, "text", 4));
    TRY("shorten", ftruncate(f, 2));
    TRY("reserve", posix_fallocate(f, 0, 4096) ? -1 : 0);
    TRY("sync", fsync(f));
    TRY("sync data", fdatasync(f));
    TRY("touch", futimens(f, 0));
    TRY("chmod", fchmod(f, 0));
    TRY("no right is left", look(made));
    TRY("chmod back", fchmod(f, 0600));
    TRY("chown to itself", fchown(f, 1000, 1000));
    close(f);
    TRY("mkdir", mkdir("/buckets/write/deep", 0777));
    TRY("rename into it", rename(made, "/buckets/write/deep/made"));
    TRY("link out of it", link("/buckets/write/deep/made", "/buckets/write/again"));
    TRY("replace", (make("/buckets/write/new"), rename("/buckets/write/new", "/buckets/write/again")));
    TRY("unlink", unlink("/buckets/write/deep/made"));
    TRY("rmdir", rmdir("/buckets/write/deep"));
    int d = open("/buckets/write", O_RDONLY | O_DIRECTORY);
    TRY("sync the directory", fsync(d));
    f = open("/buckets/write", O_TMPFILE | O_RDWR, 0600);
    char path[40];
    sprintf(path, "/proc/self/fd/%d", f);
    TRY("name a nameless file", linkat(AT_FDCWD, path, AT_FDCWD, "/buckets/write/named", AT_SYMLINK_FOLLOW));
    TRY("unlink again", unlink("/buckets/write/again") || unlink("/buckets/write/named"));
    TRY("unlink in a prefix", unlink("/buckets/part/out/made"));
}

int main(int argc, char **argv) {
    char text[64] = "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2) return 99;
    if (strcmp(argv[1], "attack") == 0) attack();
    if (strcmp(argv[1], "work") == 0) work();
    if (strcmp(argv[1], "remove") == 0) TRY("remove", unlink(argv[2]));
    if (strcmp(argv[1], "read") == 0) {
        int f = open(argv[2], O_RDONLY);
        TRY("read", read(f, text, 63));
        printf("text=%s\n", text);
    }
    if (strcmp(argv[1], "write") == 0) {
        int f = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
        TRY("write", write(f, argv[3], strlen(argv[3])));
    }
    if (strcmp(argv[1], "wait") == 0) {
        puts("here");
        for (;;) pause();
    }
    return 0;
}
