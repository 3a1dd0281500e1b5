#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Layers: the operator's folders in workers, with hooks around each invocation, for the tenants and functions that have them and for nobody else."""
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import Node, Suite, python, wait_for  # noqa: E402
from run import problem  # noqa: E402

TENANT = "tenant: {}\nquota: {{concurrency: 8, queue: 20, memory: 1GiB, cpu: 2.0, processes: 512}}\n"
# Each says that it was there; `outer` also replaces events and answers, and refuses.
PYTHON_HOOKS = """
import helper
def before(event, context):
    print("{name} before", context.function)
    if event == "refuse-{name}": raise PermissionError("not today")
    if event == "break-{name}": return 1 / 0
    if isinstance(event, list): return event + ["{name}"]
def after(event, context, answer, error):
    print("{name} after", type(error).__name__)
    if error and "secret" in str(error): error.args = ("scrubbed",)
    if answer == "spoil-{name}": raise ValueError("spoiled")
    if isinstance(answer, list): return answer + ["{name}" + helper.MARK]
"""
NODE_HOOKS = """
exports.before = async (event, context) => {
  if (event === 'refuse') throw new RangeError('not today');
  if (Array.isArray(event)) return [...event, '{name}'];
};
exports.after = (event, context, answer, error) => {
  if (error && error.message.includes('secret')) error.message = 'scrubbed';
  if (answer === 'spoil') throw new RangeError('spoiled');
  if (Array.isArray(answer)) return [...answer, '{name}' + require('./helper').MARK];
};
"""
HANDLER = """
import os
def handler(event, context):
    if event == "fail": raise KeyError("a secret")
    if event == "layers": return {"names": sorted(os.listdir("/layers"))}
    if event == "later": context.retry_later(1)
    return event
"""
# What a worker tries at its layer, each with the error that it got.
VANDAL = """
import errno, os
def tried(step):
    try:
        step()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def handler(event, context):
    hooks, folder = "/layers/outer/hooks.py", "/layers/outer"
    return {
        "write": tried(lambda: open(hooks, "a")), "create": tried(lambda: open(folder + "/new", "w")), "remove": tried(lambda: os.unlink(hooks)),
        "rename": tried(lambda: os.rename(hooks, folder + "/x")), "chmod": tried(lambda: os.chmod(hooks, 0o777)), "own": tried(lambda: os.chown(hooks, 1000, 1000)),
        "folder": tried(lambda: os.mkdir("/layers/mine")), "link": tried(lambda: os.link(hooks, "/tmp/hooks")),
        "planted": tried(lambda: open(folder + "/passwd")), "above": sorted(os.listdir("/layers/outer/..")), "root": os.path.exists("/layers/outer/../../etc/bulkhead")}
"""


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def layer(node, name, mark):
    """A layer as an operator puts it in its place: made beside it, then renamed."""
    folder = os.path.join(node.config, "layers", name)
    write(folder + ".new/hooks.py", PYTHON_HOOKS.replace("{name}", name))
    write(folder + ".new/helper.py", f"MARK = {mark!r}\n")
    write(folder + ".new/hooks.js", NODE_HOOKS.replace("{name}", name))
    write(folder + ".new/helper.js", f"exports.MARK = {mark!r};\n")
    os.symlink("/etc/shadow", folder + ".new/passwd")
    if os.path.exists(folder):
        shutil.rmtree(folder)
    os.rename(folder + ".new", folder)


def main():
    suite = Suite("layers")
    node = Node({f"tenants.d/{name}.yaml": TENANT.format(name) + rules for name, rules in [
        ("acme", "layers: {force: [outer], allow: [inner, plain, loose, foreign]}\n"), ("globex", "")]})
    layers = os.path.join(node.config, "layers")
    for name in ("outer", "inner"):
        layer(node, name, "!")
    for name in ("plain", "loose", "foreign"):
        write(f"{layers}/{name}/data.txt", "of the operator")
    os.symlink("/etc", layers + "/evil")
    os.chmod(layers + "/loose", 0o777)
    os.chown(layers + "/foreign", 12345, 12345)
    node.start()
    try:
        hooks(suite, node)
        grants(suite, node)
        attacks(suite, node)
        changes(suite, node)
    finally:
        suite.check("the node stops and leaves nothing", lambda: stops(node))
        node.remove()
    return suite.close()


def stops(node):
    node.stop()
    wait_for(lambda: not node.leftovers(), 5, f"an empty host, left are {node.leftovers()}")


def lines(node, function):
    run = node.cli("logs", function, "--since", "5m", "--json")
    assert run.returncode == 0, run.stderr
    return [json.loads(line)["text"] for line in run.stdout.splitlines()]


def answer(node, function, event, tenant="acme"):
    status, _, body = node.invoke(function, json.dumps(event).encode(), tenant=tenant)
    assert status == 200, body
    return json.loads(body)


