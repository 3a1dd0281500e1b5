# SPDX-License-Identifier: Apache-2.0
"""End users that are told apart by a claim of a JSON Web Token: forged, old and foreign ones count as nobody."""
import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import tempfile
import time

from load import SPAN, Caller, Flood, daemon, overlap, refusal
from node import Node, python

KEY, OTHER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
QUOTA = "quota: {concurrency: 64, queue: 1000, memory: 1GiB, cpu: 2.0, processes: 1000}\n"
RULES = "tokens: {issuer: 'https://id.example', audience: shop, algorithm: HS256, key: 'file:secrets/claims'}\n"
CLAIMS = f"tenant: claims\n{QUOTA}users: {{key: 'claim:sub', default: {{concurrency: 2}}}}\n{RULES}"
CONFIG = {
    "tenants.d/claims.yaml": CLAIMS,
    "tenants.d/open.yaml": f"tenant: open\n{QUOTA}{RULES.replace('issuer', 'header: X-User-Token, issuer')}",
    "tenants.d/rsa.yaml": CLAIMS.replace("tenant: claims", "tenant: rsa").replace("HS256, key: 'file:secrets/claims'", "RS256, key: 'file:secrets/rsa.pem'"),
    "tenants.d/plain.yaml": f"tenant: plain\n{QUOTA}",
    "secrets/claims": KEY + "\n",
}
RSA = tempfile.mkdtemp(prefix="bulkhead-rsa-")


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def rsa_key(name):
    """The path of a new private key; its public half is beside it."""
    path = os.path.join(RSA, name)
    openssl("genrsa", "-out", path, "2048")
    openssl("rsa", "-in", path, "-pubout", "-out", path + ".pub")
    return path


MANY = "concurrency: 32\n"
OPEN = "triggers: [{http: /span, auth: none, name: open}]\nusers: {concurrency: 1, key: 'claim:https://id.example/team'}\n"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(key=KEY, header=None, **claims):
    """A token that is good for two minutes; a claim of None is left out."""
    all_claims = {"iss": "https://id.example", "aud": "shop", "exp": int(time.time()) + 120, **claims}
    parts = [header or {"alg": "HS256", "typ": "JWT"}, {name: value for name, value in all_claims.items() if value is not None}]
    signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return signed + "." + encoded(hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest())


def web_key(key, kid):
    """The public half as a JSON Web Key."""
    modulus = openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
    return {"kty": "RSA", "kid": kid, "use": "sig", "n": encoded(bytes.fromhex(modulus)), "e": "AQAB"}


def rsa_token(key, alg="RS256", **claims):
    all_claims = {"iss": "https://id.example", "aud": "shop", "exp": int(time.time()) + 120, **claims}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": alg, "kid": "1"}, all_claims))
    return signed + "." + encoded(openssl("dgst", "-sha256", "-sign", key, data=signed.encode()))


def shown(text):
    return {"Bulkhead-User-Token": text}


def run(suite):
    key = rsa_key("issuer")
    with open(key + ".pub") as file:
        node = Node({**CONFIG, "secrets/rsa.pem": file.read()}).start()
    try:
        node.deployed(python("span", MANY), {"main.py": SPAN}, "claims")
        node.deployed(python("span", MANY + OPEN), {"main.py": SPAN}, "open")
        node.deployed(python("span", MANY), {"main.py": SPAN}, "rsa")
        served(suite, node)
        refused(suite, node)
        changed(suite, node)
        published(suite, node, key)
    finally:
        node.remove()
        shutil.rmtree(RSA)


def published(suite, node, key):
    def as_set():
        # The set as an issuer publishes it, in the place of the key in PEM form.
        path, next_key = os.path.join(node.config, "secrets/rsa.pem"), rsa_key("next")
        with open(path) as file:
            before = file.read()

        def publish(*keys):
            with open(path, "w") as file:
                json.dump({"keys": [*keys, {"kty": "EC", "crv": "P-521", "kid": "other"}]}, file)
            assert node.cli("reload").returncode == 0

        def status(signer):
            return Caller(node).call("span", {"sleep": 0}, "rsa", shown(rsa_token(signer, sub="ann", nonce=os.urandom(4).hex()))).status
        publish(web_key(next_key, "2"), web_key(key, "1"))
        # All of these tokens say that they are signed with the key "1".
        assert (status(key), status(next_key)) == (200, 401)
        publish(web_key(next_key, "1"))
        assert (status(key), status(next_key)) == (401, 200)
        with open(path, "w") as file:
            file.write(before)
        assert node.cli("reload").returncode == 0 and status(key) == 200
    suite.check("an issuer's set of keys verifies, each the tokens that name it", as_set)

    def each():
        call = lambda text: Caller(node).call("span", {"sleep": 0}, "rsa", shown(text))
        assert call(rsa_token(key, sub="ann")).status == 200
        with open(key + ".pub") as file:
            public = file.read()
        foreign = rsa_key("foreign")
        head, body, _ = rsa_token(key, sub="ann").split(".")
        for name, text in {
            "another key": rsa_token(foreign, sub="ann"), "the public key as a secret": token(public, sub="ann"),
            "the same under RS256": token(public, {"alg": "RS256"}, sub="ann"), "no signature": f"{head}.{body}.",
            "alg none": encoded(b'{"alg":"none"}') + f".{body}.", "the padding of another": rsa_token(key, "PS256", sub="ann"),
            "another name": rsa_token(key, "RS512", sub="ann"),
        }.items():
            value = refusal(call(text), 401, "badToken")
            assert "not signed" in value["detail"], (name, value)
        value = refusal(call(rsa_token(key, sub="ann", exp=int(time.time()) - 60)), 401, "badToken")
        assert "has expired" in value["detail"], value
    suite.check("RS256: a token of the issuer's key is served, and none that confuses algorithms or keys", each)

    def small():
        openssl("genrsa", "-out", key + ".small", "1024")
        openssl("rsa", "-in", key + ".small", "-pubout", "-out", os.path.join(node.config, "secrets/rsa.pem"))
        refused_ = node.cli("reload")
        text = refused_.stderr.decode()
        assert refused_.returncode != 0 and "tenants.d/rsa.yaml:4:" in text and "this has 1024" in text, text
    suite.check("RS256: a key of 1024 bits is refused with its place", small)


