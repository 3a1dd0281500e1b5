#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ceilings, judged from outside: handlers say when they ran, callers what they were told, and neither asks the node whether it kept its word."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ceilings_budgets  # noqa: E402
import ceilings_crowds  # noqa: E402
import ceilings_reload  # noqa: E402
import ceilings_seats  # noqa: E402
import ceilings_suspended  # noqa: E402
import ceilings_tokens  # noqa: E402
import ceilings_users  # noqa: E402
import ceilings_watched  # noqa: E402
from node import Suite  # noqa: E402

PARTS = {
    "seats": ceilings_seats.run, "rates": ceilings_seats.run_rates, "users": ceilings_users.run, "tokens": ceilings_tokens.run, "budgets": ceilings_budgets.run,
    "reload": ceilings_reload.run, "suspended": ceilings_suspended.run, "crowds": ceilings_crowds.run, "watched": ceilings_watched.run,
}


def main(names):
    suite = Suite("ceilings")
    for name in names or PARTS:
        PARTS[name](suite)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
