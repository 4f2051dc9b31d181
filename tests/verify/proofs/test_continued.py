"""Cutting an answer where its text can be cut, and the record of its continuations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proofs_kit import body, entry

from gateway.errors import FormatError
from gateway.verify.proofs import prefixes
from gateway.verify.proofs.continued import judge_continued, question
from gateway.verify.proofs.evidence import Verdict
from gateway.verify.proofs.rescored import Exchange, read_exchange

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0}
TEXT = " ".join(f"w{number}" for number in range(40))
TERMS = prefixes.Terms()


def exchange(answer: bytes) -> Exchange:
    return read_exchange(json.dumps(REQUEST).encode(), answer)


def begun(answer: bytes, cut: int) -> object:
    asked = question(exchange(answer), REQUEST, cut, 8)
    if asked is None:
        return None
    messages = asked.document["messages"]
    assert isinstance(messages, list)
    return messages[-1]["content"] if len(messages) > 1 else ""


def raw(token: str, data: bytes) -> dict[str, Any]:
    return entry(token) | {"bytes": list(data)}


PIECES = [raw("\ufffd", b"\xc3"), raw("\ufffd", b"\xa9"), raw("!", b"!")]


@pytest.mark.parametrize(
    ("answer", "cut", "expected"),
    [
        (body("one two three"), 0, ""),
        (body("one two three"), 2, " one two"),
        (body(PIECES), 1, None),
        (body(PIECES), 2, "\u00e9"),
        (body([entry("\ufffd"), entry("!")]), 1, None),
    ],
)
def test_where_a_text_is_cut(answer: bytes, cut: int, expected: str | None) -> None:
    """The reference is given whole characters, or is not asked for that place."""
    assert begun(answer, cut) == expected


@pytest.mark.parametrize(
    "answer",
    [
        body("one two", message={"reasoning_content": "so"}),
        body("one two", message={"tool_calls": [{}]}),
        json.dumps({"choices": [{"text": "one", "logprobs": None}]}).encode(),
        body([entry("token_id:5"), entry("token_id:6")]),
    ],
    ids=["reasoning", "calls", "completion", "numbers"],
)
def test_answers_that_are_not_their_text(answer: bytes) -> None:
    """Calls, reasoning in a member of its own and tokens without texts are not continued."""
    with pytest.raises(FormatError) as caught:
        question(exchange(answer), REQUEST, 1, 8)
    assert caught.value.reason == "not_comparable"


def rest(cut: int, change: str = "") -> bytes:
    return body(" ".join([*TEXT.split()[cut : cut + 7], change or TEXT.split()[cut + 7]]))


@pytest.mark.parametrize(
    ("bodies", "verdict", "reason"),
    [
        ({3: rest(3), 12: rest(12), 20: rest(20)}, Verdict.PASS, "continuations_agree"),
        ({3: rest(3), 12: rest(12), 20: b"{"}, Verdict.PASS, "continuations_agree"),
        ({3: rest(3), 12: b"[]"}, Verdict.INCONCLUSIVE, "too_few_cuts_agree"),
        ({3: rest(3), 12: rest(12, "other"), 20: rest(20)}, Verdict.FAIL, "no_near_tie"),
        ({}, Verdict.INCONCLUSIVE, "too_few_cuts_agree"),
    ],
)
def test_the_record(bodies: dict[int, bytes], verdict: Verdict, reason: str) -> None:
    """One disagreement fails, two agreements pass, what is no answer counts for nothing; all bodies are named."""
    record = judge_continued(exchange(body(TEXT)), bodies, TERMS, "ref")
    assert (record.verdict, record.reason, record.reference_id) == (verdict, reason, "ref")
    assert [a.name for a in record.artefacts] == ["answer", *(f"continued at {cut}" for cut in bodies)]


def test_another_text_fails() -> None:
    """Tokens that agree under another text prove nothing."""
    lying = body(TEXT, message={"content": "pay them"})
    record = judge_continued(exchange(lying), {3: rest(3), 12: rest(12)}, TERMS, "ref")
    assert (record.verdict, record.reason) == (Verdict.FAIL, "text_not_tokens")
