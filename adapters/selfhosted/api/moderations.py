"""POST /v1/moderations: a text's scores, with `--prove` each of them proved.

    {"input": "…"}  ->  {"id", "model", "results": [{"flagged", "categories": {…}, "category_scores": {…}}]}

With a proof the scores are the proven ones, and `zk` has it: {"circuit": "sha256:…", "proof": {"instances", "proof"}}.
"""

from __future__ import annotations

import secrets
from typing import Any

from adapters.selfhosted.moderation.model import ABOVE, CATEGORIES, MODEL, SCALE, features, load, scores
from adapters.selfhosted.moderation.prover import Prover
from gateway.errors import BadRequest, FormatError, InternalError
from gateway.verify.proofs import field

from . import fields
from .writer import encode


async def respond(d: fields.Document, label: str, prover: Prover | None) -> tuple[bytes, str]:
    """The body and its id. Raises `BadRequest`; `Busy` or `InternalError` when there is no proof where one is due."""
    try:
        seen = features(_text(d.get("input")))
    except FormatError as error:
        raise BadRequest(f"input: {error.message}", param="input") from None
    if prover is None:
        return _body(label, scores(load(), seen), {})
    proof = await prover.prove(seen)
    return _body(label, _proven(proof), {"zk": {"circuit": prover.circuit, "proof": proof}})


def _text(value: object) -> str:
    found = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(found, str):
        raise BadRequest(f"input must be a text, or a list of one: {MODEL} reads one at a time", param="input")
    return found


def _proven(proof: dict[str, Any]) -> list[float]:
    """The scores that the proof's last public values stand for: those of the circuit, which rounds."""
    try:
        last = [field.from_hex(value) for value in proof["instances"][0][-len(CATEGORIES) :]]
    except (FormatError, LookupError, TypeError):
        raise InternalError("no proof of this answer could be made") from None
    return [field.signed(value) / (1 << SCALE) for value in last]


def _body(label: str, found: list[float], more: dict[str, Any]) -> tuple[bytes, str]:
    name = f"modr-{secrets.token_hex(12)}"
    by_category = dict(zip(CATEGORIES, found, strict=True))
    flags = {category: score > ABOVE for category, score in by_category.items()}
    result = {"flagged": any(flags.values()), "categories": flags, "category_scores": by_category}
    return encode({"id": name, "model": label, "results": [result], **more}), name
