# SPDX-License-Identifier: Apache-2.0
"""Triggers with `batch`: many events in one call, of which each keeps an end of its own, also where the node dies in the middle."""
import json
import os
import signal
import time

from events_buckets import put
from node import python, wait_for

# What a worker prints may die with the daemon; what it writes does not.
SORT = """import json
def handler(event, context):
    failed = []
    found = []
    for record in event['Records']:
        key = json.loads(record['body'])['key']
        found.append([key, record['attempt']])
        if key.endswith('5') and record['attempt'] == 1:
            failed.append({'itemIdentifier': record['messageId']})
    print('called with', json.dumps(found), flush=True)
    return {'batchItemFailures': failed}
"""

HOLD = """import json, os, time
def handler(event, context):
    numbers = [json.loads(record['body'])['n'] for record in event['Records']]
    name = '/buckets/thumbs/held/' + context.request_id + '-' + str(time.time_ns())
    os.makedirs('/buckets/thumbs/held', exist_ok=True)
    with open(name + '.began', 'w') as file:
        file.write(json.dumps(numbers))
    while not os.path.exists('/buckets/thumbs/go'):
        time.sleep(0.05)
    os.rename(name + '.began', name + '.ended')
"""

# Each object becomes another one, in a file of a new name.
AGAIN = """def handler(event, context):
    print('called', len(event['Records']), flush=True)
    for record in event['Records']:
        print('in', flush=True)
        with open('/buckets/photos/round/' + record['messageId'], 'w') as file:
            file.write('again')
"""


def of(node, function, *states):
    """The function's events in these states, or in all."""
    return [event for state in states or [None] for event in node.json("events", "list", f"loopy/{function}", *(["--status", state] if state else []))]


def run(suite, node, events):
    count, size = 20, 8
    keys = [f"many/{number:02}" for number in range(count)]
    named = {"many/05", "many/15"}

    def calls():
        return [json.loads(line.removeprefix("called with ")) for line in events.lines(node, "sorter", "loopy")]

    def objects():
        node.deployed(
            python("sorter", f"concurrency: 1\nbuckets: {{photos: read}}\ntriggers: [{{bucket: photos, prefix: many/, on: created, batch: {size}, wait: 2s}}]\n"),
            {"main.py": SORT}, "loopy")
        began = time.time()
        for key in keys:
            put(node, f"photos/{key}")
        wait_for(lambda: sum(len(call) for call in calls()) >= count, 60, "a run of each object")
        wait_for(lambda: len(of(node, "sorter", "done")) == count - len(named), 60, "the end of all that were not named")
        seconds = time.time() - began
        first = [len(call) for call in calls()]
        # Those of the same two seconds wait for each other: a call that is not full for each of these.
        assert 1 < max(first) <= size and len(first) <= count // size + seconds // 2 + 2, (first, seconds)
        assert sorted(entry for call in calls() for entry in call) == [[key, 1] for key in keys], calls()
        waiting = of(node, "sorter", "ready")
        assert len(waiting) == len(named) and all("named it among those that failed" in event["reason"] for event in waiting), waiting
    suite.check("objects of a bucket with a batch come together, at most so many, and each in one call only", objects)

    def killed():
        node.deployed(
            python("holder", "timeout: 900s\nconcurrency: 1\nbuckets: {thumbs: write}\ntriggers: [{queue: key, name: in, batch: 10}]\n"), {"main.py": HOLD}, "loopy")
        body = "\n".join(json.dumps({"n": n}) for n in range(30)).encode()
        status, _, answer = node.request("POST", "/q/loopy/holder/in", body, {"Content-Type": "application/x-ndjson"})
        assert status == 202, answer
        ids = json.loads(answer)["ids"]
        wait_for(lambda: held(node), 20, "a call that runs")
        wait_for(lambda: len(of(node, "holder", "leased")) >= 10, 30, "its events")
        os.kill(events.daemon(node), signal.SIGKILL)
        wait_for(lambda: events.alive(node), 20, "the daemon's return")
        put(node, "thumbs/go")
        wait_for(lambda: not of(node, "holder", "ready", "leased"), 90, "the end of all")
        found = of(node, "holder")
        assert sorted(event["id"] for event in found) == sorted(ids) and {event["state"] for event in found} == {"done"}, found
        calls = held(node)
        ended = [numbers for suffix, numbers in calls if suffix == "ended"]
        assert sorted(number for numbers in ended for number in numbers) == list(range(30)), ended
        # One of them may have been what the node died of.
        assert all([number] in ended for suffix, numbers in calls if suffix == "began" for number in numbers), calls
    suite.check("the daemon killed while a batch runs: each of its events ends once, and alone, and none is lost", killed)

    def loop():
        settles = events.settling(node)
        node.deployed(
            python("round", "buckets: {photos: write}\ntriggers: [{bucket: photos, prefix: round/, on: created, batch: 10, wait: 1s}]\n"
                   "recursion: {maxDepth: 16, maxDescendants: 1000}\nworkers: {max: 4}\n"), {"main.py": AGAIN}, "loopy")
        for number in range(4):
            put(node, f"photos/round/{number}")
        runs = settles("round", 120)
        found = [int(line.split()[1]) for line in events.lines(node, "round", "loopy") if line.startswith("called")]
        # Each comes round as often as one alone would; less often where they began in different seconds, for together they are as old as the oldest of them.
        assert 17 <= runs <= 4 * 17 and max(found) > 1, (runs, found)
        [edge] = [one for one in node.json("loops", "list") if one["edge"].startswith("loopy/round/")]
        assert edge["parked"] == 4, edge
    suite.check("a loop through a bucket with a batch is cut after 17 entries of one path, whatever comes together", loop)

    def again():
        wait_for(lambda: len(of(node, "sorter", "done")) == count, 90, "the end of those that were named")
        later = [entry for call in calls() for entry in call if entry[1] > 1]
        assert sorted(later) == [[key, 2] for key in sorted(named)], calls()
        assert len(of(node, "sorter")) == count
    suite.check("of a batch that failed in part only what its answer named runs again", again)


def held(node):
    """What each call of the holder got, and whether it came to its end."""
    status, _, body = node.request("GET", "/v1/tenants/loopy/buckets/thumbs/objects?prefix=held/")
    assert status == 200, (status, body)
    found = []
    for row in json.loads(body)["objects"]:
        status, _, text = node.request("GET", f"/v1/tenants/loopy/buckets/thumbs/objects/{row['key']}")
        if status == 200:
            found.append((row["key"].rsplit(".")[-1], json.loads(text or b"[]")))
    return found
