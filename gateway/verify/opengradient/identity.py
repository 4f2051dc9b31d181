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
import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.crypto.certificates import load_certificate
from gateway.crypto.keccak import keccak256
from gateway.crypto.rsa import load_rsa
from gateway.crypto.x509 import spki_sha256
from gateway.errors import FormatError
from gateway.model.node import AttestedSession, Node, SigningKey
from gateway.model.verdict import AttestationResult, Check, Outcome, worst
from gateway.verify import aci
from gateway.verify.appraise import session_document
from gateway.verify.tee.roots import TrustRoots

from .attested import Attested, Keys, live_document, registered_document
from .dossier import NONCE_BYTES, Live
from .identity_claims import claims_of
from .pcrs import PcrVersion

#: The registry's type of node that relays prompts to models (1 validates).
LLM_PROXY = 0
#: How far the chain's clock may be ahead of ours, seconds.
CLOCK_SKEW_S = 300.0
KEY_ALG = "rsa-pss-sha256"

_PIN = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


class Record(Protocol):
    """What the registry says of a node: `getTEE(tee_id)` of TEERegistry, decoded. Bytes are raw, times Unix seconds."""

    @property
    def tee_id(self) -> bytes: ...
    @property
    def public_key(self) -> bytes: ...
    @property
    def tls_certificate(self) -> bytes: ...
    @property
    def pcr_hash(self) -> bytes: ...
    @property
    def tee_type(self) -> int: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def registered_at(self) -> int: ...
    @property
    def last_heartbeat_at(self) -> int: ...


class Registered(msgspec.Struct, frozen=True):
    """The arguments of `registerTEEWithAttestation`, decoded. `block_time` is its block's, where it is known."""

    document: bytes
    spki: bytes
    tls_certificate: bytes
    tee_type: int = LLM_PROXY
    block_time: float | None = None


class OhttpKey(msgspec.Struct, frozen=True):
    """The key that prompts are sealed to. `reason` is None when the node's signing key signed its configuration."""

    public_key: bytes
    reason: str | None = None


class Found(msgspec.Struct, frozen=True):
    """All that was given, and what was found of the documents in it."""

    node: Node
    record: Record | None
    registered: Registered | None
    ohttp: OhttpKey | None
    keys: Keys | None
    live: Attested | None
    calldata: Attested | None
    known_pcrs: Mapping[bytes, PcrVersion]
    pcr_approved: bool | None
    max_heartbeat_age_s: float
    at: float
    spki: bytes | None
    tls: bool
    problems: Mapping[str, str]

    @property
    def best(self) -> Attested | None:
        """The document that the node is known by, when it holds: the live one; the registered one if there is none.

        A live one that fails is not made good by what was registered on another day.
        """
        first = self.calldata if self.live is None else self.live
        return first if first is not None and first.held else None

    @property
    def pcr_hash(self) -> bytes | None:
        """The measured hash; for want of a document that holds, the registry's word."""
        if self.best is not None:
            return self.best.pcr_hash
        return None if self.record is None else self.record.pcr_hash


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
    result = _result(found)
    if keys is None:
        return result, None
    until = min(now + attestation_ttl_s, now + lifetime_s, _documents_end(found))
    digest = evidence_digest or _digest(live, registration, keys)
    return result, _session(found, keys, result, until, digest)


def tee_id_of(spki: bytes) -> bytes:
    """The TEE id of a signing key: keccak256 of its SubjectPublicKeyInfo in DER, 32 bytes."""
    return keccak256(spki)


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


def _result(found: Found) -> AttestationResult:
    key_bound = _key_bound(found)
    checks = (
        _evidence(found),
        key_bound,
        _key_weak(found),
        _keyset_valid(found),
        _fresh(found),
        _channel_bound(found, key_bound),
        # Not the reason that means "nothing here to look at": every node of this network has such evidence to give.
        Check("tee_rules", Outcome.NONE, "no_evidence" if found.best is None else "left_to_policy"),
    )
    return AttestationResult(checks, claims_of(found, checks))


