"""Whether what NVIDIA's services answered may be kept: manifests, OCSP answers and the attestation service's key set.

    manifest   signed, its signer chains to a pinned `nvidia_rim` root, and it is the one that was asked for by name.
               A signer that is out of date since is no reason to refuse: NVIDIA does not sign manifests anew (`rim`)
    answer     signed by the certificate's issuer or its responder, in date, and about that certificate. That it is
               revoked is kept as well: an answer that was thrown away would let the certificate pass as one unasked for
    key set    a JWK set; each key has an id of its own, is one that can sign, and is the key of its certificate. Where
               a root is pinned as `nvidia_nras`, one key at least has to be believed because of it, now

A key set without a pinned root rests on TLS alone, and nothing is believed because of it: `nras` asks for a ground.
"""

from __future__ import annotations

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import expires, load_certificate
from gateway.crypto.jose import MAX_KEY_SET_BYTES, MAX_KEYS, Json, certificates_of, key_of
from gateway.errors import FormatError

from .findings import NotAuthentic
from .golden import DRIVER_PREFIXES
from .needs import OcspNeed, RimNeed
from .ocsp import Answer, answer_about
from .rim import Rim, check_rim, parse_rim
from .roots import TrustRoots
from .tokens import signer_of

DAY_S = 86_400.0
#: Seconds after which a manifest whose signer has run out has to be had again, for want of an end of its own.
RIM_HOLD_S = 30 * DAY_S
#: Seconds that a key set is held at most. NVIDIA's keys change by the hour and their certificates last two days.
KEY_SET_HOLD_S = DAY_S


def check_manifest(need: RimNeed, data: bytes, roots: TrustRoots, now: float) -> tuple[float, None, bool]:
    """When the manifest ends (Unix seconds), no evaluation number, and whether its root is a test's.

    Raises `NotAuthentic` rim_malformed|rim_of_another, `XmlSignatureError`, `ChainError`.
    """
    rim = parse_rim(data)
    signed = check_rim(rim, roots, now)
    if not _is_called(rim, need.id):
        raise NotAuthentic(
            "the manifest is another than the one asked for",
            reason="rim_of_another",
            found=f"{rim.product} {rim.version}"[:80],
            expected=need.id[:80],
        )
    return (now + RIM_HOLD_S if signed.expired else expires(signed.chain)), None, signed.root.test


def _is_called(rim: Rim, name: str) -> bool:
    """Whether `name` is NVIDIA's for this manifest. A firmware's names a board by numbers, not its chip."""
    if name.startswith(DRIVER_PREFIXES):
        return name in {f"{prefix}{rim.product}_{rim.version}" for prefix in DRIVER_PREFIXES}
    return name.upper().endswith("_" + rim.version.replace(".", "").upper())


def check_answer(need: OcspNeed, data: bytes, now: float) -> Answer:
    """What the responder says. Raises `FormatError`, `NotAuthentic` (`ocsp.answer_about`)."""
    return answer_about(data, load_certificate(need.certificate), load_certificate(need.issuer), now)


def check_key_set(data: bytes, roots: TrustRoots, now: float) -> float:
    """When the set has to be had again (Unix seconds). Raises `JoseError`, `NotAuthentic` jwk_x5c_mismatch|
    jwks_nothing_in_date|jwks_untrusted."""
    keys = _keys(data)
    ends = [end for key in keys if (end := _check_key(key)) is not None]
    if ends and max(ends) <= now:
        raise NotAuthentic("no certificate of the key set is in date", reason="jwks_nothing_in_date")
    pinned = any(anchor.vendor == "nvidia_nras" for anchor in roots.anchors)
    if pinned and not any(_is_believed(data, key, roots, now) for key in keys):
        raise NotAuthentic("no key of the set chains to what is pinned", reason="jwks_untrusted")
    return min([now + KEY_SET_HOLD_S, *([max(ends)] if ends else [])])


def _keys(data: bytes) -> list[Json]:
    try:
        document = strict_json(data, max_bytes=MAX_KEY_SET_BYTES, max_depth=8)
    except FormatError as error:
        raise _malformed(error.message) from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_KEYS or not all(isinstance(k, dict) for k in keys):
        raise _malformed(f"it is not a list of 1 to {MAX_KEYS} keys")
    ids = [key.get("kid") for key in keys]
    if not all(isinstance(kid, str) and kid for kid in ids) or len(set(ids)) < len(ids):
        raise _malformed("a key has no id, or two have the same")
    return keys


def _check_key(jwk: Json) -> float | None:
    """When the certificate of a key ends; None for a key that has none."""
    key = key_of(jwk)
    if "x5c" not in jwk:
        return None
    chain = certificates_of(jwk["x5c"])
    if chain[0].public_key() != key:
        raise NotAuthentic("a key and its certificate are two keys", reason="jwk_x5c_mismatch")
    return expires(chain)


def _is_believed(data: bytes, jwk: Json, roots: TrustRoots, now: float) -> bool:
    try:
        signer_of(data, jwk["kid"], "nvidia_nras", roots, now)
    except FormatError:
        return False
    return True


def _malformed(message: str) -> NotAuthentic:
    return NotAuthentic(f"the key set: {message}", reason="jwks_malformed")
