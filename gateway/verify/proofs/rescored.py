"""The records about one answer, from what a trusted reference said of its tokens. Three kinds share what was asked:

    reexec    would the reference have picked these tokens?              scores, and a calibration of margins
    logprob   are the node's log-probs the reference's?                  scores
    toploc    are the hidden states behind the tokens the reference's?   scores (for the spelling), activations, limits

What the node left out is `absent`, so that leaving it out never counts as having been tried; what the reference did not
bring, or what is missing here, is `inconclusive`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from . import distance, reexec
from .answer import Told, prompt_token_ids, read_object
from .ask import Prompt
from .calibration import Calibration
from .claim import Claim
from .evidence import Artefact, Kind, ProofRecord, Subject, Verdict
from .measured import changed, margins_of, spelled
from .reference import Reexecuted, positions, read_reference
from .spelling import Spelling
from .tokens import MAX_BODY, TOKEN_ID, Position, Presence, Scored, read_choice, token_ids
from .toploc_judge import ToplocCalibration, judge_toploc
from .toploc_wire import Stated, read_activations, read_stated


class Exchange(msgspec.Struct, frozen=True):
    """One request as it was sent, and its answer of one choice: digests, members, tokens.

    `problem` is why nothing of the answer can be judged (`malformed`, `token_ids_absent`, `empty_answer`), None where
    that much is there.
    """

    request_sha256: str
    response_sha256: str
    request: Mapping[str, object]
    told: Told
    scored: Scored
    problem: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return self.told.ids or ()

    def subject(self, reference_id: str | None = None, *artefacts: Artefact, ms: int | None = None) -> Subject:
        return Subject(self.request_sha256, self.response_sha256, reference_id, artefacts, ms=ms)


class Word(msgspec.Struct, frozen=True):
    """What a reference said. Bodies are those of its answers; of `scores` and `activations` either is there or the
    reason why it is not."""

    reference_id: str
    prompt: Prompt
    scores: bytes | None = None
    scores_problem: str | None = None
    activations: bytes | None = None
    activations_problem: str | None = None
    ms: int | None = None


def read_exchange(request: bytes, response: bytes) -> Exchange:
    """What can be told from both bodies. Total: what is malformed is a `problem`."""
    digests = hashlib.sha256(request).hexdigest(), hashlib.sha256(response).hexdigest()
    document: Mapping[str, object] = {}
    nothing = Told({}, {}, None, None)
    try:
        found = strict_json(request, max_bytes=MAX_BODY)
        document = found if isinstance(found, dict) else {}
        choice, scored = read_choice(response)
        answer = read_object(response)
        ids = token_ids(scored.positions, choice)
    except FormatError:
        return Exchange(*digests, document, nothing, Scored(Presence.ABSENT), "malformed")
    told = Told(answer, choice, ids, prompt_token_ids(answer))
    problem = "token_ids_absent" if ids is None else None if ids else "empty_answer"
    return Exchange(*digests, document, told, scored, problem)


def unjudged(exchange: Exchange, kind: Kind, reason: str, *, reference_id: str | None = None) -> ProofRecord:
    """The record of a kind that could not be judged: inconclusive, or absent where the node left something out."""
    verdict = Verdict.ABSENT if reason in _LEFT_OUT else Verdict.INCONCLUSIVE
    return exchange.subject(reference_id).record(kind, verdict, reason)


def judge_margins(
    exchange: Exchange, word: Word, claim: Claim, calibration: Calibration | None, terms: reexec.Terms, model: str
) -> ProofRecord:
    """The record of re-execution by all scores. Total."""
    named = (Artefact("calibration", calibration.id),) if calibration else ()
    subject = _subject(exchange, word, *named)
    try:
        told = _scores(exchange, word)
        margins = margins_of(claim, told, exchange.ids)
    except FormatError as error:
        return _open(subject, Kind.REEXEC, error)
    if calibration is not None and changed(calibration.revision, word.prompt):
        return _open(subject, Kind.REEXEC, FormatError("another build", reason="reference_changed"))
    terms = msgspec.structs.replace(terms, statistic=claim.statistic)
    return reexec.judge_reexec(margins, _spelled(told, exchange), calibration, model, terms, subject)


def judge_logprobs(
    exchange: Exchange, word: Word, calibration: Calibration | None, terms: distance.Terms, model: str
) -> ProofRecord:
    """The record of the log-probs' distance, by `calibration` or, without one, by the fixed similarity. Total."""
    named = (Artefact("calibration", calibration.id),) if calibration else ()
    subject = _subject(exchange, word, *named)
    claimed = exchange.scored.positions
    try:
        _told_enough(exchange, calibration)
        told = _scores(exchange, word)
        if calibration is not None and changed(calibration.revision, word.prompt):
            raise FormatError("another build", reason="reference_changed")
        by_id = all(p.token.startswith(TOKEN_ID) for p in claimed)
        ours = positions(told, exchange.ids, alternatives(claimed), by_id=by_id)
        if ours is None:
            raise FormatError("the reference does not spell every token", reason=Spelling.UNKNOWN.value)
    except FormatError as error:
        return _open(subject, Kind.LOGPROB, error)
    spelt = _spelled(told, exchange)
    return distance.judge_distance(claimed, ours, spelt, terms, subject, calibration=calibration, model=model)


