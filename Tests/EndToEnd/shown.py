#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every fenced block of every document of the repository, and who runs it: fails where a block is run by nobody and nothing says why, where a runner is not run itself, and where the list speaks of
a block that is gone. Needs nothing but the sources."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Not(str):
    """Why nobody runs a block."""


# By document and heading, for each block below it in turn: (the program that runs it, what it calls that part), or why not.
RUN = {
    ("README.md", "Bulkhead"): [("Tests/run", "./Deploy/demo")],
    ("README.md", "A minute with it"): [("Tests/EndToEnd/documented.py", "the README's minute"), ("Tests/EndToEnd/documented.py", "the README's ceilings, usage and keys")],
    ("README.md", "A way out"): [("Tests/EndToEnd/examples.py", "the tenants' files that are shown")],
    ("README.md", "Events and loops"): [("Tests/EndToEnd/documented.py", "the README's events and loops"), ("Tests/EndToEnd/examples.py", "the manifests that are shown")],
    ("README.md", "As a service"): [("Tests/System/guest.py", "the README's way to the first answer")],
    ("README.md", "The house"): [Not("a drawing of the processes: there is no command in it")],
    ("Deploy/RUNBOOK.md", "Install"): [("Tests/System/guest.py", "the runbook's commands: install")],
    ("Deploy/RUNBOOK.md", "Tune"): [("Tests/EndToEnd/examples.py", "the tenants' files that are shown"), ("Tests/EndToEnd/examples.py", "the layer and its hooks that are shown")],
    ("Deploy/RUNBOOK.md", "What happened at 03:12?"): [("Tests/EndToEnd/documented.py", "the runbook's question of the night")],
    ("Deploy/RUNBOOK.md", "Back up, restore"): [("Tests/System/guest.py", "the runbook's commands: back up and restore")] * 2,
    ("Deploy/RUNBOOK.md", "A damaged database"): [("Tests/System/guest.py", "the runbook's commands: a damaged database")] * 3,
    ("Deploy/RUNBOOK.md", "Move a tenant"): [("Tests/EndToEnd/documented.py", "the runbook's move of a tenant")],
    ("Deploy/RUNBOOK.md", "Logs and traces"): [("Tests/System/guest.py", "the runbook's commands: logs")],
    ("Sandbox/README.md", "The sandbox"): [("Tests/EndToEnd/examples.py", "what a program would be refused, as it is shown")],
    ("Sandbox/runtimes/README.md", "Worker protocol, version 1"): [("Tests/EndToEnd/examples.py", "the layer and its hooks that are shown")],
    ("Sources/WorkerSDK/WorkerSDK.docc/GettingStarted.md", "Overview"): [
        ("Tests/EndToEnd/examples.py", "the manifests that are shown"),
        Not("it builds a package that has this one as a dependency, which takes minutes; a program of the same kind is driven by Tests/Runtimes/run.py"),
    ],
    ("Sources/WorkerSDK/WorkerSDK.docc/GettingStarted.md", "Before the first and after the last"): [("Tests/documentation", "a listing that does not compile")],
    ("Sources/WorkerSDK/WorkerSDK.docc/WorkerSDK.md", "Overview"): [("Tests/documentation", "a listing that does not compile")],
}
# Made of what each command says of itself: all of its blocks are that command's examples.
MADE = {"docs/REFERENCE.md": ("Tests/EndToEnd/examples.py", "Every example of the reference")}
# The programs whose examples the manual page has are the same as the reference's; it is made when the package is, by Deploy/package/manual.py.


def documents():
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=False).stdout.split()
    if tracked:
        return tracked
    # Not in a clone: what there is, but for what is built.
    return sorted(os.path.relpath(os.path.join(folder, name), ROOT) for folder, folders, names in os.walk(ROOT)
                  for name in names if name.endswith(".md") and not any(part.startswith(".") for part in os.path.relpath(folder, ROOT).split("/") if part != "."))


def fenced(text):
    """(the heading above it, its language, its text) of each fenced block."""
    heading, block, language = "", None, ""
    for line in text.splitlines():
        if re.match(r" *```", line):
            if block is None:
                block, language = [], line.strip(" `")
            else:
                yield heading, language, "\n".join(block)
                block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip(" `")


def steps():
    """What Tests/run, and on the emulated machine Tests/System/run, start: as one text."""
    found = ""
    for name in ("Tests/run", "Tests/System/run"):
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            found += file.read()
    return found


def wrong(run, made, read, names):
    """Everything that is amiss, as sentences, and the blocks that are not run, each with its reason."""
    said, not_run, seen, started = [], [], {}, steps()
    for name in names:
        for heading, language, text in fenced(read(name)):
            if name in made:
                seen[name] = seen.get(name, 0) + 1
                continue
            key = (name, heading)
            place = seen[key] = seen.get(key, 0) + 1
            runners = run.get(key, [])
            if place > len(runners):
                said.append(f"{name}, {heading}: nobody runs this block, and nothing says why: {text[:80]!r}")
            elif isinstance(runners[place - 1], Not):
                not_run.append(f"{name}, {heading} ({language or 'plain'}): {runners[place - 1]}")
    for key, runners in run.items():
        if len(runners) > seen.get(key, 0):
            said.append(f"{key[0]}, {key[1]}: {len(runners)} blocks are listed and {seen.get(key, 0)} are there")
    for program, part in {runner for runners in [*run.values(), list(made.values())] for runner in runners if not isinstance(runner, Not)}:
        if part not in read(program):
            said.append(f"{program} has no {part!r}")
        if program != "Tests/run" and os.path.basename(program) not in started:
            said.append(f"{program} is run by nobody")
    return said, not_run


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def main():
    names = documents()
    said, not_run = wrong(RUN, MADE, read, names)
    # That it sees: a block that is new, one that is gone, a runner that does not know its part, a document that nobody had in mind.
    controls = [
        wrong(RUN, MADE, lambda name: read(name) + ("\n```sh\nrm -rf x\n```\n" if name == "Deploy/THREATS.md" else ""), names),
        wrong(RUN, MADE, lambda name: read(name).replace("```", "~~~") if name == "Sandbox/README.md" else read(name), names),
        wrong({**RUN, ("README.md", "Bulkhead"): [("Tests/run", "./Deploy/nothing")]}, MADE, read, names),
        wrong(RUN, {}, read, names),
    ]
    blind = [number for number, (found, _) in enumerate(controls) if len(found) <= len(said)]
    for line in not_run:
        print(f"not run: {line}")
    for line in said + [f"control {number} was not seen" for number in blind]:
        print(f"FAILED  shown: {line}")
    blocks = sum(1 for name in names for _ in fenced(read(name)))
    print(f"{blocks - len(not_run)} passed, {len(said) + len(blind)} failed, {len(not_run)} skipped: fenced blocks of {len(names)} documents that something runs")
    return 1 if said or blind else 0


if __name__ == "__main__":
    sys.exit(main())
