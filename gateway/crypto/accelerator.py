"""What a second Ed25519 library has to offer, and to show, before `gateway.crypto.signatures` lets it confirm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: RFC 8032 section 7.1, tests 1 and 3: seed, public key, message, signature.
_KNOWN = tuple(
    tuple(map(bytes.fromhex, vector))
    for vector in (
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
            "24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed2"
            "8dc027beceea1ec40a",
        ),
    )
)


class Accelerator(NamedTuple):
    """Two functions of a library that is faster than libsodium.

    `signer(seed32)` gives the function that signs a message; `confirms(public_key, message, signature)` is True when
    the cofactorless equation of RFC 8032 section 5.1.7 holds and S < L. It may take keys of small order.
    """

    signer: Callable[[bytes], Callable[[bytes], bytes]]
    confirms: Callable[[bytes, bytes, bytes], bool]


def answers_rightly(found: Accelerator) -> bool:
    """Whether `found` makes the RFC's signatures, confirms them, and nothing that differs from them in one bit."""
    for seed, public, message, signature in _KNOWN:
        if found.signer(seed)(message) != signature or not found.confirms(public, message, signature):
            return False
        changed = [(public, message + b"\0", signature)]
        changed += [(public, message, _flipped(signature, at)) for at in (0, 31, 32, 63)]
        changed += [(_flipped(public, 0), message, signature)]
        if any(found.confirms(*case) for case in changed):
            return False
    return True


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
