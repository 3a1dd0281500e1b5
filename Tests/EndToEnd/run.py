#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""End to end: a real spawner, daemon and workers on this host, asked as a user asks."""
import ctypes
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import BIN, PACE, PATIENCE, ROOT, TENANTS, Node, Suite, beside, python, wait_for  # noqa: E402

HELLO = "import os\ndef handler(event, context):\n    return {'event': event, 'function': context.function, 'pid': os.getpid()}\n"


def seconds(number):
    """A manifest's line for that much time, or more where callers and interpreters are slower."""
    return f"timeout: {round(number * 1000)}ms\n"


def native(folder):
    """The program of native.c, made here; where there is no compiler it lies beside its source."""
    here = os.path.dirname(os.path.abspath(__file__))
    made = os.path.join(here, "native")
    if not os.path.exists(made):
        made = os.path.join(folder, "native")
        subprocess.run(["cc", "-O1", "-static", "-o", made, os.path.join(here, "native.c"), "-I", os.path.join(ROOT, "Sandbox/runtimes/native")], check=True)
    with open(made, "rb") as file:
        return file.read()


def problem(answer, status, code):
    got, headers, body = answer
    value = json.loads(body)
    assert got == status, f"status {got} instead of {status}: {body[:300]}"
    assert headers["Content-Type"] == "application/problem+json", headers
    assert value["code"] == code, f"code {value['code']} instead of {code}: {value}"
    return value


