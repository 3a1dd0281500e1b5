#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a service manager sees of a node: this file takes its place, with a socket for its datagrams and a listener to hand over."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from node import TENANTS, Node, Suite, python, wait_for


class Managed(Node):
    """A node that is started as a service manager starts it."""

    WATCHDOG = 4  # seconds: the daemon is asked every second and has two for its answer

    def __init__(self):
        super().__init__(TENANTS)
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.bind(os.path.join(self.base, "notify"))
        self.inbox.setblocking(False)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heard = []

    def start(self):
        self.log = open(os.path.join(self.base, "log"), "ab")
        fd = self.listener.fileno()
        # $$ is the number that the command keeps. The listener is descriptor 3 in it.
        line = f"exec 3<&{fd} {fd}<&- ; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec {' '.join(self.command())}"
        environment = {**os.environ, "NOTIFY_SOCKET": os.path.join(self.base, "notify"), "WATCHDOG_USEC": str(self.WATCHDOG * 1_000_000)}
        self.process = subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE, stderr=self.log, start_new_session=True, env=environment, pass_fds=[fd])
        words = dict(w.split("=", 1) for w in self.process.stdout.readline().decode().split()[1:])
        self.http, self.control = words["http"], words["control"]
        return self

    def said(self):
        """What has come since it was last forgotten."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.append(self.inbox.recv(65536).decode())
        return list(self.heard)

    def forget(self):
        self.said()
        self.heard.clear()

    def hears(self, *wanted, seconds=20):
        """The first datagram that has all of these; it and what came before are forgotten."""
        def search():
            for index, message in enumerate(self.said()):
                if all(word in message for word in wanted):
                    del self.heard[:index + 1]
                    return message
            return None
        return wait_for(search, seconds, f"a message with {wanted}; the log: {self.errors()[-300:]}")

    def signal_daemon(self, number):
        with contextlib.suppress(ProcessLookupError):
            if pid := self.daemon():
                os.kill(pid, number)

    def daemon(self):
        run = subprocess.run(["pgrep", "-P", str(self.process.pid), "-x", "bulkheadd"], capture_output=True, text=True, check=False)
        return int(run.stdout.split()[0]) if run.returncode == 0 else 0

    def answers(self):
        try:
            return self.invoke("echo", b'"x"')[0] == 200
        except OSError:
            return False


def main():
    suite = Suite("service")
    node = Managed()

    def ready():
        began = time.monotonic()
        node.start()
        print(f"figure: from start to READY: {time.monotonic() - began:.2f} s")
        node.hears("READY=1", "STATUS=Serves on 127.0.0.1:")
    suite.check("it says that it is ready", ready)

    def inherited():
        assert node.http == "127.0.0.1:%d" % node.listener.getsockname()[1], node.http
        node.deployed(python("echo"), {"main.py": "def handler(e, c):\n    return e\n"})
        assert node.answers()
        environment = open(f"/proc/{node.daemon()}/environ").read()
        assert "NOTIFY_SOCKET" not in environment and "LISTEN_" not in environment, "the daemon could speak to the service manager"
    suite.check("it serves on the listener that it was given, and the daemon knows nothing of its manager", inherited)

    def watchdog():
        for _ in range(3):
            node.hears("WATCHDOG=1", seconds=Managed.WATCHDOG)
    suite.check("it reports in, in time", watchdog)

    def operators():
        def asks(*identity):
            run = subprocess.run(
                ["setpriv", *identity, sys.executable, "-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
                 "s.sendall(b'GET /v1/version HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'); print(s.recv(99).split()[1].decode())", node.control],
                capture_output=True, text=True, check=False, timeout=20)
            return run.stdout.strip() or run.stderr[-200:]
        group = os.stat(f"/proc/{node.daemon()}").st_gid
        assert group > 0
        os.chmod(node.control, 0o666)  # so that not the file's mode decides
        try:
            stranger = ["--reuid=65533", "--regid=65533"]
            assert asks(*stranger, "--clear-groups") == "403", asks(*stranger, "--clear-groups")
            assert asks(*stranger, f"--groups=65531,{group + 1}") == "403"
            assert asks(*stranger, f"--groups=65531,{group}") == "200", asks(*stranger, f"--groups=65531,{group}")
            assert asks("--reuid=65533", f"--regid={group}", "--clear-groups") == "200"
        finally:
            os.chmod(node.control, 0o660)
    suite.check("the control socket answers the node's group, as first or further one, and no stranger", operators)

    def reload():
        path = node.copied("acme")
        good = open(path).read()
        open(path, "w").write("tenant: acme\nquota:\n  concurrency: many\n")
        node.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in node.hears("RELOADING=1")
        assert "acme.yaml:3:" in node.hears("READY=1", "refused")
        open(path, "w").write(good.replace("concurrency: 8", "concurrency: 9"))
        node.process.send_signal(signal.SIGHUP)
        node.hears("RELOADING=1")
        node.hears("READY=1", "read again, 1 changes")
    suite.check("a reload by signal is told, with its outcome", reload)

    def hung():
        before = node.daemon()
        os.kill(before, signal.SIGSTOP)
        began = time.monotonic()
        time.sleep(0.3)  # an answer that was on its way
        node.forget()
        wait_for(lambda: node.daemon() not in (0, before), 20, "a new daemon")
        assert time.monotonic() - began < 2 * Managed.WATCHDOG, "too late"
        wait_for(node.answers, 20, "an answer")
        assert "has not answered for 2 s" in node.errors()
        said = node.said()
        assert not [m for m in said[:next(i for i, m in enumerate(said) if "READY=1" in m)] if "WATCHDOG=1" in m], ("reported in for a hung daemon", said)
    suite.check("a hung daemon is ended and the next call answered", hung)

    def quiet():
        # A manager's patience ends where new daemons do not help: nothing is said for one that starts and hangs.
        def stop_daemons(seconds):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                node.signal_daemon(signal.SIGSTOP)
                time.sleep(0.02)
        stop_daemons(1)
        node.forget()
        stop_daemons(Managed.WATCHDOG)
        said = node.said()
        assert not [m for m in said if "WATCHDOG=1" in m], said
        wait_for(lambda: node.signal_daemon(signal.SIGCONT) or node.answers(), 30, "an answer")
    suite.check("while no daemon lives, it does not report in", quiet)

    def end():
        node.process.send_signal(signal.SIGTERM)
        node.hears("STOPPING=1")
        assert node.process.wait(20) == 0
        assert node.leftovers() == []
        node.listener.settimeout(1)
        socket.create_connection(node.listener.getsockname(), timeout=5).close()  # the listener is the manager's and lives on
    suite.check("it says that it stops, and leaves the listener", end)
    node.remove()

    def misconfigured():
        other = Managed()
        path = os.path.join(other.config, "tenants.d", "acme.yaml")
        open(path, "w").write("tenant: acme\nquota:\n  concurrency: many\n")
        try:
            other.start()
        except KeyError:
            pass
        assert other.process.wait(20) == 78 and "acme.yaml:3:" in other.errors(), (other.process.returncode, other.errors())
        other.remove()
    suite.check("a broken configuration ends it with the status that forbids a restart", misconfigured)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
