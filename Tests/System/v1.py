#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Inside a second machine, whose kernel was told to keep its controllers on cgroup v1 and has no v2: the package installed, its limits looked at, killed, stopped, purged."""
import os
import signal
import sys
import time

from unit import SLOW, UNIT, Service, sh, show
import guest  # noqa: I001
from node import Node, Suite, wait_for

node = guest.node = Service()
FORKS = "import os\ndef handler(e, c):\n    count = 0\n    try:\n        while count < 200:\n            if os.fork() == 0:\n                os.read(os.pipe()[0], 1)\n            count += 1\n" \
    "    except OSError:\n        pass\n    return count\n"


def place(controller, row, file):
    with open(f"/sys/fs/cgroup/{controller}{row['cgroup']}/{file}") as text:
        return int(text.read())


def without():
    kinds = {line.split()[2] for line in open("/proc/self/mounts")}
    assert "cgroup" in kinds and "cgroup2" not in kinds, kinds


def limits():
    """Below the hierarchies' roots: the service manager gives no part of a v1 hierarchy away."""
    row = next(row for row in node.json("ps") if row["function"] == "echo")
    found = [place("memory", row, "memory.limit_in_bytes"), place("pids", row, "pids.max") > 0, place("cpu", row, "cpu.cfs_quota_us") > 0]
    assert found == [96 << 20, True, True], (row, found)
    node.deployed("function: forks\nruntime: python3\nhandler: main.handler\nmemory: 64MiB\nprocesses: 20\ntimeout: 30s\n", {"main.py": FORKS})
    status, _, body = node.invoke("forks", b"1")
    assert status == 200 and 5 < int(body) < 20, (status, body[:300])
    guest.bomb()


def workers():
    """Processes with a worker's user id."""
    def uid(pid):
        try:
            with open(f"/proc/{pid}/status") as file:
                return int(file.read().split("Uid:")[1].split()[0])
        except (OSError, IndexError):
            return 0
    return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if uid(pid) in node.uids()[2:]]


def killed():
    """No cgroup of the unit holds the workers here, and still none outlives a service that is killed."""
    assert workers()
    main, before = node.main, set(workers())
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: not before & set(workers()), SLOW, "the end of the killed service's workers")
    wait_for(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", SLOW, "the service")
    node.answers_again()
    assert node.main != main


def replaced():
    """New programs in place, with the same workers."""
    node.answers()
    main, before = node.main, {row["worker"] for row in node.json("ps") if row["function"] == "echo"}
    assert node.cli("restart").returncode == 0
    node.answers_again()
    assert node.main == main and {row["worker"] for row in node.json("ps") if row["function"] == "echo"} == before


def stopped():
    assert Node.leftovers(node), "what looks for leftovers sees nothing of a node that runs"
    node.stop()
    wait_for(lambda: not Node.leftovers(node), SLOW, "an empty host")
    assert show("Result") == "success", show("Result")
    sh("systemctl", "start", UNIT)
    node.answers_again()


TESTS = [
    ("the controllers are on v1, and there is no v2", without), ("the package installs, and the service is active", guest.install),
    ("doctor finds nothing that is required", guest.doctor), ("tenants by reload", guest.tenants), ("python and native functions answer", guest.functions),
    ("limits of memory and processes hold", limits), ("a killed daemon comes back", guest.killed_daemon), ("a restart in place keeps the workers", replaced),
    ("no worker outlives a service that is killed", killed), ("stop leaves no process, cgroup or mount", stopped), ("purge leaves nothing", guest.purged),
]


def main():
    suite = Suite("system on cgroup v1")
    began = time.monotonic()
    for name, body in TESTS:
        guest.timed(suite, name, body)
    print(f"figure: on cgroup v1 all of it took, seconds: {time.monotonic() - began:.0f}")
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
