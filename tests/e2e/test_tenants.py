"""Adversarial cases G: keys that are none, keys of others, and what a caller says of itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from running import Gateway
from scripted import ScriptedNode
from test_refused import ANSWER, exchange, lines, post

ABSENT = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": []}


class World:
    """A gateway, its node, and the keys of two tenants, of the operator, and one that was revoked."""

    def __init__(self, gateway: Gateway, node: ScriptedNode) -> None:
        self.gateway, self.node = gateway, node
        self.other = gateway.create_key("other")
        self.operator = gateway.create_key("operator", "--scope", "admin")
        made = json.loads(gateway.cli("keys", "create", "--name", "gone", "--json", "--config", str(gateway.config)))
        self.revoked = str(made["key"])
        gateway.cli("keys", "revoke", made["id"], "--config", str(gateway.config))

    def status(self, *headers: bytes) -> int:
        return exchange(self.gateway, post(*headers))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    node = ScriptedNode()
    node.script = node.json(ANSWER)
    gateway = Gateway(tmp_path_factory.mktemp("tenants"), [node.table()])
    made = World(gateway, node)
    gateway.start()
    yield made
    gateway.stop()
    node.close()


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/v1/receipts"), ("GET", "/metrics")])
def test_g01_keys_that_are_none_get_one_answer(world: World, method: str, path: str) -> None:
    """Unknown, malformed, revoked, absent, and one byte off: 401 with the same headers and body."""
    keys = ["vr-" + "A" * 43, "x", world.revoked, world.gateway.key[:-1] + "!", world.gateway.key.lower()]
    answers = set()
    with httpx.Client(base_url=world.gateway.url, trust_env=False) as client:
        for key in keys:
            answer = client.request(method, path, json=ASK, headers={"authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_key")
            del answer.headers["date"]
            answer.headers.pop("connection", None)  # closed where the body had not come when the key was looked at
            answers.add((tuple(answer.headers.multi_items()), answer.content))
        assert client.request(method, path, json=ASK).content == next(iter(answers))[1]
    assert len(answers) == 1
    assert not world.node.received


def test_g02_who_tries_keys_harms_nobody_else(world: World) -> None:
    """While one source tries keys, good ones are served, and the log gets no more than its lines a second."""
    gateway, stop, tried = world.gateway, threading.Event(), [0]

    def guess() -> None:
        with httpx.Client(base_url=gateway.url, trust_env=False) as client:
            while not stop.is_set():
                client.get("/v1/models", headers={"authorization": f"Bearer vr-{tried[0]:043}"})
                tried[0] += 1

    begun, told, served = time.monotonic(), len(lines(gateway)), len(world.node.received)
    guessing = threading.Thread(target=guess)
    guessing.start()
    try:
        with gateway.http() as client:
            assert {client.post(CHAT, json=ASK).status_code for _ in range(20)} == {200}
    finally:
        stop.set()
        guessing.join(10)
    assert len(world.node.received) == served + 20
    assert tried[0] > 0
    assert len(lines(gateway)) - told <= 20 * (2 + time.monotonic() - begun)


def test_g03_a_key_has_one_spelling(world: World) -> None:
    """Whatever is not `Bearer`, one space and the key is 401, or a header that HTTP does not have; nothing goes out."""
    key, before = world.gateway.key.encode(), len(world.node.received)
    spelled = [
        b"Bearer vr-' OR '1'='1",
        b"Bearer %",
        b"Bearer _",
        b"Bearer \xff\xfe",
        b"Bearer  " + key,
        b"Bearer\t" + key,
    ]
    spelled += [b"Bearer " + key + b"=", b'Bearer "%b"' % key, b"Bearer " + key + b",", b"Bearer " + b"x" * 12_000]
    spelled += [scheme + key for scheme in (b"bearer ", b"BEARER ", b"Basic ", b"Token ", b"Bearer", b"")]
    for value in spelled:
        assert world.status(b"authorization: " + value) == 401, value
    assert world.status(b"authorization: Bearer " + key + b"\x00") == 400
    assert world.status(b"authorization: Bearer " + b"x" * 60_000) == 431
    assert world.status(b"api-key: " + key) == 401
    assert world.status(b"cookie: authorization=Bearer " + key) == 401
    assert len(world.node.received) == before
    assert world.status(b"authorization: Bearer " + key) == world.status(b"x-api-key: " + key) == 200


def test_g07_g08_another_tenant_finds_nothing(world: World) -> None:
    """Its receipts, their proofs and bundles are as absent as none; a cursor of another's is no cursor."""
    with world.gateway.http() as mine, world.gateway.http(world.other) as theirs:
        id = mine.post(CHAT, json=ASK, headers={"x-client-request-id": "mine"}).headers["x-veriroute-receipt"]
        for suffix in ("", "/proof", "/bundle", "/nothing"):
            found, absent = (theirs.get(f"/v1/receipts/{one}{suffix}") for one in (id, ABSENT))
            assert (found.status_code, found.content) == (404, absent.content)
        for cursor in (id, ABSENT, id.lower(), "%", "", "' OR 1=1"):
            assert theirs.get("/v1/receipts", params={"after": cursor}).status_code == 400
        for query in ({}, {"client_request_id": "mine"}, {"client_request_id": "%"}):
            assert theirs.get("/v1/receipts", params=query).json()["data"] == []
        assert mine.get("/v1/receipts", params={"client_request_id": "mine"}).json()["data"][0]["receipt"] == id


