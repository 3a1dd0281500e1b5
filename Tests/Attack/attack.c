// SPDX-License-Identifier: Apache-2.0
// Hostile code, one case a run: the case's name and its own arguments are the first argument, or the first line of stdin. Prints `safe NAME` or
// `unsafe NAME: what was possible`. Inside a worker every case must be safe. As root outside, every case must say unsafe, or it could not tell the difference.
// With a connection at fd 3 it speaks the worker protocol itself, and each case is run by a child that has inherited that connection.
#define _GNU_SOURCE
#include "attack.h"
#include "../../Sandbox/runtimes/native/bulkhead.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *arguments[ARGUMENTS] = {"", "", "", "", "", ""};
int first_own_descriptor = 3;
long number(int index) { return strtol(arguments[index], NULL, 0); }
int is_outside(void) { return getenv("ATTACK_OUTSIDE") != NULL; }

static char finding[512];
const char *found(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(finding, sizeof finding, format, list);
    va_end(list);
    return finding;
}
// The call runs in a child, so that a kill by the filter is seen as "safe" by the one who asks.
#define ALLOWED(expression, what) ((expression) >= 0 ? found("%s", what) : NULL)

static const char *new_namespace(int flag, const char *name) { return unshare(flag) == 0 ? found("a %s namespace can be made", name) : NULL; }
static const char *user_namespace(void) { return new_namespace(CLONE_NEWUSER, "user"); }
static const char *mount_namespace(void) { return new_namespace(CLONE_NEWNS, "mount"); }
static const char *net_namespace(void) { return new_namespace(CLONE_NEWNET, "network"); }
static const char *pid_namespace(void) { return new_namespace(CLONE_NEWPID, "pid"); }
static const char *clone_namespace(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child > 0 ? found("clone makes a user namespace") : NULL;
}
static const char *clone_parent(void) {
    long child = syscall(SYS_clone, CLONE_PARENT, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child > 0 ? found("a sibling of one's parent can be made") : NULL;
}
static const char *clone3_call(void) {
    char arguments[88] = {0};
    arguments[32] = SIGCHLD;
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    return child > 0 ? found("clone3 works, and its flags cannot be filtered") : NULL;
}
static const char *enter_namespace(void) {
    int file = open("/proc/self/ns/uts", O_RDONLY);
    return file >= 0 && setns(file, 0) == 0 ? found("setns works") : NULL;
}
static const char *mount_tmpfs(void) {
    mkdir("/tmp/attack-mount", 0700);
    if (mount("t", "/tmp/attack-mount", "tmpfs", 0, "size=4k")) return NULL;
    umount2("/tmp/attack-mount", MNT_DETACH);
    return found("a file system can be mounted");
}
static const char *unmount(void) {
    errno = 0;
    return umount2("/attack-nothing", MNT_DETACH) && errno == ENOENT ? found("umount2 reaches the kernel") : NULL;
}
static const char *new_mount_api(void) { return ALLOWED(syscall(SYS_fsopen, "tmpfs", 0), "fsopen works"); }
static const char *change_root(void) { return chroot("/tmp") == 0 ? found("chroot works") : NULL; }
static const char *pivot(void) {
    errno = 0;
    return syscall(SYS_pivot_root, "/attack-a", "/attack-b") && errno == ENOENT ? found("pivot_root reaches the kernel") : NULL;
}
static const char *writes(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT, 0600);
    if (file < 0) return NULL;
    close(file);
    unlink(path);
    return found("%s can be written", path);
}
static const char *write_root(void) { return writes("/attack-file"); }
static const char *write_usr(void) { return writes("/usr/attack-file"); }
static const char *write_etc(void) { return writes("/etc/attack-file"); }
static const char *write_runtime(void) {
    mkdir("/runtime", 0755); // outside there is none
    return writes("/runtime/attack-file");
}
static const char *write_code(void) {
    mkdir("/function", 0755);
    return writes("/function/attack-file");
}
static const char *remount(void) { return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) == 0 ? found("the root can be remounted") : NULL; }
static const char *host_files(void) {
    const char *paths[] = {"/root", "/home", "/var", "/run", "/sys/kernel", "/etc/shadow", "/boot"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (access(paths[i], F_OK) == 0) return found("%s is visible", paths[i]);
    return NULL;
}
static const char *other_processes(void) {
    DIR *directory = opendir("/proc");
    int count = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') count++;
    return count > 8 ? found("%d processes are visible", count) : NULL;
}
static const char *kernel_files(void) {
    const char *paths[] = {"/proc/kcore", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/kallsyms", "/proc/keys", "/proc/interrupts"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (access(paths[i], F_OK) == 0) return found("%s is visible", paths[i]);
    return NULL;
}
static const char *init_memory(void) {
    int file = open("/proc/1/mem", O_RDONLY);
    return file >= 0 ? found("the memory of pid 1 can be read") : NULL;
}
static const char *init_files(void) { return access("/proc/1/fd/0", F_OK) == 0 || opendir("/proc/1/fd") ? found("the descriptors of pid 1 can be listed") : NULL; }
static const char *init_limits(void) {
    struct rlimit limit;
    if (syscall(SYS_prlimit64, 1, RLIMIT_NOFILE, NULL, &limit)) return NULL;
    return syscall(SYS_prlimit64, 1, RLIMIT_NOFILE, &limit, NULL) == 0 ? found("the limits of pid 1 can be set") : NULL;
}
static const char *descriptors(void) {
    for (int number = first_own_descriptor; number < 1024; number++)
        if (fcntl(number, F_GETFD) >= 0) return found("descriptor %d is open", number);
    return is_outside() ? found("outside there is nothing to inherit from") : NULL;
}
static const char *i386(void) {
    // getpid through the 32-bit gate: number 20 there, writev here.
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
    return result > 0 ? found("the 32-bit gate answers") : NULL;
}
static const char *x32(void) { return syscall(SYS_getpid | 0x40000000) > 0 || errno == ENOSYS ? found("an x32 number comes back instead of ending the process") : NULL; }
static const char *terminal_input(void) {
    errno = 0;
    char byte = 'x';
    ioctl(0, TIOCSTI, &byte);
    // EPERM by the filter is ENOTTY here too, so ask on a real terminal's master.
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return NULL;
    return found("a terminal can be opened");
}
static const char *terminal_high_bits(void) {
    errno = 0;
    char byte = 'x';
    syscall(SYS_ioctl, 0, (unsigned long)TIOCSTI | 1UL << 32, &byte);
    int first = errno;
    syscall(SYS_ioctl, 0, 0xdeadUL, &byte);
    // Outside, an unknown request reaches the driver and is ENOTTY like TIOCSTI; inside it never gets there.
    return first == ENOTTY && errno == ENOTTY ? found("unknown ioctl requests reach the driver") : NULL;
}
static const char *family(int number, const char *name) { return socket(number, SOCK_DGRAM, 0) >= 0 || socket(number, SOCK_STREAM, 0) >= 0 || socket(number, SOCK_RAW, 0) >= 0 ? found("an %s socket can be made", name) : NULL; }
static const char *inet(void) { return family(AF_INET, "AF_INET"); }
static const char *inet6(void) { return family(AF_INET6, "AF_INET6"); }
static const char *netlink(void) { return family(AF_NETLINK, "AF_NETLINK"); }
static const char *packet(void) { return family(AF_PACKET, "AF_PACKET"); }
static const char *vsock(void) { return family(40, "AF_VSOCK"); }
static const char *family_high_bits(void) { return syscall(SYS_socket, AF_INET | 1UL << 32, SOCK_DGRAM, 0) >= 0 ? found("upper bits walk through the filter") : NULL; }
static const char *sysv_memory(void) { return ALLOWED(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600), "System V memory outlives the worker"); }
static const char *sysv_queue(void) { return ALLOWED(msgget(IPC_PRIVATE, IPC_CREAT | 0600), "a System V queue can be made"); }
static const char *sysv_semaphore(void) { return ALLOWED(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600), "a System V semaphore can be made"); }
static const char *posix_queue(void) {
    long queue = syscall(SYS_mq_open, "attack", O_CREAT | O_RDWR, 0600, NULL);
    syscall(SYS_mq_unlink, "attack");
    return ALLOWED(queue, "a message queue can be made");
}
static const char *shared_lock(void) {
    int file = open("/usr/bin/env", O_RDONLY);
    return file >= 0 && flock(file, LOCK_SH | LOCK_NB) == 0 ? found("a lock on a file that all tenants share can be taken") : NULL;
}
static const char *record_lock(void) {
    int file = open("/usr/bin/env", O_RDONLY);
    struct flock lock = {.l_type = F_RDLCK};
    return file >= 0 && fcntl(file, F_SETLK, &lock) == 0 ? found("a record lock on a file that all tenants share can be taken") : NULL;
}
static const char *lease(void) {
    int file = open("/usr/bin/env", O_RDONLY);
    return file >= 0 && fcntl(file, F_SETLEASE, F_RDLCK) == 0 ? found("a lease can be taken") : NULL;
}
static const char *keyring(void) { return ALLOWED(syscall(SYS_add_key, "user", "attack", "x", 1, KEY_SPEC_SESSION_KEYRING), "a key can be stored"); }
static const char *kill_init(void) {
    if (kill(1, 0)) return NULL;
    // Inside, pid 1 is the reaper: it may be named, and no signal from inside reaches it.
    if (is_outside()) return found("pid 1 can be signalled");
    kill(1, SIGTERM);
    kill(1, SIGSTOP);
    kill(1, SIGKILL);
    return kill(1, 0) ? found("pid 1 is gone") : NULL;
}
static const char *trace(void) {
    pid_t child = fork();
    if (child == 0) for (;;) pause();
    long result = ptrace(PTRACE_ATTACH, child, 0, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return result == 0 ? found("another process can be traced") : NULL;
}
static const char *read_process(void) {
    char from = 'x', to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1 ? found("process_vm_readv works") : NULL;
}
static const char *take_descriptor(void) {
    int own = (int)syscall(SYS_pidfd_open, getpid(), 0);
    return ALLOWED(syscall(SYS_pidfd_getfd, own, 0, 0), "pidfd_getfd works");
}
static const char *dumpable(void) { return prctl(PR_SET_DUMPABLE, 1) == 0 ? found("dumpability can be changed") : NULL; }
static const char *secure_bits(void) { return prctl(PR_SET_SECUREBITS, 0) == 0 ? found("secure bits can be changed") : NULL; }
static const char *speculation(void) { return prctl(PR_SET_SPECULATION_CTRL, 0, PR_SPEC_ENABLE, 0, 0) == 0 || errno != EPERM ? found("speculation control is reachable") : NULL; }
static const char *capabilities(void) {
    for (int value = 0; value < 41; value++)
        if (prctl(PR_CAPBSET_READ, value) == 1) return found("capability %d is in the bounding set", value);
    return NULL;
}
static const char *change_id(void) { return setresuid(0, 0, 0) == 0 ? found("uid 0 can be taken") : NULL; }
static const char *drop_groups(void) { return setgroups(0, NULL) == 0 ? found("groups can be set") : NULL; }
static const char *set_id_file(void) {
    int file = open("/tmp/attack-setid", O_CREAT | O_WRONLY, 0700);
    int result = file >= 0 && fchmod(file, 04755) == 0;
    unlink("/tmp/attack-setid");
    return result ? found("a set-id file can be made") : NULL;
}
static const char *device_node(void) {
    int result = mknod("/tmp/attack-node", S_IFCHR | 0600, (1 << 8) | 3);
    unlink("/tmp/attack-node");
    return result == 0 ? found("a device node can be made") : NULL;
}
static const char *kernel_program(void) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = attributes.value_size = 4;
    attributes.max_entries = 1;
    return ALLOWED(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes), "bpf works");
}
static const char *performance(void) {
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes, .config = PERF_COUNT_SW_CPU_CLOCK};
    return ALLOWED(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0), "perf_event_open works");
}
static const char *io_ring(void) {
    struct io_uring_params parameters = {0};
    return ALLOWED(syscall(SYS_io_uring_setup, 4, &parameters), "io_uring works");
}
static const char *fault_handler(void) { return ALLOWED(syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd works"); }
static const char *file_handle(void) {
    errno = 0;
    syscall(SYS_open_by_handle_at, -1, NULL, 0);
    return found("open_by_handle_at reaches the kernel");
}
static const char *load_module(void) {
    syscall(SYS_finit_module, -1, "", 0);
    return found("finit_module reaches the kernel");
}
static const char *restart_machine(void) {
    syscall(SYS_reboot, 0, 0, 0, 0);
    return found("reboot reaches the kernel");
}
static const char *set_clock(void) {
    struct timespec nonsense = {-1, -1};
    syscall(SYS_clock_settime, CLOCK_REALTIME, &nonsense);
    return found("clock_settime reaches the kernel");
}
static const char *set_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? found("limits can be set") : NULL;
}
static const char *real_time(void) {
    struct sched_param parameters = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &parameters) == 0 ? found("real-time scheduling can be had") : NULL;
}
static const char *priority(void) { return setpriority(PRIO_PROCESS, 0, -5) == 0 ? found("a better priority can be had") : NULL; }
static const char *victim_score(void) {
    int file = open("/proc/self/oom_score_adj", O_WRONLY);
    if (file < 0) return NULL;
    return write(file, "0", 1) == 1 ? found("the victim score can be lowered") : NULL;
}
static const char *host_name(void) {
    char name[65];
    gethostname(name, sizeof name);
    if (strcmp(name, "worker") != 0) return found("the host's name is visible: %s", name);
    return NULL;
}
static const char *locked_memory(void) {
    void *memory = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mlock(memory, 16 << 20) == 0 ? found("16 MiB can be locked") : NULL;
}

