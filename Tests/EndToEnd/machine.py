#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a node says of its machine: a disk that is nearly full, and its own log where a journal reads it."""
import json
import os
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import NO_DISK, TENANTS, Node, Suite, small_disk, wait_for  # noqa: E402

JOURNAL = "/run/systemd/journal/socket"


def figure(node, name):
    """A figure of the scrape; None where it has none such."""
    lines = node.request("GET", "/metrics")[2].decode().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(name + " ")), None)


def disk():
    with small_disk("64m") as base:
        return nearly_full(base) if base else NO_DISK


def nearly_full(base):
    told, program = f"{base}/s/data/told", f"{base}/tell"
    with open(program, "w") as file:
        file.write(f"#!/bin/sh\ncat >>{told}\necho >>{told}\n")
    os.chmod(program, 0o755)
    # 60 of 64 MiB are taken before it starts.
    with open(f"{base}/ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 60 << 20)
    node = Node({**TENANTS, "bulkhead.yaml": f"notify: [{{command: [{program}]}}]\n"}, state=f"{base}/s")
    try:
        node.start()
        alarms = lambda: [json.loads(line) for line in open(told)] if os.path.exists(told) else []  # noqa: E731
        first, = wait_for(alarms, 60, "the alarm of the disk")
        assert (first["alarm"], first["state"], first["tenant"], first["subject"]) == ("disk", "raised", "", "disk"), first
        assert f"of the disk of {base}/s/data are free" in first["text"], first
        assert figure(node, "bulkhead_disk_free_ratio") < 0.1 and 0 < figure(node, "bulkhead_disk_free_bytes") < 5 << 20
        os.remove(f"{base}/ballast")
        both = wait_for(lambda: len(alarms()) > 1 and alarms(), 60, "its end")
        assert [one["state"] for one in both] == ["raised", "recovered"], both
        assert figure(node, "bulkhead_disk_free_ratio") > 0.5
    finally:
        node.remove()


class Watched(Node):
    """Its standard error is a stream as the journal has one."""

    def __init__(self):
        super().__init__({**TENANTS, "bulkhead.yaml": "logs: {perTenant: 1MiB}\n"})
        self.stream, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def command(self):
        status = os.fstat(self.end.fileno())
        return ["env", f"JOURNAL_STREAM={status.st_dev}:{status.st_ino}", *super().command()]

    def start(self):
        # Node.start() opens the log: its words come from the stream here.
        self.log = self.end
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=self.end, start_new_session=True)
        line = self.process.stdout.readline().decode()
        assert line.startswith("READY "), (line, self.said())
        words = dict(w.split("=", 1) for w in line.split()[1:])
        self.http, self.control = words["http"], words["control"]
        return self

    def said(self):
        """What came over the stream until now."""
        self.stream.setblocking(False)
        try:
            return self.stream.recv(1 << 20).decode()
        except BlockingIOError:
            return ""

    def refuse(self):
        """A reload with a mistake in it, which the daemon says in its log."""
        with open(self.copied("acme"), "w") as file:
            file.write("tenant: acme\nquota:\n  concurrency: many\n")
        os.kill(self.process.pid, signal.SIGHUP)


def lines():
    """Without the journal's socket: each line has its priority."""
    if os.path.exists(JOURNAL):
        return "this machine has a journal: the system test looks there"
    node = Watched().start()
    try:
        got = [""]

        def heard():
            got[0] += node.said()
            return "<5>calls without a key are accepted" in got[0]
        wait_for(heard, 60, "a notice with its priority")
        node.refuse()
        # Three lines or more, one entry: each has its priority.
        wait_for(lambda: got.__setitem__(0, got[0] + node.said()) or "<3>the configuration is refused" in got[0], 60, "an error with its priority")
        # Nobody reads any more: the daemon neither waits nor ends.
        node.stream.close()
        node.refuse()
        assert node.request("GET", "/healthz")[0] == 200
    finally:
        node.stream.close()
        node.remove()
        node.end.close()


def fields():
    """With it: fields, and the journal gone and back."""
    if os.path.exists(os.path.dirname(JOURNAL)):
        return "this machine has a journal: the system test looks there"
    os.makedirs(os.path.dirname(JOURNAL))
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(JOURNAL)
    os.chmod(JOURNAL, 0o666)
    journal.settimeout(60)
    node = None
    try:
        node = Watched().start()

        def entry(word):
            while True:
                data = journal.recv(1 << 20)
                if word in data:
                    return data
        assert b"\nPRIORITY=5\n" in entry(b"MESSAGE=calls without a key"), "the priority of a notice"
        node.refuse()
        data = entry(b"the configuration is refused")
        assert b"PRIORITY=3\n" in data and b"SYSLOG_IDENTIFIER=bulkheadd\n" in data and b"acme.yaml:3:" in data, data
        assert "<5>" not in node.said(), "what the journal's socket took is said once"
        os.remove(JOURNAL)
        node.refuse()
        got = [""]
        wait_for(lambda: got.__setitem__(0, got[0] + node.said()) or "<3>the configuration is refused" in got[0], 60, "the same on standard error")
    finally:
        if node:
            node.stream.close()
            node.remove()
            node.end.close()
        journal.close()
        if os.path.exists(JOURNAL):
            os.remove(JOURNAL)
        os.rmdir(os.path.dirname(JOURNAL))


def main():
    suite = Suite("machine")
    for name, body in (("a disk that is nearly full is an alarm with an end, and a figure", disk), ("lines for a journal have priorities", lines),
                       ("a journal's socket gets fields, and may be gone", fields)):
        suite.check(name, body)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
