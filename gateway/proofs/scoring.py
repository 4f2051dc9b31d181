"""One answer before a trusted reference: what is asked of it once, and what each kind makes of it.

1. what the request and the answer alone decide     a claim that cannot be asked again, tokens that were not told
2. the reference reads the prompt                   the first that does; one that has chat alone continues the answer
3. it scores prompt and answer, and for TOPLOC tells its activations, side by side
4. the records                                      in a thread: bodies may have megabytes
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from gateway.errors import FormatError, ServiceError
from gateway.exchange.amend import LOGPROB, REEXEC, TOPLOC, ZK
from gateway.policy.schema import CompiledPolicy
from gateway.references import References
from gateway.settings import Reference
from gateway.verify.proofs import ask, continued, distance, prefixes, reexec, rescored
from gateway.verify.proofs.calibration import ONE_PERCENT, Calibration, Statistic
from gateway.verify.proofs.claim import Claim, claim_by
from gateway.verify.proofs.evidence import Kind, ProofRecord
from gateway.verify.proofs.rescored import Exchange, Word
from gateway.verify.proofs.toploc_judge import ToplocCalibration
from gateway.verify.proofs.toploc_wire import Stated

KINDS = {REEXEC: Kind.REEXEC, LOGPROB: Kind.LOGPROB, TOPLOC: Kind.TOPLOC, ZK: Kind.ZK}


#: What a chat API without vLLM's members does with them: it does not know them, or refuses the request.
_CHAT_ALONE = ("reference_incomplete", "reference_refused")


class Scoring:
    """One answer before one reference: what is asked of it once, and what each kind makes of it."""

    def __init__(
        self,
        references: References,
        policy: CompiledPolicy,
        model: str,
        exchange: Exchange,
        until: float,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._references = references
        self._policy = policy
        self._model = model
        self._exchange = exchange
        self._until = until
        self._entropy = entropy
        self._started = time.perf_counter()
        self._claim = claim_by(exchange.request, policy.reexec.claims)
        self._stated: Stated | None = None

    async def records(self, kinds: frozenset[str]) -> list[ProofRecord]:
        done, left = self._settled(kinds)
        if not left:
            return done
        reason, named = "reference_absent", None
        for reference in self._candidates(left):
            found = await self._by(reference, left)
            if not isinstance(found, str):
                return done + found
            reason, named = found, reference
        return done + self._all(left, reason, named)

    async def _by(self, reference: Reference, kinds: frozenset[str]) -> list[ProofRecord] | str:
        """The records by this reference, or the reason why it is of no use.

        Which way it judges follows from what it makes of the request alone, which no node has a say in.
        """
        try:
            body = await self._ask(reference, ask.ask_prompt(self._request))
            prompt = await asyncio.to_thread(ask.read_prompt, body)
        except (ServiceError, FormatError) as error:
            reason = error.reason or "reference_malformed"
            # Where it was calibrated it tells scores. That it is too busy now is no reason for a weaker look.
            if reason in _CHAT_ALONE and REEXEC in kinds and self._margins(reference) is None:
                return await self._continued(reference, kinds, reason)
            return reason
        return await self._by_scores(reference, prompt, kinds)

    @property
    def _request(self) -> dict[str, object]:
        return {**self._exchange.request, "model": self._model}

    def _settled(self, kinds: frozenset[str]) -> tuple[list[ProofRecord], frozenset[str]]:
        """The kinds that need no reference to be told from, and the rest."""
        done: list[ProofRecord] = []
        for kind in sorted(kinds):
            record = self._settle(kind)
            done += [] if record is None else [record]
        return done, kinds - {f"proof_{record.kind.value}" for record in done}

    def _settle(self, kind: str) -> ProofRecord | None:
        exchange = self._exchange
        if exchange.problem == "malformed":
            return self._none(kind, "malformed")
        if kind == REEXEC and isinstance(self._claim, str):
            return self._none(kind, self._claim)
        if kind == LOGPROB and not exchange.scored.positions:
            return self._none(kind, exchange.scored.presence.value)
        if kind == TOPLOC:
            found = rescored.read_proofs(exchange)
            if isinstance(found, ProofRecord):
                return found
            self._stated = found
        # Where the reference has chat alone, texts and log-probs of the answer are enough.
        usable = kind == REEXEC and exchange.scored.positions
        return self._none(kind, exchange.problem) if exchange.problem is not None and not usable else None

    def _candidates(self, kinds: frozenset[str]) -> list[Reference]:
        """The references that may be asked, those first that everything is there for."""
        found = self._references.of(self._model, self._policy.reexec.references)
        return sorted(found, key=lambda reference: not self._calibrated(reference, kinds))

    def _calibrated(self, reference: Reference, kinds: frozenset[str]) -> bool:
        margins = REEXEC not in kinds or self._margins(reference) is not None
        near = LOGPROB not in kinds or self._near(reference) is not None
        return margins and near and (TOPLOC not in kinds or self._limits(reference) is not None)

    def _margins(self, reference: Reference) -> Calibration | None:
        assert isinstance(self._claim, Claim)
        return self._quantiles(self._claim.statistic, reference)

    def _near(self, reference: Reference) -> Calibration | None:
        return self._quantiles(Statistic.LOGPROB_DISTANCE, reference)

    def _quantiles(self, statistic: Statistic, reference: Reference) -> Calibration | None:
        calibrations, allowed = self._references.calibrations, self._policy.reexec.calibrations
        return calibrations.quantiles(statistic, reference, self._model, allowed)

    def _limits(self, reference: Reference) -> ToplocCalibration | None:
        return self._references.calibrations.limits(reference, self._model, self._policy.toploc.calibrations)

    async def _by_scores(self, reference: Reference, prompt: ask.Prompt, kinds: frozenset[str]) -> list[ProofRecord]:
        """The records by the reference's scores, and for TOPLOC its activations, asked for side by side."""
        ids = self._exchange.ids
        if not ids:
            return self._all(kinds, self._exchange.problem or "empty_answer", reference)
        limits = self._limits(reference) if TOPLOC in kinds else None
        scores = ask.ask_scores(self._model, prompt.ids, ids, self._likeliest(kinds))
        states = ask.ask_activations(self._model, prompt.ids, ids)
        (body, why), (values, why_not) = await asyncio.gather(
            self._try(reference, scores),
            self._try(reference, states if limits is not None else None, "toploc_uncalibrated"),
        )
        # It answered for the prompt, so what it refuses is what the node sent.
        why = "tokens_refused" if why == "reference_refused" else why
        word = Word(reference.id, prompt, body, why, values, why_not, ms=self._ms())
        return await asyncio.to_thread(self._judge, reference, word, kinds, limits)

    def _judge(
        self, reference: Reference, word: Word, kinds: frozenset[str], limits: ToplocCalibration | None
    ) -> list[ProofRecord]:
        policy, exchange, model = self._policy, self._exchange, self._model
        found: list[ProofRecord] = []
        margins = self._margins(reference) if REEXEC in kinds else None
        near = self._near(reference) if LOGPROB in kinds else None
        # Two tests of one answer by calibrated limits: each gets half of the one false alarm in a hundred.
        share = ONE_PERCENT / 2 if margins is not None and near is not None else ONE_PERCENT
        if REEXEC in kinds:
            assert isinstance(self._claim, Claim)
            asked = policy.reexec
            terms = reexec.Terms(
                min_tokens=asked.min_tokens, max_mean_margin=asked.max_mean_margin, false_positives=share
            )
            found.append(rescored.judge_margins(exchange, word, self._claim, margins, terms, model))
        if LOGPROB in kinds:
            limit = distance.Terms(policy.logprob.min_similarity, policy.logprob.min_tokens, share)
            found.append(rescored.judge_logprobs(exchange, word, near, limit, model))
        if TOPLOC in kinds:
            assert self._stated is not None
            found.append(rescored.judge_states(exchange, self._stated, word, limits, model))
        return found

    def _likeliest(self, kinds: frozenset[str]) -> int:
        """How many tokens the reference has to tell of each place: the fewer, the shorter its answer."""
        if REEXEC in kinds and isinstance(self._claim, Claim) and self._claim.sampling is not None:
            return ask.LIKELIEST
        told = rescored.alternatives(self._exchange.scored.positions) if LOGPROB in kinds else 1
        return min(told, ask.LIKELIEST)

    async def _continued(self, reference: Reference, kinds: frozenset[str], reason: str) -> list[ProofRecord]:
        """Re-execution where the reference has chat alone; for the other kinds it is none, for that `reason`."""
        others = self._all(kinds - {REEXEC}, reason, reference)
        exchange, terms = self._exchange, prefixes.Terms(min_tokens=self._policy.reexec.min_tokens)
        positions = exchange.scored.positions
        assert isinstance(self._claim, Claim)
        if self._claim.sampling is not None or not positions:
            return [*others, self._none(REEXEC, reason, reference)]
        cuts = prefixes.cut_points(self._entropy(prefixes.SEED_BYTES), exchange.response_sha256, len(positions), terms)
        try:
            questions = [continued.question(exchange, self._request, cut, terms.horizon) for cut in cuts]
        except FormatError as error:
            return [*others, self._none(REEXEC, error.reason or "malformed", reference)]
        bodies = await asyncio.gather(*(self._try(reference, question, reason) for question in questions))
        told = {cut: body for cut, (body, _) in zip(cuts, bodies, strict=True) if body is not None}
        if cuts and not told:
            return [*others, self._none(REEXEC, bodies[0][1] or reason, reference)]
        record = await asyncio.to_thread(continued.judge_continued, exchange, told, terms, reference.id, ms=self._ms())
        return [*others, record]

    async def _ask(self, reference: Reference, question: ask.Ask) -> bytes:
        return await self._references.ask(reference, question, self._until)

    async def _try(
        self, reference: Reference, question: ask.Ask | None, unasked: str = ""
    ) -> tuple[bytes | None, str | None]:
        """The body of the answer, or the reason why there is none: `unasked` where there is no question."""
        if question is None:
            return None, unasked
        try:
            return await self._ask(reference, question), None
        except ServiceError as error:
            return None, error.reason

    def _all(self, kinds: Collection[str], reason: str, reference: Reference | None = None) -> list[ProofRecord]:
        return [self._none(kind, reason, reference) for kind in sorted(kinds)]

    def _none(self, kind: str, reason: str, reference: Reference | None = None) -> ProofRecord:
        id_ = None if reference is None else reference.id
        return rescored.unjudged(self._exchange, KINDS[kind], reason, reference_id=id_)

    def _ms(self) -> int:
        return int(1000 * (time.perf_counter() - self._started))
