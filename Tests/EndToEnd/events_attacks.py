# SPDX-License-Identifier: Apache-2.0
"""Attacks on loops: lineage that somebody tries to launder, and honest work that must not be parked."""
import json
import os
import signal
import time

import events_input
from node import python, wait_for

# What a function does to start the next one; `base` is a folder that starts a function, `again` the function.
WRITERS = {
    "copy": "shutil.copyfile('/buckets/work/' + event['key'], base + id)",
    "rename": "os.rename('/buckets/work/' + event['key'], base + id)",
    "rewrite": "os.remove('/buckets/work/' + event['key']); open('/buckets/work/' + event['key'], 'w').write(id)",
    "utime": "open(base + id, 'w').write('x'); os.utime(base + id, (1, 1))",
    "thread": "threading.Thread(target=lambda: (time.sleep(0.3), open(base + id, 'w').write('x'))).start()",
    "child": "subprocess.Popen(['/bin/sh', '-c', '(sleep 0.2; echo x > ' + base + id + ') &'], stdin=-3, stdout=-3, stderr=-3)",
}
HANDLER = """import os, shutil, subprocess, threading, time
def handler(event, context):
    print('in', flush=True)
    id, base = context.request_id, '/buckets/work/NAME/'
    BODY
"""
NEXT = "def handler(event, context):\n    print('in', flush=True)\n    for _ in range(M):\n        context.call_async('NEXT', event)\n"
EMIT = "def handler(event, context):\n    print('in', flush=True)\n    context.emit('TOPIC', event)\n"
DECLARED = "recursion: {maxDepth: 16, maxDescendants: 1000}\n"
FAILS = "def handler(event, context):\n    print('in', flush=True)\n    raise ValueError('no')\n"
ENDS = "def handler(event, context):\n    print('in', flush=True)\n"


class Attack:
    """A node with the tenants of this part, and what every check asks of it."""

    def __init__(self, node, events):
        self.node, self.events = node, events

    def tenants(self, **files):
        for name, text in files.items():
            with open(os.path.join(self.node.config, "tenants.d", name + ".yaml"), "w") as file:
                file.write(text)
        run = self.node.cli("reload")
        assert run.returncode == 0, run.stderr.decode()

    def function(self, name, code, extra="", tenant="wild"):
        self.node.deployed(python(name, "workers: {max: 2}\n" + extra).replace("timeout: 5s", "timeout: 60s"), {"main.py": code}, tenant)

    def count(self, *names, tenant="wild"):
        return sum(line == "in" for name in names for line in self.output(name, tenant))

    def output(self, name, tenant="wild"):
        status, _, body = self.node.request("GET", f"/v1/tenants/{tenant}/functions/{name}/logs?tail=10000")
        assert status == 200, body
        return [entry["text"] for entry in map(json.loads, body.splitlines())]

    def settled(self, *names, seconds=180, quiet=6, tenant="wild", retries=False):
        """How often these ran, when none has for some seconds and none waits for its turn or runs: a loop that is tested for rests longer than that. With
        `retries` some may wait for their next try."""
        last, since, end = -1, time.time(), time.time() + seconds
        while time.time() < end:
            count = self.count(*names, tenant=tenant)
            if count != last:
                last, since = count, time.time()
            elif count and time.time() - since > quiet:
                if retries or not [event for state in ("ready", "leased") for event in self.listed(tenant, state) if event["function"] in names]:
                    return count
            time.sleep(0.2)
        raise AssertionError(f"{names} still run after {last} times")

    def put(self, path, body=b"x", tenant="wild"):
        bucket, key = path.split("/", 1)
        status, _, answer = self.node.request("PUT", f"/v1/tenants/{tenant}/buckets/{bucket}/objects/{key}", body)
        assert status in (200, 201), (status, answer)

    def listed(self, tenant, state=None, limit=1000):
        return self.node.json("events", "list", tenant, "--limit", str(limit), *(["--status", state] if state else []))

    def send(self, function, event=None, tenant="wild", headers=None):
        return self.events.sent(self.node, function, event, tenant, headers)

    def loops(self, tenant="wild"):
        return {loop["edge"]: loop for loop in self.node.json("loops", "list") if loop["tenant"] == tenant}


