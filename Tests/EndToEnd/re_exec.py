#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A new program for the spawner, in the same process, judged from outside: the process and its workers by the kernel's own numbers, callers by what they were answered, and what must
not go on: a program that is broken, of another release, or of somebody else's."""
import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from node import BIN, Suite, python, wait_for
from restart import SLEEP
from steady import ECHO, NOTE, TENANT, Life, Load, ran

SPAWNER = os.environ.get("BULKHEAD_SPAWNER", os.path.join(BIN, "bulkhead-spawner"))
DYING = """import ctypes, os, time
def handler(event, context):
    if event == 'call': ctypes.CDLL(None).syscall(169, 0, 0, 0, 0)
    if event == 'memory': return len([b'x' * (1 << 20) for _ in range(400)])
    if event == 'exit': os._exit(7)
    if event == 'signal': os.kill(os.getpid(), 11)
    return os.getpid()
"""
BOMB = """import os, time
def handler(event, context):
    while True:
        try:
            if os.fork() == 0: time.sleep(600)
        except OSError:
            time.sleep(0.01)
"""
# 12 seats, and one function of a tenant of its own that starts a worker for nearly every call.
FILES = {"tenants.d/acme.yaml": TENANT, "tenants.d/globex.yaml": TENANT.replace("acme", "globex").replace("3GiB", "2GiB")}


class Replaced(Life):
    """A node whose spawner's file is its own, so that others can take its place."""

    def __init__(self, files=None):
        super().__init__(files or FILES)
        self.folder = tempfile.mkdtemp(prefix="bulkhead-bin-", dir="/var/tmp")
        os.chmod(self.folder, 0o755)
        self.program = os.path.join(self.folder, "bulkhead-spawner")
        self.put(SPAWNER)

    def put(self, source, change=None):
        """Another file of the same name, as a package manager writes it."""
        with open(source, "rb") as file:
            data = file.read()
        with open(self.program + ".new", "wb") as file:
            file.write(change(data) if change else data)
        os.chmod(self.program + ".new", 0o755)
        os.rename(self.program + ".new", self.program)

    def start(self):
        os.environ["BULKHEAD_SPAWNER"] = self.program
        try:
            return super().start()
        finally:
            del os.environ["BULKHEAD_SPAWNER"]

    def replace(self, *words):
        reply = self.restart(*words)
        assert reply["spawnerReplaced"], reply
        return reply

    def open(self):
        """How many descriptors of each kind the spawner has."""
        folder, kinds = f"/proc/{self.process.pid}/fd", collections.Counter()
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                kinds[os.readlink(f"{folder}/{name}").split(":[")[0]] += 1
        return kinds

    def begun(self):
        """When the spawner's process began; it is another where this is another."""
        return open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()[19]

    def identities(self):
        """{user id of a worker: process namespaces that processes of it are in}; one each where no id is given twice."""
        found, ours = collections.defaultdict(set), self.uids()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, IndexError):
                uid = int(open(f"/proc/{pid}/status").read().split("Uid:")[1].split()[0])
                if uid in ours and uid != ours[0]:
                    found[uid].add(os.readlink(f"/proc/{pid}/ns/pid"))
        return found

    def unwell(self, function):
        """What is wrong with the seals of a function's workers."""
        found = []
        for row in self.workers(function).values():
            # It exits with 1 where there is a hole.
            run = self.cli("inspect", row["worker"], "--json")
            if run.returncode or json.loads(run.stdout)["score"]:
                found.append((run.stdout, run.stderr))
        return found

    def remove(self):
        super().remove()
        shutil.rmtree(self.folder, ignore_errors=True)


# What SpawnerState.swift names its record.
FORMAT = 3


