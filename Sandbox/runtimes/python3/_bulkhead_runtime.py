# SPDX-License-Identifier: Apache-2.0
"""The python3 runtime: speaks the worker protocol (../README.md) on fd 3 and calls the tenant's handler.

One invocation at a time runs on the main thread with no other thread beside it: a hop between threads would cost more than everything else here. A timer
signal looks for `cancel` while a handler runs. With a concurrency above 1 each invocation has a thread.
"""
# Modules in C alone: those around them take as long as the whole interpreter, and a worker that nobody prepared has somebody waiting. What is rarely needed is imported
# where it is needed; `preload` gets it for a worker that waits for its function.
import _json
import _signal
import _socket
import _struct
import itertools
import os
import select
import sys
import time

GeneratorType = type(_ for _ in ())
HEADER = _struct.Struct("<IBBH")
FIELD = _struct.Struct("<BI")
U16, U32, U64 = _struct.Struct("<H"), _struct.Struct("<I"), _struct.Struct("<Q")
MAXIMUM_BODY = 8 << 20
MAXIMUM_LENGTH = MAXIMUM_BODY + (64 << 10)  # of the length word
(HELLO, INIT, READY, INIT_ERROR, INVOKE, RESULT, CHUNK, ERROR, LOG, CALL, CALL_RESULT, EMIT, EMIT_RESULT, RETRY_LATER, CANCEL, DRAIN,
 FREEZE) = range(1, 18)
(T_PROTOCOL, T_RUNTIME, T_PID, T_FUNCTION, T_VERSION, T_HANDLER, T_ENVIRONMENT, T_SECRET, T_MEMORY, T_BUCKET, T_TIMEOUT, T_INIT_TIME,
 T_ERROR_TYPE, T_ERROR_MESSAGE, T_ERROR_STACK, T_INVOCATION, T_DEADLINE, T_TRIGGER, T_CONTENT_TYPE, T_ATTEMPT, T_LINEAGE, T_TRACEPARENT,
 T_BODY, T_STATUS, T_HEADER, T_LEVEL, T_MESSAGE, T_TARGET, T_MODE, T_OUTCOME, T_TOPIC, T_EVENT, T_AFTER, T_GRACE, T_REQUEST,
 T_CONCURRENCY, T_LAYER) = range(1, 38)
FROM_SUPERVISOR = frozenset((INIT, INVOKE, CALL_RESULT, EMIT_RESULT, CANCEL, DRAIN, FREEZE))
LAST = 1  # flag: the body went before, as chunks
PATIENCE = 0.02  # seconds from the greeting until a worker that is told nothing counts as prepared ahead
WATCH = 0.25  # seconds between two looks for `cancel` while a handler runs


class Cancelled(BaseException):
    """Raised in the handler when the supervisor cancels the invocation (deadline, or the caller left)."""


class Breach(BaseException):
    """The supervisor broke the protocol: nothing that it says from here on can be understood."""


class CallError(Exception):
    """A function-to-function call that did not end well; `outcome` is a word of the outcome taxonomy."""

    def __init__(self, outcome, message):
        super().__init__(message or outcome)
        self.outcome = outcome


class LayerError(Exception):
    """A hook of a layer failed, or refused the invocation; the message names the layer."""


class RetryLater(Exception):
    def __init__(self, seconds):
        super().__init__(seconds)
        self.seconds = seconds


def encode(kind, slot, fields, flags=0):
    """One frame; `fields` is a list of (tag, bytes)."""
    parts = [b""]
    size = 4
    for tag, value in fields:
        parts.append(FIELD.pack(tag, len(value)))
        parts.append(value)
        size += 5 + len(value)
    parts[0] = HEADER.pack(size, kind, flags, slot)
    return b"".join(parts)


