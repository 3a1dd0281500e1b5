# SPDX-License-Identifier: Apache-2.0
"""Seats and rates."""
import os
import signal
import threading
import time

from load import SPAN, Caller, Flood, daemon, overlap, refusal, retry_after, running_at, worst_window
from node import PACE, PATIENCE, Node, python, wait_for

QUOTA = "queue: 1000, memory: 3GiB, cpu: 2.0, processes: 2000"
CONFIG = {
    "tenants.d/acme.yaml": f"tenant: acme\nquota: {{concurrency: 4, {QUOTA}}}\n",
    "tenants.d/wide.yaml": f"tenant: wide\nquota: {{concurrency: 64, {QUOTA}}}\n",
    "tenants.d/paced.yaml": f"tenant: paced\nquota: {{concurrency: 64, rate: 20/s burst 5, {QUOTA}}}\n",
    "tenants.d/slow.yaml": f"tenant: slow\nquota: {{concurrency: 64, rate: 30/m burst 1, {QUOTA}}}\n",
    "tenants.d/each.yaml": f"tenant: each\nquota: {{concurrency: 64, {QUOTA}}}\nusers: {{key: 'header:X-User', default: {{rate: 20/s burst 5}}}}\n",
}
MANY = "concurrency: 32\n"
# Where a call takes the processor for long, a handler has to sleep for longer until as many run beside it as may; fewer of them do then.
BRIEF = 0.01 * PATIENCE * PACE


def many(calls):
    return round(calls / PATIENCE)


def run(suite):
    node = Node(CONFIG).start()
    try:
        for tenant in ("acme", "wide"):
            node.deployed(python("span", MANY), {"main.py": SPAN}, tenant)
        seats(suite, node)
        changes(suite, node)
    finally:
        node.remove()


def run_rates(suite):
    node = Node(CONFIG).start()
    try:
        for tenant in ("wide", "paced", "slow", "each"):
            node.deployed(python("span", MANY), {"main.py": SPAN}, tenant)
        rates(suite, node)
    finally:
        node.remove()


def seats(suite, node):
    def tenant():
        node.deployed(python("other", MANY), {"main.py": SPAN})
        floods = [Flood(node, 16, name, {"sleep": BRIEF}, calls=many(300)) for name in ("span", "other")]
        spans = [span for flood in floods for span in flood.join().spans()]
        assert len(spans) == 2 * many(300), [flood.refused()[:2] for flood in floods]
        assert overlap(spans) == 4, f"{overlap(spans)} at a time, the tenant has 4 seats"
    suite.check("a tenant's seats hold over all of its functions, and all of them are used", tenant)

    def function():
        node.deployed(python("three", MANY + "maxConcurrency: 3\n"), {"main.py": SPAN}, "wide")
        spans = Flood(node, 16, "three", {"sleep": BRIEF}, "wide", calls=many(300)).join().spans()
        assert len(spans) == many(300) and overlap(spans) == 3, f"{len(spans)} answers, {overlap(spans)} at a time, the function has 3 seats"
    suite.check("a function's seats hold", function)

    def workers():
        node.deployed(python("single", "maxConcurrency: 3\nworkers: {max: 8}\n"), {"main.py": SPAN}, "wide")
        spans = Flood(node, 12, "single", {"sleep": 2 * BRIEF}, "wide", calls=many(150)).join().spans()
        assert len(spans) == many(150) and overlap(spans) == 3, f"{len(spans)} answers, {overlap(spans)} at a time over several workers"
    suite.check("a function's seats hold over several workers", workers)

    def one():
        node.deployed(python("one", "maxConcurrency: 1\nworkers: {max: 8}\n"), {"main.py": SPAN}, "wide")
        flood = Flood(node, 8, "one", {"sleep": 0.02}, "wide", seconds=2.0 * PACE)
        time.sleep(0.7 * PACE)
        node.deployed(python("one", "maxConcurrency: 1\nworkers: {max: 8}\n"), {"main.py": SPAN + "# two\n"}, "wide")
        time.sleep(0.3 * PACE)
        old = Flood(node, 4, "one@1", {"sleep": 0.02}, "wide", seconds=0.7 * PACE)
        spans = flood.join().spans() + old.join().spans()
        assert not flood.refused() and not old.refused(), (flood.refused()[:1], old.refused()[:1])
        assert len(spans) > many(8) and overlap(spans) == 1, f"{overlap(spans)} at a time, the function has 1 seat over all of its versions"
    suite.check("one seat means one, also while a new version comes", one)

    def restart():
        node.deployed(python("hold", "maxConcurrency: 1\n"), {"main.py": SPAN}, "wide")
        holder = threading.Thread(target=lambda: Flood(node, 1, "hold", {"sleep": 4}, "wide", calls=1).join())
        holder.start()
        rows = wait_for(lambda: [r for r in node.json("ps") if r["function"] == "hold" and r["inFlight"] == 1], 10, "a run of hold")
        seen = {}

        def watch():
            try:
                while True:
                    with open(f"/proc/{rows[0]['pid']}/stat") as file:
                        if file.read().rsplit(")", 1)[1].split()[0] in "ZX":
                            return
                    seen["alive"] = time.monotonic()
                    time.sleep(0.001)
            except OSError:
                pass
        watcher = threading.Thread(target=watch)
        watcher.start()
        os.kill(daemon(node), signal.SIGKILL)

        def again():
            try:
                return Caller(node, 5).call("hold", {"sleep": 0.01}, "wide").span()
            except (OSError, KeyError):
                return None
        begin, _ = wait_for(again, 20, "an answer after the daemon's death")
        watcher.join(10)
        holder.join(30)
        assert not watcher.is_alive() and seen["alive"] < begin, f"the old run's process was alive {seen['alive'] - begin} s after the next run began"
    suite.check("one seat means one across the daemon's death", restart)


