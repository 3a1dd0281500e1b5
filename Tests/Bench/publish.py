#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How soon a publish and a rollback take effect under load, and how near a canary's share of 100,000 calls comes to its weight. `publish.py [CALLS]`. Prints; fails where a call fails, or where
a share is further off than five standard deviations of as many tosses."""
import math
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from load import Flood  # noqa: E402
from node import Node  # noqa: E402
from versions import CONFIG, Aliased, deploy, switch, version  # noqa: E402

TIMES, WEIGHT = 7, 10


def row(name, goal, measured):
    print(f"{name:72} {goal:16} {measured}", flush=True)


def spread(milliseconds):
    rest = sorted(milliseconds)
    return f"{rest[len(rest) // 2]:.0f} ms, {rest[0]:.0f}-{rest[-1]:.0f}"


def main():
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    node = Node(CONFIG).start()
    try:
        deploy(node, "live", 1)
        assert node.invoke("live", b"{}")[0] == 200
        published, rolled, answered = [], [], 0
        for number in range(2, TIMES + 2):
            for taken, change, to in ((published, lambda n=number: deploy(node, "live", n), number), (rolled, lambda: node.json("rollback", "acme/live"), 1)):
                began = []

                def timed(change=change, began=began):
                    began.append(time.monotonic())
                    change()
                late, answers = switch(node, "live", timed, to)
                assert late <= 1, late
                taken.append(max(answer.sent - began[0] for answer in answers if version(answer) != to) * 1000)
                answered += len(answers)
        row(f"publish: from the command's start to the last call begun on the old version ({TIMES} times)", "<= 1 s", spread(published))
        row(f"rollback: the same ({TIMES} times)", "<= 1 s", spread(rolled))
        row(f"failed calls of {answered} meanwhile", "0", "0")
        for number in (1, 2):
            deploy(node, "split", number)
        node.json("alias", "set", "acme/split", "prod", f"1={100 - WEIGHT}", f"2={WEIGHT}", "--no-automatic-rollback")
        got = 0
        for _ in range(10):
            flood = Flood(Aliased(node, "prod"), 8, "split", {}, calls=calls // 10).join()
            assert len(flood.ok()) == calls // 10, flood.refused()[:2]
            got += sum(version(answer) == 2 for answer in flood.answers)
        share, sigma = got * 100 / calls, math.sqrt(WEIGHT * (100 - WEIGHT) / calls)
        row(f"canary of {WEIGHT} %: its share of {calls:,} calls", f"{WEIGHT} %", f"{share:.2f} %: {abs(share - WEIGHT) / sigma:.1f} standard deviations ({sigma:.2f} %) off")
        return 0 if abs(share - WEIGHT) <= 5 * sigma else 1
    finally:
        node.remove()


if __name__ == "__main__":
    sys.exit(main())
