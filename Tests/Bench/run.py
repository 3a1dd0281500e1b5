#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The promised figures beside the measured ones, peers in turn on the same machine in the same run. Prints; judges nothing but what is left
after many starts: where something has not come back, it says so and exits with 1. With words: only those parts of ``PARTS``."""
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "EndToEnd"))
from node import BIN, ROOT, TENANTS, Node, python, wait_for  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
rows = []


def row(what, promised, measured, note=""):
    rows.append((what, promised, measured, note))
    print(f"{what:58} {promised:>22} {measured:>26}  {note}", flush=True)


def ms(microseconds):
    return f"{microseconds / 1000:.2f} ms"


def compile_c(folder, name, *flags, source=None):
    target = os.path.join(folder, name)
    subprocess.run(["cc", "-O2", "-static", "-o", target, os.path.join(HERE, (source or name) + ".c"), *flags], check=True)
    return target


def compile_workers(folder):
    for name in ("first", "bomb"):
        compile_c(folder, name)
    compile_c(folder, "bare", "-DBARE", "-nostdlib", "-fno-stack-protector", source="first")


def spawner_run(folder, mode, environment=(), seconds=300, uids=4096):
    """Runs the spawner with the C driver in the daemon's place; the driver's lines, and facts about the spawner."""
    state = os.path.join(folder, mode)
    code = os.path.join(state, "code", "0" * 63 + "1")
    os.makedirs(code)
    for name in ("bare", "first", "bomb"):
        shutil.copy(os.path.join(folder, name), code)
    for name in ("b0", "b1", "b2", "b3"):
        os.makedirs(os.path.join(state, "buckets", "bench", name))
        os.chown(os.path.join(state, "buckets", "bench", name), 699999, 699999)
    # Below the only folder that the daemon, whose place the driver takes, may change.
    out = os.path.join(state, "out")
    os.makedirs(out)
    os.chmod(out, 0o777)
    result = os.path.join(out, mode + ".json")
    lines = ["version 1", f"daemon-executable {folder}/driver", "daemon-uid 699999", "daemon-gid 699999", f"daemon-environment BENCH_MODE={mode}",
             f"daemon-environment BENCH_OUT={result}", *[f"daemon-environment {e}" for e in environment], f"state-directory {state}",
             f"code-directory {state}/code", f"bucket-directory {state}/buckets", f"share-directory {ROOT}/Sandbox", f"listen control unix:{state}/control.sock", f"uid-range {FIRST_UID} {uids}",
             "cgroup-name bulkhead-bench", "runtime native {", "mount /usr /usr", "link usr/bin /bin", "link usr/lib /lib", "link usr/lib64 /lib64", "}"]
    with open(os.path.join(state, "spawner.policy"), "w") as file:
        file.write("\n".join(lines) + "\n")
    os.chmod(os.path.join(state, "spawner.policy"), 0o600)
    log = open(os.path.join(folder, mode + ".log"), "wb")
    spawner = subprocess.Popen([os.path.join(BIN, "bulkhead-spawner"), "--policy", os.path.join(state, "spawner.policy")], stderr=log)
    facts = {}
    try:
        def said(word):
            if spawner.poll() is not None or "bench driver: " in open(os.path.join(folder, mode + ".log")).read():
                raise AssertionError(open(os.path.join(folder, mode + ".log")).read())
            return os.path.exists(result) and f'"{word}"' in open(result).read()
        wait_for(lambda: os.path.exists(result), 10, "the driver")
        if mode == "cycles":
            wait_for(lambda: said("warm"), seconds, "the first starts")
            facts["before"] = settled(lambda: host_facts(spawner.pid, folder))
            open(result + ".looked", "w").close()
        wait_for(lambda: said("done"), seconds, f"the end of {mode}")
        if mode == "cycles":
            facts["after"] = settled(lambda: host_facts(spawner.pid, folder), facts["before"])
        else:
            time.sleep(0.5)  # let the last exits be reaped
        facts["rss"] = resident(spawner.pid)
    finally:
        spawner.send_signal(signal.SIGTERM)
        spawner.wait(20)
    return {e["name"]: e for e in map(json.loads, open(result))}, facts


def resident(pid, key="VmRSS"):
    return int(open(f"/proc/{pid}/status").read().split(key + ":")[1].split()[0]) / 1024


def private(pid):
    text = open(f"/proc/{pid}/smaps_rollup").read()
    return sum(int(text.split(key + ":")[1].split()[0]) for key in ("Private_Clean", "Private_Dirty")) / 1024


FIRST_UID = 730000


def tmpfs_number(folder):
    """The number of a new tmpfs. The kernel gives the lowest that is free (get_anon_bdev), so it grows with those that nobody unmounts, wherever they are: in a mount
    namespace without a process they are in nobody's list."""
    path = tempfile.mkdtemp(dir=folder)
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    try:
        return os.minor(os.stat(path).st_dev)
    finally:
        subprocess.run(["umount", path], check=True)
        os.rmdir(path)


