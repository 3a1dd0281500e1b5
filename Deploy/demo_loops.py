# SPDX-License-Identifier: Apache-2.0
"""The demo's part on events: films that start a function, a loop that is cut, and the way out of it."""
import collections
import hashlib
import hmac
import http.server
import json
import os
import shutil
import subprocess
import threading
import time

from __main__ import Failed, probe, say, title

SECRET = "only-an-example"
LOOP = "Deploy/examples/hostile/renditions-loop"
EDGE = "acme/previews/bucket-1"
CLIPS, DEPTH = 10, 3  # eight roots that trip within ten minutes break an edge


class Receiver:
    """The far end of acme's webhook: keeps the alarms whose signature is right, and counts the others."""

    def __init__(self):
        receiver = self
        self.alarms, self.forged = [], 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if receiver.is_signed(self.headers.get("Bulkhead-Signature", ""), body):
                    receiver.alarms.append((time.monotonic(), json.loads(body)))
                else:
                    receiver.forged += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def is_signed(header, body):
        """`t=SECONDS,v1=HEX`, over `SECONDS.BODY`, not older than five minutes."""
        fields = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
        stamp, code = fields.get("t", ""), fields.get("v1", "")
        expected = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        return stamp.isdigit() and abs(time.time() - int(stamp)) < 300 and hmac.compare_digest(code, expected)

    def tenant(self):
        """What acme's file says of it."""
        return f"buckets: [films, results]\nsecrets: {{ALARMS: {SECRET}}}\nnotify: [{{webhook: '{self.url}', secret: ALARMS}}]\n"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.1)


def keys(node, place):
    return [json.loads(line)["key"] for line in node.cli("object", "list", f"acme/{place}", "--json", show=False)[0].splitlines()]


def states(node):
    """How many events of acme/previews are in which state, by trigger."""
    events = json.loads(node.cli("events", "acme/previews", "--limit", "10000", "--json", show=False)[0])
    return collections.Counter((event["trigger"], event["state"]) for event in events)


def told(counts):
    return ", ".join(f"{count} {state}" for (trigger, state), count in sorted(counts.items()) if trigger == "bucket-1")


def settled(node):
    """The states once nothing waits or runs and every object was noticed; None before."""
    counts, objects = states(node), len(keys(node, "films/clips/"))
    moving = counts[("bucket-1", "ready")] + counts[("bucket-1", "leased")]
    return counts if not moving and sum(counts[key] for key in counts if key[0] == "bucket-1") == objects else None


def copied(node, name, edit):
    """A copy of the misconfigured function's folder, with one file changed by `edit`."""
    folder = f"{node.base}/previews"
    shutil.copytree(LOOP, folder, dirs_exist_ok=True)
    with open(f"{folder}/{name}") as file:
        text = edit(file.read())
    with open(f"{folder}/{name}", "w") as file:
        file.write(text)
    return folder


def renditions(node, film):
    title("A film that is put into a bucket becomes two, 360 and 720 lines high")
    node.cli("deploy", "Deploy/examples/renditions", "--tenant", "acme")
    node.cli("triggers", "acme")
    started = time.monotonic()
    node.cli("object", "put", "acme/films/in/hello.mp4", film)
    wanted = ["hello-360p.mp4", "hello-720p.mp4"]
    wait(lambda: keys(node, "results") == wanted, 60, "both results")
    took = time.monotonic() - started
    say(f"in   {probe(film)[1]}")
    for name in wanted:
        path = f"{node.base}/{name}"
        node.cli("object", "get", f"acme/results/{name}", path, quiet=True)
        streams, found = probe(path)
        say(f"out  {found}")
        if f"x{name[6:9]}" not in streams:
            raise Failed(f"{name} is {streams}")
    say(f"     both after {took:.2f} s")


