"""TOPLOC: do the hidden states behind these tokens belong to the model that was named? (Ong et al., PMLR 267.)

A node commits, for every 32 tokens that it decodes and once for the prompt, to the 128 largest activations of the last
hidden layer: a polynomial over GF(65497) through (flat index mod m, bfloat16 bits), 258 bytes on the wire:

    u16be m || 128 x u16be coefficient, of ascending powers

Somebody trusted computes the activations again from the same tokens; the polynomial, evaluated at the indices of *its*
largest activations, should give nearly its bits. How near is a matter of the model, hence of calibration: with the
published thresholds, weights of four bits passed for the model every time, so there are no defaults here.

This shows that some execution of the model saw these tokens, not how the tokens were chosen. The published verifier is
native code that a zero modulus crashes; this codec is its own, and reads the sign, which the other ignores.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean, median

import msgspec

from gateway.errors import FormatError

P = 65497
TOP_K = 128
BATCH_TOKENS = 32
PROOF_LEN = 2 + 2 * TOP_K
MAX_BATCHES = 65_536


class Polynomial(msgspec.Struct, frozen=True):
    """A decoded proof of one batch: 1 < `modulus` <= 65497, coefficients below it of ascending powers, not all zero."""

    modulus: int
    coefficients: tuple[int, ...]

    def at(self, index: int) -> int:
        """The 16 bits that the proof states for the activation with flat index `index`."""
        x, y = index % self.modulus, 0
        for coefficient in reversed(self.coefficients):
            y = (y * x + coefficient) % P
        return y


class Activations(msgspec.Struct, frozen=True):
    """The largest activations of one batch by a trusted execution: distinct flat indices, and their bfloat16 bits."""

    indices: tuple[int, ...]
    bits: tuple[int, ...]


class Thresholds(msgspec.Struct, frozen=True):
    """The most that honest executions differ by, from the calibration of this very model that `calibration_id` names.

    `exponents` counts of 128; the means are of mantissa units (0 to 127). `signs` counts of 128.
    """

    calibration_id: str
    exponents: int
    mantissa_mean: float
    mantissa_median: float
    signs: int


class Distance(msgspec.Struct, frozen=True):
    """How far one batch is from the trusted execution. The mantissas are those of values with equal exponents.

    They are None when no exponent agrees: there is nothing to compare then, and the batch cannot pass.
    """

    exponents: int
    signs: int
    mantissa_mean: float | None
    mantissa_median: float | None


def decode(proof: bytes, *, top_k: int = TOP_K) -> Polynomial:
    """The polynomial of one batch. Raises `FormatError`, reason toploc_malformed, for anything the format has not."""
    if len(proof) != 2 + 2 * top_k:
        raise _malformed(f"a proof of one batch has {2 + 2 * top_k} bytes")
    words = [int.from_bytes(proof[start : start + 2], "big") for start in range(0, len(proof), 2)]
    modulus, coefficients = words[0], tuple(words[1:])
    if not 1 < modulus <= P:
        raise _malformed("the modulus is not between 2 and 65497")
    if max(coefficients) >= P:
        raise _malformed("a coefficient is not below 65497")
    if not any(coefficients):
        raise _malformed("the polynomial is zero everywhere")
    return Polynomial(modulus, coefficients)


def encode(activations: Activations) -> bytes:
    """The proof of `activations`: the largest modulus that keeps the indices apart, and Newton's interpolation.

    Raises `FormatError` when no modulus does, which takes two equal indices or very unlucky ones.
    """
    _hold(activations)
    modulus = _modulus(activations.indices)
    xs = [index % modulus for index in activations.indices]
    coefficients = _interpolated(xs, [value % P for value in activations.bits])
    return b"".join(word.to_bytes(2, "big") for word in (modulus, *coefficients))


def _modulus(indices: Sequence[int]) -> int:
    for modulus in range(P, 1, -1):
        if len({index % modulus for index in indices}) == len(indices):
            return modulus
    raise _malformed("no modulus keeps the indices apart")


def _interpolated(xs: list[int], ys: list[int]) -> list[int]:
    """The coefficients, of ascending powers, of the polynomial through the points, from its divided differences."""
    size = len(xs)
    for step in range(1, size):
        for i in range(size - 1, step - 1, -1):
            ys[i] = (ys[i] - ys[i - 1]) * pow(xs[i] - xs[i - step], -1, P) % P
    coefficients = [0] * size
    for i in range(size - 1, -1, -1):  # Horner: multiply by (x - xs[i]), add the next difference
        shifted = [0, *coefficients[:-1]]
        coefficients = [(up - xs[i] * same) % P for up, same in zip(shifted, coefficients, strict=True)]
        coefficients[0] = (coefficients[0] + ys[i]) % P
    return coefficients


def distance(polynomial: Polynomial, trusted: Activations) -> Distance:
    """How far `polynomial` is from the `trusted` activations. About 1 ms. Raises `FormatError` if these are not whole.

    A bfloat16 is one sign bit, eight of exponent, seven of mantissa.
    """
    _hold(trusted, top_k=len(polynomial.coefficients))
    exponents = signs = 0
    errors: list[int] = []
    for index, bits in zip(trusted.indices, trusted.bits, strict=True):
        stated = polynomial.at(index)
        signs += stated >> 15 != bits >> 15
        if stated >> 7 & 0xFF != bits >> 7 & 0xFF:
            exponents += 1
        else:
            errors.append(abs((stated & 0x7F) - (bits & 0x7F)))
    if not errors:
        return Distance(exponents, signs, None, None)
    return Distance(exponents, signs, fmean(errors), median(errors))


def within(found: Distance, allowed: Thresholds) -> bool:
    """Whether one batch is as near as `allowed`. Raises `FormatError` for thresholds that would let anything pass."""
    _hold_thresholds(allowed)
    if found.mantissa_mean is None or found.mantissa_median is None:
        return False
    return (
        found.exponents <= allowed.exponents
        and found.signs <= allowed.signs
        and found.mantissa_mean <= allowed.mantissa_mean
        and found.mantissa_median <= allowed.mantissa_median
    )


def batches(tokens: int, *, prefill: bool) -> int:
    """How many proofs an answer of `tokens` tokens has: one for every 32 begun, and one for the prompt if `prefill`."""
    return -(-tokens // BATCH_TOKENS) + prefill


def decode_all(proofs: Sequence[bytes], *, tokens: int, prefill: bool) -> tuple[Polynomial, ...]:
    """Every proof of an answer of `tokens` tokens.

    Raises `FormatError`: toploc_count for another number of proofs than the tokens need (an empty list would pass any
    check of its members), toploc_malformed for a proof that is none.
    """
    expected = batches(tokens, prefill=prefill)
    if tokens < 1 or expected > MAX_BATCHES or len(proofs) != expected:
        raise FormatError(f"{tokens} tokens have {expected} proofs, not {len(proofs)}", reason="toploc_count")
    return tuple(decode(proof) for proof in proofs)


def _hold(activations: Activations, *, top_k: int | None = None) -> None:
    count = len(activations.indices)
    if count != len(activations.bits) or not 1 <= count <= TOP_K or count != (top_k or count):
        raise FormatError("indices and bits are not one for each coefficient", reason="toploc_activations")
    if min(activations.indices) < 0 or len(set(activations.indices)) != count:
        raise FormatError("an index is negative or stands there twice", reason="toploc_activations")
    if not all(0 <= value <= 0xFFFF for value in activations.bits):
        raise FormatError("a value has more than 16 bits", reason="toploc_activations")


def _hold_thresholds(allowed: Thresholds) -> None:
    # At 128 mismatches, or a mean of 127, there is nothing left to be refused.
    finite = isfinite(allowed.mantissa_mean) and isfinite(allowed.mantissa_median)
    counts = 0 <= allowed.exponents < TOP_K and 0 <= allowed.signs < TOP_K
    if not (finite and counts and 0 <= allowed.mantissa_mean < 127 and 0 <= allowed.mantissa_median < 127):
        raise FormatError("thresholds that let everything pass are none", reason="toploc_uncalibrated")
    if not allowed.calibration_id:
        raise FormatError("thresholds come from a calibration", reason="toploc_uncalibrated")


def _malformed(message: str) -> FormatError:
    return FormatError(message, reason="toploc_malformed")
