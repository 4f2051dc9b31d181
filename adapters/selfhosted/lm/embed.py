"""Text embeddings: hashed words, word pairs and letter triples, and the model's own token vectors, in one space.

Nothing here is random: features are placed and signed by BLAKE2b, the model's vectors are turned by a fixed matrix of
signs from SHAKE-256. A shorter embedding is the front of the long one, normalised again.
"""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache

import numpy as np

from .model import F32, Weights

DIMENSIONS = 256
_WORD = re.compile(r"\w+|[^\w\s]")
_COMMON = frozenset(
    "a an the is are was be of to in on at and or it its this that for with by as what how do does i you me my".split()
)
_MODEL_SHARE = 0.35  # of the length of the result; the rest is counted features


def embed(weights: Weights, text: str, dimensions: int = DIMENSIONS) -> F32:
    """A unit vector (dimensions,) of `text`; the zero text has a fixed direction."""
    vector = np.zeros(DIMENSIONS, np.float64)
    words = [w.lower() for w in _WORD.findall(text)]
    for before, word in zip(["", *words], words, strict=False):
        common = word in _COMMON or not word.isalnum()
        _add(vector, f"w {word}", 0.15 if common else 1.0)
        if before:
            _add(vector, f"p {before} {word}", 0.3)
        if not common:
            marked = f"<{word}>"
            share = 0.8 / math.sqrt(max(1, len(marked) - 2))
            for i in range(len(marked) - 2):
                _add(vector, f"t {marked[i : i + 3]}", share)
    counted = _unit(vector)
    tokens = weights.tokenizer.encode(text)
    if tokens:
        centred = weights.embed[tokens].mean(axis=0) - weights.embed.mean(axis=0)
        counted = (
            counted * (1 - _MODEL_SHARE) + _unit(centred.astype(np.float64) @ _signs(weights.width)) * _MODEL_SHARE
        )
    return _unit(counted[:dimensions]).astype(np.float32)


def _add(vector: np.ndarray, feature: str, weight: float) -> None:
    digest = hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=6).digest()
    for place, sign in ((digest[0:2], digest[4]), (digest[2:4], digest[5])):
        vector[int.from_bytes(place, "big") % DIMENSIONS] += weight if sign & 1 else -weight


@lru_cache(maxsize=2)
def _signs(width: int) -> np.ndarray:
    bits = np.frombuffer(hashlib.shake_256(b"veriroute-embed-1").digest(width * DIMENSIONS // 8), np.uint8)
    return np.unpackbits(bits).reshape(width, DIMENSIONS).astype(np.float64) * 2 - 1


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.sqrt((vector * vector).sum()))
    if length == 0:
        vector = np.zeros_like(vector)
        vector[0] = 1
        return vector
    return vector / length
