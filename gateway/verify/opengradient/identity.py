"""Who an OpenGradient node is: how far the key that signs its answers is shown to live in the enclave it should.

Three ways of knowing, weakest first, each a claim of its own so that policy can ask for one:

    identity_registry   the chain's registry lists the key: whoever answers for the chain can say so
    identity_calldata   the attestation in the registering transaction holds for it, as of that block
    identity_live       an attestation made now, for our nonce, holds for it

What has to be shown, in this order, each as one check of the node phase:
 1. evidence       a live attestation document holds (a registered one alone is a warning)
 2. key_bound      the TEE id is the key's hash, is the one that is pinned, and a document or the pin binds the key
 3. key_weak       the key is RSA of a length and exponent that mean anything
 4. keyset_valid   the registry's record is enabled, of our kind, in date, and about the enclave that was measured
 5. fresh          the live document holds our nonce
 6. channel_bound  the TLS leaf's key is that of the attested certificate, or the prompt is sealed to a signed OHTTP key
 7. tee_rules      left to policy

An enclave of this network relays: the model runs elsewhere, under its operator's account, and sees the prompt. So
`executed_in_tee` is refuted, whatever else holds. OpenGradient's tee-gateway and TEERegistry; og-evm, precompile 0x900.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from gateway.crypto.rsa import load_rsa
from gateway.errors import FormatError
from gateway.model.node import AttestedSession, Node, SigningKey
from gateway.model.verdict import AttestationResult, worst
from gateway.verify.sessions import with_id
from gateway.verify.tee.roots import TrustRoots

from .attested import Keys, live_document, registered_document
from .dossier import NONCE_BYTES, Live
from .identity_checks import certificate_spki, checks_of
from .identity_claims import claims_of
from .identity_inputs import LLM_PROXY, Found, OhttpKey, Record, Registered
from .pcrs import PcrVersion
from .registry import tee_id_of

__all__ = ["KEY_ALG", "LLM_PROXY", "OhttpKey", "Record", "Registered", "appraise_identity"]

KEY_ALG = "rsa-pss-sha256"


def appraise_identity(
    node: Node,
    record: Record | None,
    registration: Registered | None,
    live: Live | None,
    ohttp: OhttpKey | None,
    *,
    nonce: str,
    now: float,
    spki: bytes | None,
    tls: bool,
    roots: TrustRoots,
    known_pcrs: Mapping[bytes, PcrVersion],
    max_heartbeat_age_s: float,
    attestation_ttl_s: float,
    lifetime_s: float = math.inf,
    pcr_approved: bool | None = None,
    problems: Mapping[str, str] | None = None,
    evidence_digest: str | None = None,
) -> tuple[AttestationResult, AttestedSession | None]:
    """Appraise what was fetched about `node`, and the session it establishes (None without a signing key).

    `nonce` is ours in hex, of which the enclave was sent the first 20 bytes. `spki` is the SHA-256 of the TLS leaf key
    of the connection to the node, `tls` whether it is one. `ohttp` is given exactly when prompts go sealed through a
    relay; the TLS connection is then the relay's and binds nothing. `pcr_approved` is the chain's `isPCRApproved`,
    None where it was not read. `problems` says of a part that is None why (`registry`, `registration`, `live`).
    `evidence_digest` is the hex SHA-256 of the dossier. Total for any bytes of the node or the chain: the answer is a
    list of checks. Raises `FormatError` with the reason input_invalid for a nonce of ours that is none.
    """
    keys = _keys(record, registration)
    attested = registered = None
    short = _short_nonce(nonce)
    if keys is not None and live is not None:
        attested = live_document(live.document, keys, short, roots=roots, now=now)
    if keys is not None and registration is not None:
        block_time = _block_time(record, registration)
        registered = registered_document(registration.document, keys, block_time, roots=roots, now=now)
    found = Found(
        node, record, registration, ohttp, keys, attested, registered, known_pcrs, pcr_approved,
        max_heartbeat_age_s, now, spki, tls, problems or {},
    )  # fmt: skip
    checks = checks_of(found)
    result = AttestationResult(checks, claims_of(found, checks))
    if keys is None:
        return result, None
    until = min(now + attestation_ttl_s, now + lifetime_s, _documents_end(found))
    digest = evidence_digest or _digest(live, registration, keys)
    return result, _session(found, keys, result, until, digest)


def _short_nonce(nonce: str) -> bytes:
    try:
        short = bytes.fromhex(nonce)[:NONCE_BYTES]
    except ValueError:
        short = b""
    if len(short) != NONCE_BYTES:  # a shorter one would be met by a document that holds as little
        raise FormatError(f"our nonce has not {NONCE_BYTES} bytes in hex", reason="input_invalid")
    return short


def _keys(record: Record | None, registered: Registered | None) -> Keys | None:
    if record is not None:
        return Keys(record.public_key, record.tls_certificate)
    return None if registered is None else Keys(registered.spki, registered.tls_certificate)


def _block_time(record: Record | None, registered: Registered) -> float | None:
    if registered.block_time is not None or record is None:
        return registered.block_time
    return float(record.registered_at)


def _documents_end(found: Found) -> float:
    """When the live document's certificates run out; a registered one's ran out long ago, and are held to their day."""
    live = found.live
    if live is None or live.claims.collateral.expires is None:
        return math.inf
    return live.claims.collateral.expires


def _digest(live: Live | None, registered: Registered | None, keys: Keys) -> str:
    parts = (live.document if live else b"", registered.document if registered else b"", keys.spki)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def _session(found: Found, keys: Keys, result: AttestationResult, until: float, digest: str) -> AttestedSession:
    own = f"0x{tee_id_of(keys.spki).hex()}"
    named = None if found.ohttp is not None else certificate_spki(keys)
    sound = load_rsa(keys.spki) is not None
    session = AttestedSession(
        id="",
        node=found.node.id,
        network=found.node.network,
        endpoint=found.node.base_url,
        keyset_digest="sha256:" + hashlib.sha256(keys.spki).hexdigest(),
        keys=(SigningKey(own, KEY_ALG, keys.spki),) if sound else (),
        spki_pins=() if named is None else (named,),
        evidence_digest=digest,
        established=found.at,
        expires=until,
        outcome=worst(check.outcome for check in result.checks if check.id != "tee_rules"),  # policy answers that one
        checks=result.checks,
        claims=result.claims,
        endpoints=found.node.endpoints,
        models=found.node.models,
        tee=() if found.best is None else (found.best.claims,),
    )
    return with_id(session)
