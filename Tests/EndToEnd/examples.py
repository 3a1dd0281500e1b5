#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every example of the reference, which is every example of the manual page and of each command's help, run as it stands on a node that has what it is about; and what the other documents show that no
suite of its own runs: manifests, a tenant's file, a layer with its hooks, what a program would be refused. Places, ids and the port are put in."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from documented import PREAMBLE, blocks, commands  # noqa: E402
from node import BIN, PATIENCE, ROOT, Node, Suite, beside, python, wait_for  # noqa: E402

FILES = {
    "tenants.d/acme.yaml": "tenant: acme\nnetwork: egress\negress: {hosts: [api.example.org, \"*.example.com\"], ports: [443]}\nsecrets: {STRIPE: file:secrets/token, API_TOKEN: file:secrets/token}\n"
                           "quota: {concurrency: 50, memory: 2GiB}\n",
    "secrets/token": "sesame\n",
    "tenants.d/default.yaml": "tenant: default\n",
}
CODE = "def handler(event, context):\n    print('called', flush=True)\n    return 'x'\n"
ID = "0197c0ffee00aabbccddeeff00112233"
# They go on until somebody ends them.
LASTING = (r"up ", r"dev ", r"logs .* -f", r"top(?!.*--once)")
# No edge is broken here: that takes hundreds of runs, and events.py breaks some.
REFUSED = ("loops show", "loops resume")


def examples():
    """(section, line) of docs/REFERENCE.md."""
    with open(os.path.join(ROOT, "docs", "REFERENCE.md"), encoding="utf-8") as file:
        for part in re.split(r"^### ", file.read(), flags=re.M)[1:]:
            for block in re.findall(r"^```\n(.*?)^```$", part, re.S | re.M):
                yield from ((part.split("\n", 1)[0].strip("`"), line) for line in block.splitlines() if line.strip())