def host_facts(pid, folder):
    users, children = 0, 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/status") as file:
                status = dict(line.split(":", 1) for line in file)
        except (OSError, ValueError):
            continue  # it ended
        users += any(FIRST_UID <= int(uid) < FIRST_UID + 4096 for uid in status["Uid"].split())
        children += int(status["PPid"]) == pid
    with open(f"/proc/{pid}/mounts") as file:
        mounts = len(file.readlines())
    return {
        "descriptors of the spawner": len(os.listdir(f"/proc/{pid}/fd")), "processes with workers' uids": users, "children of the spawner": children,
        "mounts": mounts, "number of a new tmpfs": tmpfs_number(folder),
        "cgroups": int(subprocess.run("find /sys/fs/cgroup -type d -path '*bulkhead-bench*' | wc -l", shell=True, capture_output=True).stdout),
        "MiB of the spawner": round(resident(pid, "RssAnon"), 1),
    }


# What others on the machine may mount meanwhile, and what an allocator may keep.
SLACK = {"number of a new tmpfs": 50, "MiB of the spawner": 1}


def leaks(before, after):
    return [f"{what}: {before[what]} before, {after[what]} after" for what in before if after[what] > before[what] + SLACK.get(what, 0)]


def settled(look, before=None, seconds=10):
    """Facts twice the same in a row, and without a leak where there are some to compare with; the last ones, where that does not come in time."""
    end, last = time.monotonic() + seconds, None
    while True:
        facts = look()
        if facts == last and not (before and leaks(before, facts)) or time.monotonic() > end:
            return facts
        last = facts
        time.sleep(0.3)


def prepare(folder):
    compile_workers(folder)
    source = open(os.path.join(ROOT, "Sources/Wire/SpawnerRequest.swift")).read()
    compile_c(folder, "driver", "-DPROTOCOL=" + re.search(r"spawnerProtocolVersion: UInt16 = (\d+)", source)[1])


