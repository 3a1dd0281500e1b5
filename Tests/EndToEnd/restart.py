#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A new daemon in the place of the old one, judged from outside: what callers were answered, what ran, and which processes are still there. Then what must not survive a
restart, drains, and signals."""
import contextlib
import glob
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time

from load import Caller
from node import PATIENCE, Suite, python, wait_for
from restart_bill import bill
from steady import ECHO, NOTE, Life, Load, ran

# A call that is seen to run, in seconds: who asks takes a moment on an emulated machine.
LONG = 6 if PATIENCE == 1 else 10
SLEEP = "import time\ndef handler(event, context):\n    time.sleep(event['seconds'])\n    return event\n"


def load(suite, node):
    def under_load():
        current = Load(node, 80 / PATIENCE, 20 / PATIENCE)

        def go_on():
            count = current.count
            wait_for(lambda: current.count > count + 100 / PATIENCE, 60, "more calls")
        try:
            wait_for(lambda: len(node.workers()) >= 2, 60, "warm workers")
            go_on()
            go_on()
            for _ in range(3):
                before = node.workers()
                old = node.daemon()
                reply = node.restart()
                print(f"figure: restart under load: {reply['pauseMilliseconds']} ms, {reply['workersKept']} of {reply['workersOffered']} workers, {reply['connectionsKept']} connections")
                after = node.workers()
                kept = len(before.keys() & after.keys())
                assert before and kept >= 0.95 * len(before), (before.keys(), after.keys())
                assert len(node.daemon()) == 1 and node.daemon() != old, (old, node.daemon())
                assert reply["daemon"] == node.daemon()[0]
                for pid in before.keys() & after.keys():
                    assert before[pid]["worker"] == after[pid]["worker"] and before[pid]["served"] <= after[pid]["served"], (before[pid], after[pid])
                go_on()
        finally:
            current.end()
        print(f"figure: {current.count} calls and events in three restarts: p50 {current.stall(50):.0f} ms, p99 {current.stall(99):.0f} ms, longest {current.stall(100):.0f} ms")
        assert not current.wrong, (len(current.wrong), current.wrong[:5])
        assert current.count > 300 / PATIENCE, current.count
        with contextlib.suppress(AssertionError):
            wait_for(lambda: set(current.accepted) <= set(ran(node)), 30)
        wait_for(lambda: not [event for state in ("ready", "leased") for event in node.json("events", "list", "acme", "--status", state)], 30, "the end of every event")
        found = ran(node)
        wrong = {name: found.get(name, 0) for name in current.accepted if found.get(name, 0) != 1}
        assert not wrong, (list(wrong.items())[:9], len(wrong), len(current.accepted), [event for event in node.json("events") if event["state"] != "done"][:5])
        assert set(found) == set(current.accepted)
    suite.check("three restarts under load: no call fails, no event is lost or runs twice, warm workers stay", under_load)


def calls(suite, node):
    def warm():
        caller = Caller(node)
        assert caller.call("echo", b'"a"').status == 200
        # Its answer is there before its worker is known to be free.
        wait_for(lambda: {row["state"] for row in node.workers("echo").values()} == {"ready"}, 20, "free workers")
        node.restart()
        answer = caller.call("echo", b'"b"')
        assert answer.status == 200 and {k.lower(): v for k, v in answer.headers.items()}["bulkhead-start"] == "warm", answer.headers
        # The node that they are now is the node that they were: limits, identity, usage.
        worker = next(iter(node.workers("echo").values()))
        posture = node.json("inspect", worker["worker"])
        assert posture["score"] == 0 if "score" in posture else all(check["ok"] for check in posture["checks"]), posture
        assert worker["memoryBytes"] > 0 and worker["cgroup"], worker
    suite.check("the next call finds a warm worker, on a connection that was idle, and its seal holds", warm)

    def long():
        answers = []
        thread = threading.Thread(target=lambda: answers.append(Caller(node).call("sleep", {"seconds": LONG})))
        thread.start()
        node.until("acme", 1)
        reply = node.restart()
        thread.join()
        assert answers[0].status == 200 and answers[0].json() == {"seconds": LONG}, answers
        assert reply["pauseMilliseconds"] > 1000, reply
    suite.check("a call that runs ends where it began, and its caller gets the answer", long)

    def pipelined():
        # Plain calls may overlap, and their connection changes hands like any other. Of other requests that do, nobody knows where the next begins: every one is answered,
        # and then the connection ends in good order.
        host, port = node.http.split(":")
        body = b'"x"'
        request = b"POST /v1/tenants/acme/functions/echo/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n" + body
        other = request.replace(b"invocations", b"invocations?alias=latest")
        with socket.create_connection((host, int(port)), timeout=20) as connection, socket.create_connection((host, int(port)), timeout=20) as lost:
            for one, text in ((connection, request), (lost, other)):
                one.sendall(text * 2)
                out = b""
                while out.count(b"\r\n\r\nx") < 2:
                    out += one.recv(65536)
            half = socket.create_connection((host, int(port)), timeout=20)
            half.sendall(request[:-1])
            node.has_read(half)
            said, thread = node.errors().count("lets go"), threading.Thread(target=node.restart)
            thread.start()
            wait_for(lambda: node.errors().count("lets go") > said, 20, "the hand-over")
            half.sendall(request[-1:])
            answer = half.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            thread.join()
            half.close()
            lost.settimeout(10)
            assert lost.recv(65536) == b"", "the connection has ended"
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200"), "the connection goes on"
    suite.check("a caller in the middle of its request is waited for", pipelined)

    def stranger():
        # A caller that never ends its request holds nobody up for longer than two seconds.
        host, port = node.http.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"POST /v1/tenants/acme/functions/echo/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            node.has_read(connection)
            reply = node.restart()
            assert reply["pauseMilliseconds"] < 15_000, reply
        assert node.invoke("echo", b'"x"')[0] == 200
    suite.check("a caller that never ends its request is left after two seconds", stranger)

    def together():
        old = node.daemon()
        time.sleep(0.6)  # two in a moment are refused
        callers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for caller in callers:
            caller.settimeout(60)
            caller.connect(node.control)
        time.sleep(0.1)
        for caller in callers:
            caller.sendall(b"POST /v1/restart HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        # Whoever comes first begins it, and the others join.
        node.process.send_signal(signal.SIGUSR2)
        answers = [caller.recv(65536) for caller in callers]
        for caller in callers:
            caller.close()
        assert all(answer.startswith(b"HTTP/1.1 202") for answer in answers), answers
        wait_for(lambda: len(node.daemon()) == 1 and node.daemon() != old, 20, "a new daemon")
    suite.check("who asks for a restart while one is prepared gets the same", together)


def lasting(suite, node):
    def beside():
        # An event that runs for longer than a hand-over may take, and calls of others all the time.
        fresh = Life().start()
        fresh.deployed(python("sleep").replace("5s", "60s"), {"main.py": SLEEP})
        assert fresh.invoke("sleep", b'{"seconds": 50}', headers={"Bulkhead-Invocation-Type": "async"})[0] == 202
        wait_for(lambda: [row for row in fresh.workers("sleep").values() if row["state"] == "busy"], 20, "the event")
        over, answers = threading.Event(), []

        def calls():
            while not over.is_set():
                try:
                    answers.append(fresh.invoke("sleep", b'{"seconds": 0.7}')[0])
                except OSError as error:
                    answers.append(error)
        threads = [threading.Thread(target=calls) for _ in range(3)]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        reply = fresh.restart()
        took = time.monotonic() - begin
        over.set()
        for thread in threads:
            thread.join()
        print(f"figure: restart beside an event of 50 s: {took:.1f} s, callers waited {reply['pauseMilliseconds']} ms at most")
        assert len(answers) > 30 and set(answers) == {200}, answers
        assert 15 < took < 45 and reply["pauseMilliseconds"] < 20_000, (took, reply)
        fresh.remove()
    suite.check("an event that outlasts a hand-over costs no other caller's call", beside)


def changes(suite, node):
    def killed():
        node.invoke("echo", b'"x"')
        victims, said = node.workers("echo"), node.errors().count("lets go")
        assert victims
        # The successor is stopped before it can read, so that they die when the old daemon has let go and the new one has not begun.
        old = node.daemon()
        busy = threading.Thread(target=lambda: node.invoke("sleep", json.dumps({"seconds": LONG}).encode()))
        busy.start()
        node.until("acme", 1)
        restart = threading.Thread(target=node.restart)
        restart.start()
        successor = wait_for(lambda: [pid for pid in node.daemon() if pid not in old and node.errors().count("lets go") > said], 20, "the hand-over")[0]
        os.kill(successor, signal.SIGSTOP)
        try:
            wait_for(lambda: node.daemon() == [successor], 20, "the old daemon's end")
            for pid in victims:
                assert os.path.exists(f"/proc/{pid}"), "a worker that is kept has ended"
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not [pid for pid in victims if os.path.exists(f"/proc/{pid}")], 5, "the end of the dead")
        finally:
            os.kill(successor, signal.SIGCONT)
        restart.join()
        busy.join()
        assert not victims.keys() & node.workers("echo").keys()
        for _ in range(len(victims) + 1):
            answer = node.invoke("echo", b'"x"')
            assert answer[0] == 200, answer
    suite.check("a worker that dies while it changes hands is not served by", killed)

    def secrets():
        path = os.path.join(node.config, "tenants.d", "acme.yaml")
        copy = node.copied("acme")
        for path in (path, copy):
            with open(path, "a") as file:
                file.write("secrets: {TOKEN: old}\n")
        node.restart()
        node.deployed(python("secret", "secrets: [TOKEN]\n"), {"main.py": "import os\ndef handler(e, c):\n    return os.environ.get('TOKEN')\n"})
        assert node.invoke("secret", b"0")[2] == b"old", node.invoke("secret", b"0")
        node.invoke("echo", b'"x"')
        before, echo = node.workers("secret"), node.workers("echo")
        for path in (path, copy):
            text = open(path).read().replace("TOKEN: old", "TOKEN: new")
            open(path, "w").write(text)
        reply = node.restart()
        assert not before.keys() & node.workers("secret").keys(), "it has the old secret"
        assert echo.keys() <= node.workers("echo").keys() and reply["workersKept"] < reply["workersOffered"], reply
        assert node.invoke("secret", b"0")[2] == b"new"
        wait_for(lambda: not [pid for pid in before if os.path.exists(f"/proc/{pid}")], 5, "the end of those with the old secret")
    suite.check("a worker whose function has another secret now is ended, and only such", secrets)

    def refused():
        copy = node.copied("acme")
        good = open(copy).read()
        open(copy, "w").write("tenant: acme\nquota:\n  concurrency: many\n")
        node.invoke("echo", b'"x"')
        workers, old = node.workers("echo"), node.daemon()
        run = node.try_restart()
        open(copy, "w").write(good)
        assert run.returncode == 1 and json.loads(run.stderr)["code"] == "noRestart", (run.returncode, run.stderr)
        assert "acme.yaml:3:" in node.errors(), node.errors()[-600:]
        assert node.daemon() == old and workers.keys() <= node.workers("echo").keys()
        assert node.invoke("echo", b'"x"')[0] == 200
        node.restart()
    suite.check("where the new daemon cannot start, the old one serves on", refused)

    def newer():
        node.invoke("echo", b'"x"')
        workers, old = node.workers("echo"), node.daemon()
        for name in ("bulkhead.sqlite", "events/events.sqlite", "usage/usage.sqlite"):
            with contextlib.closing(sqlite3.connect(os.path.join(node.state, "data", name), timeout=20)) as database:
                known = database.execute("PRAGMA user_version").fetchone()[0]
                database.execute("PRAGMA user_version = 99")
                time.sleep(0.6)  # two in a moment are refused
                run = node.try_restart()
                database.execute(f"PRAGMA user_version = {known}")
            assert run.returncode == 1 and json.loads(run.stderr)["code"] == "noRestart", (name, run.returncode, run.stderr)
            assert f"{name} was written by a newer release (schema 99" in node.errors(), node.errors()[-600:]
        assert node.daemon() == old and workers.keys() <= node.workers("echo").keys() and node.invoke("echo", b'"x"')[0] == 200
        assert not os.path.exists(os.path.join(node.state, "data", "start-probe"))
    suite.check("where the stores are not for the new daemon, the old one serves on", newer)

    def meanwhile():
        # The configuration changes while the old daemon waits for a call: the new one has read it before.
        said, busy = node.errors().count("lets go"), threading.Thread(target=lambda: node.invoke("sleep", json.dumps({"seconds": LONG + 1}).encode()))
        busy.start()
        node.until("acme", 1)
        restart = threading.Thread(target=node.restart)
        restart.start()
        wait_for(lambda: node.errors().count("lets go") > said, 20, "the hand-over")
        for path in (os.path.join(node.config, "tenants.d", "acme.yaml"), node.copied("acme")):
            text = open(path).read().replace("TOKEN: new", "TOKEN: newest")
            open(path, "w").write(text)
        node.process.send_signal(signal.SIGHUP)
        restart.join()
        busy.join()
        assert node.invoke("secret", b"0")[2] == b"newest", node.invoke("secret", b"0")
    suite.check("a reload while the old daemon lets go is not undone by the new one", meanwhile)

    def crash():
        node.invoke("echo", b'"x"')
        before, old = node.workers(), node.daemon()
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: node.daemon() not in ([], old), 20, "a new daemon")
        wait_for(lambda: not [pid for pid in before if os.path.exists(f"/proc/{pid}")], 10, "the end of the workers")
        assert node.invoke("echo", b'"x"')[0] == 200
    suite.check("a daemon that crashes takes its workers along: where their sockets stand is not known", crash)

    def explained():
        def failed():
            status, headers, _ = node.invoke("sleep", b'{"seconds": "no number"}')
            assert status != 200
            return {name.lower(): value for name, value in headers.items()}["bulkhead-invocation-id"]

        def written(id):
            return any(id in open(path).read() for path in glob.glob(f"{node.state}/**/explain/acme/*.jsonl", recursive=True))
        first = failed()
        told = node.json("explain", first)
        assert told["entries"][-1]["decision"] == "replied" and "functionError" in told["entries"][-1]["detail"], told
        wait_for(lambda: written(first), 20, "the explanation on the disk")
        old = node.daemon()
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: node.daemon() not in ([], old), 20, "a new daemon")
        wait_for(lambda: node.invoke("echo", b'"x"')[0] == 200, 20, "calls")
        assert node.json("explain", first) == told
        assert node.cli("explain", "0" * 32).returncode != 0
        # In order nothing has to be waited for.
        second = failed()
        told = node.json("explain", second)
        node.restart()
        assert node.json("explain", second) == told and node.json("explain", first)["invocation"] == first
    suite.check("why a call failed is told after a crash and after a restart", explained)

    def half_way():
        # The old daemon is killed while it waits for a call: the prepared one takes over, without the workers.
        before = node.daemon()
        failed = []

        def call():
            try:
                failed.append(Caller(node).call("sleep", {"seconds": 8}).status)
            except OSError as error:
                failed.append(error)
        thread = threading.Thread(target=call)
        thread.start()
        node.until("acme", 1)
        run = threading.Thread(target=node.try_restart)
        run.start()
        wait_for(lambda: "this one lets go" in node.errors()[half_way.log:], 20, "the hand-over")
        os.kill(before[0], signal.SIGKILL)
        thread.join()
        run.join()
        assert node.invoke("echo", b'"x"')[0] == 200 and node.daemon() != before and len(node.daemon()) == 1
        assert failed and failed[0] != 200
    half_way.log = len(node.errors())
    suite.check("a daemon that dies while it lets go is followed by the prepared one", half_way)


def drains(suite, node):
    def drain():
        # It runs on when the drain with a limit has ended.
        caller = threading.Thread(target=lambda: node.invoke("sleep", json.dumps({"seconds": LONG}).encode()))
        caller.start()
        node.until("acme", 1)
        sent = node.invoke("note", b'{"id": "late."}', headers={"Bulkhead-Invocation-Type": "async", "Bulkhead-Delay": "6s"})
        assert sent[0] == 202, sent
        due = time.monotonic() + 6
        run = node.cli("drain", "--timeout", "1")
        assert run.returncode == 5 and b"1 calls run" in run.stdout, (run.returncode, run.stdout, run.stderr)
        assert node.request("GET", "/readyz")[::2] == (503, b"draining\n")
        for headers in ({}, {"Bulkhead-Invocation-Type": "async"}):
            status, answered, body = node.invoke("echo", b'"x"', headers=headers)
            assert status == 503 and json.loads(body)["code"] == "draining" and int(answered["Retry-After"]) >= 1, (status, answered, body)
        run = node.cli("drain", "--json")
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        assert run.returncode == 0 and lines[-1]["running"] == 0 and lines[-1]["draining"], lines
        caller.join()
        wait_for(lambda: time.monotonic() > due + 1, 20, "the event's time")
        assert json.loads(node.request("GET", f"/v1/tenants/acme/invocations/{json.loads(sent[2])['id']}")[2])["state"] == "ready"
        assert "late." not in ran(node), "an event started while the node drained"
        assert node.cli("drain", "--undo").stdout == b"The node takes work.\n"
        assert node.request("GET", "/readyz")[0] == 200 and node.invoke("echo", b'"x"')[0] == 200
        wait_for(lambda: ran(node).get("late.") == 1, 20, "the event that waited")
    suite.check("a drained node refuses with a code and a time, lets run what runs, starts no event, and takes work again", drain)

    def forgotten():
        assert node.cli("drain").returncode == 0
        node.restart()
        assert node.request("GET", "/readyz")[0] == 200 and node.invoke("echo", b'"x"')[0] == 200
    suite.check("a drain ends with its daemon", forgotten)


def signals(suite, node):
    def usr2():
        node.invoke("echo", b'"x"')
        before, old = node.workers("echo"), node.daemon()
        time.sleep(0.6)  # two in a moment are refused
        node.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: len(node.daemon()) == 1 and node.daemon() != old, 20, "a new daemon")
        assert node.invoke("echo", b'"x"')[0] == 200 and before.keys() <= node.workers("echo").keys()
    suite.check("SIGUSR2 puts a new daemon in place", usr2)

    def hup():
        node.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "read again" in node.errors() or "reload" in node.errors().lower(), 10, "the reload")
        assert node.invoke("echo", b'"x"')[0] == 200
    suite.check("SIGHUP reads the configuration again", hup)

    def gentle(number):
        def body():
            fresh = Life()
            fresh.start()
            fresh.deployed(python("sleep").replace("5s", "20s"), {"main.py": SLEEP})
            answers = []
            thread = threading.Thread(target=lambda: answers.append(fresh.invoke("sleep", b'{"seconds": 2}')))
            thread.start()
            fresh.until("acme", 1)
            fresh.process.send_signal(number)
            thread.join()
            assert answers[0][0] == 200, answers
            assert fresh.process.wait(60) == 0 and fresh.leftovers() == [], fresh.leftovers()
            fresh.remove()
        return body
    suite.check("SIGTERM lets a running call end, then ends everything", gentle(signal.SIGTERM))
    suite.check("SIGINT does the same", gentle(signal.SIGINT))

    def second():
        fresh = Life()
        fresh.start()
        fresh.deployed(python("sleep").replace("5s", "20s"), {"main.py": SLEEP})

        def call():
            with contextlib.suppress(OSError):
                fresh.invoke("sleep", b'{"seconds": 15}')
        thread = threading.Thread(target=call)
        thread.start()
        fresh.until("acme", 1)
        begin = time.monotonic()
        fresh.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert fresh.process.poll() is None, "it did not wait for the call"
        fresh.process.send_signal(signal.SIGTERM)
        assert fresh.process.wait(60) == 0
        print(f"figure: the second SIGTERM ended the node after {time.monotonic() - begin:.1f} s")
        assert time.monotonic() - begin < 2.5, "the first one's bound is three seconds"
        thread.join()
        assert fresh.leftovers() == [], fresh.leftovers()
        fresh.remove()
    suite.check("a second signal ends everything at once", second)

    def during():
        # The order of the end while two daemons are there.
        thread = threading.Thread(target=lambda: node.cli("restart", timeout=120))
        busy = threading.Thread(target=lambda: contextlib.suppress(OSError).__enter__() or node.raw(b"POST /v1/tenants/acme/functions/sleep/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"seconds\":9}"))
        busy.start()
        node.until("acme", 1)
        thread.start()
        wait_for(lambda: len(node.daemon()) == 2, 20, "two daemons")
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(10) == 0
        thread.join()
        busy.join()
        assert node.leftovers() == [], node.leftovers()
    suite.check("SIGTERM during a restart ends both daemons and every worker", during)


PARTS = {"load": load, "calls": calls, "lasting": lasting, "changes": changes, "bill": bill, "drains": drains, "signals": signals}


def main(names):
    suite = Suite("restart")
    node = Life().start()
    for name, code in (("echo", ECHO), ("note", NOTE), ("sleep", SLEEP)):
        node.deployed(python(name).replace("5s", "20s" if name == "sleep" else "5s"), {"main.py": code})
    for name in names or PARTS:
        PARTS[name](suite, node)
    # The last of the signals has ended it.
    node.remove()
    return suite.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
