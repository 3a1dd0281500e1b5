# SPDX-License-Identifier: Apache-2.0
"""Each process of a node killed at many moments: of a publish, of a worker's start, of an upload. Afterwards nothing is half there, and nothing is left."""
import contextlib
import io
import os
import random
import signal
import socket
import tarfile
import threading
import time

from load import daemon
from node import Node, python, wait_for

# Moments for each process and each job; more of them for a longer look.
ROUNDS = int(os.environ.get("HOSTILE_ROUNDS", "6"))
CODE = "def handler(event, context):\n    return %d\n"
QUOTA = "tenant: acme\nquota: {concurrency: 8, queue: 100, memory: 2GiB, cpu: 2.0, processes: 512}\n"


def archive(number):
    """Code that takes a moment to send, to unpack and to flush."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        files = {"function.yaml": python("target"), "main.py": CODE % number, "large": random.Random(number).randbytes(4 << 20)}
        files.update({f"part{n}": f"{number} {n}" for n in range(300)})
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def put(node, data):
    """The answer's status, or the error's name where the connection ended before it."""
    try:
        return node.request("PUT", "/v1/tenants/acme/functions", data, timeout=60)[0]
    except OSError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - half an answer is none
        return type(error).__name__


def answers(node, function="target"):
    try:
        return node.invoke(function, b"1", timeout=10)[0] == 200
    except Exception:  # noqa: BLE001 - no answer yet
        return False


class Target:
    """One function that is published again and again, and what is known of it: a version is there whole, or not at all."""

    def __init__(self, node):
        self.node, self.number = node, 0

    def publish(self):
        self.number += 1
        return put(self.node, archive(self.number))

    def check(self, before, answered):
        """What the node has after a publish that met a kill; `before` are the versions before it, of which a round may add one."""
        node = self.node
        wait_for(lambda: answers(node), 60, "an answer after the kill")
        rows = node.json("versions", "acme/target")
        now = [row["version"] for row in rows]
        assert now[:len(before)] == before and len(now) - len(before) in (0, 1), (before, now)
        assert answered != 201 or len(now) > len(before), "a version that was confirmed is gone"
        value = int(node.invoke("target", b"1")[2])
        assert value == self.number if len(now) > len(before) else value < self.number, (value, self.number, now)
        data = os.path.join(node.state, "data")
        # What the kill left of an upload is removed by the next daemon's start, or by the end of the request.
        wait_for(lambda: not os.listdir(os.path.join(data, "incoming")), 20, "an empty folder of uploads")
        rows += [row for name in ("cold",) if name in {row["function"] for row in node.json("functions")} for row in node.json("versions", f"acme/{name}")]
        wait_for(lambda: set(os.listdir(os.path.join(data, "code"))) == {row["codeHash"] for row in rows}, 20, "code of versions alone")
        self.strays()
        return len(now) > len(before)

    def strays(self):
        """Whoever runs under a worker's user id is a worker that the node knows."""
        node = self.node

        def strange():
            known = {row["uid"] for row in node.json("ps")}
            return set(workers(node).values()) - known
        wait_for(lambda: not strange(), 20, "the end of processes that nobody knows")


def workers(node):
    """{process: user id} of those under the workers' ids, which they have from their first step on."""
    # The first of them is the daemon's.
    found, ids = {}, node.uids()[1:]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # Not the owner of the folder: that of a process that may not be looked into is root.
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/status") as file:
            uid = int(file.read().split("Uid:")[1].split()[0])
            if uid in ids:
                found[int(pid)] = uid
    return found