def starts(folder):
    out, facts = spawner_run(folder, "starts")
    peers = {}
    bwrap = f"bwrap --unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/lib64 /lib64 --symlink usr/lib /lib --proc /proc --dev /dev --tmpfs /tmp --ro-bind {folder} /x /x/PROGRAM p"
    bundle = os.path.join(folder, "bundle")
    os.makedirs(os.path.join(bundle, "rootfs"))
    for name in ("bare", "first"):
        shutil.copy(os.path.join(folder, name), os.path.join(bundle, "rootfs"))
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    path = os.path.join(bundle, "config.json")
    config = json.load(open(path))
    config["process"]["terminal"] = False
    for program in ("bare", "first"):
        config["process"]["args"] = ["/" + program, "p"]
        with open(path, "w") as file:
            json.dump(config, file)
        for name, command, count in (("bubblewrap", bwrap.replace("PROGRAM", program), 20), ("runc", f"runc run --bundle {bundle} bench-runc", 5)):
            try:
                run = subprocess.run([os.path.join(folder, "driver"), "peer", f"{name}_{program}", command, str(count)], capture_output=True, text=True, timeout=200, check=True)
                peers.update({e["name"]: e for e in map(json.loads, run.stdout.splitlines())})
            except (subprocess.SubprocessError, ValueError) as error:
                print(f"skipped {name}: {error}")
    for pause, ours in (("1 s gaps", "cold_idle"), ("back to back", "cold")):
        row(f"start, nothing prepared, {pause}: p50 / p99", "1.8 / 8 ms", f"{ms(out[ours]['p50'])} / {ms(out[ours]['p99'])}", "a static program without a libc")
    for pause, ours in (("1 s gaps", "sealed_idle"), ("20 ms gaps", "sealed")):
        row(f"start from the sealed pool, {pause}: p50 / p99", "1 ms", f"{ms(out[ours]['p50'])} / {ms(out[ours]['p99'])}", "the same")
    for what, ours in (("nothing prepared, back to back", "cold_libc"), ("nothing prepared, 1 s gaps", "cold_libc_idle"), ("sealed pool, 1 s gaps", "sealed_libc_idle")):
        row(f"start with glibc in the program, {what}", "", f"{ms(out[ours]['p50'])} / {ms(out[ours]['p99'])}")
    for name, promise in (("bubblewrap", "0.30"), ("runc", "0.05")):
        if peer := peers.get(f"{name}_bare_idle"):
            row(f"ratio to {name}, from the sealed pool, 1 s gaps", f"<= {promise}", f"{out['sealed_idle']['p50'] / peer['p50']:.3f}", f"{name} {ms(peer['p50'])}")
        for program, start, note in (("bare", "cold", ""), ("first", "cold_libc", ", with glibc")):
            for pause, suffix in (("back to back", ""), ("1 s gaps", "_idle")):
                if peer := peers.get(f"{name}_{program}{suffix}"):
                    row(f"ratio to {name}, {pause}{note}", f"<= {promise}", f"{out[start + suffix]['p50'] / peer['p50']:.3f}", f"{name} {ms(peer['p50'])}")
    row("sustained starts, 20 s", ">= 400/s", f"{out['sustained']['per_second']:.0f}/s", f"backlog drained in {out['sustained']['drain_ms']:.0f} ms")
    row("start after 20 s of them: p50", "", ms(out["cold_after_sustained"]["p50"]))
    row("kill of 500 processes that ignore signals: p50 / p99", "p99 <= 50 ms", f"{ms(out['kill_fork_bomb_500']['p50'])} / {ms(out['kill_fork_bomb_500']['p99'])}")
    row("spawner, resident", "<= 6 MiB", f"{facts['rss']:.1f} MiB")


def buckets(folder):
    out, _ = spawner_run(folder, "buckets")
    for count in (0, 1, 4):
        for kind, what in (("cold", "start, nothing prepared"), ("sealed", "start from the sealed pool")):
            turns = [out[f"{kind}_{count}_{turn}"] for turn in range(3)]
            row(f"{what}, with {count} buckets: p50 / p99", "", " / ".join(ms(statistics.median(turn[part] for turn in turns)) for part in ("p50", "p99")))


def cycles(folder):
    """With few uids, so that one that does not come back is soon missed: a start without a free one fails."""
    out, facts = spawner_run(folder, "cycles", [f"BENCH_COUNT={os.environ.get('BENCH_COUNT', '10000')}"], 600, uids=64)
    found = leaks(facts["before"], facts["after"])
    row(f"{out['cycles']['n']} start/kill cycles", "back to the start", f"{out['cycles']['seconds']:.0f} s", f"before {facts['before']}, after {facts['after']}")
    return [f"{out['cycles']['n']} starts and ends have not given back {what}" for what in found]


