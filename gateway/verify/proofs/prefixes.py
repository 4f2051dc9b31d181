"""Re-execution where the reference is a plain chat API: let it go on from a cut answer, and look how they part.

At three places of the answer the reference is given everything before, and asked for a few tokens more at temperature 0
with log-probs (`continue_final_message`, or a prefilled assistant message). What it writes is compared with what the
node wrote there, by the near-tie rule of a quorum. The places follow from a seed that the node does not know while it
answers. Weaker than margins: some two dozen tokens are looked at, not all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from gateway.errors import FormatError

from .agreement import Agreement, NearTie, Pair, compare
from .draws import below
from .evidence import Kind, ProofRecord, Subject, Verdict
from .spelling import Spelling
from .tokens import Position

SEED_BYTES = 32


class Terms(msgspec.Struct, frozen=True):
    """`cuts` places, `horizon` tokens from each, `needed` of them in agreement and none in disagreement."""

    cuts: int = 3
    horizon: int = 8
    needed: int = 2
    min_tokens: int = 16
    near_tie: NearTie = NearTie(min_prefix=4)


def cut_points(seed: bytes, request_id: str, tokens: int, terms: Terms) -> tuple[int, ...]:
    """Where to cut an answer of so many tokens: distinct, ascending, each with `horizon` tokens behind it.

    Empty when the answer is too short for `cuts` places or has fewer than `min_tokens`. The same for everybody who has
    the 32-byte `seed`. Raises `FormatError` for a seed of another length.
    """
    if len(seed) != SEED_BYTES:
        raise FormatError(f"a seed has {SEED_BYTES} bytes")
    places = tokens - terms.horizon + 1
    if tokens < terms.min_tokens or places < terms.cuts:
        return ()
    key = hashlib.sha256(b"veriroute cut points\0" + seed + request_id.encode("utf-8", "surrogatepass")).digest()
    chosen: list[int] = []
    counter = 0
    while len(chosen) < terms.cuts:
        place, counter = below(places, key, counter)
        if place not in chosen:
            chosen.append(place)
    return tuple(sorted(chosen))


def judge_prefixes(
    answer: Sequence[Position],
    continuations: Sequence[tuple[int, Sequence[Position]]],
    spelt: Spelling,
    terms: Terms,
    subject: Subject,
) -> ProofRecord:
    """Judge an answer by what the reference wrote from each cut: pairs of a place and its tokens from there on.

    One disagreement fails it. Passing takes `needed` agreements; cuts that did not come back count as undecided. The
    statistic is the number of agreements.
    """
    reason = _undecided(answer, spelt, terms)
    if reason is not None:
        verdict = Verdict.FAIL if spelt is Spelling.DIFFERS and answer else Verdict.INCONCLUSIVE
        return subject.record(Kind.REEXEC, verdict, reason, tokens=len(answer))
    pairs = [_at(answer, cut, written, terms) for cut, written in dict(continuations).items()]
    agreed = sum(pair.agreement is Agreement.AGREE for pair in pairs)
    verdict, reason = _verdict(pairs, agreed, terms)
    return subject.record(
        Kind.REEXEC,
        verdict,
        reason,
        statistic=float(agreed),
        threshold=float(terms.needed),
        tokens=sum(pair.prefix for pair in pairs),
    )


def _undecided(answer: Sequence[Position], spelt: Spelling, terms: Terms) -> str | None:
    if not answer:
        return "empty_answer"
    if spelt is not Spelling.SAME:
        return spelt.value
    return "too_few_tokens" if len(answer) < terms.min_tokens else None


def _at(answer: Sequence[Position], cut: int, written: Sequence[Position], terms: Terms) -> Pair:
    if not 0 <= cut <= len(answer) - terms.horizon:
        return Pair(Agreement.INCONCLUSIVE, "cut_out_of_range")
    return compare(answer[cut : cut + terms.horizon], written[: terms.horizon], terms.near_tie)


def _verdict(pairs: Sequence[Pair], agreed: int, terms: Terms) -> tuple[Verdict, str]:
    against = next((pair.reason for pair in pairs if pair.agreement is Agreement.DISAGREE), None)
    if against is not None:
        return Verdict.FAIL, against
    if agreed < max(terms.needed, 1):
        return Verdict.INCONCLUSIVE, "too_few_cuts_agree"
    return Verdict.PASS, "continuations_agree"
