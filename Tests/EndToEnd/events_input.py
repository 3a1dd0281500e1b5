# SPDX-License-Identifier: Apache-2.0
"""Attacks on events by what is sent: too much, too large, to nobody, by odd names, to odd webhooks and onto a full disk."""
import http.server
import json
import os
import subprocess
import threading
import time

from node import NO_DISK, Node, python, small_disk, wait_for

ENDS = "def handler(event, context):\n    print('in', flush=True)\n"
DECLARED = "recursion: {maxDepth: 16, maxDescendants: 1000}\n"


def senders(suite, attack):
    def many():
        attack.function("flood", (
            "from concurrent.futures import ThreadPoolExecutor\ndef handler(event, context):\n    def send(n):\n        try:\n            return context.call_async('sink', n) and 1\n"
            "        except Exception as error:\n            return str(error)\n    with ThreadPoolExecutor(40) as pool:\n        found = list(pool.map(send, range(10001)))\n"
            "    print('sent', found.count(1), [one for one in found if one != 1], flush=True)\n"), "concurrency: 2\n", "flood")
        attack.function("sink", ENDS, tenant="flood")
        attack.send("flood", {}, "flood")
        wait_for(lambda: attack.output("flood", "flood"), 60, "the end of the sender")
        line = attack.output("flood", "flood")[0]
        assert line.startswith("sent 10000 ['") and "one invocation may send 10000 events" in line, line
    suite.check("the 10,001st event of one invocation is refused and the others are there", many)

    def sizes():
        attack.function("big", (
            "def handler(event, context):\n    for n in (6 << 20, (6 << 20) + 1):\n        for send, to in ((context.call_async, 'taker'), (context.emit, 'taken')):\n"
            "            try:\n                send(to, b'x' * n)\n                print('took', n, flush=True)\n"
            "            except Exception as error:\n                print('refused', n, error, flush=True)\n"), tenant="calm")
        attack.function("taker", "def handler(event, context):\n    print('got', len(event), flush=True)\n", "triggers: [{queue: key, name: taken}]\n", "calm")
        attack.send("big", {}, "calm")
        wait_for(lambda: len(attack.output("big", "calm")) >= 4, 30, "four answers")
        found = [line.split()[:2] for line in attack.output("big", "calm")]
        assert found == [["took", str(6 << 20)]] * 2 + [["refused", str((6 << 20) + 1)]] * 2, attack.output("big", "calm")
        wait_for(lambda: attack.output("taker", "calm").count(f"got {6 << 20}") == 2, 20, "both runs")
    suite.check("6 MiB pass through call_async and emit, one byte more is refused with words", sizes)

    def deleted():
        attack.function("short", ENDS, tenant="calm")
        id = attack.send("short", {}, "calm", {"Bulkhead-Delay": "2s"})
        run = attack.node.cli("delete", "calm/short")
        wait_for(lambda: attack.node.json("events", "show", id)["state"] == "dead", 20, f"the dead letter ({run.stderr})")
        assert "calm/short" in attack.node.json("events", "show", id)["reason"]
        attack.function("lost", ENDS, "async: {onSuccess: 'function:nobody'}\n", "calm")
        attack.send("lost", {}, "calm")
        wait_for(lambda: [e for e in attack.listed("calm", "dead") if e["function"] == "nobody"], 20, "the dead letter of the destination")
    suite.check("events of a deleted function and for a destination that does not exist are dead letters with a reason", deleted)

    def untriggered():
        slow = "import time\ndef handler(event, context):\n    print('ran', event['n'] if 'n' in event else event['key'], flush=True)\n    time.sleep(1)\n"
        triggers = "triggers: [{queue: key, name: orders}, {bucket: work, prefix: orders/, on: created}]\n"
        attack.function("orders", slow, "maxConcurrency: 1\n" + triggers, "calm")
        for n in range(10):
            status, _, body = attack.node.request("POST", "/q/calm/orders/orders", json.dumps({"n": n}).encode(), {"Content-Type": "application/json"})
            assert status == 202, (status, body)
            attack.put(f"work/orders/{n}", tenant="calm")
        wanted = {f"ran {n}" for n in range(10)} | {f"ran orders/{n}" for n in range(10)}

        def mine():
            return [e for e in attack.listed("calm") if e["function"] == "orders"]
        wait_for(lambda: len(mine()) == 20, 20, "all events")
        attack.function("orders", slow.replace("sleep(1)", "sleep(0)"), "maxConcurrency: 1\n", "calm")
        assert any(e["state"] == "ready" for e in mine()), "none waits any more: this shows nothing"
        status, _, body = attack.node.request("POST", "/q/calm/orders/orders", b'{"n": 10}', {"Content-Type": "application/json"})
        assert status == 404, (status, body)
        attack.put("work/orders/10", tenant="calm")
        wait_for(lambda: {e["state"] for e in mine()} == {"done"}, 60, "the end of all that waited")
        ran = [line for line in attack.output("orders", "calm") if line.startswith("ran ")]
        assert sorted(ran) == sorted(wanted) and len(mine()) == 20, (ran, len(mine()))
    suite.check("events whose triggers are deleted while they wait run all the same, once each, and no new one comes", untriggered)

    def tenantless():
        attack.function("left", ENDS, tenant="gone")
        id, due = attack.send("left", {}, "gone", {"Bulkhead-Delay": "3s"}), time.monotonic() + 3
        path = os.path.join(attack.node.config, "tenants.d", "gone.yaml")
        text = open(path).read()
        os.remove(path)
        assert attack.node.cli("reload").returncode == 0
        wait_for(lambda: time.monotonic() > due + 0.5, 20, "the event's time")
        assert attack.node.json("events", "show", id)["state"] in ("ready", "dead"), attack.node.json("events", "show", id)
        attack.tenants(gone=text)
        wait_for(lambda: attack.node.json("events", "show", id)["state"] in ("done", "dead"), 40, "the event's end")
    suite.check("an event of a tenant that was removed is not lost from sight", tenantless)


