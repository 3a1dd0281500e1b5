#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quiet tenants, each with one request a second, beside neighbours that do their worst, and tenants that compete: latencies, their ratios, shares. Prints; judges nothing.

There are many quiet tenants, each with a function and a worker of its own, because a p99 of one request a second would take minutes a neighbour. Their client is a real-time process, and the flood a nice one in a session of its own: both stand for other machines, so neither waits for, nor takes, more of this
one's processors than it must. `neighbours.py NAME...` measures only these neighbours, or `competition`."""
import collections
import heapq
import http.client
import json
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing

from run import row, wrk_script  # before node: it names the folder of that

from node import ROOT, Node, python, wait_for

SECONDS = float(os.environ.get("BENCH_SECONDS", "15"))
QUIET = 20
FLOOD = int(os.environ.get("BENCH_FLOOD", "1000000"))
QUOTA = "quota: {concurrency: 64, queue: 100, memory: 5GiB, cpu: 2.0, processes: 1024}\n"
CONFIG = {f"tenants.d/{name}.yaml": f"tenant: {name}\n{QUOTA}" for name in ("noisy", *(f"quiet{index}" for index in range(QUIET)))}
QUICK = "def handler(event, context):\n    return 'hello'\n"
SLOW = "import time\ndef handler(event, context):\n    time.sleep(0.02)\n    end = time.thread_time() + 0.02\n    while time.thread_time() < end:\n        pass\n"
LOG = "import os\ndef handler(event, context):\n    block = b'x' * 99 + b'\\n'\n    for _ in range(10 ** 8 // 600):\n        os.write(1, block * 600)\n"
MEMORY = "import os\ndef handler(event, context):\n    for _ in range(8):\n        if os.fork() == 0:\n            break\n    kept = []\n    while True:\n        kept.append(b'x' * (1 << 20))\n"
BURN = "#include <pthread.h>\nstatic void *spin(void *p) { for (volatile long i = 0;; i++) {} return p; }\nint main(void) { pthread_t t; for (int i = 0; i < 48; i++) pthread_create(&t, 0, spin, 0); spin(0); }\n"


def path(tenant, function):
    return f"/v1/tenants/{tenant}/functions/{function}/invocations"


# --- clients

def quiet_client(address, tenants, seconds, seed):
    """Calls of each tenant at random moments, one a second on a connection of its own, whatever the answers do; prints microseconds from when a call was due to its answer.

    None waits for another tenant's answer, as none does whose clients are machines of their own."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        pass
    random.seed(seed)
    host, port = address.rsplit(":", 1)
    poll, callers, taken, refused = select.epoll(), {}, [], 0
    due, end = [], time.monotonic() + float(seconds)
    for index in range(int(tenants)):
        caller = QuietCaller(f"quiet{index}", socket.create_connection((host, int(port))), address)
        callers[caller.connection.fileno()] = caller
        poll.register(caller.connection, select.EPOLLIN)
        heapq.heappush(due, (time.monotonic() + random.expovariate(1), caller.connection.fileno()))
    while due or any(caller.waiting for caller in callers.values()):
        while due and due[0][0] <= time.monotonic():
            planned, number = heapq.heappop(due)
            callers[number].call()
            if (following := planned + random.expovariate(1)) < end:
                heapq.heappush(due, (following, number))
        for number, _ in poll.poll(max(0, due[0][0] - time.monotonic()) if due else 60):
            if answer := callers[number].answer():
                taken.append(answer[0] * 1e6)
                refused += answer[1] != 200
    print(json.dumps({"taken": sorted(taken), "refused": refused}))


class QuietCaller:
    """One quiet tenant's connection."""

    def __init__(self, tenant, connection, address):
        self.connection, self.waiting, self.got = connection, collections.deque(), b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = f"POST {path(tenant, 'hello')} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n1".encode()

    def call(self):
        # A late wake-up is this client's own; a late answer to the call before is not.
        self.waiting.append(time.monotonic())
        if len(self.waiting) == 1:
            self.connection.sendall(self.request)

    def answer(self):
        """Seconds since the call was due and the status, when the answer is whole."""
        self.got += self.connection.recv(65536) or sys.exit("a quiet tenant's connection was closed")
        head, end, body = self.got.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().split(b"content-length:")[1].split()[0]):
            return None
        self.got, taken = b"", time.monotonic() - self.waiting.popleft()
        if self.waiting:
            self.connection.sendall(self.request)
        return taken, int(head.split()[1])


