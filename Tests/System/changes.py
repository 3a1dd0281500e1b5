# SPDX-License-Identifier: Apache-2.0
"""What the package goes through: a reboot with events that wait, a newer one under load, one that meets a mistake, one that is broken off, and the way back."""
import json
import os
import re
import signal
import sqlite3
import subprocess
import time

from unit import SLOW, show, sh, write
from node import python, wait_for
import older
from steady import ECHO, NOTE, Load, ran

# The first package and the next one are in the folder where the test runs.
OLDER, NEWER = "bulkhead.deb", "next.deb"
ACME = "/etc/bulkhead/tenants.d/acme.yaml"
# More room than the load takes: what is refused here is a fault of the upgrade.
TENANT = "tenant: acme\nquota: {concurrency: 12, queue: 100, memory: 1GiB, cpu: 2.0, processes: 2048}\n"
DATABASE = "/var/lib/bulkhead/data/bulkhead.sqlite"
# What the package brings to /etc, and an operator's own line in it.
CONFFILES, MINE = ("/etc/bulkhead/bulkhead.yaml", "/etc/bulkhead/tenants.d/default.yaml", "/etc/default/bulkhead"), "# as the operator wants it\n"


def prepare(node):
    write(ACME, TENANT)
    for path in CONFFILES:
        with open(path, "a", encoding="utf-8") as file:
            file.write(MINE)
    sh("systemctl", "reload", "bulkhead.service")
    for name, code in (("echo", ECHO), ("note", NOTE)):
        node.deployed(python(name, "workers: {max: 4}\n").replace("5s", "30s"), {"main.py": code})


def kept_as_edited():
    lost = [path for path in CONFFILES if MINE not in open(path, encoding="utf-8").read()]
    assert not lost, f"the operator's own lines are gone from {lost}"


def send_late_events(node):
    """Twenty events that are due after the reboot; their ids."""
    prepare(node)
    ids = []
    for number in range(20):
        headers = {"Bulkhead-Invocation-Type": "async", "Bulkhead-Delay": "60s"}
        status, _, body = node.invoke("note", json.dumps({"id": f"late-{number}."}).encode(), headers=headers)
        assert status == 202, (status, body)
        ids.append(json.loads(body)["id"])
    assert not ran(node), "a delayed event has run already"
    return ids


def late_events(node, ids):
    def left():
        states = [json.loads(node.request("GET", f"/v1/tenants/acme/invocations/{id}", headers=node.credentials("acme"))[2]).get("state") for id in ids]
        return [state for state in states if state != "done"]
    wait_for(lambda: not left(), 240, "the end of every event from before the reboot")
    assert ran(node) == {f"late-{number}.": 1 for number in range(20)}, ran(node)


