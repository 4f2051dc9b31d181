"""NVIDIA Remote Attestation Service: a detached EAT bundle, one token that speaks for all devices and one for each.

    [["JWT", overall], {"GPU-0": token, ...}]      ES384, one hour; overall has the SHA-256 of each device's token

    tee_format     the bundle has its form; both kinds of token are ES384 (alg none, HS256 and the rest are refused)
    tee_chain      the signing key is in the key set and is believed on a ground of `tokens`
    tee_signature  that key signed the overall token
    tee_identity   `iss` is the service that was asked (there is a staging service with the same software)
    tee_age        issued, not run out
    tee_nonce      `eat_nonce` is ours
    tee_parts      the devices named are the devices given; each token has its digest, signature, issuer, times, nonce
    tee_tcb        the service found every device's measurements equal to NVIDIA's, secure boot on, debugging off

The service appraised the devices; what it looked at does not travel along. A bundle proves that NVIDIA said so, within
the hour, about devices that answered this nonce, and nothing of the CPU side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.x509.oid import NameOID

from gateway.crypto.canonical import strict_json
from gateway.crypto.jose import MAX_TOKEN_BYTES, Json, Jws, check_signature, read_compact
from gateway.errors import FormatError
from gateway.model.tee import Freshness, FreshnessClass, Platform, TeeClaims, TeeResult
from gateway.text import plain

from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots
from .tokens import (
    Signer,
    check_issuer,
    check_times,
    seconds_param,
    shown,
    signed_by,
    signer_of,
    text_param,
)

PLAN = (
    "tee_format",
    "tee_chain",
    "tee_signature",
    "tee_identity",
    "tee_age",
    "tee_nonce",
    "tee_parts",
    "tee_tcb",
)
ISSUER = "https://nras.attestation.nvidia.com"
ALGORITHMS = ("ES384",)
ORGANISATION = "NVIDIA Corporation"
MAX_DEVICES = 64
MAX_BUNDLE_BYTES = 1 << 20


def verify_nras(
    bundle: bytes,
    jwks: bytes,
    *,
    roots: TrustRoots,
    now: float,
    nonce: str | None = None,
    issuer: str = ISSUER,
    max_age: float | None = None,
    extra_roots: tuple[bytes, ...] = (),
) -> TeeResult:
    """A bundle as JSON, with the service's key set as the bytes that were fetched.

    `nonce` is the hex that we asked with. A root of vendor `nvidia_nras` is a certificate of the x5c chain (an
    intermediate will do), one of `extra_roots` that issued its last, or the SHA-256 of `jwks`. Total for any bytes.
    """
    return examine(
        Platform.NVIDIA_GPU,
        bundle,
        now,
        PLAN,
        lambda f: _verify(f, bundle, jwks, roots, nonce, issuer, max_age, extra_roots),
    )


def _verify(
    f: Findings,
    bundle: bytes,
    jwks: bytes,
    roots: TrustRoots,
    nonce: str | None,
    issuer: str,
    max_age: float | None,
    extra_roots: tuple[bytes, ...],
) -> None:
    with f.step("tee_format") as step:
        overall, devices = _parse(bundle)
        version = _version(overall.claims.get("x-nvidia-ver"))
        f.set(evidence_format=f"nras-eat-v{version}" if version else "nras-eat")
        step.found = f"{len(devices)} devices, claims of version {version or 'unknown'}"
    with f.step("tee_chain") as step:
        signer = _signer(jwks, overall, roots, f.evaluated_at, extra_roots)
        f.set(**signed_by(signer, jwks))
        raw: dict[str, Any] = {"signing_jwk": dict(signer.jwk)}
        f.set(raw=raw)
        step.found = signer.root.name
    with f.step("tee_signature") as step:
        check_signature(overall, signer.key)
        step.over = "the overall token"
    with f.step("tee_identity") as step:
        check_issuer(overall.claims, issuer)
        step.found = issuer
    with f.step("tee_age") as step:
        times = check_times(overall.claims, f.evaluated_at, max_age=max_age)
        step.found = f"exp {times.expires:.0f}"
        age = f.evaluated_at - times.issued_at
        f.set(freshness=Freshness(FreshnessClass.DATED, times.issued_at, age))
        raw.update(platform="nvidia-gpu-cc/nras", issued_at=overall.claims["iat"], expires=overall.claims["exp"])
    stated = _check_nonce(f, overall.claims, nonce)
    if nonce is not None:
        f.set(freshness=Freshness(FreshnessClass.CHALLENGE, times.issued_at, age))
    with f.step("tee_parts") as step:
        tokens = _check_parts(overall.claims, devices, signer, issuer, stated, f.evaluated_at, max_age)
        raw["devices"] = {name: dict(token.claims) for name, token in tokens.items()}
        step.found = f"{len(tokens)} devices"
    with f.step("tee_tcb") as step:
        f.set(debug=any(token.claims.get("dbgstat") != "disabled" for token in tokens.values()))
        for name, token in tokens.items():
            _check_device(name, token.claims)
        if overall.claims.get("x-nvidia-overall-att-result") is not True:
            raise NotAuthentic("the service's overall result is not true", reason="nras_overall_false")
        step.found = "overall result true"
    _set_devices(f, tokens, devices, signer)


def _parse(bundle: bytes) -> tuple[Jws, dict[str, bytes]]:
    document = strict_json(bundle, max_bytes=MAX_BUNDLE_BYTES, max_depth=8)
    if not isinstance(document, list) or len(document) != 2:
        raise NotAuthentic("the bundle is not a token and its parts", reason="nras_bad_bundle")
    first, parts = document
    if not isinstance(first, list) or len(first) != 2 or first[0] != "JWT" or not isinstance(first[1], str):
        raise NotAuthentic("the bundle does not begin with a token", reason="nras_bad_bundle")
    if not isinstance(parts, dict) or not 1 <= len(parts) <= MAX_DEVICES:
        raise NotAuthentic(f"the bundle is not about 1 to {MAX_DEVICES} devices", reason="nras_bad_bundle")
    devices: dict[str, bytes] = {}
    for name, token in parts.items():
        if not isinstance(token, str) or len(token) > MAX_TOKEN_BYTES or not 0 < len(name) <= 64:
            raise NotAuthentic("a device's part is no token", reason="nras_bad_bundle")
        devices[name] = token.encode()
    return read_compact(first[1].encode(), algs=ALGORITHMS), devices


def _version(stated: object) -> str | None:
    """The major version of the claims, `3` of `3.0`."""
    major = stated.partition(".")[0] if isinstance(stated, str) else ""
    return major if len(major) == 1 and major in "0123456789" else None


def _signer(jwks: bytes, overall: Jws, roots: TrustRoots, now: float, extra_roots: tuple[bytes, ...]) -> Signer:
    signer = signer_of(jwks, overall.header.get("kid"), "nvidia_nras", roots, now, extra_roots)
    if signer.chain:
        names = signer.chain[0].subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if [name.value for name in names] != [ORGANISATION]:
            raise NotAuthentic("the signing certificate is not NVIDIA's", reason="nras_foreign_signer")
    return signer


def _check_nonce(f: Findings, claims: Json, nonce: str | None) -> str:
    stated = claims.get("eat_nonce")
    if nonce is None:
        f.absent("tee_nonce", "nonce_not_given", shown(stated))
    else:
        with f.step("tee_nonce") as step:
            if stated != nonce:
                raise NotAuthentic(
                    "the bundle was made for another nonce",
                    reason="nonce_mismatch",
                    found=shown(stated),
                    expected=shown(nonce),
                )
            step.found = shown(nonce)
    if isinstance(stated, str) and stated and len(stated) <= 256:
        f.set(nonce=plain(stated))
        return stated
    raise NotAuthentic("the bundle has no nonce", reason="nonce_mismatch", found=shown(stated))


def _check_parts(
    claims: Json,
    devices: Mapping[str, bytes],
    signer: Signer,
    issuer: str,
    nonce: str,
    now: float,
    max_age: float | None,
) -> dict[str, Jws]:
    """Every device's token, held to the overall one. A dropped, added or exchanged device is a mismatch."""
    named = claims.get("submods")
    if not isinstance(named, dict) or named.keys() != devices.keys():
        raise NotAuthentic("the devices given are not the devices named", reason="nras_submods_mismatch")
    tokens: dict[str, Jws] = {}
    for name, text in devices.items():
        if named[name] != ["DIGEST", ["SHA-256", hashlib.sha256(text).hexdigest()]]:
            raise NotAuthentic(
                "a device's token is not the one named", reason="nras_digest_mismatch", found=shown(name)
            )
        token = read_compact(text, algs=ALGORITHMS)
        if token.header.get("kid") != signer.jwk.get("kid"):
            raise NotAuthentic("a device's token is of another key", reason="jwt_unknown_kid", found=shown(name))
        check_signature(token, signer.key)
        check_issuer(token.claims, issuer)
        check_times(token.claims, now, max_age=max_age)
        if token.claims.get("eat_nonce") != nonce:
            raise NotAuthentic("a device answered another nonce", reason="nras_submod_nonce", found=shown(name))
        tokens[name] = token
    ueids = [token.claims["ueid"] for token in tokens.values() if "ueid" in token.claims]
    if any(ueids.count(ueid) > 1 for ueid in ueids):
        raise NotAuthentic("one device is given under two names", reason="nras_duplicate_device")
    return tokens


