# SPDX-License-Identifier: Apache-2.0
"""Alarms: who is told of a loop, how soon, how often, and that it is over. On a node of its own, whose owner has a program for them."""
import json
import os
import shutil
import tempfile
import time

from node import Node, python, wait_for

# The promise, in milliseconds.
SOON = 5_000
ANSWERS = "def handler(event, context):\n    if event.get('bad'): raise ValueError('as asked')\n    return {}\n"
# Its workers are there for a moment, until a moment: their deaths are in no call's hands.
DIES = "import os, threading, time\nif time.time() < UNTIL: threading.Timer(0.02, os._exit, [3]).start()\ndef handler(event, context):\n    time.sleep(0.3)\n    return {}\n"
LOOP = "def handler(event, context):\n    print('in', flush=True)\n    context.call_async('chain', event)\n"


def run(suite, events):
    folder = tempfile.mkdtemp(prefix="bulkhead-alarms-", dir="/var/tmp")
    # The daemon, whose program it is, has a user of its own and may write nowhere: the program tells it on.
    os.chmod(folder, 0o755)
    receiver, program = events.Receiver(), os.path.join(folder, "tell")
    with open(program, "w") as file:
        file.write(f"#!/usr/bin/python3\nimport sys, urllib.request\nurllib.request.urlopen('{receiver.url}command', sys.stdin.buffer.read())\n")
    os.chmod(program, 0o755)
    node = Node({
        "bulkhead.yaml": f"webhooks: any\nnotify: [{{command: [{program}]}}]\n",
        **{f"tenants.d/{name}.yaml": events.tenant(name, f"notify: [{{webhook: '{receiver.url}{name}'}}]\n")
           for name in ("fails", "refused", "dies", "spends")},
        "tenants.d/loud.yaml": events.tenant("loud", f"notify: [{{webhook: '{receiver.url}webhook'}}]\n")})

    def notices(state):
        """Of the loop, by the way that they came."""
        came = [(headers[":at"], headers[":path"][1:], json.loads(body)) for headers, body in list(receiver.got)]
        return {way: [(at, one) for at, path, one in came if path == way and one["alarm"] == "loop" and one["state"] == state]
                for way in ("command", "webhook")}

    def both(state):
        return all(notices(state).values())

    def told():
        node.deployed(python("chain", "workers: {max: 4}\n"), {"main.py": LOOP}, "loud")
        events.sent(node, "chain", {}, "loud")

        def tripped():
            return next((loop for loop in node.json("loops", "list") if loop["edge"] == "loud/chain/direct" and loop["parked"]), None)
        loop = wait_for(tripped, 60, "the trip")
        wait_for(lambda: both("raised"), 20, "both notices")
        for way, found in notices("raised").items():
            at, notice = found[0]
            assert at - loop["since"] <= SOON, f"by {way} {at - loop['since']} ms after the trip"
            assert notice["tenant"] == "loud" and "chain" in notice["subject"] and "loop" in notice["text"], notice
        assert not any(notices("recovered").values())
        resumed = int(time.time() * 1000)
        run = node.cli("loops", "resume", "loud/chain/direct", "--mode", "discard")
        assert run.returncode == 0, run.stderr.decode()
        wait_for(lambda: both("recovered"), 20, "both recoveries")
        late = {way: found[0][0] - resumed for way, found in notices("recovered").items() if found[0][0] - resumed > SOON}
        assert not late, late
        # Whatever would be told twice has been told by now.
        time.sleep(2)
        counts = {state: [len(found) for found in notices(state).values()] for state in ("raised", "recovered")}
        assert counts == {"raised": [1, 1], "recovered": [1, 1]}, counts

    def turns(tenant):
        """What a tenant was told, in order: kind and state."""
        return [(one["alarm"], one["state"]) for one in receiver.bodies("/" + tenant)]

    def call(tenant, count, body=b"{}", function="f"):
        return [node.invoke(function, body, tenant)[0] for _ in range(count)]

    def shares():
        node.deployed(python("f"), {"main.py": ANSWERS}, "fails")
        assert set(call("fails", 60, b'{"bad": true}')) == {500}
        wait_for(lambda: turns("fails") == [("errorRate", "raised")], 5, "the error rate")
        assert set(call("fails", 545)) == {200}
        wait_for(lambda: turns("fails") == [("errorRate", "raised"), ("errorRate", "recovered")], 5, "its end, at a tenth")
        node.deployed(python("f"), {"main.py": ANSWERS}, "refused")
        node.deployed(python("slow", "rate: 1/day burst 1\n"), {"main.py": ANSWERS}, "refused")
        assert call("refused", 21, function="slow") == [200] + [429] * 20
        wait_for(lambda: turns("refused") == [("throttling", "raised")], 5, "the throttling")
        text = receiver.bodies("/refused")[0]["text"]
        assert "20 of them because function refused/slow is at its limit of rate: 1 of 1" in text and "bulkhead quota show refused" in text, text
        assert set(call("refused", 785)) == {200}
        wait_for(lambda: turns("refused") == [("throttling", "raised"), ("throttling", "recovered")], 5, "its end, at a fortieth")

    def deaths():
        node.deployed(python("f"), {"main.py": DIES.replace("UNTIL", str(time.time() + 6))}, "dies")

        def loops():
            # What callers were answered meanwhile may be told, too.
            return [state for kind, state in turns("dies") if kind == "crashLoop"]

        def raised():
            call("dies", 1)
            return loops()
        assert wait_for(raised, 30, "the crash loop") == ["raised"]
        wait_for(lambda: call("dies", 1) == [200], 60, "a worker that stays")
        wait_for(lambda: loops() == ["raised", "recovered"], 5, "its end")

    def budget():
        node.deployed(python("f"), {"main.py": ANSWERS}, "spends")
        assert node.cli("quota", "set", "spends", "budget.invocations=10/day").returncode == 0
        assert set(call("spends", 7)) == {200} and turns("spends") == []
        assert call("spends", 1) == [200]
        wait_for(lambda: turns("spends") == [("budget", "raised")], 5, "80 %")
        assert call("spends", 3) == [200, 200, 429]
        wait_for(lambda: turns("spends") == [("budget", "raised")] * 2, 5, "100 %")
        assert node.cli("quota", "set", "spends", "budget.invocations=100/day").returncode == 0
        wait_for(lambda: turns("spends") == [("budget", "raised")] * 2 + [("budget", "recovered")], 5, "its end")
    try:
        node.start()
        suite.check("functions that fail and calls that are refused are told to their tenant within 5 s, and that it is over", shares)
        suite.check("workers that die of themselves are told, and that they live again", deaths)
        suite.check("a budget is told at 80 and at 100 %, and that it was raised", budget)
        suite.check("a loop is told to a command and to a webhook, once each within 5 s, and that it is over when it was resumed", told)
    finally:
        node.remove()
        receiver.close()
        shutil.rmtree(folder, ignore_errors=True)
