#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The request gate: a daemon that turned hostile asks the spawner for what it may not. It must be ended for it, with the reason said, a new one started, and the
spawner must go on. The daemon's place is taken by this file itself, started by the spawner with its socket as fd 3."""
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

STARTED = time.monotonic_ns()
HASH = "a" * 64


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<I", len(data)) + data


def limits(memory=64 << 20, cpu=1000, processes=32, temporary=1 << 20, files=64):
    return struct.pack("<QIIQI", memory, cpu, processes, temporary, files)


def words(*list_):
    return struct.pack("<H", len(list_)) + b"".join(map(text, list_))


def buckets(*grants, tenant="acme"):
    """Each is a name, or a name, whether it is writable, and a prefix."""
    full = [(g, True, "") if isinstance(g, (str, bytes)) else g for g in grants]
    body = b"".join(text(name) + bytes([writable]) + text(prefix) for name, writable, prefix in full)
    return bytes([len(full)]) + ((text(tenant) + body) if full else b"")


def layers(*names):
    return bytes([len(names)]) + b"".join(map(text, names))


def spawn(worker=1, group=1, runtime="native", preparation=3, bounds=None, code=HASH, command=("./x",), access=buckets(), sees=layers()):
    return struct.pack("<BQI", 5, worker, group) + text(runtime) + bytes([preparation]) + (bounds or limits()) + b"\0" + text(code) + words(*command) + access + sees


HELLO = struct.pack("<BH", 1, 6)
GROUP = struct.pack("<BIQII", 3, 1, 256 << 20, 1000, 100)
READY = struct.pack("<B", 2) + text("READY")
# What is sent after hello and a group, and a word of the reason that the spawner must give.
CASES = {
    "an unknown request": (bytes([99]), "unknown request kind"),
    "a torn request": (spawn()[:20], "ends inside"),
    "bytes after a request": (GROUP + b"x", "follow the message"),
    "a second hello": (HELLO, "second hello"),
    "an unknown runtime": (spawn(runtime="root"), "unknown runtime"),
    "an unknown group": (spawn(group=7), "unknown group"),
    "code that is a path": (spawn(code="../../etc"), "content hash"),
    "code that is no hash": (spawn(code="Z" * 64), "content hash"),
    "a command outside the code": (spawn(command=("/bin/sh",)), "path inside the code"),
    "a command with ..": (spawn(command=("./../../bin/sh",)), "path inside the code"),
    "a command with .. before a combining mark": (spawn(command=("./../\u0301x",)), "path inside the code"),
    "a NUL in a command": (spawn(command=("./x\0y",)), "NUL"),
    "no command": (spawn(command=()), "no command"),
    "memory above the ceiling": (spawn(bounds=limits(memory=1 << 39)), "ceilings"),
    "no memory at all": (spawn(bounds=limits(memory=0)), "ceilings"),
    "processes above the ceiling": (spawn(bounds=limits(processes=30_000)), "ceilings"),
    "a worker number out of range": (spawn(worker=1 << 60), "2^48"),
    "a group above the ceiling": (struct.pack("<BIQII", 3, 2, 1 << 41, 1000, 100), "ceilings"),
    "the removal of an unknown group": (struct.pack("<BI", 4, 9), "unknown group"),
    "an assignment of nobody": (struct.pack("<BQ", 6, 5) + text("native") + limits() + text(HASH) + words("./x") + buckets() + layers(), "never was"),
    "a kill of nobody": (struct.pack("<BQ", 7, 5), "never was"),
    "seventeen buckets": (spawn(access=buckets(*(f"b{i}" for i in range(17)))), "at most 16"),
    "a bucket that is a path": (spawn(access=buckets("../globex/b")), "name that is none"),
    "a tenant that is a path": (spawn(access=buckets("b", tenant="..")), "name that is none"),
    "a bucket twice": (spawn(access=buckets("b", "b")), "given twice"),
    "a prefix with ..": (spawn(access=buckets(("b", True, "a/../../c/"))), "not a plain path"),
    "a prefix with an empty part": (spawn(access=buckets(("b", True, "a//b/"))), "not a plain path"),
    "a prefix from the root": (spawn(access=buckets(("b", True, "/etc/"))), "not a plain path"),
    "a prefix that is too long": (spawn(access=buckets(("b", True, "x" * 255 + "/"))), "longer"),
    "a prefix of a bucket that is only read": (spawn(access=buckets(("b", False, "out/"))), "not writable"),
    "buckets for a worker without a tenant": (spawn(preparation=2, code="", command=(), access=buckets("b")), "before it has a function"),
    "nine layers": (spawn(sees=layers(*(f"l{i}" for i in range(9)))), "at most 8"),
    "a layer that is a path": (spawn(sees=layers("../data")), "name that is none"),
    "a layer from the root": (spawn(sees=layers("/etc")), "name that is none"),
    "a layer twice": (spawn(sees=layers("good", "good")), "given twice"),
    "layers for a worker without a tenant": (spawn(preparation=2, code="", command=(), sees=layers("good")), "before it has a function"),
    "control characters in READY": (struct.pack("<B", 2) + text("READY \x1b[2J"), "control characters"),
    "a usage question about 2,000 workers": (struct.pack("<BH", 9, 2000) + bytes(16_000), "at most"),
    "a message that is too long": (bytes(100_000), "receive a message"),
    "attached descriptors": ("descriptors", "receive a message"),
    "a request before hello": ("early", "before hello"),
    "workers that nobody takes over": (struct.pack("<BH?", 12, 0, True), "kept for nobody"),
    "that it is prepared while it serves": (struct.pack("<BH", 11, 1), "prepared already"),
    "the keeping of 2,000 workers": (struct.pack("<BH", 12, 2000) + bytes(16_001), "at most"),
}