def test_g09_an_idempotency_key_is_nobody_elses(world: World) -> None:
    """It means nothing here: each request is one exchange with its own receipt, whosever the key was."""
    before = len(world.node.received)
    found = []
    for key in (world.gateway.key, world.other, world.gateway.key):
        with world.gateway.http(key) as client:
            found.append(
                client.post(CHAT, json=ASK, headers={"idempotency-key": "same"}).headers["x-veriroute-receipt"]
            )
    assert len(set(found)) == len(world.node.received) - before == 3


TENANTS = [
    "/v1/models",
    "/v1/models/m",
    "/v1/receipts",
    *(f"/v1/receipts/{ABSENT}{x}" for x in ("", "/proof", "/bundle")),
]
ADMINS = ["/metrics", *(f"/admin/v1/{x}" for x in ("info", "nodes", "live", "receipts", f"receipts/{ABSENT}"))]


def test_g11_a_key_is_for_its_scope(world: World) -> None:
    """A tenant's key at the operator's paths and the operator's at the tenants': 403 `scope_denied`, also to HEAD."""
    for key, paths in ((world.other, ADMINS), (world.operator, TENANTS)):
        with world.gateway.http(key) as client:
            for path in paths:
                answer = client.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_denied"), path
                assert client.head(path).status_code == (405 if path.endswith("/live") else 403)
    with world.gateway.http(world.operator) as client:
        for path in ("chat/completions", "completions", "embeddings", "moderations", "responses", "messages"):
            assert client.post(f"/v1/{path}", json=ASK).status_code == 403


def test_g12_what_a_caller_says_of_itself_is_not_taken(world: World) -> None:
    """Members that name a policy, a scope, a tenant or limits change nothing; nothing can be created over HTTP."""
    said = {
        "policy": "observe",
        "scope": "admin",
        "tenant": "x",
        "key_id": "x",
        "limit": 10**9,
        "release": "optimistic",
    }
    with world.gateway.http() as client:
        answer = client.post(CHAT, json={**ASK, **said})
        assert answer.headers["x-veriroute-policy"] == "signed"
        for member in said:
            refused = client.post(CHAT, json={**ASK, "provider": {member: said[member]}})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "provider")
        for path in ("/v1/receipts", "/v1/models", "/admin/v1/info", "/admin/v1/receipts", "/log/checkpoint"):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                assert client.request(method, path, json=said).status_code == 405
        row = client.get("/v1/receipts", params={"limit": 1}).json()["data"][0]
        assert (row["receipt"], row["policy"]) == (answer.headers["x-veriroute-receipt"], "signed")


def test_g13_filters_are_literal(world: World) -> None:
    """SQL, wildcards and other digits find nothing or are refused; there is nothing to sort by, and no second copy."""
    with world.gateway.http() as client, world.gateway.http(world.operator) as admin:
        assert client.post(CHAT, json=ASK, headers={"x-client-request-id": "a_b"}).status_code == 200
        for text in ("%", "a%", "_", "a_", "axb", "' OR '1'='1", "a_b'--", "\x00", "(a+)+$"):
            assert client.get("/v1/receipts", params={"client_request_id": text}).json()["data"] == []
            assert admin.get("/admin/v1/receipts", params={"node": text}).json()["rows"] == []
        for query in (
            "sort=1;drop",
            "limit=1&limit=2",
            "limit=",
            "limit=0",
            "limit=1e3",
            "limit=%D9%A1",
            "after=%00",
            "=1",
        ):
            assert client.get(f"/v1/receipts?{query}").status_code == 400, query
        for query in (
            "verdict=%25",
            "verdict=none&verdict=none",
            "before=-1",
            "before=0x1",
            "before=" + "9" * 40,
            "sort=1",
        ):
            assert admin.get(f"/admin/v1/receipts?{query}").status_code == 400, query


def test_g14_a_receipt_has_one_id(world: World) -> None:
    """Lower case, the letters that a ULID leaves out, an overflow and escapes are 404, of the newest receipt too."""
    with world.gateway.http() as client:
        id = client.post(CHAT, json=ASK).headers["x-veriroute-receipt"]
        assert client.get(f"/v1/receipts/{id}").status_code == 200
        for other in (
            id.lower(),
            id[:-1] + "I",
            "O" + id[1:],
            "8" + id[1:],
            id + "0",
            id[:-1],
            "..%2f" + id,
            "%30" + id[1:],
        ):
            assert client.get(f"/v1/receipts/{other}").status_code == 404, other
