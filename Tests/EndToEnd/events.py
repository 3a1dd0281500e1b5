#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Durable events and loops, judged from outside: what handlers logged, what webhooks received, and what callers were told."""
import http.server
import json
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import events_alarms  # noqa: E402
import events_attacks  # noqa: E402
import events_batches  # noqa: E402
import events_borders  # noqa: E402
import events_buckets  # noqa: E402
import events_dead_letters  # noqa: E402
import events_rates  # noqa: E402
import events_routes  # noqa: E402
from node import PATIENCE, Node, Suite, python, wait_for  # noqa: E402

ECHO = "def handler(event, context):\n    print('ran', context.request_id, context.attempt, flush=True)\n    return {'got': event}\n"


class Receiver:
    """A webhook's far end: keeps what came, and answers as it is told."""

    def __init__(self):
        receiver = self
        self.got, self.status, self.delay = [], 200, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.got.append(({**self.headers, ':path': self.path, ':at': int(time.time() * 1000)}, body))
                time.sleep(receiver.delay)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def bodies(self, *paths):
        return [json.loads(body) for headers, body in self.got if headers[":path"] in paths]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def tenant(name, extra="", seats=16):
    return f"tenant: {name}\nquota: {{concurrency: {seats}, queue: 1000, memory: 2GiB, cpu: 2.0, processes: 1024}}\n{extra}"


def send(node, function, body=b"{}", tenant="acme", headers=None):
    """(status, headers, body) of an asynchronous call."""
    return node.invoke(function, body, tenant, {"Bulkhead-Invocation-Type": "async", **(headers or {})})


def sent(node, function, event=None, tenant="acme", headers=None):
    """The id of an event that was taken in."""
    status, _, body = send(node, function, json.dumps(event).encode(), tenant, headers)
    assert status == 202, (status, body)
    return json.loads(body)["id"]


def state(node, id, tenant="acme"):
    return json.loads(node.request("GET", f"/v1/tenants/{tenant}/invocations/{id}")[2]).get("state")


def lines(node, function, tenant="acme"):
    """What a function's workers printed, the oldest first."""
    status, _, body = node.request("GET", f"/v1/tenants/{tenant}/functions/{function}/logs?tail=10000")
    assert status == 200, body
    return [entry["text"] for entry in map(json.loads, body.splitlines()) if entry["stream"] == "stdout"]


