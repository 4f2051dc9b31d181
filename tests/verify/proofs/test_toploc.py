"""TOPLOC: the codec, the distance, and thresholds that come from a calibration or not at all."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.proofs import toploc
from gateway.verify.proofs.toploc import Activations, Distance, Thresholds

CALIBRATED = Thresholds("cal-1", exponents=4, mantissa_mean=2.0, mantissa_median=1.5, signs=2)
ZEROS = bytes(256)


def activations(seed: int = 1, count: int = 128, span: int = 32 * 4096) -> Activations:
    source = random.Random(seed)
    indices = tuple(source.sample(range(span), count))
    return Activations(indices, tuple(source.randrange(0x4000, 0x4200) | source.choice((0, 0x8000)) for _ in indices))


@pytest.mark.parametrize("seed", range(5))
def test_a_proof_of_the_same_activations_is_at_distance_nothing(seed: int) -> None:
    """What was encoded is found again at its own indices, sign, exponent and mantissa."""
    trusted = activations(seed)
    proof = toploc.encode(trusted)
    assert len(proof) == toploc.PROOF_LEN == 258
    assert toploc.distance(toploc.decode(proof), trusted) == Distance(0, 0, 0.0, 0.0)


def test_the_polynomial_goes_through_the_points() -> None:
    """A parabola of three points is its own coefficients, behind the largest modulus."""
    points = Activations((1, 2, 3), (1 + 2 + 3, 1 + 4 + 12, 1 + 6 + 27))
    assert toploc.encode(points).hex() == "ffd9" + "000100020003"


def test_the_modulus_keeps_the_indices_apart() -> None:
    """Indices that fall together modulo 65497 get the next modulus at which they do not."""
    proof = toploc.encode(Activations((0, 65497), (7, 9)))
    assert int.from_bytes(proof[:2], "big") == 65496
    assert toploc.decode(proof, top_k=2).at(65497) == 9


def test_indices_that_no_modulus_keeps_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every modulus brings two indices together there is no proof; shown with a small field."""
    monkeypatch.setattr(toploc, "P", 11)
    with pytest.raises(FormatError):
        toploc.encode(Activations((0, math.lcm(*range(2, 12))), (1, 2)))


def flipped(trusted: Activations, mask: int, count: int) -> Activations:
    bits = tuple(value ^ mask if at < count else value for at, value in enumerate(trusted.bits))
    return Activations(trusted.indices, bits)


@pytest.mark.parametrize(
    ("mask", "count", "expected"),
    [
        (0x8000, 128, Distance(0, 128, 0.0, 0.0)),
        (0x0080, 3, Distance(3, 0, 0.0, 0.0)),
        (0x0001, 128, Distance(0, 0, 1.0, 1.0)),
        (0x0001, 32, Distance(0, 0, 0.25, 0.0)),
        (0x7F80, 128, Distance(128, 0, None, None)),
    ],
)
def test_sign_exponent_and_mantissa_are_told_apart(mask: int, count: int, expected: Distance) -> None:
    """Each part of a bfloat16 that differs is counted as that part."""
    trusted = activations()
    assert toploc.distance(toploc.decode(toploc.encode(flipped(trusted, mask, count))), trusted) == expected


