"""docs/api.md and docs/errors.md against a gateway that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_kit as kit
import httpx
import pytest
from running import MODEL, Gateway

from gateway.api.health import sample

API, ERRORS = kit.text("docs/api.md"), kit.text("docs/errors.md")
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}


@pytest.fixture
def client(shared: Gateway) -> Iterator[httpx.Client]:
    with shared.http() as made:
        yield made


@pytest.fixture
def admin(shared: Gateway) -> Iterator[httpx.Client]:
    with shared.http(shared.admin_key) as made:
        yield made


@pytest.fixture
def receipt(client: httpx.Client) -> str:
    return str(client.post("/v1/chat/completions", json=BODY).headers["x-veriroute-receipt"])


def verification_rows() -> dict[str, str]:
    """Member to the `attach` with which it comes, as the table says."""
    table = kit.rows(API, "### `verification`")[1:]
    return {name.strip("`"): row[1] for row in table for name in row[0].split(", ")}


#: Members of the table that an answer has only where there is something to say (the table says when).
SOMETIMES = {"added_params", "proofs", "audit", "reason", "uncovered", "dropped_params", "payment"}


def test_an_answer_has_the_documented_headers_and_members(client: httpx.Client) -> None:
    """Each header of the table is there, and `verification` has exactly what the table gives to `summary`."""
    answer = client.post("/v1/chat/completions", json=BODY)
    named = set(re.findall(r"`(x-veriroute-[a-z]+)`", kit.section(API, "## Answers")))
    assert named == {name for name in answer.headers if name.startswith("x-veriroute-")}
    assert answer.headers["x-receipt-id"] == answer.headers["x-request-id"] == answer.headers["x-veriroute-receipt"]
    shown = answer.json()["verification"]
    assert list(answer.json())[-1] == "verification"
    summary = {name for name, level in verification_rows().items() if level == "summary"}
    assert shown.keys() == summary - SOMETIMES
    assert shown["policy"].keys() == {"name", "digest"}
    assert shown["openings"].keys() == {"request.body", "response.body", "response.content"}


def test_a_full_answer_can_be_kept_and_verified(client: httpx.Client, shared: Gateway, tmp_path: Path) -> None:
    """With `attach = "full"` the members of that row come too, and the saved answer verifies from the file alone."""
    answer = client.post("/v1/chat/completions", json=BODY, headers={"x-veriroute-policy": "regulated"})
    assert answer.headers["x-veriroute-policy"] == "regulated+signed"
    shown = answer.json()["verification"]
    assert shown.keys() == verification_rows().keys() - SOMETIMES
    file = tmp_path / "answer.json"
    file.write_bytes(answer.content)
    command = [sys.executable, "-m", "gateway", "verify", str(file), "--trust", str(shared.trust), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    opened = [line for line in json.loads(done.stdout)["files"][0]["lines"] if line["step"] == "opening"]
    assert {line["about"]: line["outcome"] for line in opened}["response.body"] == "affirming"


@pytest.mark.parametrize(
    ("path", "more", "last"),
    [
        ("/v1/chat/completions", {"messages": BODY["messages"]}, "data: [DONE]"),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 4}, "data: [DONE]"),
        ("/v1/responses", {"input": "Say hello."}, "event: response.completed"),
        ("/v1/messages", {"messages": BODY["messages"], "max_tokens": 20}, "event: message_stop"),
    ],
)
def test_a_stream_brings_its_verification_where_the_table_says(
    client: httpx.Client, path: str, more: dict[str, Any], last: str
) -> None:
    """In a chunk before `[DONE]`, or in the last event, and in no event of a type that is not the API's."""
    answer = client.post(path, json={"model": MODEL, "stream": True, **more})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert events[-1].startswith(last)
    bare = last == "data: [DONE]"
    data = json.loads(events[-2 if bare else -1].split("data: ", 1)[1])
    assert data["verification"]["verdict"] == "affirming"
    if bare:
        assert data["choices"] == []
    else:
        assert list(data)[-1] == "verification"
        assert f"`{data['type']}`" in API
        assert not any("veriroute" in event.partition("data:")[0] for event in events)


