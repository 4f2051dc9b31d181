"""Servers of OpenAI's API that offer no evidence, behind a real gateway: what agents get, and what is kept from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from running import MODEL, Gateway, Process
from scripted import Received, ScriptedNode

SECRET = "sk-loopback-0123456789"
ASK: list[Any] = [{"role": "user", "content": "What is a receipt?"}]
DATED = "m-2024-08-06"
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def unsigned(name: str, url: str, models: list[str]) -> dict[str, Any]:
    return {"id": name, "network": "openai", "base_url": url, "models": models}


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedNode]:
    """A server that sends what a test wants."""
    node = ScriptedNode()
    yield node
    node.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, node: Process, scripted: ScriptedNode) -> Iterator[Gateway]:
    """A gateway under `observe` before the reference node's plain API, and before a server with a key and an alias."""
    folder = tmp_path_factory.mktemp("openai")
    gateway = Gateway(
        folder,
        [unsigned("plain", node.url, [MODEL]), unsigned("keyed", scripted.url, ["m"])],
        policy={"default": "observe"},
        networks={"openai": {"nodes": {"keyed": {"api_key_env": "SOME_KEY", "aliases": {"m": [DATED]}}}}},
    )
    gateway.signed = gateway.create_key("signed", "--policy", "signed")  # type: ignore[attr-defined]
    gateway.start(env={"SOME_KEY": SECRET})
    yield gateway
    assert gateway.stop() == 0
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept  # neither log, nor database, nor what was written to standard error


def plain(
    body: bytes, *headers: tuple[str, str], status: int = 200, media: str = "application/json"
) -> Callable[..., Any]:
    async def script(of: Received) -> Any:
        yield scripted_head(status, len(body), media, *headers) + body

    return script


def scripted_head(status: int, length: int, media: str, *headers: tuple[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {media}", *(f"{n}: {v}" for n, v in headers)]
    return "\r\n".join([*lines, "connection: close", f"content-length: {length}", "", ""]).encode()


def answer(model: str = "m", message: dict[str, Any] | None = None, **more: Any) -> bytes:
    said = message or {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], **more}
    ).encode()


def checks(gateway: Gateway, receipt_id: str) -> dict[str, tuple[str, str | None]]:
    """Of the answer where a check is of both."""
    return {c["id"]: (c["outcome"], c.get("reason")) for c in gateway.receipt(receipt_id)["checks"]}


def ask(gateway: Gateway, key: str | None = None, **more: Any) -> Any:
    with gateway.sdk(key, max_retries=0) as client:
        return client.chat.completions.create(**{"model": "m", "messages": ASK, **more})


def test_the_stock_sdk_gets_an_unsigned_answer_with_its_verdict(world: Gateway) -> None:
    """Under `observe` it is released as it came, never as affirming, and its receipt says what is not shown."""
    with world.sdk() as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=8, seed=1)
    found = raw.parse()
    assert found.choices[0].message.content
    verification: dict[str, Any] = found.model_extra["verification"]  # type: ignore[index]
    assert (verification["verdict"], raw.headers["x-veriroute-verdict"]) == ("none", "none")
    assert (verification["network"], verification["node"]) == ("openai", "plain")
    assert "executed_in" not in verification
    assert set(verification["claims"].values()) == {"unknown"}
    receipt = world.receipt(verification["receipt"])
    assert (receipt["release"], receipt["delivery"]["form"], receipt["evidence"]) == ("released", "verbatim", [])
    outcomes = {(c["id"], c["outcome"], c.get("reason")) for c in receipt["checks"]}
    assert {("evidence", "none", "no_evidence"), ("channel_bound", "none", "no_evidence")} <= outcomes
    assert {("signature", "none", "no_signature"), ("coverage", "none", "no_signature")} <= outcomes
    assert ("model_echo", "affirming", None) in outcomes


def test_the_stock_sdk_streams_an_unsigned_answer(world: Gateway) -> None:
    """Chunks flow, the verdict stands in the last one, and the end is said."""
    with world.sdk() as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=8, seed=1, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    verification: dict[str, Any] = chunks[-1].model_extra["verification"]  # type: ignore[index]
    assert verification["verdict"] == "none"
    found = checks(world, verification["receipt"])
    assert found["stream_grammar"] == ("affirming", None)
    assert found["signature"] == ("none", "no_signature")


