# SPDX-License-Identifier: Apache-2.0
"""What the node says of ceilings, against what callers and handlers saw."""
import csv
import http.client
import io
import os
import re
import socket
import time

from load import SPAN, Caller, Flood, refusal
from node import python, wait_for

QUOTA = "queue: 20, memory: 1GiB, cpu: 2.0, processes: 512"
CONFIG = {
    "tenants.d/told.yaml": f"tenant: told\nquota: {{concurrency: 2, {QUOTA}, rate: 200/s burst 15, budget: {{compute: 100 GB-s/day, invocations: 1000/day}}}}\n",
}
FAILS = SPAN.replace("    begin =", "    if event.get('fail'): raise ValueError('on purpose')\n    begin =")


class Control(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def __init__(self, path):
        super().__init__("control", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


def control(node, path):
    connection = Control(node.control)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        return answer.read().decode()
    finally:
        connection.close()


def samples(text):
    """{(family, labels): value} of the Prometheus text format; every line must be of it."""
    found, families = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in families, f"twice: {line}"
            families.add(line.split()[2])
        elif not line.startswith("#"):
            match = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)*)\})? ([-+0-9.einfNa]+)', line)
            assert match, f"no sample: {line!r}"
            labels = tuple(sorted(re.findall(r'([a-z]+)="([^"]*)"', match[2] or "")))
            assert (match[1], labels) not in found, f"twice: {line}"
            assert any(match[1] == f or match[1].removesuffix(s) == f for f in families for s in ("_bucket", "_sum", "_count")), line
            found[match[1], labels] = float(match[3])
    return found


