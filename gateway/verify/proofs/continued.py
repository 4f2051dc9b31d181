"""An answer that is cut and continued by a reference that has chat alone: the questions, and the record.

The first tokens are handed over as text, so an answer can be cut only where its bytes are whole characters; one that
calls tools or reasons in a member of its own is not continued, for its text is not what the model wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from gateway.errors import FormatError

from .ask import Ask, ask_continuation
from .evidence import Artefact, ProofRecord
from .prefixes import Terms, judge_prefixes
from .rescored import Exchange
from .spelling import position_texts, spelling, stops_of
from .tokens import TOKEN_ID, Position, read_choice

_ELSEWHERE = ("reasoning_content", "reasoning", "tool_calls", "function_call")


def question(exchange: Exchange, request: Mapping[str, object], cut: int, horizon: int) -> Ask | None:
    """What to ask for the place `cut`, `horizon` tokens long; None where the text cannot be cut there.

    Raises `FormatError`, reason not_comparable, for an answer that is not its text alone, and as `ask_continuation`.
    """
    message = exchange.told.choice.get("message")
    if not isinstance(message, Mapping) or any(message.get(name) for name in _ELSEWHERE):
        raise FormatError("the answer is more than its text", reason="not_comparable")
    positions = exchange.scored.positions
    if any(position.token.startswith(TOKEN_ID) for position in positions):
        raise FormatError("the answer's tokens are numbers", reason="not_comparable")
    begun = _text(positions[:cut])
    return None if begun is None else ask_continuation(request, begun, horizon)


def judge_continued(
    exchange: Exchange, bodies: Mapping[int, bytes], terms: Terms, reference_id: str, *, ms: int | None = None
) -> ProofRecord:
    """The record by what the reference wrote: place of each cut to the body of its answer. Total; bodies that are no
    answers count as undecided."""
    told = [(cut, written) for cut, body in bodies.items() if (written := _written(body)) is not None]
    named = [Artefact(f"continued at {cut}", hashlib.sha256(body).hexdigest()) for cut, body in bodies.items()]
    positions = exchange.scored.positions
    spelt = spelling(position_texts(positions), exchange.told.choice, stops_of(exchange.request))
    subject = exchange.subject(reference_id, Artefact("answer", exchange.response_sha256), *named, ms=ms)
    return judge_prefixes(positions, told, spelt, terms, subject)


def _written(body: bytes) -> Sequence[Position] | None:
    try:
        return read_choice(body)[1].positions
    except FormatError:
        return None


def _text(positions: Sequence[Position]) -> str | None:
    """The text of these tokens; None where it ends within a character."""
    if any(position.raw is None for position in positions):
        text = "".join(position.token for position in positions)
        return None if "\ufffd" in text else text
    try:
        return b"".join(position.raw or b"" for position in positions).decode()
    except UnicodeDecodeError:
        return None