def test_receipts_are_listed_as_documented(client: httpx.Client, receipt: str) -> None:
    """Rows have the documented fields; `limit`, `after` and `client_request_id` do what the table says."""
    client.post("/v1/chat/completions", json=BODY, headers={"x-client-request-id": "mine-7"})
    page = client.get("/v1/receipts", params={"limit": 1}).json()
    assert page.keys() == {"object", "data", "has_more", "next"}
    assert set(page["data"][0]) <= kit.ticked(kit.section(API, "## Receipts"))
    assert page["has_more"]
    older = client.get("/v1/receipts", params={"after": page["next"], "limit": 1}).json()["data"]
    assert older[0]["index"] < page["data"][0]["index"]
    (mine,) = client.get("/v1/receipts", params={"client_request_id": "mine-7", "limit": 1}).json()["data"]
    assert mine["client_request_id"] == "mine-7"


def test_a_receipt_a_proof_and_a_bundle_have_their_documented_form(client: httpx.Client, receipt: str) -> None:
    """Media types and members of the three are those of docs/api.md."""
    envelope = client.get(f"/v1/receipts/{receipt}")
    assert envelope.headers["content-type"] in kit.ticked(API)
    assert envelope.json().keys() == {"payload", "payloadType", "signatures"}
    text = client.get(f"/v1/receipts/{receipt}/proof")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text.startswith("c2sp.org/tlog-proof@v1\nindex ")
    proof = client.get(f"/v1/receipts/{receipt}/proof", headers={"accept": "application/json"}).json()
    assert proof.keys() <= kit.ticked(kit.section(API, "## Receipts"))
    bundle = client.get(f"/v1/receipts/{receipt}/bundle")
    assert bundle.headers["content-type"] in kit.ticked(API)
    assert bundle.json().keys() <= kit.ticked(kit.section(API, "## Receipts"))


def test_the_log_is_public_as_documented(shared: Gateway) -> None:
    """Checkpoint, tiles and entry bundles are given to whoever asks."""
    with httpx.Client(base_url=shared.url, trust_env=False) as anyone:
        note = anyone.get("/log/checkpoint")
        assert note.headers["content-type"] == "text/plain; charset=utf-8"
        size = int(note.text.split("\n")[1])
        hashes = anyone.get(f"/log/tile/0/000.p/{size}")
        assert (hashes.status_code, len(hashes.content)) == (200, 32 * size)
        assert b"veriroute/1 start sha256:" in anyone.get(f"/log/tile/entries/000.p/{size}").content
        assert anyone.get("/log/tile/7/000").json()["error"]["code"] == "not_found"
        assert anyone.get("/v1/receipts").json()["error"]["code"] == "invalid_key"


def test_the_admin_api_has_its_documented_members(admin: httpx.Client, receipt: str) -> None:
    """Every member that the admin API gives stands in its section."""
    words = kit.ticked(kit.section(API, "## The admin API")) | kit.ticked(kit.section(API, "## Receipts"))
    assert admin.get("/admin/v1/info").json().keys() <= words
    page = admin.get("/admin/v1/receipts", params={"limit": 1}).json()
    assert page.keys() | page["rows"][0].keys() <= words
    (node,) = admin.get("/admin/v1/nodes").json()["nodes"]
    assert node.keys() | node["session"].keys() <= words
    assert node["state"] == "ok"
    assert admin.get(f"/admin/v1/receipts/{receipt}").json()["receipt"]["payloadType"]
    with admin.stream("GET", "/admin/v1/live") as live:
        assert live.headers["content-type"].startswith("text/event-stream")


def test_metrics_are_those_of_the_table(admin: httpx.Client) -> None:
    """Names, kinds and labels of /metrics are documented, and each sample is a number."""
    answer = admin.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    table = {
        row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in kit.rows(API, "## Metrics")[1:]
    }
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", answer.text, re.MULTILINE))
    assert kinds == {name: kind for name, (kind, _) in table.items()}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(\{.*\})? (\S+)", line).groups()  # type: ignore[union-attr]
            assert set(re.findall(r"(\w+)=", labels or "")) == table[name][1]
            assert float(value) >= 0


