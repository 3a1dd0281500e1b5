# SPDX-License-Identifier: Apache-2.0
"""What gives too much: answers of 100 MB, a gigabyte to stdout, an archive of a million entries. Nobody holds them in memory, and the disk has its bounds."""
import json
import os
import tarfile
import threading
import time
import zlib

from hostile_kills import CODE, QUOTA
from load import most_memory
from node import PATIENCE, Node, python


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
    def gigabyte():
        # What one worker writes is read at some 13 MB/s at most, and it waits: ten gigabytes of one are a quarter of an hour. So six write at once, a gigabyte together.
        writers, wanted = 6, 1 << 30
        node.deployed(python("floods").replace("30s" if PATIENCE > 1 else "5s", f"{round(120 * PATIENCE)}s"), {"main.py": (
            "import os\ndef handler(e, c):\n    block, count = (b'x' * 1023 + b'\\n') * 1024, 0\n"
            "    while count < e: count += os.write(1, block)\n    return count\n")})
        answers, waits = [], []

        def write():
            answers.append(node.invoke("floods", str(wanted // writers + 1).encode(), timeout=120 * PATIENCE))
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
            assert sorted(waits)[len(waits) // 2] < 0.5 * PATIENCE, waits
    suite.check("a gigabyte to stdout takes no more memory and disk than the bounds, and others are answered", gigabyte)


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