def http_figures(folder):
    node = Node(TENANTS).start()
    try:
        handler = "def handler(event, context):\n    return 'hello'\n"
        node.deployed(python("hello"), {"main.py": handler})
        node.deployed("function: jello\nruntime: nodejs\nhandler: index.handler\nmemory: 192MiB\n", {"index.js": "exports.handler = async () => 'hello';\n"})
        firsts = {"python3": [], "nodejs": []}
        for _ in range(12):
            for name, runtime in (("hello", "python3"), ("jello", "nodejs")):
                for worker in [w for w in node.json("ps") if w["function"] == name]:
                    os.kill(worker["pid"], signal.SIGKILL)
                wait_for(lambda: not [w for w in node.json("ps") if w["function"] == name], 5)
                wait_for(lambda: len([w for w in node.json("ps") if w["state"] == "spare"]) >= 6, 10, "spares")
                time.sleep(0.3)
                begin = time.monotonic()
                headers = node.invoke(name, b"1")[1]
                if headers["Bulkhead-Start"] == "prewarmed":
                    firsts[runtime].append((time.monotonic() - begin) * 1e6)
        for runtime, values in firsts.items():
            if values:
                row(f"first answer, prewarmed {runtime}, through HTTP: p50", "5 ms", ms(statistics.median(values)), f"{len(values)} of 12")
        latency(node)
        throughput(node, folder)
        footprint(node)
    finally:
        node.remove()


BARE = {"python3": ["/usr/bin/python3", "-c", "pass"], "nodejs": ["/usr/bin/node", "-e", ""]}


def cold_starts():
    """First answers where neither a runtime nor a sandbox is prepared, and the bare interpreter, in turn."""
    node = Node({**TENANTS, "bulkhead.yaml": "prewarm: {python3: 0, nodejs: 0, sealed: 0}\n"}).start()
    try:
        node.deployed(python("python3"), {"main.py": "def handler(event, context):\n    return 'hello'\n"})
        node.deployed("function: nodejs\nruntime: nodejs\nhandler: index.handler\nmemory: 192MiB\n", {"index.js": "exports.handler = async () => 'hello';\n"})
        for runtime, command in BARE.items():
            first, bare = [], []
            for _ in range(20):
                for worker in node.json("ps"):
                    os.kill(worker["pid"], signal.SIGKILL)
                wait_for(lambda: not node.json("ps"), 5)
                time.sleep(0.3)
                begin = time.monotonic()
                headers = node.invoke(runtime, b"1")[1]
                assert headers["Bulkhead-Start"] == "cold", headers
                first.append((time.monotonic() - begin) * 1e6)
                time.sleep(0.3)
                begin = time.monotonic()
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
                bare.append((time.monotonic() - begin) * 1e6)
            beyond = statistics.median(first) - statistics.median(bare)
            row(f"first answer, nothing prepared, {runtime}, beyond {' '.join(command)}: p50", "6 ms" if runtime == "python3" else "", ms(beyond),
                f"{ms(statistics.median(first))} through HTTP, bare {ms(statistics.median(bare))}")
    finally:
        node.remove()


def latency(node):
    connection = http.client.HTTPConnection(node.http)
    taken, handler = [], []
    for index in range(3000):
        begin = time.monotonic_ns()
        connection.request("POST", "/v1/tenants/acme/functions/hello/invocations", b"1", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        taken.append((time.monotonic_ns() - begin) / 1000)
        handler.append(int(answer.headers["Bulkhead-Duration"][:-2]))
    taken, handler = sorted(taken[500:]), sorted(handler[500:])
    row("warm invocation inside the node, arrival to answer: p50 / p99", "", f"{handler[len(handler) // 2]} / {handler[int(len(handler) * .99)]} us", "worker included")
    row("warm invocation seen by a Python client: p50 / p99", "150 us overhead", f"{taken[len(taken) // 2]:.0f} / {taken[int(len(taken) * .99)]:.0f} us", "client and handler included")


def wrk(url, script, connections=32, seconds=8):
    run = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url], capture_output=True, text=True, check=True).stdout
    rate = float(run.split("Requests/sec:")[1].split()[0])
    half = run.split("50%")[1].split()[0] if "50%" in run else "?"
    return rate, half, run.split("Non-2xx")[1].split()[-1] if "Non-2xx" in run else "0"


