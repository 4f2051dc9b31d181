"""Collects a node's evidence with a fresh nonce and turns it into an attested session. One fetch a node at a time."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import httpx
import msgspec
import structlog

from gateway.adapter import JSON_ONLY, Adapter, Discovered, EvidenceClient, RawEvidence
from gateway.entropy import fresh
from gateway.errors import ConfigError, FormatError, Unrandom, UpstreamFailed, UpstreamTimeout, VerirouteError
from gateway.model.node import AttestedSession, Node
from gateway.model.tee import TeeResult
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.settings import Settings
from gateway.upstream.connection import DANGEROUS_ANY_KEY
from gateway.upstream.errors import REASONS as CHANNEL_REASONS
from gateway.upstream.errors import ChannelError
from gateway.upstream.origin import parse_origin
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.aci import parse_report
from gateway.verify.appraise import appraise_node, attested_session
from gateway.verify.no_evidence import NO_EVIDENCE, NoEvidenceTerms, appraise_no_evidence
from gateway.verify.node_evidence import TeeEvidence, read_evidence, verify_evidence
from gateway.verify.opengradient.appraise import NodeTerms, appraise_dossier
from gateway.verify.tee.roots import VENDOR_ROOTS, TrustRoots

log = structlog.get_logger("veriroute.fleet")
T = TypeVar("T")

#: What is wrong with nothing that the node sent: reason of the error -> problem.
_MISSING = {"input_missing": "collateral_unavailable", "chip_hidden": "chip_hidden"}
#: Why there may be no evidence, beside `status_<three digits>`.
_PROBLEMS = frozenset((*CHANNEL_REASONS, "evidence_fetch", "evidence_timeout", "content_type", "adapter_failed")) | {
    "tee_not_registered", NO_EVIDENCE
}  # fmt: skip
_STATUS = re.compile(r"status_[1-9][0-9]{2}")
#: How long an adapter may take to bring a node's evidence.
EVIDENCE_S = 30.0
#: How long looking up a network's nodes may take.
DISCOVERY_S = 30.0


class Endorsements(msgspec.Struct, frozen=True):
    """The vendor's documents for one item of evidence, by role; or the stable `problem` for which there are none."""

    blobs: Mapping[str, bytes]
    problem: str | None = None


#: Brings what an item of evidence has to be held against.
Endorse = Callable[[TeeEvidence], Awaitable[Endorsements]]


class Attestation(msgspec.Struct, frozen=True):
    """One appraisal: its result, the session when the evidence parsed, and evidence and endorsements as they came.

    `words`: why there was no evidence, where the adapter said that in words of its own.
    """

    result: AttestationResult
    session: AttestedSession | None
    document: bytes | None
    endorsements: Mapping[str, bytes] = {}
    words: str | None = None


def _own_words(problem: str | None) -> str | None:
    """`problem` of an adapter, unless it is among those that docs/errors.md and docs/verification.md list."""
    listed = problem is None or problem in _PROBLEMS or _STATUS.fullmatch(problem)
    return None if listed else problem


async def by_itself(work: Awaitable[T]) -> T:
    """What an adapter's `work` comes to. That it was cancelled, where nobody cancels the task that waits for it, is a
    failure of its own: as a cancellation it would end that task, and the node would be asked again without end."""
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("the adapter's work was cancelled from within") from None


def as_promised(value: T, kind: type[T]) -> T:
    """`value` of an adapter, when it and all that is in it have the types of `kind`. Raises `ValidationError`, and
    `TypeError` for what has no type of a document."""
    read = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_mapping)
    return msgspec.convert(read, kind, builtin_types=(bytes,))


def _mapping(value: object) -> dict[object, object]:
    if isinstance(value, Mapping):  # promised as one of any class
        return dict(value)
    raise TypeError(f"{type(value).__name__} in what an adapter brought")


def _own(brought: Node, read: Node) -> Node:
    """The adapter's own object for the node `read`, which may be of a class of its own, where it says the same."""
    same = isinstance(brought, Node) and all(getattr(brought, n) == getattr(read, n) for n in Node.__struct_fields__)
    return brought if same else read


