"""The Arm CCA attestation token: two signed CBOR maps in one, read strictly.

Written to the Realm Management Monitor specification, section A7.2, and draft-ffm-rats-cca-token:

    399({44234: bstr COSE_Sign1 platform, 44241: bstr COSE_Sign1 realm})                         (or tag 907)
    platform {265 profile, 10 challenge, 256 instance id, 2396 implementation id, 2395 lifecycle, 2401 configuration,
              2402 hash, 2399 software components, ? 2400 verification service}
    realm    {? 265 profile, 10 challenge, 44235 personalisation value, 44236 hash, 44237 public key, 44238 initial
              measurement, 44239 extensible measurements, 44240 hash of the public key}
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.crypto import cbor, cose
from gateway.errors import FormatError

from .findings import NotAuthentic

MAX_TOKEN_BYTES = 65_536
MAX_TEXT = 256
MAX_COMPONENTS = 64
TAGS = (399, 907)
_PLATFORM, _REALM = 44234, 44241
_ALGS = ("ES384", "ES256", "ES512")
_DIGEST_SIZES = (32, 48, 64)
#: The lifecycle state "secured" (PSA: 0x3000 to 0x30ff); every other state lets somebody debug the platform.
SECURED = range(0x3000, 0x3100)

_CHALLENGE, _PROFILE, _INSTANCE_ID = 10, 265, 256
_LIFECYCLE, _IMPLEMENTATION_ID, _COMPONENTS, _SERVICE, _CONFIG, _PLATFORM_HASH = 2395, 2396, 2399, 2400, 2401, 2402
_RPV, _REALM_HASH, _REALM_KEY, _RIM, _REMS, _REALM_KEY_HASH = 44235, 44236, 44237, 44238, 44239, 44240

Claims = Mapping[int | str, cbor.CborValue]


class PlatformClaims(msgspec.Struct, frozen=True):
    """What the platform token says. `components` in the names of the token, bytes as hex."""

    challenge: bytes
    profile: str
    instance_id: bytes
    implementation_id: bytes
    lifecycle: int
    config: bytes
    hash_name: str
    components: tuple[dict[str, str | int], ...]
    service: str | None

    @property
    def secured(self) -> bool:
        return self.lifecycle in SECURED


class RealmClaims(msgspec.Struct, frozen=True):
    """What the realm token says. `key` is in its encoding as it came: that is what the platform vouches for."""

    challenge: bytes
    personalisation: bytes
    hash_name: str
    key: bytes
    key_hash_name: str
    rim: bytes
    rems: tuple[bytes, ...]


class CcaToken(msgspec.Struct, frozen=True):
    """Both messages and what they say, none of it shown yet."""

    platform: cose.CoseSign1
    realm: cose.CoseSign1
    platform_claims: PlatformClaims
    realm_claims: RealmClaims


def parse(data: bytes) -> CcaToken:
    """The token that `data` is, to its last byte. Raises `NotAuthentic` with a reason that begins with cca_."""
    try:
        _, collection = cbor.load_tagged(data, TAGS, max_bytes=MAX_TOKEN_BYTES)
    except FormatError as error:
        raise NotAuthentic(f"not a CCA token: {error.message}", reason=_reason(error)) from None
    if not isinstance(collection, Mapping) or set(collection) != {_PLATFORM, _REALM}:
        raise NotAuthentic("the token is not a platform and a realm token", reason="cca_bad_collection")
    platform, realm = (_message(collection[name]) for name in (_PLATFORM, _REALM))
    return CcaToken(platform, realm, _platform(_claims(platform)), _realm(_claims(realm)))


def _reason(error: FormatError) -> str:
    return {"cbor_tag": "cca_bad_collection", "cbor_trailing_bytes": "cca_trailing_bytes"}.get(
        error.reason or "", "cca_bad_cbor"
    )


def _message(value: cbor.CborValue) -> cose.CoseSign1:
    if not isinstance(value, bytes):
        raise NotAuthentic("a part of the token is not a byte string", reason="cca_bad_collection")
    try:
        return cose.read_sign1(value, algs=_ALGS)
    except FormatError as error:
        raise NotAuthentic(f"a part is not COSE_Sign1: {error.message}", reason="cca_not_cose_sign1") from None


def _claims(message: cose.CoseSign1) -> Claims:
    try:
        claims = cbor.load(message.payload)
    except FormatError as error:
        raise NotAuthentic(f"a payload is not CBOR: {error.message}", reason="cca_bad_cbor") from None
    if not isinstance(claims, Mapping):
        raise NotAuthentic("a payload is not a map of claims", reason="cca_bad_claims")
    return claims


def _platform(claims: Claims) -> PlatformClaims:
    instance_id = _bytes(claims, _INSTANCE_ID, (33,))
    if instance_id[0] != 1:
        raise NotAuthentic("the instance id is not a UEID of type 1", reason="cca_bad_claims")
    lifecycle = claims.get(_LIFECYCLE)
    if type(lifecycle) is not int or not 0 <= lifecycle <= 0xFFFF:
        raise _bad(_LIFECYCLE)
    config = claims.get(_CONFIG)
    if not isinstance(config, bytes):
        raise _bad(_CONFIG)
    return PlatformClaims(
        challenge=_bytes(claims, _CHALLENGE, _DIGEST_SIZES),
        profile=_text(claims, _PROFILE),
        instance_id=instance_id,
        implementation_id=_bytes(claims, _IMPLEMENTATION_ID, (32,)),
        lifecycle=lifecycle,
        config=config,
        hash_name=_text(claims, _PLATFORM_HASH),
        components=_components(claims.get(_COMPONENTS)),
        service=_text(claims, _SERVICE) if _SERVICE in claims else None,
    )


def _realm(claims: Claims) -> RealmClaims:
    rems = claims.get(_REMS)
    if not isinstance(rems, (list, tuple)) or len(rems) != 4:
        raise _bad(_REMS)
    key = claims.get(_REALM_KEY)
    if not isinstance(key, bytes):
        raise _bad(_REALM_KEY)
    return RealmClaims(
        challenge=_bytes(claims, _CHALLENGE, (64,)),
        personalisation=_bytes(claims, _RPV, (64,)),
        hash_name=_text(claims, _REALM_HASH),
        key=key,
        key_hash_name=_text(claims, _REALM_KEY_HASH),
        rim=_bytes(claims, _RIM, _DIGEST_SIZES),
        rems=tuple(_digest(rem, _REMS) for rem in rems),
    )


def _components(value: object) -> tuple[dict[str, str | int], ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_COMPONENTS:
        raise _bad(_COMPONENTS)
    return tuple(_component(component) for component in value)


def _component(component: object) -> dict[str, str | int]:
    """One software component: claim number as text to text, integer or hex."""
    if not isinstance(component, Mapping):
        raise _bad(_COMPONENTS)
    shown: dict[str, str | int] = {}
    for name, value in component.items():
        if type(name) is not int:
            raise _bad(_COMPONENTS)
        if isinstance(value, bytes):
            shown[str(name)] = value.hex()
        elif type(value) is int or (isinstance(value, str) and _is_plain(value)):
            shown[str(name)] = value
        else:
            raise _bad(_COMPONENTS)
    return shown


def _bytes(claims: Claims, name: int, sizes: tuple[int, ...]) -> bytes:
    value = claims.get(name)
    if not isinstance(value, bytes) or len(value) not in sizes:
        raise _bad(name)
    return value


def _digest(value: object, name: int) -> bytes:
    if not isinstance(value, bytes) or len(value) not in _DIGEST_SIZES:
        raise _bad(name)
    return value


def _text(claims: Claims, name: int) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not _is_plain(value):
        raise _bad(name)
    return value


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_TEXT and text.isascii() and text.isprintable()


def _bad(name: int) -> NotAuthentic:
    return NotAuthentic(f"claim {name} is missing or not of its form", reason="cca_bad_claims")