def wrk_script(folder):
    script = os.path.join(folder, "post.lua")
    with open(script, "w") as file:
        file.write('wrk.method = "POST"\nwrk.body = "1"\nwrk.headers["Content-Type"] = "application/json"\n')
    return script


def throughput(node, folder):
    script = wrk_script(folder)
    url = f"http://{node.http}/v1/tenants/acme/functions/hello/invocations"
    one = wrk(url, script, 1, 5)
    row("warm invocation, wrk at 1 connection: p50", "150 us overhead", one[1], f"{one[0]:.0f}/s")
    ours = wrk(url, script, 8)
    with open(os.path.join(folder, "app.py"), "w") as file:
        file.write("def application(environ, start_response):\n    environ['wsgi.input'].read()\n    body = b'hello'\n    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '5')])\n    return [body]\n")
    with open(os.path.join(folder, "nginx.conf"), "w") as file:
        file.write(f"worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{ worker_connections 256; }} http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; scgi_temp_path {folder}/s; uwsgi_temp_path {folder}/u; server {{ listen 127.0.0.1:18991; location / {{ include /etc/nginx/uwsgi_params; uwsgi_pass unix:{folder}/uwsgi.sock; }} }} }}\n")
    uwsgi = subprocess.Popen(["uwsgi", "--plugin", "python3", "--socket", f"{folder}/uwsgi.sock", "--chmod-socket=666", "--chdir", folder, "--module", "app", "--processes", "2", "--disable-logging", "--master", "--need-app"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    nginx = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        def answers():
            try:
                connection = http.client.HTTPConnection("127.0.0.1:18991", timeout=2)
                connection.request("POST", "/", b"1")
                return connection.getresponse().status == 200
            except OSError:
                return False
        wait_for(answers, 10, "uWSGI")
        peer = wrk("http://127.0.0.1:18991/", script, 8)
        row("warm throughput, Python hello, 8 connections", ">= 1.3 x uWSGI", f"{ours[0] / peer[0]:.2f} x", f"{ours[0]:.0f}/s, nginx + uWSGI {peer[0]:.0f}/s, refused {ours[2]}")
    except AssertionError as error:
        print(f"skipped nginx + uWSGI: {error}")
    finally:
        nginx.terminate()
        uwsgi.send_signal(signal.SIGINT)
        nginx.wait(10)
        uwsgi.wait(10)


def footprint(node):
    daemon = int(subprocess.run(["pgrep", "-P", str(node.process.pid), "bulkheadd"], capture_output=True).stdout.split()[0])
    row("daemon, resident, after the load", "<= 64 MiB idle", f"{resident(daemon):.1f} MiB")
    source = os.path.join(node.base, "native")
    subprocess.run(["cc", "-O1", "-static", "-x", "c", "-o", source, "-", "-I", os.path.join(ROOT, "Sandbox/runtimes/native")], check=True, input=b'#include "bulkhead.h"\nstatic void handle(struct bh_context *c, const void *b, size_t n) { bh_reply(c, "text/plain", b, n); }\nint main(void) { return bulkhead_run("native", handle, NULL); }')
    node.deployed("function: native\nruntime: native\nhandler: ./program\nmemory: 16MiB\n", {"program": open(source, "rb").read()})
    node.invoke("native", b"x")
    worker = next(w for w in node.json("ps") if w["function"] == "native")
    parent = int(open(f"/proc/{worker['pid']}/stat").read().split()[3])
    row("sealed idle native worker, private", "<= 1 MiB", f"{private(worker['pid']) + private(parent):.2f} MiB", f"main {private(worker['pid']):.2f}, reaper {private(parent):.2f}")


PARTS = {"starts": starts, "buckets": buckets, "http": http_figures, "cold": lambda _: cold_starts(), "cycles": cycles}


def main(names):
    folder = tempfile.mkdtemp(prefix="bulkhead-bench-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    print(f"{'what':58} {'promised':>22} {'measured':>26}  note")
    faults = []
    try:
        prepare(folder)
        for name in names or PARTS:
            faults += PARTS[name](folder) or []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "\n".join(faults) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