def test_its_record_can_be_checked_offline(world: Gateway) -> None:
    """The bundle holds the session, names no evidence that there never was, and says why nothing is judged again."""
    verification = ask(world, model=MODEL, max_tokens=4).model_extra["verification"]
    assert world.receipt(verification["receipt"])["served"]["keysetDigest"] == ""
    path = world.folder / f"{verification['receipt']}.json"
    said = world.cli("verify", str(path), "--trust", str(world.trust), "--authenticity-only", "--json")
    lines = [(line["step"], line["outcome"], line["sentence"]) for line in json.loads(said)["files"][0]["lines"]]
    assert ("evidence", "none", "the node offered none") in lines
    assert ("session", "affirming") in {line[:2] for line in lines}
    assert ("appraisal", "none", "the node signs no answer, so there is no signature to judge again") in lines
    assert not [line for line in lines if line[1] == "contraindicated"]


@pytest.mark.parametrize(
    ("parameters", "taken"),
    [
        ("; charset=utf-16", False),
        ("; charset=utf-8; charset=utf-16", False),
        ("; charset*=utf-16", False),
        ('; x="; charset=latin-1"', False),
        ("", True),
        (";charset=UTF-8", True),
        ('; charset="utf-8"', True),
        ("; charset=utf8", True),
        ("; version=1; charset=utf-8", True),
        ("; boundary=NL;", True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_c11_of_the_media_type_s_parameters_the_charset_counts(
    world: Gateway, scripted: ScriptedNode, stream: bool, parameters: str, taken: bool
) -> None:
    """JSON and event streams are UTF-8: what says other has two readings, and a parameter of another name says nothing."""
    event = (
        b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    media = ("text/event-stream" if stream else "application/json") + parameters
    scripted.script = plain(event if stream else answer(), media=media)
    with world.http() as client:
        got = client.post("/v1/chat/completions", json={"model": "m", "messages": ASK, "stream": stream})
    assert got.status_code == (200 if taken else 502)
    assert taken or got.json()["error"]["reason"] == "content_type"


def test_a_policy_that_needs_a_signature_sends_no_prompt(world: Gateway, scripted: ScriptedNode) -> None:
    """The node is passed over with the reason, before anything leaves for it."""
    before = len(scripted.received)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(world, world.signed)  # type: ignore[attr-defined]
    error = caught.value.body
    assert isinstance(error, dict)
    assert (error["code"], error["nodes"]) == (
        "no_eligible_node",
        [{"node": "keyed", "reason": "evidence", "cause": "no_evidence"}],
    )
    assert len(scripted.received) == before


def test_the_node_gets_its_key_and_nothing_of_the_caller_s(world: Gateway, scripted: ScriptedNode) -> None:
    """Its own key in place of the caller's, no cookie, no encoding to undo; a dated name that the settings allow."""
    scripted.script = plain(answer(DATED), ("set-cookie", "a=b"), ("x-veriroute-verdict", "affirming"))
    with world.sdk(max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=ASK, extra_headers={"cookie": "c=d"})
    sent = scripted.received[-1]
    assert sent.header(b"authorization") == f"Bearer {SECRET}".encode()
    assert (sent.header(b"cookie"), sent.header(b"accept-encoding")) == (b"", b"identity")
    assert "set-cookie" not in raw.headers
    assert raw.headers["x-veriroute-verdict"] == "none"
    assert checks(world, raw.headers["x-veriroute-receipt"])["model_echo"] == ("affirming", None)


@pytest.mark.parametrize(
    ("body", "failing"),
    [
        (answer("m-2"), "model_echo"),
        (answer(choices=[{"index": i, "message": {"content": "x"}, "finish_reason": "stop"} for i in (0, 1)]), "shape"),
        (answer(message={"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}), "executable_uncovered"),
    ],
    ids=["model", "choice", "call"],
)  # fmt: skip
def test_what_is_wrong_with_an_unsigned_answer_is_flagged(
    world: Gateway, scripted: ScriptedNode, body: bytes, failing: str
) -> None:
    """Another model, a second choice, a call that nothing covers: under `observe` the verdict says contraindicated."""
    scripted.script = plain(body)
    verification = ask(world, tools=[TOOL]).model_extra["verification"]
    assert (verification["verdict"], verification["reason"]) == ("contraindicated", failing)
    assert checks(world, verification["receipt"])[failing][0] == "contraindicated"


def test_a_verification_member_of_the_node_s_is_taken_off(world: Gateway, scripted: ScriptedNode) -> None:
    """The one that the agent reads is ours, and the receipt names what was dropped."""
    scripted.script = plain(answer(verification={"verdict": "affirming"}))
    verification = ask(world).model_extra["verification"]
    assert verification["verdict"] == "none"
    assert world.receipt(verification["receipt"])["delivery"]["form"] == "rebuilt"


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        (plain(b"", ("location", "http://127.0.0.1:9/steal"), status=307), 502, "redirect"),
        (plain(answer(), media="text/html"), 502, "content_type"),
        (plain(answer(), ("content-encoding", "gzip")), 502, "content_encoding"),
        (plain(b'{"error":{"message":"bad key sk-hint"}}', status=401), 502, "status_401"),
        (plain(b'{"error":{"message":"slow down"}}', ("retry-after", "7"), status=429), 429, "status_429"),
    ],
    ids=["redirect", "html", "gzip", "401", "429"],
)
def test_what_is_no_answer_is_a_failure_of_the_node(
    world: Gateway, scripted: ScriptedNode, script: Any, status: int, reason: str
) -> None:
    """Nothing is followed, nothing of the provider's text is passed on, and the reason is a code."""
    scripted.script = plain(answer())
    ask(world)  # so that the failures of earlier cases don't open the node's circuit
    before = len(scripted.received)
    scripted.script = script
    with pytest.raises(openai.APIStatusError) as caught:
        ask(world)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["reason"] == reason
    assert "sk-hint" not in caught.value.response.text
    assert "slow down" not in caught.value.response.text
    assert len(scripted.received) == before + 1
    if reason == "status_429":
        assert caught.value.response.headers["retry-after"] == "7"


def test_doctor_and_nodes_show_such_a_node_as_it_is(world: Gateway) -> None:
    """Each check of it is none, no prompt may leave under `signed`, one may under `observe`, and no key is shown."""
    config, env = ("--config", str(world.config)), {"SOME_KEY": SECRET}
    refused = world.run("doctor", "openai", "--policy", "signed", "--json", *config, env=env)
    assert refused.returncode == 1
    for node in json.loads(refused.stdout)["nodes"]:
        assert {(c["outcome"], c["reason"]) for c in node["checks"]} == {("none", "no_evidence")}
        assert (node["permitted"], node["reason"]) == (False, "evidence")
    allowed = world.run("doctor", "openai", "--policy", "observe", *config, env=env)
    assert allowed.returncode == 0
    assert "2 of 2 nodes may be used" in allowed.stdout
    listed = world.run("nodes", "discover", "openai", *config, env=env)
    shown = world.run("config", "show", *config, env=env)
    for done in (refused, allowed, listed, shown):
        assert SECRET not in done.stdout + done.stderr
    assert "keyed" in listed.stdout
    assert "SOME_KEY" in shown.stdout
    missing = world.run("doctor", "openai", *config, env={"SOME_KEY": ""})
    assert (missing.returncode, "SOME_KEY" in missing.stderr) == (2, True)


def test_the_admin_s_view_is_the_same(world: Gateway) -> None:
    """Under the default policy the node may be used, and its session says that nothing of it is shown."""
    with world.http(world.admin_key) as client:
        nodes = {n["id"]: n for n in client.get("/admin/v1/nodes").json()["nodes"]}
    assert (nodes["plain"]["state"], nodes["plain"]["session"]["outcome"]) == ("ok", "none")
    assert {c["status"] for c in nodes["plain"]["session"]["claims"]} == {"unknown"}


def test_a_key_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """A start that would do so is refused with what to change."""
    gateway = Gateway(
        tmp_path,
        [unsigned("n", "http://192.0.2.1", ["m"])],
        upstream={"allow_http": True},
        networks={"openai": {"nodes": {"n": {"api_key_env": "SOME_KEY"}}}},
    )
    done = gateway.run("serve", "--config", str(gateway.config), env={"SOME_KEY": SECRET})
    assert done.returncode == 2
    assert "in the clear" in done.stderr
    assert SECRET not in done.stderr
