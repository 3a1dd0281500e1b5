# SPDX-License-Identifier: Apache-2.0
"""The configuration while the node runs: all of it or nothing, by command, by signal, by `quota set`."""
import json
import os
import signal
import time

import ceilings_reports
from load import SPAN, Caller, Flood, daemon, overlap
from node import Node, python, wait_for

QUOTA = "queue: 20, memory: 1GiB, cpu: 2.0, processes: 512"
MANY = "concurrency: 32\ntimeout: 30s\n"
CONFIG = {
    "tenants.d/acme.yaml": f"# who\ntenant: acme\nquota: {{concurrency: 8, {QUOTA}}}   # seats\n",
    "tenants.d/gone.yaml": f"tenant: gone\nquota: {{concurrency: 2, {QUOTA}}}\n",
    **ceilings_reports.CONFIG,
}


def run(suite):
    node = Node(CONFIG).start()
    try:
        for tenant in ("acme", "gone"):
            node.deployed(python("span", MANY), {"main.py": SPAN}, tenant)
        reloads(suite, node)
        edits(suite, node)
        ceilings_reports.run(suite, node)
        suite.check("a node that is stopped lets what runs end", lambda: stops(node))
    finally:
        node.remove()
    suite.check("a node without a configuration keeps what quota set said", embedded)


def path(node, name):
    return os.path.join(node.config, "tenants.d", name + ".yaml")


def write(file, text):
    with open(file, "w") as out:
        out.write(text)


def seats(node, tenant="acme"):
    return node.json("quota", "show", tenant)["concurrency"]["limit"]


def reloads(suite, node):
    original = CONFIG["tenants.d/acme.yaml"]

    def difference():
        write(path(node, "acme"), original.replace("concurrency: 8", "concurrency: 9, rate: 500/s burst 600"))
        dry = node.json("reload", "--dry-run")
        assert dry["applied"] is False and seats(node) == 8, dry
        run = node.cli("reload")
        rows = [line.split() for line in run.stdout.decode().splitlines()]
        assert run.returncode == 0 and ["acme", "quota.concurrency", "8", "9"] in rows, run
        assert any(row[:3] == ["acme", "quota.rate", "none"] and row[3:] == ["500/s", "burst", "600"] for row in rows), rows
        assert len(rows) == 3 and seats(node) == 9
        assert node.json("reload") == {"applied": True, "changes": []}
        write(path(node, "acme"), original)
        changes = node.json("reload")["changes"]
        assert {"tenant": "acme", "key": "quota.concurrency", "before": "9", "after": "8"} in changes and seats(node) == 8, changes
    suite.check("reload says what changes, and a dry run changes nothing", difference)

    mistakes = {
        "an unknown key": ("tenant: x\nquta: {concurrency: 5}\n", "tenants.d/x.yaml:2:", "quota"),
        "a wrong unit": ("tenant: x\nquota:\n  memory: 4 gigs\n", "tenants.d/x.yaml:3:11", "memory"),
        "a key twice": ("tenant: x\nweight: 1\nweight: 2\n", "tenants.d/x.yaml:", "weight"),
        "no YAML": ("tenant: [x\n", "tenants.d/x.yaml:", ""),
    }
    for name, (text, place, word) in mistakes.items():
        def refused(text=text, place=place, word=word):
            before = node.json("tenants")
            write(path(node, "x"), text)
            write(path(node, "acme"), original.replace("concurrency: 8", "concurrency: 9"))
            try:
                for words in (["reload"], ["reload", "--dry-run"]):
                    run = node.cli(*words)
                    message = run.stderr.decode()
                    assert run.returncode == 2 and place in message and word in message and run.stdout == b"", run
                assert [t["tenant"] for t in node.json("tenants")] == [t["tenant"] for t in before] and seats(node) == 8
                assert seats(node) == 8 and Caller(node).call("span").status == 200
            finally:
                os.remove(path(node, "x"))
                write(path(node, "acme"), original)
        suite.check(f"a file with {name} is refused by its place, and nothing changes", refused)

    def hangup():
        # The daemon reads its own copy: what `reload` refreshes, and what a signal reads again.
        copy = node.copied("acme")
        pid, runs = daemon(node), Flood(node, 2, "span", {"sleep": 4}, calls=2)
        node.until("acme", 2)
        for value in (11, 8):
            write(copy, original.replace("concurrency: 8", f"concurrency: {value}"))
            node.process.send_signal(signal.SIGHUP)
            wait_for(lambda: seats(node) == value, 20, f"{value} seats after SIGHUP")
        write(copy, original.replace("queue: 20", "queue: many"))
        node.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "tenants.d/acme.yaml:3:" in node.errors(), 20, "the place of the mistake in the log")
        write(copy, original)
        # The original is root's, and the daemon may not read it: that is said where the operator looks.
        write(path(node, "acme"), original.replace("concurrency: 8", "concurrency: 12"))
        told = node.errors().count("bulkhead reload` copies that anew")
        node.process.send_signal(signal.SIGHUP)
        wait_for(lambda: node.errors().count("bulkhead reload` copies that anew") > told, 20, "the way to the original in the log")
        assert seats(node) == 8 and node.cli("reload").returncode == 0 and seats(node) == 12
        write(path(node, "acme"), original)
        assert node.cli("reload").returncode == 0 and seats(node) == 8
        assert daemon(node) == pid, "another daemon: the signal ended the one before, and with it whatever ran"
        assert len(runs.join().ok()) == 2, (runs.lost, runs.refused())
    suite.check("SIGHUP to the spawner has the daemon read its configuration again", hangup)

    def removed():
        text = CONFIG["tenants.d/gone.yaml"]
        runs = Flood(node, 2, "span", {"sleep": 4}, "gone", calls=2)
        node.until("gone", 2)
        waits = Flood(node, 3, "span", {"sleep": 2}, "gone", calls=3)
        node.until("gone", 2, 3)
        os.remove(path(node, "gone"))
        begin = time.monotonic()
        changes = node.json("reload")["changes"]
        assert changes == [{"tenant": "gone", "key": "tenant", "before": "", "after": "removed"}], changes
        assert node.invoke("span", b"{}", "gone")[0] == 404
        assert not waits.join().ok() and len(waits.refused()) == 3 and waits.answers[0].answered - begin < 3, waits.answers
        assert len(runs.join().ok()) == 2, runs.refused()
        wait_for(lambda: not [r for r in node.json("ps") if r["tenant"] == "gone"], 20, "the end of the tenant's workers")
        assert "gone" not in [t["tenant"] for t in node.json("tenants")] and node.cli("quota", "show", "gone").returncode != 0
        unknown, removed = (node.invoke("span", b"{}", name) for name in ("never", "gone"))
        assert unknown[0] == 404 and unknown[2].replace(b"never", b"gone") == removed[2], (unknown, removed)
        write(path(node, "gone"), text)
        assert node.cli("reload").returncode == 0
        assert Caller(node).call("span", tenant="gone").status == 200 and node.json("versions", "gone/span")
    suite.check("a tenant that goes while it runs ends its calls, then its workers; it can come back", removed)

    def returns():
        # Back before the last worker of its former life is gone.
        runs = Flood(node, 2, "span", {"sleep": 4}, "gone", calls=2)
        node.until("gone", 2)
        text = open(path(node, "gone")).read()
        os.remove(path(node, "gone"))
        assert node.cli("reload").returncode == 0
        write(path(node, "gone"), text)
        assert node.cli("reload").returncode == 0
        flood = Flood(node, 4, "span", {"sleep": 0.05}, "gone", calls=40)
        assert len(runs.join().ok()) == 2 and len(flood.join().ok()) == 40, (runs.refused(), flood.refused()[:2])
        assert overlap(runs.spans() + flood.spans()) <= 2, f"{overlap(runs.spans() + flood.spans())} at a time over both lives, it has 2 seats"
    suite.check("a tenant that is back before its workers are gone has its seats once", returns)


