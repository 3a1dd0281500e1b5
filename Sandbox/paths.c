// SPDX-License-Identifier: Apache-2.0
// Stage 40: Landlock on top of the mount namespace. Read and execute everywhere, write only where a worker has something of its own;
// no abstract socket and no signal leaves the worker, also where a namespace were to fail us. landlock(7).
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <linux/landlock.h>

// Newer than the distribution's header.
struct ruleset { uint64_t files, network, scopes; };
#define RIGHTS_ABI1 ((1ULL << 13) - 1)
#define READ_RIGHTS (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define REFER (1ULL << 13)
#define TRUNCATE (1ULL << 14)
#define IOCTL_DEVICE (1ULL << 15)
#define SCOPES 3ULL

static int allow(int ruleset, const char *path, uint64_t rights) {
    struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = (int)RAW(openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0)};
    if (rule.parent_fd < 0) return -1;
    long result = RAW(landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    RAW(close, rule.parent_fd);
    return (int)result;
}

void sbx_restrict_paths(const struct sbx_plan *plan, int report_fd) {
    int abi = plan->landlock_abi;
    struct ruleset rules = {.files = RIGHTS_ABI1};
    if (abi >= 2) rules.files |= REFER;
    if (abi >= 3) rules.files |= TRUNCATE;
    if (abi >= 5) rules.files |= IOCTL_DEVICE;
    if (abi >= 4 && !plan->network) rules.network = 3; // TCP bind and connect
    if (abi >= 6) rules.scopes = SCOPES;
    size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    int ruleset;
    STAGE(plan, report_fd, SBX_LANDLOCK, (ruleset = (int)RAW(landlock_create_ruleset, &rules, size, 0)) < 0);
    STAGE(plan, report_fd, SBX_LANDLOCK, allow(ruleset, "/", READ_RIGHTS));
    // Device nodes and sockets cannot be made anywhere; everything else is the worker's own business in its own file systems.
    uint64_t own = rules.files & ~(uint64_t)(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | IOCTL_DEVICE);
    STAGE(plan, report_fd, SBX_LANDLOCK, allow(ruleset, "/tmp", own) || allow(ruleset, "/dev/shm", own));
    // A bucket has files and directories and nothing else: a node or a link in it would be met by the daemon and by other workers.
    uint64_t plain = own & ~(uint64_t)(LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_SYM);
    STAGE(plan, report_fd, SBX_LANDLOCK, allow(ruleset, "/buckets", plain));
    STAGE(plan, report_fd, SBX_LANDLOCK, allow(ruleset, "/dev", READ_RIGHTS | LANDLOCK_ACCESS_FS_WRITE_FILE | (rules.files & TRUNCATE)));
    STAGE(plan, report_fd, SBX_LANDLOCK, RAW(landlock_restrict_self, ruleset, 0));
    RAW(close, ruleset);
}
