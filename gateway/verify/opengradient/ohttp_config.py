"""The OHTTP key configuration of an OpenGradient enclave: `GET /v1/ohttp/config` of tee-gateway, or the registry's row.

    {"tee_id": "0x…", "key_id": 1, "kem_id": 32, "kdf_id": 1, "aead_id": 3, "public_key": "<64 hex>",
     "key_config": "<base64>", "signature": "<base64>", "signature_hash": "0x…"}

What has to be shown before a prompt is sealed to the key, in this order (`verify_ohttp_config`):
 1. the suite is the one that OpenGradient fixes: DHKEM(X25519), HKDF-SHA256, ChaCha20-Poly1305
 2. the configuration names the TEE whose attested key is given, and its id is the Keccak-256 of that key
 3. `signature_hash`, where it is given, is the hash of these very fields
 4. the hash is signed by that key: RSA-PSS, SHA-256, salt of 32 bytes
 5. the RFC 9458 blob says what the fields say, and nothing more; the key is not of small order

The signed hash is TEERegistryV2's: keccak256(keccak256("OPENGRADIENT_TEE_OHTTP_CONFIG_V1") || tee_id || uint256(key_id)
|| uint256(kem_id) || uint256(kdf_id) || uint256(aead_id) || keccak256(public_key) || keccak256(key_config)).
There is no time in it: an old configuration of the same TEE verifies for as long as its signing key is believed.
"""

from __future__ import annotations

import re
from typing import cast

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.crypto.hpke import KDF_ID, KEM_ID, KEY_SIZE, Aead
from gateway.crypto.keccak import keccak256
from gateway.crypto.ohttp_keys import KeyConfig, parse_key_config
from gateway.crypto.rsa import pss, verify_rsa
from gateway.errors import FormatError, ProofError

MAX_DOCUMENT = 16 * 1024
MAX_KEY_CONFIG = 1024
MAX_SIGNATURE = 512

_DOMAIN = keccak256(b"OPENGRADIENT_TEE_OHTTP_CONFIG_V1")
_SUITE = (KEM_ID, KDF_ID, int(Aead.CHACHA20_POLY1305))
_PSS = pss(SHA256())
_HASH = re.compile(r"0x[0-9a-f]{64}")
_KEY = re.compile(r"[0-9a-f]{64}")


class OhttpConfig(msgspec.Struct, frozen=True):
    """A key configuration as it was said, by the enclave or by the registry; nothing of it is shown yet.

    `tee_id` and `public_key` have 32 bytes; `key_config` is the RFC 9458 blob; `signature` is None where none came with
    it, `signature_hash` (32 bytes) where it was not repeated. Numbers are not negative and fit 16 bits.
    """

    tee_id: bytes
    key_id: int
    kem_id: int
    kdf_id: int
    aead_id: int
    public_key: bytes
    key_config: bytes
    signature: bytes | None = None
    signature_hash: bytes | None = None


def parse_ohttp_config(data: bytes) -> OhttpConfig:
    """The configuration in the JSON document `data`. Members that are not known are left aside: they are not signed.

    Raises `FormatError` ohttp_config_malformed. `signature` and `signature_hash` may be absent or null.
    """
    try:
        document = strict_json(data, max_bytes=MAX_DOCUMENT, max_depth=8)
        if not isinstance(document, dict):
            raise FormatError("an OHTTP configuration is a JSON object")
        said = cast(dict[str, object], document)
        signature = said.get("signature")
        return OhttpConfig(
            _hash(said.get("tee_id"), "tee_id"),
            _number(said.get("key_id"), "key_id", 0xFF),
            _number(said.get("kem_id"), "kem_id", 0xFFFF),
            _number(said.get("kdf_id"), "kdf_id", 0xFFFF),
            _number(said.get("aead_id"), "aead_id", 0xFFFF),
            _hex(said.get("public_key")),
            _base64(said.get("key_config"), "key_config", MAX_KEY_CONFIG),
            None if signature is None else _base64(signature, "signature", MAX_SIGNATURE),
            None if said.get("signature_hash") is None else _hash(said["signature_hash"], "signature_hash"),
        )
    except FormatError as error:
        raise FormatError(str(error), reason="ohttp_config_malformed") from None