def run(suite):
    node = Node({"tenants.d/acme.yaml": QUOTA}).start()
    target = Target(node)
    began = time.monotonic()
    assert target.publish() == 201
    took = time.monotonic() - began
    counts = {}

    def rounds(name, kill, after=lambda: None):
        def body():
            whole = torn = 0
            for number in range(ROUNDS):
                before = [row["version"] for row in node.json("versions", "acme/target")]
                status = []
                thread = threading.Thread(target=lambda: status.append(target.publish()))
                thread.start()
                # From the first byte of the upload until after its answer.
                time.sleep(took * 1.2 * number / (ROUNDS - 1))
                kill()
                thread.join(60)
                assert status, "the caller waits for ever"
                after()
                if target.check(before, status[0]):
                    whole += 1
                else:
                    torn += 1
            print(f"        {name}: {whole} versions are there, {torn} are not, of kills over {took * 1.2 * 1000:.0f} ms")
            counts[name] = (whole, torn)
        suite.check(f"kill -9 of {name} at {ROUNDS} moments of a publish: the version is there whole or not at all, and nothing else is left", body)

    def end_daemon():
        os.kill(daemon(node), signal.SIGKILL)

    def end_spawner():
        node.process.kill()
        node.process.wait()

    def anew():
        wait_for(lambda: not [line for line in node.leftovers() if line.startswith("process")], 20, f"the death of everything, left are {node.leftovers()}")
        node.process.stdout.close()
        node.log.close()
        node.start()

    def end_workers():
        for pid in workers(node):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def end_unpacker():
        """As soon as it is seen, or not at all: where the round begins late, it has ended."""
        end = time.monotonic() + took
        while time.monotonic() < end:
            for pid in workers(node):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as file:
                    if file.read() == "bsdtar\n":
                        return os.kill(pid, signal.SIGKILL)

    rounds("the daemon", end_daemon)
    rounds("the spawner", end_spawner, anew)
    rounds("all workers", end_workers)
    rounds("the worker that unpacks", end_unpacker)

    def spread():
        assert len(counts) == 4, counts
        # Moments that all fall on one side of the commit would show nothing.
        whole, torn = (sum(one[n] for one in counts.values()) for n in (0, 1))
        assert whole and torn, counts
    suite.check("kills fell before the version was there and after", spread)
    spawns(suite, node, target, end_daemon, end_spawner, anew, end_workers)
    uploads(suite, node, target, end_daemon)

    def empty():
        node.stop()
        wait_for(lambda: not node.leftovers(), 10, f"an empty host, left are {node.leftovers()}")
    suite.check("after all of it the node stops and leaves no process, cgroup or mount", empty)
    node.remove()


def spawns(suite, node, target, end_daemon, end_spawner, anew, end_workers):
    """Kills while workers are made: callers of a function that has none."""
    def body(kill, after):
        def rounds():
            node.deployed(python("cold", "workers: {idle: 100ms}\n"), {"main.py": CODE % 7})
            for number in range(ROUNDS):
                results = []

                def call():
                    try:
                        results.append(node.invoke("cold", b"1", timeout=30)[0])
                    except OSError as error:
                        results.append(type(error).__name__)
                    except Exception as error:  # noqa: BLE001 - half an answer is none
                        results.append(type(error).__name__)
                wait_for(lambda: not [row for row in node.json("ps") if row["function"] == "cold"], 20, "the end of the warm worker")
                threads = [threading.Thread(target=call) for _ in range(3)]
                for thread in threads:
                    thread.start()
                time.sleep(0.2 * number / (ROUNDS - 1))
                kill()
                for thread in threads:
                    thread.join(60)
                # 502: its worker died; 500: before it was ready. No caller hears nothing.
                assert len(results) == 3 and all(one in (200, 500, 502, 503) or isinstance(one, str) for one in results), results
                after()
                wait_for(lambda: answers(node, "cold"), 60, "an answer")
                target.strays()
        return rounds
    for name, kill, after in (("the daemon", end_daemon, lambda: None), ("the spawner", end_spawner, anew), ("all workers", end_workers, lambda: None)):
        suite.check(f"kill -9 of {name} at {ROUNDS} moments of a worker's start: the next call is answered, no process is left", body(kill, after))


def uploads(suite, node, target, end_daemon):
    def half():
        data = archive(target.number + 1)
        before = [row["version"] for row in node.json("versions", "acme/target")]
        host, port = node.http.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(f"PUT /v1/tenants/acme/functions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:len(data) // 2])
            incoming = os.path.join(node.state, "data", "incoming")
            wait_for(lambda: os.listdir(incoming), 20, "half of an upload")
            end_daemon()
            target.number += 1
            assert not target.check(before, 0)
    suite.check("kill -9 of the daemon with half of an upload on the disk: the half is removed", half)
