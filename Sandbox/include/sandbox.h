// SPDX-License-Identifier: Apache-2.0
// The sealed start of a worker: the one place where a process gets its namespaces, limits, identity and filter.
// README.md beside this folder is the same ordered list in prose; a test compares the two.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Every step that can fail, in the order in which it happens. A number is never reused and never changes its meaning.
#define SBX_STAGES(X)                                                                             \
    X(1, CLONE, "create the namespaces")                                                          \
    X(2, OOM_SCORE, "make the worker the first victim of a memory shortage")                      \
    X(3, SETGROUPS_DENY, "deny setgroups")                                                        \
    X(4, GID_MAP, "map the group id")                                                             \
    X(5, UID_MAP, "map the user id")                                                              \
    X(6, CGROUP_JOIN, "put the worker into its cgroup")                                           \
    X(7, CGROUP_CHECK, "check that the worker is in its cgroup")                                  \
    X(9, EGRESS, "open the way out")                                                              \
    X(8, GO, "tell the worker to go on")                                                          \
    X(10, PARENT_DEATH, "die with the parent")                                                    \
    X(36, BOUNDING_SET, "empty the capability bounding set")                                      \
    X(26, HOSTNAME, "set a neutral host name")                                                    \
    X(27, CHANNEL, "open the channel between reaper and payload")                                 \
    X(17, PROPAGATION, "cut mount propagation")                                                   \
    X(11, GO_AHEAD, "wait for the parent's go-ahead")                                             \
    X(13, IDENTITY, "take the worker's own ids")                                                  \
    X(12, DUMPABLE, "forbid others to inspect the process")                                       \
    X(14, KEYRING, "take an own session keyring")                                                 \
    X(15, CGROUP_NAMESPACE, "root the cgroup namespace at the worker's cgroup")                   \
    X(16, NO_NESTING, "forbid nested user namespaces")                                            \
    X(28, FORK, "fork the payload")                                                               \
    X(19, TEMPORARY, "mount the private /tmp")                                                    \
    X(20, SHARED_MEMORY, "mount the private /dev/shm")                                            \
    X(21, PROC, "mount a fresh /proc")                                                            \
    X(22, CODE, "mount the code at /function")                                                    \
    X(29, BUCKETS, "mount the buckets at /buckets")                                               \
    X(67, LAYERS, "mount the layers at /layers")                                                  \
    X(25, LOOPBACK, "bring the loopback interface up")                                            \
    X(50, REAPER_DESCRIPTORS, "reduce the reaper's descriptors")                                  \
    X(51, REAPER_PRIVILEGES, "drop the reaper's privileges")                                      \
    X(52, REAPER_FILTER, "load the reaper's filter")                                              \
    X(30, SESSION, "start an own session")                                                        \
    X(31, SIGNALS, "reset signals")                                                               \
    X(32, DESCRIPTORS, "arrange the descriptors 0 to 3")                                          \
    X(33, CLOSE, "close every other descriptor")                                                  \
    X(34, LIMITS, "set the resource limits")                                                      \
    X(35, NESTING_PROOF, "prove that no user namespace can be made")                              \
    X(37, SECUREBITS, "lock the secure bits")                                                     \
    X(38, CAPABILITIES, "drop all capabilities")                                                  \
    X(39, NO_NEW_PRIVILEGES, "forbid new privileges")                                             \
    X(46, ROOT_READY, "wait until the root is finished")                                          \
    X(40, LANDLOCK, "restrict paths, abstract sockets and signals")                               \
    X(41, FILTER, "load the system call filter")                                                  \
    X(42, LISTENER, "hand the filter's listener to the reaper")                                   \
    X(43, ORDER, "wait for the order to execute")                                                 \
    X(44, DIRECTORY, "enter the working directory")                                               \
    X(45, EXECUTE, "execute the program")                                                         \
    X(60, ASSIGN, "mount the code from outside")                                                  \
    X(61, BUCKET_OPEN, "open the bucket")                                                         \
    X(62, BUCKET_MAP, "map the bucket's owner to the worker")                                     \
    X(63, BUCKET_FOLDER, "make the folder of the buckets' mount points")                          \
    X(64, BUCKET_ADD, "mount the buckets from outside")                                           \
    X(65, LAYER_OPEN, "open the layer: it and the folder of all layers must be root's, writable by root alone") \
    X(66, LAYER_FOLDER, "make the folder of the layers' mount points")                            \
    X(68, LAYER_ADD, "mount the layers from outside")

