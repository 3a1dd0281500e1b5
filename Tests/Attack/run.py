#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every hostile case, outside as root (must be able to say "unsafe") and inside workers with a second tenant beside them (must say "safe")."""
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from node import TENANTS, Node, Suite, python, wait_for  # noqa: E402
from targets import KEY, WITNESS, clear, host_neighbour, host_objects  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
# Cases that a host may be safe from by itself, with the reason: there they cannot show that they would see a hole.
HOST_DEPENDENT = {
    "init_memory": "the host's pid 1 may be shielded from root",
    "vsock": "the host may lack AF_VSOCK", "packet": "the host may lack AF_PACKET", "inet6": "the host may lack IPv6",
    "io_ring": "the host may forbid io_uring", "fault_handler": "the host may forbid userfaultfd", "performance": "the host may forbid perf_event_open",
    "x32": "the kernel may lack x32", "i386": "the kernel may lack the 32-bit gate", "real_time": "root may lack CAP_SYS_NICE",
    "keyring": "the kernel may lack keyrings", "posix_queue": "the kernel may lack message queues", "terminal_input": "the host may have no /dev/ptmx",
    "peer_process": "the kernel may lack SO_PEERPIDFD", "neighbour_queue": "the kernel may lack message queues",
    "exhaust_inotify_instances": "the host may allow a user more than one process may open", "exhaust_inotify_watches": "the host may allow more than the case makes",
    "exhaust_pipe_pages": "the host may not bound them",
    "exhaust_memory_maps": "maps are counted by process, so there is nothing to take from another one",
}
# These end the worker by design; that it was ended, and for what, is the safe answer.
TRIPWIRES = {"pivot": "pivot_root", "file_handle": "open_by_handle_at", "load_module": "finit_module", "restart_machine": "reboot", "set_clock": "clock_settime",
             "i386": "", "x32": ""}
MANIFEST = "memory: 256MiB\nprocesses: 64\ntimeout: 20s\n"
FILES, SIGNALS = 1024, 256  # what a worker may have of each, whatever its manifest says
WORKERS = ("attack", "native")  # the runtimes `command`, where the hostile program has no fd 3, and `native`, where it has


def sysctl(name):
    with open(f"/proc/sys/{name}") as file:
        return int(file.read())


def bounds():
    """What one worker may have at most: the argument of each case that counts."""
    return {"many_files": FILES, "many_processes": 64, "many_signals": SIGNALS, "many_inodes": 16384, "fill_temporary": 64, "exhaust_timers": SIGNALS,
            "exhaust_inotify_instances": sysctl("fs/inotify/max_user_instances"), "exhaust_inotify_watches": sysctl("fs/inotify/max_user_watches"),
            "exhaust_pipe_pages": sysctl("fs/pipe-user-pages-soft") // 256 or FILES // 2, "exhaust_eventfds": FILES, "exhaust_epoll_watches": (FILES // 2) ** 2,
            "exhaust_memory_maps": sysctl("vm/max_map_count") + 1, "exhaust_threads": 64, "exhaust_sent_descriptors": FILES + 250,
            "exhaust_shared_memory": 16}


def words_of(name, neighbour):
    """The case's line: its name and what it is told."""
    words = [name]
    if name == "host_signal":
        words.append(os.getpid())
    elif name.startswith("neighbour_"):
        words += neighbour
    elif name in bounds():
        words.append(bounds()[name])
    return " ".join(map(str, words))


def main():
    suite = Suite("attack")
    with program() as path, host_objects():
        outside(suite, path)
        inside(suite, path, Node(TENANTS))
    return suite.close()


@contextlib.contextmanager
def program():
    folder = tempfile.mkdtemp(prefix="bulkhead-attack-", dir="/var/tmp")
    try:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "attack")
        sources = [os.path.join(HERE, f"{name}.c") for name in ("attack", "neighbour", "exhaustion")]
        subprocess.run(["cc", "-O1", "-static", "-w", "-o", path, *sources, "-lpthread"], check=True)
        yield path
    finally:
        subprocess.run(["rm", "-rf", folder], check=False)
        clear()


def names_of(path):
    return subprocess.run([path, "list"], capture_output=True, text=True, check=True).stdout.split()


def outside(suite, path):
    environment = {**os.environ, "ATTACK_OUTSIDE": "1"}
    with host_neighbour(os.path.dirname(path)) as neighbour:
        for name in names_of(path):
            def unsealed(name=name):
                run = subprocess.run([path, words_of(name, neighbour)], capture_output=True, text=True, timeout=60, env=environment,
                                     cwd=os.path.dirname(path), start_new_session=True)
                if run.stdout.startswith("unsafe "):
                    return None
                if name in HOST_DEPENDENT:
                    return f"says {run.stdout.strip() or run.returncode} here: {HOST_DEPENDENT[name]}"
                raise AssertionError(f"says {run.stdout.strip()!r} (status {run.returncode}): the case cannot see a hole")
            suite.check(f"outside: {name} says unsafe", unsealed)