def served(suite, node):
    def seats():
        ann = Flood(node, 8, "span", {"sleep": 0.05}, "claims", shown(token(sub="ann")), seconds=2)
        node.until("claims", 2)
        ben = Flood(node, 2, "span", {"sleep": 0.05}, "claims", shown(token(sub="ben")), seconds=1)
        for name, flood in (("ann", ann), ("ben", ben)):
            assert not flood.join().refused() and overlap(flood.spans()) == 2, f"{name}: {overlap(flood.spans())} at a time, {flood.refused()[:1]}"
        # Another token of the same user, and one who is a number.
        floods = [Flood(node, 4, "span", {"sleep": 0.03}, "claims", shown(token(sub=7, jti=str(i))), seconds=1) for i in range(2)]
        spans = [span for flood in floods for span in flood.join().spans()]
        assert overlap(spans) == 2, overlap(spans)
    suite.check("a user that a token names has its seats, and no more, whatever another one does", seats)

    def route():
        def call(headers):
            return node.request("POST", "/t/open/span", b'{"sleep": 0}', headers)[0]
        team = {"X-User-Token": token(**{"https://id.example/team": "red"})}
        assert call(team) == 200 and call({}) == 401 and call({"Authorization": "Bearer " + team["X-User-Token"]}) == 401
        assert call(shown(team["X-User-Token"])) == 401, "the header is the one that the file names"
    suite.check("an open route takes the token as well, by the function's own rule", route)

    def keyed():
        made = node.json("keys", "create", "--tenant", "open", "--scope", "invoke")
        key = {"Authorization": "Bearer " + made["key"]}
        team = {"X-User-Token": token(**{"https://id.example/team": "blue"})}
        statuses = [node.invoke("span", b'{"sleep": 0}', "open", headers)[0] for headers in ({**key, **team}, key, team)]
        assert statuses == [200, 401, 401], statuses
    suite.check("a token stands beside the API key and opens nothing by itself", keyed)


