"""OpenGradient's signed OHTTP key configuration: honest, altered, cut, and put together from two."""

from __future__ import annotations

import base64
import json
from functools import cache

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given, settings
from hypothesis import strategies as st
from ohttp_kit import EPHEMERAL, PRIVATE, SMALL_ORDER, key_config, raw_public
from tee_worlds.keys import rsa_key, spki

from gateway.crypto.keccak import keccak256
from gateway.crypto.ohttp_keys import KeyConfig
from gateway.errors import FormatError, ProofError
from gateway.verify.opengradient.ohttp_config import (
    MAX_DOCUMENT,
    OhttpConfig,
    config_hash,
    key_config_of,
    parse_ohttp_config,
    verify_ohttp_config,
)

SPKI = spki(rsa_key())
TEE_ID = keccak256(SPKI)
PUBLIC = raw_public(PRIVATE)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def signed_hash(tee_id: bytes, public: bytes, blob: bytes, numbers: tuple[int, ...] = (1, 0x20, 1, 3)) -> bytes:
    """The signed hash, put together here a second time."""
    domain = keccak256(b"OPENGRADIENT_TEE_OHTTP_CONFIG_V1")
    return keccak256(domain + tee_id + b"".join(map(word, numbers)) + keccak256(public) + keccak256(blob))


@cache
def signature(message: bytes, salt: int = 32) -> bytes:
    return rsa_key().sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())


def document(public: bytes = PUBLIC, blob: bytes | None = None, **members: object) -> dict[str, object]:
    """A document as tee-gateway gives it, `members` in the place of its own; None takes one away."""
    blob = key_config() if blob is None else blob
    digest = signed_hash(TEE_ID, public, blob)
    honest = {
        "key_id": 1, "kem_id": 0x20, "kdf_id": 1, "aead_id": 3, "public_key": public.hex(),
        "key_config": base64.b64encode(blob).decode(), "tee_id": "0x" + TEE_ID.hex(),
        "signature": base64.b64encode(signature(digest)).decode(), "signature_hash": "0x" + digest.hex(),
    }  # fmt: skip
    return {name: value for name, value in (honest | members).items() if value is not None}


def parsed(said: dict[str, object]) -> OhttpConfig:
    return parse_ohttp_config(json.dumps(said).encode())


HONEST = parsed(document())


def why(config: OhttpConfig, key: bytes = SPKI, tee_id: bytes = TEE_ID) -> str | None:
    with pytest.raises(ProofError) as caught:
        verify_ohttp_config(config, key, tee_id)
    return caught.value.reason


def test_an_honest_configuration_gives_its_key() -> None:
    """The key comes out, with and without the repeated hash and with members that are not known."""
    expected = KeyConfig(1, PUBLIC, ((1, 3),))
    for said in (document(), document(signature_hash=None), document(registered_at=7, note="x")):
        assert verify_ohttp_config(parsed(said), SPKI, TEE_ID) == expected


def test_the_hash_is_the_published_one() -> None:
    """The hash of tee-gateway's own golden vector comes out."""
    blob = b"\1\0\x20" + b"\2" * 32 + b"\0\4\0\1\0\3"
    config = OhttpConfig(bytes(range(32)), 1, 0x20, 1, 3, b"\2" * 32, blob)
    assert config_hash(config).hex() == "f2a783a780198b72145ce4f4824c3de4993975e17ee8df1e59f3b5dd78a0f1d9"
    assert config_hash(HONEST) == signed_hash(TEE_ID, PUBLIC, key_config())


OTHER = raw_public(EPHEMERAL)


