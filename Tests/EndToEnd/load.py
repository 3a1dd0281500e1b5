# SPDX-License-Identifier: Apache-2.0
"""Callers for the suites that judge ceilings from outside: persistent connections, floods, and what overlapped by the handlers' own clocks."""
import contextlib
import json
import os
import socket
import subprocess
import threading
import time

from node import wait_for

# A handler that says when it ran: time.monotonic_ns() is one clock for every process of the machine.
SPAN = """import time
def handler(event, context):
    begin = time.monotonic_ns()
    time.sleep(event.get('sleep', 0.01))
    return {'begin': begin, 'end': time.monotonic_ns(), 'tag': event.get('tag')}
"""


class Answer:
    def __init__(self, status, headers, body, sent, answered):
        self.status, self.headers, self.body, self.sent, self.answered = status, headers, body, sent, answered

    def json(self):
        return json.loads(self.body)

    def span(self):
        """(begin, end) by the handler's clock, in seconds."""
        value = self.json()
        return value["begin"] / 1e9, value["end"] / 1e9

    def __repr__(self):
        return f"<{self.status} {self.body[:200]!r}>"


class Caller:
    """One persistent connection that waits for each answer before its next call."""

    def __init__(self, node, timeout=30):
        host, port = node.http.split(":")
        self.address, self.timeout, self.socket, self.buffer = (host, int(port)), timeout, None, b""
        self.query, self.credentials = getattr(node, "query", ""), getattr(node, "credentials", lambda tenant: {})

    def call(self, function, event=b"{}", tenant="acme", headers=None):
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        lines = [f"POST /v1/tenants/{tenant}/functions/{function}/invocations{self.query} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in {**self.credentials(tenant), **(headers or {})}.items()]
        return self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def send(self, data):
        """The answer; OSError where the connection ends before it."""
        if self.socket is None:
            self.socket, self.buffer = socket.create_connection(self.address, timeout=self.timeout), b""
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = time.monotonic()
        try:
            self.socket.sendall(data)
            head = self.take(lambda buffer: buffer.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in buffer else 0).decode("latin-1")
            lines = head.split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            size = int(headers.get("content-length", 0))
            body = self.take(lambda buffer: size if len(buffer) >= size else None) if size else b""
        except OSError:
            self.close()
            raise
        answered = time.monotonic()
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(lines[0].split()[1]), headers, body, sent, answered)

    def take(self, length):
        while not (count := length(self.buffer)):
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionResetError("the connection ended before the answer")
            self.buffer += part
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None


class Flood:
    """Callers side by side. `answers` holds what came back, `sent` counts what was sent, `lost` what had no answer."""

    def __init__(self, node, callers, function, event=b"{}", tenant="acme", headers=None, calls=None, seconds=None, patience=0.0):
        self.answers, self.sent, self.lost, self.lock = [], 0, 0, threading.Lock()
        self.left, self.end, self.stopped = calls, seconds and time.monotonic() + seconds, False
        self.arguments, self.patience = (function, event, tenant, headers), patience
        self.threads = [threading.Thread(target=self.run, args=(Caller(node),), daemon=True) for _ in range(callers)]
        for thread in self.threads:
            thread.start()

    def next(self):
        with self.lock:
            if self.stopped or (self.end and time.monotonic() > self.end) or self.left == 0:
                return False
            if self.left:
                self.left -= 1
            self.sent += 1
            return True

    def run(self, caller):
        while self.next():
            try:
                answer = caller.call(*self.arguments)
            except OSError:
                with self.lock:
                    self.lost += 1
                time.sleep(0.02)
                continue
            with self.lock:
                self.answers.append(answer)
            if answer.status != 200 and self.patience:
                time.sleep(self.patience)
        caller.close()

    def join(self):
        for thread in self.threads:
            while thread.is_alive():
                before = len(self.answers)
                thread.join(60)
                assert not thread.is_alive() or len(self.answers) > before, "no caller has had an answer for a minute"
        return self

    def stop(self):
        self.stopped = True
        return self.join()

    def ok(self):
        return [answer for answer in list(self.answers) if answer.status == 200]

    def refused(self):
        return [answer for answer in list(self.answers) if answer.status != 200]

    def spans(self):
        return [answer.span() for answer in self.ok()]


def overlap(spans):
    """The largest number of spans that had begun and not ended at one time."""
    # At equal times the end comes first: a seat that is free may be taken at once.
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans], key=lambda change: (change[0], change[1]))
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def running_at(spans, moment):
    return sum(begin <= moment < end for begin, end in spans)


def worst_window(answers, count, burst, period=1.0):
    """By how much the admitted calls exceed `burst + rate * T` in the worst window; not above 0 where the rate held.

    A call was admitted between its sending and its answer, so all calls within [first sent, last answered] were admitted in that window, whatever the network did."""
    worst = float("-inf")
    begins = sorted(answer.sent for answer in answers)
    for begin in begins:
        ends = sorted(answer.answered for answer in answers if answer.sent >= begin)
        for admitted, end in enumerate(ends, 1):
            worst = max(worst, admitted - burst - (end - begin) * count / period)
    return worst


def refusal(answer, status=429, code="throttled", **members):
    """The problem of a refused call; checks what every refusal promises."""
    assert answer.status == status, f"{answer.status} instead of {status}: {answer.body[:300]}"
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    value = answer.json()
    assert value["code"] == code, value
    for name, expected in members.items():
        assert value.get(name) == expected, f"{name} is {value.get(name)!r} instead of {expected!r}: {value}"
    return value


def retry_after(answer):
    text = answer.headers.get("retry-after")
    assert text and text.isdigit() and int(text) >= 1, f"Retry-After is {text!r}"
    return int(text)


def daemon(node):
    """The pid of the daemon: the spawner's child."""
    def found():
        out = subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()
        return int(out[0]) if out else None
    return wait_for(found, 10, "a daemon")


def resident(pid):
    """Bytes of a process that are in memory."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextlib.contextmanager
def most_memory(node):
    """A function of the most memory that the daemon took since, in MiB beyond what it has now."""
    pid, before, most, over = daemon(node), resident(daemon(node)), [0], threading.Event()

    def look():
        while not over.is_set():
            most[0] = max(most[0], resident(pid))
            time.sleep(0.01)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: (most[0] - before) >> 20
    finally:
        over.set()
        thread.join()