def as_daemon():
    """Started by the spawner: breaks the rule that the environment names, once, then behaves."""
    link = socket.socket(fileno=3)
    welcome, gifts, _, _ = socket.recv_fds(link, 65536, 8)
    folder = os.environ["GATE_STATE"] + "/data"
    if welcome[0] == 9:
        return succeed(link, folder)
    if os.environ["GATE_CASE"] == "short lives":
        return die_young(link, folder)
    first = not os.path.exists(folder + "/was-here")
    open(folder + "/was-here", "w").close()
    if not first:
        print("a later daemon begins", flush=True)
        link.send(HELLO)
        link.send(READY)  # the new daemon is served
        signal.pause()
    if os.environ["GATE_CASE"].startswith("successors"):
        return have_successors(link, folder)
    if os.environ["GATE_CASE"] == "early assignment":
        return assign_early(link)
    if os.environ["GATE_CASE"] in ("layers", "layers of others"):
        return ask_for_layers(link)
    if os.environ["GATE_CASE"] == "file events":
        return hear_writers(link, welcome, gifts)
    breach = CASES[os.environ["GATE_CASE"]][0]
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    if breach == "early":
        link.send(GROUP)
    else:
        link.send(HELLO)
        link.send(GROUP)
        if breach == "descriptors":
            socket.send_fds(link, [GROUP], [0, 1])
        else:
            link.send(breach)
    signal.pause()  # nobody gets past this but by SIGKILL


# Of the daemons that end at once, in milliseconds; the one after them serves.
PAUSES = [100, 200, 400, 800, 1600]


def die_young(link, folder):
    with open(folder + "/lives", "a+") as file:
        file.seek(0)
        count = len(file.readlines())
        file.write(f"{STARTED} {time.monotonic_ns()}\n")
    if count < len(PAUSES):
        os._exit(3)
    link.send(HELLO)
    link.send(READY)
    signal.pause()


# Assigned in the same breath as it is asked for, while the sandbox is still being made.
def early(worker):
    yield spawn(worker, runtime="waiting", preparation=2, code="", command=())
    yield struct.pack("<BQ", 6, worker) + text("waiting") + limits() + text(HASH) + words() + buckets() + layers()


def assign_early(link):
    """Says in its READY line what became of many assignments."""
    for message in (HELLO, GROUP, *(message for worker in range(1, 31) for message in early(worker))):
        link.send(message)
    assigned, failures = 0, []
    while assigned + len(failures) < 30:
        event = link.recv(65536)
        assigned += event[0] == 3
        if event[0] == 4:
            failures.append(event[13:].decode())
    link.send(struct.pack("<B", 2) + text(f"READY {assigned} assigned {failures[:1]}"))
    signal.pause()


