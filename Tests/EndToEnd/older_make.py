#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the fixture that older.py opens: the state directory of a node of an earlier commit, after it was used and stopped. `older_make.py COMMIT` builds that commit in a folder of its own,
uses its programs (BULKHEAD_OLD=DIR: programs that are built already) and writes older/state.tar.xz, and older/said.json with what the old node said of it. As root."""
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "older")
# The spawner's policy, the lock and the sockets beside it are of the running node.
KEPT = "data"
DAEMON = 4242
# Not of the state: read anew at each start, or of the running node.
LEFT_OUT = ("data/config", "data/snapshots", "data/imports", "data/uploads", "data/tmp")

FILES = {
    "tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 8, queue: 20, memory: 1GiB, cpu: 2.0, processes: 512, budget: {invocations: 1000/day}}\n",
    "tenants.d/globex.yaml": "tenant: globex\n",
}
ECHO = "def handler(event, context):\n    print('ran', event, flush=True)\n    return {'version': %d, 'event': event}\n"
FAILS = "def handler(event, context):\n    raise ValueError('as asked')\n"


def programs(commit, scratch):
    """The folder with a commit's programs; its `share` beside them."""
    source, made = os.path.join(scratch, "source"), os.path.join(scratch, "bin")
    subprocess.run(["git", "-C", HERE, "worktree", "add", "--detach", source, commit], check=True)
    os.mkdir(made)
    static = ["-c", "release", "--scratch-path", ".build-static", "-Xswiftc", "-static-executable"]
    for product, words, core in (("bulkheadd", [], ""), ("bulkhead", [], ""), ("bulkhead-spawner", static, "1")):
        environment = {**os.environ, **({"BULKHEAD_CORE_ONLY": core} if core else {})}
        subprocess.run(["swift", "build", "--product", product, *words], cwd=source, env=environment, check=True)
        shutil.copy(os.path.join(source, ".build-static/release" if core else ".build/debug", product), made)
    os.symlink(os.path.join(source, "Sandbox"), os.path.join(made, "share"))
    return made


def use(node, python, wait_for):
    """Something of everything that a state keeps; returns what the node says of it."""
    for version in (1, 2, 3):
        assert node.deployed(python("echo", "async: {attempts: 2}\n"), {"main.py": ECHO % version}) == f"acme/echo@{version}"
    node.deployed(python("fails", "async: {attempts: 1}\n"), {"main.py": FAILS})
    for words in (("prod", "1"), ("prod", "1=90", "2=10"), ("beta", "2"), ("beta", "1")):
        node.json("alias", "set", "acme/echo", *words)
    for tenant in ("acme", "globex"):
        assert node.cli("bucket", "create", f"{tenant}/photos").returncode == 0
    assert node.cli("object", "put", "acme/photos/in/a.txt", stdin=b"an object").returncode == 0
    for number in range(5):
        assert node.invoke("echo", json.dumps(number).encode())[0] == 200
    queued = {"Bulkhead-Invocation-Type": "async"}
    ids = []
    for name, headers, body in (("echo", {}, b'"at once"'), ("fails", {}, b'"for nothing"'), ("echo", {"Bulkhead-Delay": "3600s", "Idempotency-Key": "once"}, b'"later"'),
                                ("echo", {"Bulkhead-Delay": "7200s"}, b'"large ' + b"x" * 100_000 + b'"')):
        status, _, text = node.invoke(name, body, headers={**queued, **headers})
        assert status == 202, (status, text)
        ids.append(json.loads(text)["id"])
    wait_for(lambda: sorted(row["state"] for row in node.json("events", "list", "acme")) == ["dead", "done", "ready", "ready"], 30, "two events' ends")
    # With a key there is no call without one.
    keys = [json.loads(node.cli("keys", "create", "--tenant", "acme", "--scope", "invoke", "--json").stdout) for _ in range(2)]
    assert node.cli("keys", "revoke", keys[1]["id"], "--tenant", "acme").returncode == 0
    return {"key": keys[0]["key"], "revoked": keys[1]["key"], "ids": ids, **look(node)}


def look(node):
    """What both nodes are asked of it, without what a call or a time changes."""
    only = lambda rows, *names: [{name: row.get(name) for name in names} for row in rows]  # noqa: E731
    return {
        "functions": only(node.json("functions"), "tenant", "function", "latest", "runtime"),
        "versions": only(node.json("versions", "acme/echo"), "version", "codeHash", "codeBytes"),
        "aliases": only(node.json("alias", "list", "acme/echo"), "alias", "version", "weight", "canary", "canaryWeight", "changedBy", "previous"),
        "keys": sorted(only(node.json("keys", "list", "--tenant", "acme"), "id", "scopes", "revoked"), key=lambda row: row["id"]),
        "events": sorted(only(node.json("events", "list", "acme"), "id", "function", "state", "attempts", "payloadBytes", "idempotencyKey"), key=lambda row: row["id"]),
        "dead": only(node.json("dead-letters", "list", "acme"), "id", "reason"),
        "buckets": only(node.json("bucket", "list", "--tenant", "acme"), "bucket"),
        "usage": only(node.json("usage", "--tenant", "acme"), "tenant", "invocations"),
        "audit": [line["action"] for line in map(json.loads, node.cli("audit", "--tenant", "acme", "--json").stdout.splitlines())][:12],
    }


def pack(state, said):
    """The state as a tar archive. It names no user of this machine: the daemon's number is one that the next machine gives to nobody, as it may be after a move."""
    for folder, _, names in os.walk(os.path.join(state, KEPT)):
        for name in names:
            if name.endswith(".sqlite"):
                database = sqlite3.connect(os.path.join(folder, name), isolation_level=None)
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                database.close()

    def plain(member):
        if member.name.startswith(LEFT_OUT) or member.name.endswith(("-wal", "-shm")) or not (member.isfile() or member.isdir()):
            return None
        member.uid = member.gid = DAEMON
        member.uname = member.gname = ""
        return member
    os.makedirs(OUT, exist_ok=True)
    with tarfile.open(os.path.join(OUT, "state.tar.xz"), "w:xz", preset=9) as archive:
        archive.add(os.path.join(state, KEPT), KEPT, filter=plain)
    with open(os.path.join(OUT, "said.json"), "w") as file:
        json.dump(said, file, indent=1, sort_keys=True)
        file.write("\n")


def main():
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", sys.argv[1]], check=True, capture_output=True, text=True).stdout.strip()
    scratch = tempfile.mkdtemp(prefix="bulkhead-older-", dir="/var/tmp")
    os.chmod(scratch, 0o755)
    try:
        made = os.environ.get("BULKHEAD_OLD") or programs(commit, scratch)
        os.environ["BULKHEAD_BIN"], os.environ["BULKHEAD_SHARE"] = made, os.path.join(made, "share")
        sys.path.insert(0, HERE)
        from node import Node, python, wait_for  # the old programs are what it starts
        node = Node(FILES).start()
        try:
            said = {"commit": commit, **use(node, python, wait_for)}
            node.stop()
            pack(node.state, said)
        finally:
            node.remove()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        subprocess.run(["git", "-C", HERE, "worktree", "prune"], check=True)
    print(f"made of {commit}: {os.path.getsize(os.path.join(OUT, 'state.tar.xz'))} bytes")


if __name__ == "__main__":
    main()
