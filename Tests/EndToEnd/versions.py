#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Versions, judged from outside: publishing under load, canaries, rollback and retention on a real node."""
import json
import math
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from load import Caller, Flood  # noqa: E402
from node import NO_DISK, PATIENCE, Node, Suite, python, small_disk, wait_for  # noqa: E402

QUOTA = "quota: {concurrency: 32, queue: 1000, memory: 2GiB, cpu: 2.0, processes: 1000}\n"
CONFIG = {
    "bulkhead.yaml": "retention: {versions: 3, age: 1s}\n",
    "tenants.d/acme.yaml": f"tenant: acme\n{QUOTA}retention: {{versions: 1000}}\n",
    "tenants.d/old.yaml": f"tenant: old\n{QUOTA}",
}
CODE = "import time\ndef handler(event, context):\n    time.sleep(event.get('sleep', 0))\n    return {'version': %d}\n"
BROKEN = "def handler(event, context):\n    raise ValueError('version 2 is broken')\n"
SLOW = "import time\ndef handler(event, context):\n    time.sleep(0.06)\n    return {}\n"
MANY = "concurrency: 16\nworkers: {max: 2}\n"


def deploy(node, name, number, tenant="acme", code=None, extra=MANY):
    reference = node.deployed(python(name, extra), {"main.py": code or CODE % number}, tenant)
    assert reference == f"{tenant}/{name}@{number}", reference


def version(answer):
    return int(answer.headers["bulkhead-version"])


def switch(node, function, change, to):
    """Runs `change` under load: (seconds from its end to the last call that was begun later and still ran on the old version, all answers)."""
    flood = Flood(node, 8, function, {"sleep": 0.005}, seconds=20 * PATIENCE)
    wait_for(lambda: len(flood.answers) >= 100, 20, "answers before it")
    change()
    changed = time.monotonic()
    wait_for(lambda: sum(version(answer) == to for answer in flood.answers) >= 300, 20, "answers of the version that it is now")
    flood.stop()
    assert not flood.refused() and not flood.lost, f"{len(flood.refused())} of {flood.sent} failed: {flood.refused()[:2]}, {flood.lost} lost"
    for answer in flood.answers:
        assert answer.json()["version"] == version(answer), answer
    late = [answer.sent - changed for answer in flood.answers if version(answer) != to and answer.sent > changed]
    assert any(version(answer) == to for answer in flood.answers) and any(version(answer) != to for answer in flood.answers)
    return max(late, default=0), flood.answers


def publishing(suite, node):
    def publish():
        deploy(node, "live", 1)
        assert node.invoke("live", b"{}")[0] == 200
        seconds, answers = switch(node, "live", lambda: deploy(node, "live", 2), 2)
        print(f"        a publish under {len(answers)} calls: 0 failed, the last call to the old version began {seconds * 1000:.0f} ms after it")
        assert seconds <= PATIENCE, seconds
    suite.check("a publish under load takes effect within 1 s and fails no call", publish)

    def back():
        seconds, answers = switch(node, "live", lambda: node.json("rollback", "acme/live"), 1)
        print(f"        a rollback under {len(answers)} calls: 0 failed, the last call to the old version began {seconds * 1000:.0f} ms after it")
        assert seconds <= PATIENCE, seconds
        workers = [row["version"] for row in node.json("ps") if row["function"] == "live"]
        assert 2 in workers and 1 in workers, f"the target before stays warm: {workers}"
    suite.check("a rollback under load takes effect within 1 s, fails no call and keeps warm workers", back)

    def in_flight():
        deploy(node, "long", 1, extra=MANY + "timeout: 60s\n")
        node.invoke("long", b"{}")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(Caller(node).call("long", {"sleep": 20})))
        thread.start()
        node.until("acme", 1)
        deploy(node, "long", 2, extra=MANY + "timeout: 60s\n")
        assert version(Caller(node).call("long")) == 2
        assert thread.is_alive(), "the call was to run over the publish"
        thread.join(60)
        assert answers[0].status == 200 and version(answers[0]) == 1 and answers[0].json()["version"] == 1, answers
    suite.check("a call that runs ends on its version", in_flight)


