# SPDX-License-Identifier: Apache-2.0
"""The command runtime: a process an invocation, event on stdin, answer on stdout."""
import os
import time

from worker import CALL_RESULT, CANCEL, DRAIN, ERROR, HELLO, INIT_ERROR, INVOCATION, RESULT, RETRY_LATER, TRACEPARENT, Worker, frame

MAXIMUM_BODY = 8 << 20


def shell(text):
    return "#!/bin/sh\n" + text + "\n"


def add(suite, program, wait_for):
    def start(text, name="run.sh"):
        return Worker([program], {name: shell(text)})

    def ready(text, **more):
        return start(text).ready("run.sh", **more)

    def hello():
        with start("cat") as worker:
            assert worker.receive_bytes() == frame(HELLO, 0, [("protocolVersion", 1), ("runtime", "command"), ("pid", worker.process.pid)])

    def answers():
        with ready("cat") as worker:
            for body, kind in [("text", "text/plain; charset=utf-8"), ("{}", "application/json"), ("[1]", "application/json"), ("", "text/plain; charset=utf-8"),
                               (b"a\0b", "application/octet-stream")]:
                answer = worker.ask(body, slot=0)
                assert answer.kind == RESULT and answer["contentType"] == kind, answer
                assert answer["body"] == (body if isinstance(body, bytes) else body.encode()), answer

    def arguments():
        with Worker([program], {"run.sh": shell('printf "%s|" "$@"; printf "%s %s %s %s %s %s" "$COLOUR" "$TOKEN" "$BULKHEAD_INVOCATION_ID" '
                                                '"$BULKHEAD_FUNCTION" "$BULKHEAD_CONTENT_TYPE" "$TRACEPARENT"; ls /proc/self/fd | wc -l >&2')}) as worker:
            worker.ready(["run.sh", "a b", "", "c"], environment=("COLOUR=blue",))
            answer = worker.ask("x", kind="text/x")
            assert answer["body"].decode() == f"a b||c|blue s=3 {INVOCATION} acme/test text/x {TRACEPARENT}", answer
            # 0, 1, 2 and the one that ls reads the folder with: the supervisor's socket is not among them.
            assert worker.errors().strip() == "4", worker.errors()

    def failures():
        with ready('read word; echo "why: $word" >&2; exit "$word"') as worker:
            answer = worker.ask("3\n", slot=4)
            assert answer.kind == ERROR and answer.slot == 4 and answer["errorType"] == "ExitCode" and "3" in answer["errorMessage"], answer
            assert "why: 3" in worker.errors(), "what a command writes to stderr is its log"
            answer = worker.ask("111\n")
            assert answer.kind == RETRY_LATER and answer["after"] == 1, answer
            assert worker.ask("0\n").kind == RESULT
        with ready("kill -SEGV $$") as worker:
            answer = worker.ask("x")
            assert answer.kind == ERROR and answer["errorType"] == "Signal" and "11" in answer["errorMessage"], answer

    def start_failures():
        for files, handler, word in [({}, "run.sh", "run.sh"), ({"run.sh": shell("cat")}, [], "no command"), ({"run.sh": shell("cat")}, "other", "other")]:
            with Worker([program], files) as worker:
                answer = worker.started(handler)
                assert answer.kind == INIT_ERROR and word in answer["errorMessage"], answer
        with Worker([program], {"run.sh": "no program\n", "bad": b"\x7fELF\0\0"}) as worker:
            worker.ready("bad")
            answer = worker.ask("x")
            assert answer.kind == ERROR and "127" in answer["errorMessage"], answer

    def large():
        body = os.urandom(1 << 20) * 8
        with ready("cat") as worker:
            worker.socket.settimeout(60)
            assert worker.ask(body)["body"] == body

    def unread():
        """A command need not read its event, and one that answers too much is refused; neither costs the worker a descriptor."""
        with ready('if [ "$MODE" = much ]; then head -c 9000000 /dev/zero; else echo done; fi', environment=("MODE=",)) as worker:
            assert worker.ask(b"x" * 1_000_000)["body"] == b"done\n"
        with ready("head -c 9000000 /dev/zero") as worker:
            folder = f"/proc/{worker.process.pid}/fd"
            before = len(os.listdir(folder))
            for _ in range(3):
                answer = worker.ask(b"x" * 1_000_000)
                assert answer.kind == ERROR and answer["errorType"] == "AnswerTooLarge", answer
            assert len(os.listdir(folder)) == before, os.listdir(folder)

    def leftovers():
        with ready("(setsid sleep 1000 &) ; sleep 1000 & echo $!") as worker:
            # What goes on in the background holds stdout, so the answer comes only when it is closed.
            worker.invoke("x")
            wait_for(lambda: children(worker.process.pid), what="the command's processes")
            worker.send(CANCEL, 0)
            assert worker.receive()["errorType"] == "Cancelled"
            assert children(worker.process.pid) == [], "processes of an invocation outlive it"
        with ready("(setsid sleep 1000 > /dev/null 2>&1 &) ; echo done") as worker:
            assert worker.ask("x")["body"] == b"done\n"
            assert children(worker.process.pid) == []

    def cancelled():
        with ready("exec sleep 1000") as worker:
            begin = time.monotonic()
            worker.invoke("x")
            worker.send(CANCEL, 0)
            assert worker.receive()["errorType"] == "Cancelled"
            assert time.monotonic() - begin < 0.5
            worker.send(DRAIN)
            assert worker.ended() == 0

    def strangers():
        """A frame that is no cancel waits its turn, without the worker turning its wheels."""
        with ready("sleep 0.6; echo done") as worker:
            worker.invoke("x")
            worker.send(CALL_RESULT, 0, [("request", 1)])
            assert worker.receive()["body"] == b"done\n"
            fields = open(f"/proc/{worker.process.pid}/stat").read().rsplit(") ", 1)[1].split()
            ticks = int(fields[11]) + int(fields[12])
            assert ticks < 20, f"{ticks} ticks of processor time to wait for a sleeping command"

    def orphaned():
        with ready("exec sleep 1000") as worker:
            worker.invoke("x")
            wait_for(lambda: children(worker.process.pid), what="the command")
            child = children(worker.process.pid)[0]
            worker.socket.close()
            worker.ended()
            wait_for(lambda: not os.path.exists(f"/proc/{child}"), what="the command's end")

    def children(pid):
        return open(f"/proc/{pid}/task/{pid}/children").read().split()

    for title, body in [
            ("says hello byte for byte", hello), ("gives the event to stdin and takes the answer from stdout", answers),
            ("gives a command its words, its variables and no socket", arguments), ("reports how a command failed", failures),
            ("explains a command that cannot start", start_failures), ("takes and gives 8 MiB", large), ("needs no reader and keeps no descriptor", unread),
            ("leaves no process behind", leftovers), ("stops when cancelled", cancelled), ("waits without work", strangers),
            ("ends with its socket in mid-run, and its command with it", orphaned)]:
        suite.check(f"command {title}", body)