def run(suite, node, events):
    attack = Attack(node, events)
    quota = "quota: {concurrency: 16, queue: 1000, memory: 4GiB, cpu: 2.0, processes: 2048}\n"
    paced = quota.replace("16,", "16, rate: 5/s burst 5,")
    attack.tenants(
        wild=f"tenant: wild\n{quota}buckets: [work]\n", calm=f"tenant: calm\n{quota}buckets: [work]\n",
        slow=f"tenant: slow\n{paced}", flood=f"tenant: flood\n{paced}", gone=f"tenant: gone\n{quota}", fans=f"tenant: fans\n{quota}")
    for part in (fans_begin, through_files, through_calls, honest, resumes, *events_input.PARTS, fans_end):
        part(suite, attack)


def fans_begin(suite, attack):
    for m in (2, 10):
        attack.function(f"fan{m}", NEXT.replace("NEXT", f"fan{m}").replace("M", str(m)), tenant="fans")
        attack.send(f"fan{m}", {}, "fans")


def fans_end(suite, attack):
    def fans():
        for m in (2, 10):
            wait_for(lambda: f"fans/fan{m}/direct" in attack.loops("fans"), 60, f"the alarm for m = {m}")
            count = attack.count(f"fan{m}", tenant="fans")
            assert 17 <= count <= 1_001 + 3, f"m = {m}: {count} runs of one root"
    suite.check("a function that starts itself 2 and 10 times stays within its root's budget and is held back", fans)


def through_files(suite, attack):
    def writers():
        for name, body in WRITERS.items():
            attack.function(
                name, HANDLER.replace("NAME", name).replace("BODY", body),
                f"buckets: {{work: write}}\ntriggers: [{{bucket: work, prefix: {name}/, on: [created, renamed]}}]\n{DECLARED}")
        attack.function("late", HANDLER.replace("NAME", "late").replace("BODY", (
            "threading.Thread(target=lambda: (time.sleep(6), open(base + id, 'w').write('x'))).start() if event['key'] == 'late/start' else 0")),
            f"buckets: {{work: write}}\ntriggers: [{{bucket: work, prefix: late/, on: created}}]\n{DECLARED}")
        attack.put("work/late/start")
        for name in WRITERS:
            attack.put(f"work/{name}/start")
        found = {name: attack.settled(name) for name in WRITERS}
        # Who sets the time back changes the file once more, which may be seen as a second write: then the path splits, and the root's budget is the bound.
        split = found.pop("utime")
        assert set(found.values()) == {17} and 17 <= split <= 1_003, f"one path may enter a function 17 times at once: {found}, {split}"
    suite.check("loops through a bucket by copy, rename, rewriting, with old times, from a thread and an orphan are cut after 17 entries", writers)

    def late():
        wait_for(lambda: attack.count("late") == 2, 30, "the run for the late write")
        first, second = sorted((e for e in attack.listed("wild") if e["function"] == "late"), key=lambda e: e["createdAt"])
        assert second["root"] == first["root"] and second["hops"] == first["hops"] + 1, (first, second)
    suite.check("what a thread writes 6 s after its invocation has returned follows from that invocation", late)

    def dying():
        attack.function("dies", HANDLER.replace("NAME", "dies").replace("BODY", "open(base + id, 'w').write('x'); os._exit(1)"),
                        "buckets: {work: write}\nasync: {attempts: 1}\ntriggers: [{bucket: work, prefix: dies/, on: created}]\n" + DECLARED)
        attack.put("work/dies/start")
        count = attack.settled("dies", quiet=8)
        assert 2 <= count <= 17, count
        roots = {e["root"] for e in attack.listed("wild") if e["function"] == "dies"}
        assert len(roots) == 1, f"{count} runs, {len(roots)} roots"
    suite.check("what a worker wrote before it died follows from what it ran", dying)

    def packing():
        pair = ("pack", "unpack")
        attack.function("pack", (
            "import tarfile\ndef handler(event, context):\n    print('in', flush=True)\n"
            "    with tarfile.open('/buckets/work/tars/' + context.request_id, 'w') as tar:\n"
            "        tar.add('/buckets/work/' + event['key'], 'again-' + context.request_id)\n"),
            "buckets: {work: {access: write, prefix: tars/}}\ntriggers: [{bucket: work, prefix: files/, on: created}]\n")
        attack.function("unpack", (
            "import tarfile\ndef handler(event, context):\n    print('in', flush=True)\n"
            "    with tarfile.open('/buckets/work/' + event['key']) as tar:\n        tar.extractall('/buckets/work/files')\n"),
            "buckets: {work: {access: write, prefix: files/}}\ntriggers: [{bucket: work, prefix: tars/, on: created}]\n")
        attack.put("work/files/start")
        count = attack.settled(*pair)
        # Unpacking sets the old time of what it wrote, which may be seen as a second write: then the path splits, and the root's budget is the bound.
        roots = {e["root"] for e in attack.listed("wild") if e["function"] in pair}
        assert 17 <= count <= 1_003 and len(roots) == 1, f"{count} runs, {len(roots)} roots"
    suite.check("a loop through archives, unpacked by another function with the old times, is cut", packing)

    def shell():
        attack.node.deployed(
            "function: shell\nruntime: command\nhandler: [./run.sh]\nmemory: 96MiB\ntimeout: 5s\nworkers: {max: 2}\n"
            f"buckets: {{work: write}}\ntriggers: [{{bucket: work, prefix: shell/, on: created}}]\n{DECLARED}",
            {"run.sh": "#!/bin/sh\necho in >&2\nid=$(mktemp -u XXXXXXXXXXXX)\n(echo x > /buckets/work/shell/$id) &\n"}, "wild")
        attack.put("work/shell/start")
        count = attack.settled("shell")
        assert count == 17, count
    suite.check("a loop through a shell script's child that is gone at once is cut", shell)

    def several():
        attack.function(
            "several", HANDLER.replace("NAME", "several").replace("BODY", "time.sleep(0.2); open(base + id, 'w').write('x')"),
            f"concurrency: 4\nbuckets: {{work: write}}\ntriggers: [{{bucket: work, prefix: several/, on: created}}]\n{DECLARED}")
        for n in range(4):
            attack.put(f"work/several/start{n}")
        count = attack.settled("several")
        assert 17 <= count <= 4 * 17, count
    suite.check("four loops in one worker at a time are cut, each", several)