def archive(entries, mode="w"):
    """A tar of (name, type, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content
                tar.addfile(info)
            elif kind == tarfile.REGTYPE:
                data = content if isinstance(content, bytes) else content.encode()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                tar.addfile(info)
    return out.getvalue()


def main():
    suite = Suite("end to end")
    node = Node(TENANTS).start()
    try:
        happy(suite, node)
        handlers(suite, node)
        limits(suite, node)
        intake(suite, node)
        protocol(suite, node)
        deaths(suite, node)
    finally:
        suite.check("the node stops and leaves nothing", lambda: stops(node))
        node.remove()
    starts(suite)
    return suite.close()


def stops(node):
    node.stop()
    wait_for(lambda: not node.leftovers(), 5, f"an empty host, left are {node.leftovers()}")


def happy(suite, node):
    def runtimes():
        assert node.deployed(python("hello"), {"main.py": HELLO}) == "acme/hello@1"
        status, headers, body = node.invoke("hello", b'{"a": 1}')
        assert status == 200 and json.loads(body)["event"] == {"a": 1}, body
        assert headers["Bulkhead-Start"] in ("prewarmed", "cold") and len(headers["Bulkhead-Invocation-Id"]) == 32, headers
        assert node.invoke("hello", b"{}")[1]["Bulkhead-Start"] == "warm"
        node.deployed("function: shell\nruntime: command\nhandler: [./run.sh, word]\n", {"run.sh": "#!/bin/sh\necho \"$1:$(cat)\"\n"})
        assert node.invoke("shell", b"text")[2] == b"word:text\n"
        node.deployed("function: native\nruntime: native\nhandler: ./program\nmemory: 16MiB\n", {"program": native(node.base)})
        assert node.invoke("native", b"echo")[2] == b"echo"
    suite.check("python, command and native functions answer", runtimes)

    def calls():
        node.deployed(python("asks"), {"main.py": "def handler(e, c):\n    return c.call('hello', {'from': 'python'})\n"})
        assert json.loads(node.invoke("asks", b"1")[2])["event"] == {"from": "python"}
    suite.check("a function calls another", calls)

    def nodejs():
        if not shutil.which("node"):
            return "there is no Node.js here"
        node.deployed("function: jello\nruntime: nodejs\nhandler: index.handler\nmemory: 128MiB\n",
                      {"index.js": "exports.handler = async (e, c) => ({e, f: c.function, call: await c.call('hello', {from: 'node'})});"})
        value = json.loads(node.invoke("jello", b'{"b": 2}')[2])
        assert value["e"] == {"b": 2} and value["call"]["event"] == {"from": "node"}, value
    suite.check("a nodejs function answers, and calls another", nodejs)

    def versions():
        assert node.deployed(python("hello"), {"main.py": HELLO.replace("'event'", "'second'")}) == "acme/hello@2"
        assert "second" in json.loads(node.invoke("hello", b"1")[2])
        assert "event" in json.loads(node.invoke("hello@1", b"1")[2])
        rows = node.json("versions", "acme/hello")
        assert [r["version"] for r in rows] == [1, 2] and rows[0]["codeHash"] != rows[1]["codeHash"], rows
        assert {r["function"] for r in node.json("functions")} >= {"hello", "shell", "native"}
    suite.check("versions are numbered, kept and addressable", versions)

    def two_tenants():
        node.deployed(python("hello"), {"main.py": HELLO}, tenant="globex")
        assert json.loads(node.invoke("hello", b"1", tenant="globex")[2])["function"] == "globex/hello"
        problem(node.invoke("shell", b"1", tenant="globex"), 404, "notFound")
        node.deployed(python("caller"), {"main.py": "def handler(e, c):\n    return c.call('acme/hello', 1)\n"}, tenant="globex")
        value = problem(node.invoke("caller", b"1", tenant="globex"), 500, "functionError")
        assert value["errorType"] == "CallError", value
    suite.check("nothing crosses tenants", two_tenants)

    def listing():
        rows = [r for r in node.json("ps") if r["tenant"] == "acme" and r["function"] == "hello"]
        assert rows and rows[0]["pid"] > 0 and rows[0]["uid"] > 1000 and rows[0]["memoryLimitBytes"] == 96 << 20, rows
        assert os.path.isdir(f"/proc/{rows[0]['pid']}")
        for row in node.json("ps"):
            report = node.json("inspect", row["worker"])
            assert report["score"] == 0 and not report["holes"] and len(report["checks"]) > 40, report["holes"]
        uids = [r["uid"] for r in node.json("ps")]
        assert len(set(uids)) == len(uids), "two workers share a uid"
        text = node.cli("ps").stdout.decode()
        assert text.startswith("WORKER") and "acme" in text, text
    suite.check("ps lists, and inspect finds no hole in any live worker", listing)

    def explained():
        identity = node.invoke("hello", b"1")[1]["Bulkhead-Invocation-Id"]
        words = [e["decision"] for e in node.json("explain", identity)["entries"] if e["decision"] not in ("rate", "budget")]
        assert words == ["arrived", "seat", "dispatched", "replied"], words
        assert node.cli("explain", identity).returncode == 0
        assert node.cli("explain", "0" * 32).returncode != 0
    suite.check("explain tells every decision", explained)

    def streaming():
        node.deployed(python("stream"), {"main.py": "def handler(e, c):\n    for i in range(3):\n        yield f'part {i}\\n'\n"})
        status, headers, body = node.invoke("stream", b"1")
        assert status == 200 and body == b"part 0\npart 1\npart 2\n" and "Content-Length" not in headers, (headers, body)
    suite.check("answers stream in chunks", streaming)

    def commands():
        run = node.cli("invoke", "acme/hello", "--data", '{"x": 1}')
        assert run.returncode == 0 and json.loads(run.stdout)["second"] == {"x": 1}, run
        node.deployed(python("fails"), {"main.py": "def handler(e, c):\n    raise ValueError('broken on purpose')\n"})
        run = node.cli("invoke", "acme/fails", "--data", "1")
        assert run.returncode == 1 and b"broken on purpose" in run.stderr and run.stdout == b"", run
        run = node.cli("invoke", "acme/fails", "--data", "1", "--json")
        assert run.returncode == 1 and json.loads(run.stderr)["code"] == "functionError", run.stderr
        assert node.cli("invoke", "not a function").returncode == 2
        assert subprocess.run([os.path.join(BIN, "bulkhead"), "ps", "--state", "/var/tmp/no-such-node"], capture_output=True).returncode == 4
    suite.check("the CLI's exit codes and outputs are as promised", commands)

    def keys():
        made = node.json("keys", "create", "--tenant", "globex", "--scope", "invoke")
        problem(node.invoke("hello", b"1", tenant="globex"), 401, "unauthorized")
        bearer = {"Authorization": "Bearer " + made["key"]}
        assert node.invoke("hello", b"1", tenant="globex", headers=bearer)[0] == 200
        problem(node.invoke("hello", b"1", tenant="acme", headers=bearer), 404, "notFound")
        problem(node.request("GET", "/v1/tenants/globex/keys", headers=bearer), 403, "forbidden")
        problem(node.invoke("hello", b"1", tenant="globex", headers={"Authorization": "Bearer bh_wrong"}), 401, "unauthorized")
        assert node.cli("keys", "revoke", made["id"], "--tenant", "globex").returncode == 0
        problem(node.invoke("hello", b"1", tenant="globex", headers=bearer), 401, "unauthorized")
        with open(os.path.join(node.state, "data", "bulkhead.sqlite"), "rb") as file:
            assert made["key"].encode() not in file.read(), "the key itself is stored"
    suite.check("keys open one tenant, within their scope, until they are revoked", keys)


def handlers(suite, node):
    cases = [
        ("a missing function", {"main.py": "x = 1\n"}, "initError", "no function 'handler'"),
        ("a syntax error", {"main.py": "def handler(e, c):\n    return (\n"}, "initError", "main.py, line"),
        ("an import that fails", {"main.py": "import nothing_like_this\n"}, "initError", "nothing_like_this"),
        ("an answer that is too long", {"main.py": "def handler(e, c):\n    return 'x' * (9 << 20)\n"}, "functionError", "8388608"),
        ("an answer that is no JSON", {"main.py": "def handler(e, c):\n    return object()\n"}, "functionError", "not JSON serializable"),
    ]
    for index, (name, files, code, text) in enumerate(cases):
        def body(index=index, files=files, code=code, text=text):
            node.deployed(python(f"bad-{index}"), files)
            value = problem(node.invoke(f"bad-{index}", b"1"), 500, code)
            assert text in value["detail"], value["detail"]
        suite.check(f"handler with {name}", body)

    def refused(*cases):
        for manifest, files, text in cases:
            run = node.deploy(manifest, files)
            assert run.returncode != 0 and text in run.stderr.decode(), (run.returncode, run.stderr)
        assert not [row for row in node.json("functions") if row["function"] == "absent"], "something was deployed"

    def missing():
        refused(
            (python("absent"), {"other.py": ""}, "no file main.py"),
            ("function: absent\nruntime: native\nhandler: ./main\n", {"program": b"\x7fELF"}, "no file ./main"),
            ("function: absent\nruntime: native\nhandler: ./main\n", {"main": "text"}, "chmod +x ./main"),
        )
    suite.check("a handler that the archive has not is refused at deploy, by its name", missing)

    def script():
        if not shutil.which("node"):
            return "there is no Node.js here"
        refused(("function: absent\nruntime: nodejs\nhandler: index.handler\nmemory: 96MiB\n", {"main.js": ""}, "no file index.js"))
    suite.check("a script of Node.js that the archive has not is refused as well", script)

    def hardly_meant():
        extra = "calls: [nobody]\ncpu: 64\n"
        run = node.deploy(python("odd", extra), {"main.py": HELLO})
        told = run.stderr.decode()
        assert run.returncode == 0 and run.stdout.decode().startswith("acme/odd@"), (run.stdout, told)
        assert "warning: `calls` names nobody" in told and "warning: `cpu: 64` is more than" in told, told
        run = node.deploy(python("odd", "calls: [odder]\n"), {"main.py": HELLO})
        assert "names odder" in run.stderr.decode(), run.stderr
        assert not node.deploy(python("plain"), {"main.py": HELLO}).stderr, "a warning without a reason"
    suite.check("what a manifest hardly means is told at deploy, as a warning", hardly_meant)

    def unstartable():
        for name, program, text in (
            ("alien", b"\x7fELF" + bytes(60), "/function/main: Exec format error"),
            ("headless", b"#!/no/such/interpreter\n", "/function/main: No such file or directory"),
        ):
            node.deployed(f"function: {name}\nruntime: native\nhandler: ./main\nmemory: 16MiB\n", {"main": program})
            value = problem(node.invoke(name, b"1"), 500, "initError")
            assert text in value["detail"] and "stage" not in value["detail"], value["detail"]
    suite.check("a program that cannot be executed is told by its name, in words", unstartable)

    def exits():
        node.deployed(python("exits"), {"main.py": "import os\ndef handler(e, c):\n    os._exit(7)\n"})
        value = problem(node.invoke("exits", b"1"), 502, "crashed")
        assert "exited with code 7" in value["detail"], value
    suite.check("a handler that exits is a crash with its code", exits)

    def hangs():
        node.deployed(python("hangs", seconds(0.5 * PATIENCE)), {"main.py": "import time\ndef handler(e, c):\n    time.sleep(60)\n"})
        begin = time.monotonic()
        problem(node.invoke("hangs", b"1"), 504, "timedOut")
        assert time.monotonic() - begin < 5 * PATIENCE
    suite.check("a handler that never returns is answered at its deadline", hangs)

    def stubborn():
        node.deployed(python("stubborn", seconds(0.3 * PATIENCE)), {
            "main.py": "import signal\ndef handler(e, c):\n    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n    while True: pass\n"})
        problem(node.invoke("stubborn", b"1"), 504, "timedOut")
        wait_for(lambda: not [r for r in node.json("ps") if r["function"] == "stubborn"], 10, "the end of the stubborn worker")
        problem(node.invoke("stubborn", b"1"), 504, "timedOut")
    suite.check("one that ignores its cancel is killed, and the next call gets a new worker", stubborn)

    raw = "import os, socket, struct, time\ns = socket.socket(fileno=os.dup(3))\ndef frame(k, slot, fields):\n    b = b''.join(struct.pack('<BI', t, len(v)) + v for t, v in fields)\n    return struct.pack('<IBBH', 4 + len(b), k, 0, slot) + b\n"
    breaches = {
        "closes fd 3": ("def handler(e, c):\n    s.shutdown(2); os.close(3); time.sleep(30)\n", "closed its connection"),
        "sends garbage": ("def handler(e, c):\n    s.sendall(b'\\xff' * 64); time.sleep(30)\n", "broke the worker protocol"),
        "sends a frame that is too long": ("def handler(e, c):\n    s.sendall(struct.pack('<IBBH', 100 << 20, 6, 0, 0)); time.sleep(30)\n", "longer than"),
        "speaks as the supervisor": ("def handler(e, c):\n    s.sendall(frame(5, 0, [])); time.sleep(30)\n", "only the supervisor"),
    }
    for index, (name, (code, text)) in enumerate(breaches.items()):
        def body(index=index, code=code, text=text):
            node.deployed(python(f"breach-{index}"), {"main.py": raw + code})
            value = problem(node.invoke(f"breach-{index}", b"1"), 502, "crashed")
            assert text in value["detail"], value["detail"]
        suite.check(f"a worker that {name} is ended and said to be", body)

    def twice():
        node.deployed(python("twice"), {"main.py": raw + "def handler(e, c):\n    s.sendall(frame(6, 0, [(23, b'first')]))\n    return 'second'\n"})
        assert node.invoke("twice", b"1")[2] == b"first"
        assert node.invoke("hello", b"1")[0] == 200
    suite.check("of two answers the first counts", twice)

    def descriptors():
        node.deployed(python("attaches"), {"main.py": raw + "def handler(e, c):\n    socket.send_fds(s, [frame(9, 0, [(27, b'with descriptors')])], [1, 2, 0])\n    return 'ok'\n"})
        daemon = int(subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()[0])
        node.invoke("attaches", b"1")
        before = len(os.listdir(f"/proc/{daemon}/fd"))
        for _ in range(100):
            assert node.invoke("attaches", b"1")[0] == 200
        # 300 were sent. The daemon may take a few of its own meanwhile: three for each spare that is refilled.
        after = len(os.listdir(f"/proc/{daemon}/fd"))
        assert after < before + 50, f"{before} descriptors before, {after} after"
    suite.check("descriptors attached to a frame are never received", descriptors)

    def flood():
        node.deployed(python("flood", seconds(2 * PACE)), {
            "main.py": "import os\ndef handler(e, c):\n    block = b'x' * 1000 + b'\\n'\n    while True: os.write(1, block * 60)\n"})
        done = threading.Thread(target=lambda: node.invoke("flood", b"1"))
        done.start()
        latencies = []
        while done.is_alive():
            begin = time.monotonic()
            assert node.invoke("hello", b"1")[0] == 200
            latencies.append(time.monotonic() - begin)
        done.join()
        assert sorted(latencies)[len(latencies) // 2] < 0.5 * PATIENCE, latencies
        lines = node.json_lines("logs", "acme/flood", "--tail", "2000")
        assert any("dropped" in l["text"] for l in lines), "the flood is not said to be truncated"
        assert sum(len(l["text"]) for l in lines) < 4 << 20
    Node.json_lines = lambda self, *words: [json.loads(l) for l in self.cli(*words, "--json").stdout.splitlines()]
    suite.check("a log flood is cut, said to be, and hurts nobody", flood)

    def frames():
        node.deployed(python("chatty", seconds(2 * PACE)), {
            "main.py": "def handler(e, c):\n    while True: c.logger.info('x' * 1000)\n"})
        done = threading.Thread(target=lambda: node.invoke("chatty", b"1"))
        done.start()
        latencies = []
        while done.is_alive():
            begin = time.monotonic()
            assert node.invoke("hello", b"1")[0] == 200
            latencies.append(time.monotonic() - begin)
        done.join()
        assert sorted(latencies)[len(latencies) // 2] < 0.5 * PATIENCE, latencies
        lines = node.json_lines("logs", "acme/chatty", "--tail", "5000")
        assert any("structured log lines dropped" in l["text"] for l in lines), len(lines)
    suite.check("a flood of structured log lines is cut, and hurts nobody", frames)

    def slow_reader():
        node.deployed(python("torrent", seconds(20 * PATIENCE)), {
            "main.py": "def handler(e, c):\n    for _ in range(150):\n        yield b'x' * (1 << 20)\n"})
        daemon = int(subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()[0])

        def resident():
            return int(open(f"/proc/{daemon}/status").read().split("VmRSS:")[1].split()[0]) >> 10
        host, port = node.http.split(":")
        before = resident()
        with socket.create_connection((host, int(port)), timeout=20 * PATIENCE) as connection:
            connection.sendall(b"POST /v1/tenants/acme/functions/torrent/invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1")
            wait_for(lambda: [r for r in node.json("ps") if r["function"] == "torrent" and r["state"] == "busy"], 10, "a busy worker")
            most = 0
            for _ in range(20):  # the caller reads nothing meanwhile
                most = max(most, resident())
                assert node.invoke("hello", b"1")[0] == 200
                time.sleep(0.05)
            total = 0
            while data := connection.recv(1 << 20):
                total += len(data)
        assert total > 150 << 20, total
        assert most - before < 64, f"the daemon grew from {before} to {most} MiB for one caller who does not read"
    suite.check("a caller who does not read makes the worker wait, not the daemon grow", slow_reader)

    def escaped():
        node.deployed(python("escape"), {"main.py": "import os\ndef handler(e, c):\n    os.write(1, b'\\x1b[2Jred\\x07 \\xff\\n')\n    return 1\n"})
        node.invoke("escape", b"1")
        text = wait_for(lambda: node.cli("logs", "acme/escape").stdout, 5, "the log")
        assert b"\x1b" not in text and b"\x07" not in text and b"red" in text, text
    suite.check("control characters in a log reach no terminal", escaped)


def limits(suite, node):
    def seats():
        node.deployed(python("slow", "maxConcurrency: 2\nworkers: {max: 2}\ntimeout: 30s\n"), {"main.py": "import time\ndef handler(e, c):\n    time.sleep(e)\n    return 1\n"})

        def at_once(count):
            answers = []
            threads = [threading.Thread(target=lambda: answers.append(node.invoke("slow", b"%g" % (3 if PATIENCE == 1 else 0.7 * PACE)))) for _ in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return answers
        at_once(2)  # both workers are there now
        answers = at_once(12)
        refused = [a for a in answers if a[0] == 429]
        assert len([a for a in answers if a[0] == 200]) == 6 and len(refused) == 6, sorted(a[0] for a in answers)
        value = problem(refused[0], 429, "throttled")
        assert value["level"] == "function" and value["ceiling"] == "concurrency" and value["limit"] == 2, value
        assert int(refused[0][1]["Retry-After"]) >= 1
    suite.check("a function at its cap queues to the bound, then refuses with level, limit and Retry-After", seats)

    def cli_refused():
        # Two that run until the one has been refused, and four that wait for them.
        threads = [threading.Thread(target=lambda sleep=sleep: node.invoke("slow", sleep)) for sleep in [b"%g" % max(8, PATIENCE)] * 2 + [b"0"] * 4]
        for thread in threads[:2]:
            thread.start()
        node.until("acme", 2)
        for thread in threads[2:]:
            thread.start()
        wait_for(lambda: [r for r in node.json("tenants") if r["tenant"] == "acme" and r["queued"] >= 4], 10, "a full queue")
        assert node.cli("invoke", "acme/slow", "--data", "1").returncode == 3
        for thread in threads:
            thread.join()
    suite.check("a refusal is exit code 3", cli_refused)

    def memory():
        node.deployed(python("memory").replace("96MiB", "48MiB"), {"main.py": "def handler(e, c):\n    x = bytearray(200 << 20)\n    return len(x)\n"})
        value = problem(node.invoke("memory", b"1"), 507, "outOfMemory")
        # The kernel counts in pages of every processor: nearly all of it.
        used = re.search(r"used (4[2-8](?:\.\d)?) of 48 MiB$", value["detail"])
        assert used, value
        sentence = f"used {used[1]} of 48 MiB"
        entries = node.json("explain", value["invocation"])["entries"]
        assert entries[-1]["decision"] == "replied" and entries[-1]["detail"].endswith(sentence), entries
        wait_for(lambda: sentence in node.cli("logs", "acme/memory").stdout.decode(), 10, "the worker's end in the log")
        told = node.cli("invoke", "acme/memory", "--data", "1")
        assert told.returncode == 1 and re.search(r"used [\d.]+ of 48 MiB; raise memory in function.yaml", told.stderr.decode()), told.stderr
        assert node.invoke("hello", b"1")[0] == 200
    suite.check("a memory bomb is out of memory at its own limit", memory)

    def processes():
        node.deployed(python("forks", "processes: 20\n"), {"main.py": "import os, time\ndef handler(e, c):\n    n = 0\n    try:\n        while True:\n            if os.fork() == 0: time.sleep(60)\n            n += 1\n    except OSError as error:\n        return [n, error.errno]\n"})
        count, error = json.loads(node.invoke("forks", b"1")[2])
        assert count < 20 and error == 11, (count, error)
    suite.check("a fork bomb meets its process limit", processes)

    def too_big():
        run = node.deploy(python("huge").replace("96MiB", "8GiB"), {"main.py": HELLO})
        assert run.returncode != 0 and b"more memory" in run.stderr, run.stderr
    suite.check("a function that can never fit is refused at its deploy", too_big)

    def storage():
        run = node.deploy(python("stored"), {"main.py": HELLO, "data": os.urandom(3 << 20)}, tenant="globex")
        assert run.returncode != 0 and b"quota: storage" in run.stderr, run.stderr
        run = node.deploy(python("starved").replace("96MiB", "10MiB"), {"main.py": HELLO})
        assert run.returncode != 0 and b"at least 24MiB" in run.stderr, run.stderr
    suite.check("code beyond the tenant's storage, and memory below the runtime's own, are refused", storage)

    def idle():
        node.deployed(python("idle", "workers: {idle: 300ms}\n"), {"main.py": HELLO})
        node.invoke("idle", b"1")
        wait_for(lambda: not [r for r in node.json("ps") if r["function"] == "idle"], 10, "the end of the idle worker")
    suite.check("idle workers end", idle)

    def kills():
        node.deployed(python("traced"), {"main.py": "import ctypes\ndef handler(e, c):\n    ctypes.CDLL(None).syscall(169, 0, 0, 0, 0)\n    return 1\n"})
        value = problem(node.invoke("traced", b"1"), 502, "crashed")
        assert "system call reboot" in value["detail"], value
    suite.check("a call that ends a worker is named", kills)

    def leaves():
        node.deployed(python("waits", "timeout: 600s\n"), {"main.py": f"import time\ndef handler(e, c):\n    time.sleep({60 * PATIENCE})\n    return 1\n"})
        host, port = node.http.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/tenants/acme/functions/waits/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
            wait_for(lambda: [r for r in node.json("ps") if r["function"] == "waits" and r["state"] == "busy"], 10, "a busy worker")
        wait_for(lambda: [r for r in node.json("ps") if r["function"] == "waits" and r["state"] == "ready"], 20, "the cancel of a caller who left")
    suite.check("a caller who leaves is cancelled", leaves)


def intake(suite, node):
    manifest = python("intake")
    good = [("function.yaml", tarfile.REGTYPE, manifest), ("main.py", tarfile.REGTYPE, HELLO)]
    hostile = {
        "a path with ..": (good + [("../escape", tarfile.REGTYPE, "x")], "leaves the function's folder"),
        "an absolute path": (good + [("/etc/escape", tarfile.REGTYPE, "x")], "absolute"),
        "a link out": (good + [("link", tarfile.SYMTYPE, "../../../etc/passwd")], "outside the function's folder"),
        "an absolute link": (good + [("link", tarfile.SYMTYPE, "/etc/passwd")], "outside the function's folder"),
        "a file through a link": (good + [("a", tarfile.SYMTYPE, "."), ("a/b", tarfile.REGTYPE, "x")], "both a file or link and a folder"),
        "a device": (good + [("null", tarfile.CHRTYPE, None)], "devices, pipes and sockets"),
        "a fifo": (good + [("pipe", tarfile.FIFOTYPE, None)], "devices, pipes and sockets"),
        "a file twice": (good + [("main.py", tarfile.REGTYPE, "x")], "twice"),
        "no manifest": (good[1:], "no file function.yaml"),
        "a manifest that is a link": ([("function.yaml", tarfile.SYMTYPE, "main.py"), good[1]], "no file function.yaml"),
        "control characters in a name": (good + [("a\x1b[2J", tarfile.REGTYPE, "x")], "control characters"),
        "too many entries": (good + [(f"f{i}", tarfile.REGTYPE, "") for i in range(20_001)], "more than 20000 entries"),
    }
    for name, (entries, text) in hostile.items():
        def body(entries=entries, text=text):
            value = problem(node.request("PUT", "/v1/tenants/acme/functions", archive(entries)), 422, "badArchive" if "function.yaml" not in text else "badManifest")
            assert text in value["detail"], value["detail"]
            assert "\x1b" not in value["detail"]
            assert not os.listdir(os.path.join(node.state, "data", "incoming")), "something was left of a refused upload"
        suite.check(f"archive with {name}", body)

    def bomb():
        data = archive(good + [("zeros", tarfile.REGTYPE, bytes(120 << 20))], "w:gz")
        value = problem(node.request("PUT", "/v1/tenants/acme/functions", data), 422, "badArchive")
        assert "times its size" in value["detail"], value
    suite.check("a decompression bomb", bomb)

    def garbage():
        for data in (b"not an archive at all" * 50, archive(good)[:700], os.urandom(5000)):
            assert node.request("PUT", "/v1/tenants/acme/functions", data)[0] == 422
        problem(node.request("PUT", "/v1/tenants/acme/functions", b""), 400, "badRequest")
    suite.check("garbage, a torn archive and nothing at all", garbage)

    def formats():
        for mode in ("w", "w:gz", "w:xz"):
            assert node.request("PUT", "/v1/tenants/acme/functions", archive(good, mode))[0] == 201
        assert node.invoke("intake", b"1")[0] == 200
    suite.check("tar, tar.gz and tar.xz", formats)

    def manifests():
        cases = {
            "function: x\nruntime: cobol\nhandler: a.b\n": "function.yaml:2:10",
            "function: x\nruntime: python3\nhandlr: a.b\n": "did you mean `handler`",
            "function: x\nruntime: python3\nhandler: a.b\nmemory: 12 parsecs\n": "function.yaml:4:9",
            "function: x\nfunction: y\n": "twice",
            "function: [\n": "not valid YAML",
            "function: X_Y\nruntime: python3\nhandler: a.b\n": "1-63 characters",
            "function: x\nruntime: command\nhandler: ../../bin/sh\n": "inside the function's folder",
            "function: x\nruntime: python3\nhandler: a.b\ntimeout: 9999999h\n": "timeout",
            "a: &a [x]\nb: *a\n": "anchors and aliases",
        }
        for text, sentence in cases.items():
            run = node.deploy(text, {"main.py": HELLO})
            assert run.returncode != 0 and sentence in run.stderr.decode(), f"{text!r}: {run.stderr.decode()}"
    suite.check("manifests with mistakes are refused with file, line, column and a way out", manifests)


def protocol(suite, node):
    def unknown():
        problem(node.invoke("nothing", b"1"), 404, "notFound")
        problem(node.invoke("hello", b"1", tenant="nobody"), 404, "notFound")
        for headers in ({}, {"Bulkhead-Invocation-Type": "async"}):
            path = "/v1/tenants/acme/functions/hello/invocations?alias=nosuch"
            value = problem(node.request("POST", path, b"1", headers), 404, "notFound")
            assert value["detail"] == "there is no alias nosuch of function acme/hello", value
            value = problem(node.request("POST", path.replace("hello", "nothing"), b"1", headers), 404, "notFound")
            assert value["detail"] == "there is no function acme/nothing", value
        assert problem(node.invoke("hello@99", b"1"), 404, "notFound")["detail"] == "there is no version 99 of function acme/hello"
        problem(node.request("GET", "/v1/nothing"), 404, "notFound")
        for words, text in ((("deplyo", "x"), "did you mean 'bulkhead deploy'?"), (("help", "nosuch"), "'nosuch' is no command")):
            run = node.cli(*words)
            assert run.returncode == 2 and text in run.stderr.decode(), (words, run)
        problem(node.request("GET", "/v1/tenants/acme/functions/hello/invocations"), 405, "methodNotAllowed")
        problem(node.request("GET", "/v1/tenants/ACME/functions"), 400, "badRequest")
        problem(node.request("GET", "/v1/tenants/%zz/functions"), 400, "badRequest")
        for path in ("/v1/workers", "/v1/tenants", "/v1/functions", "/v1/workers/w-1", "/v1/invocations/" + "0" * 32 + "/explain"):
            problem(node.request("GET", path), 401, "unauthorized")  # the whole node is the operator's
        assert node.request("GET", "/healthz")[0] == 200 and node.request("GET", "/readyz")[0] == 200
        assert b"bulkhead_invocations_total" in node.request("GET", "/metrics")[2]
    suite.check("what is not there is said to be, what is malformed too", unknown)

    def sizes():
        exact = b'"' + b"x" * ((6 << 20) - 2) + b'"'
        assert node.invoke("hello", exact)[0] == 200
        problem(node.invoke("hello", exact + b" "), 413, "tooLarge")
        head = b"POST /v1/tenants/acme/functions/hello/invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20))
        assert b" 413 " in node.raw(head + chunk * 7 + b"0\r\n\r\n", 3 * PACE)[:40]
        assert node.invoke("hello", b"1")[0] == 200
    suite.check("a body at the limit passes, one byte more does not", sizes)

    def malformed():
        for text in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 200_000 + b"\r\n\r\n",
                     b"POST /v1/tenants/acme/functions/hello/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"):
            node.raw(text, 1)
        assert node.invoke("hello", b"1")[0] == 200
    suite.check("malformed HTTP ends its connection and nothing else", malformed)

    def pipelined():
        one = b"POST /v1/tenants/acme/functions/hello/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
        out = node.raw(b"".join(one + str(i).encode() for i in range(5)), 2)
        assert [int(n) for n in re.findall(rb'"second": (\d)', out)] == [0, 1, 2, 3, 4], out[-300:]
    suite.check("pipelined requests are answered in order", pipelined)

    def overlapping():
        call = b"POST /v1/tenants/acme/functions/hello/invocations HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\n"
        start = f"PUT /nowhere HTTP/1.1\r\nHost: n\r\nContent-Length: 150\r\nX-Pad: ".encode()
        second = start + b"a" * (150 - len(start) - 4) + b"\r\n\r\n"
        body = b'{}' + b" " * (150 - len(call) - 4) + call + b"{}"
        assert len(second) == len(body) == 150
        host, port = node.http.split(":")
        for late, parts in [(body, 2), (call + b"{}" + b" " * (150 - len(call) - 2), 2)]:
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n" + second)
                out = b""
                while b"\r\n\r\n" not in out:
                    out += connection.recv(65536)
                connection.sendall(late)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65536):
                    out += data
            # What stands in a body is nobody's request, whatever it looks like.
            assert len(re.findall(rb"HTTP/1.1 [2-5]", out)) == parts and b"Bulkhead-Invocation-Id" not in out, out
        connection = socket.create_connection((host, int(port)), timeout=10)
        with connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n" + call)
            out = b""
            while b"\r\n\r\n" not in out:
                out += connection.recv(65536)
            connection.sendall(b"42")
            while out.count(b"HTTP/1.1 200") < 2:
                data = connection.recv(65536)
                assert data, out
                out += data
    suite.check("a request that comes before the answer to the last, its body after it, is answered as it was sent", overlapping)

    def waits():
        host, port = node.http.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(300)]
        for connection in idle[:150]:
            connection.sendall(b"POST /v1/tenants/acme/functions/hello/invocations HTTP/1.1\r\nHo")
        assert node.invoke("hello", b"1")[0] == 200
        for connection in idle:
            connection.close()
    suite.check("300 connections that say nothing or half a head hurt nobody", waits)

    def unsupported():
        problem(node.invoke("hello", b"1", headers={"Bulkhead-Invocation-Type": "perhaps"}), 400, "badRequest")
        problem(node.invoke("hello", b"1", headers={"Bulkhead-Timeout": "soon"}), 400, "badRequest")
        assert node.invoke("hello", b"1", headers={"Bulkhead-Invocation-Type": "dry-run"})[0] == 204
    suite.check("what nobody can mean is refused, and a dry run runs nothing", unsupported)


def deaths(suite, node):
    def worker():
        for _ in range(5):
            row = next(r for r in node.json("ps") if r["function"] == "hello" and r["tenant"] == "acme" and r["version"] == 2)
            os.kill(row["pid"], signal.SIGKILL)
            wait_for(lambda: row["worker"] not in [r["worker"] for r in node.json("ps")], 5, "the end of a killed worker")
            assert node.invoke("hello", b"1")[0] == 200
    suite.check("kill -9 of a worker", worker)

    def daemon():
        for _ in range(3):
            pid = int(subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()[0])
            time.sleep(random.random() * 0.2)  # any moment
            os.kill(pid, signal.SIGKILL)

            def answers():
                try:
                    return node.invoke("hello", b"1", timeout=5)[0] == 200
                except OSError:
                    return False
            wait_for(answers, 20, "an answer after the daemon's death")
        assert node.json("versions", "acme/hello")[-1]["version"] == 2
    suite.check("kill -9 of the daemon: a new one serves what was deployed", daemon)

    def spawner():
        node.process.kill()
        node.process.wait()
        wait_for(lambda: not [l for l in node.leftovers() if l.startswith("process")], 5, f"the death of everything, left are {node.leftovers()}")
        node.process.stdout.close()
        node.start()
        assert node.invoke("hello", b"1")[0] == 200
        assert node.json("inspect", node.json("ps")[0]["worker"])["score"] == 0
    suite.check("kill -9 of the spawner takes everything with it, and the next start is clean", spawner)


def on_a_disk(options, taken, place, reason):
    """A start whose state directory is a disk of its own: it is refused with the place in it and the reason, and nothing that it started lives on."""
    node = Node()
    os.makedirs(node.state)
    fill = f"head -c {taken} /dev/zero > {node.state}/full; " if taken else ""
    script = f"mount -t tmpfs {options} none {node.state} || exit 99; {fill}exec {' '.join(node.command())}"
    try:
        # prctl(2), PR_SET_CHILD_SUBREAPER: what outlives its parents becomes a child of this process.
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
        before = children()
        run = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, timeout=30 * PATIENCE)
        said = run.stderr.decode()
        assert run.returncode not in (0, 99) and run.stdout == b"" and node.state + place in said and reason in said, (run.returncode, run.stdout, said)
        wait_for(lambda: children() <= before, 5, f"the end of all that was started, now {children()}")
    finally:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
        node.remove()


def children():
    """This process's children that run, those that it was given too."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            found.update(map(int, file.read().split()))
    return {pid for pid in found if not ended(pid)}