def decode(payload, unpack=FIELD.unpack_from):
    """(kind, flags, slot, [(tag, bytes)]) of what follows the length word."""
    fields, at, end = [], 4, len(payload)
    while at < end:
        if at + 5 > end:
            raise Breach("a torn field")
        tag, size = unpack(payload, at)
        at += 5 + size
        if at > end:
            raise Breach("a field that runs past its frame")
        fields.append((tag, payload[at - size:at]))
    return payload[0], payload[1], payload[2] | payload[3] << 8, fields


def received(payload):
    """The frame, if the supervisor may send it."""
    if payload[0] not in FROM_SUPERVISOR:
        raise Breach(f"a frame of kind {payload[0]}")
    return decode(payload)


class Channel:
    def __init__(self, descriptor):
        self.socket = _socket.socket(fileno=descriptor)
        self.buffer = bytearray()
        self.pending = []  # frames that came while somebody waited for another
        self.space = memoryview(bytearray(65536))  # recv into it: a fresh buffer of that size each time costs more than the frame
        self.readable = (descriptor,)

    def read(self):
        """The next frame, waiting for it; None at the end."""
        if self.pending:
            return self.pending.pop(0)
        while True:
            if self.buffer:
                frame = self.cut()
                if frame is not None:
                    return frame
            # Not in recv, which the kernel wakes for room to write as well: each time that the supervisor takes an answer from the socket. The number is 3, far below what
            # select can take, and unlike an object for poll it may be asked by several threads.
            select.select(self.readable, (), ())
            count = self.socket.recv_into(self.space)
            if not count:
                return None
            if not self.buffer and count >= 8 and U32.unpack_from(self.space)[0] == count - 4:
                return received(bytes(self.space[4:count]))  # one whole frame, as nearly always
            self.buffer += self.space[:count]

    def cut(self):
        buffer = self.buffer
        if len(buffer) < 4:
            return None
        size = U32.unpack_from(buffer)[0]
        if not 4 <= size <= MAXIMUM_LENGTH:
            raise Breach(f"a frame of {size} bytes")
        if len(buffer) < 4 + size:
            return None
        payload = bytes(buffer[4:4 + size])
        del buffer[:4 + size]
        return received(payload)

    def peek(self):
        """Takes in whatever is there, without waiting."""
        while select.select([self.socket], [], [], 0)[0]:
            data = self.socket.recv(262144)
            if not data:
                os._exit(0)  # nobody is left to work for, whatever the handler does
            self.buffer += data
        while (frame := self.cut()) is not None:
            self.pending.append(frame)

    def send(self, kind, slot, fields, flags=0):
        self.socket.sendall(encode(kind, slot, fields, flags))


class Logger:
    def __init__(self, context):
        self._context = context

    def _log(self, level, message):
        text = message if isinstance(message, str) else dumps(message, default=str)
        self._context._runtime.send(LOG, self._context._slot, [(T_LEVEL, bytes([level])), (T_MESSAGE, text.encode()[:16384])])

    def debug(self, message):
        self._log(0, message)

    def info(self, message):
        self._log(1, message)

    def warning(self, message):
        self._log(2, message)

    def error(self, message):
        self._log(3, message)


