# SPDX-License-Identifier: Apache-2.0
"""A real node for the suites: started through the CLI, asked over HTTP and the control socket, stopped and checked for leftovers."""
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("BULKHEAD_BIN", os.path.join(ROOT, ".build", "bin"))

# How many times longer than on a machine of today things may take; an emulated one is no slower to be wrong.
PATIENCE = float(os.environ.get("BULKHEAD_PATIENCE", "1"))
# How many times longer a test's own functions run and flood, so that callers that come slower find them at it: that time is spent at each run, not only where something is wrong.
PACE = min(PATIENCE, 3)


# Where a package has been installed, the programs that no user starts, and what workers see, have places of their own.
IS_PACKAGED = BIN == "/usr/bin"
SHARE = "/usr/share/bulkhead" if IS_PACKAGED else os.path.join(ROOT, "Sandbox")


def beside(name):
    """A program that no user starts."""
    return os.path.join("/usr/lib/bulkhead" if IS_PACKAGED else BIN, name)


def wait_for(condition, seconds=20, what="the condition"):
    """The first true value of `condition()`; fails after `seconds`, or more of them where the machine is known to be slow."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


@contextlib.contextmanager
def small_disk(size):
    """A folder that is a disk of its own with so much room (`40m`), to be given more by `mount -o remount,size=`; None where none can be mounted."""
    base = tempfile.mkdtemp(prefix="bulkhead-disk-", dir="/var/tmp")
    os.chmod(base, 0o755)
    is_there = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", base], capture_output=True, check=False).returncode == 0
    try:
        yield base if is_there else None
    finally:
        if is_there:
            subprocess.run(["umount", "-l", base], check=True)
        os.rmdir(base)


NO_DISK = "no tmpfs can be mounted here"


class Node:
    def __init__(self, config=None, state=None, port=0):
        self.base = tempfile.mkdtemp(prefix="bulkhead-test-", dir="/var/tmp")
        os.chmod(self.base, 0o755)
        self.state = state or os.path.join(self.base, "s")
        self.port, self.process, self.control = port, None, None
        self.config = None
        if config is not None:
            self.config = os.path.join(self.base, "config")
            os.makedirs(os.path.join(self.config, "tenants.d"))
            for name, text in config.items():
                os.makedirs(os.path.dirname(os.path.join(self.config, name)), exist_ok=True)
                with open(os.path.join(self.config, name), "w") as file:
                    file.write(text)

    def command(self):
        words = [os.path.join(BIN, "bulkhead"), "up", "--state", self.state, "--port", str(self.port)]
        return words + (["--config", self.config] if self.config else [])

    def start(self):
        self.log = open(os.path.join(self.base, "log"), "ab")
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=self.log, start_new_session=True)
        line = self.process.stdout.readline().decode()
        if not line.startswith("READY "):
            self.process.wait(10)
            raise AssertionError(f"no READY line but {line!r}: {self.errors()}")
        words = dict(w.split("=", 1) for w in line.split()[1:])
        self.http, self.control = words["http"], words["control"]
        return self

    def copied(self, name):
        """The daemon's copy of a tenant's file, to be changed: the one file with all tenants is made a folder again, which a daemon reads as well."""
        folder = os.path.join(self.state, "data", "config", "tenants.d")
        if not os.path.isdir(folder):
            with open(folder, "rb") as file:
                data = file.read()
            owner, count, length = os.stat(folder), *struct.unpack_from("<II", data, 12)
            place, content = 20, 20 + length
            os.remove(folder)
            os.mkdir(folder, 0o700)
            os.chown(folder, owner.st_uid, owner.st_gid)
            for _ in range(count):
                end = place + 1 + data[place]
                size, = struct.unpack_from("<I", data, end)
                path = os.path.join(folder, data[place + 1:end].decode())
                with open(path, "wb") as file:
                    file.write(data[content:content + size])
                os.chown(path, owner.st_uid, owner.st_gid)
                place, content = end + 36, content + size
        return os.path.join(folder, name + ".yaml")

    def errors(self):
        with open(os.path.join(self.base, "log"), errors="replace") as file:
            return file.read()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(20) == 0, f"the node ended with {self.process.returncode}: {self.errors()[-500:]}"
        if self.process:
            self.process.stdout.close()
            self.log.close()
        self.process = None

    def cgroup(self):
        with open(os.path.join(self.state, "spawner.policy")) as file:
            return next(line.split()[1] for line in file if line.startswith("cgroup-name"))

    def leftovers(self):
        """What is left of the node on this host, as sentences."""
        found = []
        name = self.cgroup()
        for line in open("/proc/self/mounts"):
            fields = line.split()
            if fields[2] in ("cgroup", "cgroup2") and os.path.isdir(os.path.join(fields[1], name)):
                found.append(f"cgroup {fields[1]}/{name}")
            if self.state in fields[1]:
                found.append(f"mount {fields[1]}")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                status = open(f"/proc/{pid}/status").read()
                uid = int(status.split("Uid:")[1].split()[0])
                command = open(f"/proc/{pid}/cmdline").read()
            except (OSError, IndexError):
                continue
            if uid in self.uids() or (self.state in command and "bulkhead-spawner" in command):
                found.append(f"process {pid} of uid {uid}: {command[:60]}")
        return found

    def uids(self):
        with open(os.path.join(self.state, "spawner.policy")) as file:
            first, count = next(map(int, line.split()[1:]) for line in file if line.startswith("uid-range"))
        return range(first - 1, first + count)

    def remove(self):
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    # --- asking

    def cli(self, *words, stdin=b"", timeout=60):
        return subprocess.run([os.path.join(BIN, "bulkhead"), *words, "--state", self.state], input=stdin, capture_output=True, timeout=timeout)

    def json(self, *words):
        run = self.cli(*words, "--json")
        assert run.returncode == 0, run.stderr.decode()
        return json.loads(run.stdout)

    def until(self, tenant, running, queued=0, seconds=30):
        """Waits until at least so many calls of a tenant have a seat, and so many wait for one."""
        def there():
            value = self.json("quota", "show", tenant)
            return value["concurrency"]["used"] >= running and value["queue"]["used"] >= queued
        wait_for(there, seconds, f"{running} calls of {tenant} that run and {queued} that wait")

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, body) over TCP."""
        connection = http.client.HTTPConnection(self.http, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def credentials(self, tenant):
        """Headers by which a tenant's caller is known: none, for without keys callers from this machine need none."""
        return {}

    def invoke(self, function, body=b"", tenant="acme", headers=None, timeout=60):
        all_headers = {"Content-Type": "application/json", **self.credentials(tenant), **(headers or {})}
        return self.request("POST", f"/v1/tenants/{tenant}/functions/{function}/invocations", body, all_headers, timeout)

    def has_read(self, connection):
        """Waits until the server has taken everything that was sent on a connection to it."""
        # proc_net_tcp(5): local and remote address as hexadecimal, state 1 is established, the sizes of the two queues.
        mine, theirs = (f"{address[1]:04X}" for address in (connection.getsockname(), connection.getpeername()))

        def taken():
            with open("/proc/net/tcp") as file:
                rows = [line.split() for line in file][1:]
            ends = [row for row in rows if row[3] == "01" and (row[1].split(":")[1], row[2].split(":")[1]) in ((mine, theirs), (theirs, mine))]
            return len(ends) == 2 and all(row[4] == "00000000:00000000" for row in ends)
        wait_for(taken, 20, "the server's reading")

    def raw(self, text, seconds=5):
        """What the server answers to exactly these bytes."""
        host, port = self.http.split(":")
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            connection.sendall(text)
            out = b""
            try:
                while data := connection.recv(65536):
                    out += data
            except (TimeoutError, ConnectionResetError):
                pass
            return out

    def deploy(self, manifest, files, tenant="acme"):
        """Deploys a function made of texts; returns the finished process."""
        with tempfile.TemporaryDirectory(dir=self.base) as folder:
            for name, content in {"function.yaml": manifest, **files}.items():
                path = os.path.join(folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                data = content if isinstance(content, bytes) else content.encode()
                with open(path, "wb") as file:
                    file.write(data)
                os.chmod(path, 0o755 if data[:2] == b"#!" or data[:4] == b"\x7fELF" else 0o644)
            return self.cli("deploy", folder, "--tenant", tenant)

    def deployed(self, manifest, files, tenant="acme"):
        run = self.deploy(manifest, files, tenant)
        assert run.returncode == 0, run.stderr.decode()
        return run.stdout.decode().strip()


TENANTS = {
    "tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 8, queue: 4, memory: 1GiB, cpu: 2.0, processes: 512}\n",
    "tenants.d/globex.yaml": "tenant: globex\nquota: {concurrency: 8, queue: 20, memory: 1GiB, cpu: 2.0, processes: 512, storage: 2MiB}\n",
}


def python(name, extra=""):
    # An interpreter that starts takes some of it.
    timeout = "" if "timeout:" in extra else "timeout: 5s\n" if PATIENCE == 1 else "timeout: 30s\n"
    return f"function: {name}\nruntime: python3\nhandler: main.handler\nmemory: 96MiB\n{timeout}{extra}"


class Suite:
    """Runs functions named test_*; prints a line each and the closing line."""

    def __init__(self, title):
        self.title, self.passed, self.failed, self.skipped = title, 0, [], []

    def check(self, name, body):
        try:
            reason = body()
        except Exception as error:  # noqa: BLE001 - a failing test is what this reports
            import traceback
            self.failed.append(name)
            print(f"FAILED  {self.title}: {name}: {type(error).__name__}: {error}")
            traceback.print_exc()
            return
        if isinstance(reason, str):
            self.skipped.append(name)
            print(f"skipped {self.title}: {name}: {reason}")
        else:
            self.passed += 1
            print(f"ok      {self.title}: {name}", flush=True)

    def close(self):
        print(f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped", flush=True)
        return 1 if self.failed or not self.passed else 0