def canaries(suite, node):
    def split():
        deploy(node, "split", 1)
        deploy(node, "split", 2)
        for weight in (10, 50):
            node.json("alias", "set", "acme/split", "prod", f"1={100 - weight}", f"2={weight}")
            flood = Flood(Aliased(node, "prod"), 4, "split", {}, calls=10_000).join()
            assert len(flood.ok()) == 10_000, flood.refused()[:2]
            share = sum(version(answer) == 2 for answer in flood.answers) / 100
            print(f"        a canary of {weight} % got {share:.2f} % of 10,000 calls")
            # Each call is a toss: five standard deviations, which one run in a million leaves.
            assert abs(share - weight) <= 5 * math.sqrt(weight * (100 - weight) / 10_000), share
    suite.check("a canary gets its share of 10,000 calls, as near as tosses come", split)

    def sticky():
        caller = Caller(Aliased(node, "prod"))
        seen = {}
        for _ in range(5):
            for user in range(40):
                got = version(caller.call("split", headers={"Bulkhead-Alias-Key": f"user-{user}"}))
                assert seen.setdefault(user, got) == got, f"user {user} saw {seen[user]} and {got}"
        assert set(seen.values()) == {1, 2}, seen
        rows = {row["version"]: row["aliases"] for row in node.json("versions", "acme/split")}
        assert rows == {1: ["prod 50%"], 2: ["latest", "prod 50%"]}, rows
    suite.check("a caller with a key keeps its version", sticky)

    def called():
        node.deployed(python("outer"), {"main.py": "def handler(e, c):\n    return c.call('split:beta', {})\n"})
        node.json("alias", "set", "acme/split", "beta", "1")
        assert json.loads(node.invoke("outer", b"{}")[2])["version"] == 1
        node.json("alias", "set", "acme/split", "beta", "2")
        assert json.loads(node.invoke("outer", b"{}")[2])["version"] == 2
    suite.check("a function calls another one by its alias", called)

    def judged(name, code, words):
        deploy(node, name, 1, code=CODE % 1)
        deploy(node, name, 2, code=code)
        node.json("alias", "set", f"acme/{name}", "prod", "1=80", "2=20")
        flood = Flood(Aliased(node, "prod"), 8, name, {}, calls=3000).join()
        canary = [answer for answer in flood.answers if version(answer) == 2]
        row = next(row for row in node.json("alias", "list", f"acme/{name}") if row["alias"] == "prod")
        wait_for(lambda: any(r["changedBy"] == "rule" for r in node.json("alias", "list", f"acme/{name}")), 3, "the rule's note")
        row = next(row for row in node.json("alias", "list", f"acme/{name}") if row["alias"] == "prod")
        assert row["version"] == 1 and "canary" not in row and words in row["reason"], row
        end = max(answer.answered for answer in canary)
        after = [answer for answer in flood.answers if answer.sent > end]
        assert after and {version(a) for a in after} == {1} and {a.status for a in after} == {200}, "all of it is the primary's again"
        print(f"        {name}: ended after {len(canary)} of its calls: {row['reason']}")
        again = Flood(Aliased(node, "prod"), 4, name, {}, calls=200).join()
        assert {version(answer) for answer in again.answers} == {1}, "it never flaps"
        return len(canary)

    def failing():
        assert judged("failing", BROKEN, "calls of the canary failed") <= 80
    suite.check("a canary that fails is ended by itself within 80 of its calls, and the reason is shown", failing)

    def slow():
        assert judged("slow", SLOW, "95th percentile") <= 250
    suite.check("a canary that is slow is ended by itself within 250 of its calls", slow)

    def kept():
        deploy(node, "served", 1, extra="workers: {min: 1}\n")
        deploy(node, "served", 2, extra="workers: {min: 1}\n")
        node.stop()
        node.start()
        wait_for(lambda: [row["version"] for row in node.json("ps") if row["function"] == "served" and row["state"] == "ready"] == [2], 10,
                 "one worker of the latest version")
        row = next(row for row in node.json("alias", "list", "acme/failing") if row["alias"] == "prod")
        assert row["version"] == 1 and row["changedBy"] == "rule", row
        assert node.request("POST", "/v1/tenants/acme/functions/failing/invocations?alias=prod", b"{}")[0] == 200
        assert version(Caller(node).call("live")) == 1, "a rollback holds over a new start"
    suite.check("aliases and rollbacks hold over a new start of the node", kept)


class Aliased:
    """A node whose functions are called by an alias."""

    def __init__(self, node, alias):
        self.http, self.query = node.http, f"?alias={alias}"


def rolling_back(suite, node):
    def refusals():
        for number in (1, 2):
            deploy(node, "steps", number)
        assert node.json("rollback", "acme/steps")["version"] == 1
        past = node.cli("rollback", "acme/steps", "--json")
        assert past.returncode == 2 and json.loads(past.stderr)["code"] == "nothingBefore", past.stderr
        for words, code in (
            (("set", "acme/steps", "prod", "9"), "badAlias"), (("set", "acme/steps", "prod", "1=90", "2=20"), "badAlias"),
            (("set", "acme/steps", "latest", "1"), "latest"), (("delete", "acme/steps", "prod"), "notFound"),
        ):
            run = node.cli("alias", *words, "--json")
            assert run.returncode == 2 and json.loads(run.stderr)["code"] == code, (words, run.stderr)
        deploy(node, "steps", 3)
        assert version(Caller(node).call("steps")) == 3, "the next deploy moves latest again"
        assert node.cli("delete", "acme/steps@3").returncode == 2 and node.cli("delete", "acme/steps@2").returncode == 0
        assert node.json("rollback", "acme/steps")["version"] == 1
    suite.check("what cannot be is refused: a missing version, weights that do not add up, a rollback past the first", refusals)

    def applications():
        node.deployed(python("till", "application: shop\n"), {"main.py": CODE % 1})
        for _ in range(20):
            assert node.invoke("till", b"{}")[0] == 200
        # What its rate refuses counts as a throttle, and takes nothing from what went well.
        node.deployed(python("queue", 'application: shop\nrate: 1/day\n'), {"main.py": CODE % 1})
        assert [node.invoke("queue", b"{}")[0] for _ in range(4)] == [200, 429, 429, 429]
        row = next(row for row in node.json("applications", "--tenant", "acme") if row["application"] == "shop")
        assert row["functions"] == ["queue", "till"] and row["calls"] == 24 and row["successRate"] == 1 and row["throttles"] == 3, row
        assert 0 < row["p50"] <= row["p95"] <= row["p99"] and row["gbSeconds"] > 0, row
    suite.check("an application's figures", applications)