# The operator's, and what is none: a link, one that others may write, somebody else's, none at all, a file. Each is asked for at a start and at an assignment.
LAYERS = ("good", "evil", "loose", "foreign", "absent", "file")


def ask_for_layers(link):
    """Says in its READY line which are mounted."""
    for message in (HELLO, GROUP):
        link.send(message)
    found = {}
    for number, name in enumerate(LAYERS, 1):
        link.send(spawn(number, runtime="waiting", command=(), sees=layers(name)))
        link.send(spawn(number + 100, runtime="waiting", preparation=2, code="", command=()))
        link.send(struct.pack("<BQ", 6, number + 100) + text("waiting") + limits() + text(HASH) + words() + buckets() + layers(name))
    while len(found) < 2 * len(LAYERS):
        event = link.recv(65536)
        worker = struct.unpack_from("<Q", event, 1)[0] if event[0] in (2, 3, 4) else 0
        if event[0] == 4 or event[0] == (3 if worker > 100 else 2):
            found[worker] = "failed" if event[0] == 4 and b"open the layer" in event else event[0]
    good = [LAYERS[(worker - 1) % 100] for worker, what in sorted(found.items()) if what != "failed"]
    link.send(struct.pack("<B", 2) + text(f"READY mounted {good}"))
    signal.pause()


# What a daemon does that is to take over, one after the other, and what the old one is told of it.
SUCCESSORS = {
    "asks for a group": ((GROUP,), "before its turn"),
    "is of another version": ((struct.pack("<BH", 1, 2),), "another protocol version"),
    "is prepared without a greeting": ((struct.pack("<BH", 11, 1),), "before its turn"),
    "greets twice": ((HELLO, HELLO), "before its turn"),
    "sends no request": ((bytes([99]),), "illegal request"),
    "names workers": ((HELLO, struct.pack("<BH?", 12, 0, True)), "before its turn"),
    "ends": (None, "exit code 3"),
}


def succeed(link, folder):
    """A successor: the next of the misbehaviours, and after all of them a good one."""
    number = len([name for name in os.listdir(folder) if name.startswith("successor")])
    with open(f"{folder}/successor{number}", "w") as file:
        file.write(str(os.getpid()))
    if number == len(SUCCESSORS):
        link.send(HELLO)
        link.send(struct.pack("<BH", 11, 1))
        if os.environ["GATE_CASE"] == "successors and a loss":
            # Not before the old one lets go: whose end is seen before its words never was prepared.
            while not os.path.exists(f"{folder}/lets-go"):
                time.sleep(0.01)
            os._exit(3)
        kinds = []
        while (event := link.recv(65536))[0] != 1:
            kinds.append(event)
        # A worker that was named, and not the one that was not.
        workers = [struct.unpack_from("<Q", event, 3)[0] for event in kinds if event[0] == 12]
        print(f"successor: took over {workers} of {[event[1] for event in kinds]}", flush=True)
        link.send(READY)
        signal.pause()
    messages = list(SUCCESSORS.values())[number][0]
    if messages is None:
        os._exit(3)
    for message in messages:
        link.send(message)
    signal.pause()


