#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How long a loop through a receiver outside runs that does not pass the lineage on: from its first event to the break of its edge. `hidden.py SECONDS_A_TURN...`; prints, and judges nothing."""
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from events_routes import TELL, Returner  # noqa: E402
from node import Node, python  # noqa: E402

# Webhooks may go to this machine.
# The published bound of one edge, whatever its roots: each of these events is a root of its own.
def bound(seconds):
    return round(10_000 + 10_000 * seconds / 3600)


CONFIG = {"bulkhead.yaml": "webhooks: any\n", "tenants.d/loopy.yaml": "tenant: loopy\nquota: {concurrency: 16, memory: 1GiB}\n"}


def one(node, name, delay, circulating, lines):
    outside = Returner(node, f"/q/loopy/{name}/back", delay, passes_on=False)
    node.deployed(python(name, f"async: {{onSuccess: 'webhook:{outside.url}'}}\ntriggers: [{{queue: key, name: back}}]\nworkers: {{max: 2}}\n"),
                  {"main.py": TELL}, "loopy")
    began, tested = time.monotonic(), None
    try:
        for number in range(circulating):
            threading.Timer(delay * number / circulating, outside.call, [None]).start()
        while time.monotonic() - began < 900:
            states = [row["state"] for row in node.json("loops", "--tenant", "loopy") if row["function"] == name]
            if "testing" in states and tested is None:
                tested, at = time.monotonic() - began, outside.got
            if "broken" in states:
                took = time.monotonic() - began
                lines.append(f"  {delay} s a turn, {circulating} at first: tested after {tested or 0:.0f} s, broken after {took:.0f} s and {outside.got} events; published bound of an edge {bound(took):,}")
                return
            time.sleep(0.5)
        lines.append(f"  {delay} s a turn, {circulating} at first: not broken after 900 s and {outside.got} events; published bound of an edge {bound(900):,}")
    finally:
        outside.close()


def main():
    node, lines = Node(CONFIG).start(), []
    try:
        for delay in [float(word) for word in sys.argv[1:]] or [0.1, 2.0]:
            one(node, f"loop{int(delay * 10)}", delay, max(1, round(2 * delay)), lines)
        print("\n".join(["a loop through somebody outside who hides the lineage"] + lines))
    finally:
        node.remove()


if __name__ == "__main__":
    main()
