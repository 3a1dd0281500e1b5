# SPDX-License-Identifier: Apache-2.0
"""What gives too much: answers of 100 MB, a gigabyte to stdout (BULKHEAD_FLOOD_GB=10: ten, which take four minutes), an archive of a million entries, frames without end. Nobody holds them
in memory, and the disk has its bounds."""
import contextlib
import json
import os
import tarfile
import threading
import time
import zlib

from hostile_kills import CODE, QUOTA
from load import most_memory
from node import PATIENCE, Node, python, wait_for

GIGABYTES = int(os.environ.get("BULKHEAD_FLOOD_GB", "1"))


def run(suite):
    node = Node({"tenants.d/acme.yaml": QUOTA, "bulkhead.yaml": "logs: {perTenant: 4MiB}\n"}).start()
    try:
        node.deployed(python("hello"), {"main.py": CODE % 1})
        returns(suite, node)
        floods(suite, node)
        entries(suite, node)
    finally:
        node.remove()


def returns(suite, node):
    def python_value():
        node.deployed(python("returns").replace("96MiB", "700MiB").replace("5s", "40s"), {"main.py": "def handler(e, c):\n    return 'x' * (100 << 20)\n"})
        with most_memory(node) as grown:
            status, _, body = node.invoke("returns", b"1")
            assert status == 500 and "8388608" in json.loads(body)["detail"], (status, body[:300])
            assert node.invoke("hello", b"1")[0] == 200
            print(f"        an answer of 100 MB: the daemon grew by {grown()} MiB")
            assert grown() < 64, grown()
    suite.check("a function that returns 100 MB is refused at the bound, and the daemon does not hold it", python_value)

    def command():
        node.deployed("function: spills\nruntime: command\nhandler: ./run.sh\nmemory: 64MiB\ntimeout: 40s\n",
                      {"run.sh": "#!/bin/sh\nexec head -c 104857600 /dev/zero\n"})
        with most_memory(node) as grown:
            status, _, body = node.invoke("spills", b"1")
            # What is streamed is no value in anybody's memory: all of it may come.
            assert (status == 200 and len(body) == 100 << 20) or status in (500, 502, 507), (status, len(body), body[:300])
            print(f"        a command that writes 100 MB: {status}, {len(body)} bytes, the daemon grew by {grown()} MiB")
            assert grown() < 64, grown()
        assert node.invoke("hello", b"1")[0] == 200
    suite.check("a command that answers with 100 MB fills nobody's memory", command)