def installed():
    return sh("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "bulkhead").stdout.split()


def is_running_from_disk(node):
    return os.stat(f"/proc/{node.main}/exe").st_ino == os.stat("/usr/lib/bulkhead/bulkhead-spawner").st_ino


def under_load(node, figures):
    before, main, daemon = installed()[0], node.main, node.daemon
    load = Load(node, 8, 4)
    try:
        wait_for(lambda: load.count > 30, SLOW, "thirty calls")
        workers = {row["pid"] for row in node.json("ps") if row["function"] == "echo"}
        began = time.monotonic()
        sh("dpkg", "-i", NEWER, timeout=300)
        end = time.monotonic()
        count = load.count
        wait_for(lambda: load.count > count + 20, SLOW, "calls after it")
    finally:
        load.end()
    figures["upgrade under load, seconds"] = round(end - began, 1)
    figures["calls and events around it; failed; longest, ms"] = f"{load.count}; {len(load.wrong)}; {load.stall(100):.0f}"
    assert installed()[0] != before and installed()[1] == "installed" and show("ActiveState") == "active", installed()
    kept_as_edited()
    # Another file of the spawner's program: it goes on in the same process, a new daemon takes over, and nobody notices.
    assert node.main == main and node.daemon != daemon and is_running_from_disk(node), "the old program runs"
    assert not load.wrong, (len(load.wrong), load.wrong[:5])
    assert workers and workers <= {row["pid"] for row in node.json("ps") if row["function"] == "echo"}, "warm workers have ended"
    wait_for(lambda: set(load.accepted) <= set(ran(node)), 120, "a run of every event that was taken")
    found = ran(node)
    assert len(load.accepted) > 10 and not {name: found[name] for name in load.accepted if found[name] != 1}, "an event ran twice"


def waits(node, package, *words):
    """The package is not taken into use: it says these words, the daemon that ran serves on. What dpkg said."""
    main, daemon = node.main, node.daemon
    run = sh("dpkg", "-i", package, check=False, timeout=300)
    assert run.returncode != 0, f"it was taken: {run.stdout} {run.stderr}"
    assert all(word in run.stderr for word in (*words, "dpkg --configure -a")), run.stderr
    assert (node.main, node.daemon) == (main, daemon) and installed()[1] != "installed", (installed(), run.stderr)
    node.answers()


def goes_on(node):
    """With the cause mended the same package is taken into use."""
    daemon = node.daemon
    sh("dpkg", "--configure", "-a", timeout=300)
    assert installed()[1] == "installed" and show("ActiveState") == "active"
    node.answers_again()
    assert node.daemon != daemon and is_running_from_disk(node), "the old program runs"


def schema(number=None):
    database = sqlite3.connect(DATABASE, timeout=30)
    try:
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if number is not None:
            database.execute(f"PRAGMA user_version = {number}")
            database.commit()
        return found
    finally:
        database.close()


def downgrade(node):
    known = schema(99)
    try:
        waits(node, OLDER, "newer release (schema 99")
    finally:
        schema(known)
    goes_on(node)


def broken_configuration(node):
    write(ACME, "tenant: acme\nquota:\n  concurrency: many\n")
    try:
        waits(node, NEWER, "acme.yaml:3:")
    finally:
        write(ACME, TENANT)
    goes_on(node)


def first_state(node):
    """The newer package on what the first release left: functions, keys and events that wait are there."""
    headers = {"Bulkhead-Invocation-Type": "async", "Bulkhead-Delay": "30s"}
    status, _, body = node.invoke("note", json.dumps({"id": "aged."}).encode(), headers=headers)
    assert status == 202, (status, body)
    node.stop()
    data = os.path.dirname(DATABASE)
    known = older.age(data)
    sh("dpkg", "-i", NEWER, timeout=300)
    node.start()
    # With the key that was made before.
    node.answers_again()
    assert older.schemas(data) == known, "the databases stayed as they were"
    wait_for(lambda: ran(node).get("aged.") == 1, 120, "the event that waited")


def is_configuring():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if re.search(rb"bulkhead\.postinst\0configure", file.read()):
                    return True
        except OSError:
            pass
    return False


def killed(package, is_time, what):
    """dpkg, ended with all that it started as soon as it is time."""
    process = subprocess.Popen(["dpkg", "-i", package], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(is_time, 300, what)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert installed()[1] != "installed", installed()


def broken_unpacking(node):
    main, daemon = node.main, node.daemon
    killed(NEWER, lambda: installed()[1] == "half-installed", "the unpacking of the package")
    node.answers()
    assert (node.main, node.daemon) == (main, daemon)
    sh("dpkg", "-i", NEWER, timeout=300)
    assert installed()[1] == "installed" and show("ActiveState") == "active", installed()
    node.answers_again()
    assert node.daemon != daemon and is_running_from_disk(node), "the old program runs"


def broken_off(node):
    killed(OLDER, is_configuring, "the package's configuration")
    node.answers_again()
    sh("dpkg", "--configure", "-a", timeout=300)
    assert installed()[1] == "installed" and show("ActiveState") == "active", installed()
    node.answers_again()
    assert is_running_from_disk(node), "the old program runs"
