#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The way out of workers: what a function with `network: egress` reaches, what it never does, and what is said of it."""
import hashlib
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ceilings_reports import control, samples  # noqa: E402
from node import Node, Suite, python, wait_for  # noqa: E402

BLOB = bytes(range(256)) * 20480  # 5 MiB
FETCH = """
import hashlib, http.client, os, socket, urllib.request, urllib.error

def handler(event, context):
    return globals()[event.pop('do')](**event)

def fetch(url, data=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data and data.encode()), timeout=30) as answer:
            body = answer.read()
            return {'status': answer.status, 'length': len(body), 'sha256': hashlib.sha256(body).hexdigest(), 'text': body[:200].decode('latin-1')}
    except urllib.error.HTTPError as error:
        return {'status': error.code, 'text': error.read().decode()}

def tunnel(host, port):
    connection = http.client.HTTPConnection('127.0.0.1', 3128, timeout=30)
    connection.set_tunnel(host, port)
    try:
        connection.request('GET', '/hello')
        return {'text': connection.getresponse().read().decode()}
    except OSError as error:
        return {'error': str(error)}

def direct(host, port, kind):
    try:
        with socket.socket(socket.AF_INET, getattr(socket, kind)) as one:
            one.settimeout(5)
            one.connect((host, port))
            one.send(b'x')
            return {'reached': True}
    except OSError as error:
        return {'error': type(error).__name__, 'number': error.errno}

def environment():
    return {key: value for key, value in os.environ.items() if 'proxy' in key.lower()}

held = []
def hold(port, count):
    answers = []
    for _ in range(count):
        one = socket.create_connection(('127.0.0.1', 3128), timeout=20)
        one.sendall(f'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n'.encode())
        answers.append(one.recv(200).decode().split('\\r\\n')[0])
        held.append(one)
    return answers

def garbage():
    answers = []
    for text in [b'\\0' * 100 + b'\\r\\n\\r\\n', b'GET / HTTP/1.1\\r\\n\\r\\n', b'CONNECT [::1 HTTP/1.1\\r\\n\\r\\n', b'A' * 40000]:
        with socket.create_connection(('127.0.0.1', 3128), timeout=20) as one:
            try:
                one.sendall(text)
                answers.append(one.recv(200).decode().split('\\r\\n')[0])
            except OSError as error:
                answers.append(type(error).__name__)
    return answers
"""


class Site:
    """A server in the world outside: text, a large body, an echo."""

    def __init__(self):
        site = self
        self.open = set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                site.open.add(self.connection)

            def finish(self):
                site.open.discard(self.connection)
                super().finish()

            def do_GET(self):  # noqa: N802
                self.answer(BLOB if self.path == "/blob" else b"hello " + self.headers["Host"].encode())

            def do_POST(self):  # noqa: N802
                self.answer(self.rfile.read(int(self.headers["Content-Length"])))

            def answer(self, body):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def tenant(name, extra=""):
    return f"tenant: {name}\nquota: {{concurrency: 16, queue: 100, memory: 2GiB, cpu: 2.0, processes: 512}}\n{extra}"


def asked(node, tenant="acme", function="out", **event):
    status, _, body = node.invoke(function, json.dumps(event).encode(), tenant)
    assert status == 200, (status, body)
    return json.loads(body)


def logged(node, function="out", tenant="acme"):
    status, _, body = node.request("GET", f"/v1/tenants/{tenant}/functions/{function}/logs?tail=1000")
    assert status == 200, body
    return [entry["text"] for entry in map(json.loads, body.splitlines()) if entry["stream"] == "supervisor"]


def figure(node, name, **labels):
    return samples(control(node, "/metrics")).get((name, tuple(sorted(labels.items()))), 0)


