"""Keccak-256 as Ethereum uses it: the original padding, so not the SHA3-256 of FIPS 202.

    keccak256(b"") = c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470

The two differ by two padding bits and are taken for each other in more than one network's documents; `hashlib` has
SHA3-256 only.
"""

from __future__ import annotations

from sha3 import keccak_256  # type: ignore[import-untyped]


def keccak256(data: bytes) -> bytes:
    """The 32-byte Keccak-256 digest of `data`."""
    digest: bytes = keccak_256(data).digest()
    return digest
