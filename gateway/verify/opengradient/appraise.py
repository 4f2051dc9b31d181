"""The node rule `opengradient-dossier`: from everything that was fetched about a node to its attested session.

What the registry says is counted again here from what each endpoint answered, so that a stored dossier is judged as it
was on the day. The parts: `registry` (records), `identity` (who the node is), `ohttp_config` (the key to seal to).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import msgspec

from gateway.crypto.ohttp_keys import encode_key_config
from gateway.errors import FormatError
from gateway.model.node import AttestedSession, Node
from gateway.model.verdict import AttestationResult
from gateway.verify.sessions import with_id
from gateway.verify.tee.roots import TrustRoots

from .dossier import Dossier, parse_dossier
from .identity import appraise_identity
from .identity_inputs import OhttpKey, Registered
from .ohttp_config import parse_ohttp_config, verify_ohttp_config
from .pcrs import PcrVersion
from .registry import Records, TeeRecord, decode_answer
from .registry_calldata import calldata, decode_registration
from .rpc_agreement import Answer, agree


class NodeTerms(msgspec.Struct, frozen=True):
    """What a node is held to. `agree` is how many endpoints have to say the same; `registry` has 20 bytes.

    `sealed`: prompts go through a relay, sealed to the enclave's OHTTP key; otherwise straight over TLS.
    """

    chain_id: int
    registry: bytes
    agree: int
    known_pcrs: Mapping[bytes, PcrVersion]
    max_heartbeat_age_s: float
    attestation_ttl_s: float
    sealed: bool = False


class _Read(msgspec.Struct, frozen=True):
    """What a dossier holds, once its reads are counted."""

    record: TeeRecord | None
    registered: Registered | None
    approved: bool | None
    heartbeat_s: float
    ohttp: OhttpKey | None
    hpke: bytes
    problems: Mapping[str, str]


def appraise_dossier(
    node: Node,
    document: bytes | None,
    problem: str | None,
    nonce: str,
    *,
    now: float,
    spki: bytes | None,
    tls: bool,
    roots: TrustRoots,
    terms: NodeTerms,
    lifetime_s: float = math.inf,
) -> tuple[AttestationResult, AttestedSession | None]:
    """Appraise the dossier `document` of `node`; None with a `problem` when there is none. Total.

    `spki` and `tls` are of the connection that the live attestation came over.
    """
    read, dossier = _nothing(problem or "evidence_fetch"), None
    if document is not None:
        try:
            dossier = parse_dossier(document)
            read = _counted(dossier, terms)
        except FormatError as error:
            read, dossier = _nothing(error.reason or "dossier_malformed"), None
    result, session = appraise_identity(
        node,
        read.record,
        read.registered,
        dossier.live if dossier is not None else None,
        read.ohttp,
        nonce=nonce,
        now=now,
        spki=spki,
        tls=tls,
        roots=roots,
        known_pcrs=terms.known_pcrs,
        max_heartbeat_age_s=min(terms.max_heartbeat_age_s, read.heartbeat_s),
        attestation_ttl_s=terms.attestation_ttl_s,
        lifetime_s=lifetime_s,
        pcr_approved=read.approved,
        problems=read.problems,
        evidence_digest=None if document is None else hashlib.sha256(document).hexdigest(),
    )
    if session is None or read.record is None:
        return result, session
    session = msgspec.structs.replace(session, hpke=read.hpke, payee=read.record.payment_address)
    return result, with_id(session)


def _nothing(problem: str) -> _Read:
    return _Read(None, None, None, math.inf, None, b"", {"registry": problem})


def _counted(dossier: Dossier, terms: NodeTerms) -> _Read:
    """The parts of `dossier` that hold together. Raises `FormatError` wrong_chain, registry_other."""
    if dossier.chain_id != terms.chain_id:
        raise FormatError("the dossier is of another chain", reason="wrong_chain")
    if dossier.registry != terms.registry:
        raise FormatError("the dossier is of another registry", reason="registry_other")
    problems = dict(dossier.problems)
    said, reasons = _said(dossier, terms.agree)
    record, active = _record(said, dossier), calldata("isTEEActive", dossier.tee_id)
    if record is None or (active not in said and not _listed(said, dossier)):
        missing = "getTEE" if record is None else "isTEEActive"
        why = reasons.get(calldata(missing, dossier.tee_id), problems.get(missing, "tee_not_registered"))
        problems.setdefault("registry", why)
        return msgspec.structs.replace(_nothing(""), problems=problems)
    if said.get(active) is False:
        record = msgspec.structs.replace(record, enabled=False)
    approved = said.get(calldata("isPCRApproved", record.tee_type, record.pcr_hash))
    most = said.get(calldata("heartbeatMaxAge"))
    ohttp, hpke = _ohttp(dossier, record) if terms.sealed else (None, b"")
    return _Read(
        record,
        _registered(dossier, problems),
        approved if isinstance(approved, bool) else None,
        float(most) if isinstance(most, int) and not isinstance(most, bool) else math.inf,
        ohttp,
        hpke,
        problems,
    )


def _said(dossier: Dossier, k: int) -> tuple[dict[bytes, object], dict[bytes, str]]:
    """Calldata -> what at least `k` endpoints say that the registry answers; for the rest, why there is nothing."""
    said: dict[bytes, object] = {}
    reasons: dict[bytes, str] = {}
    for read in dossier.reads:
        if read.to != dossier.registry:
            continue
        found = agree([Answer(a.rpc, a.result, a.error) for a in read.answers], k)
        if found.result is None:
            reasons[read.data] = found.reason or "rpc_quorum"
            continue
        try:
            said[read.data] = decode_answer(read.data, found.result)[1]
        except FormatError as error:
            reasons[read.data] = error.reason or "abi_malformed"
    return said, reasons


def _record(said: Mapping[bytes, object], dossier: Dossier) -> TeeRecord | None:
    """The record of the dossier's TEE: asked for alone, or where that is missing, from the list."""
    alone = said.get(calldata("getTEE", dossier.tee_id))
    if isinstance(alone, TeeRecord) and alone.tee_id == dossier.tee_id:
        return alone
    return _listed(said, dossier)


def _listed(said: Mapping[bytes, object], dossier: Dossier) -> TeeRecord | None:
    """The record of the dossier's TEE in a list, of which all that are read hold active TEEs alone."""
    records = (record for listed in said.values() if isinstance(listed, Records) for record in listed.records)
    return next((record for record in records if record.tee_id == dossier.tee_id), None)


def _registered(dossier: Dossier, problems: dict[str, str]) -> Registered | None:
    if dossier.registration is None:
        return None
    try:
        found = decode_registration(dossier.registration.input)
    except FormatError as error:
        problems["registration"] = error.reason or "registration_unreadable"
        return None
    return Registered(found.document, found.spki, found.tls_certificate, found.tee_type)


def _ohttp(dossier: Dossier, record: TeeRecord) -> tuple[OhttpKey, bytes]:
    """The key that prompts may be sealed to, and its encoding; no encoding where nothing may be sealed."""
    if dossier.ohttp_config is None:
        listed = record.ohttp.public_key if record.ohttp is not None else b""
        return OhttpKey(listed, "ohttp_config_unsigned" if listed else "ohttp_config_missing"), b""
    try:
        key = verify_ohttp_config(parse_ohttp_config(dossier.ohttp_config), record.public_key, record.tee_id)
    except FormatError as error:
        return OhttpKey(b"", error.reason or "ohttp_config_malformed"), b""
    return OhttpKey(key.public_key), encode_key_config(key)
