"""Synthetic Arm CCA tokens under keys of our own.

world = World()
verify_cca(world.token(challenge=b"c" * 64), world.platform_key_sec1, roots=world.roots, now=world.now)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.crypto import ec_keys
from gateway.errors import FormatError
from gateway.verify.tee.cca import verify_cca
from gateway.verify.tee.cca_token import parse
from gateway.verify.tee.roots import Anchor, TrustRoots

from .nitro import DROP, ES384, ec_key, sign1

NOW = 1_790_000_000.0
CHALLENGE = bytes(range(64))


class World:
    """One platform key, one realm key, and tokens signed by both."""

    def __init__(self) -> None:
        self.now = NOW
        self.platform_key, self.realm_key = ec_key("cca platform"), ec_key("cca realm")
        self.platform_key_sec1 = sec1(self.platform_key)
        self.realm_key_sec1 = sec1(self.realm_key)

    @property
    def roots(self) -> TrustRoots:
        """The anchors that believe this world's platform key."""
        digest = ec_keys.spki_sha256(self.platform_key.public_key())
        return TrustRoots((Anchor("cca", "test platform", digest, test=True),))

    def platform(self, realm_key: bytes, change: Mapping[object, object] | None = None) -> dict[Any, Any]:
        """The claims of a platform token that vouches for `realm_key`."""
        component = {1: "BL1", 2: hashlib.sha256(b"bl1").digest(), 4: "1.0", 5: hashlib.sha256(b"signer").digest()}
        claims: dict[Any, Any] = {
            265: "tag:arm.com,2023:cca_platform#1.0.0",
            10: hashlib.sha256(realm_key).digest(),
            256: b"\x01" + hashlib.sha256(b"instance").digest(),
            2396: hashlib.sha256(b"implementation").digest(),
            2395: 0x3003,
            2401: b"\xcf" * 4,
            2402: "sha-256",
            2399: [component, {1: "RMM", 2: hashlib.sha256(b"rmm").digest(), 5: bytes(32), 6: "sha-256"}],
        }
        return _changed(claims, change)

    def realm(
        self, realm_key: bytes, challenge: bytes, change: Mapping[object, object] | None = None
    ) -> dict[Any, Any]:
        """The claims of a realm token."""
        claims: dict[Any, Any] = {
            10: challenge,
            44235: bytes(64),
            44236: "sha-512",
            44237: realm_key,
            44238: hashlib.sha512(b"rim").digest(),
            44239: [bytes(64)] * 4,
            44240: "sha-256",
        }
        return _changed(claims, change)

    def token(
        self,
        *,
        challenge: bytes = CHALLENGE,
        platform: Mapping[object, object] | None = None,
        realm: Mapping[object, object] | None = None,
        realm_key: bytes | None = None,
        sign_platform: ec.EllipticCurvePrivateKey | None = None,
        sign_realm: ec.EllipticCurvePrivateKey | None = None,
        realm_protected: bytes = ES384,
        realm_digest: hashes.HashAlgorithm | None = None,
        tag: int | None = 399,
        part_tag: int | None = 18,
        collection: Mapping[object, object] | None = None,
    ) -> bytes:
        """A token; `platform`, `realm` and `collection` change members (DROP leaves one out)."""
        key = self.realm_key_sec1 if realm_key is None else realm_key
        platform_part = sign1(
            sign_platform or self.platform_key, cbor2.dumps(self.platform(key, platform)), tag=part_tag
        )
        realm_part = sign1(
            sign_realm or self.realm_key,
            cbor2.dumps(self.realm(key, challenge, realm)),
            tag=part_tag,
            protected=realm_protected,
            digest=realm_digest,
        )
        members = _changed({44234: platform_part, 44241: realm_part}, collection)
        return cbor2.dumps(members if tag is None else cbor2.CBORTag(tag, members))


def _changed(claims: dict[Any, Any], change: Mapping[object, object] | None) -> dict[Any, Any]:
    claims.update(change or {})
    return {name: value for name, value in claims.items() if value is not DROP}


def sec1(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def cose_key(key: ec.EllipticCurvePrivateKey, change: Mapping[object, object] | None = None) -> bytes:
    """The key as a COSE_Key, members changed as told."""
    point = sec1(key)
    size = (len(point) - 1) // 2
    curve = {32: 1, 48: 2, 66: 3}[size]
    return cbor2.dumps(_changed({1: 2, -1: curve, -2: point[1 : 1 + size], -3: point[1 + size :]}, change))


_world: list[World] = []
_genuine: dict[bytes, tuple[bytes, bytes]] = {}


def seeds() -> list[bytes]:
    """Genuine tokens to mutate, one with a realm key in a COSE_Key."""
    if not _world:
        _world.append(World())
        world = _world[0]
        for token in (world.token(), world.token(realm_key=cose_key(world.realm_key), part_tag=None, tag=907)):
            parsed = parse(token)
            _genuine[token] = (parsed.platform.payload, parsed.realm.payload)
    return [*_genuine, cose_key(_world[0].realm_key)]


def run(data: bytes) -> None:
    """One input of the fuzz target: as a token, and as a platform key. Raises nothing unless something is wrong."""
    genuine = next(iter(seeds()))
    world = _world[0]
    result = verify_cca(data, world.platform_key_sec1, roots=world.roots, now=world.now)
    if result.claims.authentic:
        parsed = parse(data)
        assert (parsed.platform.payload, parsed.realm.payload) in _genuine.values(), "authentic, and nobody signed it"
    verify_cca(genuine, data, roots=world.roots, now=world.now)
    try:
        ec_keys.public_key(data)
    except FormatError:
        return