enum sbx_stage {
#define X(number, name, text) SBX_##name = number,
    SBX_STAGES(X)
#undef X
};

// The stage's sentence, or NULL for an unknown number.
const char *sbx_stage_text(uint32_t stage);
// All stage numbers, in order; returns how many.
size_t sbx_stage_list(uint32_t *numbers, size_t capacity);

// Ids that every worker has inside its namespace.
#define SBX_INNER_ID 1000

struct sbx_limit {
    int resource;
    uint64_t value;
};

struct sbx_filter {
    void *instructions; // struct sock_filter[]
    uint16_t count;
};

// A directory to be mounted in a worker: a bucket, or a layer, of which only target and tree_fd are used.
struct sbx_bucket {
    const char *source; // below the root of the buckets
    const char *target; // /buckets/NAME, or a directory below one that is earlier in the list; /layers/NAME
    int is_writable;
    int tree_fd;        // from sbx_buckets_open; -1 before
};
// Who owns buckets on the disk, and the worker that is to see them as its own.
struct sbx_bucket_ids { uint32_t uid, gid, worker; };

// One start, resolved to flat memory. Everything pointed to must live until sbx_spawn returns.
struct sbx_plan {
    uint32_t host_id;           // host uid and gid of the worker
    int network;                // 1: bring loopback up, and open the way out
    int namespace_fd;           // mount namespace prepared by sbx_namespace_seal
    int home_namespace_fd;      // the caller's own mount namespace
    int sysctl_fd;              // from sbx_sysctl_open
    int network_fd;             // network namespace made by sbx_network_make, or -1: one is made now
    int home_network_fd;        // the caller's own network namespace
    int cgroup_fd;              // cgroup v2 directory to be born in, or -1
    const int *join_fds;        // cgroup.procs files (v1) to write the pid to
    size_t join_count;
    const char *cgroup_suffix;  // how lines of /proc/<pid>/cgroup must end, or NULL
    size_t cgroup_lines;        // how many lines must
    int code_fd;                // detached read-only tree for /function, or -1
    int bucket_folder_fd;       // mount with the buckets' mount points for /buckets, or -1
    const struct sbx_bucket *buckets;
    size_t bucket_count;
    int layer_folder_fd;        // mount with the layers' mount points for /layers, or -1
    const struct sbx_bucket *layers;
    size_t layer_count;
    uint64_t temporary_bytes;
    uint32_t temporary_inodes;
    int null_fd, stdout_fd, stderr_fd, control_fd; // become 0, 1, 2, 3
    int report_fd;              // the worker's end of the report socket
    int parent_report_fd;       // the parent's end
    struct sbx_filter filter;
    struct sbx_filter reaper_filter;
    const struct sbx_limit *limits;
    size_t limit_count;
    int oom_score;
    int landlock_abi;           // 0: the kernel has none
    int learns;                 // 1: what the filter (sbx_filter_learn) notices is reported, and goes on; never where tenants' code runs
    int wait_for_order;         // 1: seal, report, wait for sbx_order
    char *const *arguments;     // where wait_for_order is 0
    char *const *environment;
    uint32_t fail_stage;        // test only: this stage fails with EREMOTEIO
};

// Where the way out listens, on the worker's own loopback: the one that HTTP proxies are commonly asked at.
#define SBX_EGRESS_PORT 3128

struct sbx_started {
    int32_t pid;
    int pidfd;
    int egress_fd;         // where the plan has network: a listening TCP socket in the worker's network namespace; else -1
    uint32_t failed_stage; // 0: none
    int32_t error;
};

// Starts a worker. On failure nothing of it is left.
struct sbx_started sbx_spawn(const struct sbx_plan *plan);

// What comes over the report socket, one message each.
enum sbx_report_kind { SBX_REPORT_FAILED = 1, SBX_REPORT_SEALED = 2, SBX_REPORT_ENDED = 3, SBX_REPORT_SYSCALL = 4, SBX_REPORT_LEARNED = 5 };
struct sbx_report {
    uint32_t kind;
    uint32_t first;  // FAILED: stage; ENDED: si_code; SYSCALL: number
    int32_t second;  // FAILED: errno; ENDED: si_status; SYSCALL: 1 native, 0 foreign
    uint32_t arch;   // SYSCALL: AUDIT_ARCH_*
};

// A report of the kind LEARNED: a call that the filter would have refused.
struct sbx_learned {
    uint32_t kind;
    int32_t number;
    uint32_t arch, unused;
    uint64_t arguments[6];
};

