#!/bin/sh
# The event is on stdin, the answer goes to stdout, stderr is the log. Exit 111 asks to be called again later.
echo "called as $BULKHEAD_INVOCATION_ID" >&2
printf 'hello '
cat
