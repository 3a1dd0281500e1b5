#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whether the time of a 404 tells another tenant's thing from nothing: the two in turn over one connection, in an order by chance. `alike.py [PAIRS]`, 4000 unless told.

Prints, and judges nothing: the ratio of the medians, and z of the rank-sum test, which is beyond 3.3 by chance once in a thousand; a row of two things that are both not there shows what
the method itself brings."""
import http.client
import json
import math
import os
import random
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from node import Node, python, wait_for  # noqa: E402

QUOTA = "quota: {concurrency: 8, memory: 512MiB, cpu: 2.0, processes: 512, storage: 2MiB}\n"
ECHO = "def handler(event, context):\n    return event\n"
NONE = "0" * 31 + "1"


def rank_sum(first, second):
    """z of the rank-sum test: how far the two are apart, in standard deviations of chance."""
    ordered = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks, place = 0.0, 0
    while place < len(ordered):
        end = place
        while end < len(ordered) and ordered[end][0] == ordered[place][0]:
            end += 1
        ranks += (place + 1 + end) / 2 * sum(1 for _, which in ordered[place:end] if which == 0)
        place = end
    n, m = len(first), len(second)
    return (ranks - n * (n + m + 1) / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def measure(node, what, method, theirs, nothing, headers, pairs, body=None):
    connection, times, answers = http.client.HTTPConnection(node.http), ([], []), [set(), set()]
    for number in range(pairs + 100):
        for which in random.sample((0, 1), 2):
            begin = time.monotonic_ns()
            connection.request(method, (theirs, nothing)[which], body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if number >= 100:
                times[which].append((time.monotonic_ns() - begin) / 1000)
                # What the caller said himself is said again: an id, or the name of a queue.
                path = (theirs, nothing)[which].split("/")
                for word in ["/".join(path[3:])] if path[1] == "q" else [word for word in path if len(word) == 32]:
                    text = text.replace(word.encode(), b"*")
                answers[which].add((answer.status, text))
    first, second = (statistics.median(values) for values in times)
    print(f"  {what:44} {first:7.1f} us, nothing {second:7.1f} us, ratio {first / second:.3f}, z {rank_sum(*times):+5.1f}, "
          f"{'the same bytes' if answers[0] == answers[1] and len(answers[0]) == 1 else f'DIFFERENT: {answers}'}", flush=True)


def main():
    pairs = int((sys.argv[1:] or ["4000"])[0])
    # What failed or was an event's is kept on the disk too; what was answered is in memory alone.
    node = Node({f"tenants.d/{name}.yaml": f"tenant: {name}\n{QUOTA}" for name in ("mine", "theirs")}).start()
    try:
        for tenant in ("mine", "theirs"):
            node.deployed(python("echo", "triggers: [{queue: key, name: in}]\n"), {"main.py": ECHO}, tenant)
            assert node.cli("bucket", "create", f"{tenant}/box").returncode == 0
            assert node.request("PUT", f"/v1/tenants/{tenant}/buckets/box/objects/one", b"x")[0] in (200, 201, 204)
        call = node.invoke("echo", b"1", "theirs")[1]["Bulkhead-Invocation-Id"]
        event = json.loads(node.invoke("echo", b"1", "theirs", {"Bulkhead-Invocation-Type": "async"})[2])["id"]
        wait_for(lambda: json.loads(node.request("GET", f"/v1/tenants/theirs/invocations/{event}")[2])["state"] == "done", 10, "the event's run")
        time.sleep(1.5)  # explanations are written down once a second
        run = node.cli("keys", "create", "--tenant", "mine", "--scope", "admin", "--json")
        key = {"Authorization": "Bearer " + json.loads(run.stdout)["key"]}
        assert node.cli("keys", "create", "--tenant", "theirs", "--scope", "invoke").returncode == 0
        mine, foreign, nobody = "/v1/tenants/mine", "/v1/tenants/theirs", "/v1/tenants/nobody"
        print(f"the time of a 404 for another tenant's thing, and for nothing: {pairs} pairs each, medians")
        for what, method, theirs, nothing, *body in [
            ("(nothing twice)", "GET", f"{nobody}/functions", "/v1/tenants/nobodx/functions"),
            ("a call of its function", "POST", f"{foreign}/functions/echo/invocations", f"{foreign}/functions/nope/invocations", b"1"),
            ("a call of its function, and of no tenant's", "POST", f"{foreign}/functions/echo/invocations", f"{nobody}/functions/echo/invocations", b"1"),
            ("its function's versions", "GET", f"{foreign}/functions/echo/versions", f"{nobody}/functions/echo/versions"),
            ("an object of its bucket", "GET", f"{foreign}/buckets/box/objects/one", f"{foreign}/buckets/nope/objects/one"),
            ("its bucket, and no tenant's", "GET", f"{foreign}/buckets/box", f"{nobody}/buckets/box"),
            ("its event, under its own name", "GET", f"{foreign}/invocations/{event}", f"{foreign}/invocations/{NONE}"),
            ("its event, under mine", "GET", f"{mine}/invocations/{event}", f"{mine}/invocations/{NONE}"),
            ("its event's payload, under mine", "GET", f"{mine}/events/{event}/payload", f"{mine}/events/{NONE}/payload"),
            ("why its call went as it went, under mine", "GET", f"{mine}/invocations/{call}/explain", f"{mine}/invocations/{NONE}/explain"),
            ("its queue", "POST", "/q/theirs/echo/in", "/q/theirs/echo/no", b"1"),
        ]:
            measure(node, what, method, theirs, nothing, key, pairs, *body)
    finally:
        node.remove()


if __name__ == "__main__":
    main()
