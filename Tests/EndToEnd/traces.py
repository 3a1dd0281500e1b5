#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Invocations as spans at a collector: their shape (OTLP/HTTP, JSON), their places in the caller's trace, and what a collector that fails costs."""
import http.server
import json
import os
import re
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import Node, Suite, python, wait_for  # noqa: E402

ECHO = "def handler(event, context):\n    if event == 'fail':\n        raise ValueError('no')\n    return {'traceparent': context.traceparent}\n"
CALLER = "def handler(event, context):\n    return {'own': context.traceparent, 'called': context.call('echo', 1)}\n"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENDER = "def handler(event, context):\n    return context.call_async('echo', 1)\n"
# What a span may have (opentelemetry-proto, trace.proto), as JSON: ids in hexadecimal, 64-bit numbers as texts, enumerations as numbers.
SHAPE = {
    "traceId": lambda v: re.fullmatch("[0-9a-f]{32}", v), "spanId": lambda v: re.fullmatch("[0-9a-f]{16}", v),
    "parentSpanId": lambda v: re.fullmatch("[0-9a-f]{16}", v), "name": lambda v: isinstance(v, str) and v,
    "kind": lambda v: v in (1, 2, 3, 4, 5), "startTimeUnixNano": lambda v: re.fullmatch("[0-9]{19}", v),
    "endTimeUnixNano": lambda v: re.fullmatch("[0-9]{19}", v), "attributes": lambda v: all(attribute(one) for one in v),
    "status": lambda v: v["code"] in (0, 1, 2) and set(v) <= {"code", "message"},
}


def attribute(one):
    (kind, value), = one["value"].items()
    fits = {"stringValue": str, "boolValue": bool, "intValue": str}
    return set(one) == {"key", "value"} and isinstance(value, fits[kind]) and (kind != "intValue" or value.lstrip("-").isdigit())


class Collector:
    def __init__(self):
        self.spans, self.status, self.requests = [], 200, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests += 1
                if outer.status == 200:
                    outer.take(self.path, self.headers, body)
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.faults = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path, headers, body):
        try:
            assert path == "/v1/traces" and headers["Content-Type"] == "application/json", (path, dict(headers))
            document = json.loads(body)
            assert set(document) == {"resourceSpans"}
            for resource in document["resourceSpans"]:
                assert set(resource) == {"resource", "scopeSpans"}
                assert any(one["key"] == "service.name" and attribute(one) for one in resource["resource"]["attributes"])
                for scope in resource["scopeSpans"]:
                    assert set(scope) == {"scope", "spans"} and scope["scope"]["name"] == "bulkhead"
                    for span in scope["spans"]:
                        for key, value in span.items():
                            assert SHAPE[key](value), (key, value)
                        assert set(SHAPE) - set(span) <= {"parentSpanId"}, span
                        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
                    # All of a document at once: whoever waits for one of an invocation looks at its parts next.
                    self.spans += scope["spans"]
        except Exception as error:  # noqa: BLE001 - told by the test
            self.faults.append(repr(error))

    def tree(self, span):
        """An invocation's span with its parts by name."""
        return {one["name"]: one for one in self.spans if one.get("parentSpanId") == span["spanId"]}

    def of(self, name, **attributes):
        def values(span):
            return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}
        return [span for span in self.spans if span["name"] == name and attributes.items() <= values(span).items()]


