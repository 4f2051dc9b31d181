"""Short ways to say positions, answers and subjects in the tests of statistical evidence."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import tiny_lm

from gateway.verify.proofs.calibration import Calibration, Statistic, measure
from gateway.verify.proofs.evidence import Artefact, Subject
from gateway.verify.proofs.reexec import CLIP, Sampling, greedy_margins, seeded_margins
from gateway.verify.proofs.reference import Reexecuted, read_reference
from gateway.verify.proofs.tokens import Position, read_choice

REQUEST, RESPONSE = (hashlib.sha256(name).hexdigest() for name in (b"request", b"response"))
SUBJECT = Subject(REQUEST, RESPONSE, "ref-1", (Artefact("answer", RESPONSE),))
SAMPLING = Sampling(1.0)


def position(token: str, logprob: float = -0.1, **top: float) -> Position:
    return Position(token, logprob, {token: logprob} | top)


def words(text: str, logprob: float = -0.1) -> tuple[Position, ...]:
    """One position a word; each also lists `alt`, one nat less likely."""
    return tuple(position(word, logprob, alt=logprob - 1) for word in text.split())


def entry(token: str, logprob: float = -0.1, **top: float) -> dict[str, Any]:
    listed = {token: logprob} | top
    return {
        "token": token,
        "logprob": logprob,
        "top_logprobs": [{"token": t, "logprob": x} for t, x in listed.items()],
    }


def body(tokens: str | list[dict[str, Any]], **changes: Any) -> bytes:
    """A chat completion of these tokens; `message` replaces members of the message, anything else of the choice."""
    listed = [entry(f" {word}") for word in tokens.split()] if isinstance(tokens, str) else tokens
    message = {"role": "assistant", "content": "".join(t["token"] for t in listed)} | changes.pop("message", {})
    return json.dumps({"choices": [{"message": message, "logprobs": {"content": listed}} | changes]}).encode()


def positions(answer: bytes) -> tuple[Position, ...]:
    return read_choice(answer)[1].positions


def reexecuted(prompt: list[int], answer: bytes, *, top: int = 20) -> Reexecuted:
    """The reference's view of an answer of the tiny model."""
    return _reexecuted(tuple(prompt), answer, top)


@lru_cache(4)  # what is asked of one answer is asked in a row
def _reexecuted(prompt: tuple[int, ...], answer: bytes, top: int) -> Reexecuted:
    ids = tiny_lm.ids_of(answer)
    return read_reference(tiny_lm.reference([*prompt], ids, top=top), prompt, ids)


def greedy(prompt: list[int], answer: bytes) -> tuple[float, ...]:
    return greedy_margins(reexecuted(prompt, answer).scores, tiny_lm.ids_of(answer))


def seeded(prompt: list[int], answer: bytes, seed: int) -> tuple[float, ...]:
    """The margins under the noise of `seed`, over the whole vocabulary."""
    ids = tiny_lm.ids_of(answer)
    rows = tiny_lm.log_probs(tiny_lm.model("fp32").logits([*prompt, *ids]))[len(prompt) - 1 : -1]
    noise = [tiny_lm.gumbel(seed, j).tolist() for j in range(len(ids))]
    return seeded_margins([dict(enumerate(row.tolist())) for row in rows], ids, noise, SAMPLING)


def calibration(statistic: Statistic, margins: list[tuple[float, ...]]) -> Calibration:
    clipped = [[min(m, CLIP) for m in answer] for answer in margins]
    return Calibration(1, "reexec", statistic, "ref-1", "tiny", "seed-7", "2026-01-31", (1, 2), measure(clipped))
