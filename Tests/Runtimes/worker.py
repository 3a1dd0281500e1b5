# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of the worker protocol, written a second time and apart from every shim, after Sandbox/runtimes/README.md alone."""
import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNTIMES = os.path.join(ROOT, "Sandbox", "runtimes")

HELLO, INIT, READY, INIT_ERROR, INVOKE, RESULT, CHUNK, ERROR, LOG, CALL, CALL_RESULT, EMIT, EMIT_RESULT, RETRY_LATER, CANCEL, DRAIN = range(1, 17)
TAGS = {"protocolVersion": (1, "H"), "runtime": (2, ""), "pid": (3, "I"), "function": (4, ""), "version": (5, "I"), "handler": (6, ""),
        "environment": (7, ""), "secret": (8, ""), "memoryLimit": (9, "Q"), "bucket": (10, ""), "timeout": (11, "I"), "initTime": (12, "Q"), "errorType": (13, ""),
        "errorMessage": (14, ""), "errorStack": (15, ""), "invocation": (16, ""), "deadline": (17, "Q"), "trigger": (18, ""),
        "contentType": (19, ""), "attempt": (20, "I"), "traceparent": (22, ""), "body": (23, ""), "status": (24, "H"), "header": (25, ""),
        "level": (26, "B"), "message": (27, ""), "target": (28, ""), "mode": (29, "B"), "outcome": (30, ""), "topic": (31, ""), "event": (32, ""),
        "after": (33, "I"), "grace": (34, "I"), "request": (35, "I"), "concurrency": (36, "H")}
NAMES = {number: (name, form) for name, (number, form) in TAGS.items()}
INVOCATION = "0123456789abcdef0123456789abcdef"


def golden():
    """The specification's vector: the bytes, and what they are said to hold."""
    text = open(os.path.join(RUNTIMES, "README.md"), encoding="utf-8").read()
    found = re.search(r"Golden vector.*?`((?:[0-9a-f]{2} ?)+)`", text, re.S)
    return bytes.fromhex(found.group(1)), (ERROR, 1, 0x0102, [("errorType", "E"), ("after", 5)])


def vectors():
    """The file of golden vectors: (those that are whole frames, those that everybody refuses)."""
    with open(os.path.join(RUNTIMES, "vectors.json"), encoding="utf-8") as file:
        found = json.load(file)
    for vector in found:
        vector["bytes"] = bytes.fromhex(vector["hex"])
        vector["fields"] = [(tag, bytes.fromhex(text)) for tag, text in vector.get("fields", [])]
    return [v for v in found if "refused" not in v], [v for v in found if "refused" in v]


def value_of(name, value):
    form = TAGS[name][1]
    return struct.pack("<" + form, value) if form else value if isinstance(value, bytes) else value.encode()


def frame(kind, slot=0, fields=(), flags=0, raw=()):
    """`raw`: fields as (tag, bytes), before the others."""
    body = b"".join(struct.pack("<BI", tag, len(value)) + value for tag, value in list(raw) + [(TAGS[n][0], value_of(n, v)) for n, v in fields])
    return struct.pack("<IBBH", 4 + len(body), kind, flags, slot) + body


class Frame:
    def __init__(self, data):
        self.bytes = data
        self.kind, self.flags, self.slot = struct.unpack_from("<BBH", data, 4)
        self.fields, at = [], 8
        while at < len(data):
            tag, size = struct.unpack_from("<BI", data, at)
            value = data[at + 5:at + 5 + size]
            assert len(value) == size, "a torn field"
            at += 5 + size
            if tag not in NAMES:
                continue  # as the specification has it
            name, form = NAMES[tag]
            self.fields.append((name, struct.unpack("<" + form, value)[0] if form else value if name == "body" else value.decode()))
        assert "body" not in [n for n, _ in self.fields[:-1]], "the body is not the last field"

    def __getitem__(self, name):
        return next((v for n, v in self.fields if n == name), None)

    def all(self, name):
        return [v for n, v in self.fields if n == name]

    def __repr__(self):
        return f"<kind {self.kind} slot {self.slot} flags {self.flags} {str(self.fields)[:300]}>"