// The order to a sealed worker: argument and environment counts, then that many NUL-terminated strings.
#define SBX_ORDER_LIMIT 32768
#define SBX_ORDER_WORDS 256
struct sbx_order {
    uint32_t argument_count;
    uint32_t environment_count;
    char text[];
};

// What a waiting worker is to see of its function.
struct sbx_assignment {
    int code_fd;              // -1: none
    uint64_t temporary_bytes; // 0: as it is
    const struct sbx_bucket *buckets;
    size_t bucket_count;
    int layer_folder_fd;      // -1: no layers
    const struct sbx_bucket *layers;
    size_t layer_count;
    const struct sbx_limit *limits;
    size_t limit_count;
};
// Mounts the code at /function, the buckets at /buckets and the layers at /layers inside the mount namespace of `pid`, a worker that has run no tenant's code yet and whose
// plan had a bucket folder, resizes its /tmp, and lowers the payload's limits to these: it was born with the highest that any function may have,
// for to raise a hard limit again would take a capability. 0, or the stage that failed, and errno.
uint32_t sbx_assign(int home_namespace_fd, int pid, const struct sbx_assignment *what, uint32_t fail_stage);

// Opens each bucket as a mount that nobody sees yet, with the owner's ids mapped to the worker's: nosuid, nodev, noexec, links not followed, read-only unless
// writable. 0, or the stage that failed, with errno and which bucket; what is open by then is in the list. fail_stage is test only.
uint32_t sbx_buckets_open(int root_fd, const struct sbx_bucket_ids *ids, struct sbx_bucket *list, size_t count, uint32_t fail_stage, size_t *which);
// A small read-only file system with their mount points, or those of layers; 0 or errno.
int sbx_bucket_folder(const struct sbx_bucket *list, size_t count, int *folder_fd);

// A read-only mount of a layer that nobody sees yet, nosuid and nodev: the folder `name` in `root`, both of which belong to root and can be written by root alone. No link is
// followed. 0 or errno.
int sbx_open_layer(const char *root, const char *name, int *tree_fd);

// Building the mount namespace that workers of one runtime start in. Each returns 0 or errno.
int sbx_namespace_home(int is_there, int *namespace_fd);                    // own private mount namespace for the caller, unless it is there; a handle on it
int sbx_namespace_begin(const char *scratch);                 // a new namespace with an empty root at scratch
int sbx_bind(const char *source, const char *target, int device); // read-only (recursive) bind; device: keep device access
int sbx_namespace_seal(const char *scratch, int *namespace_fd); // makes the root read-only, drops the host's tree, returns the handle
int sbx_namespace_enter(int namespace_fd);
int sbx_sysctl_open(int *sysctl_fd);                          // a handle on /proc/sys, whose part "user" is that of whoever opens it
int sbx_network_home(int *network_fd);                        // a handle on the caller's own network namespace
int sbx_network_make(int home_network_fd, int *network_fd);   // a new, empty network namespace; nobody is in it yet
int sbx_open_code(int directory_fd, int *tree_fd);            // detached read-only copy of a directory's mount

// Compiling a filter (libseccomp). Actions: 0 allow, -1 tripwire (notify), >0 errno.
struct sbx_condition { unsigned argument; uint64_t mask; uint64_t value; };
void *sbx_filter_begin(int default_errno);
int sbx_filter_add(void *filter, int number, int action, const struct sbx_condition *conditions, size_t count);
int sbx_filter_finish(void *filter, struct sbx_filter *out); // frees the builder; out is malloc'ed
int sbx_reaper_filter(struct sbx_filter *out);
// Makes each refusal of a compiled filter a notice to its listener. Of another ABI nothing can be learned: it still ends the process.
void sbx_filter_learn(struct sbx_filter *filter);

// pipe2(O_CLOEXEC), which Swift's module of the C library hides.
int sbx_pipe(int ends[2]);

// What the host gives.
int sbx_landlock_abi(void);
int sbx_has_notify(void);
int sbx_has_mount_api(void);
int sbx_can_map_mounts(const char *path); // whether the file system of a directory allows mounts with other ids, as buckets need; for root
int sbx_can_user_namespace(void);
// Keeps only the capabilities that the spawner needs (libcap), empties its groups, no core, not dumpable. 0 or errno.
int sbx_reduce_self(void);
// Gives back the memory that only the start of the program needed.
void sbx_forget_start(void);
// capability mask -> text by libcap, caller frees.
char *sbx_capability_text(uint64_t mask);
// The host's uid that owns the process's user namespace, whose share of the host it is counted against; -1 where it cannot be read.
int64_t sbx_namespace_owner(int pid);
