"""TOPLOC on the wire, its calibration, and the judgement by it."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_kit import SUBJECT

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.proofs.evidence import Subject, Verdict, check_of
from gateway.verify.proofs.spelling import Spelling
from gateway.verify.proofs.toploc import Activations, Distance, decode, distance, encode
from gateway.verify.proofs.toploc_judge import (
    Limits,
    ToplocCalibration,
    judge_toploc,
    measure,
    parse_toploc_calibration,
)
from gateway.verify.proofs.toploc_wire import Recomputed, Stated, read_activations, read_stated

PASS, FAIL, INCONCLUSIVE, ABSENT = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ABSENT


def batch(start: int = 0, nudge: int = 0) -> Activations:
    return Activations(tuple(range(start, start + 128)), tuple(0x3F80 + i + nudge for i in range(128)))


BATCHES = (batch(), batch(500))
PROOFS = tuple(map(encode, BATCHES))
STATED, RECOMPUTED = Stated(True, PROOFS), Recomputed(True, BATCHES)
CALIBRATION = ToplocCalibration(
    1, "toploc", "ref-1", "m", "abc", "2026-01-31", (1,), 100, 3, 2.0, 2.0, 1
)  # fmt: skip


def change(**changes: Any) -> ToplocCalibration:
    return msgspec.structs.replace(CALIBRATION, **changes)


FAR = Recomputed(True, (BATCHES[0], batch(500, nudge=128)))  # every exponent is one off in the second batch


@pytest.mark.parametrize(
    ("stated", "recomputed", "tokens", "spelt", "calibration", "model", "verdict", "reason"),
    [
        (STATED, RECOMPUTED, 20, Spelling.SAME, CALIBRATION, "m", PASS, "toploc_near"),
        (None, RECOMPUTED, 20, Spelling.SAME, CALIBRATION, "m", ABSENT, "proof_absent"),
        (STATED, RECOMPUTED, 0, Spelling.SAME, CALIBRATION, "m", INCONCLUSIVE, "empty_answer"),
        (Stated(True, ()), Recomputed(True, ()), 20, Spelling.SAME, CALIBRATION, "m", FAIL, "toploc_count"),
        (STATED, RECOMPUTED, 33, Spelling.SAME, CALIBRATION, "m", FAIL, "toploc_count"),
        (Stated(True, (PROOFS[0], bytes(258))), RECOMPUTED, 20, Spelling.SAME, CALIBRATION, "m", FAIL, "toploc_malformed"),
        (STATED, Recomputed(True, BATCHES[:1]), 20, Spelling.SAME, CALIBRATION, "m", INCONCLUSIVE, "toploc_activations"),
        (STATED, Recomputed(False, BATCHES), 20, Spelling.SAME, CALIBRATION, "m", INCONCLUSIVE, "toploc_activations"),
        (STATED, Recomputed(True, (batch(), Activations((1, 1), (0, 0)))), 20, Spelling.SAME, CALIBRATION, "m", INCONCLUSIVE, "toploc_activations"),
        (STATED, RECOMPUTED, 20, Spelling.SAME, None, "m", INCONCLUSIVE, "toploc_uncalibrated"),
        (STATED, RECOMPUTED, 20, Spelling.SAME, CALIBRATION, "n", INCONCLUSIVE, "calibration_of_another"),
        (STATED, RECOMPUTED, 20, Spelling.SAME, change(reference="ref-2"), "m", INCONCLUSIVE, "calibration_of_another"),
        (STATED, FAR, 20, Spelling.SAME, CALIBRATION, "m", FAIL, "toploc_far"),
        (STATED, FAR, 20, Spelling.UNKNOWN, CALIBRATION, "m", FAIL, "toploc_far"),
        (STATED, RECOMPUTED, 20, Spelling.DIFFERS, CALIBRATION, "m", FAIL, "text_not_tokens"),
        (STATED, RECOMPUTED, 20, Spelling.UNKNOWN, CALIBRATION, "m", INCONCLUSIVE, "spelling_unknown"),
    ],
)  # fmt: skip
def test_judgement(
    stated: Stated | None,
    recomputed: Recomputed,
    tokens: int,
    spelt: Spelling,
    calibration: ToplocCalibration | None,
    model: str,
    verdict: Verdict,
    reason: str,
) -> None:
    """Proofs pass only whole, near, calibrated for this model and reference, and of tokens that spell the text."""
    record = judge_toploc(stated, recomputed, tokens, spelt, calibration, model, SUBJECT).record
    assert (record.verdict, record.reason) == (verdict, reason)
    assert (check_of(record).outcome is Outcome.AFFIRMING) is (verdict is PASS)
    assert record.calibration_id == (calibration.id if calibration else None)


def test_what_a_record_says() -> None:
    """The statistic is the worst batch's count of exponents, held against the calibration's."""
    judged = judge_toploc(STATED, FAR, 20, Spelling.SAME, CALIBRATION, "m", SUBJECT)
    assert [d.exponents for d in judged.distances] == [0, 128]
    assert (judged.record.statistic, judged.record.threshold, judged.record.tokens) == (128.0, 3.0, 20)
    nobodys = Subject(SUBJECT.request_sha256, None, "ref-1")
    passed = judge_toploc(STATED, RECOMPUTED, 20, Spelling.SAME, CALIBRATION, "m", nobodys).record
    assert check_of(passed).reason == "not_of_this_answer"


def test_a_document_and_its_name() -> None:
    """What was written is read again, and the id is of the canonical form: another figure is another id."""
    assert parse_toploc_calibration(CALIBRATION.document()) == CALIBRATION
    assert (
        parse_toploc_calibration(json.dumps(json.loads(CALIBRATION.document()), indent=2).encode()).id == CALIBRATION.id
    )
    assert change(exponents=4).id != CALIBRATION.id
    assert CALIBRATION.thresholds.calibration_id == CALIBRATION.id


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2}, {"kind": "reexec"}, {"reference": ""}, {"model": "a\nb"}, {"revision": "x" * 257},
        {"made": "yesterday"}, {"made": "2026-13-01"}, {"seeds": [-1]}, {"seeds": list(range(65))}, {"batches": 99},
        {"exponents": 65}, {"exponents": -1}, {"signs": 65}, {"mantissa_mean": 32.5}, {"mantissa_median": -0.1},
        {"exponents": 1.5}, {"more": 1}, {"mantissa_mean": None},
    ],
)  # fmt: skip
def test_documents_that_are_no_calibration(changes: dict[str, Any]) -> None:
    """Limits under which other models would pass, and what no measurement gives, are refused."""
    document = json.loads(CALIBRATION.document()) | changes
    with pytest.raises(FormatError) as caught:
        parse_toploc_calibration(json.dumps(document).encode())
    assert caught.value.reason == "calibration_invalid"


def test_a_number_that_is_none() -> None:
    """NaN is no limit, whoever makes the calibration."""
    with pytest.raises(FormatError):
        change(mantissa_mean=float("nan"))


def test_measuring() -> None:
    """Limits are three times what 99.9 % of batches stay under, and counts at least one."""
    found = measure([Distance(i % 3, 0, 0.5, 1.0) for i in range(100)])
    assert found == Limits(100, 6, 1.5, 3.0, 1)
    # One outlier in a thousand is beyond the 99.9th percentile; two are not.
    calm = [Distance(0, 0, 0.0, 0.0)] * 1000
    assert measure([*calm[:-1], Distance(9, 9, 9.0, 9.0)]) == Limits(1000, 1, 0.0, 0.0, 1)
    assert measure([*calm[:-2], *[Distance(9, 9, 9.0, 9.0)] * 2]) == Limits(1000, 27, 27.0, 27.0, 27)


@pytest.mark.parametrize(
    ("distances", "reason"),
    [
        ([Distance(0, 0, 0.0, 0.0)] * 99, "too_few_samples"),
        ([Distance(0, 0, 0.0, 0.0)] * 99 + [Distance(128, 0, None, None)], "calibration_invalid"),
    ],
)
def test_measuring_what_is_no_measurement(distances: list[Distance], reason: str) -> None:
    """A hundred batches are needed, each with something to compare."""
    with pytest.raises(FormatError) as caught:
        measure(distances)
    assert caught.value.reason == reason


def member(**changes: Any) -> dict[str, Any]:
    proofs = [base64.b64encode(p).decode() for p in PROOFS]
    return {"topk": 128, "batch_tokens": 32, "prefill": True, "proofs": proofs} | changes


def test_proofs_on_the_wire() -> None:
    """The member `toploc` of an answer is its proofs; without one, or with null, there are none."""
    assert read_stated({"toploc": member()}) == STATED
    assert read_stated({"toploc": member(prefill=False)}) == Stated(False, PROOFS)
    for absent in ({}, {"toploc": None}, {"toploc": member(proofs=None)}, {"toploc": {}}, []):
        assert read_stated(absent) is None


@pytest.mark.parametrize(
    "toploc",
    [
        [], "x", member(proofs="x"), member(topk=64), member(batch_tokens=16), member(prefill=1), member(prefill=None),
        member(proofs=[1]), member(proofs=["A" * 343]), member(proofs=["A" * 348]), member(proofs=["é" * 344]),
        member(proofs=["-" * 344]), member(proofs=[""] * 65_537),
    ],
)  # fmt: skip
def test_proofs_of_another_form(toploc: object) -> None:
    """A member that is there and is not of the form is malformed, not absent."""
    with pytest.raises(FormatError) as caught:
        read_stated({"toploc": toploc})
    assert caught.value.reason == "toploc_malformed"


def wire(**changes: Any) -> dict[str, Any]:
    batches = [{"indices": list(b.indices), "bf16_bits": list(b.bits)} for b in BATCHES]
    return {"topk": 128, "batch_tokens": 32, "prefill": True, "batches": batches} | changes


def test_activations_on_the_wire() -> None:
    """What a trusted execution answers is read as it stands."""
    assert read_activations(json.dumps(wire()).encode()) == RECOMPUTED


@pytest.mark.parametrize(
    "document",
    [
        [], {}, wire(batches=[]), wire(batches={}), wire(topk=127), wire(prefill="true"), wire(batches=[None]),
        wire(batches=[{}]), wire(batches=[{"indices": [0] * 127, "bf16_bits": [0] * 128}]),
        wire(batches=[{"indices": [0] * 128, "bf16_bits": [True] * 128}]),
        wire(batches=[{"indices": [-1] * 128, "bf16_bits": [0] * 128}]),
        wire(batches=[{"indices": [0.0] * 128, "bf16_bits": [0] * 128}]),
    ],
)  # fmt: skip
def test_activations_of_another_form(document: object) -> None:
    """Anything else is no activations: the trusted side's fault, and so nobody is accused."""
    with pytest.raises(FormatError) as caught:
        read_activations(json.dumps(document).encode())
    assert caught.value.reason == "toploc_activations"


