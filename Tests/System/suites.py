# SPDX-License-Identifier: Apache-2.0
"""The suites that run on this machine as anywhere else, beside the service: nodes of their own, on a cgroup tree of version 2 that is the kernel's whole one."""
import ast
import glob
import os
import re
import signal
import subprocess
import sys
import threading
import time

from unit import HERE

# A suite, or the parts of it, that run here.
SUITES = [
    ("run.py",), ("spawner.py", "workers", "restarts"), ("hostile.py", "database", "hosts"), ("machine.py",), ("ceilings.py", "seats"), ("egress.py",), ("traces.py",),
    ("events.py", "basics", "buckets", "dead-letters"), ("backup.py",), ("older.py",), ("restart.py", "calls", "drains"), ("versions.py", "publishing", "rolling-back", "full-disk"),
]
# What does not, and why: said at each run.
NOT_HERE = [
    (("restart.py", "load"), ("re_exec.py",), "their load is more than one emulated processor answers; the upgrade under load judges the same"),
    (("restart.py", "bill"), "it asks for the workers by the command all the time, which takes the one processor from the worker that is to start, and what a spare uses before it has a function is on nobody's bill"),
    (("restart.py", "changes", "signals", "lasting"), ("versions.py", "canaries", "retention"), "they count on moments and seconds of a real processor"),
    (("events.py", "shares", "bucket-loops", "loops", "restarts", "destinations", "routes", "rates", "batches", "alarms", "attacks", "borders"),
     "hundreds of runs, and workers that start beside each other: many minutes here"),
    (("logs.py",), ("transfer.py",), ("spawner.py", "breaches"), ("hostile.py", "disk"), ("ceilings.py", "suspended"),
     "nothing in them hangs on cgroups or on systemd: they pass here, and take four minutes"),
    (("hostile.py", "kills", "floods", "frames", "bucket"), "hundreds of kills, gigabytes, floods, and 200,000 files: many minutes here"),
    (("ceilings.py", "rates", "users", "tokens", "budgets", "reload", "crowds", "watched"), "they judge by tenths of a second, or by more calls than one emulated processor answers"),
    (("layers.py",), "it runs Node.js, too, and layers are mounts, which are the same here"),
    (("outputs.py",), "what commands print is the same on every host"),
    (("templates.py",), "two of the four need Node.js and a compiler, which are not here, and what the others stand for, run.py has run"),
    (("examples.py",), ("shown.py",), ("older_make.py",), "they read the sources, or need a compiler, which are not here"),
    (("documented.py",), "its commands are those of a built tree; the texts' commands for a service are run above"),
    (("service.py",), "its service manager is played; here the real one judges the same"),
]
# Seconds from the machine's start that a suite must have left when it begins: the longest of them, and what comes after all of them.
LEFT = 600
# A suite's closing line.
COUNT = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")


def all_of_them():
    """Each suite's file and parts, as its text has them."""
    for path in glob.glob(os.path.join(HERE, "EndToEnd", "*.py")):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if '\nif __name__ == "__main__":' in text:
            tables = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PARTS"]
            yield os.path.basename(path), *(key.value for table in tables for key in table.keys)


def each_is_named():
    """None is forgotten: every part of every suite runs here, or is said not to."""
    def flat(suites):
        return sorted((file, part) for file, *parts in suites for part in parts or [""])
    there = flat(all_of_them())
    named = flat([*SUITES, *(one for *some, _ in NOT_HERE for one in some)])
    assert len(there) > 30 and there == named, (sorted(set(there) ^ set(named)), len(there), len(named))


def once(file, *words):
    """A suite in a process of its own: its exit status, its lines and its count."""
    said = []
    run = subprocess.Popen([sys.executable, "-u", os.path.join(HERE, "EndToEnd", file), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env={**os.environ, "BULKHEAD_PATIENCE": "8"}, start_new_session=True)
    limit = threading.Timer(600, lambda: os.killpg(run.pid, signal.SIGKILL))
    limit.start()
    for line in run.stdout:
        said.append(line)
        # The closing line is taken over below.
        if not COUNT.match(line):
            print(line, end="", flush=True)
    run.wait()
    limit.cancel()
    return run.returncode, said, next((found for line in reversed(said) if (found := COUNT.match(line))), None)


def elsewhere(suite, figures, file, *words):
    """One of them: its lines and its count are taken over."""
    name = f"{file} {' '.join(words)}".strip()
    began = time.monotonic()
    status, said, count = once(file, *words)
    # On an emulated processor that others share what is broken fails twice; what holds tenants in may not fail once.
    if status and file != "spawner.py":
        print(f"again: {name} failed, and is tried once more", flush=True)
        status, said, count = once(file, *words)

    def passed():
        assert count and int(count[1]) > 0 and status == 0, f"exit {status}: {''.join(said)[-300:]}"
    suite.check(f"{name} passes here too", passed)
    if count:
        suite.passed += int(count[1])
        suite.skipped += [name] * int(count[3])
    figures[f"{name}, seconds"] = round(time.monotonic() - began)


def run(suite, figures, chosen):
    """Those that the pattern matches."""
    suite.check("every suite runs here, or is said not to", each_is_named)
    for words in SUITES:
        if not chosen.search(" ".join(words)):
            continue
        left = int(os.environ.get("SYSTEM_LIMIT", "2000")) - time.clock_gettime(time.CLOCK_BOOTTIME)
        if left < LEFT:
            suite.check(" ".join(words), lambda left=left: f"{left:.0f} s are left of the time that was given")
        else:
            elsewhere(suite, figures, *words)
    if not chosen.pattern:
        for *some, reason in NOT_HERE:
            suite.check(", ".join(" ".join(words) for words in some), lambda reason=reason: reason)