def basics(suite, node, receiver):
    node.deployed(python("echo"), {"main.py": ECHO})

    def runs():
        id = sent(node, "echo", {"a": 1})
        # The first worker of all may take longer than it has to be ready on an emulated machine: then it is the second attempt.
        wait_for(lambda: any(line in (f"ran {id} 1", f"ran {id} 2")[:1 if PATIENCE == 1 else 2] for line in lines(node, "echo")), 15, "the run of the event")
    suite.check("an event runs, under the id that its sender was given", runs)

    def once():
        first = sent(node, "echo", {"b": 1}, headers={"Idempotency-Key": "k1"})
        status, headers, body = send(node, "echo", json.dumps({"b": 1}).encode(), headers={"Idempotency-Key": "k1"})
        assert status == 202 and json.loads(body) == {"id": first, "duplicate": True} and headers["Bulkhead-Duplicate"] == "true", body
        status, _, body = send(node, "echo", b'{"b":2}', headers={"Idempotency-Key": "k1"})
        assert status == 422 and json.loads(body)["code"] == "keyReused" and json.loads(body)["invocation"] == first, (status, body)
        words = ("invoke", "acme/echo", "--async", "--idempotency-key", "k2", "--data")
        assert node.cli(*words, "1").returncode == 0
        other = node.cli(*words, "2")
        assert other.returncode == 2 and b"use another key" in other.stderr, other
        wait_for(lambda: f"ran {first} 1" in lines(node, "echo"), 15, "the run")
        last = sent(node, "echo", {})
        wait_for(lambda: f"ran {last} 1" in lines(node, "echo"), 15, "the run of a later event")
        assert sum(first in line for line in lines(node, "echo")) == 1
    suite.check("two sends with one idempotency key are one event", once)

    def delayed():
        began = time.time()
        id = sent(node, "echo", {}, headers={"Bulkhead-Delay": "1500ms"})
        wait_for(lambda: f"ran {id} 1" in lines(node, "echo"), 15, "the run")
        assert time.time() - began >= 1.5, f"it ran after {time.time() - began:.2f} s"
    suite.check("a delayed event does not start before its time", delayed)

    def bounds():
        for headers, word in [
                ({"Idempotency-Key": "x" * 256}, "Idempotency-Key"), ({"Bulkhead-Delay": "8d"}, "Bulkhead-Delay"),
                ({"Bulkhead-Delay": "700000s"}, "Bulkhead-Delay"), ({"Bulkhead-Timeout": "1s"}, "Bulkhead-Timeout")]:
            status, _, body = send(node, "echo", headers=headers)
            assert status == 400 and word in json.loads(body)["detail"], (headers, status, body)
        assert send(node, "nobody")[0] == 404
        status, _, body = send(node, "echo", b"x" * (6 << 20))
        assert status == 202, (status, body)

        def too_long():
            # The node reads nothing more of what it refuses: a caller that still sends may meet the end of the connection before the answer.
            try:
                return send(node, "echo", b"x" * ((6 << 20) + 1))
            except ConnectionError:
                return None
        status, _, body = wait_for(too_long, 10, "an answer to a payload that is too long")
        assert status == 413, (status, body)
    suite.check("a key, a delay, a payload of exactly and one over each limit", bounds)

    def large():
        node.deployed(python("size"), {"main.py": "def handler(event, context):\n    print('size', len(event), flush=True)\n"})
        status, _, body = send(node, "size", b"x" * (5 << 20), headers={"Content-Type": "application/octet-stream"})
        assert status == 202
        wait_for(lambda: f"size {5 << 20}" in lines(node, "size"), 15, "the run with a payload in a file")
    suite.check("a payload of 5 MiB arrives whole", large)

    def later():
        node.deployed(python("later"), {"main.py": """
def handler(event, context):
    print('asked', context.attempt, flush=True)
    if event['n'] and not getattr(handler, 'seen', 0) >= event['n']:
        handler.seen = getattr(handler, 'seen', 0) + 1
        context.retry_later(1)
    return 'done'
"""})
        sent(node, "later", {"n": 2})
        wait_for(lambda: len(lines(node, "later")) >= 3, 20, "three runs")
        assert lines(node, "later")[:3] == ["asked 1"] * 3, lines(node, "later")
    suite.check("retry_later runs the same event again and uses no attempt", later)

    def chain():
        node.deployed(python("first"), {"main.py": """
def handler(event, context):
    id = context.call_async('echo', {'from': 'first'})
    print('sent', id, flush=True)
    answer = context.emit('orders', {'n': 7})
    print('emitted', answer, flush=True)
"""})
        node.deployed(python("consumer", "triggers: [{queue: key, name: orders}]\n"), {"main.py": ECHO})
        sent(node, "first", {})
        wait_for(lambda: len(lines(node, "first")) >= 2, 15, "the sender's lines")
        id, emitted = (line.split()[1] for line in lines(node, "first")[:2])
        wait_for(lambda: f"ran {id} 1" in lines(node, "echo"), 15, "the run of the called function")
        wait_for(lambda: f"ran {emitted} 1" in lines(node, "consumer"), 15, "the run of the function with the queue trigger")
    suite.check("a function sends events by call_async and emit", chain)


def shares(suite, node, receiver):
    def bytes_():
        node.deployed(python("hoard"), {"main.py": ECHO}, "loopy")
        body, taken, later = b"x" * (6 << 20), [], {"Bulkhead-Delay": "3600s"}
        for _ in range(200):
            status, headers, answer = send(node, "hoard", body, "loopy", later)
            if status != 202:
                break
            taken.append(json.loads(answer)["id"])
        assert status == 429 and int(headers["Retry-After"]) >= 1, (status, answer)
        assert (json.loads(answer)["level"], json.loads(answer)["ceiling"]) == ("tenant", "event bytes"), answer
        # What the disk took while a count ran is counted twice until the next: never too many, a few too few.
        assert 100 <= len(taken) <= (1 << 30) // (6 << 20), len(taken)
        assert send(node, "echo", body, "acme", later)[0] == 202, "another tenant"
        for id in taken:
            assert node.request("DELETE", f"/v1/tenants/loopy/invocations/{id}")[0] == 200
        wait_for(lambda: send(node, "hoard", body, "loopy", later)[0] == 202, 20, "room again")
    suite.check("a tenant that sends without end fills its own share, and another one's events are taken", bytes_)

    def turns():
        node.deployed(python("slow", "workers: {max: 1}\n"), {"main.py": "import time\ndef handler(event, context):\n    print('slow', flush=True)\n    time.sleep(0.5)\n"})
        for _ in range(60):
            sent(node, "slow", {})
        wait_for(lambda: lines(node, "slow"), 15, "the first of the backlog")
        before = len(lines(node, "slow"))
        id = sent(node, "echo", {"n": 1})
        wait_for(lambda: f"ran {id} 1" in lines(node, "echo"), 15, "the other function's event")
        between = len(lines(node, "slow")) - before
        assert between < 20, f"{between} of the backlog ran first"
        wait_for(lambda: len(lines(node, "slow")) == 60, 90, "the rest of the backlog")
    suite.check("a slow function's backlog does not keep the events of the tenant's others", turns)


