#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus that the fuzzers begin with: the specification's golden vector, legal and illegal messages, manifests, archives, paths."""
import glob
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "Tests", "Runtimes"), os.path.join(ROOT, "Tests", "EndToEnd")]
import spawner  # noqa: E402
import worker  # noqa: E402

USAGE = struct.pack("<QQQII", 1, 2, 3, 4, 5)


def event(kind, *parts):
    return bytes([kind]) + b"".join(parts)


def entry(name, kind, content=b""):
    return bytes([kind, len(name), len(content)]) + name + content


def corpus():
    golden = worker.golden()[0]
    yield "frame", [b"\1" + golden, b"\4" + golden * 3, b"\2" + worker.frame(5, 3, worker.invoke_fields("body", "text/plain")),
                    b"\7" + worker.frame(2, 0, worker.init_fields("main.handler"))]
    yield "request", [case for case, _ in spawner.CASES.values() if isinstance(case, bytes) and len(case) < 4096] + [
        spawner.HELLO, spawner.GROUP, spawner.READY, spawner.spawn(), spawner.spawn(access=spawner.buckets("photos", ("thumbs", True, "out/small/")), sees=spawner.layers("tracing")), struct.pack("<BHQ", 9, 1, 5), struct.pack("<BQ", 8, 5)]
    text = spawner.text
    causes = [event(1, struct.pack("<i", 3)), event(2, struct.pack("<i", 9)), event(3, struct.pack("<i", 101), text("ptrace"), b"\1"),
              event(4, struct.pack("<Q", 64 << 20)), event(5, struct.pack("<I", 7), text("mounts"), struct.pack("<i", 1)), event(6)]
    yield "event", [event(1, struct.pack("<H", 2), spawner.words("http", "control", "file-events"), spawner.words("native")),
                    event(2, struct.pack("<QiI", 1, 2, 3), text("/cgroup")), event(3, struct.pack("<Q", 1)), event(4, struct.pack("<Q", 1), text("no")),
                    event(6, struct.pack("<QH", 1, 1), text("uid"), text("0"), text("1"), b"\0"), event(7, struct.pack("<HQi", 1, 1, 2), USAGE),
                    event(8, struct.pack("<I", 1), text("no"))] + [event(5, struct.pack("<Q", 1), cause, USAGE) for cause in causes]
    source = "".join(open(name).read() for name in glob.glob(os.path.join(ROOT, "Tests", "NodeConfigurationTests", "*.swift")))
    quoted = [m.encode().decode("unicode_escape", "ignore").encode("utf-8", "ignore") for m in re.findall(r'"((?:function|tenant|x|a|d): ?[^"]{3,300})"', source)]
    yield "yaml", quoted + [b"function: x\nruntime: native\nhandler: [./x, a]\nmemory: 64MiB\nworkers: {min: 1, max: 2, idle: 5m}\nenvironment: {A: b}\n",
                            b"tenant: acme\nquota: {concurrency: 5, queue: 7, memory: 1GiB, cpu: 2.5, processes: 99}\n"]
    mark = "\u0301".encode()
    yield "cpio", [b"\x10" + entry(b"a/b", 0, b"text") + entry(b"d", 2) + entry(b"d/l", 3, b"../a/b"), b"\x10" + entry(b"x/../../" + mark, 0, b"x"), b"\x10" + entry(b"../" + mark, 0, b"x"),
                   b"\x10" + entry(b"d/l", 3, b"../" + mark + b"/../../x"),
                   b"\x10" + entry(b"l", 3, b"a/../..//b") + entry(b"./a", 1, b"#!"), b"\x21070701" + b"0" * 104, b"\x10" + entry(b"p", 5) + entry(b"c", 4)]
    yield "path", [b"/v1/tenants/acme/functions/f%401/invocations?version=1&alias=a+b", b"/%2e%2e/%00/%2f?x", b"//a///", "/a\u0301?\u0301=1".encode(), b"*"]


WORDS = {"yaml": ["function: ", "runtime: ", "handler: ", "memory: ", "MiB", "workers: {", "tenant: acme", "quota: {", "&a", "*a", "<<: ", "!!", "? ", "|\\x0a", "- "],
         "cpio": ["../", "..", "/", "./", "\\xcc\\x81", "070701", "070702", "TRAILER!!!", "\\x00"], "path": ["%2f", "%00", "%2e", "?", "&", "=", "+", "\\xcc\\x81"],
         "frame": ["\\x00\\x00\\x00\\x00", "\\xff\\xff\\xff\\xff"]}


def main(folder):
    for name, seeds in corpus():
        os.makedirs(f"{folder}/{name}", exist_ok=True)
        for number, seed in enumerate(seeds):
            with open(f"{folder}/{name}/seed-{number}", "wb") as file:
                file.write(seed)
        with open(f"{folder}/{name}.words", "w") as file:
            file.writelines(f'"{word}"\n' for word in WORDS.get(name, ["\\x01\\x00\\x00\\x00"]))


if __name__ == "__main__":
    main(sys.argv[1])