def limits(suite, attack):
    def paced():
        attack.function("paced", ENDS, tenant="slow")
        for _ in range(60):
            attack.send("paced", {}, "slow")
        wait_for(lambda: attack.count("paced", tenant="slow") == 60, 40, "all runs")
        wait_for(lambda: len(attack.listed("slow", "done")) == 60, 10, "all ends")
        used = {e["attempts"] for e in attack.listed("slow", "done")}
        assert used <= {0, 1} and len(used) == 1, used
    suite.check("events beyond a tenant's rate run in the end and use no attempt for it", paced)

    def alone():
        attack.function("alone", (
            "import os, time\ndef handler(event, context):\n    open('/buckets/work/alone/in' + context.request_id, 'x').close()\n"
            "    print('in', len([n for n in os.listdir('/buckets/work/alone') if n[:2] == 'in']), flush=True)\n    time.sleep(0.02)\n"
            "    os.remove('/buckets/work/alone/in' + context.request_id)\n"),
            "maxConcurrency: 1\nbuckets: {work: {access: write, prefix: alone/}}\n", "calm")
        for _ in range(40):
            attack.send("alone", {}, "calm")
        wait_for(lambda: len(attack.output("alone", "calm")) >= 40, 40, "all runs")
        assert set(attack.output("alone", "calm")) == {"in 1"}, set(attack.output("alone", "calm"))
    suite.check("with a concurrency of 1 two events never run at a time", alone)

    def bomb():
        attack.function("bomb", "def handler(event, context):\n    x = []\n    while True: x.append(b'x' * (1 << 20))\n", "async: {attempts: 1}\n", "calm")
        id = attack.send("bomb", {}, "calm")
        wait_for(lambda: attack.node.json("events", "show", id)["crashes"] >= 1, 20, "the crash")
        assert attack.send("pong", {}, "calm")
    suite.check("an event that eats its worker's memory is counted as a crash and the node goes on", bomb)

    def names():
        attack.function("names", (
            "import os\ndef handler(event, context):\n    print(ascii(event['key'])[:60], flush=True)\n    if event['key'] != 'names/start': return\n"
            "    base = b'/buckets/work/names/'\n    for name in (b'a\\nb', b'a\\xffb', b'd/' * 100 + b'x' * 200):\n"
            "        os.makedirs(os.path.dirname(base + name), exist_ok=True)\n        open(base + name, 'wb').write(b'x')\n"
            "    for make in (lambda: os.mkfifo(base + b'fifo'), lambda: os.symlink(b'/etc/passwd', base + b'link')):\n"
            "        try: make()\n        except PermissionError: print('denied', flush=True)\n"
            "    open(base + b'last', 'wb').write(b'x')\n"),
            "buckets: {work: write}\ntriggers: [{bucket: work, prefix: names/, on: created}]\n" + DECLARED, "calm")
        attack.put("work/names/start", tenant="calm")
        folder = os.path.join(attack.node.state, "data", "buckets", "calm", "work", "names")
        os.mkfifo(os.path.join(folder, "outer-fifo"))
        os.symlink("/etc/passwd", os.path.join(folder, "outer-link"))
        wait_for(lambda: any("names/last" in line for line in attack.output("names", "calm")), 20, "the run of the last object")
        assert not any("fifo" in line or "link" in line for line in attack.output("names", "calm")), attack.output("names", "calm")
    suite.check("names that are no keys, a FIFO and a link start nothing and stop nothing", names)

    def cron():
        attack.function("ticks", "import time\ndef handler(event, context):\n    print('in', event['time'], flush=True)\n    time.sleep(1.5)\n",
                        "triggers: [{cron: '* * * * * *', timezone: UTC, overlap: skip}]\n", "calm")
        attack.function("steady", "def handler(event, context):\n    print('in', event['time'], flush=True)\n", "triggers: [{cron: '* * * * * *', timezone: UTC}]\n", "calm")
        wait_for(lambda: len(attack.output("steady", "calm")) >= 7 and len(attack.output("ticks", "calm")) >= 2, 30, "seven runs of the fast one and two of the slow one")
        ticks, steady = attack.output("ticks", "calm"), attack.output("steady", "calm")
        # Each run of the slow one takes longer than a second: at most every second time is its own.
        assert len(ticks) <= len(steady) / 2 + 2 and len(set(steady)) == len(steady), (ticks, steady)
        for name in ("ticks", "steady"):
            attack.function(name, ENDS, tenant="calm")
    suite.check("cron fires each second beside a function that is slower, whose runs are skipped", cron)