// Leftovers: what one run leaves, the next must not find. Outside there is nothing that clears it.
static const char *leftover(const char *path) {
    if (access(path, F_OK) == 0) {
        unlink(path);
        return found("%s of another worker is there", path);
    }
    int file = open(path, O_CREAT | O_WRONLY, 0666);
    if (file >= 0) close(file);
    if (is_outside()) return leftover(path);
    return NULL;
}
static const char *leftover_shm(void) { return leftover("/dev/shm/attack-leftover"); }
static const char *abstract_socket(void) {
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, "\0attack-host", 12);
    // The suite listens on this name on the host.
    return connect(listener, (struct sockaddr *)&address, sizeof(sa_family_t) + 12) == 0 ? found("an abstract socket of the host answers") : NULL;
}
static const char *leftover_temporary(void) { return leftover("/tmp/attack-leftover"); }
static const char *host_signal(void) {
    // The suite's own pid, as the host knows it. In here the number may be one of ours.
    pid_t pid = (pid_t)number(0);
    if (pid < 2) return found("the case was given no pid");
    if (!is_outside() && (pid == getpid() || pid == getppid())) return NULL;
    return kill(pid, 0) == 0 || errno == EPERM ? found("process %d of the host can be named", pid) : NULL;
}
static const char *peer_process(void) {
    // The kernel hands out a pidfd of whoever is at the other end: it must be of no use. Outside the other end is ours.
    int ends[2] = {3, -1}, peer = -1;
    if (first_own_descriptor == 3 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return NULL;
    socklen_t size = sizeof peer;
    if (getsockopt(ends[0], SOL_SOCKET, 77 /* SO_PEERPIDFD */, &peer, &size)) return NULL;
    if (!is_outside() && first_own_descriptor == 3) return NULL; // our own pair: our own process
    return syscall(SYS_pidfd_send_signal, peer, 0, NULL, 0) == 0 ? found("the process at the other end can be signalled") : NULL;
}

static const struct attack_case own_cases[] = {
    CASE(user_namespace), CASE(mount_namespace), CASE(net_namespace), CASE(pid_namespace), CASE(clone_namespace), CASE(clone_parent),
    CASE(clone3_call), CASE(enter_namespace), CASE(mount_tmpfs), CASE(unmount), CASE(new_mount_api), CASE(change_root), CASE(pivot),
    CASE(write_root), CASE(write_usr), CASE(write_etc), CASE(write_runtime), CASE(write_code), CASE(remount), CASE(host_files),
    CASE(other_processes), CASE(kernel_files), CASE(init_memory), CASE(init_files), CASE(init_limits), CASE(descriptors), CASE(i386), CASE(x32),
    CASE(terminal_input), CASE(terminal_high_bits), CASE(inet), CASE(inet6), CASE(netlink), CASE(packet), CASE(vsock), CASE(family_high_bits),
    CASE(sysv_memory), CASE(sysv_queue), CASE(sysv_semaphore), CASE(posix_queue), CASE(shared_lock), CASE(record_lock), CASE(lease), CASE(keyring),
    CASE(kill_init), CASE(trace), CASE(read_process), CASE(take_descriptor), CASE(dumpable), CASE(secure_bits), CASE(speculation),
    CASE(capabilities), CASE(change_id), CASE(drop_groups), CASE(set_id_file), CASE(device_node), CASE(kernel_program), CASE(performance),
    CASE(io_ring), CASE(fault_handler), CASE(file_handle), CASE(load_module), CASE(restart_machine), CASE(set_clock), CASE(set_limit),
    CASE(real_time), CASE(priority), CASE(victim_score), CASE(host_name), CASE(locked_memory), CASE(leftover_shm), CASE(leftover_temporary),
    CASE(abstract_socket), CASE(host_signal), CASE(peer_process), {NULL, NULL},
};
static const struct attack_case *const tables[] = {own_cases, neighbour_cases, exhaustion_cases};

// The case that `line` names; its arguments are taken out of the line.
static const struct attack_case *chosen(char *line) {
    char *name = strtok(line, " \n");
    for (int i = 0; i < ARGUMENTS; i++) {
        char *word = strtok(NULL, " \n");
        arguments[i] = word ? word : "";
    }
    for (size_t i = 0; name && i < sizeof tables / sizeof *tables; i++)
        for (const struct attack_case *each = tables[i]; each->name; each++)
            if (strcmp(each->name, name) == 0) return each;
    return NULL;
}

static void run_case(const struct attack_case *chosen, char *said, size_t capacity) {
    const char *result = chosen->run();
    if (result) snprintf(said, capacity, "unsafe %s: %s\n", chosen->name, result);
    else snprintf(said, capacity, "safe %s\n", chosen->name);
}

// One order of an invocation. What a child says comes back through memory, so that no descriptor is open but those that the worker was born with.
static void serve(struct bh_context *context, const void *body, size_t length) {
    static char *said;
    enum { ROOM = 1024 };
    char line[512];
    if (!said) said = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1), (const char *)body);
    said[0] = 0;
    const char *problem = NULL;
    if (strncmp(line, "hold ", 5) == 0) problem = hold_resource(line + 5, said, ROOM);
    else if (strncmp(line, "take ", 5) == 0) problem = take_resource(line + 5);
    else if (strcmp(line, "release") == 0) release_resource();
    else {
        const struct attack_case *each = chosen(line);
        if (!each) return bh_error(context, "NoCase", "there is no such case");
        pid_t child = fork();
        if (child == 0) {
            setpgid(0, 0);
            run_case(each, said, ROOM);
            _exit(0);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child) problem = strerror(errno);
        else if (WIFSIGNALED(status)) problem = strsignal(WTERMSIG(status));
    }
    if (problem) return bh_error(context, "Attack", problem);
    bh_reply(context, "text/plain", said, strlen(said));
}

int main(int argc, char **argv) {
    char line[512] = "", said[1024];
    struct stat third;
    if (argc == 1 && fstat(3, &third) == 0 && S_ISSOCK(third.st_mode)) {
        first_own_descriptor = 4;
        return bulkhead_run("native", serve, NULL);
    }
    if (argc > 1) snprintf(line, sizeof line, "%s", argv[1]);
    else if (!fgets(line, sizeof line, stdin)) return 2;
    if (strcmp(line, "list") == 0) {
        for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
            for (const struct attack_case *each = tables[i]; each->name; each++) puts(each->name);
        return 0;
    }
    const struct attack_case *each = chosen(line);
    if (!each) return 2;
    run_case(each, said, sizeof said);
    fputs(said, stdout);
    return 0;
}
