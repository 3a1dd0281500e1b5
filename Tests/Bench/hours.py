#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What comes in so many hours at a stated load (soak.py's `LOAD`), done as fast as it can be done: whether memory, descriptors and the disk grow with it. `hours.py [HOURS [MINUTES]]`, 8 hours'
work in 10 minutes at most unless told. As much again comes before it as warm-up; through the rest a line is fitted, of memory by calls, with its error. Exit status 1 where something grew."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from soak import LOAD, Work, fill, furnish, judge, of_process, prepared, settled  # noqa: E402


def started(node):
    """How many workers there have been: they are numbered."""
    return max((int(row["worker"].removeprefix("w-"), 16) for row in node.json("ps")), default=0)


def line(points):
    """What a line through (calls, bytes) rises by in 1,000 calls, and its error at 95 %: fitted through the medians of ten parts, as malloc's arenas rise and fall by a few MiB in waves of
    many seconds, and one second is like the one before."""
    size = len(points) // 10
    assert size, f"{len(points)} samples are too few for a line"
    parts = [sorted(points[i * size:(i + 1) * size], key=lambda point: point[1])[size // 2] for i in range(10)]
    middle = [sum(part[i] for part in parts) / 10 for i in (0, 1)]
    spread = sum((x - middle[0]) ** 2 for x, _ in parts)
    rise = sum((x - middle[0]) * (y - middle[1]) for x, y in parts) / spread
    rest = sum((y - middle[1] - rise * (x - middle[0])) ** 2 for x, y in parts)
    # Student's t for 8 degrees of freedom.
    return rise * 1000, 2.306 * (rest / 8 / spread) ** 0.5 * 1000


def compressed(node, work, seconds, points):
    """Lets the work go on to its goal, at most so long; a sample of memory by calls each half second, once what the quiet before has given back to the machine is there again."""
    begin, daemon = time.monotonic(), node.daemon()[0]
    while time.monotonic() - begin < seconds and work.done() < 1:
        time.sleep(0.5)
        if work.done() < 0.55:
            continue
        found, calls = (of_process(daemon), of_process(node.process.pid)), work.counts.get("calls", 0)
        if points is not None and all(found):
            for name, one in zip(points, found):
                points[name].append((calls, one[0]))


def thirds(points):
    """The line through each third of the points: what fills up once rises less and less, what is lost does not."""
    size = len(points) // 3
    return [f"{rise:+.0f} +- {error:.0f}" for rise, error in (line(points[i * size:(i + 1) * size]) for i in range(3))] if size >= 10 else ["too few samples"]


def flat(points):
    """Prints each process's line beside its goal; what grows by more than its error and by a mebibyte in the calls that there were."""
    grown = []
    for name, found in points.items():
        rise, error = line(found)
        calls = found[-1][0] - found[0][0]
        is_flat = rise - error <= 0
        print(f"  RSS of the {name:8} {rise:+8.0f} +- {error:.0f} bytes per 1,000 calls over {calls:,} of them (goal: 0 within its error: {'yes' if is_flat else 'no'}); "
              f"{found[0][1] / 2**20:.1f} .. {found[-1][1] / 2**20:.1f} MiB; each third: {', '.join(thirds(found))}")
        if not is_flat and (rise - error) * calls / 1000 > 1 << 20:
            grown.append(f"{name}: {rise:+.0f} bytes per 1,000 calls")
    return grown


def main():
    hours, minutes = (float(word) for word in (sys.argv[1:] + ["8", "10"][len(sys.argv) - 1:])[:2])
    node = prepared().start()
    work = None
    try:
        furnish(node)
        fill(node)
        begin, work = time.monotonic(), Work(node, 2 * hours)
        end = begin + minutes * 60
        while work.done() < 0.5 and time.monotonic() < end:
            time.sleep(0.5)
        before, first = settled(node, work), dict(work.counts)
        points = {"daemon": [], "spawner": []}
        compressed(node, work, end - time.monotonic(), points)
        share, took = 2 * work.done() - 1, time.monotonic() - begin
        counts, starts = {name: count - first.get(name, 0) for name, count in work.counts.items()}, started(node)
        after = settled(node, work)
        work.end()
        loads = ", ".join(f"{count} {name}" for name, count in LOAD.items())
        print(f"{share * hours:.1f} of {hours:g} hours' work behind as much of warm-up, all in {took:.0f} s: {', '.join(f'{count:,} {name}' for name, count in counts.items())} (an hour has {loads})")
        print(f"  workers started, warm-up included: {starts:,}")
        grown = flat(points) + judge(before, after, None, 0)
        if work.wrong:
            print(f"  not answered as it should be: {len(work.wrong)}: {work.wrong[:4]}")
        for one in grown:
            print(f"  GROWN: {one}")
        return 1 if grown or len(work.wrong) > 3 else 0
    finally:
        if work:
            work.over.set()
        node.remove()


if __name__ == "__main__":
    sys.exit(main())