def config_hash(config: OhttpConfig) -> bytes:
    """The 32 bytes that the TEE's key signs (TEERegistryV2.computeOHTTPConfigHash)."""
    numbers = (config.key_id, config.kem_id, config.kdf_id, config.aead_id)
    words = b"".join(number.to_bytes(32, "big") for number in numbers)
    return keccak256(_DOMAIN + config.tee_id + words + keccak256(config.public_key) + keccak256(config.key_config))


def verify_ohttp_config(config: OhttpConfig, spki: bytes, tee_id: bytes) -> KeyConfig:
    """The key to seal prompts to, once every point above is shown.

    `spki` is the DER SubjectPublicKeyInfo of the TEE's attested signing key, `tee_id` (32 bytes) the TEE's id. What
    this proves is as much as the belief in `spki`. Raises `ProofError` with the reason ohttp_suite, tee_id_mismatch,
    signature_hash_mismatch, ohttp_config_unsigned, signature_invalid, ohttp_config_inconsistent or hpke_weak_key.
    """
    _check_suite(config)  # 1.
    if not config.tee_id == tee_id == keccak256(spki):  # 2.
        raise _fails("the OHTTP configuration is not of the TEE whose key is given", "tee_id_mismatch")
    expected = config_hash(config)
    if config.signature_hash not in (None, expected):  # 3.
        raise _fails("signature_hash is not the hash of the OHTTP configuration", "signature_hash_mismatch")
    if config.signature is None:  # 4.
        raise _fails("the OHTTP configuration is not signed", "ohttp_config_unsigned")
    if not verify_rsa(_PSS, spki, expected, config.signature):
        raise _fails("the signature over the OHTTP configuration does not hold", "signature_invalid")
    return key_config_of(config)  # 5.


def key_config_of(config: OhttpConfig) -> KeyConfig:
    """The key that `config` names, when its fields and its blob agree: points 1 and 5 alone, so no proof of anything.

    For a registry's row that has no signature. Raises `ProofError` as `verify_ohttp_config`.
    """
    _check_suite(config)
    try:
        key = parse_key_config(config.key_config)
    except FormatError as error:
        weak = error.reason == "hpke_weak_key"
        raise _fails(str(error), "hpke_weak_key" if weak else "ohttp_config_inconsistent") from None
    if key != KeyConfig(config.key_id, config.public_key, (_SUITE[1:],)):
        raise _fails("the OHTTP configuration's fields and its key_config differ", "ohttp_config_inconsistent")
    return key


def _check_suite(config: OhttpConfig) -> None:
    if (config.kem_id, config.kdf_id, config.aead_id) != _SUITE:
        raise _fails("the OHTTP configuration has another suite than OpenGradient's", "ohttp_suite")


def _fails(message: str, reason: str) -> ProofError:
    return ProofError(message, reason=reason)


def _number(value: object, name: str, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise FormatError(f"{name} is not a number from 0 to {limit}")
    return value


def _hash(value: object, name: str) -> bytes:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise FormatError(f"{name} is not 0x and 64 lower-case hex digits")
    return bytes.fromhex(value[2:])


def _hex(value: object) -> bytes:
    if not isinstance(value, str) or _KEY.fullmatch(value) is None:
        raise FormatError(f"public_key is not {2 * KEY_SIZE} lower-case hex digits")
    return bytes.fromhex(value)


def _base64(value: object, name: str, limit: int) -> bytes:
    data = unb64(value, name) if isinstance(value, str) else None
    if data is None or len(data) > limit:
        raise FormatError(f"{name} is not base64 of at most {limit} bytes")
    return data
