"""Canaries: now and then a node is asked the same short question a few times, to see whether it answers as it used to.

Each sample is an ordinary exchange: routed to that one node under an attested session, announced, paid for within the
rules, judged by a policy and in the log, under the key id `veriroute:canary`. The first run at a node sets its
baseline; every later one is compared with it (gateway/verify/proofs/drift.py). What that can find is *baseline
changed*: a reason to calibrate anew. It accuses nobody, so it never counts against a node's health, quarantines nothing
and is no entry of the log: the samples have their receipts, and a finding that decides nothing would only look like one
that does.

The baseline belongs to the node's name and not to its keys. Otherwise a node could have a new one by a new key.

One exchange at a time, never more than `canaries.samples` in a run, and a run ends with the first that shows nothing:
a node that does not answer is not asked again before the next run is due.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import string
import time
from collections.abc import Callable

import msgspec
import structlog

from .baselines import MAX_BASELINES, Baseline, Baselines
from .entropy import fresh
from .errors import FormatError, VerirouteError
from .exchange.head import Head, parse_head
from .fleet.fleet import Fleet
from .fleet.member import Member
from .model.admin import CanaryView
from .model.ulid import RANDOM_BYTES, UlidFactory
from .relay import Headers, Incoming, Relay, Terms
from .settings import Canaries as Settings
from .verify.proofs.drift import Terms as DriftTerms
from .verify.proofs.drift import judge_drift
from .verify.proofs.evidence import ProofRecord, Subject, Verdict
from .verify.proofs.tokens import read_choice

log = structlog.get_logger("veriroute.canaries")

KEY_ID = "veriroute:canary"
PATH = "/v1/chat/completions"
TOP = 20
#: An answer of one token is a few kilobytes; one that is larger is no sample.
MAX_ANSWER = 256 * 1024
MAX_TOKEN = 256
#: The first run at a node that has no baseline yet comes within this time, and samples follow each other within this.
SPREAD_S, GAP_S = 60.0, 1.0
#: How often new nodes, and what is due, are looked for.
POLL_S = 1.0

_random = random.SystemRandom()
#: Model by node: what a run is about.
Pair = tuple[str, str]
#: The terms of one request, as the API would resolve them.
Resolve = Callable[[Head], Terms]


class NoSample(Exception):
    """An exchange, or a run, that shows nothing. Carries the stable reason."""


class Canaries:
    """The runs of one gateway. `run` goes on until it is cancelled; `of` says what is known of a node."""

    def __init__(
        self, settings: Settings, fleet: Fleet, relay: Relay, resolve: Resolve, store: Baselines, ulids: UlidFactory
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._relay = relay
        self._resolve = resolve
        self._store = store
        self._ulids = ulids
        self._due: dict[Pair, float] = {}
        self._kept: dict[Pair, Baseline] = {}
        self._reasons: dict[Pair, str | None] = {}

    def of(self, node: str) -> tuple[CanaryView, ...]:
        """What is known of the models of `node` that are asked."""
        return tuple([self._view(pair) for pair in self._due if pair[0] == node])

    async def run(self) -> None:
        """Ask each node when its time has come. Does nothing when the settings ask for nothing."""
        while self._settings.every_s > 0:
            await self._look()
            pair = min(self._due, key=lambda due: self._due[due], default=None)
            if pair is None or self._due[pair] > time.monotonic():
                await asyncio.sleep(POLL_S if pair is None else min(POLL_S, self._due[pair] - time.monotonic() + 0.001))
                continue
            self._due[pair] = time.monotonic() + self._settings.every_s * _random.uniform(0.75, 1.25)
            await self._turn(pair)

    # -- what is due --------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Take in the nodes that there are now, each with the time of its next run; forget those that went."""
        asked = self._settings.models
        there = [
            (m.node.id, model) for m in self._fleet.members.values() if PATH in m.node.endpoints
            for model in asked if model in m.node.models
        ][:MAX_BASELINES]  # fmt: skip
        for gone in self._due.keys() - set(there):
            for known in (self._due, self._kept, self._reasons):
                known.pop(gone, None)
        for pair in there:
            if pair not in self._due:
                self._due[pair] = time.monotonic() + await self._first(pair)

    async def _first(self, pair: Pair) -> float:
        """Seconds until the first run: soon, but no sooner after the last one because the gateway was restarted."""
        every = self._settings.every_s
        soon = _random.uniform(0, min(SPREAD_S, every))
        try:
            kept = await asyncio.to_thread(self._store.read, *pair)
        except FormatError:
            return soon  # the run itself will say so
        if kept is None:
            return soon
        self._kept[pair] = kept
        since = max(0.0, time.time() - kept.last_ms / 1000)
        return max(soon, min(every, every * _random.uniform(0.75, 1.25) - since))

    # -- one run ------------------------------------------------------------------------------------------------------

    async def _turn(self, pair: Pair) -> None:
        """One run at one node, to whatever end: it is known by its reason."""
        reason: str | None
        try:
            reason = await self._measure(*pair)
        except NoSample as error:
            reason = str(error)
        except FormatError as error:
            reason = "baseline_damaged"
            log.warning("canary.baseline_damaged", node=pair[0], model=pair[1], error=error.message)
        except OSError as error:
            reason = "baseline_unwritable"
            log.warning("canary.baseline_unwritable", node=pair[0], model=pair[1], error=error.strerror)
        except VerirouteError as error:
            reason = error.reason or error.code
        except Exception as error:  # one run that fails must not be the last one
            reason = "internal_error"
            log.error("canary.failed", node=pair[0], model=pair[1], exc_info=error)
        if reason != self._reasons.get(pair):
            log.info("canary.run", node=pair[0], model=pair[1], reason=reason)
        self._reasons[pair] = reason

    async def _measure(self, node: str, model: str) -> str | None:
        """Take the samples and compare them; the reason of the comparison, None where a baseline was set."""
        kept = await asyncio.to_thread(self._store.read, node, model)
        if kept is None and await asyncio.to_thread(self._store.full):
            raise NoSample("baselines_full")  # before anything is asked, and paid for, that could not be kept
        prompt = _random.choice(string.ascii_lowercase) if kept is None else kept.prompt
        body = question(model, prompt)
        samples: list[dict[str, float]] = []
        for number in range(self._settings.samples):
            if number:
                await asyncio.sleep(_random.uniform(0, min(GAP_S, self._settings.every_s / self._settings.samples)))
            member = self._member(node)
            samples.append(read_sample(await self._ask(member, body)))
        assert member.session is not None
        now_ms = time.time_ns() // 1_000_000
        if kept is None:
            kept = Baseline(
                node=node, model=model, keyset=member.session.keyset_digest, prompt=prompt, set_ms=now_ms,
                samples=tuple(samples), since_ms=now_ms, last_ms=now_ms,
            )  # fmt: skip
            if not await asyncio.to_thread(self._store.begin, kept):
                raise NoSample("baselines_full")
            self._kept[node, model] = kept
            log.info("canary.baseline_set", node=node, model=model)
            return None
        record = await asyncio.to_thread(_compare, kept, samples, body)
        await self._found(compared(kept, record, now_ms, member.session.keyset_digest))
        return record.reason

    async def _found(self, found: Baseline) -> None:
        """Keep what a comparison found, and say so when it is another finding than before."""
        pair = found.node, found.model
        if not await asyncio.to_thread(self._store.update, found):
            self._kept.pop(pair, None)
            raise NoSample("baseline_reset")
        self._kept[pair] = found
        if found.runs == 1:
            log.warning(
                "canary.turned",
                node=found.node,
                model=found.model,
                state=found.state,
                p=found.p,
                rekeyed=found.rekeyed,
            )

    def _member(self, node: str) -> Member:
        """The node, when it has a session that a sample can be asked under."""
        member = self._fleet.members.get(node)
        if member is None or member.session is None:
            raise NoSample("session_missing")
        return member

    async def _ask(self, member: Member, body: bytes) -> bytes:
        """One exchange with `member` and nobody else; the answer's body. Raises `NoSample`."""
        assert member.session is not None
        head = parse_head(PATH, body)
        terms = self._resolve(head)
        now_ms, randomness = time.time_ns() // 1_000_000, fresh(80 + RANDOM_BYTES)
        answer = Answer()
        await self._relay.serve(
            Incoming(
                receipt_id=self._ulids.mint(now_ms, randomness[80:]),
                received_ms=now_ms,
                t0=time.perf_counter(),
                randomness=randomness[:80],
                key_id=KEY_ID,
                client_request_id=None,
                head=head,
                body=body,
                terms=Terms(terms.policy, terms.use, (member.session.id,)),
                pick=_random.random(),
            ),
            answer,
        )
        if answer.body is None:
            raise NoSample(answer.reason)
        return answer.body

    def _view(self, pair: Pair) -> CanaryView:
        kept, reason = self._kept.get(pair), self._reasons.get(pair)
        if kept is None:
            return CanaryView(model=pair[1], state="waiting", reason=reason)
        return CanaryView(
            model=pair[1], state=kept.state, reason=reason, baseline_ms=kept.set_ms, since_ms=kept.since_ms,
            last_ms=kept.last_ms, runs=kept.runs, samples=len(kept.samples), p=kept.p, rekeyed=kept.rekeyed,
        )  # fmt: skip


