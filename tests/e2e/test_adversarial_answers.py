"""Answers that an honest statement goes with, and that were changed beside or after it: rows A03 to A18 of the cases.

The network signs the text or the tool calls and nothing else, so what stands beside is what a lie can use.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from og_running import MODEL, gateway_for
from opengradient_world import Network
from running import Gateway

from gateway.policy_files import builtin_files

Json = dict[str, Any]
World = tuple[Network, Gateway, str]
MODES = ("json", "optimistic")
TOOL: Json = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
EVIL = {"name": "bash", "arguments": '{"c":"evil"}'}
EVIL_CALL = {"index": 0, "id": "c", "type": "function", "function": EVIL}


@contextlib.contextmanager
def started(folder: Path, mode: str) -> Iterator[World]:
    """A network, and a gateway under `signed`, with streams released at once where `mode` says so."""
    text = builtin_files()["policies/signed.toml"].decode().replace('name = "signed"', 'name = "here"')
    if mode != "json":
        text = text.replace('stream = ["chained", "buffer"]', f'stream = ["{mode}"]')
    directory = folder / "policies"
    directory.mkdir()
    (directory / "here.toml").write_text(text, "utf-8")
    policy = {"dir": str(directory), "default": "here"}
    with Network() as network, gateway_for(network, folder, policy=policy) as gateway:
        yield network, gateway, mode


@pytest.fixture(scope="module", params=MODES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """For answers that are served."""
    with started(tmp_path_factory.mktemp("served"), request.param) as found:
        yield found


def ask(world: World, edit: Callable[[Json], Json], **more: Any) -> tuple[int, Any, bytes]:
    """Status, headers and body; of a stream that is cut what came of it. Nobody is asked twice."""
    network, gateway, mode = world
    network.enclave.edit = edit
    before = sent(network)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "stream": mode != "json", **more}
    received = b""
    with gateway.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        try:
            for piece in answer.iter_raw():
                received += piece
        except httpx.RemoteProtocolError:
            assert b"[DONE]" not in received
    assert sent(network) == before + 1
    return answer.status_code, answer.headers, received


def sent(network: Network) -> int:
    return sum(request.path == "/v1/chat/completions" for _, request in network.heard)


def said_of(answer: Json) -> Json:
    """The message or delta of choice 0."""
    choice: Json = answer["choices"][0]
    found: Json = choice.get("message", choice.get("delta"))
    return found


def to_message(**members: Any) -> Callable[[Json], Json]:
    def edit(answer: Json) -> Json:
        said_of(answer).update(members)
        return answer

    return edit


def to_choice(**members: Any) -> Callable[[Json], Json]:
    def edit(answer: Json) -> Json:
        answer["choices"][0].update(members)
        return answer

    return edit


def refused(world: World, answer: tuple[int, Any, bytes], check: str, code: str = "evidence_rejected") -> None:
    """REJ(check): status, headers, error and receipt as the cases have them."""
    status, headers, body = answer
    assert b"evil" not in body
    if status == 200:
        assert b'"finish_reason":"' not in body
        error = json.loads(body.rstrip().rsplit(b"data: ", 1)[1])["error"]
    else:
        assert status == 502
        assert headers["x-should-retry"] == "false"
        error = json.loads(body)["error"]
    assert error["code"] == code, error
    receipt = world[1].receipt(error["receipt"])
    assert (receipt["verdict"], receipt["release"]) == ("contraindicated", "withheld")
    found = {c["id"]: c["outcome"] for c in receipt["checks"]}
    assert found[check] == "contraindicated"


def served(world: World, answer: tuple[int, Any, bytes]) -> tuple[Json, list[Json], Json]:
    """OK: the verification, the answers or events that came, and the receipt."""
    status, _, body = answer
    assert status == 200, body
    if body.startswith(b"{"):
        events = [json.loads(body)]
    else:
        assert body.endswith(b"data: [DONE]\n\n")
        events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    said = next(event["verification"] for event in events if "verification" in event)
    receipt = world[1].receipt(said["receipt"])
    assert (receipt["verdict"], receipt["release"]) == (said["verdict"], "released")
    assert said["verdict"] == "warning"  # no nonce of ours is signed; nothing else is amiss
    assert all(c["outcome"] != "contraindicated" for c in receipt["checks"])
    return said, events, receipt


def messages(events: list[Json]) -> list[Json]:
    return [said_of(event) for event in events if event.get("choices")]


def test_a03_a04_uncovered_members_are_named(world: World) -> None:
    """Another id, time, usage or reason to stop is delivered as uncovered, and no usage as covered."""

    def edit(answer: Json) -> Json:
        if answer["choices"][0].get("finish_reason"):
            answer["choices"][0]["finish_reason"] = "length"
            answer["usage"] = {"prompt_tokens": 1, "completion_tokens": 99999}
        return {**answer, "id": "other", "created": 5, "system_fingerprint": "fp_evil"}

    answer = ask(world, edit)
    assert b"fp_evil" not in answer[2]
    said, events, receipt = served(world, answer)
    assert {"usage", "finish_reason", "model"} <= set(said["uncovered"])
    assert receipt["usage"]["covered"] is False
    assert [e["choices"][0].get("finish_reason") for e in events if e.get("choices")][-1] == "length"


def test_a06_a07_members_that_nobody_signed_stay_here(world: World) -> None:
    """Refusal, reasoning, annotations, audio, log-probs, and members that only we may set."""

    def edit(answer: Json) -> Json:
        evil = {
            "refusal": "evil",
            "reasoning_content": "evil",
            "annotations": [{"url": "evil"}],
            "audio": {"id": "evil"},
        }
        said_of(answer).update(evil)
        answer["choices"][0]["logprobs"] = {"content": [{"token": "evil"}]}
        return {**answer, "verification": {"by": "evil"}, "receipt": "evil", "x_veriroute": "evil"}

    answer = ask(world, edit)
    assert b"evil" not in answer[2]
    served(world, answer)


def test_a16_text_beside_signed_calls_is_left_out(world: World) -> None:
    """Honest models say something before they call a tool; the network signs the calls alone."""

    def edit(answer: Json) -> Json:
        if said_of(answer).get("tool_calls"):
            said_of(answer)["content"] = "evil"
        return answer

    answer = ask(world, edit, tools=[TOOL])
    assert b"evil" not in answer[2]
    _, events, receipt = served(world, answer)
    calls = [call for message in messages(events) for call in message.get("tool_calls") or ()]
    assert [call["function"]["name"] for call in calls] == ["bash"]
    assert "content" in receipt["delivery"]["dropped"]


def other_model(answer: Json) -> Json:
    return {**answer, "model": "other"} if answer["choices"][0].get("finish_reason") else answer


LIES: list[tuple[str, str, Callable[[Json], Json], Json, str]] = [
    ("a05_index", "json", to_choice(index=1), {}, "shape"),
    ("a09_tool_calls", "json", to_message(tool_calls=[EVIL_CALL]), {}, "executable_uncovered"),
    ("a09_tool_calls", "optimistic", to_message(tool_calls=[EVIL_CALL]), {}, "executable_uncovered"),
    ("a12_mcp_call", "optimistic", to_message(mcp_call=EVIL), {}, "executable_uncovered"),
    ("a12_beside_signed", "json", to_message(mcp_call=EVIL), {"tools": [TOOL]}, "executable_uncovered"),
    ("a18_model", "optimistic", other_model, {}, "model_echo"),
]


@pytest.mark.parametrize(("name", "mode", "edit", "more", "check"), LIES, ids=[f"{lie[0]}-{lie[1]}" for lie in LIES])
def test_a05_a09_a12_a18_what_nobody_signed_is_refused(
    tmp_path: Path, name: str, mode: str, edit: Callable[[Json], Json], more: Json, check: str
) -> None:
    """One gateway a lie, since each puts the node aside: a choice, a call or a model's name that was put in."""
    with started(tmp_path, mode) as world:
        refused(world, ask(world, edit, **more), check)