def quiet(node, tenants=QUIET, seconds=SECONDS):
    """Latencies of the quiet tenants, sorted, and how many calls failed."""
    run = subprocess.run([sys.executable, __file__, "--client", node.http, str(tenants), str(seconds), "7"], capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    return result["taken"], result["refused"]


def at(values, share):
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def stranger():
    """What stands for another machine takes what is left of this one's processors."""
    os.setsid()
    os.nice(19)
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write("19")
    except OSError:
        pass


class Calls(typing.NamedTuple):
    made: int
    refused: int

    def __str__(self):
        return f"{self.made} calls, {self.refused} refused"


class Flood:
    """wrk on one function, from now on for so many seconds."""

    def __init__(self, node, function, script, seconds, connections=64, tenant="noisy"):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, f"http://{node.http}{path(tenant, function)}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=stranger)

    def stop(self):
        out = self.process.communicate()[0]
        calls = int(out.split(" requests in ")[0].split()[-1]) if " requests in " in out else 0
        refused = int(out.split("Non-2xx or 3xx responses:")[1].split()[0]) if "Non-2xx" in out else 0
        return Calls(calls, refused)


class Callers:
    """So many callers, each calling one function after another's end."""

    def __init__(self, node, functions):
        self.node, self.stopping, self.ends = node, False, {}
        self.threads = [threading.Thread(target=self.call, args=(name,)) for name in functions]
        for thread in self.threads:
            thread.start()

    def call(self, function):
        while not self.stopping:
            try:
                status, _, body = self.node.invoke(function, b"1", tenant="noisy", timeout=60)
                if status != 200:
                    status = f"{status} {json.loads(body).get('code')}"
            except OSError as error:
                status = type(error).__name__
            self.ends[status] = self.ends.get(status, 0) + 1
            if status in (429, 503):
                time.sleep(0.1)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()
        return ", ".join(f"{count} x {status}" for status, count in sorted(self.ends.items(), key=str))


# --- the quiet tenant and its neighbours

def hostile(name):
    folder = os.path.join(ROOT, "Deploy/examples/hostile", name)
    return open(os.path.join(folder, "function.yaml")).read(), {"main.py": open(os.path.join(folder, "main.py")).read()}


def deploy(node):
    for index in range(QUIET):
        node.deployed(python("hello"), {"main.py": QUICK}, tenant=f"quiet{index}")
        assert node.invoke("hello", b"1", tenant=f"quiet{index}")[0] == 200
    node.deployed(python("hello"), {"main.py": QUICK}, tenant="noisy")
    node.deployed(*hostile("forkbomb"), tenant="noisy")
    node.deployed(python("memorybomb"), {"main.py": MEMORY}, tenant="noisy")
    node.deployed("function: logbomb\nruntime: python3\nhandler: main.handler\nmemory: 96MiB\ntimeout: 30s\n", {"main.py": LOG}, tenant="noisy")
    program = os.path.join(node.base, "burn")
    subprocess.run(["cc", "-O1", "-static", "-pthread", "-x", "c", "-o", program, "-"], input=BURN.encode(), check=True)
    node.deployed("function: burn\nruntime: command\nhandler: ./burn\nmemory: 96MiB\nprocesses: 60\ntimeout: 5s\n", {"burn": open(program, "rb").read()}, tenant="noisy")
    for index in range(50):
        node.deployed(f"function: slow{index}\nruntime: python3\nhandler: main.handler\nmemory: 64MiB\nprocesses: 8\n", {"main.py": SLOW}, tenant="noisy")


def daemon_ticks(node):
    pid = int(subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()[0])
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def beside(node, neighbour, seconds):
    """The quiet tenants' latencies beside it, and what is worth a note."""
    noise = neighbour()
    time.sleep(2)
    ticks, begin = daemon_ticks(node), time.monotonic()
    taken, refused = quiet(node, seconds=seconds)
    busy = (daemon_ticks(node) - ticks) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begin)
    ends = noise.stop()
    wait_for(lambda: node.invoke("hello", b"1", tenant="quiet0")[0] == 200, 20, "a quiet node")
    time.sleep(1)
    return taken, f"p50 {at(taken, .5) / 1000:.2f} ms, p99 {at(taken, .99) / 1000:.2f} ms, {refused} failed, daemon {busy:.0%}; neighbour: {ends}"


