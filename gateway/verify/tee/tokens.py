"""What the tokens of attestation services have in common: whose key may sign, for whom, and when.

A key is believed on one of two grounds, never because a key set or a header names it:

    x5c   the JWK carries a chain; its leaf is the same key, and the chain reaches a certificate that is pinned. The pin
          may be an intermediate: services leave the root out of the chain.
    set   the SHA-256 of the whole key set, as bytes, is pinned. This proves that the token was signed by a key of that
          set and nothing about who published the set: the ground is whoever pinned it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.crypto.certificates import ChainError, der_of, expires, fingerprint, in_date, is_ca, load_certificate
from gateway.crypto.jose import Json, PublicKey, certificates_of, find_key, key_of
from gateway.errors import FormatError
from gateway.model.tee import Collateral, Root

from .findings import NotAuthentic
from .roots import TrustRoots

#: Seconds by which a service's clock and ours may differ.
SKEW = 60.0


class Signer(msgspec.Struct, frozen=True):
    """The key that a token must be signed by, and why it is believed. `jwk` is kept for the archive."""

    key: PublicKey
    chain: tuple[x509.Certificate, ...]
    root: Root
    jwk: Json


class Times(msgspec.Struct, frozen=True):
    """When a token says it was issued and runs out, in Unix seconds."""

    issued_at: float
    expires: float


def signer_of(
    key_set: bytes, kid: object, vendor: str, roots: TrustRoots, now: float, extra: Sequence[bytes] = ()
) -> Signer:
    """The key `kid` of a JWK set, if there is a ground to believe it (see above); `extra` are roots' DER to chain to.

    Raises `JoseError`, `ChainError`, and `NotAuthentic` jwk_without_chain|jwk_x5c_mismatch.
    """
    jwk = find_key(key_set, kid)
    key = key_of(jwk)
    pinned_set = roots.find(vendor, key_set)
    if "x5c" not in jwk:
        if pinned_set is None:
            raise NotAuthentic("the signing key has no certificate", reason="jwk_without_chain")
        return Signer(key, (), pinned_set, jwk)
    chain = certificates_of(jwk["x5c"])
    if _spki(chain[0].public_key()) != _spki(key):
        raise NotAuthentic("the key and its certificate are two keys", reason="jwk_x5c_mismatch")
    chain = _reach(chain, vendor, roots, extra)
    root = roots.find(vendor, der_of(chain[-1])) or pinned_set
    if root is None:
        raise ChainError("the signing key chains to nothing that is pinned", reason="chain_untrusted_root")
    hold(chain, now)
    return Signer(key, chain, root, jwk)


def _reach(
    chain: tuple[x509.Certificate, ...], vendor: str, roots: TrustRoots, extra: Sequence[bytes]
) -> tuple[x509.Certificate, ...]:
    """The chain cut behind the first pinned certificate, or lengthened by a pinned one that issued its last."""
    for place, certificate in enumerate(chain):
        if roots.find(vendor, der_of(certificate)) is not None:
            return chain[: place + 1]
    for der in extra:
        if roots.find(vendor, der) is not None:
            root = load_certificate(der)
            if root.subject == chain[-1].issuer:
                return (*chain, root)
    return chain


def hold(chain: Sequence[x509.Certificate], now: float) -> None:
    """Each certificate in date at `now`, issued by the next, the next a CA. Raises `ChainError`.

    Unlike `check_chain` the last one need not be self-signed: it may be a pinned intermediate.
    """
    for place, certificate in enumerate(chain):
        if not in_date(certificate, now):
            raise ChainError(f"certificate {place} is out of date", reason="cert_expired_or_not_yet_valid")
    for place in range(len(chain) - 1):
        try:
            chain[place].verify_directly_issued_by(chain[place + 1])
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise ChainError(f"certificate {place} is not signed by the next", reason="chain_broken") from None
        if not is_ca(chain[place + 1]):
            raise ChainError(f"certificate {place + 1} of the chain is not a CA", reason="issuer_not_ca")


def _spki(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):  # pragma: no cover  load_certificate has parsed the key already
        return b""
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def key_digest(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's SubjectPublicKeyInfo, lower-case hex."""
    return hashlib.sha256(_spki(certificate.public_key())).hexdigest()


def signed_by(signer: Signer, key_set: bytes) -> dict[str, object]:
    """The claims that tell who signed: chain, root and collateral."""
    return {
        "signer_chain": tuple(fingerprint(c) for c in signer.chain),
        "root": signer.root,
        "collateral": Collateral(
            hashes=(hashlib.sha256(key_set).hexdigest(),),
            expires=expires(signer.chain) if signer.chain else None,
        ),
    }


def check_issuer(claims: Json, issuer: str) -> None:
    """`iss` is exactly `issuer`. Raises `NotAuthentic` jwt_bad_iss."""
    if claims.get("iss") != issuer:
        raise NotAuthentic(
            "the token is of another issuer", reason="jwt_bad_iss", found=shown(claims.get("iss")), expected=issuer
        )


def check_times(claims: Json, now: float, *, max_age: float | None = None) -> Times:
    """`iat`, `exp` and, when there, `nbf` against `now`, with `SKEW`; `max_age` in seconds since `iat`.

    Raises `NotAuthentic` jwt_bad_times|jwt_expired|jwt_not_yet_valid|jwt_from_future|jwt_too_old.
    """
    issued, runs_out = _time(claims, "iat"), _time(claims, "exp")
    starts = _time(claims, "nbf") if "nbf" in claims else issued
    if runs_out < issued:
        raise NotAuthentic("the token runs out before it is issued", reason="jwt_bad_times")
    if now > runs_out + SKEW:
        raise NotAuthentic("the token has run out", reason="jwt_expired", found=f"exp {runs_out:.0f}")
    if now < starts - SKEW:
        raise NotAuthentic("the token is not valid yet", reason="jwt_not_yet_valid", found=f"nbf {starts:.0f}")
    if now < issued - SKEW:
        raise NotAuthentic("the token is from the future", reason="jwt_from_future", found=f"iat {issued:.0f}")
    if max_age is not None and now - issued > max_age + SKEW:
        raise NotAuthentic("the token is too old", reason="jwt_too_old", found=f"{now - issued:.0f} s")
    return Times(issued, runs_out)


def _time(claims: Json, name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise NotAuthentic(f"the token's {name} is no time", reason="jwt_bad_times")
    return float(value)


def check_audience(claims: Json, audience: str) -> None:
    """`aud` is, or names, `audience`. Raises `NotAuthentic` jwt_bad_aud."""
    found = claims.get("aud")
    if found != audience and not (isinstance(found, list) and audience in found):
        raise NotAuthentic(
            "the token is for another audience", reason="jwt_bad_aud", found=shown(found), expected=shown(audience)
        )


def shown(value: object) -> str:
    """A value from outside for a person to read: printable ASCII, at most 80 characters."""
    return ascii(value if not isinstance(value, str) else value[:80])[:80]


def text_param(params: Mapping[str, Any], name: str) -> str | None:
    """A parameter that is text, None when it was not given.

    Raises `FormatError` param_malformed, also for an empty one: a nonce of nothing is met by tokens that hold nothing.
    """
    value = params.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise FormatError(f"the parameter {name} is not text", reason="param_malformed")
    return value


def seconds_param(params: Mapping[str, Any], name: str) -> float | None:
    """A parameter in seconds, None when it was not given. Raises `FormatError` param_malformed."""
    value = params.get(name)
    if value is not None and (type(value) not in (int, float) or not 0 <= value < 1 << 53):
        raise FormatError(f"the parameter {name} is not a number of seconds", reason="param_malformed")
    return value