MALFORMED = {
    "empty": b"",
    "no coefficients": b"\xff\xd9",
    "one byte short": b"\xff\xd9" + b"\0\1" * 127 + b"\0",
    "one coefficient more": b"\xff\xd9" + b"\0\1" * 129,
    "modulus 0": b"\0\0" + b"\0\1" * 128,
    "null proof": b"\0\0" + ZEROS,
    "modulus 1": b"\0\1" + b"\0\1" * 128,
    "modulus 65498": b"\xff\xda" + b"\0\1" * 128,
    "coefficient 65497": b"\xff\xd9" + b"\xff\xd9" + b"\0\1" * 127,
    "null polynomial": b"\xff\xd9" + ZEROS,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_proof_is_refused(case: str) -> None:
    """What the format has no meaning for is refused before any arithmetic."""
    with pytest.raises(FormatError) as caught:
        toploc.decode(MALFORMED[case])
    assert caught.value.reason == "toploc_malformed"


def test_the_edges_of_the_format_are_accepted() -> None:
    """The smallest and the largest modulus and coefficient are proofs."""
    assert toploc.decode(b"\0\2" + b"\0\1" * 128).modulus == 2
    assert toploc.decode(b"\xff\xd9" + b"\xff\xd8" * 128).coefficients == (65496,) * 128


@given(st.binary(min_size=250, max_size=262) | st.binary(min_size=258, max_size=258))
@settings(max_examples=300)
def test_any_bytes_are_a_proof_or_refused(data: bytes) -> None:
    """A proof that is accepted reads back as its bytes and evaluates to 16 bits."""
    try:
        found = toploc.decode(data)
    except FormatError:
        return
    assert b"".join(word.to_bytes(2, "big") for word in (found.modulus, *found.coefficients)) == data
    assert 0 <= found.at(2**40) < 2**16


@pytest.mark.parametrize(
    ("tokens", "prefill", "count"), [(1, False, 1), (32, False, 1), (33, False, 2), (64, True, 3), (65, True, 4)]
)
def test_an_answer_has_a_proof_for_every_batch(tokens: int, prefill: bool, count: int) -> None:
    """There are exactly as many proofs as batches begun, and one for the prompt."""
    proof = toploc.encode(activations())
    assert toploc.batches(tokens, prefill=prefill) == count
    assert len(toploc.decode_all([proof] * count, tokens=tokens, prefill=prefill)) == count
    for other in (0, count - 1, count + 1):
        with pytest.raises(FormatError) as caught:
            toploc.decode_all([proof] * other, tokens=tokens, prefill=prefill)
        assert caught.value.reason == "toploc_count"


@pytest.mark.parametrize("tokens", [0, -1, -64, 32 * 65_537])
def test_an_answer_without_tokens_or_without_end_has_no_proofs(tokens: int) -> None:
    """No number of proofs fits no tokens: an empty list is never enough."""
    with pytest.raises(FormatError):
        toploc.decode_all([], tokens=tokens, prefill=False)


def test_one_bad_proof_spoils_the_list() -> None:
    """Every proof of the list is decoded."""
    with pytest.raises(FormatError):
        toploc.decode_all([toploc.encode(activations()), MALFORMED["null proof"]], tokens=64, prefill=False)


NEAR = Distance(exponents=4, signs=2, mantissa_mean=2.0, mantissa_median=1.5)


def test_within_the_calibration_passes() -> None:
    """A distance of exactly what honest executions differ by is within."""
    assert toploc.within(NEAR, CALIBRATED)


@pytest.mark.parametrize(
    "found",
    [
        Distance(5, 2, 2.0, 1.5),
        Distance(4, 3, 2.0, 1.5),
        Distance(4, 2, 2.01, 1.5),
        Distance(4, 2, 2.0, 1.51),
        Distance(128, 0, None, None),
        Distance(0, 0, 0.0, None),
    ],
    ids=str,
)
def test_beyond_the_calibration_fails(found: Distance) -> None:
    """Each of the four numbers alone is enough to refuse."""
    assert not toploc.within(found, CALIBRATED)


@pytest.mark.parametrize(
    "allowed",
    [
        Thresholds("", 4, 2.0, 1.5, 2),
        Thresholds("c", 128, 2.0, 1.5, 2),
        Thresholds("c", -1, 2.0, 1.5, 2),
        Thresholds("c", 4, float("nan"), 1.5, 2),
        Thresholds("c", 4, 2.0, float("inf"), 2),
        Thresholds("c", 4, 127.0, 1.5, 2),
        Thresholds("c", 4, 2.0, 127.0, 2),
        Thresholds("c", 4, -1.0, 1.5, 2),
        Thresholds("c", 4, 2.0, 1.5, 128),
    ],
    ids=str,
)
def test_thresholds_that_let_anything_pass_are_refused(allowed: Thresholds) -> None:
    """Without a calibration, or with one that refuses nothing, there is no verdict."""
    with pytest.raises(FormatError) as caught:
        toploc.within(NEAR, allowed)
    assert caught.value.reason == "toploc_uncalibrated"


@pytest.mark.parametrize(
    "trusted",
    [
        Activations((), ()),
        Activations((1, 1), (5, 6)),
        Activations((1, -2), (5, 6)),
        Activations((1, 2), (5,)),
        Activations((1, 2), (5, 65536)),
        Activations((1, 2), (-5, 6)),
        Activations((1, 2, 3), (5, 6, 7)),
        Activations(tuple(range(129)), (1,) * 129),
    ],
    ids=["none", "index twice", "negative index", "bits short", "17 bits", "negative bits", "three of two", "129"],
)
def test_activations_that_are_not_whole_are_refused(trusted: Activations) -> None:
    """The trusted side's values are held to the format as well."""
    two = toploc.decode(toploc.encode(Activations((1, 2), (5, 6))), top_k=2)
    with pytest.raises(FormatError) as caught:
        toploc.distance(two, trusted)
    assert caught.value.reason == "toploc_activations"