def have_successors(link, folder):
    """Asks for one successor after the other, and says what it is told of each."""
    for message in (HELLO, GROUP, READY, *(spawn(worker, runtime="waiting", command=()) for worker in (1, 2))):
        link.send(message)

    def next_of(*kinds):
        while True:
            event, gifts, _, _ = socket.recv_fds(link, 65536, 8)
            if not event:
                os._exit(1)
            if event[0] == 20:
                link.send(struct.pack("<BQ", 20, struct.unpack_from("<Q", event, 1)[0]))
            if event[0] in kinds:
                return event, gifts
    for _ in range(2):
        next_of(2)
    for name in [*SUCCESSORS, "the good one"]:
        while True:
            link.send(bytes([10]))
            event, gifts = next_of(10, 11)
            if event[0] == 10 or b"just now" not in event:
                break
            time.sleep(0.1)
        print(f"successor that {name}: {event[5:].decode() if event[0] == 11 else 'hands over'}", flush=True)
    if os.environ["GATE_CASE"] == "successors and a stranger":
        link.send(struct.pack("<BHQ?", 12, 1, 77, True))  # never was
        signal.pause()
    if os.environ["GATE_CASE"] == "successors and a loss":
        with open(f"{folder}/successor{len(SUCCESSORS)}") as file:
            successor = file.read()
        open(f"{folder}/lets-go", "w").close()
        # The good one has asked already, and ends. It is gone when the spawner has seen that.
        while os.path.exists(f"/proc/{successor}"):
            time.sleep(0.01)
    link.send(struct.pack("<BHQ?", 12, 1, 1, True))
    if os.environ["GATE_CASE"] == "successors and a loss":
        time.sleep(0.5)  # what it takes to close the stores: the spawner may not go on before
        print("it has let go", flush=True)
    if os.environ["GATE_CASE"] == "successors and a child" and os.fork() == 0:
        # It has the socket, too, and asks on and on for what a daemon may ask for: the end of the worker that nobody keeps.
        end = time.monotonic() + 60
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                link.send(struct.pack("<BQ", 7, 2))
        os._exit(0)
    if os.environ["GATE_CASE"] == "successors and a crash":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


CLOSE_WRITE, ON_DIRECTORY_ENTRIES = 0x8, 0x08000000  # fanotify(7)


def watch(queue, path):
    libc = ctypes.CDLL(None, use_errno=True)
    directory = os.open(path, os.O_RDONLY)
    if libc.fanotify_mark(queue, 1 | 8, ctypes.c_uint64(CLOSE_WRITE | ON_DIRECTORY_ENTRIES), directory, None):
        raise OSError(ctypes.get_errno(), "mark " + path)


def hear_writers(link, welcome, gifts):
    """Without privilege: watches two buckets, starts a worker with each, at once and prewarmed, and says in its READY line whether the kernel named them."""
    names, at = [], 5
    for _ in range(struct.unpack_from("<H", welcome, 3)[0]):
        size = struct.unpack_from("<I", welcome, at)[0]
        names.append(welcome[at + 4:at + 4 + size].decode())
        at += 4 + size
    queue = gifts[names.index("file-events")]
    for name in ("photos", "thumbs"):
        os.makedirs(os.environ["GATE_STATE"] + "/data/buckets/acme/" + name)
        watch(queue, os.environ["GATE_STATE"] + "/data/buckets/acme/" + name)
    try:
        watch(queue, "/root")
        said = "and may watch what it cannot read"
    except PermissionError:
        said = "and not what it cannot read"
    for message in (HELLO, GROUP, spawn(1, runtime="writer", command=(), access=buckets("photos")), spawn(2, runtime="writer", preparation=2, code="", command=()),
                    struct.pack("<BQ", 6, 2) + text("writer") + limits() + text(HASH) + words() + buckets("thumbs") + layers()):
        link.send(message)
    groups, writers = {}, []
    while len(groups) < 2 or len(writers) < 2:
        for ready in select.select([link, queue], [], [])[0]:
            if ready is link:
                event = socket.recv_fds(link, 65536, 8)[0]
                if event[0] == 2:
                    length = struct.unpack_from("<I", event, 17)[0]
                    groups[struct.unpack_from("<Q", event, 1)[0]] = event[21:21 + length].decode()
                assert event[0] in (2, 3), event
                continue
            data = os.read(queue, 4096)
            while data:
                size, mask, pid = struct.unpack_from("<I", data)[0], *struct.unpack_from("<Q4xi", data, 8)
                if mask & CLOSE_WRITE:
                    writers.append(open(f"/proc/{pid}/cgroup").read().splitlines())
                data = data[size:]
    named = sorted(worker for worker, group in groups.items() if any(line.endswith(group) for lines in writers for line in lines))
    link.send(struct.pack("<B", 2) + text(f"READY hears of {named} {said}"))
    signal.pause()


