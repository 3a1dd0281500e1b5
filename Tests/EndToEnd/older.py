#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""State directories of earlier releases, taken over by this one: nothing that was acknowledged is lost. One is what a node of an earlier commit wrote itself (older/state.tar.xz, made by
older_make.py); of the first release's form, of which there is none, one is made by taking away what came later."""
import contextlib
import json
import os
import sqlite3
import sys
import tarfile
import time

from node import PACE, Node, Suite, python, wait_for
from older_make import ECHO as VERSIONED, FILES, OUT, look

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


def unpacked(state):
    """The state that an earlier commit's node left, with the node's words on it."""
    with tarfile.open(os.path.join(OUT, "state.tar.xz")) as archive:
        archive.extractall(state, numeric_owner=True)
    with open(os.path.join(OUT, "said.json")) as file:
        said = json.load(file)
    data = os.path.join(state, "data")
    # Only time is put right, as if the node had been stopped a minute ago: events are kept for days, and this state for years.
    with contextlib.closing(sqlite3.connect(os.path.join(data, "events/events.sqlite"))) as events:
        last, = events.execute("SELECT max(created) FROM events").fetchone()
        by = int(time.time() * 1000) - 60_000 - last
        events.execute("UPDATE events SET due = due + ?1, ends = ends + ?1, expires = expires + ?1, created = created + ?1", (by,))
        events.execute("UPDATE keys SET until = until + ?", (by,))
        events.commit()
    return data, said


def really_taken_over(node):
    data, said = unpacked(node.state)
    before = schemas(data)
    known = said.pop("key"), said.pop("revoked"), said.pop("ids")
    (key, revoked, (_, dead, late, large)), commit = known, said.pop("commit")
    bearer = {"Authorization": f"Bearer {key}"}
    # The second start finds what the first has made of it.
    for _ in range(2):
        node.start()
        found = look(node)
        for name, rows in said.items():
            assert found[name][:len(rows)] == rows, f"{name} of {commit}: {rows} became {found[name]}"
        node.stop()
    after = schemas(data)
    assert before != after and all(old <= new for old, new in zip(before, after)), (before, after)
    node.start()
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {revoked}"}, 401), (bearer, 200)):
        assert node.invoke("echo", b"1", headers=headers)[0] == status, headers
    answers = {reference: json.loads(node.cli("invoke", reference, "--data", "1").stdout)["version"] for reference in ("acme/echo", "acme/echo@2", "acme/echo:beta")}
    assert answers == {"acme/echo": 3, "acme/echo@2": 2, "acme/echo:beta": 1}, answers
    assert node.json("rollback", "acme/echo", "--alias", "beta")["version"] == 2 and node.json("rollback", "acme/echo")["version"] == 2
    assert node.deployed(python("echo"), {"main.py": VERSIONED % 4}) == "acme/echo@4"
    assert node.cli("object", "get", "acme/photos/in/a.txt").stdout == b"an object"
    # Four calls today, and six of the day on which the state was made: they are charged to that one.
    spent = next(row for row in node.json("quota", "show", "acme")["budgets"] if row["kind"] == "invocations")
    assert spent["limit"] == 1000 and spent["spent"] >= 4, spent
    status, _, body = node.invoke("echo", b'"later"', headers={**bearer, **ASYNC, "Idempotency-Key": "once"})
    assert status == 202 and json.loads(body)["id"] == late, "the same key made another event"
    payload = node.cli("events", "show", large, "--tenant", "acme", "--payload").stdout
    assert len(payload) == 100_008 and payload.startswith(b'"large x'), payload[:200]
    began = node.json("dead-letters", "list", "acme")[0]["since"]
    assert node.json("dead-letters", "redrive", "acme/fails")["redriven"] == 1
    wait_for(lambda: [row["id"] for row in node.json("dead-letters", "list", "acme") if row["since"] > began] == [dead], 20, "its second end")
    lines = node.cli("logs", "acme/echo", "--tail", "1000").stdout.decode()
    assert lines.count("ran at once") == 1, "the log of then is gone"
    assert node.cli("events", "stop", large, "--tenant", "acme").returncode == 0
    # What was to come in an hour comes when its time has come.
    node.stop()
    with contextlib.closing(sqlite3.connect(os.path.join(data, "events/events.sqlite"))) as events:
        events.execute("UPDATE events SET due = ? WHERE id = ?", (int(time.time() * 1000), bytes.fromhex(late)))
        events.commit()
    node.start()
    wait_for(lambda: {row["id"]: row["state"] for row in node.json("events", "list", "acme")}[late] == "done", 30, "the event that waited")
    assert node.cli("logs", "acme/echo", "--tail", "1000").stdout.decode().count("ran later") == 1


def main():
    suite = Suite("older state")
    node = Node(FILES)
    suite.check("what an earlier commit's node really left is all there, and all goes on", lambda: really_taken_over(node))
    node.remove()
    node = Node({"tenants.d/acme.yaml": TENANT}).start()
    suite.check("functions, keys and waiting events of the first release's state are all there, and all goes on", lambda: taken_over(node))
    node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
