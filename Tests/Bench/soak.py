#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whether a node that is used hard for a while grows: calls, events that are retried and given up, bucket writes that start functions, deaths of workers of every kind, deploys, reloads,
keys, logs that rotate, and at last new daemons and spawners, all at once. `soak.py [MINUTES]`, 10 unless told.

Judged are memory of daemon and spawner (by a line through the samples after the warm-up), their descriptors and threads, cgroups, mounts, processes, and files and bytes in the state
directory: what a quiet node has after the warm-up it must have after the rest, too. Exit status 1 where something grew."""
import contextlib
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from load import Caller  # noqa: E402
from node import python, wait_for  # noqa: E402
from steady import Life  # noqa: E402

FILES = {
    # Rotation and retention within minutes.
    "bulkhead.yaml": "logs: {perTenant: 1MiB, age: 1h}\nretention: {versions: 3, age: 1s}\n",
    "tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 16, queue: 1000, memory: 3GiB, cpu: 2.0, processes: 4096, storage: 256MiB}\n",
}
IDLE = "workers: {idle: 2s, max: 4}\n"
ECHO = "def handler(event, context):\n    print('x' * 400)\n    return event\n"
FAILS = "def handler(event, context):\n    raise ValueError('as asked')\n"
DIES = """import ctypes, os, time
def handler(event, context):
    if event == 'call': ctypes.CDLL(None).syscall(169, 0, 0, 0, 0)
    if event == 'memory': return len([b'x' * (1 << 20) for _ in range(400)])
    if event == 'exit': os._exit(7)
    if event == 'signal': os.kill(os.getpid(), 11)
    if event == 'time': time.sleep(60)
    while event == 'fork':
        try:
            if os.fork() == 0: time.sleep(60)
        except OSError: time.sleep(0.05)