def ring(attack, name, size, code, extra=""):
    """Functions in a ring; the first one's name and all names."""
    names = [f"{name}{n}" for n in range(size)]
    for n, one in enumerate(names):
        following = names[(n + 1) % size]
        attack.function(
            one, code.replace("NEXT", following).replace("TOPIC", following).replace("M", "1"),
            extra.replace("NEXT", following).replace("SELF", one).replace("BEFORE", names[n - 1]))
    return names


def through_calls(suite, attack):
    def rings():
        made = {
            "two by call_async": (ring(attack, "two", 2, NEXT), 34),
            "three by call_async": (ring(attack, "three", 3, NEXT), 51),
            "twelve by call_async": (ring(attack, "twelve", 12, NEXT), 66),
            "one by emit": (ring(attack, "topic", 1, EMIT, "triggers: [{queue: key, name: SELF}]\n"), 18),
            "twelve by emit": (ring(attack, "wide", 12, EMIT, "triggers: [{queue: key, name: SELF}]\n"), 66),
            "two by onSuccess": (ring(attack, "good", 2, ENDS, "async: {onSuccess: 'function:NEXT'}\n"), 34),
            "two by onFailure": (ring(attack, "bad", 2, FAILS, "async: {attempts: 1, onFailure: 'function:NEXT'}\n"), 34),
            "two by outcome triggers": (ring(attack, "after", 2, ENDS, "triggers: [{outcome: BEFORE, on: success}]\n"), 34),
        }
        attack.function("drop", ENDS, f"async: {{onSuccess: 'bucket:work/drop/'}}\ntriggers: [{{bucket: work, prefix: drop/, on: created}}]\n{DECLARED}")
        made["one by a bucket destination"] = (["drop"], 18)
        for names, _ in made.values():
            attack.send(names[0], {})
        found = {what: attack.settled(*names, seconds=240) for what, (names, _) in made.items()}
        wrong = {what: (count, made[what][1]) for what, count in found.items() if not len(made[what][0]) < count <= made[what][1]}
        assert not wrong, f"runs and bound: {wrong}"
    suite.check("rings of 1, 2, 3 and 12 by call_async, emit, destinations and outcome triggers are cut", rings)

    def failing():
        attack.function("stubborn", NEXT.replace("NEXT", "stubborn").replace("M", "1") + "    raise ValueError('no')\n", "async: {attempts: 25}\n")
        attack.send("stubborn", {})
        count = attack.settled("stubborn", retries=True)
        assert count == 17, count
    suite.check("a function that calls itself and fails has one budget for its calls and its retries", failing)

    def killed():
        attack.function("again", NEXT.replace("NEXT", "again").replace("M", "1").replace("for _", "__import__('time').sleep(0.3)\n    for _"))
        attack.send("again", {})
        wait_for(lambda: attack.count("again") >= 6, 20, "some runs")
        os.kill(attack.events.daemon(attack.node), signal.SIGKILL)
        wait_for(lambda: attack.events.alive(attack.node), 20, "the daemon's return")
        count = attack.settled("again", quiet=5)
        # What ran when the daemon died runs once more, and what it had sent already may come twice.
        assert 17 <= count <= 17 * 2 - 5, count
    suite.check("a loop's budget outlives the daemon", killed)

    def tenants():
        attack.function("over", "def handler(event, context):\n    try:\n        context.call_async('calm/pong', event)\n"
                                "    except Exception as error:\n        print('refused', error, flush=True)\n")
        attack.function("pong", ENDS, tenant="calm")
        attack.send("over", {})
        wait_for(lambda: any("refused" in line for line in attack.output("over")), 15, "the refusal")
        assert attack.count("pong", tenant="calm") == 0
    suite.check("a function cannot call another tenant's", tenants)