def isolation(folder, wanted):
    node = Node(CONFIG).start()
    try:
        deploy(node)
        script = wrk_script(folder)
        # As long as a flood of that many takes.
        rate = 1
        if not wanted or "flood" in wanted:
            rate = Flood(node, "hello", script, 4).stop().made / 4
        long = max(SECONDS, FLOOD / rate)
        neighbours = {
            "flood": (f"a flood of {FLOOD} requests", lambda: Flood(node, "hello", script, int(long) + 4)),
            "fork": ("8 fork bombs", lambda: Callers(node, ["forkbomb"] * 8)),
            "burn": ("4 x 49 computing threads", lambda: Callers(node, ["burn"] * 4)),
            "memory": ("8 memory bombs", lambda: Callers(node, ["memorybomb"] * 8)),
            "log": ("4 log bombs of 10 GB", lambda: Callers(node, ["logbomb"] * 4)),
            "slow": ("50 slow functions", lambda: Callers(node, [f"slow{index}" for index in range(50)])),
        }
        alone, found = [], {}
        for name, (what, start) in neighbours.items():
            if not wanted or name in wanted:
                # In turn, because what else the machine does changes within minutes.
                alone += quiet(node, seconds=SECONDS / 2)[0]
                found[what] = beside(node, start, long if name == "flood" else SECONDS)
        alone.sort()
        row(f"{QUIET} quiet tenants alone, 1 request a second each: p50 / p99", "", f"{at(alone, .5) / 1000:.2f} / {at(alone, .99) / 1000:.2f} ms", f"{len(alone)} calls")
        for what, (taken, note) in found.items():
            row(f"quiet tenants beside {what}: p99 to p99 alone", "<= 2 x", f"{at(taken, .99) / at(alone, .99):.2f} x", note)
    finally:
        node.remove()


# --- tenants that compete

HOLD = "import time\ndef handler(event, context):\n    time.sleep(0.02)\n"


def competing(weights):
    """A node with four seats, and tenants of these weights that each want more than their share."""
    tenants = {f"tenants.d/t{index}.yaml": f"tenant: t{index}\nweight: {weight}\nquota: {{concurrency: 4, queue: 100, memory: 512MiB, cpu: 2.0, processes: 256}}\n" for index, weight in enumerate(weights)}
    node = Node({"bulkhead.yaml": "seats: 4\n", **tenants}).start()
    for index in range(len(weights)):
        node.deployed(f"function: hold\nruntime: python3\nhandler: main.handler\nmemory: 64MiB\n", {"main.py": HOLD}, tenant=f"t{index}")
    return node


def seat_time(node, count, callers, seconds):
    """Milliseconds that each tenant's calls ran, all tenants calling without a pause."""
    begin, taken = time.monotonic() + 4, [0] * count

    def call(tenant):
        connection = http.client.HTTPConnection(node.http, timeout=60)
        while time.monotonic() < begin + seconds:
            connection.request("POST", path(f"t{tenant}", "hold"), b"1", {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200 and time.monotonic() > begin:
                taken[tenant] += int(answer.headers["Bulkhead-Billed"][:-2])
    threads = [threading.Thread(target=call, args=(tenant,)) for tenant in range(count) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def fairness(weights, callers):
    node = competing(weights)
    try:
        return seat_time(node, len(weights), callers, SECONDS)
    finally:
        node.remove()


def wrk_rate(node, folder, connections, pause):
    """Calls and answers of 200 a second of so many callers, which pause about so many milliseconds after each answer."""
    script = os.path.join(folder, "pause.lua")
    with open(script, "w") as file:
        file.write(open(wrk_script(folder)).read() + (f"function delay() return math.random(0, {2 * pause}) end\n" if pause else ""))
    flood = Flood(node, "hold", script, int(SECONDS), connections, tenant="t0")
    calls, refused = flood.stop()
    return calls / int(SECONDS), (calls - refused) / int(SECONDS)


def overload(folder):
    node = competing([1])
    try:
        wrk_rate(node, folder, 4, 0)
        peak = wrk_rate(node, folder, 8, 0)[1]
        # Each caller asks about 5 times a second when it is refused at once.
        offered, good = wrk_rate(node, folder, 100 + int(peak * 3 / 5), 200)
        row("goodput at overload to goodput at peak", ">= 0.95 x", f"{good / peak:.2f} x", f"peak {peak:.0f}/s, offered {offered:.0f}/s")
    finally:
        node.remove()


def competition(folder):
    light, heavy = fairness([1, 2], 8)
    row("seat time, weights 2 to 1, four seats", "2.00", f"{heavy / light:.2f}", f"{heavy} ms, {light} ms")
    times = fairness([1] * 20, 3)
    row("Jain index of the seat time of 20 tenants", ">= 0.95", f"{sum(times) ** 2 / (len(times) * sum(t * t for t in times)):.3f}", f"{min(times)} to {max(times)} ms")
    overload(folder)


def main():
    if sys.argv[1:2] == ["--client"]:
        return quiet_client(*sys.argv[2:])
    folder = tempfile.mkdtemp(prefix="bulkhead-bench-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    wanted = sys.argv[1:]
    try:
        if wanted != ["competition"]:
            isolation(folder, wanted)
        if not wanted or "competition" in wanted:
            competition(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
