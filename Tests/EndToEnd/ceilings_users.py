# SPDX-License-Identifier: Apache-2.0
"""End users inside a tenant, and the keys that tell tenants and users apart."""
import json
import threading
import time

from load import SPAN, Caller, Flood, daemon, overlap, percentile, refusal, resident
from node import Node, python, wait_for

QUOTA = "quota: {concurrency: 64, queue: 1000, memory: 1GiB, cpu: 2.0, processes: 1000}\n"
CONFIG = {
    "tenants.d/acme.yaml": f"tenant: acme\n{QUOTA}users: {{key: 'header:X-User', default: {{concurrency: 2}}}}\n",
    "tenants.d/small.yaml": f"tenant: small\n{QUOTA.replace('1000, m', '10, m')}users: {{key: 'header:X-User', default: {{concurrency: 2}}}}\n",
    "tenants.d/keyed.yaml": f"tenant: keyed\n{QUOTA}users: {{key: key, default: {{concurrency: 2}}}}\n",
    "tenants.d/plain.yaml": f"tenant: plain\n{QUOTA}",
    "tenants.d/crowd.yaml": f"tenant: crowd\n{QUOTA}users: {{key: 'header:X-User', default: {{concurrency: 2, rate: 20/s}}}}\n",
}
MANY = "concurrency: 32\n"


def run(suite):
    node = Node(CONFIG).start()
    try:
        for tenant in ("acme", "keyed", "plain", "crowd"):
            node.deployed(python("span", MANY), {"main.py": SPAN}, tenant)
        users(suite, node)
        keys(suite, node)
    finally:
        node.remove()


