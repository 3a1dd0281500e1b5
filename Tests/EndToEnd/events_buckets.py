# SPDX-License-Identifier: Apache-2.0
"""Buckets: what starts functions, who wrote, and loops that go through files."""
import json

from node import python, wait_for

COPY = """import json, os, shutil
def handler(event, context):
    print('saw', event['change'], event['key'], flush=True)
    base = os.path.basename(event['key'])
    shutil.copyfile('/buckets/photos/' + event['key'], '/buckets/thumbs/' + base)
"""

LIMITS = """import os, resource
def handler(event, context):
    found = {'limits': [resource.getrlimit(name)[1] for name in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE)]}
    for path, most in ('/tmp/x', 90), ('/buckets/photos/x', 110):
        if os.path.isdir(os.path.dirname(path)):
            found[path] = 0
            try:
                with open(path, 'wb', buffering=0) as file:
                    while found[path] < most:
                        found[path] += file.write(bytes(1 << 20)) >> 20
            except OSError:
                pass
            os.truncate(path, 0)
    return found
"""


def put(node, path, body=b"x", tenant="loopy"):
    status, _, answer = node.request("PUT", f"/v1/tenants/{tenant}/buckets/{path.split('/')[0]}/objects/{path.split('/', 1)[1]}", body)
    assert status in (200, 201), (status, answer)


def get(node, path, tenant="loopy"):
    status, _, answer = node.request("GET", f"/v1/tenants/{tenant}/buckets/{path.split('/')[0]}/objects/{path.split('/', 1)[1]}")
    return answer if status == 200 else None


def run(suite, node, lines):
    def created():
        node.deployed(
            python("thumb", "buckets: {photos: read, thumbs: write}\ntriggers: [{bucket: photos, prefix: in/, suffix: .jpg, on: created}]\n"),
            {"main.py": COPY}, "loopy")
        put(node, "photos/in/a.jpg", b"picture")
        put(node, "photos/in/a.txt", b"text")
        put(node, "photos/other/a.jpg", b"picture")
        wait_for(lambda: get(node, "thumbs/a.jpg") == b"picture", 20, "the copy of the object")
        # What was put before it is told before it.
        put(node, "photos/in/b.jpg", b"last")
        wait_for(lambda: get(node, "thumbs/b.jpg") == b"last", 20, "the copy of the last object")
        assert lines(node, "thumb", "loopy") == ["saw created in/a.jpg", "saw created in/b.jpg"], lines(node, "thumb", "loopy")
    suite.check("an object starts the function whose trigger it fits, which writes another into a bucket that it may write", created)

    def uploads():
        # One may write where the other's trigger listens, and runs meanwhile.
        assert node.cli("bucket", "create", "loopy/drafts").returncode == 0
        node.deployed(python("busy", "buckets: {drafts: write}\n"), {"main.py": "import time\ndef handler(event, context):\n    time.sleep(600)\n"}, "loopy")
        node.deployed(python("told", "triggers: [{bucket: drafts, on: created}]\n"), {"main.py": "def handler(event, context):\n    pass\n"}, "loopy")
        status, _, answer = node.invoke("busy", b"1", "loopy", {"Bulkhead-Invocation-Type": "async"})
        assert status == 202, (status, answer)
        wait_for(lambda: any(row["function"] == "busy" and row["state"] == "busy" for row in node.json("ps")), 20, "the function that runs")
        for number in range(20):
            put(node, f"drafts/new{number}/now")
        wait_for(lambda: len(node.json("events", "list", "loopy/told")) == 20, 30, "an event for each")
        found = node.json("events", "list", "loopy/told")
        assert node.cli("events", "stop", json.loads(answer)["id"], "--tenant", "loopy").returncode == 0
        assert {row["hops"] for row in found} == {1}, [row["hops"] for row in found]
    suite.check("a caller's objects in new folders begin anew, whatever runs meanwhile that could have written them", uploads)

    def outcomes():
        node.deployed(
            python("kept", "async: {attempts: 1, onSuccess: 'bucket:photos/done/', onFailure: 'bucket:thumbs/failed/of-'}\n"),
            {"main.py": "def handler(event, context):\n    if event['fail']: raise ValueError('no')\n    return {'sum': 3}\n"}, "loopy")
        node.deployed(python("reads", "triggers: [{bucket: thumbs, prefix: failed/, on: created}]\n"), {"main.py": COPY.split("def")[0] + "def handler(event, context):\n    print(event['key'], flush=True)\n"}, "loopy")
        good, bad = [json.loads(node.invoke("kept", json.dumps({"fail": fail}).encode(), "loopy", {"Bulkhead-Invocation-Type": "async"})[2])["id"] for fail in (False, True)]
        paths = {good: f"photos/done/{good}.json", bad: f"thumbs/failed/of-{bad}.json"}
        found = {id: json.loads(wait_for(lambda: get(node, path), 20, path)) for id, path in paths.items()}
        for id, condition in ((good, "Success"), (bad, "RetriesExhausted")):
            context = found[id]["requestContext"]
            assert (context["invocationId"], context["condition"], context["attempts"], context["function"]) == (id, condition, 1, "loopy/kept"), context
        assert (found[good]["requestPayload"], found[good]["responsePayload"], found[good]["responseContext"]["outcome"]) == ({"fail": False}, {"sum": 3}, "ok"), found[good]
        answer = found[bad]["responseContext"]
        assert found[bad]["requestPayload"] == {"fail": True} and (answer["outcome"], answer["errorType"], answer["errorMessage"]) == ("functionError", "ValueError", "no"), found[bad]
        # Each has one object, and it starts what listens there, whole.
        wait_for(lambda: lines(node, "reads", "loopy") == [f"failed/of-{bad}.json"], 20, "the run for the object")
        assert get(node, f"photos/done/{bad}.json") is None and get(node, f"thumbs/failed/of-{good}.json") is None
    suite.check("a bucket is told success and failure, by one object each, with request, answer and attempts", outcomes)

    def limits():
        # From a spare, which is born before anybody knows whose it will be.
        node.deployed(
            python("wide", "temporary: 100MiB\nprocesses: 200\ntimeout: 60s\nbuckets: {photos: write}\n").replace("96MiB", "384MiB"), {"main.py": LIMITS}, "loopy")
        node.deployed(python("narrow", "temporary: 8MiB\nprocesses: 20\n"), {"main.py": LIMITS}, "loopy")
        wide = json.loads(node.invoke("wide", b"{}", "loopy")[2])
        assert wide["limits"][:2] == [1024, 200] and wide["/tmp/x"] == 90 and wide["/buckets/photos/x"] == 110, wide
        narrow = json.loads(node.invoke("narrow", b"{}", "loopy")[2])
        assert narrow["limits"] == [1024, 20, 8 << 20] and narrow["/tmp/x"] <= 8, narrow
        assert node.request("DELETE", "/v1/tenants/loopy/buckets/photos/objects/x")[0] in (200, 204)
    suite.check("a worker from the pool has its function's limits, and what it writes into a bucket may be longer than its /tmp", limits)

    def lint():
        run = node.deploy(
            python("self", "buckets: {photos: write}\ntriggers: [{bucket: photos, prefix: in/, on: created}]\n"), {"main.py": COPY}, "loopy")
        assert run.returncode != 0 and b"would start itself" in run.stderr, run.stderr
    suite.check("a function that may write where its own trigger listens is refused at deploy, with the ways out", lint)

    def quota():
        node.deployed(
            python("filler", "temporary: 64MiB\ntimeout: 60s\nbuckets: {photos: write}\n"),
            {"main.py": "import time\ndef handler(event, context):\n    for n in range(40):\n        open(f'/buckets/photos/fill{n}', 'wb').write(b'x' * (1 << 20))\n"
                        "    time.sleep(40)\n    return 'wrote'\n"}, "small")
        status, _, body = node.invoke("filler", b"{}", "small")
        assert status == 502, (status, body)
        status, _, body = node.invoke("filler", b"{}", "small")
        assert status == 500 and b"Read-only file system" in body, (status, body)
        status, _, body = node.request("PUT", "/v1/tenants/small/buckets/photos/objects/more", b"x" * 4096)
        assert status == 507 and json.loads(body)["ceiling"] == "buckets", (status, body)
        for n in range(40):
            assert node.request("DELETE", f"/v1/tenants/small/buckets/photos/objects/fill{n}")[0] == 204
        node.deployed(
            python("writer", "buckets: {photos: write}\n"), {"main.py": "def handler(event, context):\n    open('/buckets/photos/one', 'w').write('1')\n"}, "small")
        wait_for(lambda: node.invoke("writer", b"{}", "small")[0] == 200, 75, "the right to write")
    suite.check("a tenant over its buckets' quota cannot write any more, by no way, and can when it has deleted", quota)