def _check_device(name: str, claims: Json) -> None:
    if claims.get("measres") not in ("success", "comparison-successful"):
        raise NotAuthentic("measurements are not NVIDIA's", reason="nras_measres", found=shown(claims.get("measres")))
    if claims.get("secboot") is not True or claims.get("dbgstat") != "disabled":
        raise NotAuthentic(
            "secure boot is off or debugging on", reason="nras_debug_or_no_secboot", found=shown(claims.get("dbgstat"))
        )
    for member, value in claims.items():
        if not member.startswith("x-nvidia-"):
            continue
        if value is False:
            raise NotAuthentic(
                f"{shown(name)}: a finding of the service is false", reason="nras_finding_false", found=shown(member)
            )
        if member.endswith("-cert-chain") and isinstance(value, dict):
            _check_certificates(member, value)


def _check_certificates(member: str, found: Json) -> None:
    """A certificate chain as the service found it (claims of version 3)."""
    if found.get("x-nvidia-cert-status") != "valid" or found.get("x-nvidia-cert-ocsp-status") != "good":
        raise NotAuthentic(
            "the service found a chain not valid or not good", reason="nras_cert_status", found=shown(member)
        )


def _set_devices(f: Findings, tokens: Mapping[str, Jws], texts: Mapping[str, bytes], signer: Signer) -> None:
    children = tuple(_child(f, name, token.claims, texts[name], signer) for name, token in tokens.items())
    first = children[0]
    f.set(children=children, product=first.product)
    if len(children) == 1:
        f.set(machine_id=first.machine_id, machine_id_kind=first.machine_id_kind)