class Context:
    """What a handler may know and do beside its event."""

    def __init__(self, runtime, slot, fields):
        self._runtime, self._slot = runtime, slot
        self._fields = dict(fields)
        self._list = fields

    # Here and not in every instance, as far as they are the same in most: a context is made for every invocation.
    _parts = None
    is_cancelled = False
    _answered = False
    function = property(lambda self: self._runtime.function)
    version = property(lambda self: self._runtime.version)
    memory_limit = property(lambda self: self._runtime.memory)

    def _request(self):
        """(our own parts, headers); made when they are asked for."""
        if self._parts is None:
            own, headers = {}, {}
            for tag, field in self._list:
                if tag == T_HEADER:
                    name, _, value = field.decode(errors="replace").partition(": ")
                    found = own if name[:1] == ":" else headers  # names in lower case, several of one joined as RFC 9110 has it
                    found[name] = f"{found[name]}{'; ' if name == 'cookie' else ', '}{value}" if name in found else value
            self._parts = own, headers
        return self._parts

    @property
    def query(self):
        """The parameters, decoded; the values of one that is there several times are joined with commas."""
        from urllib.parse import parse_qsl  # not at the start: it takes milliseconds
        found = {}
        for name, value in parse_qsl(self.query_string or "", keep_blank_values=True):
            found[name] = f"{found[name]},{value}" if name in found else value
        return found

    @property
    def cookies(self):
        pairs = (part.strip().partition("=") for part in self.headers.get("cookie", "").split(";"))
        return {name: value for name, _, value in pairs if name}

    def _text(self, tag):
        return self._fields.get(tag, b"").decode()

    request_id = property(lambda self: self._text(T_INVOCATION))
    trigger = property(lambda self: self._text(T_TRIGGER))
    content_type = property(lambda self: self._text(T_CONTENT_TYPE))
    traceparent = property(lambda self: self._text(T_TRACEPARENT))
    # Of the request, where an HTTP route of shape `bulkhead` started this; else None.
    method = property(lambda self: self._request()[0].get(":method"))
    path = property(lambda self: self._request()[0].get(":path"))  # below the tenant's root, as it was sent
    rest = property(lambda self: self._request()[0].get(":rest"))  # what the route's * stands for
    query_string = property(lambda self: self._request()[0].get(":query"))
    source_address = property(lambda self: self._request()[0].get(":source"))
    headers = property(lambda self: self._request()[1])
    attempt = property(lambda self: U32.unpack(self._fields.get(T_ATTEMPT, b"\1\0\0\0"))[0])
    deadline_ms = property(lambda self: U64.unpack(self._fields.get(T_DEADLINE, bytes(8)))[0])

    @property
    def logger(self):
        return Logger(self)

    def remaining_time_ms(self):
        return max(0, self.deadline_ms - int(time.time() * 1000))

    def call(self, function, payload=None):
        """Invokes another function of the tenant and returns its answer."""
        return self._runtime.call(self, function, payload, 0)

    def call_async(self, function, payload=None):
        return self._runtime.call(self, function, payload, 1)

    def emit(self, topic, payload=None):
        return self._runtime.emit(self, topic, payload)

    def retry_later(self, seconds):
        """Ends this invocation; the same event comes again after `seconds`."""
        raise RetryLater(int(seconds))


class _Scan:
    """What json.JSONDecoder() tells the scanner in C (json/decoder.py)."""
    strict, memo = True, {}
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = {"-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan")}.__getitem__


BLANKS = " \t\n\r"


def parsed(body, scan=_json.make_scanner(_Scan)):
    """What json.loads makes of bytes, without the module around the scanner and its look for other encodings than UTF-8 where there can be none."""
    if body[:1] <= b"~" and 0 not in body[:4]:
        try:
            text = body.decode("utf-8", "surrogatepass").strip(BLANKS)
            value, end = scan(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError):
            pass  # said better below
    import json
    return json.loads(body)


def dumps(value, **options):
    import json
    return json.dumps(value, **options)