def run(suite, node):
    node.deployed(python("span", "concurrency: 32\n"), {"main.py": FAILS}, "told")
    seen = {}

    def usage():
        flood = Flood(node, 2, "span", {"sleep": 0.05}, "told", calls=6).join()
        failed = Flood(node, 1, "span", {"fail": True}, "told", calls=2).join()
        assert len(flood.ok()) == 6 and [a.status for a in failed.answers] == [500, 500]
        held = sum(end - begin for begin, end in flood.spans())
        wall = sum(a.answered - a.sent for a in flood.answers + failed.answers)

        def row():
            rows = node.json("usage", "--tenant", "told")
            return rows[0] if len(rows) == 1 and rows[0]["invocations"] == 8 else None
        value = wait_for(row, 5, "eight calls in the usage")
        seen["usage"] = value
        assert (value["tenant"], value["function"], value["errors"]) == ("told", "span", 2), value
        # Billed by the millisecond, rounded up; never more than the callers saw and that rounding.
        low, high = held * 96 / 1024, (wall + 8 * 0.001) * 96 / 1024
        assert low <= value["gbSeconds"] <= high, f"{value['gbSeconds']} GB-s, handlers and callers say {low} to {high}"
        assert held <= value["durationSeconds"] <= wall + 0.01, value
        for by in ("hour", "day", "total"):
            rows = node.json("usage", "--tenant", "told", "--by", by)
            assert sum(r["invocations"] for r in rows) == 8 and abs(sum(r["gbSeconds"] for r in rows) - value["gbSeconds"]) < 1e-9, (by, rows)
            assert all((r["start"] > 0) == (by != "total") for r in rows), rows
        text = node.cli("usage", "--tenant", "told", "--csv").stdout.decode()
        assert text.endswith("\r\n"), text
        table = list(csv.DictReader(io.StringIO(text, newline="")))
        assert len(table) == 1 and table[0]["invocations"] == "8" and float(table[0]["gbSeconds"]) == value["gbSeconds"], table
        bill = node.json("usage", "--tenant", "told", "--billing")
        assert bill == [{"tenant": "told", "function": "span", "requests": 8, "gbSeconds": value["gbSeconds"]}], bill
        text = node.cli("usage", "--tenant", "told", "--billing", "--csv").stdout.decode().split("\r\n")
        assert text[0] == "tenant,function,requests,gbSeconds" and text[1].startswith("told,span,8,"), text
        lines = node.cli("usage", "--tenant", "told").stdout.decode().splitlines()
        assert lines[0].split()[:3] == ["TENANT", "FUNCTION", "INVOCATIONS"] and lines[1].split()[:4] == ["told", "span", "8", "2"], lines
        assert node.json("usage", "--tenant", "told", "--to", "-1h") == []
        assert node.cli("usage", "--csv", "--json").returncode == 2
    suite.check("usage says what callers and handlers saw, in every form", usage)

    def quota():
        flood = Flood(node, 3, "span", {"sleep": 4}, "told", calls=3)
        node.until("told", 2, 1)
        value = node.json("quota", "show", "told")
        budgets = {b["kind"]: b for b in value["budgets"]}
        assert value["concurrency"] == {"limit": 2, "used": 2} and value["queue"]["used"] == 1 and value["memory"]["used"] >= 96 << 20, value
        assert budgets["invocations"]["reserved"] == 3 and budgets["invocations"]["spent"] == 8, budgets
        assert abs(budgets["compute"]["spent"] - seen["usage"]["gbSeconds"]) < 1e-6 and budgets["compute"]["limit"] == 100, budgets
        # Timeout 5 s, half a second of grace, one to be killed in, at 96 MiB.
        assert abs(budgets["compute"]["reserved"] - 3 * 6.5 * 96 / 1024) < 1e-4, budgets
        text = node.cli("quota", "show", "told").stdout.decode()
        assert re.search(r"concurrency +2 +2", text) and "200/s burst 15" in text and "UTC" in text, text
        assert any(line.split()[:1] == ["told"] for line in node.cli("quota", "show").stdout.decode().splitlines())
        top = node.json("top", "--once", "--interval", "0.1", "--tenant", "told")
        row = next(r for r in top["rows"] if r["function"] == "span")
        assert (row["running"], row["queued"]) == (2, 1) and top["node"]["invocations"] == 8, top
        assert {"invocationsPerSecond", "refusalsPerSecond", "cpu"} <= set(row), row
        found = samples(control(node, "/metrics"))
        assert found["bulkhead_seats_in_use", (("tenant", "told"),)] == 2 and found["bulkhead_seats_cap", (("tenant", "told"),)] == 2
        assert len(flood.join().ok()) == 3
        assert b"span" in node.cli("top", "--once", "--interval", "0.1").stdout
    suite.check("quota, top and metrics show what runs and waits now", quota)

    def explained():
        flood = Flood(node, 3, "span", {"sleep": 0.4}, "told", calls=3).join()
        last = max(flood.answers, key=lambda answer: answer.span()[0])
        value = node.json("explain", last.headers["bulkhead-invocation-id"])
        entries = {entry["decision"]: entry for entry in value["entries"]}
        words = ["arrived", "rate", "budget", "budget", "queued", "seat", "dispatched", "replied"]
        assert [e["decision"] for e in value["entries"]] == words, value
        rate, compute, calls = (e["detail"] for e in value["entries"][1:4])
        assert re.fullmatch(r"tenant: took 1, (\d+) of 15 left, 200 more every second", rate), rate
        # The worst case as the quota has it, and what is left of 100 GB-s with it held.
        found = re.fullmatch(r"compute: holds ([\d.]+) GB-s for the worst case, ([\d.]+) GB-s of ([\d.]+) GB-s left", compute)
        assert found, compute
        held, left, limit = map(float, found.groups())
        # Timeout, half a second of grace, one to be killed in, at 96 MiB.
        assert held >= 6.5 * 96 / 1024 - 1e-4 and 0 < left < limit - held, compute
        assert re.fullmatch(r"invocations: holds 1, \d+ of \d+ left", calls), calls
        assert re.match(r"at place \d+, waits for .*; class sync, \d+ ms of virtual time behind$", entries["queued"]["detail"]), entries
        assert re.match(r"class sync: 2 of 2 of the tenant, 2 of \d+ of the function, charged \d+ ms", entries["seat"]["detail"]), entries
        assert entries["dispatched"]["detail"].endswith("warm"), entries
        assert "a seat of the tenant" in entries["queued"]["detail"] and entries["replied"]["detail"] == "ok", entries
        times = [entry["afterNanoseconds"] for entry in value["entries"]]
        assert times == sorted(times), times
        begin, end = last.span()
        waited = entries["dispatched"]["afterNanoseconds"] / 1e9
        assert abs(waited - (begin - last.sent)) < 0.05, f"dispatched after {waited} s, the handler began {begin - last.sent} s after the call"
        assert entries["replied"]["afterNanoseconds"] / 1e9 >= waited + end - begin
        refused = next(iter(Flood(node, 8, "span", {"sleep": 0}, "told", calls=60).join().refused()))
        refusal(refused, level="tenant", ceiling="rate")
        value = node.json("explain", refused.headers["bulkhead-invocation-id"])
        assert [e["decision"] for e in value["entries"]] == ["arrived", "replied"], value
        assert "throttled" in value["entries"][1]["detail"] and "tenant rate" in value["entries"][1]["detail"], value
        text = node.cli("explain", refused.headers["bulkhead-invocation-id"]).stdout.decode()
        assert "tenant rate" in text and "AFTER" in text, text
    suite.check("explain tells every decision and its time, of an admitted and of a refused call", explained)

    def metrics():
        time.sleep(0.2)
        before = samples(control(node, "/metrics"))
        flood = Flood(node, 8, "span", {"sleep": 0}, "told", calls=60).join()
        found = samples(control(node, "/metrics"))

        def grown(family, **labels):
            key = family, tuple(sorted({"tenant": "told", **labels}.items()))
            return found[key] - before.get(key, 0)
        assert flood.refused() and grown("bulkhead_throttled_total", level="tenant") == len(flood.refused())
        assert grown("bulkhead_invocations_total", function="span", outcome="ok") == len(flood.ok())
        assert grown("bulkhead_invocations_total", function="span", outcome="throttled") == len(flood.refused())
        assert grown("bulkhead_duration_seconds_count", function="span") == len(flood.ok())
        spent = {b["kind"]: b["spent"] / b["limit"] for b in node.json("quota", "show", "told")["budgets"]}
        for kind, ratio in spent.items():
            assert abs(found["bulkhead_budget_used_ratio", (("budget", kind), ("tenant", "told"))] - ratio) < 1e-6, (kind, ratio)
        names = {name for name, _ in found}
        expected = {"bulkhead_starts_total", "bulkhead_workers", "bulkhead_queue_seconds_total", "bulkhead_worker_deaths_total", "process_resident_memory_bytes"}
        expected |= {"process_open_fds", "bulkhead_start_stage_seconds_count"}
        assert expected <= names, expected - names
        # A start is its stages, one after the other; a prewarmed runtime has said hello before.
        starts = 0
        for kind, stages in (("cold", ("sandbox", "runtime", "code")), ("prewarmed", ("sandbox", "code"))):
            whole = found["bulkhead_start_seconds_sum", (("kind", kind),)]
            parts = [found["bulkhead_start_stage_seconds_sum", (("kind", kind), ("stage", stage))] for stage in stages]
            assert abs(whole - sum(parts)) < 0.01 + whole / 50 and (whole == 0 or min(parts) > 0), (kind, whole, parts)
            starts += whole
        assert starts > 0, "no start was measured"

        def spawner():
            # Told by the spawner itself, once in a few seconds.
            now = samples(control(node, "/metrics"))
            return {name.removeprefix("bulkhead_spawner_"): value for (name, _), value in now.items() if name.startswith("bulkhead_spawner_")}
        use = wait_for(spawner, 20, "the spawner's own use")
        pid = node.process.pid
        with open(f"/proc/{pid}/status") as file:
            resident = int(next(line for line in file if line.startswith("VmRSS")).split()[1]) << 10
        assert set(use) == {"cpu_seconds_total", "resident_memory_bytes", "open_fds"} and use["cpu_seconds_total"] > 0, use
        assert resident / 2 < use["resident_memory_bytes"] < resident * 2, (use, resident)
        assert abs(len(os.listdir(f"/proc/{pid}/fd")) - use["open_fds"]) < 20, use
        text = node.request("GET", "/metrics")[2].decode()
        assert samples(text) and "told" not in text and "span" not in text, "names on TCP"
        top = node.json("top", "--once", "--interval", "0.1", "--tenant", "told")
        assert top["node"]["refusals"] == found["bulkhead_throttled_total", (("level", "tenant"), ("tenant", "told"))], top
    suite.check("metrics count what callers saw, and name tenants on the control socket alone", metrics)