async def discovered(adapter: Adapter, network: str, configured: Iterable[Node], client: EvidenceClient) -> Discovered:
    """The nodes that `network` has now. Raises `VerirouteError`: the registry's own, or one with the reason
    discovery_timeout or adapter_failed."""
    try:
        async with asyncio.timeout(DISCOVERY_S):
            brought = await by_itself(adapter.discover(configured, client))
        found = as_promised(brought, Discovered)
        if foreign := next((node.network for node in found.nodes if node.network != network), None):
            raise ValueError(f"the adapter for {network!r} found a node of {foreign!r}")
        return msgspec.structs.replace(found, nodes=tuple(map(_own, brought.nodes, found.nodes)))
    except TimeoutError:
        text = f"Looking up the nodes of {network} took longer than {DISCOVERY_S:g} s."
        raise UpstreamTimeout(text, reason="discovery_timeout") from None
    except VerirouteError:
        raise
    except (Exception, SystemExit) as error:  # anybody's code may stand behind an adapter
        log.error("adapter.failed", network=network, exc_info=error)
        text = f"The adapter for {network} failed at looking up its nodes: {type(error).__name__}."
        raise UpstreamFailed(text, reason="adapter_failed") from None


def _unasked(error: Unrandom) -> Attestation:
    """What is found of a node that there is no new nonce for."""
    outcome = Outcome.CONTRAINDICATED if error.reason == "replayed_nonce" else Outcome.NONE
    return Attestation(AttestationResult((Check("replayed_nonce", outcome, error.reason),)), None, None)


