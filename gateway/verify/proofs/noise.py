"""The noise of a sampler whose draws can be repeated: `veriroute-lm/1`, which the reference node samples with.

    u = ((w >> 12) + 1/2) / 2^52        G = -ln(-ln u)

w is the big-endian 64-bit word number t of SHAKE-256 over the ASCII text `veriroute-lm/1 <seed> <choice> <position>`,
for token t of the vocabulary at a position counted from 0 in each choice. Whoever has the seed has the noise; other
engines draw with generators of their own (vLLM: one of the accelerator's), whose noise this is not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from gateway.errors import FormatError

NAME = "veriroute-lm/1"
#: Vocabularies are smaller. Without a bound one token id of a hostile reference would cost gigabytes.
MAX_VOCABULARY = 1 << 18


def noise(seed: int, choice: int, position: int, tokens: Iterable[int]) -> dict[int, float]:
    """Gumbel noise for each of `tokens`, ids from 0, at `position` of answer number `choice`.

    Raises `FormatError` with the reason `noise_incomplete` for an id that no vocabulary has.
    """
    wanted = sorted(set(tokens))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < MAX_VOCABULARY:
        raise FormatError(f"a token id is not below {MAX_VOCABULARY}", reason="noise_incomplete")
    text = f"{NAME} {seed} {choice} {position}".encode()
    words = hashlib.shake_256(text).digest(8 * (wanted[-1] + 1)) if wanted else b""
    return {token: _gumbel(int.from_bytes(words[8 * token : 8 * token + 8], "big")) for token in wanted}


def _gumbel(word: int) -> float:
    uniform = ((word >> 12) + 0.5) / 2.0**52  # exact, and never 0 or 1
    return -math.log(-math.log(uniform))
