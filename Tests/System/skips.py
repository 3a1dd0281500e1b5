#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the system test says where its machine cannot be built: skipped where the host lacks the emulator or the mirror, failed where the recipe or the disk is at fault."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "EndToEnd"))
from node import NO_DISK, Suite, small_disk  # noqa: E402

# Programs that the recipe calls, played: each takes what is after it for its text.
STUBS = {
    "qemu-system-x86_64": "exit 1", "mke2fs": "exit 0", "uname": "echo x86_64", "dpkg": 'mkdir -p "$3"', "mmdebstrap": "exit 0",
    "apt-cache": 'echo "  Depends: linux-image-6.1.0-1-cloud-amd64"',
    "apt-get": 'case "$*" in *download*) head -c 1M /dev/zero >linux-image-6.1.0-1-cloud-amd64_1_amd64.deb;; esac',
}


def verdict(folder, cache, until="", **changed):
    """Exit status and text of the system test where these programs are others, or none, and there is time until then."""
    programs = os.path.join(folder, "bin")
    os.mkdir(programs)
    for place in ("/usr/sbin", "/usr/bin"):
        for name in set(os.listdir(place)) - STUBS.keys():
            if not os.path.lexists(os.path.join(programs, name)):
                os.symlink(os.path.join(place, name), os.path.join(programs, name))
    for name, text in {**STUBS, **{name.replace("_", "-"): text for name, text in changed.items()}}.items():
        if text is not None:
            with open(os.path.join(programs, name), "w") as file:
                file.write(f"#!/bin/sh\n{text}\n")
            os.chmod(os.path.join(programs, name), 0o755)
    run = subprocess.run([os.path.join(HERE, "run")], env={**os.environ, "PATH": programs, "SYSTEM_CACHE": cache, "BULKHEAD_UNTIL": until}, capture_output=True, text=True, timeout=120, check=False)
    return run.returncode, run.stdout


def main():
    suite = Suite("system's skips")

    def case(name, status, *texts, **changed):
        def said():
            with tempfile.TemporaryDirectory(prefix="bulkhead-skips-") as folder:
                got, text = verdict(folder, os.path.join(folder, "cache"), **changed)
            wanted = "skipped system: " if status == 0 else "FAILED  system: "
            assert got == status and text.startswith(wanted) and all(part in text for part in texts), (got, text)
        suite.check(name, said)
    case("no helper of the emulator: skipped", 0, "mmdebstrap is not installed", mmdebstrap=None)
    case("no such kernel in the lists: skipped", 0, "apt knows no", apt_cache="exit 0")
    case("no mirror: skipped", 0, "cannot be downloaded", apt_get="exit 100")
    case("a mirror that goes away: skipped", 0, "the mirror is away", mmdebstrap="exit 1",
         apt_get=f'case "$*" in *download*) [ ! -e ../../again ] || exit 100; touch ../../again; {STUBS["apt-get"]};; esac')
    case("no time is left: skipped", 0, "are left of the time that was given", until="1")
    case("a root file system that cannot be built of a mirror that answers: failed", 1, "the mirror answers", mmdebstrap="exit 3")
    case("a step of the recipe that fails: failed", 1, "line", "of Tests/System/image failed")
    case("a step that fails with the status of a lack: failed", 1, "line", dpkg="exit 3")

    def full():
        with small_disk("512k") as disk, tempfile.TemporaryDirectory(prefix="bulkhead-skips-") as folder:
            if disk is None:
                return NO_DISK
            status, text = verdict(folder, os.path.join(disk, "cache"))
            assert status == 1 and text.startswith("FAILED  system: ") and "there is no room" in text, (status, text)
        return None
    suite.check("a disk that is full: failed", full)

    def named():
        # Apart: it is made for the machine.
        subprocess.run([sys.executable, "-c", "import suites; suites.each_is_named()"], cwd=HERE, check=True, timeout=60)
    suite.check("every suite runs in the machine, or is said not to", named)
    return suite.close()


if __name__ == "__main__":
    sys.exit(main())
