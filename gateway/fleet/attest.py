"""Collects a node's evidence with a fresh nonce and turns it into an attested session. One fetch a node at a time."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable

import httpx
import msgspec
import structlog

from gateway.adapter import Adapter, RawEvidence
from gateway.errors import ConfigError
from gateway.model.node import AttestedSession, Node
from gateway.model.verdict import AttestationResult
from gateway.upstream.connection import DANGEROUS_ANY_KEY
from gateway.upstream.errors import ChannelError
from gateway.upstream.origin import parse_origin
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.appraise import appraise_node, attested_session

log = structlog.get_logger("veriroute.fleet")

#: How long an adapter may take to bring a node's evidence.
EVIDENCE_S = 30.0


class Attestation(msgspec.Struct, frozen=True):
    """One appraisal: its result, the session when the evidence parsed, and the evidence as it came."""

    result: AttestationResult
    session: AttestedSession | None
    document: bytes | None


class Attester:
    """Fetches and appraises. Evidence is self-proving, so it may come over any TLS key; which one is recorded."""

    def __init__(
        self, pool: UpstreamPool, *, now: Callable[[], float], lifetime_s: float, allow_http: bool, allow_private: bool
    ) -> None:
        self._now = now
        self._lifetime = lifetime_s
        self._allow_http, self._allow_private = allow_http, allow_private
        self._client = control_client(
            pool, allow_http=allow_http, allow_private=allow_private, pins=lambda origin: DANGEROUS_ANY_KEY
        )

    async def attest(self, node: Node, adapter: Adapter) -> Attestation:
        """Appraise `node` now. Never raises for what the node does."""
        nonce = secrets.token_hex(32)
        evidence = await self._evidence(node, adapter, nonce)
        now = self._now()
        result, report = appraise_node(
            node, evidence.document, evidence.problem, nonce, now=now, spki=evidence.spki, tls=evidence.tls
        )
        if report is None or evidence.document is None:
            return Attestation(result, None, evidence.document)
        digest = hashlib.sha256(evidence.document).hexdigest()
        session = attested_session(
            node, report, result, evidence_digest=digest, established=now, lifetime_s=self._lifetime
        )
        return Attestation(result, session, evidence.document)

    async def _evidence(self, node: Node, adapter: Adapter, nonce: str) -> RawEvidence:
        """What the adapter brings. One that raises, or does not come back, has brought nothing."""
        try:
            async with asyncio.timeout(EVIDENCE_S):
                return await adapter.evidence(node, nonce, self)
        except TimeoutError:
            return RawEvidence(None, "evidence_timeout")
        except (Exception, SystemExit) as error:  # anybody's code may stand behind an adapter
            log.error("adapter.failed", network=node.network, node=node.id, exc_info=error)
            return RawEvidence(None, "adapter_failed")

    async def get(self, node: Node, target: str) -> RawEvidence:
        """One bounded GET to the node's own origin (gateway.adapter.EvidenceClient)."""
        try:
            origin = parse_origin(node.base_url, allow_http=self._allow_http, allow_private=self._allow_private)
            response = await self._client.get(
                node.base_url.rstrip("/") + target, headers={"accept": "application/json"}
            )
        except (httpx.HTTPError, ConfigError) as error:
            cause = error.__cause__
            reason = cause.reason if isinstance(cause, ChannelError) else None
            return RawEvidence(None, reason or "evidence_fetch")
        if response.status_code != 200:
            return RawEvidence(None, f"status_{response.status_code}")
        media = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if media != "application/json":
            return RawEvidence(None, "content_type")
        return RawEvidence(response.content, None, media, response.extensions.get("peer_spki"), origin.tls)

    async def close(self) -> None:
        await self._client.aclose()