def judge_states(
    exchange: Exchange, stated: Stated, word: Word, limits: ToplocCalibration | None, model: str
) -> ProofRecord:
    """The record of the TOPLOC proofs that came with the answer. Total."""
    named: tuple[Artefact, ...] = (Artefact("calibration", limits.id),) if limits else ()
    if word.activations is not None:
        named += (Artefact("activations", hashlib.sha256(word.activations).hexdigest()),)
    subject = _subject(exchange, word, *named)
    try:
        if limits is not None and changed(limits.revision, word.prompt):
            raise FormatError("another build", reason="reference_changed")
        spelt = _spelled(_scores(exchange, word), exchange)
        if word.activations is None:
            raise FormatError("no activations", reason=word.activations_problem)
        recomputed = read_activations(word.activations)
    except FormatError as error:
        return _open(subject, Kind.TOPLOC, error)
    return judge_toploc(stated, recomputed, len(exchange.ids), spelt, limits, model, subject).record


def read_proofs(exchange: Exchange) -> Stated | ProofRecord:
    """The TOPLOC proofs that came with the answer, or the record that says why there are none."""
    try:
        stated = read_stated(exchange.told.document)
    except FormatError as error:
        return exchange.subject().record(Kind.TOPLOC, Verdict.FAIL, error.reason)
    return stated or unjudged(exchange, Kind.TOPLOC, "proof_absent")


def alternatives(claimed: tuple[Position, ...]) -> int:
    """How many alternatives to a token the node told at most, at least one."""
    return max([1, *(len(position.top) for position in claimed)])


#: Reasons that are about what the node did not send.
_LEFT_OUT = frozenset(
    {"malformed", "token_ids_absent", "logprobs_absent", "too_few_alternatives", "proof_absent", "tokens_refused"}
)


def _subject(exchange: Exchange, word: Word, *artefacts: Artefact) -> Subject:
    if word.scores is not None:
        artefacts += (Artefact("reference's scores", hashlib.sha256(word.scores).hexdigest()),)
    answer = Artefact("answer", exchange.response_sha256)
    return exchange.subject(word.reference_id, answer, *artefacts, ms=word.ms)


def _told_enough(exchange: Exchange, calibration: Calibration | None) -> None:
    """Refuse log-probs that the node did not tell, or with fewer alternatives than are compared: it left them out."""
    claimed = exchange.scored.positions
    if not claimed:
        raise FormatError("no log-probs", reason=exchange.scored.presence.value)
    compared = (calibration.top if calibration else None) or 2
    if min(len(position.top) for position in claimed) < compared:
        raise FormatError("too few alternatives", reason="too_few_alternatives")


def _scores(exchange: Exchange, word: Word) -> Reexecuted:
    if word.scores is None:
        raise FormatError("no scores", reason=word.scores_problem)
    return read_reference(word.scores, word.prompt.ids, exchange.ids)


def _spelled(told: Reexecuted, exchange: Exchange) -> Spelling:
    return spelled(told, exchange.told, exchange.request)


def _open(subject: Subject, kind: Kind, error: FormatError) -> ProofRecord:
    reason = error.reason or "reference_malformed"
    return subject.record(kind, Verdict.ABSENT if reason in _LEFT_OUT else Verdict.INCONCLUSIVE, reason)