def floods(suite, node):
    def gigabytes():
        # What one worker writes is read at some 13 MB/s at most, and it waits: ten gigabytes of one are a quarter of an hour. So six write at once.
        writers, wanted, limit = 6, GIGABYTES << 30, round(120 * PATIENCE * GIGABYTES)
        node.deployed(python("floods").replace("30s" if PATIENCE > 1 else "5s", f"{limit}s"), {"main.py": (
            "import os\ndef handler(e, c):\n    block, count = (b'x' * 1023 + b'\\n') * 1024, 0\n"
            "    while count < e: count += os.write(1, block)\n    return count\n")})
        answers, waits = [], []

        def write():
            answers.append(node.invoke("floods", str(wanted // writers + 1).encode(), timeout=limit))
        with most_memory(node) as grown:
            threads, started = [threading.Thread(target=write) for _ in range(writers)], time.monotonic()
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                begin = time.monotonic()
                assert node.invoke("hello", b"1")[0] == 200
                waits.append(time.monotonic() - begin)
                time.sleep(0.02)
            took = time.monotonic() - started
            assert [status for status, _, _ in answers] == [200] * writers, [body[:300] for _, _, body in answers]
            count = sum(int(body) for _, _, body in answers)
            logs = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(os.path.join(node.state, "data", "logs")) for name in names)
            print(f"        {count / 1e9:.2f} GB to stdout in {took:.0f} s: {logs / 1e6:.1f} MB of logs, the daemon grew by {grown()} MiB, "
                  f"others waited {sorted(waits)[len(waits) // 2] * 1000:.0f} ms")
            assert count >= wanted, f"only {count} bytes: this shows nothing"
            assert logs < 8 << 20, logs
            assert grown() < 64, grown()
            assert sorted(waits)[len(waits) // 2] < 2 * PATIENCE, waits
    suite.check(f"{GIGABYTES} GB to stdout take no more memory and disk than the bounds, and others are answered", gigabytes)


def entries(suite, node):
    def upload(count):
        """How long the refusal of an archive of so many entries took, in seconds."""
        data = many_entries(count)
        began = time.monotonic()
        status, _, body = node.request("PUT", "/v1/tenants/acme/functions", data, timeout=300)
        took = time.monotonic() - began
        assert status == 422 and "more than 20000 entries" in json.loads(body)["detail"], (status, body[:300])
        assert not os.listdir(os.path.join(node.state, "data", "incoming"))
        print(f"        an archive of {count} entries, {len(data) >> 20} MiB: refused after {took:.1f} s")
        return took

    def million():
        with most_memory(node) as grown:
            few, many = upload(21_000), upload(1_000_000)
            assert grown() < 64, grown()
        # It ends at the bound: all of it would take fifty times as long.
        assert many < 6 * few + 5 * PATIENCE, (few, many)
        assert node.invoke("hello", b"1")[0] == 200
    suite.check("an archive of a million entries is refused as soon as one of 21,000", million)


# Takes the worker's place at fd 3, writes there for so many seconds, and reads nothing.
UNREADING = """
import os, signal, sys
def handler(event, context):
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, '/function/writer.py', event['kind'], str(event['seconds'])])
"""
WRITER = """
import os, struct, sys, time
def frame(kind, *fields):
    fields = b''.join(struct.pack('<BI', tag, len(value)) + value for tag, value in fields)
    return struct.pack('<IBBH', len(fields) + 4, kind, 0, 0) + fields
kind, seconds = sys.argv[1], float(sys.argv[2])
if kind == 'caller':
    count, data, pause = 4, frame(10, (35, bytes(4)), (28, b'large'), (29, bytes(1)), (23, b'1')) * 4, 0.1
else:
    count, data, pause = 100, frame(9, (26, bytes(1)), (27, b'm' * 1024)) * 100, 0
begun = time.monotonic()
end, written = begun + seconds, 0
while time.monotonic() < end:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(3, rest):]
        except BrokenPipeError:
            time.sleep(60)  # It is ended.
    written += count
    time.sleep(pause)
words = f'{written} {begun} {time.monotonic()}'.encode()
os.write(3, frame(6, (23, words)))  # The invocation's answer, and the next one's.
while os.read(3, 65536):
    os.write(3, frame(6, (23, words)))
"""


def frames(suite):
    """Workers that speak the protocol and mean harm."""
    quota = "quota: {concurrency: 16, queue: 100, memory: 2GiB, cpu: 2.0, processes: 512}\n"
    node = Node({"tenants.d/acme.yaml": "tenant: acme\n" + quota, "tenants.d/globex.yaml": "tenant: globex\n" + quota}).start()
    try:
        node.deployed(python("hello", "workers: {min: 1}\n"), {"main.py": CODE % 1}, "globex")
        node.deployed(python("large", "workers: {max: 4}\n").replace("96MiB", "128MiB"), {"main.py": "LARGE = 'x' * (5 << 20)\ndef handler(e, c):\n    return LARGE\n"})
        # Two, because a function whose workers die starts its next ones later.
        for function in ("caller", "logger"):
            node.deployed(python(function, "timeout: 60s\nworkers: {max: 10}\n"), {"main.py": UNREADING, "writer.py": WRITER})
        assert node.invoke("large", b"1")[0] == 200
        small(suite, node)
        # Its calls stay in the tenant's queue for a while.
        unread(suite, node)
    finally:
        node.remove()


@contextlib.contextmanager
def writers(node, function, count, seconds):
    """Their answers, when they have ended."""
    answers, event = [], json.dumps({"kind": function, "seconds": seconds}).encode()
    threads = [threading.Thread(target=lambda: answers.append(node.invoke(function, event, timeout=90))) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        for thread in threads:
            thread.join()


def waits(node, over):
    """How long another tenant's calls take until it is over, in seconds."""
    taken = []
    while not over():
        began = time.monotonic()
        assert node.invoke("hello", b"1", tenant="globex")[0] == 200
        taken.append(time.monotonic() - began)
        time.sleep(0.02)
    return sorted(taken)


def said(node, function, word):
    """The lines of its log that contain the word."""
    status, _, body = node.request("GET", f"/v1/tenants/acme/functions/{function}/logs?tail=100&grep={word}")
    assert status == 200, body[:300]
    return [entry["text"] for entry in map(json.loads, body.splitlines())]


def unread(suite, node):
    def answers():
        with most_memory(node) as grown:
            with writers(node, "caller", 6, 20) as ends:
                taken = waits(node, lambda: len(ends) == 6)
            print(f"        6 workers that do not read answers of 5 MiB: the daemon grew by {grown()} MiB, others waited {taken[len(taken) // 2] * 1000:.0f} ms")
            # 64 MiB of answers, what the callees' sockets have given of the next ones, and what malloc keeps.
            assert grown() < 256, grown()
        # Some may have got nothing but short refusals, because the tenant's queue was full of the others' calls.
        deaf = [body for status, _, body in ends if status == 502 and b"has read no answer from its socket" in body]
        assert deaf, [(status, body[:300]) for status, _, body in ends]
        wait_for(lambda: any("has read no answer from its socket" in text for text in said(node, "caller", "socket")), 10, "its word in the log")
        wait_for(lambda: node.invoke("large", b"1")[0] == 200, 30, "the queue's end")
    suite.check("workers that call and never read fill no memory, and are ended with the reason", answers)


def small(suite, node):
    def flood():
        seconds, count = 5, 10
        with writers(node, "logger", count, seconds) as ends:
            taken = waits(node, lambda: len(ends) == count)
        assert [status for status, _, _ in ends] == [200] * count, [body[:300] for _, _, body in ends]
        # One that was there before another had started may have answered twice.
        wrote = [[float(word) for word in body.split()] for body in {body for _, _, body in ends}]
        assert len(wrote) > count // 2, wrote
        total = round(sum(words[0] for words in wrote))
        # They do not begin at the same moment.
        took = max(words[2] for words in wrote) - min(words[1] for words in wrote)
        print(f"        {len(wrote)} workers with {total} lines of log in {took:.1f} s: others waited {taken[len(taken) // 2] * 1000:.0f} ms, at most {taken[-1] * 1000:.0f} ms")
        # 2,000 in a tenth of a second are the tenant's, not each worker's; what was read of each and its socket hold some hundreds more.
        assert total <= 20_000 * (took + 0.2) + count * 1000, (total, took)
        assert total >= 5_000, f"only {total}: this shows nothing"
        assert taken[len(taken) // 2] < 2 * PATIENCE, taken[-10:]
    suite.check("small frames of ten workers come at their tenant's rate, and others are answered", flood)


def many_entries(count):
    """A compressed tar of empty files, made without tarfile, which takes a minute."""
    info = tarfile.TarInfo("d/0000000")
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    base = sum(head[:148]) + 8 * 32 + sum(head[156:]) - sum(head[2:9])
    packer, out = zlib.compressobj(1, wbits=31), []
    for first in range(0, count, 1000):
        block = bytearray()
        for number in range(first, first + 1000):
            name = b"%07d" % number
            head[2:9] = name
            head[148:156] = b"%06o\0 " % (base + sum(name))
            block += head
        out.append(packer.compress(bytes(block)))
    out.append(packer.compress(bytes(1024)))
    return b"".join(out) + packer.flush()