def reach(suite, node, site):
    out = python("out", "network: egress\nworkers: {max: 1}\n").replace("timeout: 5s", "timeout: 60s")

    def permission():
        run = node.deploy(python("out", "network: egress\n"), {"main.py": FETCH}, "closed")
        assert run.returncode != 0 and b"network: egress" in run.stderr, run.stderr
        node.deployed(python("inside"), {"main.py": FETCH}, "acme")
        assert asked(node, function="inside", do="environment") == {}
        answer = asked(node, function="inside", do="direct", host="127.0.0.1", port=3128, kind="SOCK_STREAM")
        assert answer["number"] == 97, f"EAFNOSUPPORT, not {answer}"
    suite.check("a tenant without permission is refused at deploy, and a function without `network` has no socket for it", permission)

    def fetches():
        node.deployed(out, {"main.py": FETCH})
        assert set(asked(node, do="environment")) >= {"http_proxy", "https_proxy"}
        # Another spelling of 127.0.0.1, for which clients make no exception.
        answer = asked(node, do="fetch", url=f"http://127.1:{site.port}/blob")
        assert (answer["status"], answer["sha256"]) == (200, hashlib.sha256(BLOB).hexdigest()), answer
        assert asked(node, do="tunnel", host="127.0.0.1", port=site.port)["text"] == f"hello 127.0.0.1:{site.port}"
        answer = asked(node, do="fetch", url=f"http://world.example:{site.port}/")
        assert answer["status"] == 502 and "not known" in answer["text"], answer
    suite.check("a function reaches what its tenant's file names, through the proxy that its environment names", fetches)

    def whole():
        node.deployed(python("raw", "network: egress\n").replace("timeout: 5s", "timeout: 60s"), {"main.py": RAW})
        answer = asked(node, function="raw", port=site.port, path="/blob", body="")
        assert (answer["length"], answer["sha256"]) == (len(BLOB), hashlib.sha256(BLOB).hexdigest()), answer
        answer = asked(node, function="raw", port=site.port, path="/echo", body="x" * 300_000)
        assert answer["length"] == 300_000, answer
        wait_for(lambda: figure(node, "bulkhead_egress_bytes_total", tenant="acme", direction="received") >= len(BLOB), 10, "the count of bytes")
        assert figure(node, "bulkhead_egress_bytes_total", tenant="acme", direction="sent") >= 300_000
        wait_for(lambda: any(f"egress to 127.0.0.1:{site.port}: " in line for line in logged(node, "raw")), 10, "the line in the log")
    suite.check("a plain request of the proxy's own form brings 5 MiB and takes 300 kB whole, counted and logged", whole)

    def nowhere_else():
        here = socket.socket()
        here.bind(("127.0.0.1", 0))
        here.listen(8)
        try:
            answer = asked(node, do="direct", host="127.0.0.1", port=here.getsockname()[1], kind="SOCK_STREAM")
            assert answer.get("error") == "ConnectionRefusedError", f"loopback is its own: {answer}"
        finally:
            here.close()
        for host, port, kind in [("1.1.1.1", 443, "SOCK_STREAM"), ("8.8.8.8", 53, "SOCK_DGRAM"), ("169.254.169.254", 80, "SOCK_STREAM")]:
            answer = asked(node, do="direct", host=host, port=port, kind=kind)
            assert answer.get("number") == 101, f"ENETUNREACH for {host}, not {answer}"
        for host, word in [("169.254.169.254", "403"), ("10.0.0.1", "403"), ("localhost", "403"), ("0.0.0.0", "403")]:
            answer = asked(node, tenant="strict", do="tunnel", host=host, port=site.port)
            assert word in answer.get("error", ""), (host, answer)
        own = int(node.http.split(":")[1])
        assert "403" in asked(node, tenant="loose", do="tunnel", host="127.0.0.1", port=own)["error"], "the node's own port"
    for name in ["strict", "loose"]:
        node.deployed(out, {"main.py": FETCH}, name)
    suite.check("it reaches nothing else: no interface but its own loopback, no private address, not the node itself", nowhere_else)

    def ceilings():
        answers = asked(node, tenant="strict", do="hold", port=site.port, count=3)
        assert all("403" in answer for answer in answers), answers
        answers = asked(node, tenant="loose", do="hold", port=site.port, count=6)
        assert sum(" 200 " in answer for answer in answers) == 4 and sum(" 429 " in answer for answer in answers) == 2, answers
        assert figure(node, "bulkhead_egress_connections", tenant="loose") == 4
        pid = next(row["pid"] for row in node.json("ps") if row.get("tenant") == "loose")
        before = len(site.open)
        assert before >= 4
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: figure(node, "bulkhead_egress_connections", tenant="loose") == 0, 20, "the end of its connections")
        wait_for(lambda: len(site.open) <= before - 4, 20, "their end at the other side")
    suite.check("a tenant has as many connections as its file says, and a worker's end with it", ceilings)

    def nonsense():
        answers = asked(node, do="garbage")
        assert all(" 400 " in answer or "Reset" in answer or "BrokenPipe" in answer for answer in answers) and " 400 " in answers[0], answers
        assert asked(node, do="tunnel", host="127.0.0.1", port=site.port)["text"].startswith("hello")
    suite.check("what is no request is refused and harms nobody", nonsense)

    def bandwidth():
        node.deployed(python("raw", "network: egress\n").replace("timeout: 5s", "timeout: 60s"), {"main.py": RAW}, "slow")
        began = time.monotonic()
        answer = asked(node, tenant="slow", function="raw", port=site.port, path="/blob", body="")
        took = time.monotonic() - began
        assert answer["sha256"] == hashlib.sha256(BLOB).hexdigest()
        # Without the bound it takes a tenth of a second; what the kernel's buffers hold at the end comes at once.
        assert took > 2.5, f"5 MiB at 1 MiB/s came in {took:.1f} s"
    suite.check("a tenant's bandwidth holds", bandwidth)

    def posture():
        worker = next(row for row in node.json("ps") if row.get("function") == "out" and row.get("tenant") == "acme")
        run = node.cli("inspect", worker["worker"])
        assert run.returncode == 0, run.stdout
    suite.check("a worker with a way out has no hole, seen from outside", posture)


