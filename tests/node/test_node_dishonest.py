"""Each lie does what it promises, for JSON, streams and chained streams, and an honest check finds it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from node_kit import HELLO, MODEL, Running, ask, node, problems, report

from adapters.selfhosted import command
from adapters.selfhosted.dishonest import MODES, OTHER_MODEL, first_half, swapped, tampered

OTHER_NONCE = "0f" * 32
FORMS = [
    pytest.param({}, {}, id="json"),
    pytest.param({"stream": True}, {}, id="sse"),
    pytest.param({"stream": True}, {"chained": True}, id="chained"),
]
APIS = [
    pytest.param("/v1/chat/completions", HELLO, id="chat"),
    pytest.param("/v1/responses", {"model": MODEL, "input": "Hello"}, id="responses"),
    pytest.param("/v1/messages", {"model": MODEL, "max_tokens": 20, "messages": HELLO["messages"]}, id="messages"),
]


@pytest.fixture(scope="module")
def liar() -> Iterator[dict[str, Running]]:
    """Nodes are started as they are needed, one for each lie."""

    with contextlib.ExitStack() as stack:

        class Nodes(dict[str, Running]):
            def __missing__(self, mode: str) -> Running:
                self[mode] = stack.enter_context(node("--dishonest", mode))
                return self[mode]

        yield Nodes()


@pytest.mark.parametrize(("path", "body"), APIS)
@pytest.mark.parametrize(("change", "form"), FORMS)
def test_tamper(
    liar: dict[str, Running], path: str, body: dict[str, object], change: dict[str, object], form: dict[str, bool]
) -> None:
    """What arrives is not what was signed; everything else about it is in order."""
    url = liar["tamper"].url
    answer = ask(url, {**body, **change}, path, **form)
    assert answer.status == 200
    assert problems(answer, report(url)) - {"chain"} == {"response_bound"}
    if form:
        assert "chain" in problems(answer, report(url))
    if change:
        assert all(e == "[DONE]" or isinstance(e, dict) for e in answer.events())
    else:
        assert isinstance(answer.document, dict)


@pytest.mark.parametrize(("path", "body"), APIS)
@pytest.mark.parametrize(("change", "form"), FORMS)
def test_swap_model(
    liar: dict[str, Running], path: str, body: dict[str, object], change: dict[str, object], form: dict[str, bool]
) -> None:
    """Answer and receipt name another model, under signatures that hold."""
    url = liar["swap-model"].url
    answer = ask(url, {**body, **change}, path, **form)
    assert problems(answer, report(url)) == {"model_echo"}
    assert OTHER_MODEL.encode() in answer.covered
    assert answer.receipt is not None
    assert answer.receipt.receipt.model == OTHER_MODEL
    assert b'"' + MODEL.encode() + b'"' not in answer.covered


@pytest.mark.parametrize(("change", "form"), FORMS)
def test_wrong_key(liar: dict[str, Running], change: dict[str, object], form: dict[str, bool]) -> None:
    """Receipt and chain are signed by a key that was never attested, under the id of the one that was."""
    url = liar["wrong-key"].url
    known = report(url)
    answer = ask(url, {**HELLO, **change}, **form)
    assert problems(answer, known) == ({"signature", "chain"} if form else {"signature"})
    assert answer.receipt is not None
    assert answer.receipt.receipt.key_id == known.keyset.keys[0].key_id


@pytest.mark.parametrize(("change", "form"), FORMS)
def test_replay(liar: dict[str, Running], change: dict[str, object], form: dict[str, bool]) -> None:
    """The second answer is the first one's bytes with the first one's receipt: old nonce, old request."""
    url = liar["replay"].url
    known = report(url)
    first = ask(url, {**HELLO, **change}, **form)
    assert problems(first, known) == set()
    again = ask(url, {**HELLO, **change}, nonce=OTHER_NONCE, **form)
    assert again.body == first.body
    assert problems(again, known, nonce=OTHER_NONCE) == ({"replay", "chain"} if form else {"replay"})
    other = ask(url, {**HELLO, **change, "max_tokens": 3}, nonce=OTHER_NONCE, **form)
    assert {"replay", "request_bound"} <= problems(other, known, nonce=OTHER_NONCE)


def test_truncate_json(liar: dict[str, Running]) -> None:
    """The body stops short of its declared length and the connection closes."""
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|peer closed"):
        ask(liar["truncate"].url, HELLO)


@pytest.mark.parametrize("form", [{}, {"chained": True}], ids=["sse", "chained"])
def test_truncate_stream(liar: dict[str, Running], form: dict[str, bool]) -> None:
    """The stream ends cleanly as HTTP, with whole events, but without terminator and receipt."""
    answer = ask(liar["truncate"].url, {**HELLO, "stream": True}, **form)
    assert answer.events()
    assert "[DONE]" not in answer.events()
    assert answer.receipt is None
    assert len(answer.links) == len(form)


def test_the_command_offers_every_lie() -> None:
    """The command's choices are the modes that exist, stated twice so that `--help` loads nothing."""
    assert command._MODES == MODES


def test_honest_at_first() -> None:
    """With `--dishonest-after 2` the third answer is the first lie."""
    with node("--dishonest", "wrong-key", "--dishonest-after", "2") as running:
        known = report(running.url)
        found = [problems(ask(running.url, HELLO), known) for _ in range(3)]
    assert found == [set(), set(), {"signature"}]


def test_byte_changes() -> None:
    """Tampering keeps length and JSON; swapping touches only member values; halving leaves whole events."""
    for said in (
        b'{"choices":[{"message":{"role":"assistant","content":"\\n\\"17\\" is it"}}]}',
        b'data: {"delta":{"content":"Hi"}}\n\n',
        b'{"data":[{"embedding":[0.123,-0.5]}]}',
        b'{"data":[{"embedding":"AAAAPw=="}]}',
        b'{"function":{"arguments":"{\\"a\\": 1}"}}',
    ):
        changed = tampered(said)
        assert changed != said
        assert len(changed) == len(said)
        assert sum(a != b for a, b in zip(changed, said, strict=True)) == 1
    assert tampered(b'{"delta":{"content":""}}') == b'{"delta":{"content":""}}'
    inner = b'{"model":"a","content":"say \\"model\\":\\"b\\""}'
    assert swapped(inner) == inner.replace(b'"a"', b'"' + OTHER_MODEL.encode() + b'"')
    assert first_half(b"a\n\nb\n\nc\n\nd\n\n") == b"a\n\nb\n\n"
    assert first_half(b"a\n\n") == b"a\n\n"
    assert first_half(b"a\r\n\r\nb\r\n\r\n") == b"a\r\n\r\n"
