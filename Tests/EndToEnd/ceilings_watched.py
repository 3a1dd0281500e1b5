# SPDX-License-Identifier: Apache-2.0
"""Every ceiling at once, while workers crash, caps change and daemons are killed, judged by what handlers write down of themselves in a place that is in no book of the node."""
import contextlib
import glob
import http.client
import json
import os
import random
import signal
import struct
import threading
import time

from ceilings_budgets import ZONE
from load import Caller, Flood, daemon, refusal
from node import PACE, PATIENCE, Node, python, wait_for

# A record for each run: who, when it began, and when it was last seen to run. The last is no promise of its end but a proof that it ran then, whatever became of its process.
RECORD = struct.Struct("<QQQ16s16s8s")
WATCHED = f"""import os, signal, struct, threading, time
record, lock, files = struct.Struct({RECORD.format!r}), threading.Lock(), {{}}
def place():
    with lock:
        pid = os.getpid()
        if pid not in files:
            files[pid] = [os.open('/buckets/seen/' + os.urandom(12).hex(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), 0]
        files[pid][1] += 1
        return files[pid][0], (files[pid][1] - 1) * record.size
def handler(event, context):
    begin = time.monotonic_ns()
    fd, at = place()
    def seen(ended=0):
        os.pwrite(fd, record.pack(begin, time.monotonic_ns(), ended, event['function'].encode(), event.get('user', '').encode(), event['how'].encode()), at)
    seen()
    until, deaf = begin + int(event['sleep'] * 1e9), event['how'] == 'deaf'
    while time.monotonic_ns() < until or deaf:
        try:
            time.sleep(0.005)
            seen()
        except BaseException:
            if not deaf: raise
    if event['how'] == 'exit': os._exit(7)
    if event['how'] == 'segv': os.kill(os.getpid(), signal.SIGSEGV)
    seen(1)
    return {{}}
"""
MEMORY = 64
QUOTA = "queue: 1000, memory: 2GiB, cpu: 2.0, processes: 2000, storage: 256MiB"
# A little fewer than what the tenants may have together.
SEATS = 17
# What a run may still begin after: a lowered cap ends nothing, and what has a seat may wait for its worker's start.
DRAIN = 4 * PACE


def wide(seats, user):
    return f"tenant: wide\nquota: {{concurrency: {seats}, {QUOTA}}}\nusers: {{key: 'header:X-User', default: {{concurrency: {user}}}}}\n"


def spending(tenant, budget):
    return f"tenant: {tenant}\nquota: {{concurrency: 4, {QUOTA}, budget: {{{budget}/hour, zone: {ZONE}}}}}\n"


def manifest(name, extra):
    return python(name, extra + "timeout: 2s\nbuckets: {seen: write}\n").replace("96MiB", f"{MEMORY}MiB")


# (tenant, function): its seats; and what its manifest says beside them.
FUNCTIONS = {
    ("wide", "three"): (3, "maxConcurrency: 3\nworkers: {max: 6}\n"), ("wide", "open"): (None, "workers: {max: 12}\n"), ("wide", "threads"): (4, "maxConcurrency: 4\nconcurrency: 3\n"),
    ("one", "only"): (None, "workers: {max: 4}\nasync: {attempts: 3}\n"), ("counts", "costs"): (None, "concurrency: 3\nworkers: {max: 4}\n"),
    ("burns", "costs"): (None, "workers: {max: 4}\n"),
}
USERS = ("ann", "ben", "kim", "lee")
HOWS = ["ok"] * 40 + ["exit", "segv", "exit", "deaf"]


class Cap:
    """What a ceiling has been, for an observer who knows only when a change was asked for and when it was confirmed."""

    def __init__(self, value):
        # (from when it may hold, until when it may hold, value)
        self.spells = [[0.0, float("inf"), value]]

    def asked(self, value):
        self.spells.append([time.monotonic(), float("inf"), value])

    def confirmed(self):
        now = time.monotonic()
        for spell in self.spells[:-1]:
            spell[1] = min(spell[1], now)

    def at(self, moment):
        """The largest that may have held when what begins now was given its seat."""
        return max(value for since, until, value in self.spells if since <= moment and until >= moment - DRAIN)


