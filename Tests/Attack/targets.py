# SPDX-License-Identifier: Apache-2.0
"""What hostile cases aim at: a neighbour, on the host or as another tenant's live worker, and objects of the host that no worker may find."""
import contextlib
import ctypes
import os
import shutil
import socket
import subprocess

KEY = 0x62683031  # of the System V objects
QUEUE = b"attack-neighbour"
# Run by the neighbour: whatever another process could find of it, open for everybody.
NEIGHBOUR = r"""
import os, socket
KEPT = []


def settle():
    for path in ("/tmp/attack-neighbour", "/dev/shm/attack-neighbour"):
        with open(path, "w") as file:
            file.write("a secret")
        os.chmod(path, 0o666)
    for address in ("/tmp/attack-neighbour.socket", "\0attack-neighbour"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(128)
        KEPT.append(listener)
    os.chmod("/tmp/attack-neighbour.socket", 0o777)
"""
# A function whose worker says that it is still the same one.
WITNESS = NEIGHBOUR + """
WORKER = os.urandom(8).hex()
settle()


def handler(event, context):
    return {"echo": event, "worker": WORKER}
"""


@contextlib.contextmanager
def host_objects():
    """The abstract socket, System V objects and message queue of the host that a worker must not reach."""
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0attack-host")
        listener.listen()
        memory, queue, semaphore = libc.shmget(KEY, 4096, 0o1666), libc.msgget(KEY, 0o1666), libc.semget(KEY, 1, 0o1666)
        posix = libc.syscall(240, QUEUE, os.O_RDWR | os.O_CREAT, 0o666, None)  # mq_open
        try:
            yield
        finally:
            libc.shmctl(memory, 0, None)
            libc.msgctl(queue, 0, None)
            libc.semctl(semaphore, 0, 0)
            if posix >= 0:
                os.close(posix)
                libc.syscall(241, QUEUE)  # mq_unlink


@contextlib.contextmanager
def host_neighbour(folder):
    """A process of another user on the host, with a child; the words that the cases about neighbours take."""
    clear()
    script = NEIGHBOUR + "settle()\npid = os.fork()\nif pid:\n    print(pid, flush=True)\nimport signal\nsignal.pause()\n"
    process = subprocess.Popen(["/usr/bin/python3", "-c", script], stdout=subprocess.PIPE, text=True, user=65532, group=65532, extra_groups=[], cwd="/")
    try:
        child = int(process.stdout.readline())
        yield [process.pid, child, 65532, folder, KEY]
    finally:
        os.kill(child, 9)
        process.kill()
        process.wait()
        process.stdout.close()
        clear()


def clear():
    """What the cases and the neighbour leave on the host, where nothing clears it."""
    for path in ("/tmp/attack-neighbour", "/dev/shm/attack-neighbour", "/tmp/attack-neighbour.socket", "/tmp/attack-leftover", "/dev/shm/attack-leftover"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    shutil.rmtree("/dev/shm/attack-watches", ignore_errors=True)