class Place:
    """A node and a folder with what the examples name."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="bulkhead-examples-", dir="/var/tmp")
        os.chmod(self.base, 0o755)
        self.node, self.other = Node(FILES).start(), Node({"tenants.d/globex.yaml": "tenant: globex\n"}).start()
        for name in ("thumbnail", "hello-there"):
            os.mkdir(f"{self.base}/{name}")
        for name, text in (("thumbnail/main.py", CODE), ("thumbnail/function.yaml", python("thumbnail")), ("photo.jpg", "x"), ("a.jpg", "x"), ("token.txt", "sesame\n")):
            with open(f"{self.base}/{name}", "w") as file:
                file.write(text)
        subprocess.run(["tar", "-C", f"{self.base}/thumbnail", "-czf", f"{self.base}/thumbnail-1.2.tar.gz", "."], check=True)
        os.mkdir(f"{self.base}/backups")

    def remove(self):
        self.node.remove()
        self.other.remove()
        shutil.rmtree(self.base, ignore_errors=True)

    def provide(self):
        """What an example before has taken away is there again."""
        node = self.node
        rows = node.cli("versions", "acme/thumbnail", "--json")
        last = max(row["version"] for row in json.loads(rows.stdout)) if rows.returncode == 0 else 0
        for number in range(last, 8):
            node.deployed(python("thumbnail"), {"main.py": f"{CODE}# {number}\n"})
        for name in ("upper", "report"):
            node.deployed(python(name), {"main.py": CODE})
        for words in (("acme/upper", "stable", "1"), ("acme/thumbnail", "prod", "7"), ("acme/thumbnail", "prod", "7=90", "8=10"), ("acme/thumbnail", "beta", "5")):
            node.json("alias", "set", *words)
        node.cli("bucket", "create", "acme/photos")
        node.cli("object", "put", "acme/photos/in/a.jpg", stdin=b"x")

    def put_in(self, line):
        node = self.node
        for place, own in (("/var/lib/my-node", f"{self.base}/my-node"), ("/tmp/node", f"{self.base}/node"), ("/var/lib/new-node", f"{self.base}/new-node"),
                           ("/var/backups", f"{self.base}/backups"), ("/etc/bulkhead", node.config), ("./config", node.config), ("--port 8080", "--port 0")):
            line = line.replace(place, own)
        if "doctor --state" in line:
            line = line.replace(f"{self.base}/my-node", node.state)
        if ID in line:
            if "events" in line:
                made = json.loads(node.cli("invoke", "acme/report", "--data", "1", "--async", "--delay", "1h", "--json").stdout)["id"]
                line += " --tenant acme" if "--tenant" not in line else ""
            else:
                made = json.loads(node.cli("invoke", "acme/thumbnail", "--data", "1", "--async", "--json").stdout)["id"]
                wait_for(lambda: node.json("events", "show", made, "--tenant", "acme")["state"] == "done", 20, "its end")
            line = line.replace(ID, made)
        if " ID " in line:
            line = line.replace(" ID ", f" {node.json('keys', 'create', '--tenant', 'acme', '--scope', 'invoke')['id']} ")
        if "w-7f3a" in line:
            assert node.cli("invoke", "acme/thumbnail", "--data", "1").returncode == 0
            line = line.replace("w-7f3a", next(row["worker"] for row in node.json("ps") if row["function"] == "thumbnail"))
        return line

    def run(self, line):
        """Runs an example; what is wrong is an AssertionError."""
        words = line.removeprefix("bulkhead ")
        node = self.other if words.startswith("import") else self.node
        exports = f"export BULKHEAD_STATE={node.state} PATH={BIN}:$PATH\n"
        if words.startswith(("import", "export")):
            with contextlib.suppress(OSError):
                os.remove(f"{self.base}/acme.tar")
        if words == "import acme.tar":
            assert self.node.cli("export", "acme", "-o", f"{self.base}/acme.tar", "--with-secrets").returncode == 0
        elif words.startswith("import"):
            assert self.node.cli("export", "acme", "-o", f"{self.base}/acme.tar").returncode == 0
            line += " --secret STRIPE=@token.txt"
        if words == "bucket create acme/photos":
            node.cli("bucket", "delete", "acme/photos", "--force")
        if words == "init --template python3 hello":
            shutil.rmtree(f"{self.base}/hello", ignore_errors=True)
        command = ["bash", "-c", PREAMBLE + exports + self.put_in(line)]
        if any(re.match(one, words) for one in LASTING):
            return self.lasting(command, line)
        for _ in range(100):
            run = subprocess.run(command, cwd=self.base, capture_output=True, text=True, timeout=60 * PATIENCE, check=False, stdin=subprocess.DEVNULL)
            if "the last restart was just now" not in run.stderr:
                break
            time.sleep(0.1)
        if words.startswith(REFUSED):
            assert run.returncode != 0 and "acme/thumbnail/bucket-1" in run.stderr and "Usage" not in run.stderr, (line, run.returncode, run.stderr[-300:])
        elif words.startswith("doctor"):
            # What the host lacks is its answer, too.
            assert run.returncode in (0, 1) and "ok" in run.stdout and "Usage" not in run.stderr, (line, run.returncode, run.stderr[-300:])
        else:
            assert run.returncode == 0, f"{line}: {run.returncode}: {run.stdout[-300:]} {run.stderr[-300:]}"

    def lasting(self, command, line):
        with tempfile.TemporaryFile() as said, subprocess.Popen(command, cwd=self.base, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True) as run:
            def text():
                said.seek(0)
                return said.read().decode()
            if " up " in line:
                wait_for(lambda: "READY" in text() or run.poll() is not None, 20, "READY")
            end = time.monotonic() + 1
            while time.monotonic() < end and run.poll() is None:
                time.sleep(0.05)
            assert run.poll() is None, f"{line} ended by itself: {run.returncode}: {text()[-300:]}"
            os.killpg(run.pid, signal.SIGINT)
            assert run.wait(30 * PATIENCE) in (0, 130, -signal.SIGINT), f"{line}: {run.returncode}: {text()[-300:]}"


def shown(path, language):
    """The blocks of a language in a document."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return re.findall(rf"^```{language}\n(.*?)^```$", file.read(), re.S | re.M)


def manifests(place):
    _, triggers = shown("README.md", "yaml")
    for name, text in (("outward", "network: egress\n"), ("triggered", triggers)):
        assert place.node.deployed(python(name, text), {"main.py": CODE}) == f"acme/{name}@1"
    assert {row["kind"] for row in place.node.json("triggers", "acme/triggered")} >= {"http", "queue"}
    hello, = shown("Sources/WorkerSDK/WorkerSDK.docc/GettingStarted.md", "yaml")
    shutil.copy("/bin/true", f"{place.base}/true")
    with open(f"{place.base}/true", "rb") as file:
        assert place.node.deployed(hello, {"hello": file.read()}) == "acme/hello@1"