def fails(node, function, event, kind, *words, code="functionError"):
    value = problem(node.invoke(function, json.dumps(event).encode()), 500, code)
    text = value["errorMessage"]
    assert value["errorType"] == kind and all(word in text for word in words), value
    return value


def hooks(suite, node):
    def around():
        node.deployed(python("both", "layers: [inner]\n"), {"main.py": HANDLER})
        # The first layer is the first to see the event, and the last to see the answer.
        assert answer(node, "both", []) == ["outer", "inner", "inner!", "outer!"]
        words = ["outer before acme/both", "inner before acme/both", "inner after NoneType", "outer after NoneType"]
        wait_for(lambda: [line for line in lines(node, "acme/both") if line in words] == words, 10, f"these lines in this order: {words}")
        assert answer(node, "both", "layers") == {"names": ["inner", "outer"]}
    suite.check("python3: hooks of two layers run around an invocation, in their order, and their lines are in its log", around)

    def errors():
        fails(node, "both", "refuse-inner", "LayerError", "layer inner, before: PermissionError: not today")
        fails(node, "both", "break-outer", "LayerError", "layer outer, before: ZeroDivisionError")
        fails(node, "both", "spoil-inner", "LayerError", "layer inner, after: ValueError: spoiled")
        value = fails(node, "both", "fail", "KeyError", "scrubbed")
        assert "main.py" in value["errorStack"] and "secret" not in json.dumps(value["errorMessage"]), value
        # The layer around one that refuses still sees the end.
        wait_for(lambda: {"outer after LayerError", "outer after KeyError"} <= set(lines(node, "acme/both")), 10, "what the outer layer saw")
        assert answer(node, "both", []) == ["outer", "inner", "inner!", "outer!"]
    suite.check("python3: a hook that fails or refuses is a function error that names its layer, and the worker goes on", errors)

    def nodejs():
        node.deployed("function: jboth\nruntime: nodejs\nhandler: index.handler\nmemory: 128MiB\nlayers: [inner]\n",
                      {"index.js": "exports.handler = (e) => { if (e === 'fail') throw new TypeError('a secret'); return e; };"})
        assert answer(node, "jboth", []) == ["outer", "inner", "inner!", "outer!"]
        fails(node, "jboth", "refuse", "LayerError", "layer outer, before: RangeError: not today")
        fails(node, "jboth", "spoil", "LayerError", "layer inner, after: RangeError: spoiled")
        fails(node, "jboth", "fail", "TypeError", "scrubbed")
        assert answer(node, "jboth", []) == ["outer", "inner", "inner!", "outer!"]
    suite.check("nodejs: the same", nodejs)

    def mounts():
        node.deployed("function: shell\nruntime: command\nhandler: run.sh\nlayers: [plain]\n", {"run.sh": "#!/bin/sh\ncat; cat /layers/plain/data.txt; ls /layers\n"})
        assert node.invoke("shell", b"text:")[2] == b"text:of the operatorouter\nplain\n"
    suite.check("command: the folders are there, and no hook is run", mounts)

    def starts():
        kinds = set()
        for number in range(6):
            node.deployed(python(f"start{number}"), {"main.py": HANDLER})
            status, headers, body = node.invoke(f"start{number}", b"[]")
            assert status == 200 and json.loads(body) == ["outer", "outer!"], body
            kinds.add(headers["Bulkhead-Start"])
        assert "prewarmed" in kinds, kinds
    suite.check("a worker that was prewarmed has its layers, too", starts)

    def posture():
        rows = node.json("ps")
        assert rows
        for row in rows:
            report = node.json("inspect", row["worker"])
            assert report["score"] == 0 and not report["holes"], report["holes"]
            seen = next(check for check in report["checks"] if check["name"] == "main: layers")
            assert row["function"] != "both" or "/layers/inner, /layers/outer" == seen["actual"], seen
    suite.check("inspect compares what a worker has with what it was granted", posture)


def grants(suite, node):
    def refused():
        run = node.deploy(python("thief", "layers: [inner]\n"), {"main.py": HANDLER}, tenant="globex")
        assert run.returncode != 0 and b"may not use the layer inner" in run.stderr, run.stderr
        run = node.deploy(python("thief", "layers: [evil]\n"), {"main.py": HANDLER})
        assert run.returncode != 0 and b"may not use the layer evil" in run.stderr, run.stderr
        for name in ("../inner", "/etc", "inner/..", "Inner"):
            assert node.deploy(python("thief", f"layers: ['{name}']\n"), {"main.py": HANDLER}).returncode != 0
        node.deployed(python("other"), {"main.py": HANDLER}, tenant="globex")
        assert answer(node, "other", [], "globex") == [] and answer(node, "other", "layers", "globex") == {"names": []}
    suite.check("another tenant's function, and one that names no layer of its tenant's, is refused, and has no folder", refused)

    def unknown():
        path = os.path.join(node.config, "tenants.d/globex.yaml")
        for name, word in (("absent", "no folder layers/absent"), ("evil", "no folder layers/evil"), ("../inner", "layers' names")):
            write(path, TENANT.format("globex") + f"layers: {{force: ['{name}']}}\n")
            run = node.cli("reload")
            assert run.returncode != 0 and word in run.stderr.decode(), run.stderr
        write(path, TENANT.format("globex"))
    suite.check("a tenant's file that names no folder, or a link, is refused", unknown)


