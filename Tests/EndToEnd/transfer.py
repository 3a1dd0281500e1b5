#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A tenant from one node to another: whole, under another name, damaged, where there is no room; and backups with the objects of buckets."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from node import Node, Suite, python, small_disk  # noqa: E402

ECHO = "def handler(event, context):\n    return {'VERSION': event}\n"
SECRET = "import os\ndef handler(event, context):\n    return os.environ.get('TOKEN', '')\n"
ACME = """tenant: acme
quota: {concurrency: 4, queue: 50, memory: 1GiB, cpu: 2.0, processes: 512}
secrets:
  TOKEN: file:secrets/token
buckets: [in]
"""
OTHER = {"tenants.d/globex.yaml": "tenant: globex\nquota: {concurrency: 4, memory: 1GiB, processes: 512}\n"}


def source():
    node = Node({"tenants.d/acme.yaml": ACME})
    os.mkdir(os.path.join(node.config, "secrets"), 0o700)
    with open(os.path.join(node.config, "secrets", "token"), "w") as file:
        file.write("sesame\n")
    return node.start()


def main():
    suite = Suite("transfer")
    one, two = source(), Node(OTHER).start()
    for number in (1, 2):
        assert one.deployed(python("echo"), {"main.py": ECHO.replace("VERSION", f"v{number}"), "data/empty.txt": ""}) == f"acme/echo@{number}"
    one.deployed(python("secret", "secrets: [TOKEN]\n"), {"main.py": SECRET})
    assert one.cli("alias", "set", "acme/echo", "prod", "1").returncode == 0
    key = one.json("keys", "create", "--tenant", "acme", "--scope", "admin")
    auth = {"Authorization": f"Bearer {key['key']}"}
    for name, data in {"a.txt": b"first", "deep/b c.bin": os.urandom(300_000)}.items():
        path = f"/v1/tenants/acme/buckets/in/objects/{name.replace(' ', '%20')}"
        assert one.request("PUT", path, data, auth)[0] in (200, 201)
    plain, full = os.path.join(one.base, "plain.tar"), os.path.join(one.base, "full.tar")

    def exported():
        run = one.cli("export", "acme", "-o", plain)
        assert run.returncode == 0, run.stderr.decode()
        assert b"TOKEN" in run.stderr and b"sesame" not in open(plain, "rb").read()
        run = one.cli("export", "acme", "-o", full, "--with-buckets", "--with-secrets")
        assert run.returncode == 0, run.stderr.decode()
        assert b"sesame" in open(full, "rb").read()
        for file in (plain, full):
            assert os.stat(file).st_mode & 0o777 == 0o600
        assert os.listdir(os.path.join(one.state, "data", "snapshots")) == []
        run = one.cli("export", "acme", "-o", full)
        assert run.returncode != 0 and b"exists already" in run.stderr
        run = one.cli("export", "nobody", "-o", full + "2")
        assert run.returncode == 2 and not os.path.exists(full + "2"), run.stderr

    def state(node):
        """All that an import could leave."""
        def files(top):
            return sorted(os.path.join(place, name) for place, _, names in os.walk(os.path.join(node.state, top)) for name in names)
        listed = {name: node.json(*name.split()) for name in ("functions",)}
        tenants = [tenant["tenant"] for tenant in node.json("tenants")]
        config = sorted(name for _, _, names in os.walk(node.config) for name in names)
        return listed, tenants, files("data/code"), files("data/imports"), files("data/buckets"), config, sorted(os.listdir(node.state))

    def refused():
        before = state(two)
        secret = os.path.join(two.base, "secret")
        open(secret, "w").write("other\n")

        def run(code, word, *words):
            made = two.cli("import", *words)
            assert made.returncode == code and word in made.stderr, (words, made.returncode, made.stderr.decode())
            after = state(two)
            assert after == before, (word, before, after)
        run(2, b"TOKEN", plain)
        run(2, b"does not leave out", full, "--secret", f"TOKEN=@{secret}")
        run(2, b"already", full, "--as", "globex")
        run(2, b"No such file", plain + "x")
        data = open(full, "rb").read()
        bad = os.path.join(one.base, "bad.tar")
        for name, change in {
            "cut": data[:len(data) // 2], "changed": data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:],
            "empty": b"", "text": b"no archive at all" * 100,
        }.items():
            open(bad, "wb").write(change)
            run(1, b"Nothing was imported", bad)
        # A quota file that the node refuses: everything else is taken back.
        repacked(full, bad, {"quota.yaml": b"tenant: acme\nquota: {concurrency: none}\n"})
        run(2, b"Nothing was imported", bad)
        # Code that is not what its hash says.
        repacked(full, bad, {next(name for name in names(full) if name.endswith(".tar")): tarred()})
        run(2, b"hash", bad)
        tenant = json.loads(member(full, "tenant.json"))
        tenant["versions"][0]["manifest"] = tenant["versions"][0]["manifest"].replace("python3", "cobol")
        repacked(full, bad, {"tenant.json": json.dumps(tenant).encode()})
        run(2, b"`runtime` must be one of", bad)
        with small_disk("256k") as disk:
            made = one.cli("export", "acme", "-o", os.path.join(disk, "x.tar"), "--with-buckets")
            assert made.returncode != 0 and b"disk has room" in made.stderr and os.listdir(disk) == [], made.stderr

    def imported():
        run = two.cli("import", full)
        assert run.returncode == 0, run.stderr.decode()
        assert json.loads(two.invoke("echo", b'"hi"', headers=auth)[2]) == {"v2": "hi"}
        old = two.request("POST", "/v1/tenants/acme/functions/echo/invocations?alias=prod", b'"hi"', auth)
        assert json.loads(old[2]) == {"v1": "hi"}
        for node in (one, two):
            got = node.invoke("secret", b"1", headers=auth)
            assert got[2] == b"sesame", got
        for name in ("a.txt", "deep/b%20c.bin"):
            got = [node.request("GET", f"/v1/tenants/acme/buckets/in/objects/{name}", headers=auth) for node in (one, two)]
            assert got[0][0] == got[1][0] == 200 and got[0][2] == got[1][2]
        assert two.invoke("echo", b"1")[0] == 401, "a tenant with keys needs one"
        assert two.deployed(python("echo"), {"main.py": ECHO}) == "acme/echo@3", "a number is never given twice"
        run = two.cli("import", full)
        assert run.returncode == 2 and b"already" in run.stderr
        secret = os.path.join(two.base, "secret")
        run = two.cli("import", plain, "--as", "copy", "--secret", f"TOKEN=@{secret}")
        assert run.returncode == 0 and b"2 keys" not in run.stdout and b"another tenant" in run.stderr, run
        assert two.invoke("echo", b"1", tenant="copy")[0] == 401, "the copy's callers need a key, and the original's is not one"
        assert two.invoke("echo", b"1", tenant="copy", headers=auth)[0] == 404
        mine = two.json("keys", "create", "--tenant", "copy", "--scope", "invoke")
        own = {"Authorization": f"Bearer {mine['key']}"}
        assert two.invoke("secret", b"1", tenant="copy", headers=own)[2] == b"other"
        lines = two.cli("audit", "--grep", "import").stdout
        assert b"import" in lines and b"copy" in lines, lines
        two.stop()
        two.start()
        assert json.loads(two.invoke("echo", b'"hi"', headers=auth)[2]) == {"VERSION": "hi"}, "and after a restart"

    def backed_up():
        file = os.path.join(one.base, "node.tar")
        assert one.cli("backup", "--with-buckets", file).returncode == 0
        other = Node()
        try:
            run = other.cli("restore", file)
            assert run.returncode == 0, run.stderr.decode()
            other.config = os.path.join(other.state, "restored-config")
            other.start()
            got = other.request("GET", "/v1/tenants/acme/buckets/in/objects/a.txt", headers=auth)
            assert got[0] == 200 and got[2] == b"first"
            run = other.cli("import", file)
            assert run.returncode == 2 and b"bulkhead restore" in run.stderr, run.stderr
        finally:
            other.remove()

    suite.check("a tenant is exported, with its secrets only on demand", exported)
    suite.check("what cannot be taken in leaves nothing", refused)
    suite.check("what is taken in works as before, and under another name beside it", imported)
    suite.check("a backup takes objects along", backed_up)
    for node in (one, two):
        node.stop()
    left = one.leftovers() + two.leftovers()
    suite.check("nothing is left", lambda: (_ for _ in ()).throw(AssertionError(left)) if left else None)
    for node in (one, two):
        node.remove()
    return suite.close()


def names(path):
    return subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True).stdout.split("\n")


def member(path, name):
    return subprocess.run(["tar", "-xOf", path, name], check=True, capture_output=True).stdout


def tarred():
    """Other code, as a tar archive."""
    return subprocess.run(["tar", "-c", "--format=pax", "-C", "/etc", "hostname"], check=True, capture_output=True).stdout


def repacked(path, to, changes):
    """The archive with other files and a manifest that fits them."""
    import hashlib
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-xf", path, "-C", folder], check=True)
        manifest = json.load(open(os.path.join(folder, "manifest.json")))
        for name, data in changes.items():
            open(os.path.join(folder, name), "wb").write(data)
            manifest["files"][name].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        json.dump(manifest, open(os.path.join(folder, "manifest.json"), "w"))
        rest = sorted(name for name in os.listdir(folder) if name != "manifest.json")
        subprocess.run(["tar", "-cf", to, "--format=pax", "-C", folder, "manifest.json", *rest], check=True)


if __name__ == "__main__":
    sys.exit(main())
