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
    try:
        node.start()
        suite.check("a loop is told to a command and to a webhook, once each within 5 s, and that it is over when it was resumed", told)
    finally:
        node.remove()
        receiver.close()
        shutil.rmtree(folder, ignore_errors=True)
