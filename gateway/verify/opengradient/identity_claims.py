"""The claims that follow from an identity's checks, and the grade that a person reads: how the node is known.

    none < registry-claimed < calldata-attested < live-attested

A grade is the strongest of the three claims that is asserted; policy asks for the claims, never for the grade.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.model.tee import HostTrust
from gateway.model.verdict import Check, Claim, Outcome

from .attested import Attested
from .identity_inputs import Found

GRADES = (
    ("identity_live", "live-attested"),
    ("identity_calldata", "calldata-attested"),
    ("identity_registry", "registry-claimed"),
)
#: What the registry may hold against a node that it lists.
_DELISTED = ("tee_disabled", "tee_type_unexpected", "heartbeat_future", "heartbeat_stale", "pcr_not_approved")
#: What no evidence of this network shows.
_NEVER_SHOWN = (
    "gpu_attested",
    "tcb_up_to_date",
    "os_known_good",
    "serving_software_known_good",
    "model_weights_provenance",
)


def grade(claims: Iterable[Claim]) -> str:
    """none|registry-claimed|calldata-attested|live-attested, by the strongest identity claim that is asserted."""
    asserted = {claim.name for claim in claims if claim.status == "asserted"}
    return next((word for name, word in GRADES if name in asserted), "none")


def claims_of(found: Found, checks: tuple[Check, ...]) -> tuple[Claim, ...]:
    """Every claim of the node phase that this network's evidence settles, or says that it leaves open."""
    by_id: Mapping[str, Check] = {check.id: check for check in checks}
    claims = [_as_checked(name, by_id[name]) for name in ("key_bound", "fresh", "channel_bound")]
    claims += [
        _identity("identity_live", found.live, found.problems.get("live", "no_attestation")),
        _identity("identity_calldata", found.calldata, found.problems.get("registration", "no_registration")),
        _registry(found, by_id["key_bound"], by_id["keyset_valid"]),
        _tee_attested(found),
        _pcr_known(found),
        # The enclave asks a provider for the answer, in plaintext, under its operator's account.
        Claim("executed_in_tee", "refuted", "verifier_derived", "relayed_to_provider"),
        _host_trust(found),
    ]
    claims += [_unknown(name, "not_evidenced") for name in _NEVER_SHOWN]
    return tuple(claims)


def _unknown(name: str, reason: str | None) -> Claim:
    return Claim(name, "unknown", None, reason)


def _refuted(name: str, reason: str | None) -> Claim:
    return Claim(name, "refuted", "verifier_derived", reason)


def _as_checked(name: str, check: Check) -> Claim:
    if check.outcome is Outcome.AFFIRMING:
        return Claim(name, "asserted", "verifier_derived")
    return _refuted(name, check.reason) if check.outcome is Outcome.CONTRAINDICATED else _unknown(name, check.reason)


def _identity(name: str, attested: Attested | None, missing: str) -> Claim:
    if attested is None:
        return _unknown(name, missing)
    return Claim(name, "asserted", "hardware_proven") if attested.held else _refuted(name, attested.reason)


def _registry(found: Found, key_bound: Check, keyset_valid: Check) -> Claim:
    name = "identity_registry"
    if found.record is None:
        return _unknown(name, found.problems.get("registry", "no_registry_record"))
    if key_bound.reason == "tee_id_mismatch" or keyset_valid.reason in _DELISTED:
        return _refuted(name, key_bound.reason if key_bound.reason == "tee_id_mismatch" else keyset_valid.reason)
    return Claim(name, "asserted", "provider_asserted")


def _tee_attested(found: Found) -> Claim:
    if found.best is not None:
        root = found.best.claims.root
        return Claim("tee_attested", "asserted", "hardware_proven", "root=TEST" if root and root.test else None)
    for attested in (found.live, found.calldata):
        if attested is not None:
            return _refuted("tee_attested", attested.reason)
    return _unknown("tee_attested", "no_evidence")


def _pcr_known(found: Found) -> Claim:
    if found.best is None:
        return _unknown("pcr_known", "no_evidence" if found.record is None else "registry_claim_only")
    version = found.known_pcrs.get(found.pcr_hash or b"")
    if version is None:
        return _unknown("pcr_known", "pcr_unknown")
    if version.revoked:
        return _refuted("pcr_known", "pcr_revoked")
    return Claim("pcr_known", "asserted", "verifier_derived", f"{version.basis}: {version.name}"[:80])


def _host_trust(found: Found) -> Claim:
    if found.best is None:
        return _unknown("host_trust", "no_evidence")
    return Claim("host_trust", "asserted", "verifier_derived", HostTrust.HYPERSCALER.value)