class Attester:
    """Fetches and appraises. Evidence is self-proving, so it may come over any TLS key; which one is recorded."""

    def __init__(
        self,
        pool: UpstreamPool,
        *,
        now: Callable[[], float],
        lifetime_s: float,
        allow_http: bool,
        allow_private: bool,
        endorse: Endorse | None = None,
        roots: TrustRoots = VENDOR_ROOTS,
        entropy: Callable[[int], bytes] = fresh,
    ) -> None:
        self._now, self._entropy = now, entropy
        self._endorse = endorse
        self._roots = roots
        self._lifetime = lifetime_s
        self._allow_http, self._allow_private = allow_http, allow_private
        self._client = control_client(
            pool, allow_http=allow_http, allow_private=allow_private, pins=lambda origin: DANGEROUS_ANY_KEY
        )
        self.web = control_client(pool, allow_http=allow_http, allow_private=allow_private)

    async def attest(self, node: Node, adapter: Adapter) -> Attestation:
        """Appraise `node` now. Never raises for what the node does."""
        if adapter.node_rule == "none":
            return self._none(node, adapter)
        try:
            nonce = self._entropy(32).hex()
        except Unrandom as error:  # evidence that answers an old nonce may be old: the node is not even asked
            return _unasked(error)
        evidence = await self._evidence(node, adapter, nonce)
        if adapter.node_rule == "opengradient-dossier":
            found = await self._opengradient(node, adapter, evidence, nonce)
        else:
            found = await self._aci(node, evidence, nonce)
        return msgspec.structs.replace(found, words=_own_words(evidence.problem))

    def _none(self, node: Node, adapter: Adapter) -> Attestation:
        """A node that offers no evidence is asked for none."""
        assert isinstance(adapter.node_terms, NoEvidenceTerms)
        result, session = appraise_no_evidence(node, adapter.node_terms, now=self._now(), lifetime_s=self._lifetime)
        return Attestation(result, session, None)

    async def _opengradient(self, node: Node, adapter: Adapter, evidence: RawEvidence, nonce: str) -> Attestation:
        assert isinstance(adapter.node_terms, NodeTerms)
        result, session = await asyncio.to_thread(  # the registry's list may be long: a tenth of a second of work
            appraise_dossier,
            node,
            evidence.document,
            evidence.problem,
            nonce,
            now=self._now(),
            spki=evidence.spki,
            tls=evidence.tls,
            roots=self._roots,
            terms=adapter.node_terms,
            lifetime_s=self._lifetime,
        )
        return Attestation(result, session, evidence.document)

    async def _aci(self, node: Node, evidence: RawEvidence, nonce: str) -> Attestation:
        tee, problem, blobs = await self._tee(evidence, nonce)
        now = self._now()
        result, report = await asyncio.to_thread(  # as below: it reads the report
            appraise_node,
            node,
            evidence.document,
            problem,
            nonce,
            now=now,
            spki=evidence.spki,
            tls=evidence.tls,
            tee=tee,
        )
        if report is None or evidence.document is None:
            return Attestation(result, None, evidence.document)
        digest = hashlib.sha256(evidence.document).hexdigest()
        session = await asyncio.to_thread(  # its id is over all of it, a guest's list of hundreds of images included
            attested_session,
            node,
            report,
            result,
            evidence_digest=digest,
            established=now,
            lifetime_s=self._lifetime,
            tee=tee.claims if tee is not None else None,
        )
        return Attestation(result, session, evidence.document, blobs)

    async def _tee(self, evidence: RawEvidence, nonce: str) -> tuple[TeeResult | None, str | None, Mapping[str, bytes]]:
        """What the verifier finds of hardware evidence; without a result, what was missing."""
        if evidence.document is None:
            return None, evidence.problem, {}
        try:
            # Anybody may answer for a node, with 4 MiB that take half a second to read: nobody else waits for that.
            report = await asyncio.to_thread(parse_report, evidence.document)
            item = read_evidence(report)
            if item is None:
                return None, None, {}
            endorsed = Endorsements({}) if self._endorse is None else await self._endorse(item)
            if endorsed.problem is not None:
                return None, endorsed.problem, {}
            digest, now = report.keyset.digest, self._now()
            # A report may bring 64 devices, each with a chain: half a second of work that nobody else waits for.
            result = await asyncio.to_thread(
                verify_evidence, item, endorsed.blobs, keyset_digest=digest, nonce=nonce, roots=self._roots, now=now
            )
        except FormatError as error:  # an evidence member that is none, or a document that the kind needs and lacks
            return None, _MISSING.get(error.reason or "", "malformed"), {}
        return result, None, endorsed.blobs

    async def _evidence(self, node: Node, adapter: Adapter, nonce: str) -> RawEvidence:
        """What the adapter brings. One that raises, or does not come back, has brought nothing."""
        try:
            async with asyncio.timeout(EVIDENCE_S):
                found = await by_itself(adapter.evidence(node, nonce, self))
            return as_promised(found, RawEvidence)
        except TimeoutError:
            return RawEvidence(None, "evidence_timeout")
        except (Exception, SystemExit) as error:  # anybody's code may stand behind an adapter
            log.error("adapter.failed", network=node.network, node=node.id, exc_info=error)
            return RawEvidence(None, "adapter_failed")

    async def get(self, node: Node, target: str, media_types: tuple[str, ...] = JSON_ONLY) -> RawEvidence:
        """One bounded GET to the node's own origin (gateway.adapter.EvidenceClient)."""
        try:
            origin = parse_origin(node.base_url, allow_http=self._allow_http, allow_private=self._allow_private)
            response = await self._client.get(
                node.base_url.rstrip("/") + target, headers={"accept": ", ".join(media_types)}
            )
        except (httpx.HTTPError, ConfigError) as error:
            cause = error.__cause__
            reason = cause.reason if isinstance(cause, ChannelError) else None
            return RawEvidence(None, reason or "evidence_fetch")
        if response.status_code != 200:
            return RawEvidence(None, f"status_{response.status_code}")
        media = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if media not in media_types:
            return RawEvidence(None, "content_type")
        return RawEvidence(response.content, None, media, response.extensions.get("peer_spki"), origin.tls)

    async def close(self) -> None:
        await self._client.aclose()
        await self.web.aclose()


def open_attester(settings: Settings, pool: UpstreamPool, *, endorse: Endorse, roots: TrustRoots) -> Attester:
    """The attester that `settings` ask for, for the caller to close."""
    return Attester(
        pool,
        now=time.time,
        lifetime_s=2 * settings.upstream.refresh_s,
        allow_http=settings.upstream.allow_http,
        allow_private=settings.upstream.allow_private,
        endorse=endorse,
        roots=roots,
    )