class Odd(http.server.BaseHTTPRequestHandler):
    """A webhook's far end that does what no webhook should; which, its path says."""
    seen = []

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Odd.seen.append(self.path)
        if self.path == "/hang":
            time.sleep(14)
        status, length = {"/moved": (302, 0), "/gone": (410, 0), "/huge": (200, 100 << 20)}.get(self.path, (200, 0))
        try:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/followed")
            self.send_header("Content-Length", str(length))
            self.end_headers()
            for _ in range(length >> 20):
                self.wfile.write(b"x" * (1 << 20))
        except OSError:
            pass

    do_GET = do_POST

    def log_message(self, *words):
        pass


def webhooks(suite, attack):
    def odd():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for path in ("hang", "moved", "gone", "huge", "good"):
                attack.function(
                    f"to-{path}", ENDS, f"async: {{onSuccess: 'webhook:http://127.0.0.1:{server.server_port}/{path}'}}\n", "calm")
                attack.send(f"to-{path}", {}, "calm")
            wait_for(lambda: "/good" in Odd.seen, 15, "the delivery beside the others")
            wait_for(lambda: Odd.seen.count("/hang") >= 2 and Odd.seen.count("/moved") >= 3, 30, "new tries of what hangs and redirects")
            assert "/followed" not in Odd.seen
            assert all(Odd.seen.count(one) == 1 for one in ("/gone", "/huge", "/good")), Odd.seen
        finally:
            server.shutdown()
            server.server_close()
    suite.check("a webhook that hangs or redirects is tried again, 410 and an endless answer are the end, none is in another's way", odd)

    def unbucketed():
        attack.node.cli("bucket", "create", "calm/brief")
        attack.function("brief", ENDS, "triggers: [{bucket: brief, prefix: in/, on: created}]\n", "calm")
        attack.put("brief/in/one", tenant="calm")
        wait_for(lambda: attack.count("brief", tenant="calm") == 1, 15, "the run")
        run = attack.node.cli("bucket", "delete", "calm/brief", "--force")
        assert run.returncode == 0, run.stderr.decode()
        run = attack.node.cli("bucket", "create", "calm/brief")
        assert run.returncode == 0, run.stderr.decode()
        attack.put("brief/in/two", tenant="calm")
        wait_for(lambda: attack.count("brief", tenant="calm") == 2, 15, "the run after the bucket was made anew")
    suite.check("a bucket that is deleted and made anew under its trigger still starts it", unbucketed)


    def old_times():
        attack.function("keeper", (
            "import os\ndef handler(event, context):\n    path = '/buckets/work/same/k'\n    with open(path, 'w') as file:\n"
            "        file.write('x')\n        file.flush()\n        os.utime(path, (1, 1))\n"), "buckets: {work: {access: write, prefix: same/}}\n", "calm")
        attack.function("same", ENDS, "triggers: [{bucket: work, prefix: same/, on: created}]\n", "calm")
        for n in range(3):
            assert attack.node.invoke("keeper", b"{}", "calm")[0] == 200
            wait_for(lambda: attack.count("same", tenant="calm") == n + 1, 15, f"run {n + 1}")
    suite.check("an object that is written anew with its old size and time is told of each time", old_times)