def event_of(body, content_type):
    if content_type == "application/json" and body:
        return parsed(body)
    kind = content_type.split(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return parsed(body) if body else None
    if not kind:
        try:
            return parsed(body) if body else None
        except ValueError:
            pass
        try:
            return body.decode()
        except UnicodeDecodeError:
            return body
    return body.decode(errors="replace") if kind.startswith("text/") else body


def answer_of(value):
    """(fields before the body, body) of what a handler returned."""
    if type(value) is str:
        return [(T_CONTENT_TYPE, b"text/plain; charset=utf-8")], value.encode()
    if isinstance(value, dict) and isinstance(value.get("statusCode"), int):
        headers = dict(value.get("headers") or {})
        body = value.get("body", b"")
        if isinstance(body, str):
            if value.get("isBase64Encoded"):
                import base64
                body = base64.b64decode(body)
            else:
                body = body.encode()
        elif not isinstance(body, (bytes, bytearray)):
            headers.setdefault("content-type", "application/json")
            body = dumps(body).encode()
        kind = next((str(v) for k, v in headers.items() if k.lower() == "content-type"), "text/plain; charset=utf-8")
        fields = [(T_STATUS, U16.pack(value["statusCode"] & 0xFFFF)), (T_CONTENT_TYPE, kind.encode())]
        for many in (headers, value.get("multiValueHeaders") or {}):
            for k, v in many.items():
                if k.lower() != "content-type":
                    fields += [(T_HEADER, f"{k}: {one}".encode()) for one in (v if isinstance(v, (list, tuple)) else [v])]
        fields += [(T_HEADER, f"Set-Cookie: {cookie}".encode()) for cookie in value.get("cookies") or []]
        return fields, bytes(body)
    if isinstance(value, (bytes, bytearray)):
        return [(T_CONTENT_TYPE, b"application/octet-stream")], bytes(value)
    if isinstance(value, str):
        return [(T_CONTENT_TYPE, b"text/plain; charset=utf-8")], value.encode()
    return [(T_CONTENT_TYPE, b"application/json")], dumps(value).encode()


def error_fields(error, skip=__file__):
    try:
        import traceback
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != skip]
        stack = "".join(traceback.format_list(frames)) if frames else ""
    except Exception:  # without a descriptor left, or with `sys.path` replaced: the error itself is still told
        stack = ""
    message = str(error) if not isinstance(error, SyntaxError) else f"{error.msg} ({os.path.basename(error.filename or '?')}, line {error.lineno})"
    return [(T_ERROR_TYPE, type(error).__name__.encode()), (T_ERROR_MESSAGE, message.encode(errors="replace")[:65536]),
            (T_ERROR_STACK, stack.encode(errors="replace")[:65536])]


