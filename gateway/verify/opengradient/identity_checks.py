"""The checks of an identity, one function each, in the order and with the numbers of `identity`."""

from __future__ import annotations

import re

from gateway.crypto.certificates import load_certificate
from gateway.crypto.rsa import load_rsa
from gateway.crypto.x509 import spki_sha256
from gateway.errors import FormatError
from gateway.model.verdict import Check, Outcome

from .attested import Keys
from .identity_inputs import LLM_PROXY, Found, OhttpKey, Record, Registered
from .registry import tee_id_of

#: How far the chain's clock may be ahead of ours, seconds.
CLOCK_SKEW_S = 300.0

_PIN = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


def checks_of(found: Found) -> tuple[Check, ...]:
    """Every check of the node phase that is this network's to make, each listed once."""
    key_bound = _key_bound(found)
    return (
        _evidence(found),
        key_bound,
        _key_weak(found),
        _keyset_valid(found),
        _fresh(found),
        _channel_bound(found, key_bound),
        # Not the reason that means "nothing here to look at": every node of this network has such evidence to give.
        Check("tee_rules", Outcome.NONE, "no_evidence" if found.best is None else "left_to_policy"),
    )


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
    named = certificate_spki(found.keys)
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


def certificate_spki(keys: Keys) -> bytes | None:
    """SHA-256 of the key in the TLS certificate, as pins have it; None when it is no certificate."""
    try:
        load_certificate(keys.tls_certificate)
        return spki_sha256(keys.tls_certificate)
    except FormatError:
        return None


def _against(
    check: str, reason: str | None, found: str | None, expected: str | None = None, over: str | None = None
) -> Check:
    return Check(check, Outcome.CONTRAINDICATED, reason, found, expected, over)
