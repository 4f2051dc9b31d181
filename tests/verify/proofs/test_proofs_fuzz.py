"""Hostile bytes: every reader ends in a value or in our own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_kit import REQUEST, body, entry

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.verify.proofs.calibration import parse_calibration
from gateway.verify.proofs.drift import measure_drift
from gateway.verify.proofs.evidence import Subject, Verdict, parse_record
from gateway.verify.proofs.quorum import Answer, Terms, judge_quorum
from gateway.verify.proofs.reference import read_reference
from gateway.verify.proofs.spelling import position_texts, spelling
from gateway.verify.proofs.structured import Form, canonical, form_of
from gateway.verify.proofs.tokens import read_choice, token_ids

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([-9999.0, -0.5, 0, 10**400, "token_id:7", "token_id:x", "\ufffd", "\ud800", [255], "5", "06", "sha256"]),
)  # fmt: skip
NAMES = st.sampled_from(
    ["choices", "message", "content", "logprobs", "token", "logprob", "bytes", "top_logprobs", "tool_calls", "function",
     "name", "arguments", "token_ids", "prompt_logprobs", "decoded_token", "5", "6", "reasoning", "refusal", "verdict",
     "quantiles", "tokens", "kind", "response_format", "type"]
)  # fmt: skip
TREES = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(NAMES, x, max_size=6), max_leaves=30)

GOOD_ANSWER = json.loads(body([entry(" a", -0.5, b=-0.7) | {"bytes": [32, 97]}, entry(" c")], token_ids=[5, 6]))
GOOD_REFERENCE = {"prompt_logprobs": [None, {"1": -1.0}, {"5": {"logprob": -0.5, "decoded_token": " a"}}, {"6": -1.0}]}
GOOD_CALIBRATION = {
    "version": 1, "kind": "reexec", "statistic": "greedy_margin", "reference": "r", "model": "m", "revision": "x", "made": "2026-01-31",
    "seeds": [1], "quantiles": [{"tokens": 16, "samples": 100, "p50": 0.0, "p95": 0.0, "p99": 0.001}],
}  # fmt: skip
GOOD_RECORD = {"kind": "reexec", "assurance": "statistical", "verdict": "pass", "request_sha256": REQUEST, "tokens": 3}
GOOD: list[Any] = [GOOD_ANSWER, GOOD_REFERENCE, GOOD_CALIBRATION, GOOD_RECORD]


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A good document with one to three of its values replaced, then perhaps a byte changed."""
    document = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
                place[key] = draw(TREES)
                break
            place = place[key]
    data = bytearray(json.dumps(document).encode())
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


INPUTS = st.one_of(altered(), TREES.map(lambda t: json.dumps(t).encode()), st.binary(max_size=64))


def _answer(data: bytes) -> None:
    choice, scored = read_choice(data)
    token_ids(scored.positions, choice)
    spelling(position_texts(scored.positions), choice)


def _canonical(data: bytes) -> None:
    document = strict_json(data, max_bytes=100_000)
    form_of(document)
    choices = document.get("choices") if isinstance(document, dict) else None
    for choice in choices if isinstance(choices, list) else []:
        for form in Form:
            if isinstance(choice, dict):
                canonical(choice, form)


def _calibration(data: bytes) -> None:
    found = parse_calibration(data)
    assert parse_calibration(found.document()).id == found.id


def _record(data: bytes) -> None:
    found = parse_record(strict_json(data, max_bytes=100_000))
    assert parse_record(msgspec.to_builtins(found)) == found


def _drift(data: bytes) -> None:
    document = strict_json(data, max_bytes=100_000)
    if isinstance(document, dict):
        measure_drift([document], [document], b"", 1)


READERS: list[Callable[[bytes], object]] = [
    _answer, _canonical, _calibration, _record, _drift, lambda data: read_reference(data, [1, 1], [5, 6]),
]  # fmt: skip


def read_all(data: bytes) -> int:
    """How many readers took the bytes; none may raise anything but our own error."""
    taken = 0
    for reader in READERS:
        try:
            reader(data)
            taken += 1
        except FormatError:
            pass
    return taken


@settings(max_examples=300, deadline=None)
@given(INPUTS)
def test_readers(data: bytes) -> None:
    """Every reader ends in a value or in a `FormatError`."""
    read_all(data)


@settings(max_examples=300, deadline=None)
@given(INPUTS, INPUTS)
def test_a_quorum_is_total(a: bytes, b: bytes) -> None:
    """Whatever two nodes send, there is a judgement, and no quorum without two answers that could be compared."""
    answers = [Answer("a", REQUEST, a), Answer("b", REQUEST, b)]
    quorum = judge_quorum(answers, {"a": "x", "b": "y"}, Terms(2, 2), Subject(REQUEST, None))
    assert quorum.record.verdict is not Verdict.PASS or not quorum.missing


@pytest.mark.parametrize("document", GOOD)
def test_good_documents_are_taken(document: object) -> None:
    """What the alterations start from is good: a reader takes it."""
    assert read_all(json.dumps(document).encode()) >= 1
