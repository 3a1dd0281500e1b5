#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A node under what is worst for it: killed at any moment, given too much, started where it must not start."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hostile_bucket  # noqa: E402
import hostile_disk  # noqa: E402
import hostile_floods  # noqa: E402
import hostile_kills  # noqa: E402
import hostile_starts  # noqa: E402
from node import Suite  # noqa: E402

PARTS = {"kills": hostile_kills.run, "floods": hostile_floods.run, "frames": hostile_floods.frames, "disk": hostile_disk.run,
         "bucket": hostile_bucket.run, "database": hostile_starts.lost_database, "hosts": hostile_starts.weak_hosts}


def main(names):
    suite = Suite("hostile")
    for name in names or PARTS:
        PARTS[name](suite)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
