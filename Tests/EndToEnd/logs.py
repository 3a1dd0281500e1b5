#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What functions write: found by time, level, text and invocation, followed through rotation and a restart of the daemon, bounded."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import BIN, Node, PATIENCE, Suite, python, wait_for  # noqa: E402

# A line each number.
WRITER = """
import json
def handler(event, context):
    event = json.loads(event) if isinstance(event, str) else event
    for number in range(event["from"], event["to"]):
        print(f"n={number}")
    return event["to"]
"""
CONFIG = {
    "bulkhead.yaml": "logs: {perTenant: 1MiB, age: 1h}\n",
    "tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 4, queue: 100, memory: 1GiB, cpu: 2.0, processes: 512}\n",
    "tenants.d/globex.yaml": "tenant: globex\n",
}


# Nine thousand lines are about 1.6 MB of log.
LAST = 9003


class Developer:
    """`bulkhead dev`, read as it goes."""

    def __init__(self, node, folder):
        self.process = subprocess.Popen(
            [os.path.join(BIN, "bulkhead"), "dev", folder, "--tenant", "acme", "--state", node.state], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.told = {"out": "", "error": ""}
        self.readers = [threading.Thread(target=self.read, args=one, daemon=True) for one in (("out", self.process.stdout), ("error", self.process.stderr))]
        for reader in self.readers:
            reader.start()

    def read(self, name, file):
        for line in file:
            self.told[name] += line.decode()

    def says(self, text, where="out"):
        # Its last words may be read after its end.
        wait_for(lambda: text in self.told[where] or not any(reader.is_alive() for reader in self.readers), 30, f"{text} of dev: {self.told}")
        assert text in self.told[where], self.told


def work_on(node, folder):
    def write(name, text):
        # As editors save: beside the file, then in its place.
        with open(os.path.join(folder, name + "~"), "w") as file:
            file.write(text)
        os.rename(os.path.join(folder, name + "~"), os.path.join(folder, name))

    def code(word):
        return f"def handler(event, context):\n    print('run of {word}')\n    return '{word}'\n"
    write("function.yaml", python("dev"))
    write("main.py", code("first"))
    dev = Developer(node, folder)
    try:
        dev.says("acme/dev@1\n")
        dev.says(f"POST http://{node.http}/v1/tenants/acme/functions/dev/invocations", "error")
        assert node.invoke("dev", b"1")[2] == b"first"
        dev.says("run of first")
        write("main.py", code("second"))
        dev.says("acme/dev@2\n")
        assert node.invoke("dev", b"1")[2] == b"second"
        dev.says("run of second")
        write("function.yaml", python("dev") + "color: blue\n")
        dev.says("color", "error")
        dev.says("acme/dev@2 goes on serving", "error")
        assert node.invoke("dev", b"1")[2] == b"second"
        write("function.yaml", python("dev"))
        dev.says("acme/dev@3\n")
        # The node goes and comes back; what was written meanwhile is deployed.
        node.stop()
        write("main.py", code("third"))
        dev.says("waiting for it", "error")
        node.start()
        dev.says("acme/dev@4\n")
        assert node.invoke("dev", b"1")[2] == b"third"
        dev.says("run of third")
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(20) == 0
        dev.says("acme/dev@4 stays on the node", "error")
    finally:
        dev.process.kill()
        dev.process.wait()
    assert dev.told["out"].count("acme/dev@4\n") == 1 and dev.told["out"].count("run of first") == 1, dev.told
    assert "acme/dev@5" not in dev.told["out"]
    for words in (["dev", folder, "--tenant", "nobody"], ["dev", folder + "/main.py", "--tenant", "acme"], ["dev", folder + "/none", "--tenant", "acme"]):
        assert node.cli(*words).returncode == 2, words


def local(base):
    """`bulkhead invoke --local`: a folder's function is run once, on a node that is there for the call alone."""
    folder, place = os.path.join(base, "once"), os.path.join(base, "place")
    os.mkdir(folder)
    os.mkdir(place)
    os.chmod(base, 0o755)
    with open(os.path.join(folder, "function.yaml"), "w") as file:
        file.write(python("once"))
    with open(os.path.join(folder, "main.py"), "w") as file:
        file.write("import time\ndef handler(event, context):\n    print(f'got {event}')\n    if event == 2: raise ValueError('two')\n"
                   "    if event == 3: time.sleep(60)\n    return event\n")

    def start(*words, **more):
        return subprocess.Popen(
            [os.path.join(BIN, "bulkhead"), "invoke", "--local", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": place, **more})

    def run(*words, **more):
        process = start(*words, **more)
        out, error = process.communicate(timeout=60 * PATIENCE)
        assert os.listdir(place) == [], (words, os.listdir(place), error)
        return process.returncode, out.decode(), error.decode()
    assert run(folder, "--data", "1") == (0, "1", "got 1\n")
    status, out, error = run(folder, "--data", "2")
    assert status == 1 and out == "" and "got 2" in error and "ValueError: two" in error, (status, out, error)
    assert run(folder + "/none", "--data", "1")[0] == 2
    assert run(folder, "--data", "1", "--async")[0] == 2
    status, out, error = run(folder, "--data", "1", BULKHEAD_SPAWNER="/bin/false")
    assert status == 1 and "did not start" in error and len(error.split(":", 2)[2].strip()) > 20, (status, out, error)
    with open(os.path.join(folder, "function.yaml"), "a") as file:
        file.write("color: blue\n")
    status, out, error = run(folder, "--data", "1")
    assert status == 2 and "color" in error, (status, out, error)
    with open(os.path.join(folder, "function.yaml"), "w") as file:
        file.write(python("once", "timeout: 60s\n"))
    process = start(folder, "--data", "3")
    wait_for(lambda: workers_of(place) > 0, 30, "the function's node")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(60 * PATIENCE) == 130
    assert os.listdir(place) == [] and workers_of(place) == 0


def workers_of(place):
    """How many processes were started from a node's folder below the place."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                count += f"{place}/bulkhead-local-".encode() in file.read()
        except OSError:
            continue
    return count


class Follower:
    """`bulkhead logs -f --json`, read as it goes."""

    def __init__(self, node, *words):
        self.process = subprocess.Popen(
            [os.path.join(BIN, "bulkhead"), "logs", *words, "-f", "--json", "--state", node.state], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.lines, self.notes = [], []
        for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.notes)):
            threading.Thread(target=lambda s=stream, i=into: [i.append(line) for line in s], daemon=True).start()

    def numbers(self):
        texts = [json.loads(line)["text"] for line in list(self.lines)]
        return [int(text.split()[0][2:]) for text in texts if text.startswith("n=")]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


def main():
    suite = Suite("logs")
    node = Node(CONFIG).start()
    node.deployed(python("writer"), {"main.py": WRITER})

    def write(first, last):
        body = json.dumps({"from": first, "to": last}).encode()
        assert json.loads(node.invoke("writer", body)[2]) == last

    def followed():
        write(0, 3)
        follower = Follower(node, "acme/writer", "--tail", "2")
        try:
            follow(follower)
        finally:
            follower.process.kill()

    def follow(follower):
        wait_for(lambda: follower.numbers() == [1, 2], what=f"the newest two lines, not {follower.numbers()} {follower.notes}")
        # Short lines: all of them are less than a worker may write at once, and more than the log keeps.
        for start in range(3, LAST, 1000):
            write(start, start + 1000)
            # A follower has read what the next lines push out.
            wait_for(lambda: follower.numbers() == list(range(1, start + 1000)), 60, f"all lines up to {start + 1000}")
        segments = os.listdir(os.path.join(node.state, "data", "logs", "acme"))
        assert "1.jsonl" not in segments, f"the log was rotated: {segments}"
        daemon = int(subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()[0])
        os.kill(daemon, signal.SIGKILL)

        def again():
            try:
                write(LAST, LAST + 7)
                return True
            except (OSError, AssertionError, ValueError):
                return False
        wait_for(again, 60, "the node after its daemon was killed")
        wait_for(lambda: set(range(1, LAST + 7)) <= set(follower.numbers()), 30, f"the lines after it: {follower.numbers()[-3:]}")
        tail = follower.numbers()[:LAST - 1]
        assert tail == list(range(1, LAST)), "each line once, in order"
        assert follower.end() == 0
        assert not any(b"removed" in note for note in follower.notes), follower.notes

    def chosen():
        status, headers, _ = node.invoke("writer", b'{"from": 20000, "to": 20002}')
        assert status == 200
        invocation = next(value for key, value in headers.items() if key.lower() == "bulkhead-invocation-id")

        def texts(*words):
            run = node.cli("logs", "acme/writer", "--json", *words)
            assert run.returncode == 0, run.stderr
            return [json.loads(line)["text"].split()[0] for line in run.stdout.splitlines()]
        wait_for(lambda: texts("--invocation", invocation) == ["n=20000", "n=20001"], what="the lines of one invocation")
        assert texts("--grep", "n=20001") == ["n=20001"]
        assert texts("--since", "1m", "--grep", "n=20001") == ["n=20001"]
        assert texts("--until", "-1m") == [] and texts("--since", "now") == []
        assert texts("--level", "error") == [] and texts("--level", "debug", "--tail", "1") == ["n=20001"]
        # All since a time, more than one answer holds.
        assert len(texts("--since", "1h")) > 1500
        for words in (["--level", "loud"], ["-f", "--until", "now"], ["--since", "yesterday"]):
            assert node.cli("logs", "acme/writer", *words).returncode == 2, words

    def failed():
        node.deployed(python("fails", "timeout: 2s\n"), {"main.py": "import time\ndef handler(event, context):\n    if event == 1: time.sleep(9)\n"
                                                                "    def deep(): raise KeyError('line one\\nline two')\n    deep()\n"})

        def told(body, status):
            got, headers, _ = node.invoke("fails", body)
            assert got == status, got
            said = node.cli("logs", "acme/fails", "--json", "--invocation", headers["Bulkhead-Invocation-Id"]).stdout
            lines = [json.loads(line) for line in said.splitlines()]
            assert all(line["stream"] == "supervisor" and line["level"] == "error" for line in lines), lines
            return [line["text"] for line in lines]
        error = told(b"2", 500)
        assert error[0].startswith("KeyError: ") and any("in deep" in line for line in error), error
        assert not any("\\x0a" in line for line in error), error
        assert told(b"1", 504) == ["the function ran past its timeout"]
        for words in (["logs", "acme/nothere"], ["events", "acme/nothere"], ["dead-letters", "acme/nothere"], ["dead-letters", "redrive", "acme/nothere"]):
            run = node.cli(*words)
            assert run.returncode == 2 and b"there is no function acme/nothere" in run.stderr, (words, run)

    def by_time():
        # Two tenants' failures in one list, as the operator sees it: by the time of their ends, each with its tenant, version, outcome and reason.
        node.deployed(python("breaks"), {"main.py": "def handler(event, context):\n    raise ValueError('why it broke')\n"}, tenant="globex")
        ids = []
        for name, tenant, body, wanted in (("breaks", "globex", b"1", 500), ("fails", "acme", b"1", 504), ("breaks", "globex", b"2", 500)):
            status, headers, _ = node.invoke(name, body, tenant)
            assert status == wanted, status
            ids.append(headers["Bulkhead-Invocation-Id"])

        def failures(*words):
            page = node.json("failures", *words)
            return [row for row in page["failures"] if row["invocation"] in ids]
        wait_for(lambda: len(failures("--since", "1h", "--limit", "1000")) == 3, 30, "the failed calls of both tenants")
        rows = failures("--limit", "1000")
        assert [row["invocation"] for row in rows] == ids, (rows, ids)
        assert [(row["tenant"], row["function"], row["version"], row["outcome"]) for row in rows] == [
            ("globex", "breaks", 1, "functionError"), ("acme", "fails", 1, "timedOut"), ("globex", "breaks", 1, "functionError")], rows
        assert all(row["arrivedAt"] <= row["failedAt"] for row in rows), rows
        assert [row["invocation"] for row in failures("globex")] == [ids[0], ids[2]]
        assert [row["invocation"] for row in failures("--outcome", "timedOut")] == [ids[1]]
        assert failures("acme/writer") == [] and failures("--until", "-1h") == []
        assert len(node.json("failures", "--limit", "1")["failures"]) == 1 and node.json("failures", "--limit", "1")["more"]
        text = node.cli("failures", "acme/fails").stdout.decode()
        assert f"acme/fails@1  {ids[1]}  timedOut" in text, text
        assert b"these may not be all" in node.cli("failures", "--limit", "1").stderr
        for words, said in ((["acme/nothere"], b"there is no function acme/nothere"), (["--since", "now", "--until", "-1m"], b"--until '-1m' is before --since 'now'"),
                            (["--outcome", "ok"], b"--outcome is one of"), (["--limit", "0"], b"--limit is a number")):
            run = node.cli("failures", *words)
            assert run.returncode == 2 and said in run.stderr, (words, run)

    def together():
        # Two tenants' lines in one list, as the operator sees it, by the time they were written.
        node.deployed(python("writer"), {"main.py": WRITER}, tenant="globex")
        ids = []
        for number, tenant in ((700000, "acme"), (700001, "globex"), (700002, "acme")):
            status, headers, _ = node.invoke("writer", json.dumps({"from": number, "to": number + 1}).encode(), tenant)
            assert status == 200, status
            ids.append(headers["Bulkhead-Invocation-Id"])
            # A line is read from its worker's pipe beside the answer: the next one is written when this one is there.
            wait_for(lambda: f"n={number}".encode() in node.cli("logs", tenant, "--grep", f"n={number}").stdout, 30, f"line {number}")

        def lines(*words):
            run = node.cli("logs", "--json", "--grep", "n=70000", *words)
            assert run.returncode == 0, run
            return [(line["tenant"], line["function"], line["text"]) for line in map(json.loads, run.stdout.splitlines())], run.stderr
        wanted = [("acme", "writer", "n=700000"), ("globex", "writer", "n=700001"), ("acme", "writer", "n=700002")]
        assert lines() == (wanted, b"") and lines("--since", "1h") == (wanted, b""), (lines(), lines("--since", "1h"))
        newest, said = lines("--tail", "2")
        assert newest == wanted[1:] and b"these may not be all" in said and b"a tenant, or a higher --tail" in said, (newest, said)
        assert lines("--invocation", ids[1])[0] == wanted[1:2]
        assert lines("--until", "-1h")[0] == [] and lines("--level", "error")[0] == []
        text = node.cli("logs", "--grep", "n=700001").stdout.decode()
        assert " globex/writer@1 w-" in text and text.endswith(" stdout n=700001\n"), text
        assert b'"tenant"' not in node.cli("logs", "acme", "--json", "--grep", "n=700000").stdout, "who asks for a tenant's knows whose they are"
        # No key is one of the operator's.
        key = node.json("keys", "create", "--tenant", "globex", "--scope", "admin")["key"]
        for headers, wanted in (({}, 401), ({"Authorization": f"Bearer {key}"}, 404)):
            assert node.request("GET", "/v1/logs", headers=headers)[0] == wanted
        for words, said in ((["-f"], b"-f follows one tenant or function: name it"), (["--since", "now", "--until", "-1m"], b"--until '-1m' is before --since 'now'"),
                            (["--invocation", "x"], b"--invocation is"), (["--tail", "10001"], b"--tail is at most"), (["--level", "loud"], b"--level")):
            run = node.cli("logs", *words)
            assert run.returncode == 2 and said in run.stderr, (words, run)

    def alone():
        with tempfile.TemporaryDirectory(dir=node.base) as folder:
            local(folder)

    def bounded():
        folder = os.path.join(node.state, "data", "logs", "acme")
        size = sum(os.stat(os.path.join(folder, name)).st_size for name in os.listdir(folder))
        assert size <= 1 << 20, f"{size} bytes are kept of a bound of 1 MiB"

    def developed():
        with tempfile.TemporaryDirectory(dir=node.base) as folder:
            work_on(node, folder)

    def unreachable():
        node.stop()
        run = node.cli("logs", "acme", "-f")
        assert run.returncode == 4, "a follower that was never answered does not wait"

    suite.check("a follower gets every line once, through rotation and a restart, and ends with 0", followed)
    suite.check("lines are found by invocation, text, time and level", chosen)
    suite.check("a tenant's log stays within its bound", bounded)
    suite.check("dev deploys a folder, shows its logs, deploys each change, and goes on after a mistake", developed)
    suite.check("a failed invocation leaves its error, its place and its timeout in the log; a wrong name is told", failed)
    suite.check("failed calls of all tenants are listed by time, with tenant, version, outcome and reason", by_time)
    suite.check("lines of all tenants are listed by time, with their tenant, for the operator alone", together)
    suite.check("invoke --local runs a folder once, on a node of its own, and leaves nothing", alone)
    suite.check("without a node the command says so", unreachable)
    left = node.leftovers()
    suite.check("nothing is left", lambda: (_ for _ in ()).throw(AssertionError(left)) if left else None)
    node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
