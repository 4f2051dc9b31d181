"""Appraisal of a node's evidence: does it bind the key that will sign, is it fresh, is it the node we pinned?

What has to be shown, in this order, each as one check:
 1. evidence       the report was fetched and parses
 2. key_bound      the keyset is the one that is pinned, and the report states that digest itself
 3. key_weak       every key that may sign is a sound Ed25519 key
 4. keyset_valid   the keyset has not run out, and says when it will
 5. fresh          the statement holds our nonce, is what report_data commits to, and a key of the set signed it
 6. channel_bound  the TLS key of the channel is one that the keyset names, which 2 ties to the node
 7. event_log      of a TDX guest: the log beside the quote is what the quote's registers measured

Evidence of `platform: software` proves possession of the pinned key and nothing about the machine, so `tee_attested`
is refuted, not unknown: there is no hardware evidence to wait for. Hardware evidence comes here verified
(`node_evidence`): it has to hold, and to commit to the keyset and our nonce. What a policy makes of the machine behind
it is left open (`tee_rules`). Evidence of any other platform is looked at by nobody, and shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.crypto.signatures import is_weak_ed25519, verify_ed25519
from gateway.errors import FormatError
from gateway.model.node import AttestedSession, Node
from gateway.model.tee import BindingStatus, HostTrust, TcbStatus, TeeClaims, TeeResult
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome, worst

from . import aci
from .node_evidence import HARDWARE, LOGGED, SOFTWARE, event_log, platform_of
from .sessions import with_id

#: A keyset that runs longer than this is treated as one that never ends. One that says so with a number over 2^53 - 1
#: (an earlier dialect of ACI has 2^64 - 1) has no form in JCS, hence no digest, and is malformed.
LONGEST_KEYSET_S = 10 * 366 * 86400
_SUPPORTED = ", ".join((SOFTWARE, *sorted(HARDWARE)))


def appraise_node(
    node: Node,
    document: bytes | None,
    problem: str | None,
    nonce: str,
    *,
    now: float,
    spki: bytes | None,
    tls: bool,
    tee: TeeResult | None = None,
) -> tuple[AttestationResult, aci.Report | None]:
    """Appraise the answer to `GET /v1/aci/attestation?nonce=…`.

    `document` is its body, None with a `problem` when it could not be had; `spki` the SHA-256 of the TLS leaf key of
    the connection it came over; `tee` what the verifier found of its hardware evidence, if it has any: without it,
    `problem` says what was missing. Total: whatever the bytes are, the answer is a list of checks.
    """
    # 1. evidence
    report: aci.Report | None = None
    reason = problem or "evidence_fetch"
    if document is not None:
        try:
            report = aci.parse_report(document)
        except FormatError as error:
            reason = "malformed"
            problem = str(error)
    if report is None:
        missing = [
            Check(id=i, outcome=Outcome.NONE, reason="no_evidence")
            for i in ("key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound", "tee_rules")
        ]
        outcome = Outcome.CONTRAINDICATED if reason == "malformed" else Outcome.NONE
        checks = (Check(id="evidence", outcome=outcome, reason=reason, found=problem), *missing)
        return AttestationResult(checks, _claims(checks, None, None)), None
    claims = tee.claims if tee is not None else None
    key_bound = _key_bound(node, report, claims)
    checks = (
        _evidence(report, claims, problem),
        key_bound,
        _key_weak(report),
        _keyset_valid(report, now),
        _fresh(report, nonce, claims),
        _channel_bound(report, spki, tls, key_bound),
        *_event_log(report, tee),
        _tee_rules(report, claims),
    )
    return AttestationResult(checks, _claims(checks, report, claims)), report


def attested_session(
    node: Node,
    report: aci.Report,
    result: AttestationResult,
    *,
    evidence_digest: str,
    established: float,
    lifetime_s: float,
    tee: TeeClaims | None = None,
) -> AttestedSession:
    """The session that an appraisal establishes: content-addressed, and never longer than keyset or collateral last."""
    ends = () if tee is None else _collateral_ends(tee)
    expires = min(established + lifetime_s, float(report.keyset.not_after), *ends)
    session = AttestedSession(
        id="",
        node=node.id,
        network=node.network,
        endpoint=node.base_url,
        keyset_digest=report.keyset.digest,
        keys=tuple(k for k in report.keyset.keys if k.alg == "ed25519" and not is_weak_ed25519(k.public_key)),
        spki_pins=report.keyset.spki,
        evidence_digest=evidence_digest,
        established=established,
        expires=expires,
        outcome=worst(c.outcome for c in result.checks if not _left_open(c)),
        checks=result.checks,
        claims=result.claims,
        capabilities=report.extensions,
        endpoints=report.endpoints,
        models=report.models,
        tee=() if tee is None else (tee,),
    )
    return with_id(session)


def _left_open(check: Check) -> bool:
    """Whether a check says nothing of the node until a policy asks for it."""
    return check.id == "tee_rules" or (check.id == "event_log" and check.outcome is Outcome.NONE)


def _collateral_ends(claims: TeeClaims) -> Iterator[float]:
    """When the documents end that `claims` rest on, those of its accelerators included."""
    if claims.collateral.expires is not None:
        yield claims.collateral.expires
    for child in claims.children:
        if child.authentic:
            yield from _collateral_ends(child)


def _evidence(report: aci.Report, tee: TeeClaims | None, problem: str | None) -> Check:
    # 1. hardware evidence has to hold; that it could not be looked at is not that it does not
    platform = platform_of(report)
    if platform == SOFTWARE:
        return Check("evidence", Outcome.AFFIRMING, None, f"ACI report, platform {platform}")
    if platform not in HARDWARE:
        return Check("evidence", Outcome.NONE, "platform_unsupported", platform, _SUPPORTED)
    if tee is None:
        outcome = Outcome.CONTRAINDICATED if problem == "malformed" else Outcome.NONE
        return Check("evidence", outcome, problem or "collateral_unavailable", f"ACI report, platform {platform}")
    if not tee.authentic:
        return Check("evidence", Outcome.CONTRAINDICATED, tee.reject_code, tee.reject_detail, over=tee.evidence_format)
    if tee.root is None:  # signed by a key that nobody vouches for
        return Check("evidence", Outcome.NONE, "root_unknown", tee.evidence_format)
    root = f"root=TEST ({tee.root.name})" if tee.root.test else tee.root.name
    return Check("evidence", Outcome.AFFIRMING, None, f"{tee.platform.value}, {root}", over=tee.evidence_format)


def _held(tee: TeeClaims | None) -> bool:
    """Whether hardware evidence holds and commits to this keyset and our nonce."""
    return tee is not None and tee.authentic and tee.root is not None and tee.binding.status is BindingStatus.BOUND


def _key_bound(node: Node, report: aci.Report, tee: TeeClaims | None) -> Check:
    # 2. the pin, or the hardware, is the root of trust here; what the report says of itself must agree with both
    found = report.keyset.digest
    if report.stated_digest != found:
        return Check("key_bound", Outcome.CONTRAINDICATED, "digest_misstated", report.stated_digest, found)
    if node.pin is None and tee is not None and _held(tee):
        return Check("key_bound", Outcome.AFFIRMING, None, found, None, f"{tee.platform.value}, {tee.binding.kind}")
    if node.pin is None:
        return Check("key_bound", Outcome.NONE, "no_pin", found, "nodes.pin in the settings")
    if node.pin != found:
        return Check("key_bound", Outcome.CONTRAINDICATED, "keyset_not_pinned", found, node.pin)
    return Check("key_bound", Outcome.AFFIRMING, None, found, node.pin, "JCS of the keyset")


def _key_weak(report: aci.Report) -> Check:
    # 3. a small-order key verifies signatures that nobody made
    keys = [k for k in report.keyset.keys if k.alg == "ed25519"]
    if not keys:
        return Check("key_weak", Outcome.NONE, "no_ed25519_key", ", ".join(k.alg for k in report.keyset.keys))
    weak = [k.key_id for k in keys if is_weak_ed25519(k.public_key)]
    if weak:
        return Check("key_weak", Outcome.CONTRAINDICATED, "weak_key", ", ".join(weak))
    return Check("key_weak", Outcome.AFFIRMING, None, f"{len(keys)} Ed25519")


def _keyset_valid(report: aci.Report, now: float) -> Check:
    # 4.
    left = report.keyset.not_after - now
    if left <= 0:
        return Check("keyset_valid", Outcome.CONTRAINDICATED, "keyset_expired", f"not_after {report.keyset.not_after}")
    if left > LONGEST_KEYSET_S:
        return Check("keyset_valid", Outcome.WARNING, "no_expiry", f"not_after {report.keyset.not_after}")
    return Check("keyset_valid", Outcome.AFFIRMING, None, f"not_after {report.keyset.not_after}")


def _fresh(report: aci.Report, nonce: str, tee: TeeClaims | None) -> Check:
    # 5. rebuild the statement from our nonce; nothing of the sender's wording is trusted
    expected = aci.statement(report.keyset.digest, nonce)
    if report.report_data != aci.report_data(expected):
        return Check("fresh", Outcome.CONTRAINDICATED, "nonce_mismatch", "report_data", over="attestation statement")
    platform = platform_of(report)
    if platform in HARDWARE:
        if tee is None or not tee.authentic:
            return Check("fresh", Outcome.NONE, "no_evidence", platform)
        if not _held(tee):
            return Check("fresh", Outcome.CONTRAINDICATED, "unbound", tee.binding.detail, over=tee.binding.kind)
        return Check("fresh", Outcome.AFFIRMING, None, "our nonce, in what the hardware signed", over=tee.binding.kind)
    if platform != SOFTWARE:
        return Check("fresh", Outcome.NONE, "platform_unsupported", platform, _SUPPORTED)
    signature = report.evidence.get("signature")
    try:
        raw = bytes.fromhex(signature) if isinstance(signature, str) else b""
    except ValueError:
        raw = b""
    for key in report.keyset.keys:
        if key.alg == "ed25519" and verify_ed25519(key.public_key, expected, raw):
            return Check(
                "fresh", Outcome.AFFIRMING, None, f"our nonce, signed by {key.key_id}", over="attestation statement"
            )
    return Check("fresh", Outcome.CONTRAINDICATED, "statement_signature", over="attestation statement")


def _channel_bound(report: aci.Report, spki: bytes | None, tls: bool, key_bound: Check) -> Check:
    # 6. the same digests are enforced again at every handshake that carries a prompt; of a keyset that is nobody's in
    # particular, whoever stands in between can make one that names his own TLS key
    if not tls:
        return Check("channel_bound", Outcome.NONE, "no_tls", "plain HTTP")
    if not report.keyset.spki:
        return Check("channel_bound", Outcome.NONE, "no_tls_key", "the keyset names no TLS key")
    if spki is None:
        return Check("channel_bound", Outcome.NONE, "spki_unknown")
    if spki not in report.keyset.spki:
        return Check("channel_bound", Outcome.CONTRAINDICATED, "spki_mismatch", spki.hex(), report.keyset.spki[0].hex())
    if key_bound.outcome is not Outcome.AFFIRMING:
        return Check("channel_bound", Outcome.NONE, key_bound.id, spki.hex())
    return Check("channel_bound", Outcome.AFFIRMING, None, spki.hex())


def _event_log(report: aci.Report, tee: TeeResult | None) -> tuple[Check, ...]:
    # 7. a log that nobody shows is missed by who asks for it; one that is not what was measured is a lie
    if platform_of(report) != LOGGED:
        return ()
    if tee is None or not tee.claims.authentic:
        return (Check("event_log", Outcome.NONE, "no_evidence"),)
    return (event_log(tee),)


def _tee_rules(report: aci.Report, tee: TeeClaims | None) -> Check:
    # Only a node that claims no machine has none to ask about; one whose evidence nobody could check has not answered.
    if tee is not None:
        return Check("tee_rules", Outcome.NONE, "left_to_policy")
    reason = "no_tee_evidence" if platform_of(report) == SOFTWARE else "no_evidence"
    return Check("tee_rules", Outcome.NONE, reason)


def _claims(checks: tuple[Check, ...], report: aci.Report | None, tee: TeeClaims | None) -> tuple[Claim, ...]:
    by_id = {c.id: c for c in checks}
    claims = [_claim(name, by_id[name]) for name in ("key_bound", "fresh", "channel_bound")]
    if report is not None and platform_of(report) == SOFTWARE:
        for name in ("tee_attested", "executed_in_tee"):
            claims.append(Claim(name, "refuted", "verifier_derived", "platform: software"))
        claims += [_unknown(name, "not_evidenced") for name in ("gpu_attested", "tcb_up_to_date")]
        claims.append(_unknown("host_trust", "not_evidenced"))
    else:
        claims += _tee_claims(report, tee)
    claims += [_unknown(name, "not_evidenced") for name in _NEVER_SHOWN]
    return tuple(claims)


#: What no evidence of today's nodes shows by itself; policy's `tee.measurements` is how an operator says it.
_NEVER_SHOWN = ("os_known_good", "serving_software_known_good", "model_weights_provenance")


def _unknown(name: str, reason: str) -> Claim:
    return Claim(name, "unknown", None, reason)


def _tee_claims(report: aci.Report | None, tee: TeeClaims | None) -> list[Claim]:
    """What hardware evidence says of the machine. Nothing follows from evidence that does not hold, or is not bound."""
    names = ("tee_attested", "executed_in_tee", "gpu_attested", "tcb_up_to_date", "host_trust")
    if report is None or tee is None:
        return [_unknown(name, "no_evidence") for name in names]
    if not tee.authentic or tee.binding.status is BindingStatus.MISMATCH:
        reason = tee.reject_code or "unbound"
        refuted = [Claim("tee_attested", "refuted", "verifier_derived", reason)]
        return refuted + [_unknown(name, "no_evidence") for name in names[1:]]
    if not _held(tee):
        return [_unknown(name, "unbound") for name in names]
    test = "root=TEST" if tee.root is not None and tee.root.test else None
    claims = [Claim("tee_attested", "asserted", "hardware_proven", test)]
    claims.append(_executed(report))
    gpus = bool(tee.children) and all(
        child.authentic and child.root is not None and child.binding.status is BindingStatus.BOUND
        for child in tee.children
    )
    if gpus:
        claims += [Claim(name, "asserted", "hardware_proven") for name in ("gpu_attested", "gpu_linked")]
    else:
        claims.append(_unknown("gpu_attested", "not_evidenced"))
    claims.append(_tcb_claim(tee))
    if tee.host_trust is HostTrust.HYPERSCALER:
        claims.append(Claim("host_trust", "asserted", "verifier_derived", tee.host_trust.value))
    else:
        claims.append(_unknown("host_trust", tee.host_trust.value))
    return claims


def _executed(report: aci.Report) -> Claim:
    """That the model runs in there, and is not only relayed from there, is the node's own word; that it relays, too."""
    if report.fronts_backend:
        return Claim("executed_in_tee", "refuted", "provider_asserted", "fronts_backend")
    if report.serving == "direct":
        return Claim("executed_in_tee", "asserted", "provider_asserted")
    return _unknown("executed_in_tee", "not_evidenced")


def _tcb_claim(tee: TeeClaims) -> Claim:
    status = tee.tcb_status
    if status is TcbStatus.UP_TO_DATE:
        return Claim("tcb_up_to_date", "asserted", "verifier_derived")
    if status is None or status is TcbStatus.NOT_APPLICABLE:
        return _unknown("tcb_up_to_date", status.value if status else "not_evidenced")
    return Claim("tcb_up_to_date", "refuted", "verifier_derived", status.value)


def _claim(name: str, check: Check) -> Claim:
    if check.outcome is Outcome.AFFIRMING:
        return Claim(name, "asserted", "verifier_derived")
    status = "refuted" if check.outcome is Outcome.CONTRAINDICATED else "unknown"
    return Claim(name, status, "verifier_derived" if status == "refuted" else None, check.reason)
