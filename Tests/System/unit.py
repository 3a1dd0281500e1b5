# SPDX-License-Identifier: Apache-2.0
"""The machine's own node, as systemd runs it: the same questions as to any node, other ways to start, stop and look at it."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for part in ("EndToEnd", "Attack"):
    sys.path.insert(0, os.path.join(HERE, part))
os.environ["BULKHEAD_BIN"] = "/usr/bin"
from node import Node, wait_for  # noqa: E402

UNIT = "bulkhead.service"
GROUP = "/sys/fs/cgroup/system.slice/bulkhead.service"
SLOW = 60  # seconds that anything may take here: the machine is emulated


def sh(*words, check=True, timeout=120, **more):
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **more)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.returncode}: {done.stdout[-300:]} {done.stderr[-500:]}"
    return done


def show(name, unit=UNIT):
    return sh("systemctl", "show", "-P", name, unit).stdout.strip()


def journal(since, unit=UNIT):
    sh("journalctl", "--sync", check=False)
    return sh("journalctl", "-u", unit, "--no-pager", "-o", "cat", f"--since=@{since}").stdout


class Service(Node):
    """The system's own node: the same questions, other ways to start and stop it."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="bulkhead-system-", dir="/var/tmp")
        os.chmod(self.base, 0o755)
        self.state, self.http, self.control, self.process = "/var/lib/bulkhead", "127.0.0.1:8080", "/run/bulkhead/control.sock", None

        self.keys = {}

    def credentials(self, tenant):
        """As a service the node answers nobody without a key."""
        if tenant not in self.keys:
            run = self.cli("keys", "create", "--tenant", tenant, "--scope", "admin", "--json")
            if run.returncode:
                return {}
            self.keys[tenant] = json.loads(run.stdout)["key"]
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def start(self):
        sh("systemctl", "start", UNIT)
        return self

    def stop(self):
        sh("systemctl", "stop", UNIT)

    def remove(self):
        pass

    def cli(self, *words, stdin=b"", timeout=60):
        return subprocess.run(["/usr/bin/bulkhead", *words], input=stdin, capture_output=True, timeout=timeout)

    def leftovers(self):
        found = [f"the cgroup {GROUP}"] if os.path.exists(GROUP) else []
        for line in open("/proc/self/mounts"):
            if "/var/lib/bulkhead" in line or "bulkhead" in line.split()[0]:
                found.append(f"the mount {line.strip()}")
        return found + [line for line in super().leftovers() if not line.startswith("cgroup")]

    @property
    def main(self):
        return int(show("MainPID"))

    @property
    def daemon(self):
        return int(sh("pgrep", "-P", str(self.main), "-x", "bulkheadd").stdout.split()[0])

    def answers(self, body=b'"x"'):
        status, _, answer = self.invoke("echo", body)
        assert status == 200 and answer == json.loads(body).encode(), (status, answer[:300])

    def answers_again(self):
        """The next call that reaches a daemon is answered."""
        def once():
            try:
                return self.invoke("echo", b'"x"')[0] == 200
            except OSError:
                return False
        wait_for(once, SLOW, "an answer")


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