def _evidence(found: Found) -> Check:
    # 1. hardware, now; a document of the day of registration says nothing of what became of the machine since
    if found.keys is None:
        return Check("evidence", Outcome.NONE, found.problems.get("registry", "no_registry_record"))
    attested = found.calldata if found.live is None else found.live
    if attested is None:
        return Check(
            "evidence", Outcome.NONE, found.problems.get("live", "no_attestation"), "the registry's word alone"
        )
    claims = attested.claims
    if attested.reason is not None:
        return _against("evidence", attested.reason, claims.reject_detail, over=claims.evidence_format)
    assert claims.root is not None  # what is bound ends in one
    name = f"root=TEST ({claims.root.name})" if claims.root.test else claims.root.name
    if found.live is None:
        return Check("evidence", Outcome.WARNING, "only_registered_attestation", name, over=claims.evidence_format)
    return Check("evidence", Outcome.AFFIRMING, None, name, over=claims.evidence_format)


def _key_bound(found: Found) -> Check:
    # 2. the id is the key's hash: a record or a pin that names another one names another key
    if found.keys is None:
        return Check("key_bound", Outcome.NONE, "no_evidence")
    own = tee_id_of(found.keys.spki)
    shown = f"0x{own.hex()}"
    if found.record is not None and found.record.tee_id != own:
        return _against("key_bound", "tee_id_mismatch", shown, f"0x{found.record.tee_id.hex()}")
    pin = found.node.pin
    if pin is not None:
        match = _PIN.fullmatch(pin)
        if match is None:
            return _against("key_bound", "pin_malformed", None, "0x and 64 hex digits")
        if bytes.fromhex(match[1]) != own:
            return _against("key_bound", "keyset_not_pinned", shown, f"0x{match[1].lower()}")
    return _bound_by(found, shown, pinned=pin is not None)


def _bound_by(found: Found, shown: str, *, pinned: bool) -> Check:
    for attested in (found.live, found.calldata):
        reason = None if attested is None else attested.reason
        if reason in _BINDING_REASONS:
            return _against("key_bound", reason, shown, over="user_data")
    if found.best is not None:
        return Check("key_bound", Outcome.AFFIRMING, None, shown, None, "user_data of the attestation document")
    if pinned:
        return Check("key_bound", Outcome.AFFIRMING, None, shown, shown, "keccak256 of the signing key")
    return Check("key_bound", Outcome.NONE, "registry_claim_only", shown, "an attestation, or nodes.pin")


_BINDING_REASONS = ("signing_key_binding", "tls_binding", "user_data_malformed")


def _key_weak(found: Found) -> Check:
    # 3. under e = 1 anything is its own signature; short moduli have been factored
    if found.keys is None:
        return Check("key_weak", Outcome.NONE, "no_evidence")
    key = load_rsa(found.keys.spki)
    if key is None:
        return _against("key_weak", "weak_key", f"{len(found.keys.spki)} bytes", "RSA, 2048 to 4096 bits, e = 65537")
    return Check("key_weak", Outcome.AFFIRMING, None, f"RSA, {key.key_size} bits")


def _keyset_valid(found: Found) -> Check:
    # 4. first what the chain says against the node, then what the documents say against the chain
    record = found.record
    if record is None:
        return Check("keyset_valid", Outcome.NONE, found.problems.get("registry", "no_registry_record"))
    age = found.at - record.last_heartbeat_at
    checks = (
        (record.enabled, "tee_disabled", None),
        (record.tee_type == LLM_PROXY, "tee_type_unexpected", f"type {record.tee_type}"),
        (age >= -CLOCK_SKEW_S, "heartbeat_future", f"{-age:.3g} s ahead"),
        (age <= found.max_heartbeat_age_s, "heartbeat_stale", f"{age:.6g} s old"),
        (found.pcr_approved is not False, "pcr_not_approved", f"0x{record.pcr_hash.hex()}"),
        (_agrees(record, found.registered), "registration_mismatch", None),
        (_measured(found, record), "pcr_mismatch", _shown_pcr(found)),
    )
    for holds, reason, shown in checks:
        if not holds:
            return _against("keyset_valid", reason, shown)
    return _known(found, f"heartbeat {age:.0f} s old")