class Runtime:
    def __init__(self):
        self.channel = Channel(3)
        self.function, self.version, self.memory, self.concurrency = "", 0, 0, 1
        self.current = None
        self.requests = itertools.count(1)  # next() is one step, which several threads need
        self.lock = None
        self.waiting = {}
        self.is_watching = False  # the timer runs
        self.is_busy = False  # the socket is in use: the timer's look must wait, or frames would be torn
        self.must_look = False
        self.idle_looks = 0

    def send(self, kind, slot, fields, flags=0):
        if self.lock is None:
            was_busy, self.is_busy = self.is_busy, True
            try:
                self.channel.send(kind, slot, fields, flags)
            finally:
                self.is_busy = was_busy
            if self.must_look and not was_busy:
                self.watch()
        else:
            with self.lock:
                self.channel.send(kind, slot, fields, flags)

    # --- start

    def start(self):
        self.send(HELLO, 0, [(T_PROTOCOL, U16.pack(1)), (T_RUNTIME, b"python3"), (T_PID, U32.pack(os.getpid()))])
        self.preload()
        frame = self.channel.read()
        if frame is None or frame[0] != INIT:
            return False
        begin = time.perf_counter()
        handler, layers = "", []
        for tag, value in frame[3]:
            if tag == T_FUNCTION:
                self.function = value.decode()
            elif tag == T_VERSION:
                self.version = U32.unpack(value)[0]
            elif tag == T_HANDLER:
                handler = value.decode()
            elif tag in (T_ENVIRONMENT, T_SECRET):
                name, _, text = value.decode().partition("=")
                os.environ[name] = text
            elif tag == T_MEMORY:
                self.memory = U64.unpack(value)[0]
            elif tag == T_CONCURRENCY:
                self.concurrency = U16.unpack(value)[0]
            elif tag == T_LAYER:
                layers.append(value.decode())
        try:
            os.chdir("/function" if os.path.isdir("/function") else ".")
            # A function's own file may be named like one of the library, and what is imported late would find it instead: here the library's are imported before.
            if any(name.partition(".")[0] in sys.stdlib_module_names for name in os.listdir(".")):
                self.load_library()
            # Before the function's own code, which hooks may so prepare for (tracing), and which cannot stand in the place of what a layer imports.
            hooks = [hook for hook in map(load_layer, layers) if hook.before or hook.after]
            sys.path.insert(0, os.getcwd())
            self.module, self.handler = self.load(handler)
            if hooks:
                self.handler = layered(self.handler, hooks)
            initializer = getattr(self.module, "initializer", None)
            if callable(initializer):
                initializer(Context(self, 0, []))
        except SystemExit:
            raise
        except BaseException as error:  # whatever the user's code raises is the answer
            flush()
            self.send(INIT_ERROR, 0, error_fields(error))
            return False
        flush()
        self.send(READY, 0, [(T_INIT_TIME, U64.pack(int((time.perf_counter() - begin) * 1e6)))])
        return True

    def preload(self):
        """A worker that is not told its function at once waits for one: what most functions import is there when it comes."""
        if not select.select([self.channel.socket], [], [], PATIENCE)[0]:
            self.load_library()

    @staticmethod
    def load_library():
        import base64, json, signal, socket, struct, threading, traceback, types, urllib.parse  # noqa: E401, F401

    @staticmethod
    def load(handler):
        module_name, _, name = handler.rpartition(".")
        if not module_name:
            raise ValueError(f"handler '{handler}' is not of the form module.function")
        try:
            __import__(module_name)
            module = sys.modules[module_name]
        except ModuleNotFoundError as error:
            if error.name == module_name:
                raise ModuleNotFoundError(f"the code has no file {module_name.replace('.', '/')}.py (handler '{handler}')") from None
            raise
        function = getattr(module, name, None)
        if function is None:
            raise AttributeError(f"module {module_name} has no function '{name}' (handler '{handler}')")
        if not callable(function):
            raise TypeError(f"'{name}' in module {module_name} is not a function (handler '{handler}')")
        return module, function

    # --- invocations

    def serve(self):
        if self.concurrency > 1:
            return self.serve_many()
        _signal.signal(_signal.SIGALRM, self.watch)
        while True:
            frame = self.channel.read()
            if frame is None or frame[0] == DRAIN:
                return self.stop()
            if frame[0] == INVOKE:
                self.run_watched(frame)

    def run_watched(self, frame):
        context = Context(self, frame[2], frame[3])
        self.idle_looks = 0
        if not self.is_watching:
            self.is_watching = True
            _signal.setitimer(_signal.ITIMER_REAL, WATCH, WATCH)
        try:
            self.current = context
            try:
                self.run(context, frame)
            finally:
                self.current = None
        except Cancelled:  # came between the handler's end and the last line above
            self.current = None
            if not context._answered:
                self.send(ERROR, context._slot, [(T_ERROR_TYPE, b"Cancelled"), (T_ERROR_MESSAGE, b"cancelled")])

    def watch(self, *_):
        """Looks for `cancel` every WATCH seconds. The timer runs on between invocations, because starting and stopping it are two system calls; it stops
        when nothing has run for a while."""
        context = self.current
        if context is None:
            self.idle_looks += 1
            if self.idle_looks > 8:
                self.is_watching = False
                _signal.setitimer(_signal.ITIMER_REAL, 0)
            return
        self.must_look = self.is_busy
        if self.is_busy:
            return  # whoever uses the socket looks when it is done
        self.channel.peek()
        for index, frame in enumerate(self.channel.pending):
            if frame[0] == CANCEL and frame[2] == context._slot:
                del self.channel.pending[index]
                context.is_cancelled = True
                raise Cancelled()

    def run(self, context, frame):
        slot = context._slot
        fields = frame[3]
        body = fields[-1][1] if fields and fields[-1][0] == T_BODY else b""
        try:
            value = self.handler(event_of(body, context._fields.get(T_CONTENT_TYPE, b"").decode()), context)
            if type(value) is GeneratorType:
                return self.stream(value, slot, context)
            head, data = answer_of(value)
            if len(data) > MAXIMUM_BODY:
                raise ValueError(f"the answer has {len(data)} bytes, at most {MAXIMUM_BODY} are allowed")
            head.append((T_BODY, data))
            reply = encode(RESULT, slot, head)
        except Cancelled:
            reply = encode(ERROR, slot, [(T_ERROR_TYPE, b"Cancelled"), (T_ERROR_MESSAGE, b"the invocation was cancelled")])
        except RetryLater as later:
            reply = encode(RETRY_LATER, slot, [(T_AFTER, U32.pack(max(0, later.seconds)))])
        except Exception as error:  # the user's code failed: that is an answer
            reply = encode(ERROR, slot, error_fields(error))
        context._answered = True
        flush()
        if self.lock is None:
            self.current = None  # from here on a cancel is too late, and must not tear the answer
            self.channel.socket.sendall(reply)
        else:
            with self.lock:
                self.channel.socket.sendall(reply)

    def stream(self, chunks, slot, context):
        first = True
        for chunk in chunks:
            data = chunk.encode() if isinstance(chunk, str) else bytes(chunk)
            head = [(T_CONTENT_TYPE, b"text/plain; charset=utf-8" if isinstance(chunk, str) else b"application/octet-stream")] if first else []
            first = False
            for at in range(0, len(data), 1 << 20):
                self.send(CHUNK, slot, head + [(T_BODY, data[at:at + (1 << 20)])])
                head = []
        context._answered = True
        flush()
        self.send(RESULT, slot, [], LAST)

    def serve_many(self):
        import threading
        self.lock = threading.Lock()
        running = {}  # by slot
        while True:
            frame = self.channel.read()
            if frame is None or frame[0] == DRAIN:
                return self.stop()
            if frame[0] == INVOKE:
                context = running[frame[2]] = Context(self, frame[2], frame[3])
                threading.Thread(target=self.run, args=(context, frame), daemon=True).start()
            elif frame[0] == CANCEL and frame[2] in running:
                running[frame[2]].is_cancelled = True  # a thread cannot be stopped: the handler may look
            elif frame[0] in (CALL_RESULT, EMIT_RESULT):
                request = next((U32.unpack(v)[0] for t, v in frame[3] if t == T_REQUEST), 0)
                waiter = self.waiting.pop(request, None)
                if waiter:
                    waiter.append(frame)
                    waiter[0].set()

    # --- calls

    def request(self, context, kind, fields, wanted):
        number = next(self.requests)
        if self.lock is not None:
            import threading
            waiter = [threading.Event()]
            self.waiting[number] = waiter
            self.send(kind, context._slot, fields[:-1] + [(T_REQUEST, U32.pack(number)), fields[-1]])
            waiter[0].wait()
            frame = waiter[1]
        else:
            self.send(kind, context._slot, fields[:-1] + [(T_REQUEST, U32.pack(number)), fields[-1]])
            frame = self.wait(context, wanted, number)
        found = dict(frame[3])
        outcome = found.get(T_OUTCOME, b"").decode()
        if outcome != "ok":
            raise CallError(outcome, found.get(T_ERROR_MESSAGE, b"").decode())
        return found

    def wait(self, context, wanted, number):
        while True:
            for index, frame in enumerate(self.channel.pending):
                # By its number: the answer to a call that was cancelled may come later than the next call.
                if frame[0] == wanted and (T_REQUEST, U32.pack(number)) in frame[3]:
                    return self.channel.pending.pop(index)
                if frame[0] == CANCEL and frame[2] == context._slot:
                    del self.channel.pending[index]
                    raise Cancelled()
            self.is_busy = True
            try:
                kept, self.channel.pending = self.channel.pending, []
                frame = self.channel.read()
            finally:
                self.channel.pending = kept
                self.is_busy = False
            if frame is None:
                raise Cancelled()
            self.channel.pending.append(frame)

    def call(self, context, function, payload, mode):
        body, kind = payload_of(payload)
        found = self.request(
            context, CALL, [(T_TARGET, function.encode()), (T_MODE, bytes([mode])), (T_CONTENT_TYPE, kind), (T_BODY, body)], CALL_RESULT)
        if mode == 1:
            return found.get(T_EVENT, b"").decode()
        return event_of(found.get(T_BODY, b""), found.get(T_CONTENT_TYPE, b"").decode())

    def emit(self, context, topic, payload):
        body, kind = payload_of(payload)
        found = self.request(context, EMIT, [(T_TOPIC, topic.encode()), (T_CONTENT_TYPE, kind), (T_BODY, body)], EMIT_RESULT)
        return found.get(T_EVENT, b"").decode()

    def stop(self):
        _signal.setitimer(_signal.ITIMER_REAL, 0)  # an ending interpreter has no handler any more, and the signal would be its death
        self.lock = None  # who answers the hook's calls is read here: nobody else reads any more
        hook = getattr(self.module, "pre_stop", None)
        if callable(hook):
            try:
                hook(Context(self, 0, []))
            except Exception:
                import traceback
                traceback.print_exc()
        flush()


