"""Public keys on the NIST curves: four encodings to one key, and everything that is not one."""

from __future__ import annotations

import base64
import json

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.cca import cose_key, sec1
from tee_worlds.nitro import ec_key, sign_rs

from gateway.crypto import ec_keys

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
DIGESTS = {"P-256": hashes.SHA256(), "P-384": hashes.SHA384(), "P-521": hashes.SHA512()}
KEYS = {name: ec_key(f"keys {name}", curve) for name, curve in CURVES.items()}
KEY = KEYS["P-384"]
POINT = sec1(KEY)


def spki(public: object) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwk(key: ec.EllipticCurvePrivateKey, name: str, **change: object) -> bytes:
    point = sec1(key)
    size = (len(point) - 1) // 2
    members = {"kty": "EC", "crv": name, "x": b64url(point[1 : 1 + size]), "y": b64url(point[1 + size :]), **change}
    return json.dumps({k: v for k, v in members.items() if v is not None}).encode()


@pytest.mark.parametrize("name", CURVES)
def test_four_encodings_are_one_key(name: str) -> None:
    """A point, a SubjectPublicKeyInfo, a JWK and a COSE_Key of one key are the same key."""
    key = KEYS[name]
    expected = spki(key.public_key())
    for encoded in (
        sec1(key),
        expected,
        jwk(key, name),
        jwk(key, name, kid="k", alg="ES384", use="sig"),
        cose_key(key),
        cose_key(key, {2: b"kid", 3: -35}),
    ):
        read = ec_keys.public_key(encoded)
        assert ec_keys.spki_der(read) == expected
        curve = ec_keys.curve_of(read)
        assert curve is not None
        assert curve.jwk == name


