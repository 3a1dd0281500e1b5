# SPDX-License-Identifier: Apache-2.0
"""Budgets: never overrun, not by many callers, not by a change while they run, not by kill -9."""
import os
import random
import signal
import time

from load import SPAN, Caller, Flood, daemon, refusal, retry_after
from node import Node, python, wait_for

# No window may end while the tests run: an hour of this zone ends at half past.
ZONE = "Asia/Kolkata" if time.gmtime().tm_min >= 30 else "UTC"
MANY = "concurrency: 32\n"
KILL_LIMIT = 2000


def tenant(name, budget=None):
    text = f", budget: {{{budget}, zone: {ZONE}}}" if budget else ""
    return f"tenant: {name}\nquota: {{concurrency: 64, queue: 1000, memory: 3GiB, cpu: 2.0, processes: 2000{text}}}\n"


def run(suite):
    budgets = {
        "ten": "invocations: 10/hour", "heavy": "compute: 4 GB-s/hour", "monthly": "invocations: 1/month", "later": None, "again": "invocations: 20/hour", "back": "invocations: 5/hour",
        "killed": f"invocations: {KILL_LIMIT}/hour, compute: 1000 GB-s/hour",
    }
    node = Node({f"tenants.d/{name}.yaml": tenant(name, budget) for name, budget in budgets.items()}).start()
    try:
        for name in budgets:
            node.deployed(python("span", MANY), {"main.py": SPAN}, name)
        limits(suite, node)
        edits(suite, node)
        deaths(suite, node)
    finally:
        node.remove()


def budget(node, name, kind):
    return next(b for b in node.json("quota", "show", name)["budgets"] if b["kind"] == kind)


def used(node, name):
    """(invocations, GB-seconds) of the ledger."""
    rows = node.json("usage", "--tenant", name, "--by", "total")
    return sum(r["invocations"] for r in rows), sum(r["gbSeconds"] for r in rows)


def limits(suite, node):
    def exact():
        flood = Flood(node, 50, "span", {"sleep": 0.05}, "ten", calls=50).join()
        assert (len(flood.ok()), len(flood.refused())) == (10, 40), (len(flood.ok()), flood.refused()[:1])
        ends = budget(node, "ten", "invocations")["resetsAt"] / 1000
        for answer in flood.refused():
            refusal(answer, code="overBudget", level="budget", ceiling="invocations", limit=10)
            wall = time.time() - (time.monotonic() - answer.answered)
            assert abs(wall + retry_after(answer) - ends) <= 15, f"Retry-After {retry_after(answer)}, the window ends in {ends - wall} s"
        assert wait_for(lambda: used(node, "ten")[0] == 10, 20, "the tenth in the usage")
    suite.check("of 50 calls at once a budget of 10 admits 10", exact)

    def month():
        assert Caller(node).call("span", {"sleep": 0}, "monthly").status == 200
        answer = Caller(node).call("span", {"sleep": 0}, "monthly")
        refusal(answer, code="overBudget", ceiling="invocations", limit=1, value=1)
        left = budget(node, "monthly", "invocations")["resetsAt"] / 1000 - time.time()
        assert abs(retry_after(answer) - left) <= 15, f"Retry-After {retry_after(answer)}, the window ends in {left:.0f} s"
    suite.check("the Retry-After of a month's budget is as far as the month's end", month)

    def compute():
        node.deployed("function: half\nruntime: python3\nhandler: main.handler\nmemory: 512MiB\ntimeout: 1s\nconcurrency: 8\n", {"main.py": SPAN}, "heavy")
        flood = Flood(node, 4, "half", {"sleep": 0.4}, "heavy", seconds=10, patience=0.05).join()
        observed = sum(end - begin for begin, end in flood.spans()) * 0.5
        spent = budget(node, "heavy", "compute")
        for answer in flood.refused():
            refusal(answer, code="overBudget", level="budget", ceiling="compute", limit=4_000_000)
        assert observed <= spent["spent"] <= 4, f"handlers held {observed} GB-s, {spent} is counted of 4"
        # The worst case of one: its timeout, the grace after it and the kill, at 512 MiB.
        assert flood.refused() and spent["spent"] > 4 - 0.5 * 2.5 - 1e-6 and spent["reserved"] == 0, f"refused too early: {spent}"
        print(f"        compute budget of 4 GB-s: handlers held {observed:.3f}, counted {spent['spent']:.3f} in {len(flood.ok())} calls")
    suite.check("what handlers held is never more than the compute budget, and little of it stays unused", compute)

    def worst():
        before = budget(node, "heavy", "compute")["spent"]
        node.deployed("function: large\nruntime: python3\nhandler: main.handler\nmemory: 1GiB\ntimeout: 5s\n", {"main.py": SPAN}, "heavy")
        answer = Caller(node).call("large", {"sleep": 0}, "heavy")
        refusal(answer, code="overBudget", ceiling="compute")
        assert budget(node, "heavy", "compute")["spent"] == before
        # Larger than the whole budget: no waiting helps, so none is advised.
        assert "retry-after" not in answer.headers, f"Retry-After {answer.headers['retry-after']} for a call that never fits"
    suite.check("a call whose worst case does not fit is refused, and one that never can is not told to wait", worst)