def destinations(suite, node, receiver):
    def outcomes():
        node.deployed(
            python("told", f"async: {{attempts: 1, onSuccess: 'webhook:{receiver.url}ok', onFailure: 'webhook:{receiver.url}bad'}}\n"),
            {"main.py": "def handler(event, context):\n    if event['fail']: raise ValueError('no')\n    return {'sum': 3}\n"})
        good, bad = sent(node, "told", {"fail": False}), sent(node, "told", {"fail": True})
        wait_for(lambda: len(receiver.bodies("/ok", "/bad")) >= 2, 20, "two deliveries")
        found = {record["requestContext"]["invocationId"]: record for record in receiver.bodies("/ok", "/bad")}
        assert found[good]["requestContext"]["condition"] == "Success" and found[good]["responsePayload"] == {"sum": 3}, found[good]
        assert found[good]["requestPayload"] == {"fail": False} and found[good]["requestContext"]["attempts"] == 1, found[good]
        assert found[bad]["requestContext"]["condition"] == "RetriesExhausted" and found[bad]["requestContext"]["attempts"] == 1, found[bad]
        assert found[bad]["responseContext"]["errorMessage"] == "no", found[bad]
    suite.check("webhooks are told success and failure, with request, answer and attempts", outcomes)

    def follower():
        node.deployed(python("alerts"), {"main.py": "def handler(event, context):\n    print('alert', event['requestContext']['function'], flush=True)\n"})
        node.deployed(python("breaks", "async: {attempts: 1, onFailure: 'function:alerts'}\n"), {"main.py": "def handler(event, context):\n    raise ValueError('no')\n"})
        node.deployed(python("watcher", "triggers: [{outcome: breaks, on: failure}]\n"), {"main.py": ECHO})
        sent(node, "breaks", {})
        wait_for(lambda: "alert acme/breaks" in lines(node, "alerts"), 15, "the destination's run")
        wait_for(lambda: len(lines(node, "watcher")) == 1, 15, "the run of the function with the outcome trigger")
    suite.check("a destination function and an outcome trigger both run", follower)

    def stubborn():
        receiver.got.clear()
        receiver.status = 500
        node.deployed(
            python("stubborn", f"async: {{onSuccess: 'webhook:{receiver.url}'}}\n"), {"main.py": "def handler(event, context):\n    return 1\n"})
        sent(node, "stubborn", {})
        wait_for(lambda: len(receiver.got) >= 2, 20, "a second delivery")
        receiver.status = 200
        count = len(receiver.got)
        wait_for(lambda: len(receiver.got) > count, 20, "the delivery that is taken")
        assert len({body for _, body in receiver.got}) == 1
    suite.check("a webhook that fails is tried again, with the same body", stubborn)


