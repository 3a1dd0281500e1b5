# SPDX-License-Identifier: Apache-2.0
"""The RUNBOOK's commands that need a machine with systemd, as they stand there."""
import os
import shutil
import sqlite3
import tempfile
import time

from unit import HERE, SLOW, UNIT, journal, sh, show
from node import wait_for
from documented import blocks, commands

with open(os.path.join(HERE, "Deploy", "RUNBOOK.md"), encoding="utf-8") as file:
    TEXT = file.read()
DATA = "/var/lib/bulkhead/data"


def run(*lines):
    return [sh("bash", "-c", f"set -eu -o pipefail\n{line}", timeout=180).stdout for line in lines]


def install():
    lines = commands(blocks(TEXT, "Install")[0])
    # What builds the package ran before the machine was there, and its installation was the first thing in it.
    rest = [line for line in lines if not line.startswith(("./Deploy/", "apt install"))]
    assert len(rest) == len(lines) - 2 and len(rest) >= 3, lines
    run(*(line.replace("YOU", "member") for line in rest))


def readme():
    """The README's way to the service's first answer."""
    with open(os.path.join(HERE, "Deploy", "README.md"), encoding="utf-8") as file:
        lines = commands(blocks(file.read(), "As a service")[0])
    steps = [line.replace("sudo ", "").replace("$USER", "member") for line in lines if not line.startswith(("./Deploy/", "sudo apt"))]
    assert len(steps) == len(lines) - 2 and len(steps) >= 7, lines
    key = ""
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            said = run(f"cd {folder} && {step.replace('KEY', key)}{' --fail-with-body' if step.startswith('curl') else ''}")[0]
            if "keys create" in step:
                key = next(word for word in said.split() if word.startswith("bh_"))
            if step.startswith("curl"):
                assert '"a": 1' in said or '"a":1' in said, said


def back_up():
    first, rest = blocks(TEXT, "Back up, restore")
    run("bulkhead backup /var/backups/node.tar", *commands(first))
    assert os.path.exists("/var/lib/new/data/bulkhead.sqlite") and os.path.exists("/var/lib/new/restored-config/tenants.d/acme.yaml")
    shutil.rmtree("/var/lib/new")
    lines = commands(rest)
    assert len(lines) == 1 and lines[0].startswith("systemctl stop"), lines
    run(*lines)
    assert "var/lib/bulkhead/data/bulkhead.sqlite" in run("tar -tf bulkhead.tar")[0] and show("ActiveState") == "active"
    os.remove("bulkhead.tar")


def logs():
    lines = commands(blocks(TEXT, "Logs and traces")[0])
    for line, said in zip(lines, run(*lines), strict=True):
        # Tests before have ended workers of this tenant.
        assert "TENANT=acme" not in line or (said.strip() and "No entries" not in said), (line, said)


def damaged(node):
    """Each database in turn: the start is refused and names it, the lines bring the service back, and the rest is there."""
    ways = blocks(TEXT, "A damaged database")
    run("bulkhead backup /var/backups/node.tar.new", "mv /var/backups/node.tar.new /var/backups/node.tar")
    for name, way in zip(("bulkhead.sqlite", "events/events.sqlite", "usage/usage.sqlite"), ways, strict=True):
        assert name in way.splitlines()[0], way
        path, began = f"{DATA}/{name}", time.time()
        sh("systemctl", "stop", UNIT)
        # Everything is in the one file then.
        database = sqlite3.connect(path)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        with open(path, "r+b") as file:
            file.write(b"x" * 4096)
        # The tests before have started it often, and systemd counts: five starts a minute.
        sh("systemctl", "reset-failed", UNIT, check=False)
        start = sh("systemctl", "start", UNIT, check=False)
        assert start.returncode != 0 and show("ExecMainStatus") == "78", (name, start, show("ActiveState"), show("ExecMainStatus"))
        wait_for(lambda: f"{path} cannot be opened" in journal(began), SLOW, "the name of the damaged file")
        sh("systemctl", "reset-failed", UNIT)
        run(*commands(way))
        node.answers_again()
        assert {row["function"] for row in node.json("functions")} >= {"echo", "hello"}
    for left in ("/var/lib/bulkhead.damaged", "/var/lib/bulkhead.events-damaged", "/var/lib/bulkhead.usage-damaged"):
        shutil.rmtree(left)