X, Y = POINT[1:49], POINT[49:]
OFF_CURVE = b"\x04" + X + Y[:-1] + bytes((Y[-1] ^ 1,))
REFUSED = {
    "nothing": b"",
    "one byte": b"\x04",
    "compressed point": b"\x02" + X,
    "hybrid point": bytes((6 + (Y[-1] & 1),)) + X + Y,
    "infinity": b"\x00",
    "point off the curve": OFF_CURVE,
    "zero point": b"\x04" + bytes(96),
    "coordinates over the field": b"\x04" + b"\xff" * 96,
    "point of another length": POINT + b"\x00",
    "SPKI cut": spki(KEY.public_key())[:-1],
    "SPKI with a byte more": spki(KEY.public_key()) + b"\x00",
    "SPKI of Ed25519": spki(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()),
    "SPKI of another curve": spki(ec_key("k1", ec.SECP256K1()).public_key()),
    "SPKI with a compressed point": spki(KEY.public_key())
    .replace(b"\x30\x76", b"\x30\x46", 1)
    .replace(b"\x03\x62\x00" + POINT, b"\x03\x32\x00" + bytes((2 + (Y[-1] & 1),)) + X),
    "JWK that is no JSON": b"{",
    "JWK with a key twice": jwk(KEY, "P-384").replace(b'{"kty"', b'{"crv": "P-256", "kty"', 1),
    "JWK of type RSA": jwk(KEY, "P-384", kty="RSA"),
    "JWK with a private key": jwk(KEY, "P-384", d="AA"),
    "JWK of another curve's name": jwk(KEY, "P-256"),
    "JWK of an unknown curve": jwk(KEY, "secp256k1"),
    "JWK without y": jwk(KEY, "P-384", y=None),
    "JWK with a padded coordinate": jwk(KEY, "P-384", x=b64url(X) + "="),
    "JWK with a short coordinate": jwk(KEY, "P-384", x=b64url(X[:-1])),
    "JWK with a numeric coordinate": jwk(KEY, "P-384", x=1),
    "JWK in the standard alphabet": jwk(KEY, "P-384", x="+" + b64url(X)[1:]),
    "JWK that is not ASCII": jwk(KEY, "P-384", x="ä" + b64url(X)[1:]),
    "JWK off the curve": jwk(KEY, "P-384", y=b64url(Y[:-1] + bytes((Y[-1] ^ 1,)))),
    "COSE_Key that is no CBOR": b"\xa1",
    "COSE_Key that is no map": cbor2.dumps([1]),
    "COSE_Key of type OKP": cose_key(KEY, {1: 1}),
    "COSE_Key of type true": cose_key(KEY, {1: True}),
    "COSE_Key with a private key": cose_key(KEY, {-4: b"d"}),
    "COSE_Key of an unknown curve": cose_key(KEY, {-1: 8}),
    "COSE_Key of curve true": cose_key(KEY, {-1: True}),
    "COSE_Key with a compressed y": cose_key(KEY, {-3: True}),
    "COSE_Key with a short x": cose_key(KEY, {-2: X[:-1]}),
    "COSE_Key with a byte more": cose_key(KEY) + b"\x00",
    "too many bytes": b"\x04" + bytes(ec_keys.MAX_KEY_BYTES),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(data: bytes) -> None:
    """What is not exactly one public key of the three curves is refused, for one reason."""
    with pytest.raises(ec_keys.KeyFormatError) as refused:
        ec_keys.public_key(data)
    assert refused.value.reason == "bad_public_key"


def test_base64url_has_one_spelling() -> None:
    """Padding bits that are not zero spell the same bytes a second time, and are refused."""
    key = KEYS["P-256"]  # 32 bytes leave two bits over
    x = b64url(sec1(key)[1:33])
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = x[:-1] + alphabet[alphabet.index(x[-1]) ^ 1]
    assert base64.urlsafe_b64decode(other + "=") == base64.urlsafe_b64decode(x + "=")
    with pytest.raises(ec_keys.KeyFormatError):
        ec_keys.public_key(jwk(key, "P-256", x=other))


def test_only_the_raw_form_over_the_right_digest_verifies() -> None:
    """r || s of the curve's length with the curve's digest holds; DER, other lengths, digests and keys do not."""
    for name, key in KEYS.items():
        signature = sign_rs(key, b"message", DIGESTS[name])
        assert ec_keys.verify_rs(key.public_key(), b"message", signature)
        assert not ec_keys.verify_rs(key.public_key(), b"massage", signature)
        assert not ec_keys.verify_rs(key.public_key(), b"message", signature[:-1])
        assert not ec_keys.verify_rs(key.public_key(), b"message", signature + b"\x00")
        assert not ec_keys.verify_rs(key.public_key(), b"message", bytes(len(signature)))
    other = sign_rs(KEY, b"message", hashes.SHA256())
    assert not ec_keys.verify_rs(KEY.public_key(), b"message", other)
    assert not ec_keys.verify_rs(ec_key("k1", ec.SECP256K1()).public_key(), b"message", bytes(64))


def test_a_curve_is_known_by_its_key() -> None:
    """Keys of other kinds have no curve here."""
    assert ec_keys.curve_of(KEY.public_key()) is ec_keys.P384
    assert ec_keys.curve_of(ec_key("k1", ec.SECP256K1()).public_key()) is None
    assert ec_keys.curve_of(rsa.generate_private_key(65537, 2048).public_key()) is None


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.binary(max_size=150), st.binary(max_size=100).map(lambda b: b"\x30" + b)),
    st.integers(0, 119),
    st.integers(1, 255),
)
def test_hostile_keys_raise_one_error(data: bytes, place: int, mask: int) -> None:
    """Random bytes and a flipped SubjectPublicKeyInfo are a key or a KeyFormatError, nothing else."""
    good = spki(KEY.public_key())
    flipped = good[:place] + bytes((good[place] ^ mask,)) + good[place + 1 :]
    for candidate in (data, flipped):
        try:
            read = ec_keys.public_key(candidate)
        except ec_keys.KeyFormatError:
            continue
        assert candidate[:1] != b"\x30" or ec_keys.spki_der(read) == candidate