def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def starts(suite):
    def refused(node, *texts):
        run = subprocess.run(node.command(), capture_output=True, timeout=30)
        assert run.returncode != 0 and run.stdout == b"", run
        for text in texts:
            assert text in run.stderr.decode(), f"{text!r} is not in {run.stderr.decode()!r}"

    def second():
        node = Node().start()
        try:
            refused(Node(state=node.state), "nother node", "stop it")
            taken = Node(port=int(node.http.split(":")[1]))
            refused(taken, "port", "taken")
            assert node.cli("ps").returncode == 0
            assert [t["tenant"] for t in node.json("tenants")] == ["default"]
            node.stop()
            wait_for(lambda: not node.leftovers(), 5, "an empty host")
        finally:
            node.remove()
    suite.check("a second node on the same state, and a port that is taken", second)

    def configuration():
        node = Node({"tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: many}\n", "tenants.d/two.yaml": "tenant: other\nquta: {}\n",
                     "bulkhead.yaml": "prewarm: {python3: -1}\n"})
        refused(node, "tenants.d/acme.yaml:2:22", "tenants.d/two.yaml:1:9", "did you mean `quota`", "bulkhead.yaml:1:20")
        node.remove()
    suite.check("a configuration with mistakes starts nothing and names all of them", configuration)

    def read_only():
        on_a_disk("-o ro,size=1m", 0, "", "is on a read-only file system")
        # All is taken, so that the folder cannot be made; a little is left, so that the database in it cannot be.
        on_a_disk("-o size=64k", 64 << 10, "", "is full (No space left on device)")
        on_a_disk("-o size=1m", (1 << 20) - (12 << 10), "/data/bulkhead.sqlite", "the disk has room")
    suite.check("a state directory that is read-only or full is named with the reason, and no process is left", read_only)

    def newer():
        node = Node().start()
        node.stop()
        subprocess.run(["/usr/bin/python3", "-c", f"import sqlite3; d=sqlite3.connect('{node.state}/data/bulkhead.sqlite'); d.execute('PRAGMA user_version = 99'); d.commit()"], check=True)
        refused(node, "newer release")
        node.remove()
    suite.check("a state of a newer release", newer)

    def doctor():
        run = subprocess.run([os.path.join(BIN, "bulkhead"), "doctor"], capture_output=True, timeout=30)
        assert run.returncode == 0 and b"user namespaces" in run.stdout, run
        run = subprocess.run(["unshare", "-U", beside("bulkhead-spawner"), "--probe"], capture_output=True, timeout=30)
        assert b"root\tno" in run.stdout, run.stdout
    suite.check("doctor says what the host gives", doctor)


if __name__ == "__main__":
    sys.exit(main())
