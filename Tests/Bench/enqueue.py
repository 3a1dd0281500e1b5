#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Durable events through HTTP: enqueue by 1, 64 and 256 callers beside SQLite's own group commit on the same disk in the same run, the full cycle, a backlog of a million, and the restart
with it. `enqueue.py [QUEUED]`; prints, and judges nothing."""
import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from node import Node, python, wait_for  # noqa: E402

NOTE = "def handler(event, context):\n    return {}\n"
QUOTA = "quota: {concurrency: 16, memory: 1GiB, cpu: 2.0, processes: 512}\n"
# What may wait of one tenant is 500,000.
TENANTS = ["t1", "t2", "t3"]
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))

SCRIPT = """
wrk.method = "POST"
wrk.body = string.rep("7", 256)
wrk.headers["Bulkhead-Invocation-Type"] = "async"
%s
done = function(summary, latency, requests)
  io.write(string.format("FIGURES %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


def wrk(node, tenant, callers, extra=""):
    """(a second, p50 ms, p99 ms, errors)"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(SCRIPT % extra)
        file.flush()
        url = f"http://{node.http}/v1/tenants/{tenant}/functions/note/invocations"
        words = ["wrk", "-t1", f"-c{callers}", f"-d{SECONDS:.0f}s", "-s", file.name, url]
        out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    count, micros, p50, p99, errors = map(int, re.search(r"FIGURES (\d+) (\d+) (\d+) (\d+) (\d+)", out).groups())
    return count / micros * 1e6, p50 / 1000, p99 / 1000, errors


def bare(folder, rows):
    """Rows a second of SQLite with so many in a commit that waits for the disk."""
    path = os.path.join(folder, f"bare-{rows}.sqlite")
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                           "CREATE TABLE rows (id INTEGER PRIMARY KEY, due INTEGER, tenant TEXT, body BLOB); CREATE INDEX due ON rows (due);")
    number, begin, waits = 0, time.monotonic(), []
    while time.monotonic() - begin < SECONDS / 2:
        start = time.monotonic()
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO rows VALUES (?, ?, 'tenant', ?)", [(number + n, number + n, b"7" * 256) for n in range(rows)])
        database.execute("COMMIT")
        number += rows
        waits.append(time.monotonic() - start)
    took = time.monotonic() - begin
    database.close()
    waits.sort()
    return number / took, waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000


def fill(node, count):
    """Pushes events that are not due in batches of 1,000; how many a second in each tenth."""
    connection = http.client.HTTPConnection(node.http, timeout=60)
    body = b"\n".join([b'{"n": 7}'] * 1000)
    headers = {"Content-Type": "application/x-ndjson", "Bulkhead-Delay": "86400s"}
    rates, sent = [], 0
    for _ in range(10):
        begin = time.monotonic()
        for _ in range(count // 10_000):
            connection.request("POST", f"/q/{TENANTS[sent // 400_000]}/note/in", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 202, (answer.status, text)
            sent += 1000
        rates.append(count / 10 / (time.monotonic() - begin))
    return rates


def ran(node, tenant):
    """Seconds until an event that is sent now has run."""
    begin = time.monotonic()
    status, _, body = node.request("POST", f"/v1/tenants/{tenant}/functions/note/invocations", b"{}", {"Bulkhead-Invocation-Type": "async"})
    assert status == 202, body
    id = json.loads(body)["id"]
    wait_for(lambda: json.loads(node.request("GET", f"/v1/tenants/{tenant}/invocations/{id}")[2]).get("state") == "done", 120, "the event's run")
    return time.monotonic() - begin


def main():
    queued = int((sys.argv[1:] or ["1000000"])[0])
    node = Node({f"tenants.d/{name}.yaml": f"tenant: {name}\n{QUOTA}" for name in TENANTS}).start()
    try:
        for name in TENANTS:
            node.deployed(python("note", "triggers: [{queue: key, name: in}]\nworkers: {max: 2}\n"), {"main.py": NOTE}, name)
        print("durable enqueue through HTTP, beside SQLite with as many rows in a commit")
        for callers in (1, 64, 256):
            raw = bare(node.base, callers)
            mine = wrk(node, "t1", callers, 'wrk.headers["Bulkhead-Delay"] = "86400s"')
            print(f"  {callers:3d} callers   {mine[0]:7.0f}/s  p50 {mine[1]:.2f} ms  p99 {mine[2]:.2f} ms  {mine[3]} errors;  SQLite {raw[0]:7.0f}/s  p50 {raw[1]:.2f} ms"
                  f"  p99 {raw[2]:.2f} ms  ratio {mine[0] / raw[0]:.2f}", flush=True)

        def done():
            text = node.request("GET", "/metrics")[2].decode()
            return int(float(re.search(r'bulkhead_events\{state="done"\} (\S+)', text).group(1)))
        before, begin = done(), time.monotonic()
        mine = wrk(node, "t2", 64)
        ended = (done() - before) / (time.monotonic() - begin)
        print(f"  full cycle   {mine[0]:.0f}/s taken in while {ended:.0f}/s ran and were settled ({mine[3]} errors)", flush=True)
        rates = fill(node, queued)
        print(f"  {queued} queued in batches of 1,000: first tenth {rates[0]:.0f}/s, last tenth {rates[-1]:.0f}/s ({rates[-1] / rates[0]:.2f})", flush=True)
        print(f"  an event with all of them queued runs after {1000 * ran(node, 't3'):.0f} ms", flush=True)
        node.stop()
        begin = time.monotonic()
        node.start()
        ready = time.monotonic() - begin
        first = ran(node, "t3")
        print(f"  restart with them: ready after {ready:.2f} s, the first event has run {first:.2f} s later")
    finally:
        node.remove()


if __name__ == "__main__":
    main()