def resigned(**changes: object) -> OhttpConfig:
    """`HONEST` with `changes`, signed by the enclave's own key all the same."""
    config = msgspec.structs.replace(HONEST, **changes, signature_hash=None)
    return msgspec.structs.replace(config, signature=signature(config_hash(config)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (msgspec.structs.replace(HONEST, public_key=OTHER), "signature_hash_mismatch"),
        (msgspec.structs.replace(HONEST, key_id=2), "signature_hash_mismatch"),
        (msgspec.structs.replace(HONEST, key_config=key_config(EPHEMERAL)), "signature_hash_mismatch"),
        (msgspec.structs.replace(HONEST, signature_hash=bytes(32)), "signature_hash_mismatch"),
        (msgspec.structs.replace(HONEST, public_key=OTHER, signature_hash=None), "signature_invalid"),
        (msgspec.structs.replace(HONEST, signature=bytes(256)), "signature_invalid"),
        (msgspec.structs.replace(HONEST, signature=signature(config_hash(HONEST), 20)), "signature_invalid"),
        (msgspec.structs.replace(HONEST, signature=b""), "signature_invalid"),
        (msgspec.structs.replace(HONEST, signature=None), "ohttp_config_unsigned"),
        (msgspec.structs.replace(HONEST, tee_id=bytes(32)), "tee_id_mismatch"),
        (resigned(tee_id=bytes(32)), "tee_id_mismatch"),
        (msgspec.structs.replace(HONEST, aead_id=1), "ohttp_suite"),
        (resigned(kem_id=0x10), "ohttp_suite"),
        (resigned(kdf_id=2), "ohttp_suite"),
        (resigned(aead_id=1), "ohttp_suite"),
        (resigned(public_key=OTHER), "ohttp_config_inconsistent"),
        (resigned(key_id=2), "ohttp_config_inconsistent"),
        (resigned(key_config=key_config(EPHEMERAL)), "ohttp_config_inconsistent"),
        (resigned(key_config=key_config(pairs=b"\0\1\0\3\0\1\0\1")), "ohttp_config_inconsistent"),
        (resigned(key_config=key_config(pairs=b"\0\1\0\1")), "ohttp_config_inconsistent"),
        (resigned(key_config=key_config() + b"\0"), "ohttp_config_inconsistent"),
        (resigned(key_config=b""), "ohttp_config_inconsistent"),
        *(
            (resigned(public_key=weak, key_config=b"\1\0\x20" + weak + b"\0\4\0\1\0\3"), "hpke_weak_key")
            for weak in SMALL_ORDER
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_signed_is_refused(config: OhttpConfig, expected: str) -> None:
    """Each change has its reason, whether the enclave's key signed it or not."""
    assert why(config) == expected


def test_the_key_is_the_tees_own() -> None:
    """Another TEE's key, another id, or a key that is none proves nothing, whatever the document says of itself."""
    other = spki(rsa_key(3072))
    assert why(HONEST, key=other) == "tee_id_mismatch"
    assert why(HONEST, tee_id=keccak256(other)) == "tee_id_mismatch"
    assert why(HONEST, key=other, tee_id=keccak256(other)) == "tee_id_mismatch"
    stray = msgspec.structs.replace(HONEST, tee_id=keccak256(other), signature_hash=None)
    assert why(stray, key=other, tee_id=keccak256(other)) == "signature_invalid"
    assert why(HONEST, key=b"") == "tee_id_mismatch"


def test_a_row_without_signature_is_read_but_proves_nothing() -> None:
    """Fields and blob of an unsigned configuration have to agree; the suite is the fixed one."""
    row = msgspec.structs.replace(HONEST, signature=None, signature_hash=None)
    assert key_config_of(row) == KeyConfig(1, PUBLIC, ((1, 3),))
    with pytest.raises(ProofError) as caught:
        key_config_of(msgspec.structs.replace(row, public_key=OTHER))
    assert caught.value.reason == "ohttp_config_inconsistent"
    with pytest.raises(ProofError) as caught:
        key_config_of(msgspec.structs.replace(row, aead_id=1))
    assert caught.value.reason == "ohttp_suite"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"{" * 99,
        b" " * (MAX_DOCUMENT + 1),
        json.dumps(document()).encode()[:-1],
        json.dumps(document()).encode() + b"x",
        json.dumps(document()).encode().replace(b'"key_id": 1', b'"key_id": 1, "key_id": 2'),
        *(
            json.dumps(document(**change)).encode()
            for change in [
                *({name: True} for name in ("key_id", "kem_id", "kdf_id", "aead_id", "public_key", "signature")),
                *({name: 1.0} for name in ("key_id", "kem_id", "tee_id", "key_config", "signature_hash")),
                {"key_id": -1}, {"key_id": 256}, {"kem_id": 65536}, {"key_id": "1"}, {"aead_id": 2**62},
                {"public_key": "0x" + PUBLIC.hex()}, {"public_key": PUBLIC.hex().upper()}, {"public_key": "00" * 31},
                {"public_key": PUBLIC.hex() + "\n"}, {"tee_id": TEE_ID.hex()}, {"tee_id": "0x" + TEE_ID.hex() + "00"},
                {"tee_id": "0X" + TEE_ID.hex()}, {"signature_hash": TEE_ID.hex()}, {"signature_hash": ""},
                {"key_config": "AQ"}, {"key_config": "AQ==\n"}, {"key_config": "é"}, {"key_config": "A" * 1372},
                {"signature": "A" * 688}, {"signature": "AR=="},
                *({name: None} for name in ("tee_id", "key_id", "kem_id", "kdf_id", "aead_id", "public_key", "key_config")),
            ]
        ),
    ],
)  # fmt: skip
def test_documents_that_are_not(data: bytes) -> None:
    """What is no such document, or spells a member in another way, is malformed."""
    with pytest.raises(FormatError) as caught:
        parse_ohttp_config(data)
    assert caught.value.reason == "ohttp_config_malformed"


@pytest.mark.parametrize(
    ("name", "value", "beyond"),
    [
        *((name, value, None) for name in ("key_id", "kem_id", "kdf_id", "aead_id") for value in (0, 255)),
        ("key_id", 255, 256),
        *((name, 65535, 65536) for name in ("kem_id", "kdf_id", "aead_id")),
        *((name, 0, -1) for name in ("key_id", "kem_id", "kdf_id", "aead_id")),
        ("key_config", base64.b64encode(bytes(1024)).decode(), base64.b64encode(bytes(1025)).decode()),
        ("signature", base64.b64encode(bytes(512)).decode(), base64.b64encode(bytes(513)).decode()),
    ],
)  # fmt: skip
def test_members_at_their_edges(name: str, value: object, beyond: object) -> None:
    """Numbers and lengths are read up to their limit; a step beyond is malformed."""
    said = document(signature_hash=None, **{name: value})
    found = getattr(parsed(said), name)
    assert found == value or found == base64.b64decode(str(value))
    if beyond is not None:
        with pytest.raises(FormatError) as caught:
            parsed(said | {name: beyond})
        assert caught.value.reason == "ohttp_config_malformed"


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.binary().map(bytes.hex)


@given(changes=st.dictionaries(st.sampled_from(sorted(document())), VALUES), tail=st.binary(max_size=4))
@settings(max_examples=300, deadline=None)
def test_fuzzed_documents(changes: dict[str, object], tail: bytes) -> None:
    """Whatever stands in a document, it is refused with a reason unless it still is the honest one."""
    data = json.dumps(document() | changes).encode() + tail
    try:
        key = verify_ohttp_config(parse_ohttp_config(data), SPKI, TEE_ID)
    except FormatError as error:
        reason = error.reason
    else:
        reason, changes = None, {n: v for n, v in changes.items() if v != document()[n]}
        assert key == KeyConfig(1, PUBLIC, ((1, 3),))
    assert reason is not None or changes.keys() <= {"signature_hash"}
