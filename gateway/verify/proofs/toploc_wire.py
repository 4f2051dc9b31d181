"""TOPLOC on the wire: what an answer brings along, and what a trusted execution answers.

answer        {"toploc": {"topk": 128, "batch_tokens": 32, "prefill": true, "proofs": ["<base64>", …]}, …}
activations   {"topk": 128, "batch_tokens": 32, "prefill": true,
               "batches": [{"indices": [128 numbers], "bf16_bits": [128 numbers]}, …]}
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .tokens import MAX_BODY
from .toploc import BATCH_TOKENS, MAX_BATCHES, PROOF_LEN, TOP_K, Activations

_BASE64_LEN = -(-PROOF_LEN // 3) * 4


class Stated(msgspec.Struct, frozen=True):
    """The proofs that came with an answer, in order; the prompt's first if `prefill`. They are not decoded yet."""

    prefill: bool
    proofs: tuple[bytes, ...]


class Recomputed(msgspec.Struct, frozen=True):
    """What a trusted execution has for each batch, the prompt's first if `prefill`."""

    prefill: bool
    batches: tuple[Activations, ...]


def read_stated(answer: object) -> Stated | None:
    """The proofs in the member `toploc` of `answer`, as `strict_json` returns it; None where there are none.

    Raises `FormatError`, reason toploc_malformed, for a member of another form.
    """
    member = answer.get("toploc") if isinstance(answer, Mapping) else None
    listed = member.get("proofs") if isinstance(member, Mapping) else None
    if member is None or (isinstance(member, Mapping) and listed is None):
        return None
    if not isinstance(member, Mapping) or not isinstance(listed, list) or len(listed) > MAX_BATCHES:
        raise FormatError("toploc.proofs is no list of proofs", reason="toploc_malformed")
    return Stated(_prefill(member, "toploc_malformed"), tuple(map(_proof, listed)))


def read_activations(body: bytes) -> Recomputed:
    """The activations in the `body` of a trusted execution. Raises `FormatError`, reason toploc_activations."""
    try:
        document = strict_json(body, max_bytes=MAX_BODY, max_depth=8)
    except FormatError as error:
        raise FormatError(error.message, reason="toploc_activations") from None
    listed = document.get("batches") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(listed, list) or not 0 < len(listed) <= MAX_BATCHES:
        raise _no_activations("there are no batches of activations")
    return Recomputed(_prefill(document, "toploc_activations"), tuple(map(_batch, listed)))


def _prefill(document: Mapping[str, object], reason: str) -> bool:
    sizes = (document.get("topk"), document.get("batch_tokens"))
    prefill = document.get("prefill")
    if sizes != (TOP_K, BATCH_TOKENS) or not isinstance(prefill, bool):
        raise FormatError(f"not {TOP_K} values for every {BATCH_TOKENS} tokens, or prefill is not told", reason=reason)
    return prefill


def _proof(text: object) -> bytes:
    if not isinstance(text, str) or len(text) != _BASE64_LEN:
        raise FormatError(f"a proof is base64 of {PROOF_LEN} bytes", reason="toploc_malformed")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("a proof is no base64", reason="toploc_malformed") from None


def _batch(value: object) -> Activations:
    if not isinstance(value, Mapping):
        raise _no_activations("a batch is no object")
    return Activations(_numbers(value.get("indices")), _numbers(value.get("bf16_bits")))


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != TOP_K or not all(type(n) is int and n >= 0 for n in value):
        raise _no_activations(f"a batch has not {TOP_K} indices and as many values")
    return tuple(value)


def _no_activations(message: str) -> FormatError:
    return FormatError(message, reason="toploc_activations")