def _child(f: Findings, name: str, claims: Json, text: bytes, signer: Signer) -> TeeClaims:
    ueid, model = claims.get("ueid"), claims.get("hwmodel")
    has_ueid = isinstance(ueid, str) and ueid != ""
    return TeeClaims(
        platform=Platform.NVIDIA_SWITCH if "SWITCH" in name.upper() else Platform.NVIDIA_GPU,
        evidence_format="nras-eat-device",
        evidence_sha256=hashlib.sha256(text).hexdigest(),
        product=plain(model.split(" ", 1)[0], 32) if isinstance(model, str) else None,
        authentic=True,
        debug=False,
        flags={"secure_boot": True},
        nonce=plain(str(claims["eat_nonce"])),
        machine_id=hashlib.sha256(str(ueid).encode()).hexdigest() if has_ueid else None,
        machine_id_kind="ueid" if has_ueid else None,
        root=signer.root,
        evaluated_at=f.evaluated_at,
        raw={"name": name, **claims},
    )


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`bundle` and `jwks`; `params`: nonce, iss, max_age. Raises `FormatError` input_missing, param_malformed.

    A key set that arrives beside the evidence is believed only when `roots` names it, or a certificate over its key.
    """
    for role in ("bundle", "jwks"):
        if role not in blobs:
            raise FormatError(f"there is no {role}", reason="input_missing")
    return verify_nras(
        blobs["bundle"],
        blobs["jwks"],
        roots=roots,
        now=now,
        nonce=text_param(params, "nonce"),
        issuer=text_param(params, "iss") or ISSUER,
        max_age=seconds_param(params, "max_age"),
        extra_roots=tuple(blob for role, blob in blobs.items() if role.startswith("root:")),
    )