class Worker:
    """A shim as a child process, with our end of its fd 3."""

    def __init__(self, command, files=(), environment=None):
        self.folder = tempfile.TemporaryDirectory(prefix="bulkhead-runtime-")
        for name, text in dict(files).items():
            path = os.path.join(self.folder.name, name)
            with open(path, "wb") as file:
                file.write(text if isinstance(text, bytes) else text.encode())
            os.chmod(path, 0o755)
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        self.socket = ours
        self.error = tempfile.TemporaryFile()
        self.output = tempfile.TemporaryFile()
        if os.path.isdir("/function"):
            # In a worker, the code is at /function and nowhere else. Where this machine has such a folder, ours lies over it, for the shim alone.
            command = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /function && cd /function && exec "$@"', self.folder.name, *command]
        self.process = subprocess.Popen(
            command, cwd=self.folder.name, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.error, pass_fds=(3,),
            preexec_fn=lambda: os.dup2(theirs.fileno(), 3), env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "ASAN_OPTIONS": "exitcode=99", **(environment or {})})
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        if self.process.poll() is None:
            try:
                self.process.wait(0.2)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self.error.close()
        self.output.close()
        self.folder.cleanup()

    def send(self, *words, **more):
        self.socket.sendall(frame(*words, **more))

    def receive(self):
        return Frame(self.receive_bytes())

    def receive_bytes(self):
        head = self.take(4)
        size = struct.unpack("<I", head)[0]
        assert 4 <= size <= (8 << 20) + (64 << 10), f"a frame of {size} bytes"
        return head + self.take(size)

    def take(self, count):
        out = bytearray()
        while len(out) < count:
            data = self.socket.recv(min(count - len(out), 1 << 20))
            assert data, f"the worker ended the connection: {self.errors()}"
            out += data
        return bytes(out)

    def errors(self):
        self.error.seek(0)
        return self.error.read().decode(errors="replace")[-2000:]

    def started(self, handler, concurrency=1, environment=(), extra=()):
        """Through hello and init; the answer to init."""
        hello = self.receive()
        assert hello.kind == HELLO, hello
        self.send(INIT, fields=init_fields(handler, concurrency, environment), raw=[(200, b"skip me")] + list(extra))
        return self.receive()

    def ready(self, handler, **more):
        answer = self.started(handler, **more)
        assert answer.kind == READY and isinstance(answer["initTime"], int), f"{answer} {self.errors()}"
        return self

    def invoke(self, body=b"", slot=0, kind="text/plain", headers=()):
        fields = invoke_fields(body, kind)
        self.send(INVOKE, slot, fields[:-1] + [("header", line) for line in headers] + fields[-1:], raw=[(201, b"")])

    def ask(self, body=b"", slot=0, kind="text/plain"):
        self.invoke(body, slot, kind)
        return self.receive()

    def ended(self, seconds=5):
        """The exit code; fails where the process goes on."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {seconds} s") from None


def init_fields(handler, concurrency=1, environment=()):
    words = [handler] if isinstance(handler, str) else handler
    return ([("function", "acme/test"), ("version", 7)] + [("handler", w) for w in words] + [("environment", e) for e in environment]
            + [("secret", "TOKEN=s=3"), ("memoryLimit", 64 << 20), ("timeout", 5000), ("concurrency", concurrency)])


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def invoke_fields(body, kind):
    return [("invocation", INVOCATION), ("deadline", int(time.time() * 1000) + 60_000), ("trigger", "http"), ("contentType", kind), ("attempt", 1),
            ("traceparent", TRACEPARENT), ("body", body if isinstance(body, bytes) else body.encode())]
