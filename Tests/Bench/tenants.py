#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Many tenants: how long a start and a reload of one change take with 1,000, 10,000 and 100,000 files, and what a caller notices meanwhile.
`tenants.py [NUMBER...]`. Figures on standard output; judges nothing."""
import json
import os
import socket
import sys
import threading
import time

from run import row  # before node: it names the folder of that

from node import Node, python
from load import Caller, daemon, resident

QUOTA = "quota:\n  concurrency: {seats}\n  rate: 200/s burst 400\n  queue: 100\n  memory: 1GiB\n  cpu: 2.0\n  processes: 512\n  storage: 1GiB\n"
BUDGET = "  budget:\n    compute: 3600 GB-s/hour\n    invocations: 100000/day\n    zone: Europe/Berlin\nweight: 1\n"


def text(name, seats=50):
    return f"tenant: {name}\n" + QUOTA.format(seats=seats) + BUDGET


def write(node, name, seats=50):
    with open(os.path.join(node.config, "tenants.d", name + ".yaml"), "w") as file:
        file.write(text(name, seats))


class Watcher(threading.Thread):
    """One tenant's caller, without a pause, and the longest that it waited."""

    def __init__(self, node):
        super().__init__()
        self.caller, self.times, self.failed, self.stopped = Caller(node), [], 0, False

    def run(self):
        while not self.stopped:
            began = time.monotonic()
            answer = self.caller.call("hello", b"1", tenant="acme")
            self.times.append(time.monotonic() - began)
            self.failed += answer.status != 200
            time.sleep(0.001)

    def finish(self):
        self.stopped = True
        self.join()
        return f"{len(self.times)} calls, {self.failed} failed, p50 {sorted(self.times)[len(self.times) // 2] * 1e3:.1f} ms, longest {max(self.times) * 1e3:.1f} ms"


def timed(body):
    began = time.monotonic()
    body()
    return time.monotonic() - began


def measure(count):
    node = Node({"tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 8, memory: 1GiB, processes: 512}\n"})
    try:
        for number in range(count - 1):
            write(node, f"t{number:06}")
        time.sleep(2.1)  # files that are newer than that are read again
        row(f"{count} tenants: bulkhead up until READY", "<= 5 s for 100,000", f"{timed(node.start):.2f} s")
        node.deployed(python("hello", "timeout: 30s\n").replace("timeout: 5s\n", ""), {"main.py": "def handler(event, context):\n    return 1\n"}, "acme")
        node.invoke("hello", b"1")
        time.sleep(1)
        for name, change in [("one changed", lambda: write(node, "t000007", 60)), ("nothing changed", lambda: None), ("one added", lambda: write(node, "new"))]:
            change()
            watcher = Watcher(node)
            watcher.start()
            reply = []
            taken = timed(lambda: reply.append(node.cli("reload", "--json", timeout=300)))
            time.sleep(0.1)
            found = watcher.finish()
            assert reply[0].returncode == 0, reply[0].stderr.decode()
            changes = len(json.loads(reply[0].stdout)["changes"])
            row(f"{count} tenants: bulkhead reload, {name}", "<= 2 s for 100,000", f"{taken:.2f} s", f"{changes} change(s); meanwhile {found}")
        watcher = Watcher(node)
        watcher.start()
        taken = timed(lambda: node.cli("reload", "--dry-run", timeout=300))
        row(f"{count} tenants: bulkhead reload --dry-run", "", f"{taken:.2f} s", f"meanwhile {watcher.finish()}")
        watcher = Watcher(node)
        watcher.start()
        size = []
        taken = timed(lambda: size.append(len(scrape(node))))
        time.sleep(0.05)
        row(f"{count} tenants: one scrape of /metrics", "", f"{taken:.2f} s", f"{size[0] >> 10} KiB; meanwhile {watcher.finish()}")
        row(f"{count} tenants: resident memory of bulkheadd", "", f"{resident(daemon(node)) >> 20} MiB")
    finally:
        node.remove()


def scrape(node):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(node.control)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        out = b""
        while data := connection.recv(1 << 20):
            out += data
        assert b" 200 " in out[:20], out[:200]
        return out


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ["1000", "10000", "100000"]):
        measure(number)
