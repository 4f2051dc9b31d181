"""Ed25519 by AWS-LC, about half the time of libsodium on x86-64: the extra `fast`.

AWS-LC has no Python package of its own. qh3 (BSD-3) carries it inside a binary module whose interface is private; so
only that module is loaded, and none of qh3's Python. `gateway.crypto.signatures.accelerate` decides whether to believe
it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import PathFinder
from types import ModuleType

from .crypto.accelerator import Accelerator

#: What PKCS #8 (RFC 8410 section 7) and SubjectPublicKeyInfo (section 4) put before the 32 bytes of a key.
_SEED_DER = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC_DER = bytes.fromhex("302a300506032b6570032100")
#: TLS's number for Ed25519 (RFC 8446 section 4.2.3), by which qh3 tells algorithms apart.
_ED25519 = 0x0807


def load() -> Accelerator | None:
    """AWS-LC, or None where qh3 is not installed, cannot be loaded or has not what is needed of it."""
    package = importlib.util.find_spec("qh3")
    spec = package and PathFinder.find_spec("_hazmat", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return over(module)
    except (ImportError, AttributeError):
        return None


def over(module: ModuleType) -> Accelerator:
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

    return Accelerator(signer, confirms)