def full_disk(suite, attack):
    def full():
        with small_disk("40m") as base:
            return fill(base) if base else NO_DISK

    def fill(base):
        node = Node({"tenants.d/acme.yaml": attack.events.tenant("acme")}, state=os.path.join(base, "s"))
        try:
            node.start()
            node.deployed(python("echo"), {"main.py": attack.events.ECHO})
            taken, refused = [], {}
            for n in range(80):
                try:
                    status, _, body = attack.events.send(node, "echo", b"x" * (1 << 20), headers={"Bulkhead-Delay": "40s"})
                except OSError as error:
                    status, body = type(error).__name__, b""
                if status == 202:
                    taken.append(json.loads(body)["id"])
                else:
                    refused[status] = refused.get(status, 0) + 1
                    time.sleep(0.05)
            assert len(taken) > 5 and refused, (len(taken), refused)
            strange = {status for status in refused if status not in (429, 500, 503, 507) and not isinstance(status, str)}
            assert not strange, refused
            subprocess.run(["mount", "-o", "remount,size=200m", base], check=True)
            wait_for(lambda: attack.events.alive(node), 30, "the daemon's return")
            id = wait_for(lambda: accepted(node), 30, "an event that is taken again")
            wait_for(lambda: node.json("events", "show", id)["state"] == "done", 20, "its run")
            lost = [id for id in taken if node.cli("events", "show", id).returncode != 0]
            assert not lost, f"{len(lost)} of {len(taken)} acknowledged events are lost: {refused}"
        finally:
            node.remove()

    def accepted(node):
        try:
            status, _, body = node.invoke("echo", b"{}", headers={"Bulkhead-Invocation-Type": "async"})
        except OSError:
            return None
        return json.loads(body)["id"] if status == 202 else None
    suite.check("a full disk refuses senders with an error of its own, loses nothing that was taken, and is over when there is room", full)


PARTS = (senders, limits, webhooks, full_disk)
