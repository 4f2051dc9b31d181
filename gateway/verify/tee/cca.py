"""Arm CCA: an attestation token to claims, under a platform key that the caller names.

What has to be shown, in this order:
 1. tee_format     a platform and a realm token of the form that the specification gives (`cca_token`)
 2. tee_chain      the platform key is a pinned one
 3. tee_signature  the platform key signed the platform token, and the realm key the realm token
 4. tee_parts      the platform token's challenge is the digest of the realm key, so the two belong together
 5. tee_nonce      the realm token's challenge is ours

There is no Arm root: the platform key comes from an endorsement for one implementation or instance, so the caller has
to know it. A key that no anchor names leaves `tee_chain` unshown and the claims without a root: what is signed under it
proves nothing to anybody who did not choose the key.

Freshness is the challenge or nothing; a token carries no time. No production network uses this platform yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from gateway.crypto import ec_keys
from gateway.crypto.cose import verify_sign1
from gateway.errors import FormatError
from gateway.model.tee import Freshness, FreshnessClass, Platform, Root, TcbStatus, TeeResult

from .cca_token import CcaToken, PlatformClaims, RealmClaims, parse
from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots

PLAN = ("tee_format", "tee_chain", "tee_signature", "tee_parts", "tee_nonce")

_HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}


def verify_cca(
    token: bytes, platform_key: bytes, *, roots: TrustRoots, now: float, challenge: bytes | None = None
) -> TeeResult:
    """Examine one token at `now` (Unix seconds). Total: any bytes of either kind give a `TeeResult`.

    `platform_key` is the endorsed key: SEC1 point, SubjectPublicKeyInfo, JWK or COSE_Key. An anchor of the vendor
    "cca" names it by the SHA-256 of its SubjectPublicKeyInfo. `challenge` None: none was asked for.
    """

    def verify(f: Findings) -> None:
        # 1.
        with f.step("tee_format") as step:
            parsed = parse(token)
            step.found = f"platform and realm token, {len(token)} bytes"
        key, root = _anchor(f, platform_key, roots)
        _signatures(f, parsed, key)
        _parts(f, parsed)
        _claim(f, parsed.platform_claims, parsed.realm_claims, root)
        _nonce(f, parsed.realm_claims, challenge)

    return examine(Platform.ARM_CCA, token, now, PLAN, verify)


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """The roles of the vector manifests: `token`, `cpak` (the platform key); param nonce (hex), the challenge.

    Raises `FormatError`: input_missing, input_invalid.
    """
    for role in ("token", "cpak"):
        if role not in blobs:
            raise FormatError(f"there is no input {role}", reason="input_missing")
    nonce = params.get("nonce")
    try:
        challenge = None if nonce is None else bytes.fromhex(nonce)
    except (ValueError, TypeError):
        challenge = b""
    if challenge == b"":
        raise FormatError("the parameter nonce is not hex", reason="input_invalid")
    return verify_cca(blobs["token"], blobs["cpak"], roots=roots, now=now, challenge=challenge)


def _anchor(f: Findings, platform_key: bytes, roots: TrustRoots) -> tuple[ec_keys.EcKey, Root | None]:
    # 2.
    with f.step("tee_chain") as step:
        try:
            key = ec_keys.public_key(platform_key)
        except FormatError as error:
            raise NotAuthentic(f"the platform key: {error.message}", reason="cca_bad_platform_key") from None
        fingerprint = ec_keys.spki_sha256(key)
        root = roots.find("cca", ec_keys.spki_der(key))
        step.found = step.expected = fingerprint
    if root is None:
        # No root, not even a test's: a gateway that is set to take test roots takes those that it was given.
        f.absent("tee_chain", "platform_key_not_pinned", fingerprint)
    f.set(signer_chain=(fingerprint,))
    return key, root


def _signatures(f: Findings, token: CcaToken, platform_key: ec_keys.EcKey) -> None:
    # 3. in this order, so that a realm under a foreign platform is told from a realm that was altered
    with f.step("tee_signature") as step:
        if not verify_sign1(token.platform, platform_key):
            raise NotAuthentic(
                "the platform key did not sign the platform token", reason="cca_platform_bad_signature", over="platform"
            )
        try:
            realm_key = ec_keys.public_key(token.realm_claims.key)
        except FormatError as error:
            raise NotAuthentic(f"the realm key: {error.message}", reason="cca_bad_realm_key") from None
        if not verify_sign1(token.realm, realm_key):
            raise NotAuthentic(
                "the realm key did not sign the realm token", reason="cca_realm_bad_signature", over="realm"
            )
        step.found, step.over = f"{token.platform.alg}, {token.realm.alg}", "both payloads"


def _parts(f: Findings, token: CcaToken) -> None:
    # 4. any realm key signs its own token; this is what makes it the platform's realm
    with f.step("tee_parts") as step:
        digest = _HASHES.get(token.realm_claims.key_hash_name)
        if digest is None:
            raise NotAuthentic("the realm key's digest has no known name", reason="cca_bad_hash_name")
        expected = digest(token.realm_claims.key).digest()
        found = token.platform_claims.challenge
        if found != expected:
            raise NotAuthentic(
                "the platform token does not vouch for the realm key",
                reason="cca_realm_key_not_bound",
                found=found.hex()[:64],
                expected=expected.hex()[:64],
            )
        step.found = step.expected = expected.hex()[:64]


def _nonce(f: Findings, realm: RealmClaims, challenge: bytes | None) -> None:
    # 5.
    if challenge is None:
        f.absent("tee_nonce", "nonce_not_demanded")
        return
    with f.step("tee_nonce") as step:
        found, expected = realm.challenge.hex()[:64], challenge.hex()[:64]
        if realm.challenge != challenge:
            raise NotAuthentic(
                "the realm token does not hold our challenge", reason="nonce_mismatch", found=found, expected=expected
            )
        step.found = step.expected = expected
    f.set(nonce=challenge.hex(), freshness=Freshness(FreshnessClass.CHALLENGE))


def _claim(f: Findings, platform: PlatformClaims, realm: RealmClaims, root: Root | None) -> None:
    measurements = {"rim": realm.rim.hex(), "rpv": realm.personalisation.hex()}
    measurements |= {f"rem{index}": rem.hex() for index, rem in enumerate(realm.rems)}
    f.set(
        evidence_format="cca-token",
        tcb_status=TcbStatus.NOT_APPLICABLE,
        debug=not platform.secured,
        measurements=measurements,
        report_data=realm.challenge.hex(),
        machine_id=hashlib.sha256(platform.instance_id).hexdigest(),
        machine_id_kind="instance_id",
        root=root,
        raw={
            "instance_id": platform.instance_id.hex(),
            "implementation_id": platform.implementation_id.hex(),
            "lifecycle": platform.lifecycle,
            "profile": platform.profile,
            "platform_config": platform.config.hex(),
            "platform_hash": platform.hash_name,
            "realm_hash": realm.hash_name,
            "verification_service": platform.service,
            "sw_components": list(platform.components),
        },
    )
