"""TOPLOC: a short commitment to what a model computed (Ong et al., PMLR 267).

A batch is the final states (tokens, width) of the prompt, or of 32 tokens of the answer, flattened. Of its values in
bfloat16 the 128 largest by magnitude count. Their proof is the polynomial over GF(65497) through the points

    (flat index mod m, the 16 bits of the value)        m: the largest modulus up to 65497 that keeps the indices apart

    u16be m || 128 x u16be coefficient, of ascending powers                                              258 bytes

Whoever reads the same tokens with the same model finds nearly the same values at nearly the same places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .model import F32
from .precision import bf16_bits

P = 65497  #: a prime
TOP_K = 128
BATCH = 32  #: tokens of an answer for each proof
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """The largest values of a batch, largest first: distinct flat indices, and bfloat16 bits."""

    indices: tuple[int, ...]
    bits: tuple[int, ...]


def batches(prompt: F32, answer: F32) -> list[Batch]:
    """The prompt's batch and then those of the answer's tokens, from final states (tokens, width of 128 or more)."""
    return [largest(prompt), *(largest(answer[i : i + BATCH]) for i in range(0, len(answer), BATCH))]


def largest(states: F32) -> Batch:
    """The `TOP_K` largest values of `states` by magnitude; of equals, those that come first."""
    bits = bf16_bits(states.reshape(-1))
    order = np.argsort(-(bits & 0x7FFF).astype(np.int32), kind="stable")[:TOP_K]  # bit patterns sort as magnitudes do
    return Batch(tuple(order.tolist()), tuple(bits[order].tolist()))


def prove(batch: Batch) -> bytes:
    """The proof of `batch`: 2 bytes, and 2 for each value. All zero, which nobody takes, when no modulus fits."""
    indices = np.array(batch.indices, np.int64)
    modulus = next((m for m in range(P, 0, -1) if len(np.unique(indices % m)) == len(indices)), 0)
    if modulus == 0:
        return bytes(2 + 2 * len(indices))
    coefficients = _interpolated(indices % modulus, np.array(batch.bits, np.int64) % P)
    return np.concatenate(([modulus], coefficients)).astype(">u2").tobytes()


def _interpolated(x: _Ints, y: _Ints) -> _Ints:
    """The coefficients, of ascending powers, of the polynomial through the points: Lagrange's form.

    With N(t) = prod(t - x_i), the polynomial is the sum of y_i / N'(x_i) times N(t) / (t - x_i); synthetic division
    gives all those quotients at once, a column each.
    """
    count = len(x)
    product = np.array([1], np.int64)  # N, of ascending powers
    for root in x:
        product = (np.append(0, product) - root * np.append(product, 0)) % P
    quotients = np.empty((count, count), np.int64)
    row = np.ones(count, np.int64)
    for power in range(count - 1, -1, -1):
        quotients[power] = row
        row = (product[power] + x * row) % P
    slopes = np.zeros(count, np.int64)  # N'(x_i): the quotient of x_i at x_i
    for power in range(count - 1, -1, -1):
        slopes = (slopes * x + quotients[power]) % P
    weights = y * _inverses()[slopes] % P
    return (quotients * weights % P).sum(axis=1) % P


@lru_cache(maxsize=1)
def _inverses() -> _Ints:
    """1/n modulo P at place n; place 0 means nothing."""
    found = [0, 1]
    for n in range(2, P):
        found.append(-(P // n) * found[P % n] % P)
    return np.array(found, np.int64)
