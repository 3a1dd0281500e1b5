# SPDX-License-Identifier: Apache-2.0
"""Processor time that is on the bill whatever becomes of the daemon."""
import contextlib
import http.client
import json
import os
import signal
import threading

from node import python, wait_for

# Uses as much of a processor, and says how much its process has used.
BURN = "import time\ndef handler(event, context):\n    end = time.process_time() + event['seconds']\n    while time.process_time() < end:\n        pass\n    return time.process_time()\n"


def bill(suite, node):
    def killed():
        node.deployed(python("burn", "timeout: 60s\n"), {"main.py": BURN})

        def billed():
            return sum(row["cpuSeconds"] for row in node.json("usage") if row["function"] == "burn")

        def used(pid):
            with open(f"/proc/{pid}/stat") as file:
                return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")

        def crashed():
            old = node.daemon()
            os.kill(old[0], signal.SIGKILL)
            wait_for(lambda: node.daemon() not in ([], old), 20, "a new daemon")
            wait_for(lambda: node.request("GET", "/readyz")[0] == 200, 20, "a daemon that serves")
        # A worker that was idle, and ended before anybody asked what it had used.
        spent = json.loads(node.invoke("burn", b'{"seconds": 0.6}')[2])
        crashed()
        wait_for(lambda: billed() >= spent, 10, f"{spent} s of processor time on the bill, and not {billed()}")
        first = billed()
        assert first < spent + 0.5, (first, spent)
        # One that runs, of which a part is on the bill already.
        told = []

        def lost():
            with contextlib.suppress(OSError, http.client.HTTPException):
                told.append(node.invoke("burn", b'{"seconds": 50}'))

        def busy():
            assert not told, told
            return [pid for pid, row in node.workers("burn").items() if row["state"] == "busy"]
        runs = threading.Thread(target=lost)
        runs.start()
        pid, = wait_for(busy, 20, "the worker")
        wait_for(lambda: used(pid) > 2, 30, "two seconds of processor time")
        node.workers()
        part = billed()
        assert part > first + 1.8, (part, first)
        wait_for(lambda: used(pid) > 3.5, 30, "more of it")
        # From here on it uses no more: what it may use beyond a figure that was read is bounded by nothing.
        os.kill(pid, signal.SIGSTOP)
        last = used(pid)
        crashed()
        runs.join()
        wait_for(lambda: billed() >= first + last, 10, f"{first + last} s on the bill, and not {billed()}")
        total = billed()
        assert total < first + last + 1, (total, first, last)
        # And once: neither the next daemon nor one in its place is told it again.
        crashed()
        node.restart()
        node.workers()
        assert billed() == total, (billed(), total)
    suite.check("what workers used when their daemon was killed is on the bill of the next, once", killed)