@contextlib.contextmanager
def spawner_with(case):
    """A spawner whose daemon is this file; its first line on stdout and what it has said."""
    state = tempfile.mkdtemp(prefix="bulkhead-gate-", dir="/var/tmp")
    os.chmod(state, 0o755)
    os.makedirs(state + "/data/code/" + HASH)
    for path in (state + "/data", state + "/data/code"):
        os.chown(path, 699998, 699998)
    for name in ("good", "loose", "foreign"):
        os.makedirs(f"{state}/layers/{name}")
    os.chmod(state + "/layers/loose", 0o775)
    os.chown(state + "/layers/foreign", 699998, 699998)
    os.symlink("/etc", state + "/layers/evil")
    open(state + "/layers/file", "w").close()
    if case == "layers of others":
        os.chmod(state + "/layers", 0o777)
    program = state + "/daemon"
    shutil.copy(os.path.abspath(__file__), program)
    os.chmod(program, 0o755)
    shutil.copy(os.path.join(HERE, "node.py"), state + "/node.py")
    policy = ["version 1", f"daemon-executable {program}", "daemon-uid 699998", "daemon-gid 699998", f"daemon-environment GATE_CASE={case}",
              f"daemon-environment GATE_STATE={state}", f"state-directory {state}", f"code-directory {state}/data/code", f"bucket-directory {state}/data/buckets",
              f"share-directory {node.SHARE}", f"layer-directory {state}/layers", f"listen control unix:{state}/s", "uid-range 780000 64", f"cgroup-name bulkhead-gate-{os.getpid()}",
              "ceiling memory 1073741824", "ceiling processes 1000", "runtime native {", "mount /usr /usr", "link usr/bin /bin", "link usr/lib /lib",
              "link usr/lib64 /lib64", "}", "runtime waiting {", "mount /usr /usr", "link usr/bin /bin", "link usr/lib /lib", "link usr/lib64 /lib64",
              "argument /usr/bin/sleep", "argument 100", "}",
              "runtime writer {", "mount /usr /usr", "link usr/bin /bin", "link usr/lib /lib", "link usr/lib64 /lib64", "argument /usr/bin/sh", "argument -c",
              'argument while :; do for d in /buckets/*; do [ -d "$d" ] && echo hi > "$d/made" && exec sleep 100; done; sleep 0.05; done', "}"]
    with open(state + "/policy", "w") as file:
        file.write("\n".join(policy) + "\n")
    os.chmod(state + "/policy", 0o600)
    global current_log
    current_log = state + "/log"
    log = open(current_log, "wb")
    spawner = subprocess.Popen([node.beside("bulkhead-spawner"), "--policy", state + "/policy"], stdout=subprocess.PIPE, stderr=log)
    try:
        # A gate that lets the breach pass waits for ever, as the daemon does.
        line = spawner.stdout.readline() if select.select([spawner.stdout], [], [], 20 * node.PATIENCE)[0] else b""
        yield line.decode(), open(state + "/log").read()
        assert spawner.poll() is None
    finally:
        spawner.terminate()
        assert spawner.wait(10 * node.PATIENCE) == 0
        spawner.stdout.close()
        log.close()
        shutil.rmtree(state)


def gate(name):
    with spawner_with(name) as (line, told):
        assert line == "READY\n", f"no new daemon was served: {line!r} {told}"
        assert "illegal request" in told and CASES[name][1] in told, told


def early_assignment():
    with spawner_with("early assignment") as (line, told):
        assert line == "READY 30 assigned []\n", line + told


def short_lives():
    """Each pause is told and kept: between the last moment of a daemon and the first of the next there is at least as much."""
    with spawner_with("short lives") as (line, told):
        assert line == "READY\n", line + told
        said = [int(line.split(" in ")[1].split()[0]) for line in told.splitlines() if "it starts again in" in line]
        assert said == PAUSES, told
        with open(os.path.dirname(current_log) + "/data/lives") as file:
            lives = [tuple(map(int, line.split())) for line in file]
        kept = [(after[0] - before[1]) / 1e6 for before, after in zip(lives, lives[1:])]
        assert len(kept) == len(PAUSES) and all(real >= pause for real, pause in zip(kept, PAUSES)), (kept, PAUSES)


def file_events():
    with spawner_with("file events") as (line, told):
        assert line == "READY hears of [1, 2] and not what it cannot read\n", line + told