def test_a_sample_is_exact() -> None:
    """A large counter is written with all its digits."""
    assert [sample(v) for v in (0, 1_234_567, 2.0**53, 0.25)] == ["0", "1234567", "9007199254740992", "0.25"]


def test_models_have_their_documented_members(client: httpx.Client) -> None:
    """`/v1/models` gives the members of its table."""
    answer = client.get("/v1/models").json()
    words = kit.ticked(kit.section(API, "## `GET /v1/models`"))
    for model in answer["data"]:
        assert model.keys() - {"veriroute"} <= words
        assert {f"veriroute.{name}" for name in model["veriroute"]} <= words


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/v1/receipts", "/log/checkpoint"])
def test_head_is_get_without_the_body(shared: Gateway, path: str) -> None:
    """Status and headers are those of GET, the connection stays in step, and a key is needed where it is for GET."""
    with shared.http(shared.admin_key) as client:
        asked, whole = client.head(path), client.get(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-type"] == whole.headers["content-type"]
        assert abs(int(asked.headers["content-length"]) - len(whole.content)) < 64  # counters move between the two
    with httpx.Client(base_url=shared.url, trust_env=False) as anyone:
        assert anyone.head(path).status_code == anyone.get(path).status_code


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/messages", "POST"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/receipts/01M7XX4WTB6CYD9YA5PTTJV72B", "GET, HEAD, OPTIONS"),
        ("HEAD", "/admin/v1/live", "GET, OPTIONS"),
        ("PROPFIND", "/healthz", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client, method: str, path: str, allow: str) -> None:
    """405 carries Allow (RFC 9110 section 15.5.6), and a date as every answer does."""
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert "date" in answer.headers


def test_a_key_is_asked_for_by_its_scheme(shared: Gateway) -> None:
    """401 names the scheme (RFC 9110 section 15.5.2), which is taken in its documented spelling and with one key alone."""
    with httpx.Client(base_url=shared.url, trust_env=False) as anyone:
        for path in ("/v1/models", "/metrics"):
            assert anyone.get(path).headers["www-authenticate"] == "Bearer"
        refused = anyone.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for scheme, status in (("Bearer", 200), ("bearer", 401), ("BEARER", 401), ("Basic", 401), ("Bearer2", 401)):
            answer = anyone.get("/v1/models", headers={"authorization": f"{scheme} {shared.key}"})
            assert answer.status_code == status


@pytest.mark.parametrize("suffix", ["", "/{id}", "/{id}/proof", "/{id}/bundle", "/{id}/nothing"])
def test_no_cache_keeps_what_one_key_was_told(shared: Gateway, receipt: str, suffix: str) -> None:
    """A key in `x-api-key` is no credential to a cache, so each answer says that it is not to be kept; tiles may be."""
    with httpx.Client(base_url=shared.url, trust_env=False) as client:
        answer = client.get("/v1/receipts" + suffix.format(id=receipt), headers={"x-api-key": shared.key})
        assert answer.headers["cache-control"] == "no-store"
        assert client.get("/v1/models", headers={"x-api-key": shared.key}).headers["cache-control"] == "no-store"
        assert client.get("/log/checkpoint").headers["cache-control"] == "no-cache"
        assert client.get("/log/tile/0/000.p/1").headers["cache-control"].startswith("public")


