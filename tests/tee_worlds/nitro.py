"""The synthetic Nitro host of `gateway.testing.tee.nitro`, and what the long fuzz target calls."""

from __future__ import annotations

import cbor2

from gateway.crypto import cbor, cose
from gateway.errors import FormatError
from gateway.testing.tee.nitro import *  # noqa: F403
from gateway.testing.tee.nitro import DROP, World, debug_pcrs
from gateway.verify.tee.nitro import verify_nitro
from gateway.verify.tee.pcr_history import parse_history

_world: list[World] = []
_genuine: dict[bytes, bytes] = {}


def seeds() -> list[bytes]:
    """Genuine documents to mutate, and a few inputs for the readers below them."""
    if not _world:
        _world.append(World())
        world = _world[0]
        for document in (
            world.document(nonce=b"nonce", public_key=b"k" * 32, user_data=b"u" * 68),
            world.document(indefinite=False, tag=18, pcrs=debug_pcrs()),
            world.document(change={"nonce": DROP, "user_data": DROP, "public_key": DROP}),
        ):
            _genuine[document] = cose.read_sign1(document).payload
    return [*_genuine, *_genuine.values(), cbor2.dumps({1: [b"x", "y", None, True, -5], "z": {"a": {}}})]


def run(data: bytes) -> None:
    """One input of the fuzz target. Raises nothing unless something is wrong."""
    seeds()
    world = _world[0]
    result = verify_nitro(data, roots=world.roots, now=world.now, max_age_s=300)
    if result.claims.authentic:
        assert cose.read_sign1(data).payload in _genuine.values(), "authentic, and nobody signed it"
    for reader in (cbor.load, cose.read_sign1, parse_history):
        try:
            reader(data)
        except FormatError:
            continue
