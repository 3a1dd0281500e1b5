#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every runtime's shim against the specification of the worker protocol, outside any sandbox: this file is the supervisor."""
import ast
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "EndToEnd"))
from node import Suite, wait_for  # noqa: E402
import worker as w  # noqa: E402
from worker import CALL, CALL_RESULT, CANCEL, CHUNK, DRAIN, EMIT, EMIT_RESULT, ERROR, INIT_ERROR, INIT, INVOKE, LOG, READY, RESULT, RETRY_LATER, Worker, frame  # noqa: E402

MAXIMUM_BODY = 8 << 20
BUILD = tempfile.mkdtemp(prefix="bulkhead-runtimes-")
INTERPRETED = ("python3", "nodejs")


class Runtime:
    """One shim, with a function that understands the orders of this file: a text body whose first word says what to do."""

    def __init__(self, name, command, handler, files=(), says=None, slots=False, loads=False):
        self.name, self.command, self.handler, self.files, self.says = name, command, handler, dict(files), says or name
        self.slots, self.loads = slots, loads

    def start(self, files=None):
        return Worker(self.command, self.files if files is None else files)

    def ready(self, **more):
        return self.start().ready(self.handler, **more)


def compiled(name, source, *flags):
    program = os.path.join(BUILD, name)
    subprocess.run(["cc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *flags, "-o", program, source], check=True)
    return program


def read(name):
    with open(os.path.join(HERE, name)) as file:
        return file.read()


def runtimes():
    """(runtimes, [(name, reason for its absence)])"""
    found, missing = [], []
    found.append(Runtime("python3", ["/usr/bin/python3", os.path.join(w.RUNTIMES, "python3", "bootstrap.py")], "main.handler",
                         {"main.py": read("main.py")}, slots=True, loads=True))
    node = shutil.which("node", path="/usr/bin:/usr/local/bin")
    if node:
        found.append(Runtime("nodejs", [node, os.path.join(w.RUNTIMES, "nodejs", "bootstrap.cjs")], "index.handler", {"index.js": read("index.js")},
                             slots=True, loads=True))
    else:
        missing.append(("nodejs", "this machine has no Node.js"))
    found.append(Runtime("native", [compiled("native", os.path.join(HERE, "native.c"))], "./native"))
    sample = [os.path.join(w.ROOT, folder, "debug", "worker-sample") for folder in (".build", ".build-core")]
    sample = sorted(filter(os.path.exists, sample), key=os.path.getmtime)
    if sample:
        found.append(Runtime("WorkerSDK", [sample[-1]], "./worker-sample", says="swift"))
    else:
        missing.append(("WorkerSDK", "its sample is not built: swift build --product worker-sample"))
    return found, missing


# --- what the specification fixes byte for byte

def codec():
    """This file's own codec, which every shim is held to, and that no kind of frame is missing."""
    whole, _ = w.vectors()
    assert {v["kind"] for v in whole} == set(range(1, 18)), "a kind without a vector"
    for vector in whole:
        assert frame(vector["kind"], vector["slot"], flags=vector["flags"], raw=vector["fields"]) == vector["bytes"], vector["name"]
        back = w.Frame(vector["bytes"])
        assert (back.kind, back.flags, back.slot) == (vector["kind"], vector["flags"], vector["slot"]), vector["name"]
        known = [(tag, value) for tag, value in vector["fields"] if tag in w.NAMES]
        assert [(w.TAGS[name][0], w.value_of(name, value)) for name, value in back.fields] == known, vector["name"]
    data, (kind, flags, slot, fields) = w.golden()
    assert frame(kind, slot, fields, flags) == data and data in [v["bytes"] for v in whole], "the one that the specification shows"


def golden_python():
    whole, refused = w.vectors()
    sys.path.insert(0, os.path.join(w.RUNTIMES, "python3"))
    import _bulkhead_runtime as bulkhead
    for v in whole:
        assert bulkhead.encode(v["kind"], v["slot"], v["fields"], v["flags"]) == v["bytes"], v["name"]
        assert bulkhead.decode(v["bytes"][4:]) == (v["kind"], v["flags"], v["slot"], v["fields"]), v["name"]
    for v in refused:
        ours, theirs = socket.socketpair()
        ours.sendall(v["bytes"])
        try:
            found = bulkhead.Channel(theirs.detach()).read()
        except bulkhead.Breach:
            continue
        finally:
            ours.close()
        raise AssertionError(f"{v['name']} is taken for {found}")


def golden_node(runtime):
    """What is refused, the shim says with its end: see `breaches`."""
    whole, _ = w.vectors()
    script = ("const {encode, decode} = require(process.argv[1]); const all = JSON.parse(require('fs').readFileSync(0));"
              "console.log(JSON.stringify(all.map(([kind, flags, slot, fields, hex]) => { const f = decode(Buffer.from(hex, 'hex').subarray(4)); return ["
              "encode(kind, slot, fields.map(([t, v]) => [t, Buffer.from(v, 'hex')]), flags).toString('hex'),"
              "[f.kind, f.flags, f.slot, f.fields.map(([t, v]) => [t, v.toString('hex')])]]; })));")
    listed = [[v["kind"], v["flags"], v["slot"], [[tag, value.hex()] for tag, value in v["fields"]]] for v in whole]
    out = subprocess.run([runtime.command[0], "-e", script, runtime.command[1]], capture_output=True, check=True, text=True,
                         input=json.dumps([form + [v["hex"]] for form, v in zip(listed, whole)])).stdout
    for vector, form, (encoded, decoded) in zip(whole, listed, json.loads(out), strict=True):
        assert encoded == vector["hex"], vector["name"]
        assert decoded == form, vector["name"]


def golden_native():
    whole, refused = w.vectors()
    program = compiled("golden", os.path.join(HERE, "golden.c"))
    forms = [" ".join([str(v["kind"]), str(v["flags"]), str(v["slot"])] + [f"{tag}:{value.hex()}" for tag, value in v["fields"]]) for v in whole]
    asked = [f"e {form}" for form in forms] + [f"d {v['hex']}" for v in whole + refused]
    out = subprocess.run([program], capture_output=True, check=True, text=True, input="\n".join(asked) + "\n").stdout.split("\n")
    for vector, form, encoded, decoded in zip(whole, forms, out, out[len(whole):]):
        assert encoded == vector["hex"], (vector["name"], encoded)
        assert decoded == form, (vector["name"], decoded)
    for vector, decoded in zip(refused, out[2 * len(whole):]):
        # Kinds are the reader's to refuse: `breaches`.
        assert "refused" in decoded or vector["name"].startswith("kind "), (vector["name"], decoded)


def hello(runtime):
    with runtime.start() as worker:
        sent = worker.receive_bytes()
        assert sent == frame(w.HELLO, 0, [("protocolVersion", 1), ("runtime", runtime.says), ("pid", worker.process.pid)]), sent.hex()


def exact_answers(runtime):
    with runtime.ready() as worker:
        kind = "text/plain; charset=utf-8" if runtime.name != "native" else "text/plain"
        worker.invoke("echo h\u00e4", slot=0)
        assert worker.receive_bytes() == frame(RESULT, 0, [("contentType", kind), ("body", "h\u00e4")])
        worker.invoke("later", slot=0)
        assert worker.receive_bytes() == frame(RETRY_LATER, 0, [("after", 7)])
        worker.invoke("log", slot=0)
        assert worker.receive_bytes() == frame(LOG, 0, [("level", 2), ("message", "a line")])
        assert worker.receive()["body"] == b"logged"


# --- a function's own files

def late_imports():
    """What the shim imports late must be there before a function whose file of the same name would be found instead."""
    with open(os.path.join(w.RUNTIMES, "python3", "_bulkhead_runtime.py")) as file:
        tree = ast.parse(file.read())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    late, library = set(), set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = {name for node in ast.walk(function) for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                                                                 else [node.module] if isinstance(node, ast.ImportFrom) else [])}
        late |= names
        if function.name == "load_library":
            library = names
    assert late - top == library and len(library) > 5, (late - top) ^ library


def own_names(runtime):
    files = {f"{name}.py": "raise SystemError('a function has it, and nobody imports it')\n" for name in ("threading", "urllib", "json", "traceback", "socket")}
    files["bulkhead.py"] = "def handler(event, context):\n    return 'mine' if not event else 1 / 0 if event == 'fail' else event\n"
    with runtime.start(files) as worker:
        worker.ready("bulkhead.handler", concurrency=2)
        worker.invoke(b"", slot=0)
        answer = worker.receive()
        assert (answer.kind, answer["body"]) == (RESULT, b"mine"), answer
        worker.invoke("fail", slot=0)
        answer = worker.receive()
        assert answer.kind == ERROR and answer["errorType"] == "ZeroDivisionError" and "1 / 0" in answer["errorStack"], answer


# --- the life of a worker

def slot_numbers(runtime):
    with runtime.ready() as worker:
        for slot in (0, 1, 255, 256, 0x0102, 65535):
            answer = worker.ask(f"echo {slot}", slot=slot)
            assert (answer.kind, answer.slot, answer["body"]) == (RESULT, slot, str(slot).encode()), answer


def environment(runtime):
    with runtime.start() as worker:
        worker.ready(runtime.handler, environment=("COLOUR=blue=green", "EMPTY="))
        assert worker.ask("env COLOUR")["body"] == b"blue=green"
        assert worker.ask("env TOKEN")["body"] == b"s=3", "secrets are variables, too"
        assert worker.ask("env EMPTY")["body"] == b""
        assert worker.ask("trace")["body"].decode() == w.TRACEPARENT, "the handler does not see the caller's trace"


def error(runtime):
    with runtime.ready() as worker:
        answer = worker.ask("fail", slot=3)
        assert answer.kind == ERROR and answer.slot == 3 and answer.flags == 0, answer
        assert answer["errorType"] in ("ValueError", "TypeError", "BadThing") and "a bad thing" in answer["errorMessage"], answer
        if runtime.name in INTERPRETED:
            assert runtime.handler.split(".")[0] in answer["errorStack"] and "bootstrap" not in answer["errorStack"], answer
        assert worker.ask("echo on")["body"] == b"on", "the worker serves on after an error"


def status(runtime):
    with runtime.ready() as worker:
        answer = worker.ask("status")
        assert answer.kind == RESULT and answer["status"] == 418 and answer["body"] == b"teapot", answer
        if runtime.name in INTERPRETED:
            assert answer.all("header") == ["x-colour: blue"], answer


def large(runtime):
    """The body comes in pieces that respect no border, and goes back as large."""
    body = bytes(range(256)) * (MAXIMUM_BODY // 256 - 1)
    with runtime.ready() as worker:
        data = frame(INVOKE, 0, w.invoke_fields(b"echo " + body, "application/octet-stream"))
        worker.socket.settimeout(30)
        for at in range(20):
            worker.socket.sendall(data[at:at + 1])
            time.sleep(0.002)
        for at in range(20, len(data), 60_000):
            worker.socket.sendall(data[at:at + 60_000])
        assert worker.receive()["body"] == body


def too_large(runtime):
    with runtime.ready() as worker:
        worker.socket.settimeout(30)
        answer = worker.ask(f"size {MAXIMUM_BODY}")
        assert answer.kind == RESULT and len(answer["body"]) == MAXIMUM_BODY
        answer = worker.ask(f"size {MAXIMUM_BODY + 1}")
        assert answer.kind == ERROR and str(MAXIMUM_BODY + 1) in answer["errorMessage"], answer
        assert worker.ask("echo on")["body"] == b"on"


def many(runtime):
    """Frames that come at once are all answered, in their order where one runs at a time."""
    with runtime.ready() as worker:
        worker.socket.sendall(b"".join(frame(INVOKE, 0, w.invoke_fields(f"echo {n}", "text/plain")) for n in range(200)))
        assert [worker.receive()["body"] for _ in range(200)] == [str(n).encode() for n in range(200)]


def calls(runtime):
    with runtime.ready() as worker:
        worker.invoke("call other", slot=2)
        call = worker.receive()
        assert call.kind == CALL and call.slot == 2 and call["target"] == "other" and call["mode"] == 0, call
        request = call["request"]
        # Neither another request's answer nor a late one may be taken for it.
        worker.send(CALL_RESULT, 2, [("request", request + 1000), ("outcome", "ok"), ("contentType", "text/plain"), ("body", "wrong")])
        worker.send(CALL_RESULT, 2, [("request", request), ("outcome", "ok"), ("contentType", "text/plain"), ("body", "from afar")])
        answer = worker.receive()
        assert answer.kind == RESULT and answer["body"] == b"from afar", answer
        worker.invoke("call other")
        call = worker.receive()
        assert call["request"] != request
        worker.send(CALL_RESULT, 0, [("request", call["request"]), ("outcome", "throttled"), ("errorMessage", "too many")])
        answer = worker.receive()
        assert answer.kind == ERROR and "too many" in answer["errorMessage"], answer


def chained(runtime):
    """The answer of one call is the body of the next."""
    with runtime.ready() as worker:
        worker.invoke("chain other")
        for said in ("first" * 1000, "second"):
            call = worker.receive()
            worker.send(CALL_RESULT, 0, [("request", call["request"]), ("outcome", "ok"), ("contentType", "text/plain"), ("body", said)])
        assert call["body"] == b"first" * 1000, call
        assert worker.receive()["body"] == b"second"


def questions(runtime):
    """Calls that are left to the supervisor, and events: both come back with an id, or with why not."""
    for word, kind, result, name in (("async", CALL, CALL_RESULT, "target"), ("emit", EMIT, EMIT_RESULT, "topic")):
        with runtime.ready() as worker:
            worker.invoke(f"{word} orders.new", slot=4)
            asked = worker.receive()
            assert asked.kind == kind and asked.slot == 4 and asked[name] == "orders.new" and asked["body"] and asked["contentType"], asked
            assert asked["mode"] == (1 if kind == CALL else None), asked
            worker.send(result, 4, [("request", asked["request"] + 1000), ("outcome", "ok"), ("event", "of another")])
            worker.send(result, 4, [("request", asked["request"]), ("outcome", "ok"), ("event", "01-an-event")])
            answer = worker.receive()
            assert answer.kind == RESULT and answer.slot == 4 and answer["body"] == b"01-an-event", answer
            worker.invoke(f"{word} elsewhere")
            again = worker.receive()
            assert again.kind == kind and again["request"] != asked["request"], again
            worker.send(result, 0, [("request", again["request"]), ("outcome", "throttled"), ("errorMessage", "10,000 are enough")])
            answer = worker.receive()
            assert answer.kind == ERROR and "10,000 are enough" in answer["errorMessage"], answer
            # Cancelled while it waits; the answer that comes late is nobody's.
            worker.invoke(f"{word} orders.new", slot=1)
            late = worker.receive()["request"]
            worker.send(CANCEL, 1)
            answer = worker.receive()
            assert answer.kind == ERROR and answer.slot == 1 and answer["errorType"] == "Cancelled", answer
            worker.send(result, 1, [("request", late), ("outcome", "ok"), ("event", "late")])
            assert worker.ask("echo on", slot=1)["body"] == b"on"


def initializer(runtime):
    """A hook that fails is why the function cannot be started."""
    with runtime.start() as worker:
        answer = worker.started(runtime.handler, environment=["REFUSE=yes"])
        assert answer.kind == INIT_ERROR and answer["errorType"] and "refused" in answer["errorMessage"], answer


def waiting_frames(runtime):
    """What comes while a handler waits for something else is not lost, and is done afterwards."""
    with runtime.ready() as worker:
        worker.invoke("call other", slot=0)
        request = worker.receive()["request"]
        worker.invoke("echo next", slot=0)
        worker.send(DRAIN, fields=[("grace", 2000)])
        worker.send(CALL_RESULT, 0, [("request", request), ("outcome", "ok"), ("contentType", "text/plain"), ("body", "first")])
        assert [worker.receive()["body"] for _ in range(2)] == [b"first", b"next"]
        assert worker.ended() == 0, worker.errors()


def drain(runtime):
    with runtime.ready() as worker:
        worker.send(DRAIN, fields=[("grace", 2000)])
        assert worker.ended() == 0, worker.errors()
        worker.output.seek(0)
        assert b"stopping" in worker.output.read(), "the pre-stop hook did not run"


def hook_asks(runtime):
    """The pre-stop hook's question goes out and its answer is heard, also after an invocation that was cancelled, and with several slots."""
    for slots in (1, 2) if runtime.slots else (1,):
        with runtime.ready(environment=("ASKS=1",), concurrency=slots) as worker:
            if slots == 1:
                worker.invoke("spin")
                assert worker.receive().kind == LOG
                worker.send(CANCEL, 0)
                assert worker.receive()["errorType"] == "Cancelled"
            worker.send(DRAIN, fields=[("grace", 2000)])
            asked = worker.receive()
            assert asked.kind == EMIT and asked["topic"] == "stopped", asked
            # Of a question that nobody waits for any more: it is known by its number.
            worker.send(CALL_RESULT, 0, [("request", asked["request"] + 1000), ("outcome", "ok")])
            worker.send(EMIT_RESULT, 0, [("request", asked["request"]), ("outcome", "functionError"), ("errorMessage", "not now")])
            assert worker.ended() == 0, worker.errors()
            worker.output.seek(0)
            assert b"not now" in worker.output.read()


def drain_after_use(runtime):
    with runtime.ready() as worker:
        worker.invoke("echo x")
        worker.receive()
        worker.send(DRAIN, fields=[("grace", 2000)])
        assert worker.ended() == 0, worker.errors()
        if runtime.name == "python3":
            worker.output.seek(0)
            assert b"a timer is left" not in worker.output.read(), "it would end the interpreter in the midst of its end"


def end_of_socket(runtime):
    """Before init, when idle, inside a frame."""
    for stage in ("hello", "idle", "frame"):
        with runtime.start() as worker:
            if stage == "hello":
                worker.receive()
            else:
                worker.ready(runtime.handler)
            if stage == "frame":
                worker.socket.sendall(frame(INVOKE, 0, w.invoke_fields("echo x", "text/plain"))[:-3])
            worker.socket.close()
            worker.ended()


def end_while_running(runtime):
    """A handler that runs is no reason to outlive the supervisor."""
    with runtime.ready() as worker:
        worker.invoke("spin")
        assert worker.receive().kind == LOG
        worker.socket.close()
        worker.ended()


def cancel(runtime):
    with runtime.ready() as worker:
        worker.invoke("spin", slot=0)
        assert worker.receive().kind == LOG
        worker.send(CANCEL, 5)  # another slot's
        worker.send(CANCEL, 0)
        begin = time.monotonic()
        answer = worker.receive()
        assert answer.kind == ERROR and answer["errorType"] == "Cancelled", answer
        assert time.monotonic() - begin < 0.5, "half a second later the worker would be killed"
        worker.send(CANCEL, 0)  # late: nothing runs
        assert worker.ask("echo on")["body"] == b"on"
        worker.send(CANCEL, 0)
        assert worker.ask("echo still")["body"] == b"still"


def cancel_in_call(runtime):
    with runtime.ready() as worker:
        worker.invoke("call other")
        request = worker.receive()["request"]
        worker.send(CANCEL, 0)
        answer = worker.receive()
        assert answer.kind == ERROR and answer["errorType"] == "Cancelled", answer
        worker.send(CALL_RESULT, 0, [("request", request), ("outcome", "ok"), ("body", "late")])
        assert worker.ask("echo on")["body"] == b"on"


def streams(runtime):
    with runtime.ready() as worker:
        worker.invoke("stream 3", slot=1)
        found = [worker.receive() for _ in range(4)]
        assert [f.kind for f in found] == [CHUNK] * 3 + [RESULT] and all(f.slot == 1 for f in found), found
        assert found[0]["contentType"] == "text/plain; charset=utf-8" and found[1]["contentType"] is None
        assert b"".join(f["body"] for f in found[:3]) == b"part 0\npart 1\npart 2\n"
        assert found[3].flags == 1 and not found[3]["body"]


def cancel_stream(runtime):
    with runtime.ready() as worker:
        worker.invoke("stream 1000000000")
        assert worker.receive().kind == CHUNK
        worker.send(CANCEL, 0)
        end = time.monotonic() + 5
        while (answer := worker.receive()).kind == CHUNK:
            assert time.monotonic() < end, "the stream goes on after it was cancelled"
        assert answer.kind == ERROR and answer["errorType"] == "Cancelled", answer


def slots(runtime):
    """Four at once: none waits for another, the answers come in the order of their ends, calls find their slots."""
    with runtime.ready(concurrency=4) as worker:
        for slot in range(3):
            worker.invoke(f"call slot{slot}", slot=slot)
        asked = [worker.receive() for _ in range(3)]
        assert {f["target"] for f in asked} == {"slot0", "slot1", "slot2"} and len({f["request"] for f in asked}) == 3, asked
        assert worker.ask("echo quick", slot=3)["body"] == b"quick"
        for call in reversed(asked):
            worker.send(CALL_RESULT, call.slot, [("request", call["request"]), ("outcome", "ok"), ("contentType", "text/plain"),
                                                 ("body", f"for {call['target']}")])
            answer = worker.receive()
            assert answer.slot == call.slot and answer["body"] == f"for slot{call.slot}".encode(), answer


def cancel_thread(runtime):
    """Python cannot stop a thread, so its handler is told."""
    with runtime.ready(concurrency=2) as worker:
        worker.invoke("watch", slot=1)
        assert worker.receive().kind == LOG
        worker.send(CANCEL, 0)
        assert worker.ask("echo other", slot=0)["body"] == b"other"
        worker.send(CANCEL, 1)
        answer = worker.receive()
        assert answer.slot == 1 and answer["body"] == b"seen", answer


def initialization(runtime):
    suffix = {"python3": "py", "nodejs": "js"}[runtime.name]
    module, name = runtime.handler.split(".")
    good = runtime.files[f"{module}.{suffix}"]
    syntax = "def f(:\n" if suffix == "py" else "exports.handler = (;\n"
    raising = "raise RuntimeError('not today')\n" if suffix == "py" else "throw new RangeError('not today');\n"
    for files, handler, word in [
            ({}, runtime.handler, f"{module}.{suffix}"), ({f"{module}.{suffix}": syntax}, runtime.handler, f"{module}.{suffix}"),
            ({f"{module}.{suffix}": good}, f"{module}.nothing", "nothing"), ({f"{module}.{suffix}": good}, "nodots", "nodots"),
            ({f"{module}.{suffix}": raising}, runtime.handler, "not today"), ({f"{module}.{suffix}": good}, f"{module}.NUMBER", "NUMBER"),
            ({f"{module}.{suffix}": good}, "", "handler")]:
        with runtime.start(files) as worker:
            answer = worker.started(handler)
            assert answer.kind == INIT_ERROR and answer["errorType"] and word in answer["errorMessage"], (handler, answer)
            worker.ended()


def breaches(runtime):
    """A supervisor that breaks the protocol is left, never waited for."""
    cases = {v["name"]: v["bytes"] for v in w.vectors()[1]}
    cases |= {
        "a length of 2^32-1": b"\xff\xff\xff\xff" + bytes([INVOKE, 0, 0, 0]), "the worker's own kind": frame(RESULT), "the golden vector": w.golden()[0],
    }
    for stage in ("before init", "when idle"):
        for name, data in cases.items():
            with runtime.start() as worker:
                if stage == "before init":
                    worker.receive()
                else:
                    worker.ready(runtime.handler)
                worker.socket.sendall(data)
                try:
                    code = worker.ended()
                except AssertionError as error_:
                    raise AssertionError(f"{name}, {stage}: {error_}") from None
                assert code in (0, 1), f"{name}, {stage}: ended with {code}"


def breach_while_running(runtime):
    with runtime.ready() as worker:
        worker.invoke("spin")
        assert worker.receive().kind == LOG
        worker.socket.sendall(b"\xff" * 8)
        assert worker.ended() == 1


def requests(runtime):
    """What a route's request brings beside the body, and answers that HTTP alone has."""
    with runtime.ready() as worker:
        worker.invoke("request", headers=[
            ":method: PUT", ":path: /a/b%20c", ":query: x=1&x=2&y=%C3%A4+z&w", ":source: 192.0.2.1", ":rest: b%20c", "host: n", "x-colon: a: b", "x-twice: 1",
            "x-twice: 2", "cookie: s=1; t=a=b", "cookie: u=2", "x-empty: "])
        answer = worker.receive()
        assert json.loads(answer["body"]) == [
            "PUT", "/a/b%20c", "b%20c", "x=1&x=2&y=%C3%A4+z&w", "192.0.2.1", {"x": "1,2", "y": "\u00e4 z", "w": ""},
            {"host": "n", "x-colon": "a: b", "x-twice": "1, 2", "cookie": "s=1; t=a=b; u=2", "x-empty": ""}, {"s": "1", "t": "a=b", "u": "2"}], answer["body"]
        assert answer.all("header") == ["x-one: 1", "x-one: 2", "x-many: a", "x-many: b", "Set-Cookie: a=1", "Set-Cookie: b=2"], answer.all("header")
        # The next one, which no route started, sees nothing of it.
        assert json.loads(worker.ask("request")["body"]) == [None, None, None, None, None, {}, {}, {}]


def event_forms(runtime):
    """JSON bodies arrive parsed, text as text, anything else as bytes; answers take the type of their value."""
    with runtime.ready() as worker:
        for kind, body, seen in [
                ("application/json", '{"a": [1]}', "object"), ("application/problem+json; x=y", "3", "number"), ("text/csv", "1", "text"),
                ("", '"x"', "text"), ("", "not json", "text"), ("", b"\xff\xfe", "bytes"), ("image/png", b"12", "bytes"), ("application/json", "", "nothing")]:
            answer = worker.ask(body, kind=kind)
            assert answer.kind == RESULT and answer["contentType"] == "application/json", (kind, answer)
            assert json.loads(answer["body"])["seen"] == seen, (kind, body, answer)
        assert worker.ask("{broken", kind="application/json").kind == ERROR


def with_sanitizers():
    """The C shim once more under AddressSanitizer: to read beyond a frame ends it with 99."""
    # Instrumented code confuses some warnings; the plain build has them all.
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-error"]
    probe = os.path.join(BUILD, "probe.c")
    with open(probe, "w") as file:
        file.write("int main(void) { return 0; }\n")
    program = os.path.join(BUILD, "probe")
    if subprocess.run(["cc", *flags, "-o", program, probe], capture_output=True).returncode or subprocess.run([program]).returncode:
        return "this compiler has no AddressSanitizer"
    runtime = Runtime("native", [compiled("native-asan", os.path.join(HERE, "native.c"), *flags)], "./native")
    for body in (exact_answers, large, too_large, breaches, environment, calls, chained, questions, cancel, cancel_in_call, streams, cancel_stream, waiting_frames, drain):
        body(runtime)
    return None


COMMON = [
    ("says hello byte for byte", hello), ("answers byte for byte as specified", exact_answers), ("answers in the slot it was asked in", slot_numbers),
    ("takes environment and secrets", environment), ("reports an error and serves on", error), ("sends the status that the function chose", status),
    ("takes and gives the largest body, cut anywhere", large), ("refuses an answer that is too large", too_large),
    ("answers everything that comes at once", many), ("ends when it is drained", drain),
    ("ends in order when it is drained after use", drain_after_use), ("ends with its socket", end_of_socket),
    ("ends when its supervisor breaks the protocol", breaches), ("calls another function", calls), ("leaves a call to the supervisor, and publishes", questions),
    ("stops when cancelled", cancel), ("stops a call when cancelled", cancel_in_call), ("ends with its socket in mid-run", end_while_running),
    ("ends at a breach in mid-run", breach_while_running), ("streams", streams), ("stops a stream when cancelled", cancel_stream),
    ("says why its hook refuses to start", initializer),
]


def main():
    # The children's fd 3 is made by dup2: it must be taken here by nothing that matters.
    while os.open("/dev/null", os.O_RDONLY) < 3:
        pass
    suite = Suite("runtimes")
    found, missing = runtimes()
    suite.check("this file speaks the golden vectors", codec)
    suite.check("python3 speaks the golden vectors", golden_python)
    suite.check("native speaks the golden vectors", golden_native)
    suite.check("python3 imports before a function what it imports late", late_imports)
    for name, reason in missing:
        suite.check(name, lambda reason=reason: reason)
    for runtime in found:
        checks = list(COMMON)
        if runtime.name == "python3":
            checks += [("tells a thread that it is cancelled", cancel_thread), ("serves functions whose files are named like the library and like itself", own_names)]
        if runtime.name == "native":
            checks.append(("takes an answer for the body of the next call", chained))
        if runtime.name == "nodejs":
            checks.append(("speaks the golden vectors", golden_node))
        if runtime.name != "nodejs":  # which begins everything at once
            checks.append(("keeps what comes while it waits", waiting_frames))
        if runtime.name in ("python3", "WorkerSDK"):  # whose hooks may ask
            checks.append(("hears the answer to what its hook asks", hook_asks))
        if runtime.slots:
            checks.append(("runs several at once", slots))
        if runtime.loads:
            checks += [("explains code that cannot be loaded", initialization), ("gives events their form", event_forms), ("tells of a route's request", requests)]
        for title, body in checks:
            suite.check(f"{runtime.name} {title}", lambda body=body, runtime=runtime: body(runtime))
    suite.check("native holds under AddressSanitizer", with_sanitizers)
    import command
    command.add(suite, compiled("bulkhead-command", os.path.join(w.RUNTIMES, "command", "command.c")), wait_for)
    shutil.rmtree(BUILD)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
