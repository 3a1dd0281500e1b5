# SPDX-License-Identifier: Apache-2.0
"""A disk that fails under a node: its writes end in errors, not in "no space". Nothing that was confirmed may be lost, and nothing is confirmed that is not there."""
import contextlib
import json
import os
import subprocess
import time

from load import daemon
from node import NO_DISK, Node, python, small_disk, wait_for

ECHO = "def handler(event, context):\n    return event\n"
TENANT = "tenant: acme\nquota: {concurrency: 4, queue: 50, memory: 1GiB, cpu: 2.0, processes: 512}\n"


def sh(*words):
    return subprocess.run(words, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def thin_disk(base):
    """A file system on a disk that promises more than it has: when `base` is full, what is flushed to it fails (EIO). Yields its folder and a function that attaches it
    anew; None where this machine has no loop devices."""
    image, place = f"{base}/image", f"{base}/m"
    os.mkdir(place)
    with open(image, "w") as file:
        file.truncate(300 << 20)
    if sh("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=1", image).returncode:
        yield None, "mkfs.ext4 is missing"
        return

    def attach():
        return sh("mount", "-o", "loop,errors=remount-ro", image, place)
    made = attach()
    if made.returncode:
        yield None, f"no loop device can be mounted here: {made.stderr.strip()}"
        return
    os.chmod(place, 0o755)

    def anew():
        wait_for(lambda: sh("umount", place).returncode == 0, 20, "the end of whoever uses the disk")
        wait_for(lambda: attach().returncode == 0, 20, "the disk")
    try:
        yield place, anew
    finally:
        sh("umount", "-l", place)


def run(suite):
    def failing(body):
        with small_disk("60m") as base:
            if not base:
                return NO_DISK
            with thin_disk(base) as (place, anew):
                return body(base, place, anew) if place else anew
    suite.check("a disk whose flushes fail: senders are told so, and what was confirmed before is there when it is mended", lambda: failing(survive))
    suite.check("a disk whose flushes fail: a version of many files, which are flushed as one, is refused", lambda: failing(refuse))


def fill(base, left=0):
    """The disk behind has nothing left then but `left` bytes; the file system above believes that it has 200 MiB."""
    with open(f"{base}/ballast", "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    os.truncate(f"{base}/ballast", os.path.getsize(f"{base}/ballast") - left)


def refuse(base, place, anew):
    node = Node({"tenants.d/acme.yaml": TENANT}, state=os.path.join(place, "s"))
    try:
        node.start()
        node.deployed(python("echo"), {"main.py": ECHO})
        # Room for the first files, each of which is flushed by itself, and for the records.
        fill(base, left=4 << 20)
        told = node.deploy(python("many"), {"main.py": ECHO, **{f"d/{number}": os.urandom(4000).hex() for number in range(1000)}})
        print(f"        {told.stderr.decode().strip()}")
        assert told.returncode == 1 and b"cannot be stored" in told.stderr, told
        end_of(node)
        os.remove(f"{base}/ballast")
        anew()
        node.start()
        assert [function["function"] for function in node.json("functions")] == ["echo"], "what was refused is there"
        assert node.invoke("echo", b"1")[0] == 200
    finally:
        end_of(node)
        node.remove()


def survive(base, place, anew):
    node = Node({"tenants.d/acme.yaml": TENANT}, state=os.path.join(place, "s"))
    try:
        node.start()
        node.deployed(python("echo"), {"main.py": ECHO})
        taken, refused = [], []

        def send():
            try:
                status, _, body = node.invoke("echo", b"x" * 30_000, headers={"Bulkhead-Invocation-Type": "async", "Bulkhead-Delay": "3600s"}, timeout=5)
            except OSError as error:
                refused.append(type(error).__name__)
                return
            if status == 202:
                taken.append(json.loads(body)["id"])
            else:
                refused.append(status)
        for _ in range(30):
            send()
        assert len(taken) == 30, refused
        first = daemon(node)
        fill(base)
        end = time.monotonic() + 60
        while len(refused) < 3 and time.monotonic() < end:
            send()
        assert len(refused) >= 3, f"{len(taken)} were taken, {refused} refused: the disk does not fail"
        confirmed = len(taken)
        assert not [one for one in refused if isinstance(one, int) and one not in (429, 500, 503, 507)], refused
        # It does not go on with a file of which nobody knows what is on the disk.
        wait_for(lambda: "events cannot be stored: the daemon ends and starts again" in node.errors(), 20, "the daemon's word on it")
        wait_for(lambda: not os.path.exists(f"/proc/{first}"), 20, "the end of the daemon whose flush failed")
        assert "/s/data/events/events.sqlite" in node.errors() or "cannot be" in node.errors(), node.errors()[-600:]
        end_of(node)
        os.remove(f"{base}/ballast")
        anew()
        node.start()
        lost = [id for id in taken if node.cli("events", "show", id).returncode != 0]
        print(f"        {confirmed} events were confirmed, then {len(refused)} refused ({sorted(set(map(str, refused)))}); {len(lost)} of the confirmed are lost")
        assert not lost, f"{len(lost)} of {len(taken)} confirmed events are lost"
        assert node.invoke("echo", b"1")[0] == 200
        send()
        assert len(taken) == confirmed + 1, refused[-1]
    finally:
        end_of(node)
        node.remove()


def end_of(node):
    """Ends it, whatever its daemon is able to."""
    if node.process:
        node.process.terminate()
        node.process.wait(60)
        node.process.stdout.close()
        node.log.close()
        node.process = None