def layers_of(case, expected):
    with spawner_with(case) as (line, told):
        assert line == f"READY mounted {expected}\n", line + told
        assert "illegal" not in told, told


LEARNER = r"""
#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    for (int i = 0; i < 3; i++) syscall(SYS_io_uring_setup, 1, 0L);
    syscall(SYS_userfaultfd, 1);
    int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    ioctl(0, 0x5412, "x");
    syscall(SYS_reboot, 0, 0, 0, 0); // a tripwire: without the right magic numbers nothing else
    syscall(SYS_getpid);
    printf("socket %d, still here\n", socket_ >= 0);
    return 7;
}
"""


def learning():
    if not shutil.which("cc"):
        return "no C compiler here to build the program with"

    def learn(*words):
        return subprocess.run([os.path.join(node.BIN, "bulkhead-spawner"), "--learn", *words], capture_output=True, text=True, timeout=60)
    with spawner_with("early assignment") as (line, _):
        assert line.startswith("READY 30"), line
        state = os.path.dirname(current_log)
        folder = tempfile.mkdtemp(prefix="bulkhead-learn-", dir="/var/tmp")
        os.chmod(folder, 0o755)
        try:
            subprocess.run(["cc", "-x", "c", "-w", "-O1", "-static", "-o", folder + "/program", "-"], check=True, input=LEARNER.encode())
            # Beside tenants it is refused.
            run = learn(state + "/policy", folder, "./program")
            assert run.returncode == 1 and "may serve tenants" in run.stderr and not run.stdout, (run.stdout, run.stderr)
            with open(state + "/policy") as file:
                text_ = file.read().replace(state, folder).replace(f"daemon-executable {folder}", f"daemon-executable {state}")
            os.makedirs(folder + "/data/code")
            # And there is no way for a node to be started with it, or for a daemon to ask for it.
            for words_, reason in ((text_ + "learn yes\n", "is not understood"), (text_.replace("runtime native {", "runtime native {\nlearn yes"), "not understood in a runtime")):
                with open(folder + "/policy", "w") as file:
                    file.write(words_)
                os.chmod(folder + "/policy", 0o600)
                run = subprocess.run([os.path.join(node.BIN, "bulkhead-spawner"), "--policy", folder + "/policy"], capture_output=True, text=True, timeout=60)
                assert run.returncode == 1 and reason in run.stderr, run.stderr
            with open(folder + "/policy", "w") as file:
                file.write(text_)
            run = learn(folder + "/policy", folder, "./program")
            assert run.returncode == 0 and "socket 1, still here" in run.stderr and "exited with code 7" in run.stderr, (run.stdout, run.stderr)
            rules = [json.loads(line.rstrip(",")) for line in run.stdout.splitlines()]
            found = {rule["call"]: rule for rule in rules}
            assert set(found) == {"io_uring_setup", "userfaultfd", "socket", "ioctl", "reboot"}, run.stdout
            assert all(rule["action"] == "allow" and "WHY" in rule["reason"] for rule in rules)
            assert "3 times" in found["io_uring_setup"]["reason"] and "when" not in found["io_uring_setup"], found
            # Where the policy looks at arguments, what is needed is the call with these.
            assert {"arg": 0, "is": socket.AF_INET} in found["socket"]["when"] and "EAFNOSUPPORT" in found["socket"]["reason"], found
            assert {"arg": 1, "is": 0x5412} in found["ioctl"]["when"] and "kill" in found["reboot"]["reason"], found
            # What it prints is what a policy takes.
            share = shutil.copytree(node.ROOT + "/Sandbox/policy", folder + "/share/policy")
            with open(share + "/worker.json") as file:
                policy = file.read()
            with open(share + "/worker.json", "w") as file:
                file.write(policy.replace("[\n", "[\n" + "".join(line + "\n" for line in run.stdout.splitlines() if "io_uring" in line or "userfaultfd" in line), 1))
            with open(folder + "/policy", "w") as file:
                file.write(text_.replace(f"share-directory {node.ROOT}/Sandbox", f"share-directory {folder}/share"))
            run = learn(folder + "/policy", folder, "./program")
            assert run.returncode == 0 and "io_uring" not in run.stdout and "userfaultfd" not in run.stdout and "ioctl" in run.stdout, (run.stdout, run.stderr)
        finally:
            shutil.rmtree(folder)


