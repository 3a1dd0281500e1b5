#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The commands that the texts show, run as they stand there: the README's minute and its events, on a node of their own, and the runbook's move of a tenant. Port, state directory and place of the
programs are put in; a command that fails, or an HTTP answer that is none of success, fails. (What needs a machine with systemd is run by the system test.)"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import BIN, ROOT, TENANTS, Node, Suite, python, wait_for  # noqa: E402


def blocks(text, heading):
    """The shell blocks below a heading of the second level."""
    part = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert part, f"there is no heading {heading}"
    found = re.findall(r"^```sh\n(.*?)^```$", part.group(1), re.S | re.M)
    assert found, f"below {heading} there is no command"
    return found


def commands(block):
    """Its lines without comments and empty ones."""
    lines = (re.sub(r"\s+#.*$", "", line) if not line.startswith("#") else "" for line in block.splitlines())
    return [line for line in lines if line.strip()]


# No sudo where root is who tests; curl says more than it does for a person, and fails where the answer is an error.
PREAMBLE = """set -eu -o pipefail
sudo() { if [ "$1" = -E ]; then shift; fi; "$@"; }
curl() { command curl -sS --max-time 60 --fail-with-body "$@"; }
"""


class Page:
    """A text's commands, and the node that its first one starts."""

    def __init__(self, place):
        self.base = tempfile.mkdtemp(prefix="bulkhead-page-", dir="/var/tmp")
        os.chmod(self.base, 0o755)
        with open(os.path.join(ROOT, place), encoding="utf-8") as file:
            self.text = file.read()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.state, self.node = f"{self.base}/node", None

    def put_in(self, line):
        """A line with this node's port and state, and these programs, each of which it must name as the page does."""
        return line.replace("/var/tmp/node", self.state).replace("8080", str(self.port)).replace(".build/bin/bulkhead", os.path.join(BIN, "bulkhead"))

    def start(self, line):
        """What the page starts in the background."""
        assert line.startswith("sudo ") and line.endswith("&") and " up " in line, line
        words = self.put_in(line).removeprefix("sudo ").removesuffix("&").split()
        with open(f"{self.base}/log", "wb") as log:
            self.node = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        ready = self.node.stdout.readline().decode()
        assert ready.startswith(f"READY http=127.0.0.1:{self.port} "), (ready, open(f"{self.base}/log").read())

    def run(self, lines, exports=""):
        """Each in turn, in one folder and one shell's environment; what each printed."""
        said = {}
        for line in lines:
            if line.startswith("export "):
                exports += self.put_in(line) + "\n"
                continue
            done = subprocess.run(["bash", "-c", PREAMBLE + exports + self.put_in(line)], cwd=self.base, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{line}: {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}"
            said[line] = done.stdout
        return said

    def stop(self):
        if self.node:
            self.node.send_signal(signal.SIGTERM)
            assert self.node.wait(30) == 0, "the node did not stop in good order"
            self.node.stdout.close()
        shutil.rmtree(self.base, ignore_errors=True)


def only(said, *parts):
    """What the one command with these words printed."""
    found = [text for line, text in said.items() if all(part in line for part in parts)]
    assert len(found) == 1, (parts, list(said))
    return found[0]


def main():
    suite = Suite("documented")
    page = Page("README.md")
    try:
        def minute():
            first, *rest = commands(blocks(page.text, "A minute with it")[0])
            page.start(first)
            said = page.run(rest)
            assert only(said, "deploy hello").strip() == "default/hello@1", said
            assert "hello" in only(said, " ps"), said
            assert only(said, "curl"), "the call over HTTP has no answer"
        suite.check("the README's minute, command by command", minute)

        def events():
            # They go on where the minute ends: the same function, the same node.
            lines = commands(blocks(page.text, "Events and loops")[0])
            said = page.run(["export BULKHEAD_STATE=/var/tmp/node", *lines])
            assert '"id"' in only(said, "Invocation-Type: async"), said
            assert "in/a.txt" in only(said, "object list"), said
            wait_for(lambda: "done" in page.run(["export BULKHEAD_STATE=/var/tmp/node", lines[1]])[lines[1]], 60, "the end of the event")
        suite.check("the README's events and loops, command by command", events)

        def ceilings():
            # A node whose tenants are files, and `bulkhead` where a package puts it.
            node = Node(TENANTS).start()
            try:
                exports = f"export BULKHEAD_STATE={node.state} PATH={BIN}:$PATH\n"
                key = json.loads(page.run(["bulkhead keys create --tenant acme --scope invoke --json"], exports).popitem()[1])["id"]
                lines = commands(blocks(page.text, "A minute with it")[1])
                assert any(" ID " in line for line in lines), lines
                said = page.run([line.replace(" ID ", f" {key} ") for line in lines], exports)
                assert "concurrency" in only(said, "quota show") and "acme" in only(said, "quota set"), said
                after = node.json("quota", "show", "acme")
                assert after["concurrency"]["limit"] == 80 and len(after["budgets"]) == 1, after
            finally:
                node.remove()
        suite.check("the README's ceilings, usage and keys, command by command", ceilings)

        def moved():
            with open(os.path.join(ROOT, "Deploy", "RUNBOOK.md"), encoding="utf-8") as file:
                lines = commands(blocks(file.read(), "Move a tenant")[0])
            assert len(lines) == 3 and "export acme" in lines[0], lines
            one = Node({"tenants.d/acme.yaml": "tenant: acme\nsecrets:\n  API_TOKEN: file:secrets/token\nbuckets: [in]\n"})
            two = Node({"tenants.d/globex.yaml": "tenant: globex\n"})
            os.mkdir(os.path.join(one.config, "secrets"), 0o700)
            for path in (os.path.join(one.config, "secrets", "token"), os.path.join(page.base, "token.txt")):
                with open(path, "w") as file:
                    file.write("sesame\n")
            try:
                one.start()
                one.deployed(python("echo"), {"main.py": "def handler(event, context):\n    return event\n"})
                page.run(lines[:1], f"export BULKHEAD_STATE={one.state} PATH={BIN}:$PATH\n")
                two.start()
                page.run(lines[1:], f"export BULKHEAD_STATE={two.state} PATH={BIN}:$PATH\n")
                assert [two.invoke("echo", b"1", tenant)[2] for tenant in ("acme", "acme-copy")] == [b"1", b"1"]
            finally:
                one.remove()
                two.remove()
        suite.check("the runbook's move of a tenant, command by command", moved)

        def night():
            with open(os.path.join(ROOT, "Deploy", "RUNBOOK.md"), encoding="utf-8") as file:
                lines = commands(blocks(file.read(), "What happened at 03:12?")[0])
            node = Node({"tenants.d/acme.yaml": "tenant: acme\n"}).start()
            try:
                exports = f"export BULKHEAD_STATE={node.state} PATH={BIN}:$PATH\n"
                node.deployed(python("echo"), {"main.py": "def handler(event, context):\n    raise ValueError('no')\n"})
                failed = node.invoke("echo", b"1")[1]["Bulkhead-Invocation-Id"]
                lines = [line.replace(" ID", f" {failed}") for line in lines]
                page.run(lines, exports)
                # The same of the time that the call failed in.
                lines = [line.replace("03:10", "-1h").replace("03:00", "-1h").replace("03:15", "now") for line in lines]
                wait_for(lambda: failed in page.run(lines[:1], exports)[lines[0]], 60, "the failed call in the list")
                said = page.run(lines, exports)
                assert f"acme/echo@1  {failed}  functionError" in only(said, "failures --since"), said
                assert "functionError" in only(said, "explain") and "ValueError: no" in only(said, "logs acme"), said
                assert "acme/echo@1" in only(said, "logs --since") and "ValueError: no" in only(said, "logs --since"), said
                assert "deploy" in only(said, "audit"), said
            finally:
                node.remove()
        suite.check("the runbook's question of the night, command by command", night)

        def refused():
            # What is run is judged: a command of a page that does not work fails.
            for line in (".build/bin/bulkhead invoke default/nobody", "curl localhost:8080/v1/tenants/default/functions/nobody/invocations", "sudo -E false | cat"):
                try:
                    page.run(["export BULKHEAD_STATE=/var/tmp/node", line])
                except AssertionError:
                    continue
                raise AssertionError(f"{line} passed")
        suite.check("a command that fails is seen", refused)
    finally:
        page.stop()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
