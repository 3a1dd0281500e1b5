# SPDX-License-Identifier: Apache-2.0
"""A bucket with very many objects: the start that has to look through all of them, the list, its trigger, and the daemon's memory."""
import json
import os
import time

from load import daemon, resident
from node import PATIENCE, Node, python, wait_for

# 1000000 for the bound that is promised: making them takes most of the time.
FILES = int(os.environ.get("HOSTILE_FILES", "200000"))
TENANT = """tenant: acme
quota: {concurrency: 4, queue: 50, memory: 1GiB, cpu: 2.0, processes: 512, buckets: 8GiB}
buckets: [work]
"""
SEEN = "def handler(event, context):\n    print('saw', event['key'], flush=True)\n"


def run(suite):
    def crowded():
        node = Node({"tenants.d/acme.yaml": TENANT}).start()
        try:
            return crowd(node)
        finally:
            node.remove()
    suite.check(f"a bucket with {FILES} objects: the node starts, lists, watches and stays within its memory", crowded)


def crowd(node):
    node.deployed(python("seen", "triggers: [{bucket: work, prefix: in/, on: created}]\n"), {"main.py": SEEN})
    put(node, "in/first")
    wait_for(lambda: saw(node, "in/first"), 20, "the run of the first object")
    before = resident(daemon(node))
    node.stop()
    began = time.monotonic()
    fill(os.path.join(node.state, "data", "buckets", "acme", "work"))
    made, began = time.monotonic() - began, time.monotonic()
    node.start()
    started, began = time.monotonic() - began, time.monotonic()
    # The scan goes on behind it, and the bucket's trigger works meanwhile.
    put(node, "in/second")
    wait_for(lambda: saw(node, "in/second"), 60 + FILES / 5_000, "the run of an object beside so many")
    seen, began, most = time.monotonic() - began, time.monotonic(), 0
    names, pages, after = set(), [], ""
    while after is not None:
        page = time.monotonic()
        status, _, body = node.request("GET", "/v1/tenants/acme/buckets/work/objects?limit=1000" + (f"&after={after}" if after else ""))
        assert status == 200, (status, body[:300])
        answer = json.loads(body)
        names.update(row["key"] for row in answer["objects"])
        after = answer.get("next")
        pages.append(time.monotonic() - page)
        most = max(most, resident(daemon(node)))
    listed = time.monotonic() - began
    print(f"        {FILES} objects, made in {made:.0f} s: READY after {started:.1f} s, a new one's run after {seen:.1f} s, listed in {listed:.1f} s on {len(pages)} pages, "
          f"the longest {max(pages) * 1000:.0f} ms, the daemon has {most >> 20} MiB ({before >> 20} without them)")
    assert len(names) == FILES + 2, len(names)
    assert started < 20 * PATIENCE, started
    assert max(pages) < 5 * PATIENCE, max(pages)
    # A constant, and not so much for each object.
    assert most - before < 96 << 20, (before, most)


def fill(folder):
    owner = os.stat(folder)
    place = os.path.join(folder, "many")
    os.mkdir(place)
    os.chown(place, owner.st_uid, owner.st_gid)
    for number in range(FILES):
        if number % 5000 == 0:
            base = os.path.join(place, str(number // 5000))
            os.mkdir(base)
            os.chown(base, owner.st_uid, owner.st_gid)
        file = os.open(f"{base}/{number}", os.O_CREAT | os.O_WRONLY, 0o644)
        os.fchown(file, owner.st_uid, owner.st_gid)
        os.close(file)


def put(node, key):
    status, _, body = node.request("PUT", f"/v1/tenants/acme/buckets/work/objects/{key}", b"x")
    assert status in (200, 201), (status, body)


def saw(node, key):
    return f"saw {key}".encode() in node.cli("logs", "acme/seen", "--tail", "100").stdout
