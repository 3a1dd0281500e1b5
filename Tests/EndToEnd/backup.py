#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A backup of a node under load, restored elsewhere; and the record of who did what."""
import json
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import Node, Suite, python, small_disk, wait_for  # noqa: E402

ECHO = "def handler(event, context):\n    print('said before' if event == 'first' else 'said', flush=True)\n    return {'got': event}\n"
# Takes long enough that a backup finds most of what was accepted waiting.
SLOW = "import time\ndef handler(event, context):\n    time.sleep(0.2)\n    return 1\n"
TENANT = {"tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 4, queue: 1000, memory: 1GiB, cpu: 2.0, processes: 512}\n"}


def restored(node, file, *options):
    """A node on another state that was made of the backup."""
    other = Node()
    run = other.cli("restore", *options, file)
    assert run.returncode == 0, run.stderr.decode()
    assert (b"It begins drained" if "--drained" in options else b"start it with --drained") in run.stdout, run.stdout
    other.config = os.path.join(other.state, "restored-config")
    return other


def printed(node):
    """What the function's first line says; empty where it has none."""
    lines = node.cli("logs", "acme/echo", "--json", "--grep", "said before").stdout.decode().splitlines()
    return json.loads(lines[0])["text"] if lines else ""


def main():
    suite = Suite("backup")
    node = Node(TENANT)
    node.start()
    file = os.path.join(node.base, "backup.tar")

    def under_load():
        assert node.deployed(python("echo"), {"main.py": ECHO}) == "acme/echo@1"
        assert node.deployed(python("echo"), {"main.py": ECHO.replace("got", "second")}) == "acme/echo@2"
        assert node.invoke("echo", b'"first"')[0] == 200
        wait_for(lambda: printed(node), what="the line that it prints")
        node.deployed(python("slow"), {"main.py": SLOW})
        key = node.json("keys", "create", "--tenant", "acme", "--scope", "admin")
        auth = {"Authorization": f"Bearer {key['key']}"}
        stop, accepted, failed = threading.Event(), [], []

        def load(number):
            while not stop.is_set():
                body = json.dumps("x" * (100_000 if number == 0 else 10)).encode()
                try:
                    status, _, answer = node.invoke("slow", body, headers={**auth, "Bulkhead-Invocation-Type": "async"})
                    accepted.append(json.loads(answer)["id"]) if status == 202 else failed.append(status)
                except OSError as error:
                    failed.append(error)
                time.sleep(0.01)
        threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(accepted) > 60, what="events before the backup")
        before = list(accepted)
        run = node.cli("backup", file)
        stop.set()
        for thread in threads:
            thread.join()
        assert run.returncode == 0, run.stderr.decode()
        assert not failed, failed[:3]
        assert os.stat(file).st_mode & 0o777 == 0o600
        assert os.listdir(os.path.join(node.state, "data", "snapshots")) == [], "the copy is removed"
        other = restored(node, file)
        try:
            other.start()
            assert json.loads(other.invoke("echo", b'"hi"', headers=auth)[2]) == {"second": "hi"}
            assert json.loads(other.request("POST", "/v1/tenants/acme/functions/echo/invocations?version=1", b'"hi"', auth)[2]) == {"got": "hi"}

            def states():
                found = {}
                for event in before:
                    status, _, body = other.request("GET", f"/v1/tenants/acme/invocations/{event}", headers=auth)
                    assert status == 200, f"{event} was confirmed before the backup and is not in it: {status}"
                    found.setdefault(json.loads(body)["state"], []).append(event)
                return found
            wait_for(lambda: set(states()) == {"done"}, 90, "the end of all events")
            again = other.cli("audit", "--json").stdout.decode()
            assert "key create" in again, "the record comes along"
            assert printed(other) == "said before", "the log of then is gone"
            call = other.invoke("echo", b'"hi"', headers=auth)[1]["Bulkhead-Invocation-Id"]
            assert call in wait_for(lambda: other.cli("logs", "acme/echo", "--json", "--invocation", call).stdout.decode(), what="a line behind those of then")
        finally:
            other.remove()

    def without_logs():
        small = os.path.join(node.base, "without.tar")
        assert node.cli("backup", "--without-logs", small).returncode == 0
        other = restored(node, small)
        try:
            other.start()
            assert printed(node) and not printed(other)
            assert {row["function"] for row in other.json("functions")} == {"echo", "slow"}
        finally:
            other.remove()

    def drained():
        other = restored(node, file, "--drained")
        auth = {}

        def waits():
            assert other.request("GET", "/readyz")[::2] == (503, b"draining\n")
            assert other.invoke("echo", b'"hi"', headers=auth)[0] == 503
            # Says also what waits; it is drained already.
            reply = other.json("drain")
            assert reply["draining"] and reply["running"] == 0 and other.json("ps") == [], reply
            return reply["eventsWaiting"]
        try:
            other.start()
            key = other.json("keys", "create", "--tenant", "acme", "--scope", "admin")
            auth["Authorization"] = f"Bearer {key['key']}"
            waiting = waits()
            assert waiting > 0, "right after the start it does not know what waits"
            run = other.cli("restart")
            assert run.returncode == 0, run.stderr.decode()
            assert waits() == waiting, "events ran, or are gone"
            other.stop()
            other.start()
            assert waits() == waiting, "events ran, or are gone"
            assert other.cli("drain", "--undo").stdout == b"The node takes work.\n"
            assert json.loads(other.invoke("echo", b'"hi"', headers=auth)[2]) == {"second": "hi"}
            other.stop()
            other.start()
            assert other.invoke("echo", b'"hi"', headers=auth)[0] == 200
        finally:
            other.remove()

    def refusals():
        other = Node()
        try:
            run = node.cli("restore", file)
            assert run.returncode != 0 and b"A node runs on" in run.stderr, run.stderr
            run = node.cli("backup", file)
            assert run.returncode != 0 and b"exists already" in run.stderr, run.stderr
            with small_disk("64k") as disk:
                run = node.cli("backup", os.path.join(disk, "b.tar"))
                assert run.returncode != 0 and b"disk has room" in run.stderr, run.stderr
                assert os.listdir(disk) == []
            damaged = os.path.join(node.base, "damaged.tar")
            data = bytearray(open(file, "rb").read())
            data[len(data) // 2] ^= 1
            open(damaged, "wb").write(data)
            run = other.cli("restore", damaged)
            assert run.returncode != 0 and b"Nothing was restored" in run.stderr, run.stderr
        finally:
            other.remove()

    def together():
        folder = os.path.join(node.base, "several")
        os.mkdir(folder)
        # Some of so many are made within one and the same second.
        runs = [node.cli("backup", folder) for _ in range(6)]
        assert all(run.returncode == 0 for run in runs), [run.stderr for run in runs]
        assert len(os.listdir(folder)) == 6, os.listdir(folder)

    def record():
        lines = [json.loads(line) for line in node.cli("audit", "--json").stdout.decode().splitlines()]
        found = [(line["action"], line["target"], line["outcome"]) for line in lines if line["outcome"] == "ok"]
        assert ("deploy", "echo", "ok") in found and any(action == "backup" for action, _, _ in found), found
        assert all(line["who"] == "uid 0" and line["from"] == "control socket" for line in lines), lines
        node.process.send_signal(signal.SIGHUP)
        wait_for(lambda: b"signal" in node.cli("audit", "--grep", "SIGHUP").stdout, what="the reload on record")
        assert b"node" in node.cli("audit", "--since", "-1h").stdout

    suite.check("what was confirmed before a backup under load is in it, and runs elsewhere", under_load)
    suite.check("a backup without logs has everything else", without_logs)
    suite.check("a restored node that begins drained runs nothing through restarts, until somebody says so", drained)
    suite.check("a running node, a file that exists, a full disk and a damaged backup are refused", refusals)
    suite.check("a folder takes several backups of one second", together)
    suite.check("control actions are on record", record)
    node.stop()
    left = node.leftovers()
    suite.check("nothing is left", lambda: (_ for _ in ()).throw(AssertionError(left)) if left else None)
    node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