def load(suite):
    node = Replaced().start()

    def under_load():
        node.deployed(python("echo"), {"main.py": ECHO})
        node.deployed(python("note"), {"main.py": NOTE})
        node.deployed(python("fresh", "workers: {idle: 100ms}\n"), {"main.py": ECHO}, tenant="globex")
        begun, pid, over, fresh = node.begun(), node.process.pid, threading.Event(), []

        def cold():
            # A worker that starts, mostly: some of them while the spawner changes.
            while not over.wait(0.15):
                fresh.append(node.invoke("fresh", b'"x"', tenant="globex")[0])
        current = Load(node, 80, 20)
        thread = threading.Thread(target=cold)
        thread.start()
        try:
            wait_for(lambda: len(node.workers()) >= 2 and current.count > 100 and len(fresh) > 3, 60, "warm workers")
            time.sleep(2)
            kept = offered = 0
            longest = []
            for number in range(10):
                node.put(SPAWNER)
                before, begin = {pid: row for pid, row in node.workers().items() if row["tenant"] == "acme"}, time.monotonic()
                # What an upgrade is: another file, and no word about the spawner. In between the same file.
                node.replace(*(["--spawner"] if number % 2 else []))
                after = node.workers()
                kept, offered = kept + len(before.keys() & after.keys()), offered + len(before)
                assert node.process.poll() is None and node.begun() == begun, "another process"
                assert os.readlink(f"/proc/{pid}/exe") == node.program, os.readlink(f"/proc/{pid}/exe")
                twice = {uid: spaces for uid, spaces in node.identities().items() if len(spaces) > 1}
                assert not twice, twice
                time.sleep(0.7)
                longest.append(current.stall(100, begin, time.monotonic()))
        finally:
            over.set()
            thread.join()
            current.end()
        print(f"figure: 10 programs of the spawner under load: {len(current.wrong)} of {current.count} calls failed, longest wait p50 {sorted(longest)[5]:.0f} ms, {max(longest):.0f} ms at most, {kept} of {offered} warm workers kept, {len(fresh)} calls of new workers")
        assert not current.wrong, (len(current.wrong), current.wrong[:5])
        assert set(fresh) == {200} and len(fresh) > 20, fresh
        assert offered >= 20 and kept >= 0.95 * offered, (kept, offered)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: set(current.accepted) <= set(ran(node)), 30)
        found = ran(node)
        assert set(found) == set(current.accepted) and set(found.values()) <= {1}, [name for name in current.accepted if found.get(name) != 1][:5]
        assert node.unwell("echo") == []
    suite.check("ten new programs under load: one process, no call fails, no event is lost or runs twice, warm workers stay, no user id is given twice", under_load)

    def sealed():
        before = node.identities()
        node.replace("--spawner")
        node.deployed(python("later"), {"main.py": ECHO})
        assert node.invoke("later", b'"x"')[0] == 200
        assert node.workers("later") and node.unwell("later") == []
        assert not {uid for uid, spaces in node.identities().items() if len(spaces) > 1}
        # How many there are else, which grows with workers that are made ahead, is judged over six programs below.
        new = node.open()
        assert before and not new["/memfd"], new
        status = open(f"/proc/{node.process.pid}/status").read()
        # What it has given away it has not got again, and nobody may look into it.
        assert "CapEff:\t00000000002c15eb" in status or int(status.split("CapEff:")[1].split()[0], 16) & ~0x2c15eb == 0, status
        assert status.split("CapBnd:")[1].split()[0] == status.split("CapEff:")[1].split()[0], status
        assert os.stat(f"/proc/{node.process.pid}/environ").st_uid == 0 and status.startswith("Name:\tbulkhead-spawne\n"), status
    suite.check("a worker that starts after it is sealed as before, the record is closed, privileges stay away", sealed)

    def steady():
        counts = []
        for _ in range(6):
            node.replace("--spawner")
            time.sleep(0.6)
            counts.append(sum(node.open().values()))
        print(f"figure: descriptors of the spawner after each of six programs: {counts}")
        # A reserve may be half full at the moment that one looks; one that leaks adds at least one each time, and the workers' own ten.
        assert max(counts[3:]) <= max(counts[:3]) + 9, counts
    suite.check("descriptors of the spawner stay as many", steady)

    def long():
        node.deployed(python("sleep").replace("5s", "20s"), {"main.py": SLEEP})
        answers = []
        thread = threading.Thread(target=lambda: answers.append(node.invoke("sleep", b'{"seconds": 2}')))
        thread.start()
        wait_for(lambda: [row for row in node.workers("sleep").values() if row["state"] == "busy"], 10, "the call")
        node.replace("--spawner")
        thread.join()
        assert answers[0][0] == 200, answers
    suite.check("a call that runs meanwhile is answered", long)
    return node