def cut(node, receiver, film):
    """Lets the loop run to its end; a clip, when the first was put, and how many events are parked."""
    title("A variant that writes its result where its own trigger listens is refused")
    node.cli("deploy", LOOP, "--tenant", "acme", expect=2)
    title(f"It is forced, by declaring that it is meant: {DEPTH} entries of one path and 100 of one upload")
    folder = copied(node, "function.yaml", lambda text: text + f"recursion: {{maxDepth: {DEPTH}, maxDescendants: 100}}\n")
    node.cli("deploy", folder, "--tenant", "acme")
    clip = f"{node.base}/clip.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", film, "-t", "1", "-vf", "scale=-2:180", "-an", clip], check=True, stdin=subprocess.DEVNULL)
    started = time.monotonic()
    for number in range(CLIPS):
        node.cli("object", "put", f"acme/films/clips/{number}.mp4", clip, show=number == 0, quiet=True)
    say(f"... and {CLIPS - 1} more of them: every result is a new upload, so each would go on for ever")
    neighbour = time.monotonic()
    node.cli("invoke", "globex/hello", "--data", '{"name": "neighbour"}')
    say(f"globex was answered {time.monotonic() - neighbour:.2f} s later, while it runs")
    ended = wait(lambda: (found := settled(node)) and found[("bucket-1", "parked")] and found, 120, "the end of the loop")
    say(f"quiet {time.monotonic() - started:.1f} s after the first upload, by itself: {told(ended)}")
    runs = ended[("bucket-1", "done")]
    if not CLIPS <= runs <= CLIPS * (1 + DEPTH):
        raise Failed(f"{runs} runs; {CLIPS} uploads may each run once and enter {DEPTH} times again")
    return clip, started, ended[("bucket-1", "parked")]


def judge(node, receiver, clip, started, parked):
    title("What acme was told, by a webhook whose signature this demo has checked")
    wait(lambda: any(alarm["alarm"].startswith("loop") for _, alarm in receiver.alarms), 5, "the alarm of the loop")
    for at, alarm in receiver.alarms:
        say(f"{at - started:4.1f} s  {alarm['alarm']} {alarm['state']}: {alarm['text']}")
    if receiver.forged:
        raise Failed(f"{receiver.forged} alarms were not signed as they should be")
    node.cli("loops")
    title("What is not in the loop goes on: the function's other trigger")
    node.cli("object", "put", "acme/films/urgent/now.mp4", clip)
    began = time.monotonic()
    wait(lambda: "now-preview.mp4" in keys(node, "results"), 60, "the result of the other trigger")
    say(f"acme/results/now-preview.mp4 after {time.monotonic() - began:.2f} s")
    title("Nothing is lost: what the loop would have done next is parked")
    node.cli("events", "acme/previews", "--status", "parked", "--limit", "4")
    balance(node, states(node), parked)


def balance(node, counts, parked):
    """Each object of clips/ was one event: so the store's states are held against the bucket, which knows nothing of them."""
    objects = len(keys(node, "films/clips/"))
    total = sum(count for (trigger, _), count in counts.items() if trigger == "bucket-1")
    say(f"films/clips/ has {objects} objects, so there were {objects} events: {told(counts)}")
    if total != objects or counts[("bucket-1", "parked")] != parked or counts[("bucket-1", "done")] != objects - parked:
        raise Failed(f"{objects} objects, but {total} events: {told(counts)}")


def mend(node, parked):
    title("The mistake is mended, the edge closed, and what was parked runs")
    folder = copied(node, "run.sh", lambda text: text.replace("target=/buckets/films/clips/$name+", "target=/buckets/results/$name-preview"))
    copied_manifest = f"{folder}/function.yaml"
    with open(copied_manifest) as file:
        text = file.read().replace("films: {access: write, prefix: clips/}", "films: read")
    with open(copied_manifest, "w") as file:
        file.write(text)
    node.cli("deploy", folder, "--tenant", "acme")
    before = len(keys(node, "results"))
    node.cli("loops", "resume", EDGE, "--mode", "replay", "--rate", "10/s")
    ended = wait(lambda: (found := settled(node)) and not found[("bucket-1", "parked")] and found, 60, "the replay")
    balance(node, ended, parked=0)
    written = len(keys(node, "results")) - before
    say(f"{written} previews were written to acme/results")
    if written != parked:
        raise Failed(f"{written} previews instead of {parked}")
    node.cli("loops")


def run(node, receiver, film):
    began = time.monotonic()
    renditions(node, film)
    clip, started, parked = cut(node, receiver, film)
    judge(node, receiver, clip, started, parked)
    mend(node, parked)
    say(f"events and loops took {time.monotonic() - began:.0f} s")
