# SPDX-License-Identifier: Apache-2.0
"""A tenant that the operator has suspended, as its callers, its functions and its neighbour see it."""
import json
import threading
import time

from node import PACE, Node, python, wait_for

QUOTA = "quota: {concurrency: 8, queue: 20, memory: 1GiB, cpu: 2.0, processes: 512}\n"
CONFIG = {f"tenants.d/{name}.yaml": f"tenant: {name}\n{QUOTA}" for name in ("acme", "globex")}
ECHO = "def handler(event, context):\n    print('ran', event, flush=True)\n    return event\n"
# Waits until it is told to go on, by a file in its bucket; then asks for everything that a function may ask for.
SENDER = """import os, time
def handler(event, context):
    def ask(what):
        try:
            return what() and 'taken'
        except Exception as error:
            return str(error)
    while not os.path.exists('/buckets/signs/go'):
        time.sleep(0.02)
    return [ask(lambda: context.emit('news', 'emitted')), ask(lambda: context.call_async('echo', 'sent')), ask(lambda: context.call('echo', 'called'))]
"""
ASYNC = {"Bulkhead-Invocation-Type": "async"}


def run(suite):
    node = Node(CONFIG).start()
    try:
        suite.check("a suspended tenant runs nothing new, whoever asks for it; what runs ends, what waits waits, and all goes on", lambda: whole(node))
    finally:
        node.remove()


def whole(node):
    triggers = "triggers: [{queue: key, name: news}, {http: /echo, auth: none, name: open}]\n"
    for tenant in ("acme", "globex"):
        node.deployed(python("echo", triggers), {"main.py": ECHO}, tenant)
    assert node.cli("bucket", "create", "acme/signs").returncode == 0
    node.deployed(python("sender", "timeout: 120s\nbuckets: {signs: read}\n"), {"main.py": SENDER})

    def ran(text):
        return text in node.cli("logs", "acme/echo", "--tail", "1000").stdout.decode()

    def asked():
        """Every way in from outside: {way: (status, code)}."""
        ways = {
            "call": lambda: node.invoke("echo", b'"late call"'),
            "event": lambda: node.invoke("echo", b'"late event"', headers=ASYNC),
            "route": lambda: node.request("POST", "/t/acme/echo", b'"late request"'),
            "queue": lambda: node.request("POST", "/q/acme/echo/news", b'"late message"'),
        }
        found = {way: ask() for way, ask in ways.items()}
        return {way: (status, json.loads(body).get("code") if status >= 400 else None) for way, (status, _, body) in found.items()}

    def rows():
        return {row["tenant"]: row for row in node.json("top", "--once", "--interval", "0.1")["tenants"]}
    answers = []
    sender = threading.Thread(target=lambda: answers.append(node.invoke("sender", b"{}", timeout=120)))
    sender.start()
    node.until("acme", 1)
    # Accepted before, and due in the middle of it.
    due = round(5 * PACE)
    assert node.invoke("echo", b'"early"', headers={**ASYNC, "Bulkhead-Delay": f"{due}s"})[0] == 202
    accepted = time.monotonic()
    assert node.cli("quota", "set", "acme", "suspended=true").returncode == 0
    assert set(asked().values()) == {(403, "suspended")}, asked()
    found = rows()
    assert found["acme"]["suspended"] and found["acme"]["running"] == 1 and not found["globex"]["suspended"], found
    assert node.invoke("echo", b'"x"', "globex")[0] == 200, "the neighbour"
    # Its function that runs ends as it would; what it asks for is new, like anybody's.
    status, _, body = node.request("PUT", "/v1/tenants/acme/buckets/signs/objects/go", b"go")
    assert status in (200, 201), body
    sender.join()
    status, _, body = answers[0]
    refused = "tenant acme is suspended by the operator"
    assert status == 200 and json.loads(body) == [refused, refused, "throttled"], (status, body)
    wait_for(lambda: rows()["acme"]["running"] == 0, 10, "the end of what ran")
    wait_for(lambda: time.monotonic() > accepted + due + 1, due + 10, "the time at which the event is due")
    events = node.json("events", "list", "acme")
    assert [event["state"] for event in events] == ["ready"] and not ran("ran"), events
    assert node.cli("quota", "set", "acme", "suspended=false").returncode == 0
    wait_for(lambda: ran("ran early"), 20, "the event that waited")
    assert {status for status, _ in asked().values()} <= {200, 202}, asked()
    assert not rows()["acme"]["suspended"]
    # None of the refused ones was kept.
    assert not any(ran(f"ran {text}") for text in ("emitted", "sent", "called")), "what was refused ran"
