# SPDX-License-Identifier: Apache-2.0
import collections
import re


def handler(event, context):
    """Word statistics of the posted text: `event` is a string if it came as text/*, else the bytes as they were sent."""
    text = event if isinstance(event, str) else bytes(event).decode(errors="replace")
    counted = collections.Counter(re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower()))
    return {"bytes": len(text.encode()), "lines": text.count("\n"), "words": counted.total(), "different": len(counted),
            "most": dict(counted.most_common(5))}
