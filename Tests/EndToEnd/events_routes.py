# SPDX-License-Identifier: Apache-2.0
"""Routes and queues: requests from outside, judged by their callers; and loops that go through a receiver outside, with and without the header that it was told."""
import hashlib
import hmac
import http.client
import http.server
import json
import threading
import time

from node import python, wait_for

SECRET = b"whsec_of_loopy"
TENANT = "secrets: {HOOK: whsec_of_loopy}\n"

SHOW = """
def handler(event, context):
    if context.method == 'DELETE':
        return {'statusCode': 204}
    body = event.decode('latin-1') if isinstance(event, bytes) else event
    return {'statusCode': 201, 'headers': {'X-Own': 'yes'}, 'cookies': ['a=1; HttpOnly', 'b=2'], 'body': {
        'method': context.method, 'path': context.path, 'rest': context.rest, 'query': context.query, 'headers': context.headers,
        'cookies': context.cookies, 'trigger': context.trigger, 'source': context.source_address, 'body': body}}
"""

AWS = """
import base64
def handler(event, context):
    http = event['requestContext']['http']
    data = base64.b64decode(event['body']) if event['isBase64Encoded'] else event.get('body', '').encode()
    if http['method'] == 'GET':
        return {'hello': event['pathParameters']['proxy'], 'q': event.get('queryStringParameters')}
    if http['method'] == 'PUT':
        return {'statusCode': 203, 'body': '{"statusCode": 299, "body": "not this"}'}
    return {'statusCode': 200, 'headers': {'content-type': 'image/x'}, 'isBase64Encoded': True, 'body': base64.b64encode(data[::-1]).decode()}
"""

GATHER = """import json
def handler(event, context):
    print('called with', len(event['Records']), flush=True)
    return {'batchItemFailures': [{'itemIdentifier': one['messageId']} for one in event['Records'] if json.loads(one['body'])['n'] % 10 == 0]}
"""
HOOK = "def handler(event, context):\n    print('paid', event['type'], flush=True)\n    return {'received': True}\n"
STREAM = "import time\ndef handler(event, context):\n    for n in range(3):\n        yield f'part {n}\\n'\n        time.sleep(0.2)\n"
TELL = "def handler(event, context):\n    print('in', flush=True)\n    return {}\n"


def signed(body, at=None, name="Stripe-Signature", secret=SECRET):
    at = int(time.time() if at is None else at)
    return {name: f"t={at},v1={hmac.new(secret, str(at).encode() + b'.' + body, hashlib.sha256).hexdigest()}"}


class Returner:
    """Somebody outside who calls back for every webhook, after a while; and who passes the lineage on, or does not."""

    def __init__(self, node, path, delay, passes_on, times=1, most=100_000):
        returner = self
        self.node, self.path, self.delay, self.passes_on, self.times = node, path, delay, passes_on, times
        self.left, self.got, self.answers = most, 0, []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                token = self.headers.get("Bulkhead-Lineage")
                returner.got += 1
                for _ in range(returner.times):
                    threading.Timer(returner.delay, returner.call, [token]).start()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def call(self, token):
        self.left -= 1
        if self.left < 0:
            return
        headers = {"Bulkhead-Lineage": token} if self.passes_on and token else {}
        try:
            self.answers.append(self.node.request("POST", self.path, b"{}", {"Content-Type": "application/json", **headers})[0])
        except OSError:
            pass  # the node has ended

    def close(self):
        self.left = 0
        self.server.shutdown()
        self.server.server_close()


def run(suite, node, lines):
    routes(suite, node)
    hooks(suite, node, lines)
    queues(suite, node, lines)
    loops(suite, node, lines)