class Run:
    def __init__(self, tenant, data):
        begin, last, self.ended, function, user, how = RECORD.unpack(data)
        self.tenant, self.begin, self.last = tenant, begin / 1e9, last / 1e9
        self.function, self.user, self.how = (text.rstrip(b"\0").decode() for text in (function, user, how))


class Watched:
    """A node, callers who want more of it than every ceiling allows, and whatever happens to it meanwhile. `counts` says how often."""

    def __init__(self, invocations, compute):
        self.budgets = {"counts": f"invocations: {invocations}", "burns": f"compute: {compute} GB-s"}
        self.limits = {"counts": (invocations, None), "burns": (None, compute)}
        self.caps = {("node",): Cap(SEATS), ("wide",): Cap(10), ("one",): Cap(1), ("counts",): Cap(4), ("burns",): Cap(4)}
        self.caps |= {(tenant, name): Cap(seats) for (tenant, name), (seats, _) in FUNCTIONS.items() if seats}
        self.user = Cap(3)
        self.counts, self.over, self.lock, self.threads, self.wrong = {}, threading.Event(), threading.Lock(), [], []
        self.is_calm = True
        self.node = Node({
            "bulkhead.yaml": f"seats: {SEATS}\n", "tenants.d/wide.yaml": wide(10, 3), "tenants.d/one.yaml": f"tenant: one\nquota: {{concurrency: 1, {QUOTA}}}\n",
            **{f"tenants.d/{tenant}.yaml": spending(tenant, budget) for tenant, budget in self.budgets.items()},
        }).start()
        for tenant in ("wide", "one", "counts", "burns"):
            made = self.node.cli("bucket", "create", f"{tenant}/seen")
            assert made.returncode == 0, made.stderr
        for (tenant, name), (_, extra) in FUNCTIONS.items():
            self.node.deployed(manifest(name, extra), {"main.py": WATCHED}, tenant)

    def count(self, name):
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1

    # --- callers

    def call(self, tenant, name, seed, brief):
        dice, caller = random.Random(seed), Caller(self.node, 60)
        while not self.over.is_set():
            event = {"function": name, "sleep": dice.uniform(0.01, 0.15) * brief, "how": dice.choice(HOWS)}
            if self.is_calm:
                event |= {"sleep": dice.uniform(0.2, 0.6) * brief, "how": "ok"}
            headers = {}
            if tenant == "wide":
                event["user"] = headers["X-User"] = dice.choice(USERS)
            try:
                status = caller.call(name, event, tenant, headers).status
            except OSError:
                # The port is another one after the spawner's death.
                caller.close()
                caller, status = Caller(self.node, 60), "lost"
            self.count(f"{tenant} {status}")
            if status != 200:
                self.over.wait(0.3 if status == 429 else 0.05)

    def event(self):
        """Events, which are tried again after crashes, and after a daemon's death by the next one."""
        while not self.over.wait(0.4):
            body = json.dumps({"function": "only", "sleep": 0.05, "how": "ok"}).encode()
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.count(f"event {self.node.invoke('only', body, 'one', {'Bulkhead-Invocation-Type': 'async'})[0]}")

    # --- what happens

    def kill_worker(self):
        while not self.over.wait(random.uniform(0.2, 0.6)):
            pids, group, uids = [], f"/{self.node.cgroup()}/", self.node.uids()[1:]
            for entry in filter(str.isdigit, os.listdir("/proc")):
                # Another node of this machine may count its uids from the same number.
                with contextlib.suppress(OSError), open(f"/proc/{entry}/cgroup") as file:
                    if group in file.read() and os.stat(f"/proc/{entry}").st_uid in uids:
                        pids.append(int(entry))
            if pids:
                with contextlib.suppress(OSError):
                    os.kill(random.choice(pids), signal.SIGKILL)
                    self.count("workers killed")

    def change(self):
        """Lowers and raises caps. One that is not confirmed, because there was no daemon, holds perhaps, and so does the one before it."""
        while not self.over.wait(5 * PACE):
            seats, user = random.choice([3, 6, 10, 12]), random.choice([1, 2, 3])
            with open(os.path.join(self.node.config, "tenants.d", "wide.yaml"), "w") as file:
                file.write(wide(seats, user))
            self.caps[("wide",)].asked(seats)
            self.user.asked(user)
            if self.node.cli("reload").returncode == 0:
                self.caps[("wide",)].confirmed()
                self.user.confirmed()
                self.count("reloads")
            else:
                self.count("reloads without a daemon")

    def kill_daemon(self, index):
        """Every fourth time the spawner, which takes all with it and begins anew, and every fourth time a new daemon takes the old one's place in good order."""
        if index % 4 == 3:
            self.node.process.kill()
            self.node.process.wait()
            self.node.process.stdout.close()
            wait_for(self.starts, 20, "a new spawner")
            self.count("kill -9 of the spawner")
        elif index % 4 == 1:
            self.count("new daemons in good order" if self.node.cli("restart", timeout=120).returncode == 0 else "new daemons that were refused")
        else:
            os.kill(daemon(self.node), signal.SIGKILL)
            self.count("kill -9 of the daemon")
        wait_for(self.answers, 60, "a daemon that answers")

    def starts(self):
        # A process that the killed one was just making goes a moment after it, and until then holds its lock.
        with contextlib.suppress(AssertionError):
            return self.node.start()

    def answers(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.node.request("GET", "/readyz")[0] == 200

    def work(self, seconds):
        bodies = [(self.call, (*key, seed, PACE)) for key, count in {
            ("wide", "three"): 5, ("wide", "open"): 9, ("wide", "threads"): 5, ("one", "only"): 3, ("counts", "costs"): 5, ("burns", "costs"): 5}.items() for seed in range(count)]
        def start(*bodies):
            for body in bodies:
                self.threads.append(threading.Thread(target=self.guarded, args=body, daemon=True))
                self.threads[-1].start()
        start(*bodies)
        # Each ceiling is reached once before anything happens: one that nothing ever reached would show nothing.
        wait_for(lambda: all(above(of_it, cap, 1)[0] for _, cap, of_it in levels(self, self.runs())), 240, "every ceiling reached")
        self.is_calm = False
        start((self.event, ()), (self.kill_worker, ()), (self.change, ()))
        begin, index = time.monotonic(), 0
        # Until enough has happened, however long a slow machine takes for it: a run in which nothing died would show nothing.
        while (spent := time.monotonic() - begin) < seconds or (spent < 15 * seconds and not enough(self.counts, self.runs())):
            self.over.wait(random.uniform(1.5, 3.5) * PACE)
            self.kill_daemon(index)
            index += 1
        self.over.set()
        for thread in self.threads:
            thread.join(90)
            assert not thread.is_alive(), "a caller has had no answer"
        assert not self.wrong, self.wrong[:3]

    def guarded(self, body, arguments):
        try:
            body(*arguments)
        except Exception as error:  # noqa: BLE001 - said where the run is judged
            self.wrong.append(f"{body.__name__}: {type(error).__name__}: {error}")

    def spend(self):
        """The rest of the budgets: until calls are refused for them."""
        for tenant in self.budgets:
            event = {"function": "costs", "sleep": 1.0 if tenant == "burns" else 0.01, "how": "ok"}
            flood = Flood(self.node, 4, "costs", event, tenant, patience=1.0)
            wait_for(flood.refused, 120, f"the end of {tenant}'s budget")
            for answer in flood.stop().refused():
                refusal(answer, code="overBudget", level="budget")

    def runs(self):
        found = []
        for path in glob.glob(os.path.join(self.node.state, "data", "buckets", "*", "seen", "*")):
            with open(path, "rb") as file:
                data = file.read()
            tenant = os.path.basename(os.path.dirname(os.path.dirname(path)))
            found += [Run(tenant, data[at:at + RECORD.size]) for at in range(0, len(data) - RECORD.size + 1, RECORD.size)]
        return sorted(found, key=lambda run: run.begin)


def above(runs, cap, less=0):
    """(how many began while more ran than `cap` allows, the most that ran at a time): a sweep over every begin and every last proof. `less`: of that cap."""
    changes = sorted([(run.begin, 1) for run in runs] + [(run.last, 0) for run in runs])
    running = most = over = 0
    for moment, begins in changes:
        running += 1 if begins else -1
        most = max(most, running)
        over += begins and running > cap.at(moment) - less
    return over, most


def levels(watched, runs):
    """Each ceiling by its name, with the runs that it is over."""
    yield "node", watched.caps[("node",)], runs
    for key, cap in watched.caps.items():
        if key != ("node",):
            yield "/".join(key), cap, [run for run in runs if run.tenant == key[0] and run.function in (*key[1:], run.function if len(key) == 1 else None)]
    for user in USERS:
        yield f"wide's {user}", watched.user, [run for run in runs if run.tenant == "wide" and run.user == user]


def judge(watched):
    """What is above a ceiling, as sentences; prints the figures."""
    runs, faults = watched.runs(), []
    print("        " + ", ".join(f"{count} x {name}" for name, count in sorted(watched.counts.items())))
    cut = sum(not run.ended for run in runs)
    span = runs[-1].last - runs[0].begin
    print(f"figure: {len(runs)} runs seen in {span:.0f} s, {sum(run.last - run.begin for run in runs) / 3600:.3f} invocation-hours, {cut} of them ended by something else than themselves")
    instants = overruns = 0
    for name, cap, of_it in levels(watched, runs):
        over, most = above(of_it, cap)
        blind, _ = above(of_it, cap, 1)
        instants += over
        print(f"        {name}: {len(of_it)} runs, at most {most} at a time, {over} above its ceiling; {blind} were it one seat lower")
        if over:
            faults.append(f"{name}: {over} runs began above its ceiling")
        if not blind:
            faults.append(f"{name}: nothing ever filled it, so this shows nothing of it")
    for tenant, (invocations, compute) in watched.limits.items():
        seen = [run for run in runs if run.tenant == tenant]
        held = sum(run.last - run.begin for run in seen) * MEMORY / 1024
        rows = watched.node.json("usage", "--tenant", tenant, "--by", "total")
        counted, billed = sum(row["invocations"] for row in rows), sum(row["gbSeconds"] for row in rows)
        print(f"        {tenant}: {len(seen)} runs and {held:.3f} GB-s were seen, {counted} and {billed:.3f} are on the bill, {watched.budgets[tenant]} may be")
        # What was seen is a part of what was used: a run's last proof comes before its end.
        over = len(seen) > invocations or counted > invocations if invocations else held > compute or billed > compute
        overruns += over
        if over or len(seen) > counted or held > billed:
            faults.append(f"{tenant}: {len(seen)} runs and {held} GB-s were seen, {counted} and {billed} are on the bill, {watched.budgets[tenant]} may be")
    print(f"figure: {instants} instants above any cap, {overruns} budget overruns")
    return faults, runs


def enough(counts, runs):
    """Whether as much has happened as it takes to show something."""
    least = {"kill -9 of the daemon": 2, "kill -9 of the spawner": 1, "workers killed": 6, "reloads": 3}
    return (all(counts.get(name, 0) >= count for name, count in least.items()) and len(runs) > 400 / PATIENCE
        and {run.how for run in runs} == {"ok", "exit", "segv", "deaf"} and any(not run.ended for run in runs))


def watch(seconds, invocations, compute):
    """(faults, the watched node's counts, its runs)"""
    watched = Watched(invocations, compute)
    try:
        watched.work(seconds)
        watched.spend()
        faults, runs = judge(watched)
        return faults, watched.counts, runs
    finally:
        watched.over.set()
        watched.node.remove()


def run(suite):
    def held():
        faults, counts, runs = watch(24 * PACE, 300, round(4 * PACE))
        assert not faults, faults
        assert enough(counts, runs), counts
    suite.check("no ceiling of any level, and no budget, is exceeded while workers crash, caps change and daemons are killed", held)