class Hooks:
    def __init__(self, name, module):
        self.name = name
        self.before, self.after = getattr(module, "before", None), getattr(module, "after", None)

    def failed(self, hook, error):
        return LayerError(f"layer {self.name}, {hook}: {type(error).__name__}: {error}").with_traceback(error.__traceback__)


def load_layer(name):
    """The hooks of a layer; a layer without `hooks.py` has none and is only there to be imported from."""
    folder = f"/layers/{name}"
    sys.path.append(folder)  # behind the library and the function's own
    path, module = folder + "/hooks.py", type(sys)("layer_" + name.replace("-", "_"))
    try:
        if os.path.exists(path):
            with open(path, "rb") as file:
                code = compile(file.read(), path, "exec")
            module.__file__ = path
            sys.modules[module.__name__] = module
            exec(code, module.__dict__)
    except Exception as error:
        raise LayerError(f"layer {name}: {type(error).__name__}: {error}").with_traceback(error.__traceback__) from None
    return Hooks(name, module)


def layered(handler, hooks):
    """The handler inside its layers: the first one's `before` is the first to see the event, and its `after` the last to see the answer."""
    def run(event, context):
        entered, answer, error = [], None, None
        try:
            for hook in hooks:
                if hook.before:
                    try:
                        changed = hook.before(event, context)
                    except RetryLater:
                        raise
                    except Exception as failure:
                        raise hook.failed("before", failure) from None
                    event = event if changed is None else changed
                entered.append((hook, event))
            answer = handler(event, context)
        except Exception as failure:
            error = failure
        for hook, seen in reversed(entered):
            if hook.after:
                try:
                    changed = hook.after(seen, context, answer, error)
                    answer = answer if changed is None else changed
                except RetryLater as later:
                    answer, error = None, later
                except Exception as failure:
                    answer, error = None, hook.failed("after", failure)
        if error is None:
            return answer
        try:
            raise error
        finally:
            del error, entered  # what an error was raised through is kept by it
    return run


def payload_of(payload):
    if isinstance(payload, (bytes, bytearray)):
        return bytes(payload), b"application/octet-stream"
    return dumps(payload).encode(), b"application/json"


def flush(first=sys.stdout, second=sys.stderr):
    for stream in (sys.stdout, sys.stderr):
        # Our own write through (python3 -u): only what user code has put in their place can hold anything back.
        if (stream is first or stream is second) and stream.write_through:
            continue
        try:
            stream.flush()
        except Exception:  # a closed or broken stream is the user's doing
            pass


def main():
    os.environ.setdefault("HOME", "/tmp")
    runtime = Runtime()
    try:
        if runtime.start():
            runtime.serve()
    except Breach as breach:
        flush()
        os.write(2, f"the supervisor broke the worker protocol: {breach}\n".encode())
        os._exit(1)