def routes(suite, node):
    def ask(method, path, body=None, headers=None):
        return node.request(method, "/t/loopy" + path, body, headers)

    def whole():
        node.deployed(python("show", "triggers: [{http: /show/*, auth: none}, {http: /show/fixed, methods: [PUT], auth: none}]\n"), {"main.py": SHOW}, "loopy")
        status, headers, body = ask("POST", "/show/o%20b/7?a=1&a=%C3%A4&c", b'{"n":1}', {
            "Content-Type": "application/json", "Cookie": "s=1; t=2", "X-A": "b", "Bulkhead-Lineage": "x", "Bulkhead-Webhook": "1", "Authorization": "Bearer app"})
        found = json.loads(body)
        assert status == 201 and headers["X-Own"] == "yes", (status, headers)
        seen = found.pop("headers")
        assert found == {"method": "POST", "path": "/show/o%20b/7", "rest": "o%20b/7", "query": {"a": "1,ä", "c": ""}, "cookies": {"s": "1", "t": "2"},
                         "trigger": "http", "source": "127.0.0.1", "body": {"n": 1}}, found
        assert seen["x-a"] == "b" and seen["authorization"] == "Bearer app" and not [n for n in seen if n.startswith("bulkhead-")], seen
        assert "Bulkhead-Worker" not in headers and len(headers["Bulkhead-Invocation-Id"]) == 32
        assert ask("DELETE", "/show/x")[0] == 204
        assert b"Set-Cookie: b=2" in node.raw(b"GET /t/loopy/show/ HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
        # The exact path goes before the open one, as far as it takes the method.
        assert json.loads(ask("PUT", "/show/fixed")[2])["rest"] is None and json.loads(ask("GET", "/show/fixed")[2])["rest"] == "fixed"
    suite.check("a route hands the whole request to its function, and the whole answer back", whole)

    def nothing():
        node.deployed(python("one", "triggers: [{http: /one, methods: [GET, POST], auth: none}]\n"), {"main.py": "def handler(event, context):\n    return 'one'\n"}, "loopy")
        status, headers, _ = ask("PUT", "/one")
        assert status == 405 and headers["Allow"] == "GET, HEAD, POST", (status, headers)
        status, headers, body = ask("HEAD", "/one")
        assert (status, headers["Content-Length"], body) == (200, "3", b""), (status, headers, body)
        bodies = {node.request("GET", path)[2] for path in ("/t/loopy/none", "/t/nobody/none", "/t/acme/one")}
        assert len(bodies) == 1 and b"404" in bodies.pop()
        listed = {row["trigger"]: row for row in node.json("triggers", "loopy/one")}
        assert listed["http-1"]["url"] == "/t/loopy/one" and listed["http-1"]["authorization"] == "none", listed
    suite.check("other methods are 405 with what is allowed, other paths, tenants and theirs are one and the same 404", nothing)

    def changes():
        def deploy(extra):
            return node.deployed(python("moves", extra), {"main.py": "def handler(event, context):\n    return context.version\n"}, "loopy")
        deploy("triggers: [{http: /old, auth: none}]\n")
        deploy("triggers: [{http: /new, auth: none}]\n")
        assert (ask("GET", "/old")[0], ask("GET", "/new")[2]) == (404, b"2")
        assert node.cli("rollback", "loopy/moves").returncode == 0
        assert (ask("GET", "/old")[2], ask("GET", "/new")[0]) == (b"1", 404)
        run = node.deploy(python("thief", "triggers: [{http: /show/*, auth: none}]\n"), {"main.py": SHOW}, "loopy")
        assert run.returncode != 0 and b"both take" in run.stderr, run.stderr
        assert node.cli("delete", "loopy/moves").returncode == 0
        assert ask("GET", "/old")[0] == 404
    suite.check("routes follow a deploy, a rollback and a delete; two functions cannot have the same one", changes)

    def shaped():
        node.deployed(python("lambda", "triggers: [{http: /aws/*, auth: none, shape: aws-apigw-v2}]\n"), {"main.py": AWS}, "loopy")
        status, headers, body = ask("GET", "/aws/a/b?x=1")
        assert status == 200 and headers["Content-Type"] == "application/json" and json.loads(body) == {"hello": "a/b", "q": {"x": "1"}}, (status, body)
        data = bytes(range(256)) * 200
        status, headers, body = ask("POST", "/aws/x", data, {"Content-Type": "application/octet-stream"})
        assert (status, headers["Content-Type"], body) == (200, "image/x", data[::-1]), (status, headers, body[:50])
        status, _, body = ask("PUT", "/aws/x")
        assert (status, body) == (203, b'{"statusCode": 299, "body": "not this"}'), (status, body)
        # Six times as long when it is written as JSON.
        status, _, body = ask("POST", "/aws/x", b"\x01" * (5 << 20))
        assert status == 413, (status, body)
    suite.check("a function in the form of another platform gets its event, bytes as base64, and answers in its way", shaped)

    def streamed():
        node.deployed(python("parts", "triggers: [{http: /parts, auth: none}]\n"), {"main.py": STREAM}, "loopy")
        connection = http.client.HTTPConnection(node.http, timeout=10)
        began = time.time()
        connection.request("GET", "/t/loopy/parts")
        answer = connection.getresponse()
        first = answer.read1(100)
        seen = time.time() - began
        assert first == b"part 0\n" and answer.read() == b"part 1\npart 2\n" and time.time() - began - seen > 0.3, (first, seen)
        connection.close()
    suite.check("a streamed answer leaves as it is made", streamed)

    def hidden():
        node.deployed(python("broken", "triggers: [{http: /broken, auth: none}]\n"), {"main.py": "def handler(event, context):\n    raise ValueError('of mine')\n"}, "loopy")
        status, headers, body = ask("GET", "/broken")
        problem = json.loads(body)
        assert status == 500 and problem["code"] == "functionError" and b"mine" not in body and b"loopy" not in body, body
        assert node.json("explain", headers["Bulkhead-Invocation-Id"])["function"].startswith("loopy/broken")
    suite.check("anybody hears of a failure without its reason; the owner finds it under the id", hidden)


def hooks(suite, node, lines):
    def stripe():
        node.deployed(python("hook", "triggers: [{http: /hook, methods: [POST], auth: 'hmac:HOOK'}]\n"), {"main.py": HOOK}, "loopy")
        body = b'{"type": "charge.succeeded"}'
        for headers, expected in [
                (signed(body), 200), (signed(body, secret=b"other"), 401), (signed(body, at=time.time() - 400), 401), ({}, 401), (signed(body + b" "), 401)]:
            status, _, answer = node.request("POST", "/t/loopy/hook", body, {"Content-Type": "application/json", **headers})
            assert status == expected, (headers, status, answer)
        wait_for(lambda: lines(node, "hook", "loopy"), 10, "the function's line")
        assert lines(node, "hook", "loopy") == ["paid charge.succeeded"]
        github = {"X-Hub-Signature-256": "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest(), "Content-Type": "application/json"}
        assert node.request("POST", "/t/loopy/hook", body, github)[0] == 200
        run = node.deploy(python("nosecret", "triggers: [{http: /nosecret, auth: 'hmac:NONE'}]\n"), {"main.py": HOOK}, "loopy")
        assert run.returncode != 0 and b"no secret NONE" in run.stderr, run.stderr
    suite.check("a webhook signed as Stripe or GitHub does is taken; unsigned, forged, changed and old ones are not", stripe)

    def keys():
        node.deployed(python("keyed", "triggers: [{http: /keyed}]\n"), {"main.py": SHOW}, "keyed")
        own, foreign = (node.json("keys", "create", "--tenant", tenant, "--scope", "invoke")["key"] for tenant in ("keyed", "other"))
        def ask(key=None):
            return node.request("GET", "/t/keyed/keyed", None, {"Authorization": f"Bearer {key}"} if key else {})
        status, headers, body = ask(own)
        assert status == 201 and "authorization" not in json.loads(body)["headers"] and "Bulkhead-Worker" in headers, (status, body)
        assert ask()[0] == 401 and ask("bh_nonsense")[0] == 401 and ask(foreign)[0] == 404, (ask(), ask(foreign))
    suite.check("without a word on it a route takes a key of its tenant and no other's", keys)


def queues(suite, node, lines):
    path = "/q/loopy/taker/orders"

    def single():
        node.deployed(python("taker", "triggers: [{queue: key, name: orders}, {queue: 'hmac:HOOK', name: hooks}]\n"), {
            "main.py": "def handler(event, context):\n    print('took', event['n'], context.trigger, flush=True)\n"}, "loopy")
        headers = {"Content-Type": "application/json", "Idempotency-Key": "one"}
        first, again = (node.request("POST", path, b'{"n": 1}', headers) for _ in range(2))
        assert first[0] == again[0] == 202 and json.loads(again[2]) == {"id": json.loads(first[2])["id"], "duplicate": True}, again
        body = b'{"n": 2}'
        assert node.request("POST", "/q/loopy/taker/hooks", body, {"Content-Type": "application/json", **signed(body)})[0] == 202
        wait_for(lambda: sorted(lines(node, "taker", "loopy")) == ["took 1 queue", "took 2 queue"], 15, "both runs")
        assert node.request("GET", path)[0] == 405 and node.request("POST", "/q/loopy/taker/none", b"")[0] == 404
        assert node.request("POST", "/q/loopy/taker/hooks", body, signed(b"x"))[0] == 401
    suite.check("a message pushed to a queue runs once, however often it is sent under its key; a queue can want a signature", single)

    def batch():
        before = len(lines(node, "taker", "loopy"))
        kind = {"Content-Type": "application/x-ndjson"}
        status, _, body = node.request("POST", path, b'{"n": 10}\n{"n": \n{"n": 12}\n', kind)
        assert status == 400 and "line 2" in json.loads(body)["detail"], (status, body)
        status, _, body = node.request("POST", path, "\n".join(json.dumps({"n": n}) for n in range(100, 400)).encode(), kind)
        assert status == 202 and len(set(json.loads(body)["ids"])) == 300, (status, body[:200])
        wait_for(lambda: len(lines(node, "taker", "loopy")) == before + 300, 60, "300 runs")
        assert not {"took 10 queue", "took 12 queue"} & set(lines(node, "taker", "loopy"))
    suite.check("a batch is taken whole or not at all, and says which line is wrong", batch)

    def gathered():
        node.deployed(python("gather", "concurrency: 1\ntriggers: [{queue: key, name: orders, batch: 40, wait: 1s}]\nasync: {attempts: 1}\n"), {"main.py": GATHER}, "loopy")
        body = "\n".join(json.dumps({"n": n}) for n in range(100)).encode()
        status, _, body = node.request("POST", "/q/loopy/gather/orders", body, {"Content-Type": "application/x-ndjson"})
        assert status == 202, body
        wait_for(lambda: not [event for state in ("ready", "leased") for event in node.json("events", "list", "loopy", "--status", state) if event["function"] == "gather"],
                 30, "all have ended")
        calls = [int(line.split()[-1]) for line in lines(node, "gather", "loopy")]
        # How many of them the disk has when the first is due is the machine's affair.
        assert sum(calls) == 100 and max(calls) <= 40 and len(calls) <= 20, calls
        dead = [event for event in node.json("events", "list", "loopy", "--status", "dead") if event["function"] == "gather"]
        assert len(dead) == 10 and all("named it among those that failed" in event["reason"] for event in dead), dead
    suite.check("a queue with a batch calls its function for many messages at once, and only those fail that it names", gathered)


def loops(suite, node, lines):
    def count(name):
        return sum(line == "in" for line in lines(node, name, "loopy"))

    def quiet(names, seconds, most):
        """How often each had run when none did any more for so many seconds, and none waits for its turn or runs: a loop that is tested for rests longer than that."""
        last, since, end = None, time.time(), time.time() + most
        while time.time() < end:
            now = [count(name) for name in names]
            if now != last:
                last, since = now, time.time()
            elif time.time() - since > seconds:
                waiting = [event for state in ("ready", "leased") for event in node.json("events", "list", "loopy", "--status", state)]
                if not [event for event in waiting if event["function"] in names]:
                    return now
            time.sleep(0.2)
        raise AssertionError(f"still running after {last} times")

    def through(name, path, delay, triggers="", **more):
        outside = Returner(node, path, delay, **more)
        node.deployed(python(name, f"async: {{onSuccess: 'webhook:{outside.url}'}}\n{triggers}"), {"main.py": TELL}, "loopy")
        return outside

    def cut():
        fast = through("fast", "/q/loopy/fast/back", 0.1, "triggers: [{queue: key, name: back}]\n", passes_on=True)
        slow = through("slow", "/q/loopy/slow/back", 2, "triggers: [{queue: key, name: back}]\n", passes_on=True)
        direct = through("direct", "/v1/tenants/loopy/functions/direct/invocations", 0.1, passes_on=True)
        # A route waits for its function and tells nobody: this one leaves an event that does.
        routed = through("told", "/t/loopy/in", 0.1, passes_on=True)
        node.deployed(python("entry", "triggers: [{http: /in, auth: none}]\n"), {
            "main.py": "def handler(event, context):\n    print('in', flush=True)\n    context.call_async('told', {})\n"}, "loopy")
        try:
            for name in ("fast", "slow", "direct", "told"):
                status, _, body = node.invoke(name, b"{}", "loopy", {"Bulkhead-Invocation-Type": "async"})
                assert status == 202, (status, body)
            found = quiet(["fast", "slow", "told", "entry"], 10, 300)
            # Each function on the way, whichever its triggers, is entered 17 times on one path.
            assert found == [17] * 4, (found, routed.answers)
            # What waits for its answer is no event and is told to nobody.
            assert direct.answers == [200] and count("direct") == 2, direct.answers
            parked = node.json("events", "loopy/fast", "--status", "parked") + node.json("events", "loopy/slow", "--status", "parked")
            assert {e["function"] for e in parked} >= {"fast", "slow"} and all("loop" in e["reason"] for e in parked), parked
            assert fast.got == slow.got == 17
        finally:
            for one in (fast, slow, direct, routed):
                one.close()
    suite.check("a loop through a receiver outside that passes the lineage on is cut after 17 entries, at 0.1 s and at 2 s a turn", cut)

    def wide():
        outside = through("wide", "/q/loopy/wide/back", 0.1, "triggers: [{queue: key, name: back}]\nworkers: {max: 4}\n", passes_on=True, times=3)
        try:
            assert node.invoke("wide", b"{}", "loopy", {"Bulkhead-Invocation-Type": "async"})[0] == 202
            found = quiet(["wide"], 8, 240)[0]
            assert 17 <= found <= 1_001 + 4, f"{found} runs of one root"
        finally:
            outside.close()
    suite.check("one that calls back thrice for each is cut at its root's budget, though a token is shown three times", wide)

    def blind():
        outside = through("blind", "/q/loopy/blind/back", 0.05, "triggers: [{queue: key, name: back}]\n", passes_on=False, most=2_000)
        try:
            assert node.invoke("blind", b"{}", "loopy", {"Bulkhead-Invocation-Type": "async"})[0] == 202
            wait_for(lambda: [row for row in node.json("loops", "--tenant", "loopy") if row["function"] == "blind" and row["state"] == "testing"], 60,
                     "a test of the edge")
            assert 49 <= outside.got, outside.got
        finally:
            outside.close()
    suite.check("one that hides the lineage is noticed when it has said the same 50 times, and its edge is tested", blind)

    def forged():
        node.deployed(python("calm", "triggers: [{http: /calm, auth: none}]\n"), {"main.py": TELL}, "loopy")
        def malformed():
            text = node.request("GET", "/metrics")[2].decode()
            return int(text.split('bulkhead_lineage_tokens_total{result="malformed"} ')[1].split()[0])
        before = malformed()
        for token in ("x", "A" * 300 + "." + "B" * 43, "A" * 5000):
            assert node.request("GET", "/t/loopy/calm", None, {"Bulkhead-Lineage": token})[0] == 200
        assert malformed() == before + 3, malformed()
    suite.check("tokens that are none change nothing and are counted", forged)