def test_activations_that_are_no_json() -> None:
    """Bytes that are no JSON have the same reason."""
    with pytest.raises(FormatError) as caught:
        read_activations(b"{")
    assert caught.value.reason == "toploc_activations"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.sampled_from(["", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*member(), *wire(), "toploc", "indices", "bf16_bits"]), inner, max_size=5)
    ),
)


@given(_JSON, st.binary(max_size=60))
@settings(max_examples=300)
def test_anything_on_the_wire(value: Any, data: bytes) -> None:
    """Any JSON and any bytes are read or refused with the one error."""
    for call in (
        lambda: read_stated(value),
        lambda: read_stated({"toploc": value}),
        lambda: read_activations(json.dumps(value).encode()),
        lambda: read_activations(data),
        lambda: parse_toploc_calibration(data),
        lambda: parse_toploc_calibration(json.dumps(value).encode()),
        lambda: distance_of(data),
    ):
        try:
            call()
        except FormatError:
            continue


def distance_of(data: bytes) -> Distance:
    """The judge of any 258 bytes never crashes."""
    stated = Stated(False, ((data * 258)[:258],))
    judge_toploc(stated, Recomputed(False, BATCHES[:1]), 5, Spelling.SAME, CALIBRATION, "m", SUBJECT)
    return distance(polynomial=_decoded(stated.proofs[0]), trusted=BATCHES[0])


def _decoded(proof: bytes) -> Any:

    return decode(proof)
