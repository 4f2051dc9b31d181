"""From a text to the numbers that a circuit takes: functions that anybody can compute again, by name.

A circuit's inputs are numbers, and a request to a classifier has a text. What stands between the two is part of the
statement, so it is no choice of the node's: a manifest names one function of this closed list (`features` of an
input), and the instances are computed with it from the request that was sent.

veriroute-text-v1 (128 numbers): a word is a longest run of ASCII letters, in lower case; everything else, other
alphabets too, only parts words. Number b is how many of the text's words have SHA-256(word)[0] mod 128 = b, but 4 at
most. The text has at most 8,192 characters, and may stand alone or as a list of one.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from gateway.errors import FormatError

#: Characters of a text: reading that many takes a few milliseconds at worst, on the event loop.
MAX_TEXT = 8_192
MAX_COUNT = 4
_WORD = re.compile(r"[A-Za-z]+")


class Features(msgspec.Struct, frozen=True):
    """A feature function: `count` numbers of a JSON value. `compute` raises `FormatError` for a value it is not for."""

    count: int
    compute: Callable[[object], list[float]]


def text_v1(value: object) -> list[float]:
    """veriroute-text-v1 of `value`. Raises `FormatError` for anything but one text of at most `MAX_TEXT` characters."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise FormatError("features are of a text, or of a list of one text")
    if len(value) > MAX_TEXT:
        raise FormatError(f"features are of at most {MAX_TEXT} characters")
    found = [0] * _BUCKETS
    for word, times in Counter(_WORD.findall(value)).items():
        found[hashlib.sha256(word.lower().encode()).digest()[0] % _BUCKETS] += times
    return [float(min(times, MAX_COUNT)) for times in found]


_BUCKETS = 128
TEXT_V1 = "veriroute-text-v1"
FEATURES: Mapping[str, Features] = MappingProxyType({TEXT_V1: Features(_BUCKETS, text_v1)})