def tenant_file(place):
    text = shown("Deploy/RUNBOOK.md", "yaml")[0] + shown("README.md", "yaml")[0]
    path = os.path.join(place.node.config, "tenants.d", "shop.yaml")
    os.makedirs(os.path.join(place.node.config, "secrets"), mode=0o700, exist_ok=True)
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{place.base}/key.pem"], check=True, capture_output=True)
    subprocess.run(["openssl", "ec", "-in", f"{place.base}/key.pem", "-pubout", "-out", os.path.join(place.node.config, "secrets", "issuer.pem")], check=True, capture_output=True)
    with open(path, "w") as file:
        file.write("tenant: shop\n" + text)
    run = place.node.cli("reload")
    os.remove(path)
    assert run.returncode == 0 and b"shop" in run.stdout, run.stdout + run.stderr


def layer(place):
    """The runbook's way to a layer, with the hooks that the protocol's document shows."""
    hooks, = shown("Sandbox/runtimes/README.md", "python")
    with open(f"{place.base}/hooks.py", "w") as file:
        file.write(hooks)
    with open(os.path.join(ROOT, "Deploy", "RUNBOOK.md"), encoding="utf-8") as file:
        lines = [line for block in blocks(file.read(), "Tune") for line in commands(block) if not line.startswith("#")]
    assert len(lines) == 2 and "hooks.py" in lines[0], lines
    with open(os.path.join(place.node.config, "tenants.d", "acme.yaml"), "a") as file:
        file.write("layers: {force: [tracing]}\n")
    for line in lines:
        place.run(line)
    place.node.deployed(python("traced"), {"main.py": CODE})
    assert place.node.invoke("traced", b"1", headers={"Authorization": f"Bearer {place.node.json('keys', 'create', '--tenant', 'acme', '--scope', 'invoke')['key']}"})[0] == 200
    wait_for(lambda: b"begins: " in place.node.cli("logs", "acme/traced").stdout, 20, "what the hook logs")


def learned(place):
    """What the sandbox's document shows: a program's calls, outside of any node."""
    block, = shown("Sandbox/README.md", "sh")
    state = Node(FILES)
    state.start()
    state.stop()
    os.mkdir(f"{place.base}/learn")
    with open(f"{place.base}/learn/program", "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod(f"{place.base}/learn/program", 0o755)
    for network in ("", "--network"):
        line, = commands(block)
        line = line.replace("STATE", state.state).replace("[--network]", network).replace("FOLDER", f"{place.base}/learn").replace("bulkhead-spawner", beside("bulkhead-spawner"))
        run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
        assert run.returncode == 0, (line, run.returncode, run.stdout[-300:], run.stderr[-300:])
    state.remove()


def main():
    suite, place = Suite("examples"), Place()
    try:
        found = list(examples())
        assert len(found) > 80, len(found)
        # A function that is deleted never has the same numbers again.
        found.sort(key=lambda example: (example[0] == "bulkhead delete", example[1] == "bulkhead delete acme/thumbnail"))
        sections = list(dict.fromkeys(section for section, _ in found))
        for section in sections:
            lines = [line for own, line in found if own == section]

            def run(lines=lines):
                place.provide()
                for line in lines:
                    if "| jq " in line and not shutil.which("jq"):
                        line = line.split("| jq ")[0]
                    place.run(line)
            suite.check(f"{section}: {len(lines)} examples", run)
        for name, body in (("the manifests that are shown", manifests), ("the tenants' files that are shown", tenant_file), ("the layer and its hooks that are shown", layer),
                           ("what a program would be refused, as it is shown", learned)):
            suite.check(name, lambda body=body: body(place))

        def refused():
            # What is run is judged.
            for line in ("bulkhead versions acme/nobody", "bulkhead inspect w-0", "bulkhead top --no-such-flag"):
                try:
                    place.run(line)
                except AssertionError:
                    continue
                raise AssertionError(f"{line} passed")
        suite.check("an example that fails is seen", refused)
    finally:
        place.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
