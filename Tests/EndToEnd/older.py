#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A state directory as the first release left it, taken over by this one: nothing that was acknowledged is lost."""
import contextlib
import json
import os
import sqlite3
import sys
import time

from node import PACE, Node, Suite, python, wait_for

TENANT = "tenant: acme\nquota: {concurrency: 8, queue: 20, memory: 1GiB, cpu: 2.0, processes: 512}\n"
ECHO = "def handler(event, context):\n    print('ran', event, flush=True)\n    return event\n"
ASYNC = {"Bulkhead-Invocation-Type": "async"}

# What every later release has added, taken away. The versions that the first release wrote follow.
STATE = """
    DROP TABLE aliases; DROP TABLE alias_steps; DELETE FROM counters WHERE name = 'step';
    ALTER TABLE keys DROP COLUMN expires; ALTER TABLE keys DROP COLUMN used;
    PRAGMA user_version = 1;
"""
EVENTS = """
    DROP INDEX events_queue; DROP INDEX events_ready; DROP INDEX destinations_owner;
    CREATE INDEX events_queue ON events (state, tenant, class, due);
    ALTER TABLE bodies DROP COLUMN trace; ALTER TABLE bodies DROP COLUMN user;
    PRAGMA user_version = 1;
"""


def age(data):
    """Makes the databases of a stopped node those of the first release, with the same content; their schemas' numbers before."""
    found = []
    for name, script in (("bulkhead.sqlite", STATE), ("events/events.sqlite", EVENTS)):
        with contextlib.closing(sqlite3.connect(os.path.join(data, name))) as database:
            found.append(schema(database))
            database.executescript(script)
            assert schema(database) == 1
    return found


def schema(database):
    return database.execute("PRAGMA user_version").fetchone()[0]


def schemas(data):
    found = []
    for name in ("bulkhead.sqlite", "events/events.sqlite"):
        with contextlib.closing(sqlite3.connect(f"file:{os.path.join(data, name)}?mode=ro", uri=True)) as database:
            found.append(schema(database))
    return found


def taken_over(node):
    for answer in ("one", "two"):
        node.deployed(python("echo"), {"main.py": ECHO.replace("return event", f"return '{answer}'")})
    # With a key there is no call without one.
    key = json.loads(node.cli("keys", "create", "--tenant", "acme", "--scope", "invoke", "--json").stdout)["key"]
    bearer = {"Authorization": f"Bearer {key}"}
    delay = round(10 * PACE)
    accepted = time.monotonic()
    late = {**bearer, **ASYNC, "Bulkhead-Delay": f"{delay}s", "Idempotency-Key": "once"}
    status, _, body = node.invoke("echo", b'"late"', headers=late)
    assert status == 202, (status, body)
    event = json.loads(body)["id"]
    node.stop()
    data = os.path.join(node.state, "data")
    known = age(data)
    assert min(known) > 1, known
    # The second start finds what the first has made of it.
    for _ in range(2):
        node.start()
        assert node.invoke("echo", b"1")[0] == 401 and node.invoke("echo", b"1", headers=bearer)[::2] == (200, b"two")
        assert [row["version"] for row in node.json("versions", "acme/echo")] == [1, 2], node.json("versions", "acme/echo")
        states = [row["state"] for row in node.json("events", "list", "acme")]
        assert states == ["ready"] or states == ["done"] and time.monotonic() > accepted + delay - 1, states
        node.stop()
        assert schemas(data) == known
    node.start()
    status, _, body = node.invoke("echo", b'"late"', headers=late)
    assert json.loads(body)["id"] == event, "the same key made another event"
    assert node.cli("rollback", "acme/echo").returncode == 0 and node.invoke("echo", b"1", headers=bearer)[2] == b"one"
    wait_for(lambda: [row["state"] for row in node.json("events", "list", "acme")] == ["done"], delay + 30, "the event that waited")
    assert node.cli("logs", "acme/echo", "--tail", "1000").stdout.decode().count("ran late") == 1


def main():
    suite = Suite("older state")
    node = Node({"tenants.d/acme.yaml": TENANT}).start()
    suite.check("functions, keys and waiting events of the first release's state are all there, and all goes on", lambda: taken_over(node))
    node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
