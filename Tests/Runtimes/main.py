# SPDX-License-Identifier: Apache-2.0
"""What run.py asks of a python3 function."""
import os
import signal
import time

NUMBER = 7


def initializer(context):
    if "REFUSE" in os.environ:
        raise PermissionError("refused")


def pre_stop(context):
    print("stopping")
    if "ASKS" in os.environ:
        try:
            context.emit("stopped", 1)
        except Exception as error:
            print(error)
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        print("a timer is left")


def parts(count):
    for number in range(count):
        yield f"part {number}\n"


def form(event):
    if event is None:
        return "nothing"
    return {dict: "object", list: "object", int: "number", float: "number", str: "text", bytes: "bytes"}[type(event)]


def handler(event, context):
    if context.content_type == "application/octet-stream":
        return event[5:]
    if context.content_type != "text/plain":
        return {"seen": form(event)}
    order, _, rest = event.partition(" ")
    if order == "echo":
        return rest
    if order == "env":
        return os.environ[rest]
    if order == "trace":
        return context.traceparent
    if order == "fail":
        raise ValueError("a bad thing")
    if order == "later":
        context.retry_later(7)
    if order == "log":
        context.logger.warning("a line")
        return "logged"
    if order == "request":
        return {"statusCode": 200, "headers": {"x-one": [1, 2]}, "multiValueHeaders": {"x-many": ["a", "b"]}, "cookies": ["a=1", "b=2"], "body": [
            context.method, context.path, context.rest, context.query_string, context.source_address, context.query, context.headers, context.cookies]}
    if order == "status":
        return {"statusCode": 418, "headers": {"x-colour": "blue"}, "body": "teapot"}
    if order == "size":
        return bytes(int(rest))
    if order == "call":
        return context.call(rest, {"a": 1})
    if order == "async":
        return context.call_async(rest, {"a": 1})
    if order == "emit":
        return context.emit(rest, {"a": 1})
    if order == "stream":
        return parts(int(rest))
    if order == "watch":
        context.logger.info("watching")
        while not context.is_cancelled:
            time.sleep(0.005)
        return "seen"
    if order == "spin":
        context.logger.info("spinning")
        while True:
            try:
                time.sleep(0.005)
            except Exception:  # a handler may swallow whatever it can
                pass
    raise LookupError(order)
