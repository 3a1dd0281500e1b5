# SPDX-License-Identifier: Apache-2.0
"""Many connections, callers who leave, and a neighbour who floods."""
import contextlib
import json
import os
import resource
import socket
import threading
import time

from load import SPAN, Caller, Flood, daemon, most_memory, percentile, resident
from node import Node, python, wait_for

QUOTA = "queue: 500, memory: 2GiB, cpu: 2.0, processes: 1000"
CONFIG = {
    "tenants.d/acme.yaml": f"tenant: acme\nquota: {{concurrency: 50, {QUOTA}}}\n",
    "tenants.d/globex.yaml": f"tenant: globex\nquota: {{concurrency: 8, {QUOTA}}}\n",
    "tenants.d/narrow.yaml": f"tenant: narrow\nquota: {{concurrency: 1, {QUOTA}}}\n",
}
# Remembers what ran; `wait` runs until it is cancelled, `deaf` goes on for a second after that.
DIARY = """import time
runs, cancels = [], []
def handler(event, context):
    runs.append(event.get('tag'))
    begin = time.monotonic_ns()
    if event.get('sleep', 0) > 5: print('begins', event.get('tag'), flush=True)
    end = time.monotonic() + event.get('sleep', 0)
    while time.monotonic() < end:
        try:
            time.sleep(0.02)
        except BaseException as error:
            cancels.append([event.get('tag'), type(error).__name__, time.monotonic_ns()])
            if not event.get('deaf'): raise
            time.sleep(event['deaf'])
            cancels[-1].append(time.monotonic_ns())
            break
    return {'begin': begin, 'end': time.monotonic_ns(), 'runs': runs, 'cancels': cancels}
"""


def run(suite):
    # The node begins with what a shell gives, and takes what it may have.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))
    node = Node(CONFIG).start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if most == resource.RLIM_INFINITY else min(most, 16384), most))
    try:
        for tenant in ("acme", "globex"):
            node.deployed(python("span", "concurrency: 100\n"), {"main.py": SPAN}, tenant)
        # One worker: what the handler remembers is its worker's, and a wait may start a second.
        node.deployed(python("diary", "timeout: 60s\nworkers: {max: 1}\n"), {"main.py": DIARY}, "narrow")
        connections(suite, node)
        leavers(suite, node)
        fairness(suite, node)
        bodies(suite, node)
    finally:
        node.remove()


def connections(suite, node):
    def idle():
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 12_000:
            return "this test may not open 12,000 files"
        host, port = node.http.split(":")
        pid = daemon(node)
        before, latencies, most = len(os.listdir(f"/proc/{pid}/fd")), [], 0
        quiet = [socket.create_connection((host, int(port)), timeout=60) for _ in range(10_000)]
        stop = threading.Event()

        def drip():
            head = b"POST /v1/tenants/acme/functions/span/invocations HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"x" * 1000
            for byte in head:
                for connection in quiet[8500:9000]:
                    if stop.is_set():
                        return
                    try:
                        connection.send(bytes([byte]))
                    except OSError:
                        pass
                stop.wait(0.02)
        for connection in quiet[9000:]:
            # Some of them have had to make room for others.
            with contextlib.suppress(OSError):
                connection.sendall(b"POST /v1/tenants/acme/functions/span/invocations HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
                connection.shutdown(socket.SHUT_WR)
        dripping = threading.Thread(target=drip)
        dripping.start()
        caller, begin = Caller(node), time.monotonic()
        # The kernel keeps 1,024 connections that nobody has taken yet, in their order: this one comes behind them.
        assert caller.call("span", {"sleep": 0}).status == 200
        print(f"        the first call behind them took {time.monotonic() - begin:.1f} s")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            answer = caller.call("span", {"sleep": 0.005})
            assert answer.status == 200, answer
            latencies.append(answer.answered - answer.sent)
            fresh = Caller(node)
            assert fresh.call("span", {"sleep": 0}).status == 200
            fresh.close()
            most = max(most, len(os.listdir(f"/proc/{pid}/fd")) - before)
        stop.set()
        dripping.join()
        print(f"        beside 10,000 idle, slow and half-closed connections: {len(latencies)} calls, {most} descriptors more, p99 {percentile(latencies, 0.99) * 1000:.1f} ms")
        assert percentile(latencies, 0.5) < 0.5, percentile(latencies, 0.5)
        assert 1000 < most < 4096 + 100, most
        for connection in quiet:
            connection.close()
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) < before + 50, 60, "the end of the closed connections")
        assert daemon(node) == pid
    suite.check("10,000 connections that are idle, slow or half-closed hurt nobody and leave nothing", idle)


def leave(node, event, there):
    """Calls, and is gone when `there` says so. When it left."""
    caller = Caller(node)

    def call():
        with contextlib.suppress(OSError):
            answers.append(caller.call("diary", event, "narrow"))
    answers, thread = [], threading.Thread(target=call)
    thread.start()
    wait_for(there, 20, f"the call {event['tag']}")
    left = time.monotonic()
    caller.socket.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert not answers, "it was answered before it left"
    return left


def begun(node, tag):
    """Whether the handler has told that it runs."""
    return node.cli("logs", "narrow/diary").stdout.decode().count(f"begins {tag}\n") > 0


