"""vLLM's prompt_logprobs, read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import FormatError
from gateway.verify.proofs import reference
from gateway.verify.proofs.reference import Reexecuted, read_reference

PROMPT, ANSWER = (1, 2), (5, 6)


def at(*pairs: tuple[int, float], texts: bool = True) -> dict[str, Any]:
    named = {"decoded_token": "t"} if texts else {}
    return {str(i): {"logprob": x, "rank": 1} | named for i, x in pairs}


ROWS: list[Any] = [None, at((2, -1.0)), at((5, -0.5), (9, -1.5)), at((6, -2.0), (7, -0.1))]


def top(rows: object) -> bytes:
    return json.dumps({"prompt_logprobs": rows}).encode()


@pytest.mark.parametrize("body", [top(ROWS), json.dumps({"prompt_logprobs": None, "choices": [{"prompt_logprobs": ROWS}]}).encode()], ids=["chat", "completion"])  # fmt: skip
def test_forms(body: bytes) -> None:
    """Chat completions have the list at the top, completions in their choice; the answer's positions are read."""
    told = Reexecuted(({5: -0.5, 9: -1.5}, {6: -2.0, 7: -0.1}), ("t", "t"), ({"t": -0.5}, {"t": -0.1}))
    assert read_reference(body, PROMPT, ANSWER) == told


def test_bare_numbers_and_logits() -> None:
    """Older servers write the number alone; logits may be positive; the floor holds here too."""
    rows = [None, {"2": 1.0}, {"5": 17.5, "9": -1e30}, {"6": 3}]
    assert read_reference(top(rows), PROMPT, ANSWER) == Reexecuted(({5: 17.5, 9: -9999.0}, {6: 3.0}), None, ({}, {}))


def test_texts_are_told_for_all_or_not_at_all() -> None:
    """Where one token's text is not told, the answer's spelling is not known."""
    rows = [*ROWS[:3], at((6, -1.0), texts=False)]
    assert read_reference(top(rows), PROMPT, ANSWER).texts is None


def test_empty_answer() -> None:
    """An empty answer has no rows and spells nothing."""
    assert read_reference(top(ROWS[:2]), PROMPT, ()) == Reexecuted((), ())


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices":[]}', b'{"choices":[1]}', b'{"choices":[{}]}', top({}), top(ROWS[:3]), top([*ROWS, None]),
             top([*ROWS[:3], at((7, -1.0))])]
)  # fmt: skip
def test_incomplete(body: bytes) -> None:
    """A reference that covers other positions, or leaves out a token of the answer, has not re-executed it."""
    with pytest.raises(FormatError) as caught:
        read_reference(body, PROMPT, ANSWER)
    assert caught.value.reason == "reference_incomplete"


@pytest.mark.parametrize(
    "last",
    [None, {}, [], {"x": -1}, {"-6": -1}, {"06": -1}, {"٦": -1}, {"2147483648": -1}, {"1" * 11: -1}, {"": -1}, {"6": None}, {"6": "-1"},
     {"6": True}, {"6": {}}, {"6": {"logprob": None}}, {"6": {"logprob": -1, "decoded_token": 1}}, {"6": {"logprob": -1, "decoded_token": "x" * 1025}}],
    ids=lambda x: str(x)[:40],
)  # fmt: skip
def test_malformed(last: object) -> None:
    """Rows with keys that are no ids, values that are no numbers, or no rows at all are refused."""
    with pytest.raises(FormatError):
        read_reference(top([*ROWS[:3], last]), PROMPT, ANSWER)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"prompt_logprobs":[NaN]}', b'{"prompt_logprobs":[-Infinity]}', b"[" * 100_000]
)
def test_no_strict_json(body: bytes) -> None:
    """Bytes that are not one strict JSON object are refused."""
    with pytest.raises(FormatError):
        read_reference(body, PROMPT, ANSWER)


def test_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with more candidates, or more positions than the limits, is refused."""
    monkeypatch.setattr(reference, "MAX_CANDIDATES", 1)
    with pytest.raises(FormatError, match="at most 1 tokens"):
        read_reference(top(ROWS), PROMPT, ANSWER)
    monkeypatch.setattr(reference, "MAX_TOKENS", 1)
    with pytest.raises(FormatError, match="4 positions"):
        read_reference(top(ROWS), PROMPT, ANSWER)


@pytest.mark.parametrize(
    ("alternatives", "by_id", "expected"),
    [
        (1, False, ((" a", {" a": -0.1}), (" b", {" c": -0.2}))),
        (2, False, ((" a", {" a": -0.1, " d": -3.0}), (" b", {" c": -0.2, " b": -2.0}))),
        (1, True, (("token_id:5", {"token_id:5": -0.1}), ("token_id:6", {"token_id:7": -0.2}))),
    ],
)
def test_as_an_api_says_it(alternatives: int, by_id: bool, expected: tuple[tuple[str, dict[str, float]], ...]) -> None:
    """The likeliest tokens of each position, as many as are asked for, under their texts or their ids."""
    row = {5: " a", 9: " d", 6: " b", 7: " c"}
    rows = [
        None,
        at((2, -1.0)),
        *(
            {str(i): {"logprob": x, "decoded_token": row[i]} for i, x in pairs}
            for pairs in (((5, -0.1), (9, -3.0)), ((6, -2.0), (7, -0.2)))
        ),
    ]
    told = read_reference(top(rows), PROMPT, ANSWER)
    found = reference.positions(told, ANSWER, alternatives, by_id=by_id)
    assert found is not None
    assert [(p.token, p.top) for p in found] == list(expected)
    assert [p.logprob for p in found] == [-0.1, -2.0]


def test_what_is_not_spelt_has_no_texts() -> None:
    """A reference that leaves out a token's text can be compared by ids alone."""
    told = read_reference(top([*ROWS[:3], at((6, -1.0), texts=False)]), PROMPT, ANSWER)
    assert reference.positions(told, ANSWER, 5, by_id=False) is None
    assert reference.positions(told, ANSWER, 5, by_id=True) is not None