def main():
    suite = Suite("traces")
    collector = Collector()
    node = Node({
        "bulkhead.yaml": f"traces: {{endpoint: \"http://127.0.0.1:{collector.port}\"}}\n",
        "tenants.d/acme.yaml": "tenant: acme\nquota: {concurrency: 8, queue: 100, memory: 1GiB, cpu: 2.0, processes: 512}\n",
    }).start()
    node.deployed(python("echo"), {"main.py": ECHO})
    node.deployed(python("caller"), {"main.py": CALLER})
    node.deployed(python("sender"), {"main.py": SENDER})

    def metric(result):
        text = _metrics(node)
        return next(int(line.split()[-1]) for line in text.splitlines() if line.startswith(f'bulkhead_trace_spans_total{{result="{result}"}}'))

    def spans():
        header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = json.loads(node.invoke("echo", b"1", headers=header)[2])
        wait_for(lambda: collector.of("acme/echo"), what="the invocation's span")
        assert not collector.faults, collector.faults
        whole = collector.of("acme/echo")[0]
        assert (whole["traceId"], whole["parentSpanId"], whole["kind"]) == (TRACE, PARENT, 2), whole
        assert answer["traceparent"] == f"00-{TRACE}-{whole['spanId']}-01", "the function's own spans are children of the invocation's"
        parts = collector.tree(whole)
        assert {"queue", "start", "run"} == set(parts), parts.keys()
        assert all(part["traceId"] == TRACE for part in parts.values())
        assert int(whole["startTimeUnixNano"]) == int(parts["queue"]["startTimeUnixNano"])
        assert int(parts["queue"]["endTimeUnixNano"]) <= int(parts["run"]["startTimeUnixNano"])
        assert int(parts["run"]["endTimeUnixNano"]) == int(whole["endTimeUnixNano"])
        node.invoke("echo", b"1")
        wait_for(lambda: len(collector.of("acme/echo")) == 2, what="the second one")
        second = collector.of("acme/echo")[1]
        assert second["traceId"] != TRACE and "parentSpanId" not in second, "no caller, a trace of its own"
        assert {"queue", "run"} == set(collector.tree(second)), "a warm worker is not started"

    def chains():
        answer = json.loads(node.invoke("caller", b"1", headers={"traceparent": f"00-{'ab' * 16}-{PARENT}-01"})[2])
        wait_for(lambda: collector.of("acme/caller") and [s for s in collector.of("acme/echo") if s["traceId"] == "ab" * 16], what="both spans")
        caller, called = collector.of("acme/caller")[0], [s for s in collector.of("acme/echo") if s["traceId"] == "ab" * 16][0]
        assert called["parentSpanId"] == caller["spanId"], "a called function's span is below its caller's"
        assert answer["called"]["traceparent"].split("-")[2] == called["spanId"]

    def events():
        trace = "ef" * 16
        header = {"traceparent": f"00-{trace}-{PARENT}-01", "Bulkhead-Invocation-Type": "async"}
        assert node.invoke("echo", b"1", headers=header)[0] == 202
        node.invoke("sender", b"1", headers={"traceparent": f"00-{'12' * 16}-{PARENT}-01"})

        def of(trace, name):
            return [span for span in collector.of(name) if span["traceId"] == trace]
        wait_for(lambda: of(trace, "acme/echo") and of("12" * 16, "acme/echo") and of("12" * 16, "acme/sender"), what="the events' spans")
        assert of(trace, "acme/echo")[0]["parentSpanId"] == PARENT, "an event's run is below its caller's span"
        assert of("12" * 16, "acme/echo")[0]["parentSpanId"] == of("12" * 16, "acme/sender")[0]["spanId"], "and below its sender's"

    def failures():
        node.invoke("echo", b'"fail"')
        wait_for(lambda: collector.of("acme/echo", **{"bulkhead.outcome": "functionError"}), what="the failed one")
        assert collector.of("acme/echo", **{"bulkhead.outcome": "functionError"})[0]["status"] == {"code": 2, "message": "functionError"}

    def unsampled():
        before = len(collector.of("acme/echo"))
        answer = json.loads(node.invoke("echo", b"1", headers={"traceparent": f"00-{'cd' * 16}-{PARENT}-00"})[2])
        assert answer["traceparent"].startswith(f"00-{'cd' * 16}-") and answer["traceparent"].endswith("-00")
        for text in ("", "x", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE.upper()}-{PARENT}-01"):
            got = json.loads(node.invoke("echo", b"1", headers={"traceparent": text} if text else {})[2])["traceparent"]
            assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", got) and TRACE not in got, (text, got)
        wait_for(lambda: len(collector.of("acme/echo")) == before + 5, what="the others")
        assert not [span for span in collector.spans if span["traceId"] == "cd" * 16], "the caller wants it not recorded"

    def collector_fails():
        before = len(collector.of("acme/echo"))
        collector.status, requests = 503, collector.requests
        assert node.invoke("echo", b"1")[0] == 200
        wait_for(lambda: collector.requests > requests, what="a refused request")
        collector.status = 200
        wait_for(lambda: len(collector.of("acme/echo")) == before + 1, what="the same spans, again")
        dropped = metric("dropped")
        collector.status, requests = 400, collector.requests
        assert node.invoke("echo", b"1")[0] == 200
        wait_for(lambda: metric("dropped") == dropped + 3, what="dropped spans to be counted")
        assert metric("sent") >= len(collector.spans) - 3
        collector.status = 200

    suite.check("an invocation is a span in its caller's trace, with its parts, in the shape of OTLP", spans)
    suite.check("a function that another one calls is below it", chains)
    suite.check("an event's run is in the trace of whoever sent it, over HTTP or from a function", events)
    suite.check("a failure is one", failures)
    suite.check("what is not sampled is not sent, and what is no traceparent is not taken for one", unsampled)
    suite.check("a collector that fails is tried again, or drops are counted, and calls go on", collector_fails)
    suite.check("every document had the right shape", lambda: (_ for _ in ()).throw(AssertionError(collector.faults)) if collector.faults else None)
    node.stop()
    left = node.leftovers()
    suite.check("nothing is left", lambda: (_ for _ in ()).throw(AssertionError(left)) if left else None)
    node.remove()
    return suite.close()


def _metrics(node):
    status, _, body = node.request("GET", "/metrics")
    assert status == 200, body
    return body.decode()


if __name__ == "__main__":
    sys.exit(main())