def leavers(suite, node):
    def diary(**event):
        return Caller(node).call("diary", event, "narrow").json()
    diary(tag="warm")

    def queued():
        holder = Flood(node, 1, "diary", {"tag": "holder", "sleep": 15}, "narrow", calls=1)
        node.until("narrow", 1)
        leave(node, {"tag": "left the queue"}, lambda: node.json("quota", "show", "narrow")["queue"]["used"] == 1)
        wait_for(lambda: node.json("quota", "show", "narrow")["queue"]["used"] == 0, 20, "the end of its wait")
        assert len(holder.join().ok()) == 1
        runs = diary(tag="after")["runs"]
        assert runs[-2:] == ["holder", "after"] and "left the queue" not in runs, runs
    suite.check("a caller who leaves the queue is never run", queued)

    def running():
        left = leave(node, {"tag": "left", "sleep": 30}, lambda: begun(node, "left"))
        value = wait_for(lambda: (v := diary(tag="look")) and v["cancels"] and v, 20, "the cancel")
        tag, kind, when = value["cancels"][-1]
        assert (tag, kind) == ("left", "Cancelled") and 0 <= when / 1e9 - left < 10, (value["cancels"], left)
    suite.check("the handler of a caller who leaves is cancelled", running)

    def deaf():
        left = leave(node, {"tag": "deaf", "sleep": 30, "deaf": 1.0}, lambda: begun(node, "deaf"))
        value = diary(tag="next")
        tag, _, cancelled, ended = value["cancels"][-1]
        assert tag == "deaf" and value["begin"] >= ended and ended / 1e9 - left >= 1.0, (value["cancels"], value["begin"])
        assert cancelled / 1e9 - left < 10
    suite.check("a seat is free when the cancelled handler has ended, not before", deaf)


def fairness(suite, node):
    def neighbours():
        flood = Flood(node, 200, "span", {"sleep": 0.05}, "acme", seconds=10)
        caller, latencies = Caller(node), []
        time.sleep(0.5)
        for _ in range(9):
            answer = caller.call("span", {"sleep": 0.05}, "globex")
            assert answer.status == 200, answer
            latencies.append(answer.answered - answer.sent - 0.05)
            time.sleep(max(0, 1 - (answer.answered - answer.sent)))
        done = flood.join()
        assert len(done.ok()) > 200 and not done.lost, (len(done.ok()), done.lost)
        waits = [a.answered - a.sent - 0.05 for a in done.ok()]
        print(f"        beside a flood of {len(done.ok())} calls on 200 connections (its p99 {percentile(waits, 0.99) * 1000:.0f} ms): "
              f"one call a second took at most {max(latencies) * 1000:.1f} ms beside its handler")
        assert percentile(latencies, 0.5) < 0.5 and percentile(waits, 0.5) > percentile(latencies, 0.5), (latencies, percentile(waits, 0.5))
    suite.check("a neighbour's flood does not delay one call a second", neighbours)


def bodies(suite, node):
    """Requests that never end, from callers with a key and without."""
    made = node.cli("keys", "create", "--tenant", "globex", "--scope", "invoke", "--json")
    assert made.returncode == 0, made.stderr
    key = {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    host, port = node.http.split(":")

    @contextlib.contextmanager
    def unfinished(count, path, size, headers):
        """So many connections, each of which lacks the last byte of its body."""
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}"] + [f"{name}: {value}" for name, value in headers.items()]
        head, body, open_ones = "\r\n".join(lines).encode() + b"\r\n\r\n", bytes(size - 1), []
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
                # Who is refused may find the connection closed.
                with contextlib.suppress(OSError):
                    connection.sendall(head + body)
                open_ones.append(connection)
            yield open_ones

    def strangers():
        with most_memory(node) as grown:
            with unfinished(200, "/v1/tenants/globex/keys", 1 << 20, {}), unfinished(100, "/healthz", 1 << 20, {}):
                assert Caller(node).call("span", {"sleep": 0}).status == 200
            print(f"        300 MB from callers without a key: the daemon grew by {grown()} MiB")
            # What asks for no key has 64 MiB, and nothing is kept of the others.
            assert grown() < 64 + 48, grown()
    suite.check("who has no key fills no memory with control requests that never end", strangers)

    def tenant():
        before = resident(daemon(node))
        with most_memory(node) as grown:
            with unfinished(150, "/v1/tenants/globex/functions/span/invocations", 5 << 20, key) as connections:
                statuses, left = [], list(connections)
                for connection in left:
                    connection.setblocking(False)

                def told():
                    for connection in list(left):
                        with contextlib.suppress(OSError):
                            statuses.append(connection.recv(12)[9:])
                            left.remove(connection)
                    return len(statuses) > 90
                wait_for(told, 30, "the refusals")
                assert set(statuses) == {b"503"}, statuses
                # Its small calls have room, and everybody else's large ones.
                assert Caller(node).call("span", {"sleep": 0}, "globex", key).status == 200
                assert Caller(node).call("span", {"sleep": 0, "more": "x" * (5 << 20)}, "acme").status == 200
            print(f"        750 MB from one tenant: {len(statuses)} of 150 were refused, the daemon grew by {grown()} MiB")
            assert grown() < 256 + 64, grown()
        wait_for(lambda: resident(daemon(node)) < before + (64 << 20), 30, "the memory that is given back")
    suite.check("one tenant's bodies that never end fill its share of the memory, which is given back", tenant)
