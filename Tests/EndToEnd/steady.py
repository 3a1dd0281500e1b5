# SPDX-License-Identifier: Apache-2.0
"""A node whose daemon changes, and callers at a steady rate that keep everything which was not answered as it should be."""
import json
import subprocess
import threading
import time

from load import Caller
from node import Node

ECHO = "def handler(event, context):\n    return event\n"
# What the handler prints is in the log once for each run.
NOTE = "def handler(event, context):\n    print('ran', event['id'], flush=True)\n    return {}\n"
# Seats times memory and processes stay below the tenant's: no worker has to make room for another.
TENANT = "tenant: acme\nquota: {concurrency: 12, queue: 1000, memory: 3GiB, cpu: 2.0, processes: 4096}\n"


class Life(Node):
    def __init__(self, files=None):
        super().__init__(files or {"tenants.d/acme.yaml": TENANT})

    def daemon(self):
        """The daemons' process numbers, the oldest first."""
        run = subprocess.run(["pgrep", "-P", str(self.process.pid), "-x", "bulkheadd"], capture_output=True, text=True, check=False)
        return [int(word) for word in run.stdout.split()]

    def workers(self, function=None):
        """{host pid: row} of ready and busy workers that have a function."""
        return {row["pid"]: row for row in self.json("ps") if row["function"] and row["state"] in ("ready", "busy") and function in (None, row["function"])}

    def try_restart(self, *words):
        """How `bulkhead restart --json` ends."""
        for _ in range(40):
            run = self.cli("restart", "--json", *words, timeout=120)
            # Two in a moment are refused.
            if run.returncode == 0 or b"just now" not in run.stderr:
                return run
            time.sleep(0.1)
        raise AssertionError("no restart")

    def restart(self, *words):
        """What `bulkhead restart --json` says."""
        run = self.try_restart(*words)
        assert run.returncode == 0, run.stderr.decode()
        return json.loads(run.stdout)


class Load:
    """Calls and events at a steady rate, over connections that last and over new ones; everything that was not answered as it should be is kept."""

    def __init__(self, node, rate, events):
        self.node, self.wrong, self.accepted, self.count = node, [], [], 0
        # (when it was sent, how long it took), in seconds.
        self.taken = []
        self.over, self.lock = threading.Event(), threading.Lock()
        workers = 8
        self.threads = [threading.Thread(target=self.calls, args=(i, workers / rate, i % 4 == 0)) for i in range(workers)]
        self.threads += [threading.Thread(target=self.events, args=(i, 2 / events)) for i in range(2)]
        for thread in self.threads:
            thread.start()

    def paced(self, pause, body):
        due = time.monotonic()
        while not self.over.is_set():
            due += pause
            # What was held up is not made up for at once.
            due = max(due, time.monotonic() - 0.05)
            time.sleep(max(0, due - time.monotonic()))
            begin = time.monotonic()
            try:
                body()
            except OSError as error:
                with self.lock:
                    self.wrong.append(f"{type(error).__name__}: {error}")
            with self.lock:
                self.count += 1
                self.taken.append((begin, time.monotonic() - begin))

    def calls(self, index, pause, is_fresh):
        caller, number = Caller(self.node), 0

        def call():
            nonlocal caller, number
            number += 1
            if is_fresh:
                caller = Caller(self.node)
            answer = caller.call("echo", {"n": [index, number]})
            if answer.status != 200 or answer.json() != {"n": [index, number]}:
                self.wrong.append(f"{answer.status}: {answer.body[:200]}")
            if is_fresh:
                caller.close()
        self.paced(pause, call)

    def events(self, index, pause):
        caller, number = Caller(self.node), 0

        def send():
            nonlocal number
            number += 1
            name = f"e{index}-{number}."
            answer = caller.call("note", {"id": name}, headers={"Content-Type": "application/json", "Bulkhead-Invocation-Type": "async"})
            if answer.status == 202:
                self.accepted.append(name)
            else:
                self.wrong.append(f"event: {answer.status}: {answer.body[:200]}")
        self.paced(pause, send)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        return self

    def stall(self, percent, begin=0.0, end=float("inf")):
        """What so many per cent of the calls sent in this time stay below, in milliseconds; 100: the longest."""
        found = sorted(took for sent, took in self.taken if begin <= sent <= end)
        return found[min(len(found) - 1, int(len(found) * percent / 100))] * 1000 if found else 0


def ran(node):
    """{event: how often it ran}, from the log."""
    counts = {}
    for line in node.cli("logs", "acme/note", "--tail", "10000", timeout=60).stdout.decode().splitlines():
        if " ran " in line or line.startswith("ran "):
            name = line.rsplit(" ", 1)[1]
            counts[name] = counts.get(name, 0) + 1
    return counts
