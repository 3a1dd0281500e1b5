#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What `bulkhead init` makes, taken as it is: each template is made a folder, built where it says how, deployed, called, and has logged the call."""
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import BIN, SHARE, Node, Suite, wait_for  # noqa: E402

EVENT = {"name": "you"}


def init(*words):
    run = subprocess.run([os.path.join(BIN, "bulkhead"), "init", *words, "--json"], capture_output=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return json.loads(run.stdout)


def build(folder):
    """Runs the command that the source's first lines say, with the header's folder put in."""
    with open(os.path.join(folder, "hello.c"), encoding="utf-8") as file:
        found = re.search(r"^// +(cc .* -I) DIR$", file.read(), re.M)
    assert found, "hello.c does not say how it is built"
    run = subprocess.run(f"{found[1]} {SHARE}/runtimes/native", shell=True, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


def echoes(answer, identity):
    assert json.loads(answer) == EVENT, answer


def greets(answer, identity):
    assert answer.startswith(b"hello ") and json.loads(answer.removeprefix(b"hello ")) == EVENT, answer


def says(answer, identity):
    assert json.loads(answer) == {"hello": EVENT, "request": identity}, (answer, identity)


# Of each template: what it needs that a host may lack, what is done before the deploy, what it answers.
TEMPLATES = {"python3": (None, None, says), "nodejs": ("node", None, says), "command": (None, None, greets), "native": ("cc", build, echoes)}


def main():
    suite = Suite("templates")
    node = Node().start()
    try:
        def all_are_tried():
            assert init() == sorted(TEMPLATES), init()
        suite.check("each template is tried here", all_are_tried)
        for name, (program, before, is_right) in TEMPLATES.items():
            suite.check(f"init, deploy and invoke of the template {name}", lambda: tried(node, name, program, before, is_right))
    finally:
        node.remove()
    return suite.close()


def tried(node, name, program, before, is_right):
    if program and not shutil.which(program):
        return f"there is no {program} here"
    folder = os.path.join(node.base, f"my-{name}")
    assert init("--template", name, folder) == {"folder": folder, "template": name, "function": f"my-{name}"}
    if before:
        before(folder)
    run = node.cli("deploy", folder, "--tenant", "default")
    assert run.returncode == 0 and run.stdout.decode().strip() == f"default/my-{name}@1", (run.stdout, run.stderr)
    status, headers, body = node.invoke(f"my-{name}", json.dumps(EVENT).encode(), tenant="default")
    assert status == 200, (status, body)
    is_right(body, headers["Bulkhead-Invocation-Id"])
    run = node.cli("invoke", f"default/my-{name}", "--data", json.dumps(EVENT))
    assert run.returncode == 0 and b"you" in run.stdout, (run.stdout, run.stderr)
    wait_for(lambda: b"called" in node.cli("logs", f"default/my-{name}").stdout, 10, "the line that it logs")
    return None


if __name__ == "__main__":
    sys.exit(main())
