#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every hostile case, outside as root (must be able to say "unsafe") and inside a worker with a second tenant beside it (must say "safe")."""
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from node import TENANTS, Node, Suite, python, wait_for  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
# Cases that a host may be safe from by itself, with the reason: there they cannot show that they would see a hole.
HOST_DEPENDENT = {
    "init_memory": "the host's pid 1 may be shielded from root",
    "vsock": "the host may lack AF_VSOCK", "packet": "the host may lack AF_PACKET", "inet6": "the host may lack IPv6",
    "io_ring": "the host may forbid io_uring", "fault_handler": "the host may forbid userfaultfd", "performance": "the host may forbid perf_event_open",
    "x32": "the kernel may lack x32", "i386": "the kernel may lack the 32-bit gate", "real_time": "root may lack CAP_SYS_NICE",
    "keyring": "the kernel may lack keyrings", "posix_queue": "the kernel may lack message queues", "terminal_input": "the host may have no /dev/ptmx",
}
# These end the worker by design; that it was ended, and for what, is the safe answer.
TRIPWIRES = {"pivot": "pivot_root", "file_handle": "open_by_handle_at", "load_module": "finit_module", "restart_machine": "reboot", "set_clock": "clock_settime",
             "i386": "", "x32": ""}


def main():
    suite = Suite("attack")
    with program() as path:
        outside(suite, path)
        inside(suite, path, Node(TENANTS))
    return suite.close()


@contextlib.contextmanager
def program():
    folder = tempfile.mkdtemp(prefix="bulkhead-attack-", dir="/var/tmp")
    try:
        path = os.path.join(folder, "attack")
        subprocess.run(["cc", "-O1", "-static", "-w", "-o", path, os.path.join(HERE, "attack.c")], check=True)
        yield path
    finally:
        subprocess.run(["rm", "-rf", folder], check=False)


def names_of(path):
    return subprocess.run([path, "list"], capture_output=True, text=True, check=True).stdout.split()


@contextlib.contextmanager
def host_listener():
    """The abstract socket of the host that a worker must not reach."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0attack-host")
        listener.listen()
        yield


def outside(suite, path):
    environment = {**os.environ, "ATTACK_OUTSIDE": "1", "ATTACK_HOST_PID": str(os.getpid())}
    with host_listener():
        for name in names_of(path):
            def unsealed(name=name):
                run = subprocess.run([path, name], capture_output=True, text=True, timeout=60, env=environment, cwd=os.path.dirname(path), start_new_session=True)
                if run.stdout.startswith("unsafe "):
                    return None
                if name in HOST_DEPENDENT:
                    return f"says {run.stdout.strip() or run.returncode} here: {HOST_DEPENDENT[name]}"
                raise AssertionError(f"says {run.stdout.strip()!r} (status {run.returncode}): the case cannot see a hole")
            suite.check(f"outside: {name} says unsafe", unsealed)


def inside(suite, path, node):
    """Every case in a worker of `node`, which is started for it and stopped after it; tenants acme and globex."""
    try:
        with host_listener():
            node.start()
            with open(path, "rb") as file:
                node.deployed("function: attack\nruntime: command\nhandler: ./attack\nmemory: 256MiB\nprocesses: 64\ntimeout: 20s\n", {"attack": file.read()})
            node.deployed(python("witness"), {"main.py": "def handler(e, c):\n    return e\n"}, tenant="globex")
            for name in names_of(path):
                suite.check(f"inside: {name} is safe", lambda name=name: sealed(node, name))
            suite.check("no live worker has a hole, seen from outside", lambda: posture(node))
            suite.check("nothing of a worker is left for the next", lambda: separate(node))
    finally:
        suite.check("the node stops and leaves nothing", lambda: (node.stop(), wait_for(lambda: not node.leftovers(), 5, "an empty host"))[0])
        node.remove()


def sealed(node, name):
    status, _, body = node.invoke("attack", name.encode() + b"\n", headers={"Content-Type": "text/plain"})
    text = body.decode(errors="replace")
    if name in TRIPWIRES and status in (500, 502):
        detail = json.loads(text)["detail"]
        assert f"system call {TRIPWIRES[name]}" in detail or "foreign ABI" in detail or "SIGSYS" in detail or "Bad system call" in detail, detail
    else:
        assert status == 200 and text.strip() == f"safe {name}", f"status {status}: {text[:300]}"
    status, _, body = node.invoke("witness", b'"alive"', tenant="globex")
    assert status == 200 and body == b"alive", f"the other tenant does not answer: {status} {body[:200]}"


def posture(node):
    for row in node.json("ps"):
        report = node.json("inspect", row["worker"])
        assert report["score"] == 0, (row["worker"], report["holes"])


def separate(node):
    # The next worker of the tenant finds nothing of the one before it.
    row = next(r for r in node.json("ps") if r["function"] == "attack")
    os.kill(row["pid"], 9)
    wait_for(lambda: row["worker"] not in [r["worker"] for r in node.json("ps")], 15, "the end of the worker")
    assert node.invoke("attack", b"leftover_shm\n")[2].strip() == b"safe leftover_shm"


if __name__ == "__main__":
    sys.exit(main())