def test_health_needs_no_key(shared: Gateway) -> None:
    """Both health pages answer anybody, in the documented words."""
    with httpx.Client(base_url=shared.url, trust_env=False) as anyone:
        assert anyone.get("/healthz").json() == {"status": "ok"}
        assert anyone.get("/readyz").json() == {"status": "ready", "nodes": 1, "problems": []}
        assert anyone.get("/metrics").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "options", "expected"),
    [
        ("GET", "/v1/nothing", {}, ("not_found", 404)),
        ("GET", "/v1/chat/completions", {}, ("method_not_allowed", 405)),
        ("POST", "/v1/chat/completions/", {"json": BODY}, ("not_found", 404)),
        ("POST", "/v1/chat/completions", {"content": b"model=x"}, ("bad_request", 415)),
        ("POST", "/v1/chat/completions", {"json": {**BODY, "model": "no-such"}}, ("model_unknown", 404)),
        ("POST", "/v1/chat/completions", {"json": {**BODY, "provider": {"order": []}}}, ("bad_request", 400)),
        ("GET", "/v1/receipts?foo=1", {}, ("bad_request", 400)),
        ("GET", "/v1/receipts", {"headers": {"host": "other.example"}}, ("bad_request", 421)),
        ("GET", "/v1/receipts", {"headers": {"origin": "https://other.example"}}, ("scope_denied", 403)),
        ("GET", "/metrics", {}, ("scope_denied", 403)),
        ("GET", "/v1/receipts/01M7XX4WTB6CYD9YA5PTTJV72B", {}, ("not_found", 404)),
        ("GET", "/v1/receipts?foo=" + "x" * 9000, {}, ("bad_request", 414)),
        ("GET", "/v1/receipts", {"headers": {"x-long": "x" * 20000}}, ("bad_request", 431)),
    ],
)
def test_refusals_are_those_of_the_table(
    client: httpx.Client, method: str, path: str, options: dict[str, Any], expected: tuple[str, int]
) -> None:
    """Code, status and type of a refusal stand in one row of docs/errors.md, and it carries no receipt."""
    answer = client.request(method, path, **options)
    error = answer.json()["error"]
    assert (error["code"], answer.status_code) == expected
    table = [[cell.strip("`") for cell in row[:4]] for row in kit.rows(ERRORS, "## Codes")]
    (row,) = (row for row in table if row[:2] == [error["code"], str(answer.status_code)])
    assert row[2:] == [error["type"], "no"]
    assert "receipt" not in error
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/messages", "/models", "/v2/models"])
def test_a_wrong_base_url_is_told(client: httpx.Client, path: str) -> None:
    """A path that has `/v1` once too few or too often is answered with the one that was meant."""
    said = client.get(path).json()["error"]["message"]
    meant = {"/chat/completions": "/v1/chat/completions", "/v1/v1/messages": "/v1/messages", "/models": "/v1/models"}
    assert said.startswith(f"There is nothing at this path; {meant.get(path, 'docs/api.md lists')} ")


def test_a_refusal_of_an_accepted_request_is_as_documented(client: httpx.Client) -> None:
    """No node is permitted: each with its reason and a receipt; waiting would not change what the policy asks."""
    answer = client.post("/v1/chat/completions", json=BODY, headers={"x-veriroute-policy": "strict"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["reason"]) == (503, "no_eligible_node", "tee_attested")
    assert error["nodes"] == [{"node": "honest", "reason": "tee_attested"}]
    assert error["receipt"] == answer.headers["x-veriroute-receipt"]
    assert answer.headers["x-should-retry"] == "false"
    assert error.keys() <= kit.ticked(ERRORS)
    looser = client.post("/v1/chat/completions", json=BODY, headers={"x-veriroute-policy": "observe"})
    assert looser.json()["error"]["reason"] == "on_failure"


def test_k15_models_that_are_asked_for_are_no_labels(client: httpx.Client, admin: httpx.Client) -> None:
    """However many names callers make up, the samples of the metrics page stay the same."""

    def names() -> set[str]:
        return {line.rpartition(" ")[0] for line in admin.get("/metrics").text.splitlines() if line[0] != "#"}

    assert client.post("/v1/chat/completions", json={**BODY, "model": "first"}).status_code == 404
    before = names()
    for number in range(100):
        body = {**BODY, "model": f'hostile-{number}"}} 1\nforged{{'}
        assert client.post("/v1/chat/completions", json=body).status_code == 404
    assert names() == before
    assert "hostile" not in "".join(before)


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer"}, {"authorization": ""}, {"x-api-key": ""}, {}],
    ids=str,
)
def test_l02_an_empty_key_is_no_key(shared: Gateway, headers: dict[str, str]) -> None:
    """Neither for inference nor for what administrators may see."""
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/metrics")):
        answer = httpx.request(method, shared.url + path, headers=headers, json=BODY, trust_env=False)
        assert answer.status_code == 401
