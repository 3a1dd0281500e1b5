# SPDX-License-Identifier: Apache-2.0
"""Starts that must be refused by name: a state that has lost its database, and hosts that cannot give the seal."""
import contextlib
import json
import os
import shutil
import subprocess
import sys

from hostile_kills import CODE, QUOTA
from node import BIN, PATIENCE, Node, python, wait_for


def refused(command, *texts, **more):
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60 * PATIENCE, check=False, **more)
    said = run.stderr.decode()
    assert run.returncode != 0 and b"READY" not in run.stdout, (run.returncode, run.stdout, said)
    for text in texts:
        assert text in said, f"{text!r} is not in {said!r}"
    return run.returncode


def lost_database(suite):
    def lost():
        node = Node({"tenants.d/acme.yaml": QUOTA}).start()
        try:
            node.deployed(python("hello"), {"main.py": CODE % 5})
            node.stop()
            data = os.path.join(node.state, "data")
            code = os.listdir(os.path.join(data, "code"))
            assert code
            files = [name for name in os.listdir(data) if name.startswith("bulkhead.sqlite")]
            away = os.path.join(node.base, "away")
            os.mkdir(away)
            for name in files:
                shutil.move(os.path.join(data, name), away)
            for size in (None, 0):
                if size is not None:
                    open(os.path.join(data, "bulkhead.sqlite"), "w").close()
                refused(node.command(), "bulkhead.sqlite is missing or empty", "bulkhead restore", "move")
                assert os.listdir(os.path.join(data, "code")) == code, "the code was removed"
                assert size is not None or not os.path.exists(os.path.join(data, "bulkhead.sqlite"))
            for name in files:
                shutil.move(os.path.join(away, name), os.path.join(data, name))
            node.start()
            assert int(node.invoke("hello", b"1")[2]) == 5
            node.stop()
            # The other way out: the code moves away, and the node is a new one.
            for name in files:
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(data, name))
            shutil.rmtree(os.path.join(data, "code"))
            os.mkdir(os.path.join(data, "code"))
            owner = os.stat(data)
            os.chown(os.path.join(data, "code"), owner.st_uid, owner.st_gid)
            node.start()
            assert node.json("functions") == []
        finally:
            node.remove()
    suite.check("a state that has lost its database is refused with the ways out, and its code stays", lost)


class OldNode(Node):
    """A node that a command starts: on a host that it makes another one."""

    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix

    def command(self):
        return [*self.prefix, *super().command()]


def doctors(node, prefix, status=0):
    """What `doctor` finds in the host that a command makes, by name."""
    run = subprocess.run([*prefix, os.path.join(BIN, "bulkhead"), "doctor", "--json", "--state", node.state], capture_output=True, timeout=60 * PATIENCE, check=False)
    assert run.returncode == status and not run.stderr, (run.returncode, run.stdout, run.stderr)
    return {check["name"]: check for check in json.loads(run.stdout)}


def weak_hosts(suite):
    def weak(prefix, lacking):
        """The node is refused for what is lacking, and `doctor` names that as required, nothing else, with the way out."""
        node = Node()
        try:
            assert refused([*prefix, *node.command()], "cannot give the seal", lacking, "doctor") == 1
            found = doctors(node, prefix, status=1)
            assert [name for name, check in found.items() if check["state"] == "required"] == [lacking], found
            assert found[lacking]["found"] == "not there" and found[lacking]["remedy"] and found[lacking]["neededFor"], found[lacking]
            return found[lacking]["remedy"]
        finally:
            node.remove()

    def without(mount):
        return ["unshare", "-m", "sh", "-c", f'umount -l {mount} && exec "$@"', "sh"]

    def groups():
        weak(without("/sys/fs/cgroup"), "cgroups")
    suite.check("a host without cgroups is refused by name, by doctor too", groups)

    def controller():
        if not os.path.ismount("/sys/fs/cgroup/memory"):
            return "the controllers of this machine have no mounts of their own (cgroup v2)"
        assert "cgroup_enable=memory" in weak(without("/sys/fs/cgroup/memory"), "cgroups")
    suite.check("a host whose cgroups count no memory is refused by name, by doctor too", controller)

    def old():
        with open("/proc/self/mounts") as file:
            unified = [fields[1] for fields in map(str.split, file) if fields[2] == "cgroup2"]
        if not unified or not os.path.ismount("/sys/fs/cgroup/memory"):
            return "this machine does not have cgroups of both versions"
        inside = without(" ".join(unified))
        node = OldNode(inside)
        try:
            found = doctors(node, inside)
            assert all(check["state"] == "ok" for check in found.values()) and found["cgroups"]["found"].startswith("v1"), found
            node.start()
            node.deployed(python("hello"), {"main.py": CODE % 5}, tenant="default")
            assert int(node.invoke("hello", b"1", tenant="default")[2]) == 5
            worker = next(row for row in node.json("ps") if row["function"] == "hello")
            assert node.json("inspect", worker["worker"])["score"] == 0
            with open(f"/proc/{worker['pid']}/cgroup") as file:
                places = dict(line.strip().split(":", 2)[1:] for line in file)
            assert places[""] == "/" and all(node.cgroup() in places[name] for name in ("memory", "pids", "cpu")), places
            # Its ceilings and its end are those of any host: processes that left the session end with the call.
            node.deployed(python("eats", "timeout: 30s\n"), {"main.py": "def handler(e, c):\n    return len(bytearray(512 << 20))\n"}, tenant="default")
            status, _, body = node.invoke("eats", b"1", tenant="default")
            assert status == 507 and json.loads(body)["code"] == "outOfMemory", (status, body)
            node.deployed(python("hides", f"timeout: {round(2 * PATIENCE)}s\n"), {"main.py": (
                "import os, time\ndef handler(e, c):\n    for _ in range(5):\n        if os.fork() == 0:\n            os.setsid()\n            time.sleep(999)\n"
                "    time.sleep(999)\n")}, tenant="default")
            status, _, body = node.invoke("hides", b"1", tenant="default")
            assert status == 504 and json.loads(body)["code"] == "timedOut", (status, body)
            node.stop()
            wait_for(lambda: not node.leftovers(), 5, f"an empty host, left are {node.leftovers()}")
        finally:
            node.remove()
    suite.check("a host of version 1 cgroups alone is no weak one: doctor says so, and workers start, have their ceilings and end", old)

    def namespaces():
        assert "user.max_user_namespaces" in weak([sys.executable, "-c", WITHOUT_NAMESPACES], "user namespaces")
    suite.check("a host without user namespaces is refused by name, by doctor too", namespaces)


# Runs a command as root of a user namespace of all ids, within which none may be made: what a host looks like whose kernel or setting forbids them.
WITHOUT_NAMESPACES = """
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0  # CLONE_NEWUSER, CLONE_NEWNS
    os.write(ready[1], b"1")
    assert os.read(go[0], 1) == b"1"
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    os.execv(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write("0 0 4294967295")
os.write(go[1], b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