def restarts(suite, node, receiver):
    def kills():
        node.deployed(python("survivor", "maxConcurrency: 4\nworkers: {max: 4}\n"), {
            "main.py": "import time\ndef handler(event, context):\n    time.sleep(0.05)\n    print('end', event['n'], flush=True)\n"})
        ids, count = [], 200 if PATIENCE == 1 else 40
        for n in range(count):
            ids.append(sent(node, "survivor", {"n": n}))
            if n in (count * 3 // 10, count * 13 // 20):
                os.kill(daemon(node), signal.SIGKILL)
                wait_for(lambda: alive(node), 20, "the daemon's return")
        # What ran is in the store; of the log, lines that the daemon had read and not yet written die with it.
        unsettled = set(ids)

        def settled():
            unsettled.difference_update([id for id in unsettled if state(node, id) == "done"])
            return not unsettled
        wait_for(settled, 60, "all events")
        assert len(set(lines(node, "survivor"))) >= count - 10, len(set(lines(node, "survivor")))
    suite.check("many events, the daemon killed twice meanwhile: every one that was taken ran", kills)


def daemon(node):
    # A worker that the spawner is making looks like the spawner.
    spawners = [int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if is_spawner(pid, node.state)]
    return next(int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if any(is_daemon(pid, spawner) for spawner in spawners))


def is_spawner(pid, state):
    try:
        command = open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return False
    return "bulkhead-spawner" in command and state in command


def is_daemon(pid, spawner):
    try:
        return open(f"/proc/{pid}/comm").read().strip() == "bulkheadd" and f"PPid:\t{spawner}" in open(f"/proc/{pid}/status").read()
    except OSError:
        return False


def alive(node):
    try:
        return node.request("GET", "/readyz")[0] == 200
    except OSError:
        return False


LOOP = """
def handler(event, context):
    print('in', flush=True)
    for _ in range(event['m']):
        try:
            context.call_async('NAME', event)
        except Exception as error:
            print('refused', error, flush=True)
"""


# From a write to the run that it starts, at most.
QUIET = 6 if PATIENCE == 1 else 15


def settling(node):
    def settles(function, seconds=60):
        """How often the function had run when it was quiet for QUIET seconds and nothing of the tenant waits or runs: a loop that is tested for rests longer than that."""
        last, since = -1, time.time()
        end = time.time() + seconds * PATIENCE
        while time.time() < end:
            count = sum(line == "in" for line in lines(node, function, "loopy"))
            if count != last:
                last, since = count, time.time()
            elif count and time.time() - since > QUIET:
                waiting = [event for state in ("ready", "leased") for event in node.json("events", "list", "loopy", "--status", state)]
                if not [event for event in waiting if event["function"] == function]:
                    return count
            time.sleep(0.2)
        raise AssertionError(f"{function} still runs after {last} times")
    return settles


def buckets(suite, node, receiver):
    events_buckets.run(suite, node, lines)


def bucket_loops(suite, node, receiver):
    events_buckets.loops(suite, node, settling(node))


def attacks(suite, node, receiver):
    events_attacks.run(suite, node, sys.modules[__name__])


def alarms(suite, node, receiver):
    events_alarms.run(suite, sys.modules[__name__])


def routes(suite, node, receiver):
    events_routes.run(suite, node, lines)


def dead_letters(suite, node, receiver):
    events_dead_letters.run(suite, node, lines, daemon)


def batches(suite, node, receiver):
    events_batches.run(suite, node, sys.modules[__name__])


def borders(suite, node, receiver):
    events_borders.run(suite, sys.modules[__name__])


def rates(suite, node, receiver):
    events_rates.run(suite, node, lines)


def loops(suite, node, receiver):
    settles = settling(node)

    def chain():
        node.deployed(python("chain", "workers: {max: 4}\n"), {"main.py": LOOP.replace("NAME", "chain")}, "loopy")
        began = time.time()
        sent(node, "chain", {"m": 1}, "loopy")
        count = settles("chain")
        assert count == 17, f"{count} runs; one path may enter a function 17 times at once"
        wait_for(lambda: any(b"acme" not in body and b"loop" in body for _, body in receiver.got), 5, "the alarm")
        assert time.time() - began < 30
    suite.check("a function that calls itself is cut after 17 entries of one path, and its owner hears of it", chain)

    def burst():
        node.deployed(python("burst", "workers: {max: 4}\n"), {"main.py": LOOP.replace("NAME", "burst")}, "loopy")
        sent(node, "burst", {"m": 3}, "loopy")
        count = settles("burst", 180)
        assert 17 <= count <= 1_001 + 3, f"{count} runs of one root; the bound is 1,001 and one more a minute"
        assert node.invoke("echo", b"{}")[0] == 200, "another tenant"
    suite.check("a function that calls itself thrice is cut at its root's budget, and another tenant is served", burst)

    def waiting():
        node.deployed(python("sync", "workers: {max: 20}\ntimeout: 120s\n"), {"main.py": """
def handler(event, context):
    return context.call('sync', event)
"""}, "loopy")
        status, _, body = node.invoke("sync", b"{}", "loopy", timeout=150)
        assert status == 500 and b"loop" in body, (status, body)
    suite.check("a function that waits for itself ends with an error that says loop", waiting)


PARTS = {"basics": basics, "shares": shares, "buckets": buckets, "bucket-loops": bucket_loops, "destinations": destinations, "restarts": restarts, "loops": loops, "routes": routes, "rates": rates, "borders": borders, "dead-letters": dead_letters, "alarms": alarms, "attacks": attacks, "batches": batches}


def main(names):
    suite = Suite("events")
    receiver = Receiver()
    config = {
        "tenants.d/small.yaml": tenant("small", "buckets: [photos]\n").replace("quota: {", "quota: {buckets: 20MiB, "),
        "bulkhead.yaml": "webhooks: any\n", "tenants.d/acme.yaml": tenant("acme"), "tenants.d/loopy.yaml": tenant("loopy", f"buckets: [photos, thumbs]\nnotify: [{{webhook: '{receiver.url}alarm'}}]\n" + events_routes.TENANT),
        "tenants.d/keyed.yaml": tenant("keyed"), "tenants.d/other.yaml": tenant("other"),
    }
    node = Node(config).start()
    try:
        if names and "basics" not in names:
            node.deployed(python("echo"), {"main.py": ECHO})
        for name in names or PARTS:
            PARTS[name](suite, node, receiver)
    finally:
        node.remove()
        receiver.close()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