def _known(found: Found, shown: str) -> Check:
    # Anybody with an account can run an enclave of their own making: unless its build is known, hardware vouches for
    # nothing that matters. An operator who pinned the key has vouched for what runs behind it.
    version = found.known_pcrs.get(found.pcr_hash or b"")
    if version is not None and version.revoked:
        return _against("keyset_valid", "pcr_revoked", version.name[:80])
    if found.best is None:
        return Check("keyset_valid", Outcome.NONE, "registry_claim_only", _shown_pcr(found), "a measurement")
    if version is None:
        outcome = Outcome.NONE if found.node.pin is None else Outcome.WARNING  # another pin has failed key_bound
        return Check("keyset_valid", outcome, "pcr_unknown", _shown_pcr(found), "a build in the table, or nodes.pin")
    return Check("keyset_valid", Outcome.AFFIRMING, None, shown)


def _agrees(record: Record, registered: Registered | None) -> bool:
    """Whether the record is what its own registration said; the contract copies these three and changes none."""
    if registered is None:
        return True
    said = (registered.spki, registered.tls_certificate, registered.tee_type)
    return said == (record.public_key, record.tls_certificate, record.tee_type)


def _measured(found: Found, record: Record) -> bool:
    genuine = [a for a in (found.live, found.calldata) if a is not None and a.claims.authentic]
    return all(attested.pcr_hash == record.pcr_hash for attested in genuine)


def _shown_pcr(found: Found) -> str:
    return "none" if found.pcr_hash is None else f"0x{found.pcr_hash.hex()}"


def _fresh(found: Found) -> Check:
    # 5. only a document that holds our nonce was made for us
    if found.keys is None:
        return Check("fresh", Outcome.NONE, "no_evidence")
    if found.live is None:
        return Check("fresh", Outcome.NONE, found.problems.get("live", "no_attestation"))
    if found.live.claims.authentic:
        return Check("fresh", Outcome.AFFIRMING, None, "our nonce, in what the hardware signed")
    code = found.live.claims.reject_code
    if code in ("nonce_mismatch", "nitro_stale", "nitro_from_future"):
        return _against("fresh", code, found.live.claims.reject_detail)
    return Check("fresh", Outcome.NONE, "no_evidence")


def _channel_bound(found: Found, key_bound: Check) -> Check:
    # 6. sealed prompts end where the OHTTP key is; others where the TLS connection does
    if found.keys is None:
        return Check("channel_bound", Outcome.NONE, "no_evidence")
    if found.ohttp is not None:
        return _sealed(found.ohttp, key_bound)
    if not found.tls:
        return Check("channel_bound", Outcome.NONE, "no_tls", "plain HTTP")
    if found.spki is None:
        return Check("channel_bound", Outcome.NONE, "spki_unknown")
    named = _certificate_spki(found.keys)
    if named is None:
        return _against("channel_bound", "tls_certificate_malformed", None)
    if named != found.spki:
        return _against("channel_bound", "spki_mismatch", found.spki.hex(), named.hex())
    if any(a is not None and a.reason == "tls_binding" for a in (found.live, found.calldata)):
        return _against("channel_bound", "tls_binding", named.hex(), over="user_data")
    if found.best is None:
        return Check("channel_bound", Outcome.NONE, "registry_claim_only", named.hex())
    return Check("channel_bound", Outcome.AFFIRMING, None, named.hex(), over="TLS certificate of the attestation")


def _sealed(ohttp: OhttpKey, key_bound: Check) -> Check:
    if ohttp.reason is not None:
        return _against("channel_bound", ohttp.reason, ohttp.public_key.hex()[:80], over="OHTTP key configuration")
    if key_bound.outcome is not Outcome.AFFIRMING:
        return Check("channel_bound", Outcome.NONE, "registry_claim_only", ohttp.public_key.hex()[:80])
    shown = ohttp.public_key.hex()[:80]
    return Check("channel_bound", Outcome.AFFIRMING, None, shown, over="OHTTP key configuration, signed")


def _certificate_spki(keys: Keys) -> bytes | None:
    try:
        load_certificate(keys.tls_certificate)
        return spki_sha256(keys.tls_certificate)
    except FormatError:
        return None


def _against(
    check: str, reason: str | None, found: str | None, expected: str | None = None, over: str | None = None
) -> Check:
    return Check(check, Outcome.CONTRAINDICATED, reason, found, expected, over)


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
    named = None if found.ohttp is not None else _certificate_spki(keys)
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
    return msgspec.structs.replace(session, id=aci.session_id(session_document(session)))