def successors(case, workers, reason):
    with spawner_with(case) as (line, _):
        def told():
            return open(current_log).read()
        node.wait_for(lambda: "successor: took over" in told(), 20, f"the good successor: {told()}")
        for name, (_, word) in SUCCESSORS.items():
            said = next(line for line in told().splitlines() if line.startswith(f"successor that {name}:"))
            assert word in said, said
        assert line == "READY\n" and f"successor: took over {workers} of" in told() and reason in told(), told()


def lost():
    with spawner_with("successors and a loss") as (line, _):
        def told():
            return open(current_log).read()
        node.wait_for(lambda: "a later daemon begins" in told(), 20, f"another daemon: {told()}")
        assert line == "READY\n" and "it has let go" in told() and "lost while the old one lets go" in told(), told()
        assert "illegal request of the daemon" not in told(), told()


def loads(program):
    """What the kernel and the loader would bring into the program, as sentences: its interpreter, its libraries. From the ELF headers (elf(5))."""
    with open(program, "rb") as file:
        data = file.read()
    assert data[:6] == b"\x7fELF\x02\x01", "not a 64-bit little endian program"
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    found = []
    for at in range(table, table + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 3:  # PT_INTERP
            found.append("an interpreter: " + data[offset:offset + length].rstrip(b"\0").decode())
        if kind == 2:  # PT_DYNAMIC
            tags = [struct.unpack_from("<Q", data, entry)[0] for entry in range(offset, offset + length, 16)]
            found += ["a needed library"] * tags[:tags.index(0) if 0 in tags else None].count(1)
    # Names of types stay in the metadata of a stripped program, too.
    found += [f"parts of {name.decode()[2:]}" for name in (b"10Foundation", b"20FoundationEssentials") if name in data]
    return found


def static():
    assert loads(node.beside("bulkhead-spawner")) == [], "it runs as root before anything else and must load nothing"
    # The daemon and a shell show that the check can say something else.
    assert any(found.startswith("an interpreter") for found in loads("/bin/sh")) and "a needed library" in loads("/bin/sh")
    assert any("Foundation" in found for found in loads(node.beside("bulkheadd")))


def workers(suite):
    suite.check("the spawner is static and holds nothing of Foundation", static)
    suite.check("a prewarmed worker may be assigned before its sandbox is finished", early_assignment)
    suite.check("a daemon without privilege hears from the kernel which worker wrote into a bucket", file_events)
    suite.check("only a folder of root's in the folder of layers is mounted as one, at a start and at an assignment",
                lambda: layers_of("layers", ["good", "good"]))
    suite.check("nothing is mounted out of a folder of layers that others may write", lambda: layers_of("layers of others", []))
    suite.check("what a program would need of the filter is learned beside no tenants, by name and argument", learning)
    suite.check("a successor that misbehaves is dropped, the daemon goes on, and a good one gets the worker that was named",
                lambda: successors("successors", [1], "takes over, with 1 worker\n"))
    suite.check("a daemon that names a worker that never was is ended, and leaves nothing", lambda: successors("successors and a stranger", [], "never was"))
    suite.check("a daemon that crashes after its last word leaves nothing", lambda: successors("successors and a crash", [], "with 0 workers"))
    suite.check("a child of a daemon that has ended cannot hold the spawner up", lambda: successors("successors and a child", [1], "takes over, with 1 worker\n"))
    suite.check("a daemon whose successor is lost lets go in peace, and another follows", lost)


def breaches(suite):
    for name in CASES:
        suite.check(f"a daemon that sends {name} is ended, and the spawner goes on", lambda name=name: gate(name))


def restarts(suite):
    suite.check("a daemon that ends at once is started again, each time after twice the pause", short_lives)


PARTS = {"workers": workers, "restarts": restarts, "breaches": breaches}


def main(names):
    suite = node.Suite("request gate")
    for name in names or PARTS:
        PARTS[name](suite)
    return suite.close()


if __name__ == "__main__":
    if "GATE_CASE" in os.environ:
        as_daemon()
    HERE = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, HERE)
    import node
    sys.exit(main(sys.argv[1:]))