"""
DEATHS = ("call", "memory", "exit", "signal", "time", "fork")
PAGE = os.sysconf("SC_PAGESIZE")
# What may be added in all, where a quiet node is compared with itself: one that leaks has done so thousands of times.
SLACK = {"daemon descriptors": 12, "daemon threads": 4, "spawner descriptors": 24, "spawner threads": 0, "cgroups": 4, "mounts of the host": 0, "processes of workers": 8,
         "files": 60, "megabytes on disk": 48}
# Of memory, a minute: what malloc's arenas may still do after the warm-up.
SLOPES = {"daemon MiB": 0.4, "spawner MiB": 0.05}
# The daemon keeps pages of the events' database in memory, up to so much; events are kept for days, so both would grow for days. So large an event stands in the database itself.
PAGE_CACHE, PAYLOAD = 16 << 20, 60_000
# Calls after which what is kept of the newest ones (for `bulkhead explain`, say) is full.
RINGS = 15_000


# What comes in an hour of the load that hours.py speaks of: five calls a second, an event every four seconds (one in ten fails for good), and so on.
LOAD = {"calls": 18_000, "calls on new connections": 60, "events": 810, "events given up": 90, "deaths": 60, "objects": 180, "deploys": 15, "keys": 6, "reloads": 6, "looks": 30}


class Work:
    """Everything that users and operators do, each in a thread of its own; `counts` says how often. `hours`: so much of `LOAD`, all kinds side by side as fast as they go."""

    def __init__(self, node, hours=None):
        self.node, self.counts, self.wrong = node, {}, []
        self.goal = {name: max(1, round(count * hours)) for name, count in LOAD.items()} if hours else None
        self.over, self.quiet, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.threads = []
        for name, pause, body in [
            ("calls", 0.02, self.call()), ("calls on new connections", 0.1, self.fresh), ("events", 0.1, self.event("echo")), ("events given up", 0.7, self.event("fails")),
            ("deaths", 0.4, self.death), ("objects", 0.2, self.object), ("deploys", 2.5, self.deploy), ("keys", 2, self.key), ("reloads", 3, self.reload), ("looks", 2, self.look),
        ]:
            for one in [body] if not hours else [self.call() for _ in range(4)] if name == "calls" else [body] * (4 if name == "deaths" else 1):
                self.threads.append(threading.Thread(target=self.driven if hours else self.paced, args=(name, pause, one), daemon=True))
        for thread in self.threads:
            thread.start()

    def done(self):
        """How much of the goal there is of the kind that is behind."""
        return min(self.counts.get(name, 0) / count for name, count in self.goal.items())

    def driven(self, name, _, body):
        while not self.over.is_set():
            with self.lock:
                mine = self.counts.get(name, 0)
                # Nobody is more than a hundredth ahead, so that all of it is a mix at each moment.
                may = not self.quiet.is_set() and mine < self.goal[name] and mine / self.goal[name] <= self.done() + 0.01
                if may:
                    self.counts[name] = mine + 1
            if not may:
                self.over.wait(0.005)
                continue
            try:
                body()
            except (OSError, AssertionError, ValueError) as error:
                with self.lock:
                    self.wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")

    def paced(self, name, pause, body):
        while not self.over.is_set():
            if not self.quiet.is_set():
                try:
                    body()
                except (OSError, AssertionError, ValueError) as error:
                    with self.lock:
                        self.wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
                with self.lock:
                    self.counts[name] = self.counts.get(name, 0) + 1
            self.over.wait(pause)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def call(self):
        caller, last = Caller(self.node), time.monotonic()

        def one():
            nonlocal last
            # The node closes what was idle while its figures were taken.
            if time.monotonic() - last > 5:
                caller.close()
            answer = caller.call("echo", {"x": "y" * random.randrange(2000)})
            last = time.monotonic()
            assert answer.status == 200, answer
        return one

    def fresh(self):
        caller = Caller(self.node)
        answer = caller.call("echo", b'"x"')
        caller.close()
        assert answer.status == 200, answer

    def event(self, function):
        def one():
            status, _, body = self.node.invoke(function, b'"x"', headers={"Bulkhead-Invocation-Type": "async"})
            assert status == 202, (status, body)
        return one

    def death(self):
        how = DEATHS[self.counts.get("deaths", 0) % len(DEATHS)]
        status, _, body = self.node.invoke("dies", json.dumps(how).encode())
        assert status in (500, 502, 504, 507), (how, status, body)

    def object(self):
        number = self.counts.get("objects", 0)
        path = "/v1/tenants/acme/buckets/in/objects/o{}"
        status, _, body = self.node.request("PUT", path.format(number), b"z" * random.randrange(20_000))
        assert status in (200, 201, 204), (status, body)
        if number > 50:
            self.node.request("DELETE", path.format(number - 50))

    def deploy(self):
        number = self.counts.get("deploys", 0)
        self.node.deployed(python("changes", IDLE), {"main.py": f"{ECHO}# {number}\n", "data": os.urandom(100_000)})
        assert self.node.invoke("changes", b'"x"')[0] == 200
        if number % 5 == 4:
            assert self.node.cli("delete", "acme/changes").returncode == 0

    def key(self):
        # Another tenant's: with a key, calls without one would be refused.
        run = self.node.cli("keys", "create", "--tenant", "other", "--scope", "invoke", "--json")
        assert run.returncode == 0, run.stderr
        made = json.loads(run.stdout)
        assert self.node.cli("keys", "revoke", made["id"], "--tenant", "other").returncode == 0

    def reload(self):
        assert self.node.cli("reload").returncode == 0

    def look(self):
        for words in (("ps",), ("events", "acme"), ("usage", "--tenant", "acme")):
            self.node.json(*words)
        assert self.node.request("GET", "/metrics")[0] == 200


def of_process(pid):
    """Bytes of its own in memory, descriptors, threads; nil where it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        words = open(f"/proc/{pid}/statm").read().split()
        # Without what it shares with its file.
        return (int(words[1]) - int(words[2])) * PAGE, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def fill(node):
    """Fills what grows to a bound and stays there: the newest calls' explanations, and the pages of the events' database that are kept in memory."""
    def events():
        for _ in range(PAGE_CACHE // PAYLOAD):
            status, _, body = node.invoke("echo", b'"' + b"x" * PAYLOAD + b'"', headers={"Bulkhead-Invocation-Type": "async", "Bulkhead-Delay": "600000s"})
            assert status == 202, (status, body)

    def calls():
        caller = Caller(node)
        for _ in range(RINGS // 6):
            assert caller.call("echo", b'"x"').status == 200
        caller.close()
    threads = [threading.Thread(target=body) for body in [events] + [calls] * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def on_disk(folder):
    """{file: bytes that it takes}"""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                path = os.path.join(place, name)
                found[path[len(folder) + 1:]] = os.lstat(path).st_blocks * 512
    return found


def snapshot(node):
    """What there is of everything that is counted."""
    daemon, spawner = of_process(node.daemon()[0]), of_process(node.process.pid)
    name, cgroups = node.cgroup(), 0
    for line in open("/proc/self/mounts"):
        fields = line.split()
        if fields[2] in ("cgroup", "cgroup2"):
            cgroups = max(cgroups, sum(len(folders) for _, folders, _ in os.walk(os.path.join(fields[1], name))))
    mounts, ours, processes = sum(1 for line in open("/proc/self/mounts") if node.state in line), node.uids(), 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            processes += os.stat(f"/proc/{pid}").st_uid in ours[1:]
    files = on_disk(node.state)
    return {"daemon descriptors": daemon[1], "daemon threads": daemon[2], "spawner descriptors": spawner[1], "spawner threads": spawner[2], "cgroups": cgroups,
            "mounts of the host": mounts, "processes of workers": processes, "files": len(files),
            "megabytes on disk": sum(files.values()) / 1e6, "each file": files}


def slope(samples):
    """What a line through (seconds, value) rises by in a minute: Theil and Sen's, which a peak does not bend."""
    rises = sorted((b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(samples) for b in samples[i + 1:] if b[0] - a[0] > 5)
    return rises[len(rises) // 2] * 60 if rises else 0.0


def settled(node, work):
    """The node with nothing to do: idle workers have ended, and what is counted does not fall any more."""
    work.quiet.set()
    wait_for(lambda: not [row for row in node.json("ps") if row["function"]], 150, "the end of idle workers, and of events that are tried again")
    # Versions and events that go on their own, files that are closed after use.
    last, same, end = None, 0, time.monotonic() + 30
    while same < 4 and time.monotonic() < end:
        time.sleep(1)
        now = {name: value for name, value in snapshot(node).items() if name not in ("megabytes on disk", "files", "each file")}
        same, last = (same + 1 if now == last else 0), now
    found = snapshot(node)
    work.quiet.clear()
    return found


def run(node, work, seconds, samples=None):
    """Lets the work go on; a sample of memory each second."""
    begin, daemon = time.monotonic(), node.daemon()[0]
    while time.monotonic() - begin < seconds:
        time.sleep(1)
        found = of_process(daemon), of_process(node.process.pid)
        if samples is not None and all(found):
            for name, one in zip(("daemon MiB", "spawner MiB"), found):
                samples[name].append((time.monotonic() - begin, one[0] / 2**20))


def restarts(node, seconds):
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        node.restart(*(["--spawner"] if count % 2 else []))
        count += 1
        time.sleep(2)
    return count


def judge(before, after, samples, minutes):
    """What grew, as sentences. `samples`: of memory, where it is one process that goes on."""
    grown = []
    print(f"  {'':24}{'quiet, warm':>14}{'at the end':>14}{'may be added':>14}")
    for name, slack in SLACK.items():
        print(f"  {name:24}{before[name]:>14.0f}{after[name]:>14.0f}{slack:>14}")
        if after[name] > before[name] + slack:
            grown.append(f"{name}: {before[name]:.0f} -> {after[name]:.0f}")
    rises = sorted(((size - before["each file"].get(name, 0), name) for name, size in after["each file"].items()), reverse=True)
    print(f"  grew most on disk: {', '.join(f'{name} {rise / 1e6:+.1f} MB' for rise, name in rises[:3])}")
    for name, bound in SLOPES.items() if samples else ():
        values = [value for _, value in samples[name]]
        rise = slope(samples[name])
        print(f"  {name:24}{values[0]:>10.1f} .. {values[-1]:.1f}, most {max(values):.1f}; a line through {len(values)} samples rises by {rise:+.3f} a minute (bound {bound})")
        # In a short run a step of an arena is a steep line.
        if rise > bound and rise * minutes > 4 * bound:
            grown.append(f"{name}: {rise:+.3f} a minute")
    return grown


def prepared():
    return Life({**FILES, "tenants.d/other.yaml": FILES["tenants.d/acme.yaml"].replace("acme", "other")})


def furnish(node):
    """The functions and buckets that the work is about."""
    for bucket in ("in", "out"):
        made = node.cli("bucket", "create", f"acme/{bucket}")
        assert made.returncode == 0, made.stderr
    node.deployed(python("echo", IDLE), {"main.py": ECHO})
    node.deployed(python("fails", IDLE + "async: {attempts: 2}\n"), {"main.py": FAILS})
    node.deployed(python("dies", IDLE + "processes: 40\n").replace("5s", "1s"), {"main.py": DIES})
    node.deployed(python("copies", IDLE + "buckets: {in: read, out: write}\ntriggers: [{bucket: in, on: created}]\n"),
                  {"main.py": "def handler(event, context):\n    open('/buckets/out/last', 'w').write('x')\n"})


def main():
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    node = prepared().start()
    work = None
    try:
        furnish(node)
        fill(node)
        work = Work(node)
        run(node, work, minutes * 60 * 0.25)
        before = settled(node, work)
        first = dict(work.counts)
        samples = {name: [] for name in SLOPES}
        run(node, work, minutes * 60 * 0.6, samples)
        served = settled(node, work)
        done = {name: count - first.get(name, 0) for name, count in work.counts.items()}
        count = restarts(node, minutes * 60 * 0.15)
        after = settled(node, work)
        work.end()
        print(f"soak of {minutes:g} minutes: {', '.join(f'{count} {name}' for name, count in sorted(work.counts.items()))}, {count} new daemons, {count // 2} new programs of the spawner")
        print(f"  of it between the two looks: {', '.join(f'{count} {name}' for name, count in sorted(done.items()))}")
        print("after the load")
        grown = judge(before, served, samples, minutes * 0.6)
        print("after the restarts")
        grown += judge(before, after, None, 0)
        if work.wrong:
            print(f"  not answered as it should be: {len(work.wrong)}: {work.wrong[:4]}")
        for line in grown:
            print(f"  GROWN: {line}")
        return 1 if grown or len(work.wrong) > 3 else 0
    finally:
        if work:
            work.over.set()
        node.remove()


if __name__ == "__main__":
    sys.exit(main())
