"""Compact JWS and JWK: one spelling, pinned algorithms, keys of the right kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tee_worlds import nvidia
from tee_worlds import tokens as w
from tee_worlds.nvidia import key_of

from gateway.crypto import jose

P256 = ec.derive_private_key(11, ec.SECP256R1())
KEYS: dict[str, Any] = {"ES384": key_of("jose"), "ES256": P256, "RS256": w.rsa_key("jose")}
TOKEN = w.token({"alg": "ES384", "kid": "1"}, {"a": 1}, KEYS["ES384"])


@pytest.mark.parametrize("alg", KEYS)
def test_a_token_of_each_algorithm(alg: str) -> None:
    """Signed, read and held to the public half of its key, through a JWK."""
    read = jose.read_compact(w.token({"alg": alg}, {"a": 1}, KEYS[alg]).encode(), algs=KEYS)
    jose.check_signature(read, jose.key_of(w.jwk_of(KEYS[alg], "1")))
    assert (read.alg, read.claims) == (alg, {"a": 1})


def reason_of(function: Any, *args: Any, **more: Any) -> str | None:
    with pytest.raises(jose.JoseError) as refused:
        function(*args, **more)
    return refused.value.reason


HEADER, CLAIMS, SIGNATURE = TOKEN.split(".")
TWICE = w.b64url(b'{"a":1,"a":2}')
DEEP = w.b64url(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}")
LISTED = w.b64url(b'{"alg":[]}')


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("jwt_not_compact", ""),
        ("jwt_not_compact", f"{HEADER}.{CLAIMS}"),
        ("jwt_not_compact", f"{TOKEN}.x"),
        ("jwt_not_compact", TOKEN + "\u00e9"),
        ("jwt_not_compact", "." * 65_537),
        ("jwt_bad_base64", f"{HEADER}=.{CLAIMS}.{SIGNATURE}"),
        ("jwt_bad_base64", f"{HEADER}.{CLAIMS}+.{SIGNATURE}"),
        ("jwt_bad_base64", f"{HEADER}.{CLAIMS} .{SIGNATURE}"),
        ("jwt_bad_base64", f"{HEADER}.{CLAIMS}.{SIGNATURE}/"),
        ("jwt_bad_base64", f"{TOKEN}\n"),
        ("jwt_bad_base64", f"{HEADER}.A.{SIGNATURE}"),
        ("jwt_bad_json", f"{HEADER}.{w.b64url(b'{')}.{SIGNATURE}"),
        ("jwt_bad_json", f"{HEADER}.{w.b64url(b'[]')}.{SIGNATURE}"),
        ("jwt_bad_json", f"{w.b64url(b'1')}.{CLAIMS}.{SIGNATURE}"),
        ("jwt_bad_json", f"{HEADER}.{TWICE}.{SIGNATURE}"),
        ("jwt_bad_json", f"{HEADER}.{DEEP}.{SIGNATURE}"),
        ("jwt_bad_alg", w.token({"alg": "none"}, {}, object())),
        ("jwt_bad_alg", w.token({"alg": "ES256"}, {}, KEYS["ES384"])),
        ("jwt_bad_alg", f"{w.b64url(b'{}')}.{CLAIMS}.{SIGNATURE}"),
        ("jwt_bad_alg", f"{LISTED}.{CLAIMS}.{SIGNATURE}"),
        ("jwt_crit", w.token({"alg": "ES384", "crit": ["b64"]}, {}, KEYS["ES384"])),
    ],
)
def test_texts_that_are_no_token(reason: str, text: str) -> None:
    """Refused before any key is looked at."""
    assert reason_of(jose.read_compact, text.encode(), algs=("ES384",)) == reason


def test_pitfall_one_token_has_two_spellings() -> None:
    """Spare bits of the last character must be zero, or a token could change without its meaning changing."""
    text = w.b64url(b"\x00")  # AA; AB would decode to the same byte
    assert jose.unb64url(text, "x") == b"\x00"
    assert reason_of(jose.unb64url, "AB", "x") == "jwt_bad_base64"


@pytest.mark.parametrize(
    ("reason", "alg", "key"),
    [
        ("jwt_key_alg_mismatch", "ES384", KEYS["RS256"]),
        ("jwt_key_alg_mismatch", "ES384", P256),
        ("jwt_key_alg_mismatch", "RS256", P256),
        ("jwt_bad_signature", "ES384", key_of("somebody")),
        ("jwt_bad_signature", "RS256", w.rsa_key("somebody")),
    ],
)
def test_pitfall_the_key_follows_the_header(reason: str, alg: str, key: Any) -> None:
    """A key of another kind is a mismatch, whatever the header would make of it."""
    read = jose.read_compact(w.token({"alg": alg}, {}, KEYS[alg]).encode(), algs=KEYS)
    assert reason_of(jose.check_signature, read, key.public_key()) == reason


def test_an_algorithm_that_the_caller_allows_and_nobody_implements() -> None:
    """Allowing a word does not make it mean something."""
    read = jose.read_compact(w.token({"alg": "PS256"}, {}, KEYS["RS256"]).encode(), algs=("PS256",))
    assert reason_of(jose.check_signature, read, KEYS["RS256"].public_key()) == "jwt_key_alg_mismatch"


def test_a_signature_in_der() -> None:
    """ECDSA in a JWS is r and s, not an ASN.1 sequence."""
    der = KEYS["ES384"].sign(f"{HEADER}.{CLAIMS}".encode(), ec.ECDSA(hashes.SHA384()))
    read = jose.read_compact(f"{HEADER}.{CLAIMS}.{w.b64url(der)}".encode(), algs=KEYS)
    assert reason_of(jose.check_signature, read, KEYS["ES384"].public_key()) == "jwt_bad_signature"


EC = w.jwk_of(KEYS["ES384"], "1")
RSA = w.jwk_of(KEYS["RS256"], "1")
SHORT = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n.to_bytes(128, "big")


@pytest.mark.parametrize(
    ("reason", "jwk"),
    [
        ("jwk_bad_key", {}),
        ("jwk_bad_key", {"kty": "oct", "k": "AA"}),
        ("jwk_bad_key", EC | {"use": "enc"}),
        ("jwk_bad_key", EC | {"crv": "P-521"}),
        ("jwk_bad_key", EC | {"crv": ["P-384"]}),
        ("jwk_bad_key", EC | {"x": w.b64url(bytes(48))}),
        ("jwk_bad_key", EC | {"x": w.b64url(bytes(47))}),
        ("jwk_bad_key", EC | {"y": 1}),
        ("jwt_bad_base64", EC | {"y": "="}),
        ("jwk_bad_key", RSA | {"n": w.b64url(SHORT)}),
        ("jwk_bad_key", RSA | {"n": "A" * 2049}),
        ("jwk_bad_key", RSA | {"e": "AQ"}),
        ("jwk_bad_key", RSA | {"e": "AAAA"}),
        ("jwk_bad_key", RSA | {"e": w.b64url(bytes([4]))}),
        ("jwk_bad_key", RSA | {"e": w.b64url(b"\x01" + bytes(4))}),
    ],
)
def test_keys_that_are_none(reason: str, jwk: dict[str, Any]) -> None:
    """Another kind, curve or length, a point off the curve, an exponent that is no exponent."""
    assert reason_of(jose.key_of, jwk) == reason


@pytest.mark.parametrize(
    ("reason", "document", "kid"),
    [
        ("jwks_malformed", b"{", "1"),
        ("jwks_malformed", b"[]", "1"),
        ("jwks_malformed", b'{"keys":{}}', "1"),
        ("jwks_malformed", json.dumps({"keys": [0] * 1025}).encode(), "1"),
        ("jwt_unknown_kid", w.key_set(EC), "2"),
        ("jwt_unknown_kid", w.key_set(EC | {"kid": None}), None),
        ("jwt_unknown_kid", b'{"keys":[1]}', "1"),
        ("jwks_duplicate_kid", w.key_set(EC, RSA), "1"),
    ],
)
def test_key_sets_without_the_key(reason: str, document: bytes, kid: Any) -> None:
    """A token without kid finds no key, and two keys of one name are no answer."""
    assert reason_of(jose.find_key, document, kid) == reason


@pytest.mark.parametrize("x5c", [None, [], [1], ["!"], ["AAAA"], ["AAAA"] * 11, {"0": "AAAA"}])
def test_chains_that_are_none(x5c: Any) -> None:
    """x5c is a list of one to ten certificates in standard base64."""
    assert reason_of(jose.certificates_of, x5c) == "jwk_bad_x5c"


def test_a_certificate_of_no_version_is_refused() -> None:
    """A version that X.509 does not have is a malformed certificate, not an exception of the library's own."""
    der = nvidia.der_of(nvidia.device_chain()[0])
    version = bytes.fromhex("a003020102")
    assert version in der
    x5c = [nvidia.b64(der.replace(version, bytes.fromhex("a003020112")))]
    assert reason_of(jose.certificates_of, x5c) == "jwk_bad_x5c"