def users(suite, node):
    def seats():
        ann = Flood(node, 16, "span", {"sleep": 0.05}, headers={"X-User": "ann"}, seconds=2.5)
        node.until("acme", 2)
        ben = Flood(node, 2, "span", {"sleep": 0.05}, headers={"x-user": "ben"}, seconds=1.5)
        for name, flood in (("ann", ann), ("ben", ben)):
            assert not flood.join().refused() and overlap(flood.spans()) == 2, f"{name}: {overlap(flood.spans())} at a time, {flood.refused()[:1]}"
        waits = {name: sorted(a.span()[0] - a.sent for a in flood.ok()) for name, flood in (("ann", ann), ("ben", ben))}
        median, worst = percentile(waits["ben"], 0.5), waits["ann"][-1]
        # Ann's callers are served newest first, for they are too many: some of them wait long, and not the median.
        assert median * 3 < worst and worst > 0.2, f"ben's median wait {median}, ann's longest {worst}: who floods waits, nobody else does"
    suite.check("an end user has its seats, and no more, whatever another one does", seats)

    def waiting():
        node.deployed(python("alone", "workers: {max: 2}\n"), {"main.py": SPAN}, "small")
        ann = Flood(node, 80, "alone", {"sleep": 0.2}, "small", {"X-User": "ann"}, seconds=3, patience=0.05)
        node.until("small", 2, 1)
        # Both workers are busy: this one has to wait for one, in a queue that the other one fills.
        ben = Flood(node, 1, "alone", {"sleep": 0.2}, "small", {"X-User": "ben"}, calls=3).join()
        assert overlap(ann.join().spans()) == 2 and ann.refused(), len(ann.refused())
        assert len(ben.ok()) == 3, f"its 2 seats are free, and it was refused: {ben.refused()}"
    suite.check("an end user who fills the queue does not shut the others out", waiting)

    def function():
        node.deployed(python("mine", MANY + "users: {concurrency: 1, key: 'header:X-Team'}\n"), {"main.py": SPAN}, "plain")
        floods = [Flood(node, 6, "mine", {"sleep": 0.03}, "plain", {"X-Team": team}, seconds=1) for team in ("red", "blue")]
        spans = [flood.join().spans() for flood in floods]
        assert [overlap(s) for s in spans] == [1, 1] and overlap(spans[0] + spans[1]) == 2, [overlap(s) for s in spans]
    suite.check("a function's own rule for end users holds", function)

    def both():
        node.deployed(python("inner", MANY + "users: {concurrency: 3, key: 'header:X-Team'}\n"), {"main.py": SPAN})
        floods = [Flood(node, 6, "inner", {"sleep": 0.03}, headers={"X-User": user, "X-Team": "red"}, seconds=1) for user in ("kim", "lee")]
        spans = [flood.join().spans() for flood in floods]
        assert max(overlap(s) for s in spans) == 2 and overlap(spans[0] + spans[1]) == 3, [overlap(s) for s in spans]
    suite.check("a tenant's and a function's rule hold together", both)

    def anonymous():
        floods = [Flood(node, 5, "span", {"sleep": 0.03}, headers=headers, calls=20) for headers in ({}, {"X-User": ""})]
        spans = [span for flood in floods for span in flood.join().spans()]
        assert len(spans) == 40 and overlap(spans) == 2, f"{len(spans)} answers, {overlap(spans)} at a time"
    suite.check("calls without the header are one end user", anonymous)

    def lengths():
        before = daemon(node)
        caller = Caller(node)
        assert caller.call("span", headers={"X-User": "u" * 256}).status == 200
        value = refusal(caller.call("span", headers={"X-User": "u" * 257}), 400, "badRequest")
        assert "256" in value["detail"] and "X-User" in value["detail"], value
        # The HTTP server's own bound on a head answers, or ends the connection.
        try:
            answer = Caller(node, 5).call("span", headers={"X-User": "u" * (1 << 20)})
            assert answer.status in (400, 431), answer
        except (OSError, ConnectionError):
            pass
        assert daemon(node) == before and caller.call("span", headers={"X-User": "u"}).status == 200
    suite.check("a name of 257 bytes is refused, and a header of 1 MiB hurts nobody", lengths)

    def crowd():
        one = "POST /v1/tenants/crowd/functions/span/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nX-User: %s\r\n\r\n{\"sleep\":0}"

        def batch(names, statuses):
            caller = Caller(node)
            for begin in range(0, len(names), 50):
                part = names[begin:begin + 50]
                statuses.append(caller.send("".join(one % name for name in part).encode()).status)
                for _ in part[1:]:
                    statuses.append(caller.send(b"").status)
            caller.close()

        def round_of(prefix, count):
            statuses, threads = [], []
            for part in range(4):
                threads.append(threading.Thread(target=batch, args=([f"{prefix}-{part}-{i}" for i in range(count // 4)], statuses)))
                threads[-1].start()
            for thread in threads:
                thread.join(120)
            assert len(statuses) == count and set(statuses) == {200}, (len(statuses), set(statuses))
            return resident(daemon(node)) >> 10
        start = round_of("warm", 1000)
        after = round_of("user", 20_000)
        print(f"        20,000 end users: the daemon's memory went from {start} to {after} KiB")
        assert after - start < 48 << 10, f"{after - start} KiB for 20,000 users"
        # Their rates have recovered by now, so that later users take their places.
        time.sleep(0.2)
        round_of("next", 1000)
        active = node.json("quota", "show", "crowd")["users"]["active"]
        assert active < 20_000, f"{active} users are still remembered"
    suite.check("20,000 end users cost bounded memory, and are forgotten", crowd)


def keys(suite, node):
    def make(tenant, *scopes):
        words = [word for scope in scopes for word in ("--scope", scope)]
        made = node.json("keys", "create", "--tenant", tenant, *words)
        return made["id"], {"Authorization": "Bearer " + made["key"]}

    def users_by_key():
        (_, first), (_, second) = make("keyed", "invoke"), make("keyed", "invoke")
        floods = [Flood(node, 6, "span", {"sleep": 0.03}, "keyed", key, seconds=1) for key in (first, second)]
        spans = [flood.join().spans() for flood in floods]
        assert [overlap(s) for s in spans] == [2, 2] and overlap(spans[0] + spans[1]) == 4, [overlap(s) for s in spans]
    suite.check("each API key is an end user", users_by_key)

    def scopes():
        keys = {scope: make("plain", scope)[1] for scope in ("invoke", "deploy", "admin")}
        root = "/v1/tenants/plain"
        allowed = {
            ("POST", "/functions/span/invocations", b"{}"): {"invoke", "admin"},
            ("GET", "/quota", None): {"invoke", "admin"},
            ("DELETE", "/functions/nothing", None): {"deploy", "admin"},
            ("GET", "/keys", None): {"admin"},
            ("POST", "/keys", b'{"scopes": ["invoke"]}'): {"admin"},
        }
        for (method, path, body), may in allowed.items():
            for scope, key in keys.items():
                status = node.request(method, root + path, body, key)[0]
                assert (status != 403) == (scope in may) and status != 401, f"{method} {path} with a key to {scope}: {status}"
        assert node.request("GET", "/v1/tenants", headers=keys["admin"])[0] == 404, "an admin of a tenant saw the node"
        assert node.request("POST", "/v1/reload", b"", keys["admin"])[0] == 404
    suite.check("a key does what its scopes say and nothing else", scopes)

    def rotation():
        identity, old = make("plain", "invoke")
        assert node.invoke("span", b"{}", "plain", old)[0] == 200
        begin = time.monotonic()
        made = json.loads(node.cli("keys", "rotate", identity, "--tenant", "plain", "--grace", "2s", "--json").stdout)
        rotated = time.monotonic()
        new = {"Authorization": "Bearer " + made["key"]}
        while True:
            before, (status, _, _), after = time.monotonic(), node.invoke("span", b"{}", "plain", old), time.monotonic()
            if status != 200:
                break
            assert before < rotated + 2, "the old key still works after its grace"
        assert status == 401 and after > begin + 2, f"{status} after {after - begin} s of a grace of 2 s"
        assert node.invoke("span", b"{}", "plain", new)[0] == 200
        assert node.cli("keys", "revoke", made["id"], "--tenant", "plain").returncode == 0
        assert node.invoke("span", b"{}", "plain", new)[0] == 401
        assert node.cli("keys", "revoke", made["id"] + "x", "--tenant", "plain").returncode != 0
    suite.check("a rotated key works until its grace ends, a revoked one no more", rotation)

    def used():
        identity, key = make("plain", "invoke")

        def last():
            return next(row for row in node.json("keys", "list", "--tenant", "plain") if row["id"] == identity).get("lastUsedAt")
        assert not last(), "used before its use"
        before = time.time() * 1000
        assert node.invoke("span", b"{}", "plain", key)[0] == 200
        when = wait_for(last, 3, "lastUsedAt")
        assert before - 1000 <= when <= time.time() * 1000, (before, when)
    suite.check("a key's last use appears within 3 s", used)

    def strangers():
        _, key = make("plain", "invoke")
        bodies = set()
        for tenant, function in (("acme", "span"), ("acme", "nothing"), ("nobody", "span"), ("keyed", "span")):
            status, headers, body = node.invoke(function, b"{}", tenant, key)
            assert status == 404 and "Bulkhead-Invocation-Id" not in headers, (status, headers)
            bodies.add(body)
        assert len(bodies) == 1, f"another tenant's thing and nothing are told apart: {bodies}"
    suite.check("another tenant's function looks like none to a stranger's key", strangers)