def refused(suite, node):
    now = int(time.time())
    good = token(sub="ann")
    head, body, signature = good.split(".")
    cases = {
        "none": ({}, 401, "there is none"),
        "an empty one": (shown(""), 401, "there is none"),
        "no token": (shown("ann"), 401, "no JSON Web Token"),
        "another key": (shown(token(OTHER, sub="ann")), 401, "not signed"),
        "a changed claim": (shown(".".join([head, encoded(json.dumps({"sub": "ben", "exp": now + 60}).encode()), signature])), 401, "not signed"),
        "no signature": (shown(f"{head}.{body}."), 401, "not signed"),
        "alg none": (shown(encoded(b'{"alg":"none"}') + f".{body}."), 401, "not signed"),
        "another algorithm": (shown(token(header={"alg": "HS512"}, sub="ann")), 401, "not signed"),
        "an extension": (shown(token(header={"alg": "HS256", "crit": ["x"], "x": 1}, sub="ann")), 401, "no JSON Web Token"),
        "expired": (shown(token(sub="ann", exp=now - 31)), 401, "has expired"),
        "for ever": (shown(token(sub="ann", exp=None)), 401, "no `exp`"),
        "early": (shown(token(sub="ann", nbf=now + 3600)), 401, "not valid yet"),
        "another issuer": (shown(token(sub="ann", iss="https://id.evil")), 401, "another issuer"),
        "another audience": (shown(token(sub="ann", aud=["bank"])), 401, "another audience"),
        "no claim": (shown(token()), 403, "no claim `sub`"),
        "a claim that is a list": (shown(token(sub=["ann"])), 403, "no claim `sub`"),
        "a claim that is a fraction": (shown(token(sub=1.5)), 403, "no claim `sub`"),
        "an empty claim": (shown(token(sub="")), 403, "no claim `sub`"),
        "a line break in a claim": (shown(token(sub="ann\nben")), 403, "no claim `sub`"),
        "too long": (shown(token(sub="ann", x="x" * 6200)), 401, "longer than 8192 bytes"),
    }

    def each():
        def active():
            return node.json("quota", "show", "claims")["users"]["active"]
        before = daemon(node)
        assert node.invoke("span", b'{"sleep": 0}', "claims", shown(good))[0] == 200
        known = active()
        for name, (headers, status, words) in cases.items():
            value = refusal(Caller(node).call("span", tenant="claims", headers=headers), status, "badToken")
            assert words in value["detail"] and KEY not in value["detail"], (name, value)
            # As an event, and past the short way of plain calls.
            answer = node.invoke("span", b"{}", "claims", {**headers, "Bulkhead-Invocation-Type": "async"})
            assert answer[0] == status and json.loads(answer[2])["code"] == "badToken", (name, answer)
        assert active() <= known, f"{active()} users are remembered, and {known} were before"
        value = refusal(Caller(node).call("span", tenant="claims", headers=shown(token(sub="u" * 257))), 400, "badRequest")
        assert "claim:sub" in value["detail"] and "256" in value["detail"], value
        assert Caller(node).call("span", {"sleep": 0}, "claims", shown(token(sub="u" * 256))).status == 200
        assert daemon(node) == before
    suite.check("a token that is missing, forged, old or somebody else's is refused, and counts as no user", each)

    def at_cap():
        ann = Flood(node, 4, "span", {"sleep": 0.1}, "claims", shown(token(sub="ann")), seconds=2)
        node.until("claims", 2, 1)
        # Who is kept waiting as one user does not go on as another by spoiling the token.
        for headers in ({}, shown(token(OTHER, sub="ben")), shown(token(sub="ann", exp=now - 60))):
            refusal(Caller(node).call("span", {"sleep": 0}, "claims", headers), 401, "badToken")
        assert Caller(node).call("span", {"sleep": 0}, "claims", shown(token(sub="ben"))).status == 200
        assert overlap(ann.join().spans()) == 2
    suite.check("a user at its cap gains nothing by a bad token, and the other is served", at_cap)


def changed(suite, node):
    def status(key):
        return node.invoke("span", b'{"sleep": 0}', "claims", shown(token(key, sub="ann")))[0]

    def write(name, text):
        with open(os.path.join(node.config, name), "w") as file:
            file.write(text)

    def rotated():
        write("secrets/other", OTHER)
        write("tenants.d/claims.yaml", CONFIG["tenants.d/claims.yaml"].replace("'file:secrets/claims'", "['file:secrets/claims', 'file:secrets/other']"))
        assert {"tenant": "claims", "key": "tokens.key", "before": "set", "after": "changed"} in node.json("reload")["changes"]
        assert [status(KEY), status(OTHER)] == [200, 200]
        write("tenants.d/claims.yaml", CONFIG["tenants.d/claims.yaml"])
        write("secrets/claims", OTHER)
        changes = node.json("reload")
        assert KEY not in json.dumps(changes) and OTHER not in json.dumps(changes), changes
        assert [status(KEY), status(OTHER)] == [401, 200]
    suite.check("a key is changed by a reload, with both for a while", rotated)

    def bad():
        write("tenants.d/plain.yaml", CONFIG["tenants.d/plain.yaml"].replace("64", "63"))
        for rules, place in (
            ("tokens: {algorithm: none, key: 'file:secrets/claims'}", "tenants.d/claims.yaml:4:21"),
            ("tokens: {algorithm: ES256, key: 'file:secrets/claims'}", "tenants.d/claims.yaml:4:33"),
            ("tokens: {algorithm: HS256, key: 'file:secrets/claims', header: authorization}", "tenants.d/claims.yaml:4:64"),
            ("", "tenants.d/claims.yaml:3:8"),
        ):
            write("tenants.d/claims.yaml", CONFIG["tenants.d/claims.yaml"].replace(RULES, rules + "\n"))
            refusal_ = node.cli("reload")
            assert refusal_.returncode != 0 and place in refusal_.stderr.decode(), refusal_.stderr.decode()
        assert node.json("quota", "show", "plain")["concurrency"]["limit"] == 64 and status(OTHER) == 200
        write("tenants.d/claims.yaml", CONFIG["tenants.d/claims.yaml"])
        assert node.cli("reload").returncode == 0
    suite.check("a rule that makes no sense is refused with its place, and nothing changes", bad)

    def missing():
        refused_ = node.deploy(python("claimed", "users: {concurrency: 1, key: 'claim:sub'}\n"), {"main.py": SPAN}, "plain")
        assert refused_.returncode != 0 and "takes no tokens" in refused_.stderr.decode(), refused_.stderr.decode()
        write("tenants.d/open.yaml", CONFIG["tenants.d/open.yaml"].replace("tokens:", "# tokens:"))
        assert node.cli("reload").returncode == 0
        team = {"X-User-Token": token(OTHER, **{"https://id.example/team": "red"})}
        answer = node.request("POST", "/t/open/span", b'{"sleep": 0}', team)
        assert answer[0] == 503 and json.loads(answer[2])["code"] == "unavailable", answer
    suite.check("a claim that nothing verifies is refused at the deploy, and later at the call", missing)