RAW = """
import hashlib, socket
def handler(event, context):
    with socket.create_connection(('127.0.0.1', 3128), timeout=50) as one:
        body = event['body'].encode()
        method = 'POST' if body else 'GET'
        head = f"{method} http://127.0.0.1:{event['port']}{event['path']} HTTP/1.1\\r\\nContent-Length: {len(body)}\\r\\nProxy-Connection: keep-alive\\r\\n\\r\\n"
        one.sendall(head.encode() + body)
        got = b''
        while True:
            data = one.recv(1 << 16)
            if not data:
                break
            got += data
    head, _, rest = got.partition(b'\\r\\n\\r\\n')
    return {'length': len(rest), 'sha256': hashlib.sha256(rest).hexdigest(), 'head': head.decode()}
"""


def changes(suite, node, site):
    def restart():
        worker = next(row for row in node.json("ps") if row.get("function") == "out" and row.get("tenant") == "acme")["worker"]
        run = node.cli("restart")
        assert run.returncode == 0, run.stderr
        assert asked(node, do="tunnel", host="127.0.0.1", port=site.port)["text"].startswith("hello")
        after = next(row for row in node.json("ps") if row.get("function") == "out" and row.get("tenant") == "acme")["worker"]
        assert after == worker, "the worker was kept"
    suite.check("after `bulkhead restart` the same worker goes out through the new daemon", restart)

    def reload():
        with open(os.path.join(node.config, "tenants.d/acme.yaml"), "w") as file:
            file.write(tenant("acme"))
        run = node.cli("reload")
        assert run.returncode == 0 and b"network" in run.stdout, run
        assert "403" in asked(node, do="tunnel", host="127.0.0.1", port=site.port)["error"]
    suite.check("a reload that takes `network` away holds for workers that live", reload)


def main():
    suite = Suite("egress")
    site = Site()
    own = "network: egress\negress: {ports: [%s], networks: [127.0.0.1/32]%s}\n"
    node = Node({
        "tenants.d/acme.yaml": tenant("acme", own % (site.port, "")), "tenants.d/closed.yaml": tenant("closed"),
        "tenants.d/strict.yaml": tenant("strict", f"network: egress\negress: {{ports: [{site.port}]}}\n"),
        "tenants.d/loose.yaml": "", "tenants.d/slow.yaml": tenant("slow", own % (site.port, ", bandwidth: 1MiB")),
    })
    # Its own port is not known before it runs: every port is named that it may get.
    node.port = free_port()
    with open(os.path.join(node.config, "tenants.d/loose.yaml"), "w") as file:
        file.write(tenant("loose", own % (f"{site.port}, {node.port}", ", connections: 4")))
    try:
        node.start()
        reach(suite, node, site)
        changes(suite, node, site)
    finally:
        node.remove()
        site.server.shutdown()
    return suite.close()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