def changes(suite, node):
    def lowered():
        # Nobody is to wait for ten seconds, where the bound of a wait is, and all seats are to be used: fewer of both where handlers have to sleep for longer.
        high, callers, sleep = (8, 16, 0.4) if PATIENCE == 1 else (5, 10, 0.8)
        assert node.cli("quota", "set", "acme", f"concurrency={high}").returncode == 0
        flood = Flood(node, callers, "span", {"sleep": sleep}, seconds=6.0)
        node.until("acme", high)
        assert node.cli("quota", "set", "acme", "concurrency=2").returncode == 0
        # What was given a seat before the change may begin a moment after it.
        changed = time.monotonic() + 1.5 * PACE
        spans = flood.join().spans()
        assert len(spans) == flood.sent, f"{flood.sent} sent, {len(spans)} answered, refused: {flood.refused()[:2]}"
        assert overlap([span for span in spans if span[0] < changed]) == high
        late = [begin for begin, _ in spans if begin > changed]
        worst = max(running_at(spans, begin) for begin in late)
        assert len(late) > 4 and worst == 2, f"{worst} ran where one began after the change"
    suite.check("a lowered number of seats ends nothing, and lets nothing begin above it", lowered)

    def raised():
        flood = Flood(node, 12, "span", {"sleep": 3 if PATIENCE == 1 else 6}, calls=12)
        node.until("acme", 2, 8)
        assert node.cli("quota", "set", "acme", "concurrency=7").returncode == 0
        changed = time.monotonic()
        spans = flood.join().spans()
        assert len(spans) == 12 and overlap([span for span in spans if span[0] < changed + 2.5]) == 7, [(b - changed, e - changed) for b, e in sorted(spans)]
        assert overlap(spans) == 7, overlap(spans)
        assert node.cli("quota", "set", "acme", "concurrency=4").returncode == 0
    suite.check("a raised number of seats is used at once", raised)


def rates(suite, node):
    node.deployed(python("paced", MANY + "rate: 20/s burst 5\n"), {"main.py": SPAN}, "wide")
    node.deployed(python("slow", MANY + "rate: 30/m burst 1\n"), {"main.py": SPAN}, "wide")
    cases = {
        "tenant": ("span", "paced", {}, "span", "slow", {}), "function": ("paced", "wide", {}, "slow", "wide", {}),
        "user": ("span", "each", {"X-User": "ann"}, None, None, None),
    }
    for level, (function, tenant, headers, slow, slow_tenant, slow_headers) in cases.items():
        def holds(level=level, function=function, tenant=tenant, headers=headers):
            flood = Flood(node, 8, function, {"sleep": 0}, tenant, headers, seconds=2.5, patience=0.005)
            other = Flood(node, 1, function, {"sleep": 0}, tenant, {"X-User": "ben"}, calls=5) if level == "user" else None
            flood.join()
            excess = worst_window(flood.ok(), 20, 5)
            assert excess <= 0, f"{excess} more than 5 + 20 T were admitted in a window"
            # What comes while nobody calls is lost: a pause of the machine is not meant.
            at = sorted(a.answered for a in flood.answers)
            span = sum(min(later - before, 0.2) for before, later in zip(at, at[1:]))
            assert len(flood.ok()) >= 5 + 20 * (span - 0.5) * 0.9, f"only {len(flood.ok())} were admitted in {span} s"
            assert len(flood.refused()) > 5, len(flood.refused())
            for answer in flood.refused():
                refusal(answer, level=level, ceiling="rate", limit=5)
                # The first of them could be a crowd that obeys, of whom each is promised a turn.
                assert 1 <= retry_after(answer) <= 31, answer.headers
            assert sum(retry_after(answer) == 1 for answer in flood.refused()[-20:]) >= 19, [retry_after(answer) for answer in flood.refused()[-20:]]
            if other:
                assert len(other.join().ok()) == 5, f"another user's own burst was refused: {other.refused()}"
        suite.check(f"a {level}'s rate holds in every window", holds)
        if slow:
            def obeys(level=level, function=slow, tenant=slow_tenant):
                caller = Caller(node)

                def call():
                    return caller.call(function, {"sleep": 0}, tenant)
                assert call().status == 200
                for _ in range(2):
                    answer = call()
                    refusal(answer, level=level, ceiling="rate", limit=1)
                    assert retry_after(answer) == 2, answer.headers
                    time.sleep(max(0, answer.answered + retry_after(answer) - time.monotonic()))
                    again = call()
                    assert again.status == 200, f"refused again after its Retry-After: {again}"
            suite.check(f"whoever obeys the Retry-After of a {level}'s rate is not refused again", obeys)

    def crowd():
        node.deployed(python("crowd", MANY + "rate: 5/s burst 5\n"), {"main.py": SPAN}, "wide")
        refused = []

        def call():
            caller, times = Caller(node), 0
            while (answer := caller.call("crowd", {"sleep": 0}, "wide")).status == 429 and times < 10:
                times += 1
                time.sleep(max(0, answer.answered + retry_after(answer) - time.monotonic()))
            assert answer.status == 200, answer
            refused.append(times)
        threads = [threading.Thread(target=call) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 30, f"{30 - len(refused)} were never admitted"
        # A pause of the machine lets those of two seconds come at once; told as if each were alone, twenty would come for nothing.
        assert sum(times > 1 for times in refused) <= 5 and refused.count(0) >= 5, sorted(refused)
    suite.check("of a crowd that a rate refuses, each comes back when it was told to, and is admitted", crowd)