def retention(suite, node):
    def kept():
        code = os.path.join(node.state, "data", "code")
        code = code if os.path.isdir(code) else os.path.join(node.state, "code")

        def hashes():
            return {row["codeHash"] for tenant in ("old", "acme") for f in node.json("functions", "--tenant", tenant)
                    for row in node.json("versions", f"{tenant}/{f['function']}")}
        # Each keeps a worker while an alias names it, and none beyond.
        deploy(node, "kept", 1, "old", extra="workers: {min: 1, idle: 200ms}\n")
        deploy(node, "kept", 2, "old", extra="workers: {min: 1, idle: 200ms}\n")
        wait_for(lambda: {row["version"] for row in node.json("ps") if row["function"] == "kept"} == {2}, 10, "the worker of latest alone")
        node.json("rollback", "old/kept")
        wait_for(lambda: {row["version"] for row in node.json("ps") if row["function"] == "kept"} == {1}, 10, "the worker of latest alone")
        deploy(node, "aged", 1, "old", extra="")
        node.json("alias", "set", "old/aged", "prod", "1")
        for number in range(2, 7):
            deploy(node, "aged", number, "old", extra="")
            # At once: without a worker it may be too old before the last of them is there.
            if number == 2:
                assert node.invoke("aged@2", b"{}", "old")[0] == 200
        time.sleep(1.2)
        deploy(node, "aged", 7, "old", extra="")
        numbers = [row["version"] for row in node.json("versions", "old/aged")]
        assert numbers == [1, 2, 5, 6, 7], f"1 is prod, 2 has a worker, 5 to 7 are the newest: {numbers}"
        assert node.invoke("aged@2", b"{}", "old")[1]["Bulkhead-Start"] == "warm"
        assert node.invoke("aged@3", b"{}", "old")[0] == 404
        assert set(os.listdir(code)) == hashes(), "code without a version is gone, the other is not"
        # The same code once more: it is one tree, and stays while one version uses it.
        deploy(node, "aged", 8, "old", CODE % 7, extra="")
        assert set(os.listdir(code)) == hashes()
    suite.check("retention removes old versions with their code, and keeps what is pinned, newest or has workers", kept)


def full_disk(suite, _):
    def publish():
        with small_disk("32m") as base:
            return fill(base) if base else NO_DISK

    def fill(base):
        node = Node({"tenants.d/acme.yaml": f"tenant: acme\n{QUOTA}"}, state=os.path.join(base, "s"))
        try:
            node.start()
            deploy(node, "f", 1)
            data = os.path.join(node.state, "data") if os.path.isdir(os.path.join(node.state, "data")) else node.state
            code = os.path.join(data, "code")
            before = os.listdir(code)
            filler = os.path.join(base, "filler")
            file = os.open(filler, os.O_WRONLY | os.O_CREAT)
            try:
                while os.write(file, b"\0" * 4096):
                    pass
            except OSError:
                os.close(file)
            # First the upload has no room, then it has, and the unpacked tree has none.
            for room in (0, 3 << 19):
                os.truncate(filler, os.path.getsize(filler) - room)
                run = node.deploy(python("f", MANY), {"main.py": CODE % 2, "more": os.urandom(1 << 20)})
                assert run.returncode == 1 and b"No space left" in run.stderr, (run.returncode, run.stderr)
                print(f"        on a full disk: {run.stderr.decode().strip()[:150]}")
                assert [row["version"] for row in node.json("versions", "acme/f")] == [1] and os.listdir(code) == before
                assert not os.listdir(os.path.join(data, "incoming")), "what did not fit is removed"
                assert node.invoke("f", b"{}")[0] == 200, "the version before still serves"
            os.unlink(filler)
            deploy(node, "f", 2)
            assert version(Caller(node).call("f")) == 2
        finally:
            node.remove()
    suite.check("a publish on a full disk is refused, leaves nothing, and the version before serves on", publish)


PARTS = {"publishing": publishing, "canaries": canaries, "rolling-back": rolling_back, "retention": retention, "full-disk": full_disk}


def main(names):
    suite = Suite("versions")
    node = Node(CONFIG).start()
    try:
        for name in names or PARTS:
            PARTS[name](suite, node)
    finally:
        node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
