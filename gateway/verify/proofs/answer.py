"""What an exchange tells of its tokens: the answer's own ids, and the prompt's as a server read them.

    prompt_token_ids: [numbers]      at the top of a chat completion, in `choices[0]` of a completion
    choices[0].token_ids: [numbers]  or tokens written `token_id:N` (`gateway.verify.proofs.tokens`)

Both are vLLM's, asked for with `return_token_ids`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .tokens import MAX_BODY, MAX_TOKENS, read_choice, token_ids

_MAX_ID = 2**31 - 1


class Told(msgspec.Struct, frozen=True):
    """An answer of one choice. `ids` and `prompt_ids` are None where the node did not tell them."""

    document: Mapping[str, object]
    choice: Mapping[str, object]
    ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None


def read_object(body: bytes) -> Mapping[str, object]:
    """The JSON object in `body`. Raises `FormatError` for what is no strict JSON, or another value."""
    document = strict_json(body, max_bytes=MAX_BODY)
    if not isinstance(document, dict):
        raise FormatError("the body is no JSON object")
    return document


def read_told(body: bytes) -> Told:
    """What the answer in `body` tells of tokens. Raises `FormatError` as `read_choice` and `token_ids` do."""
    choice, scored = read_choice(body)
    document = read_object(body)
    return Told(document, choice, token_ids(scored.positions, choice), prompt_token_ids(document))


def prompt_token_ids(document: Mapping[str, object]) -> tuple[int, ...] | None:
    """`prompt_token_ids` of an answer; None where it is not told, or is no list of token ids."""
    listed = document.get("prompt_token_ids")
    choices = document.get("choices")
    if listed is None and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        listed = choices[0].get("prompt_token_ids")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_TOKENS:
        return None
    return tuple(listed) if all(type(i) is int and 0 <= i <= _MAX_ID for i in listed) else None
