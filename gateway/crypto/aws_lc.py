"""Ed25519 by AWS-LC, half the time of libsodium on x86-64 and arm64: the extra `fast`.

AWS-LC has no Python package of its own. qh3 (BSD-3) carries it inside a binary module that says nothing about itself;
so only that module is loaded and none of qh3's Python, and it is believed after it has answered for the vectors of
RFC 8032 section 7.1 and refused changed ones. `gateway.crypto.signatures` asks it and keeps the last word.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import PathFinder
from types import ModuleType
from typing import NamedTuple

#: What PKCS #8 (RFC 8410 section 7) and SubjectPublicKeyInfo (section 4) put before the 32 bytes of a key.
_SEED_DER = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC_DER = bytes.fromhex("302a300506032b6570032100")
#: TLS's number for Ed25519 (RFC 8446 section 4.2.3), by which qh3 tells algorithms apart.
_ED25519 = 0x0807

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


class AwsLc(NamedTuple):
    """Two functions of AWS-LC.

    `signer(seed32)` gives the function that signs a message; `confirms(public_key, message, signature)` is True when
    the cofactorless equation of RFC 8032 section 5.1.7 holds and S < L. It also takes keys of small order.
    """

    signer: Callable[[bytes], Callable[[bytes], bytes]]
    confirms: Callable[[bytes, bytes, bytes], bool]


def load() -> AwsLc | None:
    """AWS-LC, or None where qh3 is not installed, cannot be loaded or does not do what it should."""
    package = importlib.util.find_spec("qh3")
    spec = package and PathFinder.find_spec("_hazmat", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = over(module)
    except (ImportError, AttributeError):
        return None
    return found if answers_rightly(found) else None


def over(module: ModuleType) -> AwsLc:
    """The functions of qh3's binary `module`. Raises `AttributeError` when it has them no more."""
    verify, private_key = module.verify_with_public_key, module.Ed25519PrivateKey
    # TypeError: it takes `bytes` and nothing like them; libsodium's side takes more.
    refusals = (module.SignatureError, module.CryptoError, TypeError)

    def signer(seed32: bytes) -> Callable[[bytes], bytes]:
        sign: Callable[[bytes], bytes] = private_key(_SEED_DER + seed32).sign
        return sign

    def confirms(public_key: bytes, message: bytes, signature: bytes) -> bool:
        try:
            return verify(_PUBLIC_DER + public_key, _ED25519, message, signature) is None
        except refusals:
            return False

    return AwsLc(signer, confirms)


def answers_rightly(found: AwsLc) -> bool:
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
