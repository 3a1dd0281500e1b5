#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Inside the machine, as root: the package installed, run as a service, misused, restarted, taken through a reboot and purged. Exit status 194 asks for the reboot."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

# The first of them says where the others are.
from unit import GROUP, SLOW, UNIT, Service, journal, sh, show, write
import run as attack  # noqa: I001
import changes
import runbook
import suites
from node import TENANTS, Suite, python, wait_for

OUT = os.environ["OUT"]
MEMORY = os.path.join(OUT, "first-boot.json")
# Only tests whose name matches run, beside the installation; for who works on one of them.
CHOSEN = re.compile(os.environ.get("SYSTEM_TESTS", ""))

node = None
figures = {}
# Ids of the events that wait over the reboot.
late = []


# --- the package

def install():
    start = began = time.monotonic()
    # As the README and the RUNBOOK say it; what the package depends on is there already, as there is no network.
    sh("apt-get", "install", "-y", "./bulkhead.deb", env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    figures["apt-get install, seconds"] = round(time.monotonic() - began, 1)
    assert show("ActiveState") == "active" and show("UnitFileState") == "enabled", (show("ActiveState"), show("UnitFileState"))
    ready, began = int(show("ActiveEnterTimestampMonotonic")), int(show("ExecMainStartTimestampMonotonic"))
    figures["start of the unit, seconds"] = round((ready - began) / 1e6, 2)
    assert open(f"/proc/{node.main}/comm").read().startswith("bulkhead-spawn"), "the main process is not the spawner"
    owner = sh("stat", "-c", "%U:%G %a", "/etc/bulkhead", "/etc/bulkhead/tenants.d/default.yaml", node.control).stdout.split("\n")
    assert owner[:3] == ["root:bulkhead 2750", "root:bulkhead 640", "bulkhead:bulkhead 660"], owner
    node.deployed(python("first").replace("5s", "30s"), {"main.py": "def handler(e, c):\n    return e\n"}, "default")
    assert node.request("POST", "/v1/tenants/default/functions/first/invocations", b"1")[0] == 401, "it answers who has no key"
    assert node.invoke("first", b"1", "default")[::2] == (200, b"1")
    figures["from apt-get install to the first answer of a function, seconds"] = round(time.monotonic() - start, 1)
    figures["the package without compression, MiB"] = round(os.path.getsize("bulkhead.deb") / (1 << 20), 1)


def doctor():
    run = node.cli("doctor")
    write(f"{OUT}/doctor.txt", run.stdout.decode())
    assert run.returncode == 0, run.stdout.decode() + run.stderr.decode()


def exposure():
    line = sh("systemd-analyze", "security", "--no-pager", UNIT, check=False).stdout
    write(f"{OUT}/security.txt", line)
    score = float(line.split("Overall exposure level for bulkhead.service: ")[1].split()[0])
    figures["systemd-analyze security"] = score
    # Root, namespaces, mounts and ids are what it is made of: most of the points are the seal itself. The unit gives each reason.
    assert score <= 6.5, score


def manual():
    assert os.path.getsize("/usr/share/man/man1/bulkhead.1.gz") > 1000
    sh("bash", "-n", "/usr/share/bash-completion/completions/bulkhead")
    for path in ("bash-completion/completions/bulkhead", "zsh/vendor-completions/_bulkhead", "fish/vendor_completions.d/bulkhead.fish"):
        assert os.path.getsize(f"/usr/share/{path}") > 1000, path


# --- the service

def tenants():
    for name, text in TENANTS.items():
        write(f"/etc/bulkhead/{name}", text)
    sh("systemctl", "reload", UNIT)
    assert {row["tenant"] for row in node.json("tenants")} == {"acme", "globex", "default"}


def functions():
    node.deployed(python("echo"), {"main.py": "def handler(e, c):\n    return e\n"})
    node.answers(b'"first"')
    with open("hello", "rb") as file:
        node.deployed("function: hello\nruntime: native\nhandler: ./hello\nmemory: 16MiB\ntimeout: 10s\n", {"hello": file.read()})
    status, _, body = node.invoke("hello", b"native bytes")
    assert (status, body) == (200, b"native bytes"), (status, body)
    assert node.cli("invoke", "acme/echo", "--data", '"cli"').stdout == b"cli"


def journal_fields():
    """What the daemon says of a signal's reload: a notice, and not a line like any other."""
    sh("systemctl", "kill", "-s", "HUP", "--kill-whom=main", UNIT)

    def told():
        sh("journalctl", "--sync", check=False)
        entries = map(json.loads, sh("journalctl", "-u", UNIT, "-o", "json", "--no-pager").stdout.splitlines())
        return [entry for entry in entries if "the configuration was read again" in str(entry.get("MESSAGE"))]
    found = wait_for(told, SLOW, "the word about the reload")
    assert found and all(entry["PRIORITY"] == "5" for entry in found), found[:2]
    # By the journal's socket, which takes fields, and from the service all the same.
    assert found[0]["SYSLOG_IDENTIFIER"] == "bulkheadd" and found[0]["_SYSTEMD_UNIT"] == UNIT, found[0]


def journal_gone():
    """Nobody waits for a journal that is not there, and what is said afterwards is in it."""
    main, daemon = node.main, node.daemon
    units = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"]
    sh("systemctl", "stop", "systemd-journald-audit.socket", *units)
    try:
        assert show("ActiveState", units[2]) == "inactive", "the journal is still there"
        node.answers()
        assert node.cli("reload").returncode == 0
        bomb()
    finally:
        sh("systemctl", "start", *units)
    journal_fields()
    assert (node.main, node.daemon) == (main, daemon) and show("NRestarts") == "0"
    # The spawner's words go by its standard error, a stream that the journal has forgotten meanwhile.
    began = time.time()
    os.kill(daemon, signal.SIGKILL)
    node.answers_again()
    wait_for(lambda: "bulkhead-spawner: the daemon ended" in journal(began), SLOW, "the spawner's word about the daemon")


def cgroups():
    places = [line.split("::")[1] for pid in (node.main, node.daemon) for line in open(f"/proc/{pid}/cgroup").read().split()]
    assert places == ["/system.slice/bulkhead.service/supervisor"] * 2, places
    rows = node.json("ps")
    assert rows and all(row["cgroup"].startswith("/system.slice/bulkhead.service/bulkhead-") for row in rows), rows
    row = next(r for r in rows if r["function"] == "echo")
    assert int(open(f"/sys/fs/cgroup{row['cgroup']}/memory.max").read()) == 96 << 20
    assert open(f"{GROUP}/cgroup.procs").read() == "", "processes in the cgroup that shares its controllers out"


def operators():
    for name, groups in (("member", "bulkhead"), ("stranger", "nogroup")):
        sh("useradd", "-M", "-G", groups, name)
    as_user = lambda name, *words: sh("setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", *words, check=False)  # noqa: E731
    run = as_user("member", "bulkhead", "ps", "--json")
    assert run.returncode == 0 and json.loads(run.stdout), run.stderr
    run = as_user("stranger", "bulkhead", "ps")
    assert run.returncode == 4 or run.returncode == 1, (run.returncode, run.stderr)
    # Also where the socket's mode does not keep the stranger out, the daemon does.
    os.chmod(node.control, 0o666)
    try:
        ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", node.control, "http://x/v1/workers"]
        assert as_user("stranger", *ask).stdout == "403", as_user("stranger", *ask)
        assert as_user("member", *ask).stdout == "200", as_user("member", *ask)
    finally:
        os.chmod(node.control, 0o660)


def broken_reload():
    before, began = node.json("quota", "show", "acme"), time.time()
    path = "/etc/bulkhead/tenants.d/acme.yaml"
    good = open(path).read()
    write(path, "tenant: acme\nquota:\n  concurrency: many\n")
    try:
        run = sh("systemctl", "reload", UNIT, check=False)
        assert run.returncode != 0, "a broken configuration was taken"
        assert "acme.yaml:3:" in journal(began), journal(began)
        sh("systemctl", "kill", "--kill-whom=main", "-s", "HUP", UNIT)
        wait_for(lambda: "acme.yaml:3:" in show("StatusText"), SLOW, "the status line")
        assert node.json("quota", "show", "acme") == before, "the refused configuration changed something"
        node.answers()
    finally:
        write(path, good.replace("concurrency: 8", "concurrency: 9"))
    sh("systemctl", "kill", "--kill-whom=main", "-s", "HUP", UNIT)
    wait_for(lambda: "read again" in show("StatusText"), SLOW, "the status line")
    assert show("ActiveState") == "active" and "9" in json.dumps(node.json("quota", "show", "acme")), node.json("quota", "show", "acme")


def killed_daemon():
    main, daemon = node.main, node.daemon
    os.kill(daemon, signal.SIGKILL)
    node.answers_again()
    assert node.main == main and node.daemon != daemon and show("NRestarts") == "0"


def hung_daemon():
    main, daemon, began = node.main, node.daemon, time.time()
    os.kill(daemon, signal.SIGSTOP)
    wait_for(lambda: not os.path.exists(f"/proc/{daemon}"), SLOW, "the end of the hung daemon")
    figures["a hung daemon is ended after, seconds"] = round(time.time() - began, 1)
    node.answers_again()
    assert node.main == main and show("NRestarts") == "0"
    assert "has not answered" in journal(began)


def hung_spawner():
    os.makedirs("/run/systemd/system/bulkhead.service.d", exist_ok=True)
    write("/run/systemd/system/bulkhead.service.d/test.conf", "[Service]\nWatchdogSec=12\n")
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", UNIT)
    node.answers_again()
    # Three times the watchdog's time: it is the answers that keep it quiet.
    time.sleep(36)
    assert show("NRestarts") == "0", "the watchdog ended a healthy service"
    main = node.main
    os.kill(main, signal.SIGSTOP)
    wait_for(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", SLOW, "the restart by the watchdog")
    node.answers_again()
    assert node.main != main
    shutil.rmtree("/run/systemd/system/bulkhead.service.d")
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", UNIT)


def bomb():
    main = node.main
    node.deployed("function: bomb\nruntime: python3\nhandler: main.handler\nmemory: 64MiB\ntimeout: 20s\n",
                  {"main.py": "def handler(e, c):\n    x = []\n    while True:\n        x.append(bytearray(1 << 20))\n"})
    status, _, body = node.invoke("bomb", b"1")
    assert status == 507, (status, body[:300])
    assert node.main == main and show("ActiveState") == "active"
    node.answers()


def same_state():
    began = time.time()
    run = sh("systemd-run", "--wait", "--unit=second", "-p", "Delegate=yes", "/usr/bin/bulkhead", "up", "--system", "--port", "8081", check=False)
    assert run.returncode != 0 and "Another node already runs" in journal(began, "second"), journal(began, "second")
    node.answers()


def not_delegated():
    began = time.time()
    run = sh("systemd-run", "--wait", "--unit=plain", "/usr/bin/bulkhead", "up", "--system", "--state", "/var/lib/other", "--port", "8082", check=False)
    assert run.returncode != 0 and "Delegate=" in journal(began, "plain"), journal(began, "plain")
    node.answers()


def broken_start():
    path, began = "/etc/bulkhead/bulkhead.yaml", time.time()
    good = open(path).read()
    write(path, good.replace("workers: 500", "workers: -1"))
    try:
        assert sh("systemctl", "restart", UNIT, check=False).returncode != 0
        assert (show("ActiveState"), show("ExecMainStatus")) == ("failed", "78"), (show("ActiveState"), show("ExecMainStatus"))
        assert "bulkhead.yaml:" in journal(began), journal(began)
    finally:
        write(path, good)
    sh("systemctl", "reset-failed", UNIT)
    sh("systemctl", "start", UNIT)
    node.answers_again()


def socket_activation():
    node.stop()
    sh("systemctl", "start", "bulkhead.socket", UNIT)
    node.answers_again()
    # Callers come while the service restarts: they wait, none is refused.
    caller = subprocess.Popen(
        ["bash", "-c", "for i in $(seq 12); do curl -s -m 60 -o /dev/null -w '%{http_code}\\n' -H 'Content-Type: application/json' "
         f"-H 'Authorization: {node.credentials('acme')['Authorization']}' -d 1 "
         "http://127.0.0.1:8080/v1/tenants/acme/functions/echo/invocations || echo refused; sleep 0.2; done"], stdout=subprocess.PIPE, text=True)
    sh("systemctl", "restart", UNIT)
    answers = caller.communicate(timeout=150)[0].split()
    figures["calls during a restart behind the socket"] = " ".join(answers)
    assert "refused" not in answers, answers
    assert answers.count("200") >= 10, answers
    sh("systemctl", "stop", "bulkhead.socket", UNIT)


def stopped_clean():
    node.stop()
    wait_for(lambda: not node.leftovers(), SLOW, "an empty host")
    assert show("Result") == "success", show("Result")
    node.start()
    node.answers_again()
    assert node.leftovers(), "what looks for leftovers sees nothing even of a node that runs"


def attacks(suite):
    with attack.host_objects():
        attack.outside(suite, os.path.abspath("attack"))
        attack.inside(suite, os.path.abspath("attack"), node)
    node.start()


# --- after the reboot

def back():
    wait_for(lambda: show("ActiveState") == "active", SLOW, "the service")
    node.answers()
    assert {row["function"] for row in node.json("functions")} >= {"echo", "hello"}


def late_events():
    changes.late_events(node, late)


def removed():
    sh("dpkg", "--remove", "bulkhead")
    assert not os.path.exists(GROUP) and not os.path.exists("/run/bulkhead")
    assert os.path.exists("/var/lib/bulkhead/data/bulkhead.sqlite") and os.path.exists("/etc/bulkhead/tenants.d/acme.yaml")
    changes.kept_as_edited()


def purged():
    sh("dpkg", "--purge", "bulkhead")
    left = [path for path in ("/var/lib/bulkhead", "/etc/bulkhead", "/run/bulkhead", "/etc/default/bulkhead", "/usr/lib/bulkhead", "/usr/share/bulkhead",
                              "/etc/systemd/system/multi-user.target.wants/bulkhead.service") if os.path.exists(path)]
    assert not left, left
    for base in ("passwd", "group"):
        assert sh("getent", base, "bulkhead", check=False).returncode != 0, f"the {base} entry is left"


FIRST = [
    ("the package installs, and the service is active", install), ("doctor finds nothing that is required", doctor), ("manual and completions", manual),
    ("exposure score", exposure), ("tenants by reload", tenants), ("python and native functions answer", functions),
    ("the daemon's lines in the journal have a priority and fields", journal_fields), ("without a journal everything goes on", journal_gone),
    ("supervisor and workers are where they belong", cgroups), ("the group operates, a stranger does not", operators),
    ("a broken configuration is refused with its line, the old one stays", broken_reload), ("a killed daemon comes back", killed_daemon),
    ("a hung daemon is ended and comes back", hung_daemon), ("a memory bomb ends alone", bomb), ("two units on one state: the second is refused", same_state),
    ("a unit without Delegate= is refused", not_delegated), ("a broken configuration at the start is said once", broken_start),
    ("a hung spawner is restarted by the watchdog", hung_spawner), ("with the socket a restart refuses nobody", socket_activation),
    ("stop leaves no process, cgroup or mount", stopped_clean), ("the runbook's commands: install", runbook.install),
    ("the runbook's commands: back up and restore", runbook.back_up), ("the runbook's commands: a damaged database", lambda: runbook.damaged(node)),
    ("the runbook's commands: logs", runbook.logs), ("the README's way to the first answer", runbook.readme),
]
SECOND = [
    ("after a reboot the service is back with its functions", back), ("twenty events from before the reboot run once", late_events),
    ("an upgrade under load: no call fails, no event is lost, warm workers stay", lambda: changes.under_load(node, figures)),
    ("a downgrade onto a newer state is refused with a sentence, and the newer release serves on", lambda: changes.downgrade(node)),
    ("an upgrade onto a broken configuration says file and line, the old release serves on; mended, it goes on", lambda: changes.broken_configuration(node)),
    ("an upgrade that is killed as it unpacks leaves the old release serving, and is done again", lambda: changes.broken_unpacking(node)),
    ("an upgrade that is killed as it configures goes on with dpkg --configure -a", lambda: changes.broken_off(node)),
    ("an upgrade of the state that the first release left has its functions, keys and events", lambda: changes.first_state(node)),
    ("remove keeps state and configuration", removed), ("purge leaves nothing", purged),
]


def main():
    global node
    node = Service()
    suite = Suite("system")
    uptime = float(open("/proc/uptime").read().split()[0])
    if not os.path.exists(MEMORY):
        print(f"system: up after {uptime:.0f} s, kernel {os.uname().release}, cgroup controllers {open('/sys/fs/cgroup/cgroup.controllers').read().strip()}", flush=True)
        sh("systemctl", "is-system-running", "--wait", check=False)
        for name, body in FIRST:
            timed(suite, name, body)
            if name == FIRST[0][0] and suite.failed:
                return suite.close()
        suites.run(suite, figures, CHOSEN)
        if CHOSEN.search("attacks"):
            began = time.monotonic()
            attacks(suite)
            figures["attacks, seconds"] = round(time.monotonic() - began)
        timed(suite, "events are sent that are due after a reboot", lambda: late.extend(changes.send_late_events(node)))
        write(MEMORY, json.dumps([suite.passed, suite.failed, suite.skipped, figures, late]))
        return 194
    with open(MEMORY) as file:
        suite.passed, suite.failed, suite.skipped, before, events = json.load(file)
    figures.update(before)
    late.extend(events)
    for name, body in SECOND:
        timed(suite, name, body)
    for name, value in figures.items():
        print(f"figure: {name}: {value}")
    return suite.close()


def timed(suite, name, body):
    if not CHOSEN.search(name) and name != FIRST[0][0]:
        return
    began = time.monotonic()
    suite.check(name, body)
    print(f"        {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
