#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Instants above any cap and budget overruns, by an observer outside the node's books, while workers crash, caps change and daemons are killed; `ceilings.py [SECONDS]`, 120 unless told.
Exit status 1 where there is one, and where a ceiling was never reached, so that nothing could have been seen above it."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from ceilings_watched import watch  # noqa: E402


def main():
    seconds = float((sys.argv[1:] or [os.environ.get("BENCH_SECONDS", "120")])[0])
    faults, _, _ = watch(seconds, round(seconds * 8), round(seconds / 10))
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