def deaths(suite, node):
    def causes():
        expected = {"call": "reboot", "memory": "emory", "exit": "7", "signal": "SEGV"}
        for name in expected:
            node.deployed(python(f"dies-{name}"), {"main.py": DYING})
            assert node.invoke(f"dies-{name}", b'"no"')[0] == 200
        born = {name: next(iter(node.workers(f"dies-{name}").values())) for name in expected}
        node.replace("--spawner")
        for name, word in expected.items():
            status, headers, body = node.invoke(f"dies-{name}", json.dumps(name).encode())
            assert headers["Bulkhead-Worker"] == born[name]["worker"], "it is not the worker from before"
            assert status in (502, 507) and word in body.decode(), (name, status, body)
            wait_for(lambda name=name: not os.path.exists(f"/proc/{born[name]['pid']}"), 10, "its end")
            assert node.invoke(f"dies-{name}", b'"no"')[0] == 200
    suite.check("who was born before and dies after is told by its cause: a forbidden call, memory, a status, a signal", causes)

    def bomb():
        node.deployed(python("bomb", "processes: 40\n").replace("5s", "6s"), {"main.py": BOMB})
        answers = []
        thread = threading.Thread(target=lambda: answers.append(node.invoke("bomb", b"0")))
        thread.start()
        row = wait_for(lambda: next((row for row in node.workers("bomb").values() if row["pids"] > 30), None), 10, "the bomb")

        def processes():
            return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if os.path.exists(f"/proc/{pid}") and owner(pid) == row["uid"]]

        def owner(pid):
            with contextlib.suppress(OSError):
                return os.stat(f"/proc/{pid}").st_uid
        assert len(processes()) > 30
        node.replace("--spawner")
        thread.join()
        assert answers[0][0] == 504, answers
        # Its user id may be another worker's by now, which has a process or two.
        wait_for(lambda: len(processes()) < 10, 10, "the end of all its processes")
        assert node.invoke("echo", b'"x"')[0] == 200
    suite.check("a fork bomb that was there before is ended at its time by the new program", bomb)


def refusals(suite, node):
    def refused(reason, *words):
        node.invoke("echo", b'"x"')
        workers, daemon, program = node.workers("echo"), node.daemon(), os.stat(f"/proc/{node.process.pid}/exe").st_ino
        assert workers
        run = node.try_restart(*words)
        assert run.returncode == 1 and json.loads(run.stderr)["code"] == "noRestart" and reason in json.loads(run.stderr)["detail"], (run.returncode, run.stderr, reason)
        assert node.daemon() == daemon and workers.keys() <= node.workers("echo").keys() and os.stat(f"/proc/{node.process.pid}/exe").st_ino == program
        assert node.invoke("echo", b'"x"')[0] == 200

    def renumbered(number):
        line = b"bulkhead-spawner state %d\n"

        def change(data):
            assert data.count(line % FORMAT) >= 1, "the format's name is not in the program"
            return data.replace(line % FORMAT, line % number)
        return change

    def broken():
        node.put("/bin/true")
        refused("it does not know this state (exit status 0)")
        node.put("/bin/false")
        refused("it does not know this state (exit status 1)")
        node.put(SPAWNER, lambda data: data[:100_000])
        refused("ended with signal")
        node.put("/etc/passwd")
        refused("cannot be executed")
        os.unlink(node.program)
        refused("No such file", "--spawner")
    suite.check("a broken program, none, and one that is no spawner are refused, and the old one goes on", broken)

    def releases():
        for number in (FORMAT - 1, FORMAT + 1):
            node.put(SPAWNER, renumbered(number))
            refused(f'this program reads "bulkhead-spawner state {number}"')
    suite.check("an older and a newer program that reads another state is refused", releases)

    def strangers():
        node.put(SPAWNER)
        os.chmod(node.program, 0o775)
        refused("writable by root alone")
        os.chmod(node.program, 0o755)
        os.chown(node.program, 1, 1)
        refused("belong to root")
        os.chown(node.program, 0, 0)
    suite.check("a program that others could have written is refused", strangers)

    def probes():
        # A program that never says anything: who asks meanwhile gets the same answer, and where it is killed the old one goes on.
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/mute.c", "w") as file:
                file.write("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
            subprocess.run(["cc", "-o", f"{folder}/mute", f"{folder}/mute.c"], check=True)
            node.put(f"{folder}/mute")

        def mute():
            run = subprocess.run(["pgrep", "-P", str(node.process.pid)], capture_output=True, text=True, check=False)
            return [int(word) for word in run.stdout.split() if b"--probe-state" in open(f"/proc/{word}/cmdline", "rb").read()]
        time.sleep(0.6)  # two in a moment are refused
        runs = []
        thread = threading.Thread(target=lambda: runs.append(node.cli("restart", "--json", timeout=120)))
        thread.start()
        pid = wait_for(mute, 10, "the trial")[0]
        node.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "gets the same" in node.errors(), 10, "the word about the signal")
        assert node.invoke("echo", b'"x"')[0] == 200 and not runs, runs
        # It has nothing that it could break: its words, the state and its own file; no socket, no lock, no worker.
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3"], os.listdir(f"/proc/{pid}/fd")
        os.kill(pid, signal.SIGKILL)
        thread.join()
        assert runs[0].returncode == 1 and b"ended with signal 9" in runs[0].stderr, runs[0].stderr
        assert node.invoke("echo", b'"x"')[0] == 200

        # The daemon ends while a program is tried: another follows, and the program is not put in place for nobody.
        time.sleep(0.6)
        node.process.send_signal(signal.SIGUSR2)
        pid, old = wait_for(mute, 10, "the trial")[0], node.daemon()
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: node.daemon() not in ([], old), 20, "another daemon")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: node.request("GET", "/readyz")[0] == 200 and node.invoke("echo", b'"x"')[0] == 200, 20, "calls")
    suite.check("a program that is mute or killed is refused, who asks meanwhile joins, and a daemon that ends meanwhile is followed", probes)

    def between():
        # The daemon ends in the moment when the new program has taken its place and serves nobody yet: one daemon follows, not a second at its heels.
        node.put(SPAWNER)
        time.sleep(0.6)
        program, old = os.stat(f"/proc/{node.process.pid}/exe").st_ino, node.daemon()
        node.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + 20
        while os.stat(f"/proc/{node.process.pid}/exe").st_ino == program:
            assert time.monotonic() < end, "no new program within 20 s"
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: node.daemon() not in ([], old) and node.request("GET", "/readyz")[0] == 200, 20, "another daemon")
        # After a rest that doubles each time, 100 ms at first and 10 s at most, a second one would come.
        said = node.errors().count("it starts again in ")
        rest = int(node.errors().rsplit("it starts again in ", 1)[1].split()[0]) / 1000
        end = time.monotonic() + 2 * rest + 1
        while time.monotonic() < end:
            assert len(node.daemon()) == 1, node.daemon()
            time.sleep(0.02)
        assert said == node.errors().count("it starts again in ") and node.invoke("echo", b'"x"')[0] == 200
    suite.check("a daemon that is killed while a new program takes its place is followed by one", between)

    def after():
        node.put(SPAWNER)
        node.invoke("echo", b'"x"')
        workers = node.workers("echo")
        node.replace()
        assert workers and workers.keys() <= node.workers("echo").keys() and node.invoke("echo", b'"x"')[0] == 200
        assert not json.loads(node.try_restart().stdout)["spawnerReplaced"], "the same file was put in place without being asked for"
    suite.check("after all that a good program is put in place, without a word about it where its file is another", after)