def edits(suite, node):
    def added():
        long = Flood(node, 2, "span", {"sleep": 2.5}, "later", calls=2)
        node.until("later", 2)
        run = node.cli("quota", "set", "later", "budget.invocations=4/hour", f"budget.zone={ZONE}")
        assert run.returncode == 0, run
        # These hold their reservations while the two that began without a budget end.
        held = Flood(node, 2, "span", {"sleep": 3.5}, "later", calls=2)
        assert len(long.join().ok()) == 2
        wait_for(lambda: budget(node, "later", "invocations")["spent"] >= 2, 10, "the ledger")
        more = Flood(node, 4, "span", {"sleep": 0}, "later", calls=4).join()
        total = len(long.ok()) + len(held.join().ok()) + len(more.ok())
        counted = wait_for(lambda: used(node, "later")[0] == total and total, 20, "the usage")
        assert counted <= 4, f"{counted} ran within a window of 4"
    suite.check("a budget that is added while calls run counts them, and is not overrun", added)

    def removed():
        held = Flood(node, 3, "span", {"sleep": 1.5}, "again", calls=3)
        node.until("again", 3)
        assert node.cli("quota", "set", "again", "budget.invocations=none").returncode == 0
        assert len(held.join().ok()) == 3
        assert node.cli("quota", "set", "again", "budget.invocations=10/hour", f"budget.zone={ZONE}").returncode == 0
        state = budget(node, "again", "invocations")
        assert state["reserved"] == 0 and state["spent"] == 3, f"nothing runs, 3 ran: {state}"
        flood = Flood(node, 10, "span", {"sleep": 0}, "again", calls=20).join()
        assert len(flood.ok()) == 7, f"{len(flood.ok())} of the 7 that were left were admitted"
    suite.check("a budget that goes and comes back knows what ran, and holds nothing for what ended", removed)

    def returned():
        assert len(Flood(node, 5, "span", {"sleep": 0}, "back", calls=5).join().ok()) == 5
        path = os.path.join(node.config, "tenants.d", "back.yaml")
        text = open(path).read()
        os.remove(path)
        assert node.cli("reload").returncode == 0
        with open(path, "w") as file:
            file.write(text)
        assert node.cli("reload").returncode == 0
        refusal(Caller(node).call("span", {"sleep": 0}, "back"), code="overBudget", ceiling="invocations", limit=5, value=5)
        assert used(node, "back")[0] == 5, used(node, "back")
    suite.check("a tenant that goes and comes back has spent what it spent", returned)


def deaths(suite, node):
    def kills():
        answered = lost = count = 0
        held = compute = 0.0
        for index in range(12):
            flood = Flood(node, 8, "span", {"sleep": 0.02}, "killed", seconds=0.4)
            time.sleep(random.uniform(0.05, 0.35))
            if index % 4 == 3:
                # The spawner takes all with it. After its start a dead daemon is replaced without a pause again.
                node.process.kill()
                node.process.wait()
                node.process.stdout.close()
                flood.join()
                node.start()
            else:
                os.kill(daemon(node), signal.SIGKILL)
                flood.join()
            wait_for(lambda: answers(node), 20, "a new daemon")
            assert not flood.refused(), flood.refused()[:2]
            answered, lost = answered + len(flood.ok()), lost + flood.lost
            held += sum(end - begin for begin, end in flood.spans()) * 96 / 1024
            before = count, compute
            count, compute = used(node, "killed")
            assert answered <= count <= answered + lost, f"round {index}: {answered} answered, {lost} not, {count} counted"
            assert held <= compute and (count, compute) >= before, f"round {index}: handlers held {held} GB-s, {compute} are counted, {before} before"
            spent = budget(node, "killed", "invocations")
            assert spent["spent"] == count and spent["reserved"] == 0, f"round {index}: {count} counted, budget {spent}"
        rest = Flood(node, 8, "span", {"sleep": 0}, "killed", calls=KILL_LIMIT - count + 50).join()
        for answer in rest.refused():
            refusal(answer, code="overBudget", ceiling="invocations")
        assert len(rest.ok()) == KILL_LIMIT - count, f"{len(rest.ok())} of the {KILL_LIMIT - count} that were left were admitted"
        wait_for(lambda: used(node, "killed")[0] == KILL_LIMIT, 5, "a full budget in the usage")
        print(f"        12 times kill -9: {answered} answered, {lost} without an answer, {count} counted")
        assert lost > 12, "the kills hit nothing"
    suite.check("twelve times kill -9 under load: no use is lost, doubled or over the budget", kills)


def answers(node):
    try:
        return Caller(node, 5).send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
    except OSError:
        return False