def honest(suite, attack):
    def work():
        calm = "calm"
        attack.function("hot", ENDS, "triggers: [{bucket: work, prefix: hot/, on: created}]\n", calm)
        attack.function("split", "def handler(event, context):\n    for n in range(300):\n        context.call_async('part', {'n': n})\n", tenant=calm)
        attack.function("part", "def handler(event, context):\n    print('in', flush=True)\n    context.emit('sum', event)\n", tenant=calm)
        attack.function("sum", ENDS, "triggers: [{queue: key, name: sum}]\n", calm)
        for n in range(8):
            attack.function(f"saga{n}", ENDS + (f"    context.call_async('saga{n + 1}', event)\n" if n < 7 else ""), tenant=calm)
        for n in range(60):
            attack.put("work/hot/one", b"x" * n, calm)
        attack.send("split", {}, calm)
        attack.send("saga0", {}, calm)
        wait_for(lambda: attack.count("saga7", tenant=calm) == 1, 60, "the saga's end")
        wait_for(lambda: attack.count("sum", tenant=calm) == 300, 90, "the sums")
        wait_for(lambda: not attack.listed(calm, "ready", 1) and not attack.listed(calm, "leased", 1), 120, "the end of what was put")
        assert not attack.listed(calm, "parked"), attack.listed(calm, "parked")
        assert not [loop for loop in attack.loops(calm).values() if loop["state"] == "broken"], attack.loops(calm)
    suite.check("1 -> 300 -> 1, a saga and a hot key: nothing is parked", work)


def resumes(suite, attack):
    def resumed():
        for mode in ("replay", "discard", "keep"):
            attack.function(mode, NEXT.replace("NEXT", mode).replace("M", "1"))
            attack.send(mode, {})
        for mode in ("replay", "discard", "keep"):
            attack.settled(mode)
            found = attack.loops()[f"wild/{mode}/direct"]
            assert found["parked"] == 1 and "path bucket empty" in found["why"] and mode in found["cycle"], found
            attack.function(mode, "def handler(event, context):\n    print('fixed', flush=True)\n")
            words = ["--rate", "10/s"] if mode == "replay" else []
            run = attack.node.cli("loops", "resume", f"wild/{mode}/direct", "--mode", mode, *words)
            assert run.returncode == 0, run.stderr.decode()
        wait_for(lambda: attack.output("replay").count("fixed") == 1, 15, "the replayed event's run")
        attack.send("discard", {})
        wait_for(lambda: "fixed" in attack.output("discard"), 15, "the run of a new event")
        parked = [e["function"] for e in attack.listed("wild", "parked") if e["function"] in ("replay", "discard", "keep")]
        assert parked == ["keep"] and attack.output("replay").count("fixed") == attack.output("discard").count("fixed") == 1, parked
    suite.check("a loop is shown with its way round; after a fix its parked event is replayed once, discarded or kept", resumed)

    def duplicates():
        attack.function("twice", (
            "def handler(event, context):\n    print('in', flush=True)\n    for n in range(3): context.call_async('twice', event)\n"),
            "recursion: {maxDepth: 3, maxDescendants: 20}\n")
        attack.send("twice", {})
        attack.settled("twice", seconds=120)
        loop = attack.loops()["wild/twice/direct"]
        parked = [e for e in attack.listed("wild", "parked", 10_000) if e["function"] == "twice"]
        assert loop["parked"] == len(parked), (loop["parked"], len(parked))
    suite.check("what a loop's view says to be parked is what is parked", duplicates)