def edits(suite, node):
    def applies():
        run = node.cli("quota", "set", "acme", "concurrency=5", "rate=100/s burst 200")
        assert run.returncode == 0 and b"quota.concurrency" in run.stdout, run
        text = open(path(node, "acme")).read()
        assert "concurrency: 5" in text and "rate: 100/s burst 200" in text and text.startswith("# who\n") and "# seats" in text, text
        quota = node.json("quota", "show", "acme")
        assert quota["concurrency"]["limit"] == 5 and quota["rate"] == "100/s burst 200", quota
        assert node.cli("quota", "set", "acme", "rate=none").returncode == 0
        assert node.json("quota", "show", "acme").get("rate") is None and "rate" not in open(path(node, "acme")).read()
    suite.check("quota set edits the file, keeps its comments, and applies", applies)

    def refused():
        before, status = open(path(node, "acme"), "rb").read(), os.stat(path(node, "acme"))
        for words in (["concurrency=0"], ["memory=4 gigs"], ["rate=fast"], ["concurrency=7", "budget.compute=1 GB-s/week"], ["concurrency=5}"]):
            run = node.cli("quota", "set", "acme", *words)
            assert run.returncode in (1, 2) and run.stderr, (words, run)
            after = os.stat(path(node, "acme"))
            assert open(path(node, "acme"), "rb").read() == before and (after.st_mode, after.st_uid) == (status.st_mode, status.st_uid), words
            assert seats(node) == 5
        run = node.cli("quota", "set", "acme", "concurrency=0", "--json")
        value = json.loads(run.stderr)
        assert value["code"] == "configuration" and "tenants.d/acme.yaml:" in json.dumps(value), value
        assert node.cli("quota", "set", "acme", "color=blue").returncode == 2 and node.cli("quota", "set", "nobody", "concurrency=1").returncode != 0
        assert node.json("reload")["changes"] == []
    suite.check("quota set with a bad value leaves the file byte for byte", refused)


def stops(node):
    runs = Flood(node, 2, "span", {"sleep": 1}, calls=2)
    node.until("acme", 2)
    node.stop()
    assert len(runs.join().ok()) == 2 and not runs.lost, f"{runs.lost} of 2 had no answer: {runs.refused()}"


def embedded():
    node = Node().start()
    try:
        assert node.cli("quota", "set", "default", "concurrency=3").returncode == 0 and seats(node, "default") == 3
        node.stop()
        node.start()
        assert seats(node, "default") == 3
    finally:
        node.remove()
