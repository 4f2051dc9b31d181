"""Microsoft Azure Attestation: a token in which Azure says what it found in evidence that we do not see.

Secondary evidence, never the only one. In order:

    tee_format     a compact token, RS256
    tee_chain      the key is in the key set that the caller gives, and is believed on a ground of `tokens`.
                   The header's `jku` is never fetched; when there, it must be the pinned issuer's own
    tee_signature  that key signed the token
    tee_identity   `iss` is the pinned provider; the attestation policy is one that the caller knows
    tee_nonce      the nonce in the runtime claims, when one was sent
    tee_age        issued, not run out

A provider's owner writes its attestation policy, and a policy may issue any claim. Unless the caller knows the policy
by its hash, the claims are what somebody chose to have said, and the check stays `none` (`maa_policy_unknown`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.crypto.jose import Json, check_signature, read_compact
from gateway.errors import FormatError
from gateway.model.tee import Freshness, FreshnessClass, HostTrust, Platform, TeeResult
from gateway.text import plain

from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots
from .tokens import (
    check_issuer,
    check_times,
    seconds_param,
    shown,
    signed_by,
    signer_of,
    text_param,
)

PLAN = ("tee_format", "tee_chain", "tee_signature", "tee_identity", "tee_nonce", "tee_age")
ALGORITHMS = ("RS256",)
COMPLIANT = "azure-compliant-cvm"


def verify_maa(
    token: bytes,
    jwks: bytes,
    *,
    roots: TrustRoots,
    now: float,
    issuer: str,
    policy_hashes: frozenset[str] = frozenset(),
    nonce: str | None = None,
    max_age: float | None = None,
    extra_roots: tuple[bytes, ...] = (),
) -> TeeResult:
    """A compact token with its provider's key set. `issuer` is the provider's URL, `policy_hashes` the policies
    (`x-ms-policy-hash`) whose claims mean something to the caller. Total for any bytes."""
    return examine(
        Platform.AZURE_MAA,
        token,
        now,
        PLAN,
        lambda f: _verify(f, token, jwks, roots, issuer, policy_hashes, nonce, max_age, extra_roots),
    )


def _verify(
    f: Findings,
    text: bytes,
    jwks: bytes,
    roots: TrustRoots,
    issuer: str,
    policy_hashes: frozenset[str],
    nonce: str | None,
    max_age: float | None,
    extra_roots: tuple[bytes, ...],
) -> None:
    with f.step("tee_format") as step:
        token = read_compact(text, algs=ALGORITHMS)
        f.set(evidence_format="maa-token")
        step.found = f"{token.alg}, {len(text)} bytes"
    with f.step("tee_chain") as step:
        _check_jku(token.header, issuer)
        signer = signer_of(jwks, token.header.get("kid"), "maa", roots, f.evaluated_at, extra_roots)
        f.set(**signed_by(signer, jwks))
        step.found = signer.root.name
    with f.step("tee_signature") as step:
        check_signature(token, signer.key)
        step.over = "header and claims"
    _set_claims(f, token.claims, dict(signer.jwk))
    _check_identity(f, token.claims, issuer, policy_hashes)
    _check_nonce(f, token.claims, nonce)
    with f.step("tee_age") as step:
        times = check_times(token.claims, f.evaluated_at, max_age=max_age)
        kind = FreshnessClass.DATED if nonce is None else FreshnessClass.CHALLENGE
        f.set(freshness=Freshness(kind, times.issued_at, f.evaluated_at - times.issued_at))
        step.found = f"exp {times.expires:.0f}"


def _check_jku(header: Json, issuer: str) -> None:
    jku = header.get("jku")
    if jku is not None and jku != f"{issuer}/certs":
        raise NotAuthentic(
            "the header points to another key set", reason="maa_foreign_jku", found=shown(jku), expected=shown(issuer)
        )


def _check_identity(f: Findings, claims: Json, issuer: str, policy_hashes: frozenset[str]) -> None:
    stated = claims.get("x-ms-policy-hash")
    with f.step("tee_identity") as step:
        check_issuer(claims, issuer)
        if policy_hashes and not (isinstance(stated, str) and stated in policy_hashes):
            raise NotAuthentic("the token is of another policy", reason="maa_foreign_policy", found=shown(stated))
        step.found = f"policy {shown(stated)}"
    if not policy_hashes:
        f.absent("tee_identity", "maa_policy_unknown", step.found)
    elif _isolation(claims).get("x-ms-compliance-status") == COMPLIANT:
        f.set(host_trust=HostTrust.HYPERSCALER)


def _check_nonce(f: Findings, claims: Json, nonce: str | None) -> None:
    if nonce is None:
        f.absent("tee_nonce", "nonce_not_given")
        return
    with f.step("tee_nonce") as step:
        stated = _nonce(claims)
        if stated != nonce:
            raise NotAuthentic(
                "the token was made for another nonce",
                reason="nonce_mismatch",
                found=shown(stated),
                expected=shown(nonce),
            )
        step.found = shown(stated)


def _nonce(claims: Json) -> object:
    """Azure puts it in the client's payload of the runtime claims; a provider may copy it to `nonce`."""
    runtime = claims.get("x-ms-runtime")
    payload = runtime.get("client-payload") if isinstance(runtime, dict) else None
    inner = payload.get("nonce") if isinstance(payload, dict) else None
    return inner if inner is not None else claims.get("nonce")


