"""RSA at its edges: salts, paddings, exponents, moduli, lengths."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tee_worlds.keys import MESSAGE, ec_key, genuine, rsa_key, spki

from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.rsa import load_rsa
from gateway.crypto.signatures import Ed25519Signer

HASHES = {"ps256": hashes.SHA256(), "ps384": hashes.SHA384()}


def element(tag: int, body: bytes) -> bytes:
    size = len(body)
    head = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + head + body


def written(modulus: int, exponent: int) -> bytes:
    """A SubjectPublicKeyInfo of any numbers, as no library would write it."""
    numbers = b"".join(element(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in (modulus, exponent))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return element(0x30, algorithm + element(3, b"\0" + element(0x30, numbers)))


N2048 = rsa_key().public_key().public_numbers().n


@pytest.mark.parametrize("alg", list(HASHES))
@pytest.mark.parametrize("salt", [0, 8, 20, 32, 48, 64, padding.PSS.MAX_LENGTH])
def test_the_salt_has_the_digests_length(alg: str, salt: int) -> None:
    """A PSS signature with any other salt does not hold, though its verifier could find the salt out."""
    digest = HASHES[alg]
    signature = rsa_key().sign(MESSAGE, padding.PSS(padding.MGF1(digest), salt), digest)
    assert verify(spki(rsa_key()), Alg(alg), MESSAGE, signature) is (salt == digest.digest_size)


def test_mgf1_over_the_same_hash() -> None:
    """PSS whose mask uses another hash than the message does not hold."""
    signature = rsa_key().sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA1()), 32), hashes.SHA256())
    assert not verify(spki(rsa_key()), Alg.PS256, MESSAGE, signature)


@pytest.mark.parametrize("alg", ["ps256", "ps384", "rs256", "rs384"])
def test_each_name_is_one_scheme(alg: str) -> None:
    """A signature of one padding and hash holds under its own name and no other."""
    key, signature = genuine()[Alg(alg)]
    assert verify(key, Alg(alg), MESSAGE, signature)
    for other in {"ps256", "ps384", "rs256", "rs384"} - {alg}:
        assert not verify(key, Alg(other), MESSAGE, signature)


@pytest.mark.parametrize("alg", ["ps256", "rs256"])
def test_lengths(alg: str) -> None:
    """A signature is as long as the modulus; leading zeros, short ones and numbers over the modulus don't hold."""
    key, signature = genuine()[Alg(alg)]
    above = int.from_bytes(signature, "big") + N2048
    wrong = [b"", signature[:-1], b"\0" + signature, signature + b"\0", bytes(256), b"\xff" * 256, b"\0" * 255 + b"\1"]
    if above < 2**2048:
        wrong.append(above.to_bytes(256, "big"))
    for tried in wrong:
        assert verify(key, Alg(alg), MESSAGE, tried) is False


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 17, 65536, 65539, 2**33 + 1])
def test_other_exponents(exponent: int) -> None:
    """Only 65537 is an exponent: under 1 a padded text is its own signature."""
    assert load_rsa(written(N2048, 65537)) is not None
    assert load_rsa(written(N2048, exponent)) is None


def test_exponent_one_signs_nothing() -> None:
    """The padded text itself is no signature under a key whose exponent is 1."""

    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(MESSAGE).digest()
    forged = b"\0\1" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info
    assert verify(written(N2048, 1), Alg.RS256, MESSAGE, forged) is False


@pytest.mark.parametrize(
    ("modulus", "taken"),
    [
        (2**2047 + 1, True),
        (2**2048 - 1, True),
        (2**2047 - 1, False),
        (2**1023 + 1, False),
        (2**4096 - 1, True),
        (2**4096 + 1, False),
        (2**8000 + 1, False),
        (2**2047 + 2, False),
        (1, False),
        (0, False),
    ],
)
def test_moduli(modulus: int, taken: bool) -> None:
    """A modulus has 2048 to 4096 bits and is odd."""
    assert (load_rsa(written(modulus, 65537)) is not None) is taken


def test_one_spelling_of_a_key() -> None:
    """Trailing bytes, missing NULL parameters, BER lengths, PKCS #1 keys and other keys are no RSA keys."""

    good = spki(rsa_key())
    assert load_rsa(good) is not None
    no_null = good.replace(bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d010101"))
    no_null = b"\x30\x82" + (int.from_bytes(good[2:4], "big") - 2).to_bytes(2, "big") + no_null[4:]
    others = {
        "empty": b"",
        "trailing byte": good + b"\0",
        "truncated": good[:-1],
        "without NULL": no_null,
        "longer length": b"\x30\x83\0" + good[2:],
        "PKCS #1": rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1),
        "PEM": rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "an EC key": ec_key("p256").spki,
        "an Ed25519 key": Ed25519Signer(b"\1" * 32).public_key,
        "long": good + bytes(2000),
    }
    for what, key in others.items():
        assert load_rsa(key) is None, what
        assert verify(key, Alg.RS256, MESSAGE, bytes(256)) is False, what


def test_a_3072_bit_key() -> None:
    """A longer modulus has longer signatures."""
    key = rsa_key(3072)
    signature = key.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA384())
    assert len(signature) == 384
    assert verify(spki(key), Alg.RS384, MESSAGE, signature)
    assert not verify(spki(key), Alg.RS384, MESSAGE, signature[:256])
