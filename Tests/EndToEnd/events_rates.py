# SPDX-License-Identifier: Apache-2.0
"""Triggers with a rate of their own: who can come again is refused, and what cannot waits for its turn."""
import json
import time

import events_buckets
from node import python, wait_for

TELL = "import time\ndef handler(event, context):\n    print(time.time(), event.get('key'), flush=True)\n    return {}\n"


def run(suite, node, lines):
    def route():
        node.deployed(python("rate-route", "triggers: [{http: /paced, rate: 15/m burst 2}, {http: /free}]\n"), {"main.py": "def handler(event, context):\n    return {}\n"}, "loopy")
        assert node.request("GET", "/t/loopy/free")[0] == 200
        assert [node.request("GET", "/t/loopy/paced")[0] for _ in range(2)] == [200, 200]
        status, headers, body = node.request("GET", "/t/loopy/paced")
        problem = json.loads(body)
        assert status == 429 and (problem["level"], problem["ceiling"], problem["limit"], problem["value"]) == ("trigger", "rate", 2, 2), (status, problem)
        wait = int(headers["Retry-After"])
        assert 1 <= wait <= 4, headers
        told = json.dumps(node.json("explain", headers["Bulkhead-Invocation-Id"]))
        assert "trigger rate" in told, told
        assert node.request("GET", "/t/loopy/free")[0] == 200 and node.invoke("rate-route", b"{}", "loopy")[0] == 200, "the other ways in"
        time.sleep(wait)
        assert node.request("GET", "/t/loopy/paced")[0] == 200, "whoever waits as long as it was told is served"
        row = next(row for row in node.json("triggers", "loopy/rate-route") if row["trigger"] == "http-1")
        assert row["rate"] == "15/minute burst 2", row
    suite.check("a route beyond its own rate answers 429 with its trigger and an honest Retry-After, and its function's other ways in go on", route)

    def queue():
        node.deployed(python("rate-queue", "triggers: [{queue: key, name: in, rate: 1/day burst 3}]\n"), {"main.py": TELL}, "loopy")
        path, batch = "/q/loopy/rate-queue/in", {"Content-Type": "application/x-ndjson"}
        status, headers, body = node.request("POST", path, b"1\n2\n3\n4\n", batch)
        assert status == 429 and "Retry-After" not in headers, (status, headers, body)
        assert node.request("POST", path, b'{"key": 1}\n{"key": 2}\n', batch)[0] == 202
        assert node.request("POST", path, b'{"key": 8}\n{"key": 9}\n', batch)[0] == 429
        assert node.request("POST", path, b'{"key": 3}', {"Content-Type": "application/json"})[0] == 202
        status, headers, body = node.request("POST", path, b"{}")
        problem = json.loads(body)
        assert status == 429 and problem["level"] == "trigger" and problem["limit"] == 3 and int(headers["Retry-After"]) > 80_000, (headers, problem)
        wait_for(lambda: len(lines(node, "rate-queue", "loopy")) == 3, 30, "the runs of what was taken")
        assert sorted(line.split()[1] for line in lines(node, "rate-queue", "loopy")) == ["1", "2", "3"]
    suite.check("a queue beyond its own rate answers 429, a batch whole or not at all; what it took runs", queue)

    def bucket():
        node.deployed(python("rate-bucket", "buckets: {photos: read}\ntriggers: [{bucket: photos, prefix: paced/, rate: 1/s burst 2}]\n"), {"main.py": TELL}, "loopy")
        began, count = time.time(), 7
        for number in range(count):
            events_buckets.put(node, f"photos/paced/{number}")
        wait_for(lambda: len(lines(node, "rate-bucket", "loopy")) >= count, 60, "a run for each object")
        runs = [line.split() for line in lines(node, "rate-bucket", "loopy")]
        assert sorted(key for _, key in runs) == [f"paced/{number}" for number in range(count)], runs
        # From the moment before the first of them: two at once, then one a second.
        early = [(place, at) for place, at in enumerate(sorted(float(at) - began for at, _ in runs)) if at < place - 1 - 0.1]
        assert not early, (early, runs)
    suite.check("objects beyond their trigger's own rate start its function later, in every second no more than that, and none is lost", bucket)