def _isolation(claims: Json) -> Json:
    nested = claims.get("x-ms-isolation-tee")
    return nested if isinstance(nested, dict) else {}


def _set_claims(f: Findings, claims: Json, jwk: dict[str, object]) -> None:
    tee = _isolation(claims)
    kind = tee.get("x-ms-attestation-type")
    debuggable, vmpl = tee.get("x-ms-sevsnpvm-is-debuggable"), tee.get("x-ms-sevsnpvm-vmpl")
    nonce = _nonce(claims)
    measurements = {"launch": "x-ms-sevsnpvm-launchmeasurement", "host_data": "x-ms-sevsnpvm-hostdata"}
    found = {name: tee.get(member) for name, member in measurements.items()}
    f.set(
        product=plain(kind, 64) if isinstance(kind, str) else None,
        debug=debuggable if isinstance(debuggable, bool) else None,
        flags={"vmpl": vmpl} if isinstance(vmpl, int) and not isinstance(vmpl, bool) else {},
        measurements={name: value for name, value in found.items() if _is_hex(value)},
        report_data=data if _is_hex(data := tee.get("x-ms-sevsnpvm-reportdata")) else None,
        nonce=plain(nonce, 256) if isinstance(nonce, str) else None,
        raw={**{name: value for name, value in claims.items() if name.startswith("x-ms-")}, "signing_jwk": jwk},
    )


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256 and set(value) <= set("0123456789abcdef")


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`token` and `jwks`; `params`: iss (which must be given), nonce, policy_hashes, max_age.

    As with NRAS, the key set is believed only on a ground that `roots` names. Raises `FormatError` input_missing,
    param_malformed.
    """
    for role in ("token", "jwks"):
        if role not in blobs:
            raise FormatError(f"there is no {role}", reason="input_missing")
    issuer = text_param(params, "iss")
    if issuer is None:
        raise FormatError("there is no issuer that the token must be of", reason="input_missing")
    return verify_maa(
        blobs["token"],
        blobs["jwks"],
        roots=roots,
        now=now,
        issuer=issuer,
        policy_hashes=_policy_hashes(params.get("policy_hashes", ())),
        nonce=text_param(params, "nonce"),
        max_age=seconds_param(params, "max_age"),
        extra_roots=tuple(blob for role, blob in blobs.items() if role.startswith("root:")),
    )


def _policy_hashes(value: object) -> frozenset[str]:
    """One hash as text, or a list of them: text is no list of its letters, each of which a token could name."""
    hashes = [value] if isinstance(value, str) else value
    if not isinstance(hashes, (list, tuple)) or not all(isinstance(item, str) and item for item in hashes):
        raise FormatError("the parameter policy_hashes is not a list of texts", reason="param_malformed")
    return frozenset(hashes)