def ends(suite, node):
    def stopped():
        # SIGTERM while a program is tried.
        fresh = Replaced().start()
        fresh.deployed(python("echo"), {"main.py": ECHO})
        fresh.put(SPAWNER)
        fresh.process.send_signal(signal.SIGUSR2)
        fresh.process.send_signal(signal.SIGTERM)
        assert fresh.process.wait(20) == 0 and fresh.leftovers() == [], fresh.leftovers()
        fresh.remove()
    suite.check("SIGTERM beside it ends everything", stopped)

    def killed():
        node.invoke("echo", b'"x"')
        node.replace("--spawner")
        workers = node.workers()
        identities = node.identities()
        assert workers and identities
        node.process.kill()
        node.process.wait(10)
        wait_for(lambda: not node.identities(), 10, "the end of every worker")
        wait_for(lambda: not [pid for pid in workers if os.path.exists(f"/proc/{pid}")], 10, "the end of those with a function")
        wait_for(lambda: not [one for one in node.leftovers() if one.startswith("process")], 10, "the daemon's end")
        # And the next start finds nothing in its way.
        node.process.stdout.close()
        node.log.close()
        node.start()
        assert node.invoke("echo", b'"x"')[0] == 200
        node.stop()
        assert node.leftovers() == [], node.leftovers()
    suite.check("a spawner that is killed after it takes every worker and the daemon along", killed)


def main():
    suite = Suite("re-exec")
    node = load(suite)
    try:
        deaths(suite, node)
        refusals(suite, node)
        ends(suite, node)
    finally:
        node.remove()
    return suite.close()


if __name__ == "__main__":
    raise SystemExit(main())
