"""One attestation document of an OpenGradient enclave, held to the signing key and TLS certificate it should speak for.

OpenGradient's tee-gateway runs behind nitriding, which writes 68 bytes of `user_data`:

    12 20 || SHA-256(TLS certificate, whole DER) || 12 20 || SHA-256(SubjectPublicKeyInfo of the signing key)

What has to be shown, in this order; the first that fails is the reason:
 1. the document is genuine: form, chain to a pinned root, signature; and holds our nonce, and is fresh (live)
 2. it was made for the block that registered it: at most 300 s before, 60 s after (registered; as the chain asks)
 3. the enclave is not in debug mode: then PCR0 to PCR2 are zero and its host reads everything
 4. its user_data is the key and the certificate, exactly
"""

from __future__ import annotations

import hashlib

import msgspec

from gateway.model.tee import BindingStatus, Freshness, FreshnessClass, TeeClaims
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind
from gateway.verify.tee.nitro import verify_nitro
from gateway.verify.tee.roots import TrustRoots

from .pcrs import pcr_hash

#: How old a live document may be, and how old a registered one at its block; seconds. The chain's own limits.
MAX_AGE_S = 300.0
MAX_AHEAD_S = 60.0
USER_DATA_BYTES = 68


class Keys(msgspec.Struct, frozen=True):
    """What a document should speak for: the signing key's SubjectPublicKeyInfo and the TLS certificate, both DER."""

    spki: bytes
    tls_certificate: bytes


class Attested(msgspec.Struct, frozen=True):
    """What was found of one document. `reason` is None when it holds for the keys; `claims` has the binding in it."""

    claims: TeeClaims
    reason: str | None
    pcr_hash: bytes | None = None

    @property
    def held(self) -> bool:
        return self.reason is None


def live_document(document: bytes, keys: Keys, nonce: bytes, *, roots: TrustRoots, now: float) -> Attested:
    """Hold a document that was made for our `nonce` (20 bytes) to `keys`, at `now`. Total for any bytes."""
    result = verify_nitro(document, roots=roots, now=now, nonce=nonce, max_age_s=MAX_AGE_S)
    return _held(result.claims, keys)


def registered_document(
    document: bytes, keys: Keys, block_time: float | None, *, roots: TrustRoots, now: float
) -> Attested:
    """Hold the document of a registration to `keys`, as of the time of its block. Total for any bytes.

    `block_time` None: as of the document's own time. Either way the claims say `historical`: it was genuine then, and
    their age counts to `now`.
    """
    if block_time is None:
        return _held(verify_nitro(document, roots=roots, now=now, historical=True).claims, keys)
    then = verify_nitro(document, roots=roots, now=block_time, max_age_s=MAX_AGE_S, future_skew_s=MAX_AHEAD_S).claims
    return _held(_dated(then, now), keys)


def _dated(claims: TeeClaims, now: float) -> TeeClaims:
    # Verified as of the block, said as of now: otherwise a year-old document would look as fresh as on its first day.
    issued = claims.freshness.issued_at
    age = None if issued is None else now - issued
    freshness = Freshness(FreshnessClass.DATED, issued, age)
    return msgspec.structs.replace(
        claims, freshness=freshness, evaluated_at=now, raw={**claims.raw, "historical": True}
    )


def _held(claims: TeeClaims, keys: Keys) -> Attested:
    inputs = BindingInputs(
        certificate_sha256=hashlib.sha256(keys.tls_certificate).digest(),
        signing_spki_sha256=hashlib.sha256(keys.spki).digest(),
    )
    claims = msgspec.structs.replace(claims, binding=bind(BindingRule.OPENGRADIENT, claims, inputs))
    measured = pcr_hash(claims.measurements) if claims.authentic else None
    return Attested(claims, _reason(claims, inputs, measured), measured)


def _reason(claims: TeeClaims, inputs: BindingInputs, measured: bytes | None) -> str | None:
    if not claims.authentic:
        return claims.reject_code
    if claims.debug is not False:
        return "debug_enclave" if claims.debug else "pcr_missing"
    if measured is None:
        return "pcr_missing"
    if claims.binding.status is BindingStatus.BOUND:
        return None
    return _unbound(bytes.fromhex(claims.raw["user_data"] or ""), inputs)


def _unbound(user_data: bytes, inputs: BindingInputs) -> str:
    """Which half is another's. The key's first: it is the one that answers are believed by."""
    if len(user_data) != USER_DATA_BYTES or user_data[:2] != b"\x12\x20" or user_data[34:36] != b"\x12\x20":
        return "user_data_malformed"
    return "tls_binding" if user_data[36:] == inputs.signing_spki_sha256 else "signing_key_binding"
