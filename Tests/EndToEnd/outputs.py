#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each command that takes `--json` prints JSON and nothing else, on a node that has something of everything."""
import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import BIN, PATIENCE, TENANTS, Node, Suite, python, wait_for  # noqa: E402

PROGRAM = os.path.join(BIN, "bulkhead")
# Commands that are not run below, and why.
ELSEWHERE = {"up": "it says READY, and every suite reads that"}
# What they print: one value; a value a line, as it comes; a refusal, where what they are about does not come without hundreds of runs; a folder's, until it is ended.
VALUE, LINES, REFUSAL, LASTING = range(4)


def commands():
    """Every command that takes the flag, as the program itself has them."""
    def walk(command, path):
        if any(name.get("name") == "json" for argument in command.get("arguments", []) for name in argument.get("names") or []):
            yield " ".join(path)
        for below in command.get("subcommands", []):
            yield from walk(below, [*path, below["commandName"]])
    tree = subprocess.run([PROGRAM, "--experimental-dump-help"], capture_output=True, check=True).stdout
    return set(walk(json.loads(tree)["command"], []))


def table(node, said):
    """(command, its further words, what it prints), in an order in which each finds what it needs; `said` is what those before it printed."""
    base, folder = node.base, os.path.join(node.base, "hello")
    first = lambda command: said[command][0] if isinstance(said[command], list) else said[command]  # noqa: E731
    yield "version", [], VALUE
    yield "doctor", [], VALUE
    yield "init", ["--template", "python3", folder], VALUE
    for _ in range(2):
        yield "deploy", [folder, "--tenant", "acme"], VALUE
    yield "invoke", ["acme/hello", "--data", "1"], VALUE
    called = wait_for(lambda: [line for line in node.cli("logs", "acme/hello", "--json").stdout.splitlines() if b"called" in line], 10, "the line that it logs")
    yield "explain", [json.loads(called[0])["invocation"]], VALUE
    for command in ("functions", "applications", "triggers", "ps", "tenants", "usage", "failures", "reload", "drain"):
        yield command, [], VALUE
    yield "drain", ["--undo"], VALUE
    yield "inspect", [first("ps")["worker"]], VALUE
    yield "top", ["--once"], VALUE
    yield "logs", ["acme/hello"], LINES
    yield "logs", [], LINES
    yield "audit", [], LINES
    yield "versions", ["acme/hello"], VALUE
    yield "alias set", ["acme/hello", "prod", "1"], VALUE
    yield "alias set", ["acme/hello", "prod", "2"], VALUE
    yield "rollback", ["acme/hello", "--alias", "prod"], VALUE
    yield "alias list", ["acme/hello"], VALUE
    yield "alias delete", ["acme/hello", "prod"], VALUE
    yield "quota show", ["acme"], VALUE
    yield "quota set", ["acme", "concurrency=7"], VALUE
    for _ in range(3):
        yield "invoke", ["acme/hello", "--data", "1", "--async", "--delay", "1h"], VALUE
        yield "events show", [said["invoke"]["id"], "--tenant", "acme"], VALUE
        yield "events list", ["acme"], VALUE
        yield "events stop", [said["invoke"]["id"], "--tenant", "acme"], VALUE
    yield "dead-letters list", ["acme"], VALUE
    yield "dead-letters show", ["0" * 32, "--tenant", "acme"], REFUSAL
    yield "dead-letters redrive", ["acme", "--all"], VALUE
    yield "dead-letters purge", ["acme", "--all"], VALUE
    yield "loops list", [], VALUE
    yield "loops show", ["acme/hello/none"], REFUSAL
    yield "loops resume", ["acme/hello/none", "--mode", "drop"], REFUSAL
    yield "bucket create", ["acme/photos"], VALUE
    yield "object put", ["acme/photos/one", os.path.join(folder, "main.py")], VALUE
    yield "object list", ["acme/photos"], LINES
    yield "object get", ["acme/photos/one", os.path.join(base, "got")], VALUE
    yield "object delete", ["acme/photos/one"], VALUE
    yield "bucket list", ["--tenant", "acme"], VALUE
    yield "bucket delete", ["acme/photos"], VALUE
    yield "keys create", ["--tenant", "globex"], VALUE
    yield "keys list", ["--tenant", "globex"], VALUE
    yield "keys rotate", [said["keys create"]["id"], "--tenant", "globex"], VALUE
    yield "keys revoke", [said["keys create"]["id"], "--tenant", "globex"], VALUE
    yield "export", ["acme", "--output", os.path.join(base, "acme.tar")], VALUE
    yield "import", [os.path.join(base, "acme.tar"), "--as", "other"], VALUE
    yield "backup", [os.path.join(base, "node.tar")], VALUE
    yield "restore", [os.path.join(base, "node.tar"), "--state", os.path.join(base, "restored")], VALUE
    yield "dev", [folder, "--tenant", "acme"], LASTING
    yield "delete", ["acme/hello@1"], VALUE
    yield "restart", [], VALUE


def ask(node, command, words, kind):
    state = [] if "--state" in words or command in ("init", "version") else ["--state", node.state]
    asked = [PROGRAM, *command.split(), *words, *state, "--json"]
    if kind == LASTING:
        with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            value = json.loads(run.stdout.readline())
            run.send_signal(signal.SIGINT)
            for line in run.stdout:
                json.loads(line)
            assert run.wait(30 * PATIENCE) == 0, run.returncode
        return value
    run = subprocess.run(asked, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    if kind == REFUSAL:
        assert run.returncode != 0 and run.stdout == "" and json.loads(run.stderr)["code"], (run.returncode, run.stdout, run.stderr)
        return None
    assert run.returncode == 0 and run.stdout, (run.returncode, run.stdout, run.stderr)
    return json.loads(run.stdout) if kind == VALUE else [json.loads(line) for line in run.stdout.splitlines()]


def main():
    suite, said = Suite("outputs"), {}
    node = Node(TENANTS).start()
    try:
        for command, words, kind in table(node, said):
            def prints():
                said[command] = ask(node, command, words, kind)
            suite.check(" ".join([command, *(word for word in words if word.startswith("--"))]), prints)

        def all_are_asked():
            assert len(said) > 40 and commands() - said.keys() == ELSEWHERE.keys(), sorted(commands() ^ said.keys())
        suite.check("every command that takes --json is asked here", all_are_asked)

        def restored():
            value = said["restore"]
            assert value["state"] == os.path.join(node.base, "restored") and value["config"] == value["state"] + "/restored-config" and value["files"] > 2, value
            assert os.path.isdir(value["config"])
        suite.check("restore says where, how many files, of when, and with which configuration it starts", restored)
    finally:
        node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