def question(model: str, prompt: str) -> bytes:
    """The body of a sample's request: one token, with the likeliest in its place."""
    return msgspec.json.encode(
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": TOP,
        }
    )


def read_sample(body: bytes) -> dict[str, float]:
    """The likeliest first tokens of an answer and their log-probs. Raises `NoSample` where there are none."""
    if len(body) > MAX_ANSWER:
        raise NoSample("too_large")
    try:
        scored = read_choice(body)[1]
    except FormatError:
        raise NoSample("malformed") from None
    if not scored.positions:
        raise NoSample(scored.presence.value)
    top = scored.positions[0].top
    if not top:
        raise NoSample("logprobs_absent")
    if max(map(len, top)) > MAX_TOKEN:
        raise NoSample("malformed")
    return dict(sorted(top.items(), key=lambda item: (-item[1], item[0]))[:TOP])


def compared(before: Baseline, record: ProofRecord, now_ms: int, keyset: str) -> Baseline:
    """The baseline after the comparison that `record` is of, made at `now_ms` with the node under `keyset`."""
    changed = record.verdict is not Verdict.PASS
    state = "changed" if changed else "stable"
    same = before.state == state
    return msgspec.structs.replace(
        before,
        state=state,
        since_ms=before.since_ms if same else now_ms,
        runs=before.runs + 1 if same else 1,
        last_ms=now_ms,
        p=record.statistic,
        rekeyed=keyset != before.keyset,
    )


class Answer:
    """What becomes of one exchange, in place of an agent (gateway.relay.Sink): a body, or the reason for none."""

    def __init__(self) -> None:
        self.gone = False
        self.body: bytes | None = None
        self.reason = "no_answer"

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """It never leaves before the end."""

    async def answer(self, headers: Headers, body: bytes) -> None:
        self.body = body

    async def refuse(self, error: VerirouteError, receipt: str, extra: dict[str, object], headers: Headers) -> None:
        self.reason = error.reason or error.code

    # A stream was not asked for, so none of these is called.
    async def begin(self, headers: Headers) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self, data: bytes) -> None: ...
    async def cut(self, data: bytes) -> None: ...


def _compare(kept: Baseline, samples: list[dict[str, float]], body: bytes) -> ProofRecord:
    # The permutations follow from a seed that no node can know beforehand.
    subject = Subject(hashlib.sha256(body).hexdigest(), None)
    return judge_drift(kept.samples, samples, secrets.token_bytes(32), DriftTerms(), subject)


__all__ = ["Canaries", "CanaryView", "NoSample", "compared", "question", "read_sample"]