def attacks(suite, node):
    def vandal():
        node.deployed(python("vandal"), {"main.py": VANDAL})
        found = answer(node, "vandal", {})
        assert found.pop("above") == ["outer"] and found.pop("root") is False, found
        assert found.pop("link") in ("EXDEV", "EACCES", "ENOSYS", "EPERM") and found.pop("planted") in ("ENOENT", "EACCES"), found
        assert set(found.values()) <= {"EROFS", "EACCES", "EPERM", "ENOSYS"}, found
        assert sorted(os.listdir(os.path.join(node.config, "layers/outer"))) == ["helper.js", "helper.py", "hooks.js", "hooks.py", "passwd"]
    suite.check("a worker cannot change its layer, and a link in it leads nowhere outside the worker", vandal)

    def doctor():
        run = node.cli("doctor", "--json")
        assert run.returncode == 0, run.stderr
        checks = {check["name"]: check for check in json.loads(run.stdout) if check["name"].startswith("layer")}
        assert {name: check["state"] for name, check in checks.items()} == {
            "layer outer": "ok", "layer inner": "ok", "layer plain": "ok", "layer loose": "missing", "layer foreign": "missing"}, checks
        assert "chown root" in checks["layer foreign"]["remedy"] and "acme" in checks["layer loose"]["neededFor"], checks
    suite.check("doctor says which layers there are, and which of them are not mounted", doctor)

    def strangers():
        for name in ("loose", "foreign"):
            node.deployed(python("of" + name, f"layers: [{name}]\n"), {"main.py": HANDLER})
            status, _, body = node.invoke("of" + name, b"[]")
            assert status >= 500 and b"must be root's, writable by root alone) " + name.encode() in body, (status, body)
        # It may be put in order, and everything else goes on.
        os.chmod(os.path.join(node.config, "layers/loose"), 0o755)
        node.deployed(python("ofloose2", "layers: [loose]\n"), {"main.py": HANDLER})
        assert answer(node, "ofloose2", []) == ["outer", "outer!"]
    suite.check("a layer that is not root's, or that others may write, is not mounted, and the refusal says which, and what is wanted", strangers)


def changes(suite, node):
    def rules(text):
        write(os.path.join(node.config, "tenants.d/acme.yaml"), TENANT.format("acme") + text)
        run = node.cli("reload")
        assert run.returncode == 0, run.stderr
        return run.stdout.decode()

    def granted():
        assert answer(node, "both", []) == ["outer", "inner", "inner!", "outer!"]
        assert "layers.allow" in rules("layers: {force: [outer]}\n")
        fails(node, "both", [], "LayerError", "the layer inner", code="initError")
        assert answer(node, "start0", []) == ["outer", "outer!"]
        rules("layers: {force: [inner, outer]}\n")
        assert answer(node, "start0", []) == ["inner", "outer", "outer!", "inner!"]
        assert answer(node, "both", []) == ["inner", "outer", "outer!", "inner!"]
        rules("")
        assert answer(node, "start0", []) == []
        fails(node, "both", [], "LayerError", "the layer inner", code="initError")
    suite.check("a reload gives and takes layers: workers with others end, and a function without one that it names does not start", granted)

    def renewed():
        layer(node, "third", "?")
        rules("layers: {force: [third]}\n")
        assert answer(node, "start0", []) == ["third", "third?"]
        layer(node, "third", "#")
        node.deployed(python("start0"), {"main.py": HANDLER})
        assert answer(node, "start0", []) == ["third", "third#"]
    def lasting():
        rules("layers: {force: [outer]}\n")
        assert answer(node, "start0", []) == ["outer", "outer!"]

        def workers():
            return {row["worker"] for row in node.json("ps") if row["function"] == "start0" and row["state"] != "draining"}
        before = workers()
        for words in ((), ("--spawner",)):
            # Two within half a second are one too many.
            wait_for(lambda words=words: node.cli("restart", *words).returncode == 0, 20, "a restart")
            wait_for(lambda: node.request("GET", "/readyz")[0] == 200, 20, "a daemon that serves")
            assert answer(node, "start0", []) == ["outer", "outer!"] and before & workers(), (before, workers())
            for worker in before & workers():
                report = node.json("inspect", worker)
                assert not report["holes"] and any(c["name"] == "main: layers" and c["actual"] == "/layers/outer" for c in report["checks"]), report
    suite.check("a worker with layers lives on when the daemon and the spawner's program are replaced, and its posture is known", lasting)
    suite.check("a new layer, and a new folder in the place of one, are there without a restart", renewed)


if __name__ == "__main__":
    sys.exit(main())
