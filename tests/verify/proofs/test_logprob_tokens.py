"""Log-probs of the OpenAI API, read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proofs_kit import body, entry

from gateway.errors import FormatError
from gateway.verify.proofs import tokens
from gateway.verify.proofs.tokens import (
    FLOOR,
    Position,
    Presence,
    Scored,
    number,
    read_choice,
    read_logprobs,
    token_ids,
)


def test_positions() -> None:
    """Token, log-prob, bytes and alternatives of each position come out in order."""
    listed = [entry(" a", -0.5, b=-1.5) | {"bytes": [32, 97]}, entry("c", 0)]
    choice, scored = read_choice(body(listed, finish_reason="stop"))
    assert choice["finish_reason"] == "stop"
    assert scored == Scored(
        Presence.SCORED,
        (Position(" a", -0.5, {" a": -0.5, "b": -1.5}, b" a"), Position("c", 0.0, {"c": 0.0}, None)),
    )


@pytest.mark.parametrize(
    ("logprobs", "presence"),
    [
        (None, Presence.ABSENT),
        ({}, Presence.ABSENT),
        ({"content": None}, Presence.ABSENT),
        ({"content": []}, Presence.EMPTY),
        ({"content": [entry("a")]}, Presence.ONE_TOKEN),
        ({"content": [entry("a"), entry("b")]}, Presence.SCORED),
    ],
)
def test_presence(logprobs: object, presence: Presence) -> None:
    """No log-probs, no tokens and one token are three different outcomes, and none of them is scored."""
    assert read_logprobs(logprobs).presence is presence


@pytest.mark.parametrize(
    ("value", "read"), [(-9999.0, FLOOR), (-3.4e38, FLOOR), (-(10**400), FLOOR), (0, 0.0), (-1, -1.0), (0.0004, 0.0004)]
)
def test_floor(value: float, read: float) -> None:
    """What servers write for a token they did not compute is the floor, and the floor is the least there is."""
    found = read_logprobs({"content": [entry("a", value)]}).positions[0]
    assert (found.logprob, found.top["a"]) == (read, read)
    assert type(found.logprob) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, "1", None, [], 10**400, 1e7])
def test_numbers_are_finite(value: object) -> None:
    """NaN, infinities, booleans, texts and numbers beyond any log-prob or logit are no numbers."""
    with pytest.raises(FormatError, match="a margin is not a finite number"):
        number(value, "a margin")


@pytest.mark.parametrize("spelling", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_that_spells_no_number(spelling: str) -> None:
    """A body that writes NaN or an infinity is malformed as a whole."""
    with pytest.raises(FormatError):
        read_choice(body("a b").replace(b"-0.1", spelling.encode(), 1))


def test_alternatives_of_one_text() -> None:
    """Of alternatives with the same text the likeliest counts, wherever it stands."""
    same = [{"token": "\ufffd", "logprob": x} for x in (-3, -2, -4)]
    found = read_logprobs({"content": [entry("a") | {"top_logprobs": same}]}).positions[0]
    assert found.top == {"\ufffd": -2.0}


@pytest.mark.parametrize(
    "logprobs",
    [
        [], "x", {"content": {}}, {"content": [1]}, {"content": [{}]}, {"content": [{"token": 1, "logprob": 0}]},
        {"content": [{"token": "a"}]}, {"content": [entry("a", 0.01)]}, {"content": [entry("a" * 1025)]},
        {"content": [entry("a") | {"top_logprobs": {}}]}, {"content": [entry("a") | {"top_logprobs": [1]}]},
        {"content": [entry("a") | {"top_logprobs": [entry(str(i)) for i in range(129)]}]},
        {"content": [entry("a") | {"bytes": "a"}]}, {"content": [entry("a") | {"bytes": [256]}]},
        {"content": [entry("a") | {"bytes": [True]}]}, {"content": [entry("a") | {"bytes": [0] * 4097}]},
        {"content": [entry("a") | {"bytes": [98]}]}, {"content": [entry("a") | {"bytes": [97, 255]}]},
        {"content": [entry("bytes:\\xff") | {"bytes": [255] * 9}]},
    ],
    ids=lambda x: str(x)[:70],
)  # fmt: skip
def test_malformed(logprobs: object) -> None:
    """What is not of the OpenAI form, or whose bytes are not those of its token, is refused."""
    with pytest.raises(FormatError):
        read_logprobs(logprobs)


@pytest.mark.parametrize(
    ("token", "raw"),
    [("a", [97]), ("\ufffd", [0xF0, 0x9F]), ("bytes:\\xf0", [0xF0]), ("token_id:5", [98]), ("a", None)],
)
def test_bytes_of_a_token(token: str, raw: list[int] | None) -> None:
    """Bytes are the token's own, a piece of a character, or those of a token written as an id."""
    found = read_logprobs({"content": [entry(token) | {"bytes": raw}]}).positions[0]
    assert found.raw == (None if raw is None else bytes(raw))


def test_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tokens or bytes than the limits are refused before they are looked at."""
    monkeypatch.setattr(tokens, "MAX_TOKENS", 2)
    assert len(read_logprobs({"content": [entry("a")] * 2}).positions) == 2
    with pytest.raises(FormatError, match="at most 2 tokens"):
        read_logprobs({"content": [entry("a")] * 3})
    monkeypatch.setattr(tokens, "MAX_BODY", 10)
    with pytest.raises(FormatError, match="over the limit"):
        read_choice(body("a b"))


@pytest.mark.parametrize(
    "document", [[], {}, {"choices": {}}, {"choices": []}, {"choices": [1]}, {"choices": [{}, {}]}], ids=str
)
def test_one_choice(document: object) -> None:
    """An answer has exactly one choice; a second would be released and compared with nothing."""
    with pytest.raises(FormatError, match="exactly one choice"):
        read_choice(json.dumps(document).encode())


def named(*names: str) -> tuple[Position, ...]:
    return tuple(Position(name, -0.1, {}) for name in names)


@pytest.mark.parametrize(
    ("positions", "choice", "ids"),
    [
        ((), {}, None),
        (named("a"), {}, None),
        (named("a", "b"), {"token_ids": [0, 7]}, (0, 7)),
        ((), {"token_ids": [3]}, (3,)),
        (named("token_id:5", "token_id:0"), {}, (5, 0)),
        (named("token_id:5", "b"), {}, None),
    ],
)
def test_token_ids(positions: tuple[Position, ...], choice: dict[str, Any], ids: tuple[int, ...] | None) -> None:
    """Ids come from `token_ids`, else from tokens that are all written as ids, else they are not known."""
    assert token_ids(positions, choice) == ids


@pytest.mark.parametrize(
    ("positions", "choice"),
    [
        ((), {"token_ids": "1"}), ((), {"token_ids": [-1]}), ((), {"token_ids": [True]}), ((), {"token_ids": [2**31]}),
        (named("a", "b"), {"token_ids": [1]}), (named("token_id:x"), {}), (named("token_id:"), {}),
        (named("token_id:٣"), {}), (named("token_id:" + "1" * 11), {}), (named("token_id:2147483648"), {}),
    ],
    ids=str,
)  # fmt: skip
def test_token_ids_malformed(positions: tuple[Position, ...], choice: dict[str, Any]) -> None:
    """Ids that are none, or not one for each token, are refused."""
    with pytest.raises(FormatError):
        token_ids(positions, choice)
