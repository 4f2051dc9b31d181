"""The record of a statement: written once, read strictly, and enough to run the checks again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_og_answers import OTHER_SPKI, REQUEST, SPKI, canonical, members

from gateway.crypto.canonical import jcs
from gateway.errors import FormatError
from gateway.model.observation import Observation
from gateway.model.verdict import Outcome
from gateway.verify.opengradient.answer import SignedAnswer
from gateway.verify.opengradient.canonical import Surface
from gateway.verify.opengradient.record import MAX_RECORD, evidence_record, parse_record, reverify
from gateway.verify.opengradient.response import Binding
from gateway.verify.opengradient.statement import Statement, parse_statement

STATEMENT = parse_statement(members(canonical(REQUEST), "Hello."))
ANSWER = SignedAnswer(Surface.CHAT, ("Hello.",), Observation())
RECORD = evidence_record(STATEMENT, ANSWER, REQUEST)


def test_a_record_reads_back() -> None:
    """What was written is read back whole: the statement, and how it stood to request and output."""
    found = parse_record(RECORD)
    assert (found.statement, found.surface) == (STATEMENT, Surface.CHAT)
    assert found.binding == Binding("v3", STATEMENT.request_hash, STATEMENT.output_hash)
    assert len(RECORD) < 900


@pytest.mark.parametrize("request_document", [None, ["no form"]])
def test_a_record_without_a_request_computes_nothing(request_document: Any) -> None:
    """Where the request is not at hand, or has no canonical form, the record says nothing of it."""
    found = parse_record(evidence_record(STATEMENT, ANSWER, request_document))
    assert found.binding == Binding(None, None, None)
    assert found.statement == STATEMENT


def test_a_record_says_what_came_where_it_does_not_fit() -> None:
    """The computed hashes are ours, and differ from the stated ones when request or output do."""
    other = SignedAnswer(Surface.CHAT, ("Bye.",), Observation())
    binding = parse_record(evidence_record(STATEMENT, other, {**REQUEST, "model": "x"})).binding
    assert binding.profile is None
    assert binding.request_hash not in (None, STATEMENT.request_hash)
    assert binding.output_hash not in (None, STATEMENT.output_hash)


def test_the_placeholder_is_kept_as_it_came() -> None:
    """A statement without a signature is recorded as such."""
    bare = msgspec.structs.replace(STATEMENT, signature=b"")
    record = evidence_record(bare, ANSWER)
    assert msgspec.json.decode(record)["signature"] == "0x"
    assert parse_record(record).statement == bare


def changed(**other: Any) -> bytes:
    return jcs({**msgspec.json.decode(RECORD), **other})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        RECORD + b"\n",
        RECORD.replace(b":", b": ", 1),
        b" " * MAX_RECORD + RECORD,
        changed(schema="opengradient-statement/2"),
        changed(more=1),
        jcs({k: v for k, v in msgspec.json.decode(RECORD).items() if k != "profile"}),
        changed(surface="embeddings"),
        changed(surface=["chat"]),
        changed(profile="v4"),
        changed(profile=3),
        changed(profile="completion"),
        changed(surface="completion"),
        changed(timestamp=1.5),
        changed(timestamp=None),
        changed(tee_id="0x"),
        changed(signature="AB=="),
        changed(computed_request_hash="0x" + "a" * 62),
        changed(computed_request_hash="a" * 63),
        changed(computed_output_hash=5),
        RECORD.replace(b'"chat"', b'{"a":{"b":{}}}'),
    ],
)
def test_what_would_not_be_written_is_refused(data: bytes) -> None:
    """A record has one spelling, its members and no others."""
    with pytest.raises(FormatError):
        parse_record(data)


@pytest.mark.parametrize(
    ("request_document", "outputs", "spki", "failing"),
    [
        (REQUEST, ("Hello.",), SPKI, {}),
        (REQUEST, ("no", "Hello."), SPKI, {}),
        ({**REQUEST, "temperature": 1}, ("Hello.",), SPKI, {"request_bound": "request_hash_mismatch"}),
        (REQUEST, ("Hello!",), SPKI, {"response_bound": "output_hash_mismatch"}),
        (REQUEST, ("Hello.",), OTHER_SPKI, {"signature": "unknown_key", "key_bound": "tee_id_mismatch"}),
    ],
)
def test_an_auditor_runs_the_checks_again(
    request_document: Any, outputs: tuple[str, ...], spki: bytes, failing: dict[str, str]
) -> None:
    """With request, output and key, the record shows what the appraisal showed, years later too."""
    checks = reverify(parse_record(RECORD), request_document, outputs, spki)
    assert {c.id for c in checks} == {"signature", "key_bound", "request_bound", "response_bound"}
    assert {c.id: c.reason for c in checks if c.outcome is not Outcome.AFFIRMING} == failing


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(RECORD)), st.integers(0, len(RECORD)), st.binary(max_size=4)).map(
        lambda cut: RECORD[: cut[0]] + cut[2] + RECORD[cut[1] :]
    )
)
def test_any_bytes_are_a_record_or_are_refused(data: bytes) -> None:
    """Bytes are refused with `FormatError`, or are what their record would be written as."""
    try:
        found = parse_record(data)
    except FormatError:
        return
    assert isinstance(found.statement, Statement)
    assert jcs(msgspec.json.decode(data)) == data