@contextlib.contextmanager
def few_signals():
    """What is started here may have few pending signals: what a worker may have must not be a share of what its spawner may."""
    limit, (soft, hard) = 11, resource.getrlimit(11)  # RLIMIT_SIGPENDING
    resource.setrlimit(limit, (SIGNALS + 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


def inside(suite, path, node):
    """Every case in workers of `node`, which is started for it and stopped after it; tenants acme and globex."""
    try:
        with few_signals():
            node.start()
        with open(path, "rb") as file:
            files = {"attack": file.read()}
        node.deployed(f"function: attack\nruntime: command\nhandler: ./attack\n{MANIFEST}", files)
        for tenant in ("acme", "globex"):
            node.deployed(f"function: native\nruntime: native\nhandler: ./attack\n{MANIFEST}", files, tenant=tenant)
        node.deployed(python("witness"), {"main.py": WITNESS}, tenant="globex")
        witness(node)
        words = neighbour_of(node)
        for function in WORKERS:
            for name in names_of(path):
                if not name.startswith("exhaust_"):
                    suite.check(f"inside {function}: {name} is safe", lambda: sealed(node, function, name, words))
        for name in filter(lambda name: name.startswith("exhaust_"), names_of(path)):
            suite.check(f"inside: {name} leaves enough for another tenant", lambda: exhausted(node, name))
        suite.check("a prewarmed worker has the descriptors that it was born with", lambda: prewarmed(node))
        suite.check("no live worker has a hole, seen from outside", lambda: posture(node))
        suite.check("nothing of a worker is left for the next, nor for another tenant's", lambda: separate(node, files))
    finally:
        suite.check("the node stops and leaves nothing", lambda: (node.stop(), wait_for(lambda: not node.leftovers(), 5, "an empty host"))[0])
        node.remove()


def witness(node):
    """That the other tenant's worker answers, and which it is."""
    status, _, body = node.invoke("witness", b'"alive"', tenant="globex")
    assert status == 200 and json.loads(body)["echo"] == "alive", f"the other tenant does not answer: {status} {body[:200]}"
    return json.loads(body)["worker"]


def neighbour_of(node):
    """The other tenant's worker, as the host knows it."""
    row = next(row for row in node.json("ps") if row["function"] == "witness")
    with open(f"/proc/{row['pid']}/status") as file:
        reaper = re.search(r"PPid:\s*(\d+)", file.read()).group(1)
    return [reaper, row["pid"], row["uid"], node.state, KEY]


def sealed(node, function, name, words):
    before = witness(node)
    status, _, body = node.invoke(function, words_of(name, words).encode() + b"\n", headers={"Content-Type": "text/plain"})
    text = body.decode(errors="replace")
    if name in TRIPWIRES and status in (500, 502):
        detail = json.loads(text)["detail"]
        assert f"system call {TRIPWIRES[name]}" in detail or "foreign ABI" in detail or "SIGSYS" in detail or "Bad system call" in detail, detail
    else:
        assert status == 200 and text.strip() == f"safe {name}", f"status {status}: {text[:300]}"
    assert witness(node) == before, "the other tenant's worker is another one"


def order(node, tenant, words):
    status, _, body = node.invoke("native", words.encode(), tenant=tenant, headers={"Content-Type": "text/plain"})
    assert status == 200, f"{words} of {tenant}: status {status}: {body[:300]}"
    return body.decode()


def exhausted(node, case):
    """One worker holds all that it can get; meanwhile another tenant's gets what it needs, and the daemon starts workers and takes code."""
    name, most = case.removeprefix("exhaust_"), bounds()[case]
    order(node, "globex", f"take {name}")  # else the other half of this proves nothing
    said = order(node, "acme", f"hold {name}")
    try:
        held, reason = re.fullmatch(r"held (\d+) until (E[A-Z]+)", said).groups()
        assert 8 <= int(held) <= most, f"{said}, {most} are promised"
        order(node, "globex", f"take {name}")
        witness(node)
        version = node.deployed(python("fresh"), {"main.py": f"def handler(event, context):\n    return {case!r}\n"}, tenant="globex")
        assert version and node.invoke("fresh", tenant="globex")[2] == case.encode(), "the daemon starts no worker any more"
        return None
    finally:
        order(node, "acme", "release")


PREWARMED = """
import os, socket, stat


def handler(event, context):
    found = {}
    for number in range(1024):
        try:
            status = os.fstat(number)
        except OSError:
            continue
        found[number] = [stat.filemode(status.st_mode)[0], os.get_inheritable(number), os.readlink(f"/proc/self/fd/{number}").split(":")[0]]
    own = socket.socket(fileno=os.dup(3))
    return {"found": found, "family": own.family, "type": own.type, "peer": own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12).hex()}
"""


def prewarmed(node):
    node.deployed(python("descriptors"), {"main.py": PREWARMED})
    answer = json.loads(node.invoke("descriptors")[2])
    kinds = {number: (kind, link) for number, (kind, _, link) in answer["found"].items()}
    assert kinds == {"0": ("c", "/dev/null"), "1": ("p", "pipe"), "2": ("p", "pipe"), "3": ("s", "socket")}, answer
    assert (answer["family"], answer["type"]) == (1, 1), "fd 3 is a connected Unix stream socket"
    assert answer["peer"][:8] == "00000000", f"the supervisor's process has a number in here: {answer['peer']}"


def posture(node):
    for row in node.json("ps"):
        report = node.json("inspect", row["worker"])
        assert report["score"] == 0, (row["worker"], report["holes"])


def separate(node, files):
    # The next worker of the tenant finds nothing of the one before it, nor does the first of another tenant.
    # On a slow machine the one that ran the cases may have gone by now: this one leaves the same.
    for case in ("leftover_shm", "leftover_temporary"):
        node.invoke("attack", case.encode() + b"\n")
    row = next(r for r in node.json("ps") if r["function"] == "attack")
    os.kill(row["pid"], 9)
    wait_for(lambda: row["worker"] not in [r["worker"] for r in node.json("ps")], 15, "the end of the worker")
    node.deployed(f"function: attack\nruntime: command\nhandler: ./attack\n{MANIFEST}", files, tenant="globex")
    for tenant in ("acme", "globex"):
        for case in ("leftover_shm", "leftover_temporary"):
            assert node.invoke("attack", case.encode() + b"\n", tenant=tenant)[2].strip() == b"safe " + case.encode(), (tenant, case)


if __name__ == "__main__":
    sys.exit(main())
