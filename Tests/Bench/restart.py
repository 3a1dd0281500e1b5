#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What callers notice of a new daemon in the old one's place, and of a new program of the spawner before it, at 500 calls and 200 events a second: failures, the longest wait, warm
workers. Prints; judges nothing but what the product promises never to lose. `restart.py CALLS EVENTS` measures at other rates."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from node import python, wait_for  # noqa: E402
from steady import ECHO, NOTE, Life, Load, ran  # noqa: E402

RESTARTS = int(os.environ.get("BENCH_RESTARTS", "10"))


def restarts(node, load, *words):
    """(warm workers kept, of how many, the longest wait at each, how long nobody accepts at each)"""
    kept, offered, longest, pauses = 0, 0, [], []
    for _ in range(RESTARTS):
        before, begin = node.workers(), time.monotonic()
        reply = node.restart(*words)
        after = node.workers()
        time.sleep(1)
        kept, offered = kept + len(before.keys() & after.keys()), offered + len(before)
        longest.append(load.stall(100, begin, time.monotonic()))
        pauses.append(reply["pauseMilliseconds"])
    return kept, offered, longest, pauses


def main():
    calls, events = (float(word) for word in (sys.argv[1:3] or (500, 200)))
    node = Life().start()
    load = None
    try:
        node.deployed(python("echo"), {"main.py": ECHO})
        node.deployed(python("note"), {"main.py": NOTE})
        load = Load(node, calls, events)
        wait_for(lambda: len(node.workers()) >= 2 and load.count > calls, 60, "warm workers")
        time.sleep(3)
        began = time.monotonic()
        kept, offered, longest, pauses = restarts(node, load)
        wrong, whole = len(load.wrong), restarts(node, load, "--spawner")
        rate = sum(1 for sent, _ in load.taken if sent >= began) / (time.monotonic() - began)
        load.end()
        print(f"restart at {calls:.0f} calls and {events:.0f} events a second ({rate:.0f} a second sent), {RESTARTS} times")
        print(f"  failed requests      {len(load.wrong)} of {load.count} {load.wrong[:3] or ''}")
        print(f"  longest wait         p50 {sorted(longest)[len(longest) // 2]:.0f} ms, p99 {max(longest):.0f} ms of the restarts (promised: 250 ms)")
        print(f"  nobody accepts for   {sorted(pauses)[len(pauses) // 2]} ms, at most {max(pauses)} ms")
        stalls = sorted(whole[2])
        print(f"  with the spawner's   {len(load.wrong) - wrong} failed, longest wait p50 {stalls[len(stalls) // 2]:.0f} ms, p99 {stalls[-1]:.0f} ms, {whole[0]} of {whole[1]} warm workers kept, {RESTARTS} times")
        print(f"  all calls            p50 {load.stall(50):.1f} ms, p99 {load.stall(99):.1f} ms")
        print(f"  warm workers kept    {kept} of {offered} (promised: 95 %)")
        # The last 10,000 lines of the log: each event's run is one.
        judged = load.accepted if len(load.accepted) < 9000 else load.accepted[-4000:]
        deadline = time.monotonic() + 60
        while set(judged) - set(found := ran(node)) and time.monotonic() < deadline:
            time.sleep(1)
        lost, twice = sum(1 for name in judged if name not in found), sum(1 for name in judged if found.get(name, 0) > 1)
        print(f"  events               {len(load.accepted)} accepted, {lost} lost, {twice} ran twice")
        return 1 if load.wrong or lost or twice else 0
    finally:
        if load:
            load.end()
        node.remove()


if __name__ == "__main__":
    sys.exit(main())
