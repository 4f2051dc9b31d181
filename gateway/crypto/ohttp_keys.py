"""Key configurations of Oblivious HTTP (RFC 9458 section 3): which key to seal to, and with what.

    key identifier (1) | KEM (2) | public key (32) | length of the pairs (2) | (KDF (2) | AEAD (2)) ...

`application/ohttp-keys` is a list of these, each behind its length in two bytes. Lengths are exact: nothing may follow.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import msgspec

from gateway.errors import FormatError

from .hpke import KDF_ID, KEM_ID, KEY_SIZE, Aead, is_weak_x25519

#: One configuration with this many pairs has more than there are registered numbers.
MAX_PAIRS = 64
MAX_CONFIG = 1 + 2 + KEY_SIZE + 2 + 4 * MAX_PAIRS
MAX_LIST = 16 * 1024

_FIXED = 1 + 2 + KEY_SIZE + 2


class KeyConfig(msgspec.Struct, frozen=True):
    """A key to seal to: `public_key` has 32 bytes, `pairs` are (KDF, AEAD) numbers in the sender's order."""

    key_id: int
    public_key: bytes
    pairs: tuple[tuple[int, int], ...]

    def offers(self, aead: Aead) -> bool:
        """Whether requests under `aead` are taken."""
        return (KDF_ID, aead) in self.pairs


@lru_cache(64)  # looking for a weak key costs an X25519, and a session keeps its key for minutes
def parse_key_config(data: bytes) -> KeyConfig:
    """The one key configuration in `data`.

    Raises `FormatError`: ohttp_malformed for lengths that do not fit, ohttp_suite for another KEM or when no pair has a
    KDF and AEAD that are known here, hpke_weak_key for a public key of small order.
    """
    if len(data) < 3:
        raise _malformed(f"a key configuration of {len(data)} bytes")
    kem = int.from_bytes(data[1:3], "big")
    if kem != KEM_ID:  # before lengths: those of other KEMs are not known here
        raise FormatError(f"the key configuration has KEM {kem:#06x}", reason="ohttp_suite")
    if len(data) > MAX_CONFIG:
        raise _malformed(f"a key configuration of {len(data)} bytes")
    size = int.from_bytes(data[_FIXED - 2 : _FIXED], "big")
    if len(data) != _FIXED + size or not size or size % 4:
        raise _malformed("a key configuration whose lengths do not fit")
    config = KeyConfig(data[0], data[3 : 3 + KEY_SIZE], tuple(struct.iter_unpack(">HH", data[_FIXED:])))
    if not any(config.offers(aead) for aead in Aead):
        raise FormatError("the key configuration has no pair of KDF and AEAD that is known here", reason="ohttp_suite")
    if is_weak_x25519(config.public_key):
        raise FormatError("the key configuration's public key is of small order", reason="hpke_weak_key")
    return config


def parse_key_configs(data: bytes) -> tuple[KeyConfig, ...]:
    """The usable configurations of an `application/ohttp-keys` list, in its order.

    Those of other suites are left out, as RFC 9458 section 3.2 says. Raises as `parse_key_config`, and ohttp_suite when
    none is left.
    """
    if not 0 < len(data) <= MAX_LIST:
        raise _malformed(f"a list of key configurations of {len(data)} bytes")
    configs: list[KeyConfig] = []
    at = 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data):
            raise _malformed("a list of key configurations that is cut")
        try:
            configs.append(parse_key_config(data[start:at]))
        except FormatError as error:
            if error.reason != "ohttp_suite":
                raise
    if not configs:
        raise FormatError("no key configuration of the list can be used", reason="ohttp_suite")
    return tuple(configs)


def encode_key_config(config: KeyConfig) -> bytes:
    """The bytes of `config`, as `parse_key_config` reads them."""
    pairs = b"".join(struct.pack(">HH", *pair) for pair in config.pairs)
    return struct.pack(">BH", config.key_id, KEM_ID) + config.public_key + struct.pack(">H", len(pairs)) + pairs


def _malformed(what: str) -> FormatError:
    return FormatError(f"{what} is malformed", reason="ohttp_malformed")
