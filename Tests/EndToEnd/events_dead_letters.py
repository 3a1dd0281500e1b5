# SPDX-License-Identifier: Apache-2.0
"""Dead letters in the hands of their owner: seen, given another chance at a rate, which outlives the daemon, and removed."""
import json
import os
import signal

from node import python, wait_for

# Fails as long as the event says so and nobody has mended it.
HANDLER = "def handler(event, context):\n    print('ran', event['n'], flush=True)\n    if MENDED: return {}\n    raise ValueError('as asked')\n"


def run(suite, node, lines, daemon):
    def fill(function, count):
        # One worker: several that start beside each other on a slow processor wait for each other, and the letter would be of that.
        node.deployed(python(function, "async: {attempts: 1}\nworkers: {max: 1}\n"), {"main.py": "MENDED = False\n" + HANDLER}, "loopy")
        for number in range(count):
            status, _, body = node.invoke(function, json.dumps({"n": number}).encode(), "loopy", {"Bulkhead-Invocation-Type": "async"})
            assert status == 202, (status, body)
        wait_for(lambda: len(letters(function)) == count, 30, "the dead letters")

    def letters(function):
        return node.json("dead-letters", "list", f"loopy/{function}")

    def runs(function):
        return [int(line.split()[1]) for line in lines(node, function, "loopy")]

    def another_chance():
        count = 7
        fill("letters", count)
        shown = json.dumps(node.json("dead-letters", "show", letters("letters")[0]["id"]))
        assert "as asked" in shown, shown
        assert sorted(runs("letters")) == list(range(count))
        node.deployed(python("letters", "async: {attempts: 1}\n"), {"main.py": "MENDED = True\n" + HANDLER}, "loopy")
        slow = node.cli("dead-letters", "redrive", "loopy/letters", "--rate", "1/d")
        assert slow.returncode != 0 and letters("letters"), slow
        reply = node.json("dead-letters", "redrive", "loopy/letters", "--rate", "1/s")
        assert reply == {"redriven": 1, "scheduled": count - 1, "left": 0}, reply
        assert letters("letters") == [], "a letter that is to come again is a letter no more"
        # Whoever waits for its turn waits on the disk.
        os.kill(daemon(node), signal.SIGKILL)
        wait_for(lambda: len(runs("letters")) >= 2 * count, 60, "a run for each letter")
        assert sorted(runs("letters")) == sorted([*range(count)] * 2), runs("letters")
        assert letters("letters") == []
    suite.check("dead letters are redriven at a rate, each once, though the daemon is killed after the first", another_chance)

    def purged():
        fill("purged", 3)
        first = letters("purged")[0]["id"]
        assert node.json("dead-letters", "purge", first) == {"purged": 1}
        assert len(letters("purged")) == 2 and first not in [letter["id"] for letter in letters("purged")]
        assert node.json("dead-letters", "purge", "loopy/purged") == {"purged": 2}
        assert letters("purged") == [] and node.json("dead-letters", "redrive", "loopy/purged") == {"redriven": 0, "scheduled": 0, "left": 0}
        assert len(runs("purged")) == 3, "what was purged ran again"
    suite.check("dead letters are purged one by one and all of a function, and come back by no redrive", purged)
