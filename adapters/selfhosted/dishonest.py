"""A node that lies, for demonstrations and tests of whoever should notice. Never on by itself.

About its answers:

tamper      other bytes leave than those that were signed
swap-model  the answer and the receipt bear another model's name than the one asked for
wrong-key   receipts and running signatures are made by a key that is not in the keyset, under a key id that is
replay      the first answer of its form is given again, byte for byte, with its old receipt
truncate    JSON stops short of its Content-Length; a stream ends properly as HTTP, but before its terminator

About its sampling, where the model is its own:

sample-hot  a request for temperature 0 is answered at 0.3
wrong-seed  another seed than the one in the request is used

About its classifier (with --prove its proofs are genuine all the same):

other-text   another text than the one in the request is judged, and proved
wrong-score  scores and flags are the opposite of those that were computed, and proved

About its machine (with --tee; made in `machine`):

debug         the evidence is of a machine that its host can look into
unbound       genuine evidence that commits to another keyset
stale-tcb     the platform is behind its vendor's security level
foreign-root  the evidence is signed under another root than the one that stands in the folder
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.crypto.signatures import Ed25519Signer

from .identity import Key
from .moderation.model import ABOVE
from .wire import BLANK, Asked, Headers

ANSWER_MODES = ("tamper", "swap-model", "wrong-key", "replay", "truncate")
SAMPLING_MODES = ("sample-hot", "wrong-seed")
MODERATION_MODES = ("other-text", "wrong-score")
MACHINE_MODES = ("debug", "unbound", "stale-tcb", "foreign-root")
MODES = ANSWER_MODES + SAMPLING_MODES + MODERATION_MODES + MACHINE_MODES
HOT = 0.3  #: the temperature of `sample-hot`
OTHER_TEXT = "thank you, that is very kind"
OTHER_MODEL = "veriroute-lm-0-swapped"

_MODEL = re.compile(rb'("model"\s*:\s*")[^"\\]*"')
_SAID = re.compile(
    rb'"(?:content|text|delta|arguments|partial_json)"\s*:\s*"(?:\\.|[^"\\A-Za-z0-9])*([A-Za-z0-9])'
    rb'|"embedding"\s*:\s*[\["]-?(?:0\.)?([0-9A-Za-z])'
    rb'|"category_scores"\s*:\s*\{"[a-z]+"\s*:\s*([0-9])'
)


@dataclass
class Recording:
    """All that left for one request."""

    status: int = 200
    headers: Headers = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)


class Mischief:
    """Decides, request by request, whether to lie. The first `after` answers, or reports of evidence, are honest."""

    def __init__(self, mode: str, after: int = 0) -> None:
        self.mode = mode
        self._honest_left = after
        self._recordings: dict[tuple[str, bool, Asked], Recording] = {}

    def now(self) -> str | None:
        """The mode for this request; None while the node is still honest. Counts the request."""
        if self._honest_left > 0:
            self._honest_left -= 1
            return None
        return self.mode

    def recording(self, path: str, stream: bool, asked: Asked) -> Recording | None:
        return self._recordings.get(self._form(path, stream, asked))

    def record(self, path: str, stream: bool, asked: Asked, recording: Recording) -> None:
        self._recordings.setdefault(self._form(path, stream, asked), recording)

    @staticmethod
    def _form(path: str, stream: bool, asked: Asked) -> tuple[str, bool, Asked]:
        return path, stream, Asked(None, asked.inline, asked.chained)


def foreign(key: Key) -> Key:
    """A key that nobody attested, under the id of one that is."""
    return Key(key.key_id, Ed25519Signer(secrets.token_bytes(32)))


def misread(lie: str | None, document: Mapping[str, Any]) -> dict[str, Any]:
    """The request as a node with this lie reads it; what it signs is still the request that came."""
    read, temperature, seed = dict(document), document.get("temperature"), document.get("seed")
    if lie == "sample-hot" and type(temperature) in (int, float) and temperature == 0:
        read["temperature"] = HOT
    if lie == "wrong-seed" and type(seed) is int:
        read["seed"] = seed + 1
    if lie == "other-text":
        read["input"] = OTHER_TEXT
    return read


def swapped(data: bytes) -> bytes:
    """`data` with another model's name wherever an answer says one."""
    return _MODEL.sub(rb"\g<1>" + OTHER_MODEL.encode() + b'"', data)


def misjudged(body: bytes) -> bytes:
    """A classifier's answer with the opposite of each score, and the flags that follow; other answers as they are."""
    document = msgspec.json.decode(body)
    for result in document.get("results", ()):
        scores = {name: 1 - score for name, score in result["category_scores"].items()}
        flags = {name: score > ABOVE for name, score in scores.items()}
        result.update(flagged=any(flags.values()), categories=flags, category_scores=scores)
    return msgspec.json.encode(document)


def tampered(data: bytes) -> bytes:
    """`data` with the first letter or digit of what the model said replaced by another; as long as before.

    Unchanged when nothing is said in it.
    """
    match = _SAID.search(data)
    if match is None:
        return data
    at = match.start(match.lastindex or 1)
    letter = data[at : at + 1]
    other = (
        b"7" if letter.isdigit() and letter != b"7" else b"3" if letter == b"7" else b"X" if letter != b"X" else b"Y"
    )
    return data[:at] + other + data[at + 1 :]


def first_half(stream: bytes) -> bytes:
    """The first half of a stream's events, at least one and of several never the last."""
    ends = [match.end() for match in BLANK.finditer(stream)]
    return stream[: ends[max(1, len(ends) // 2) - 1]] if ends else b""