def loops(suite, node, settles):
    def loop():
        node.deployed(
            python("runaway", "buckets: {photos: write}\ntriggers: [{bucket: photos, prefix: loop/, on: created}]\n"
                   "recursion: {maxDepth: 16, maxDescendants: 1000}\nworkers: {max: 4}\n"),
            {"main.py": "def handler(event, context):\n    print('in', flush=True)\n    open('/buckets/photos/loop/x' + context.request_id, 'w').write('again')\n"},
            "loopy")
        put(node, "photos/loop/start")
        count = settles("runaway", 90)
        assert count == 17, f"{count} runs; one path may enter a function 17 times at once"
        [found] = [one for one in node.json("loops", "list") if one["edge"].startswith("loopy/runaway/")]
        way = found["way"]
        assert len(set(way[::2])) == 8 and all(key.startswith("photos/loop/x") for key in way[::2]) and set(way[1::2]) == {"runaway"}, way
        assert found["cycle"][0].startswith("bucket:photos/loop/"), found["cycle"]
        assert " -> ".join(way) in node.cli("loops", "--tenant", "loopy").stdout.decode()
    suite.check("a loop through a bucket, with a new key each time, is cut after 17 entries of one path, and its keys are shown", loop)

    def pair():
        for name, source, target in (("ping", "ping", "pong"), ("pong", "pong", "ping")):
            node.deployed(
                python(name, f"buckets: {{photos: {{access: write, prefix: {target}/}}}}\ntriggers: [{{bucket: photos, prefix: {source}/, on: created}}]\n"
                       "workers: {max: 4}\n"),
                {"main.py": "import os\ndef handler(event, context):\n    print('in', flush=True)\n"
                            # A name for each run: where two run at a time one would rename what the other writes, fail, and be tried again a minute later.
                            f"    path = '/buckets/photos/{target}/x' + context.request_id\n    open(path + '.part', 'w').write(event['key'])\n    os.rename(path + '.part', path)\n"},
                "loopy")
        put(node, "photos/ping/start")
        first, second = settles("ping", 90), settles("pong", 30)
        # The name before the rename may be seen, too: then each run makes two, and the root's budget is the bound.
        assert 17 <= first + second <= 1_003, (first, second)
    suite.check("two functions that write into each other's source, by a rename, are cut", pair)
