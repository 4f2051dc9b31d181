"""Ed25519 through `gateway.crypto.signatures`: RFC 8032's vectors, and the edges on which libraries differ."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp

from gateway.crypto.signatures import Ed25519Signer, is_weak_ed25519, verify_ed25519
from gateway.errors import FormatError

# RFC 8032 section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465"
        "5141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb0"
        "0d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc0"
        "27beceea1ec40a",
    ),
]
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

#: Every encoding of the eight points of small order, canonical and not.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC8032)
def test_signs_and_verifies_as_rfc_8032_says(seed, public, message, signature):
    """The signer makes the RFC's keys and signatures, and the verifier takes them."""
    signer = Ed25519Signer(bytes.fromhex(seed))
    assert signer.public_key.hex() == public
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert verify_ed25519(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("at", range(64))
def test_refuses_a_signature_with_any_byte_changed(at):
    """A signature with one bit flipped, in whichever byte, does not hold."""
    signer = Ed25519Signer(bytes(32))
    signature = bytearray(signer.sign(b"message"))
    signature[at] ^= 1
    assert not verify_ed25519(signer.public_key, b"message", bytes(signature))


def test_refuses_another_message_key_and_length():
    """A signature holds for its own message, key and length only."""
    signer, other = Ed25519Signer(bytes(32)), Ed25519Signer(bytes(31) + b"\1")
    signature = signer.sign(b"message")
    assert verify_ed25519(signer.public_key, b"message", signature)
    assert not verify_ed25519(signer.public_key, b"messagf", signature)
    assert not verify_ed25519(other.public_key, b"message", signature)
    assert not verify_ed25519(signer.public_key, b"message", signature[:-1])
    assert not verify_ed25519(signer.public_key, b"message", signature + b"\0")
    assert not verify_ed25519(signer.public_key[:-1], b"message", signature)
    assert not verify_ed25519(signer.public_key, b"", b"")
    assert not verify_ed25519(signer.public_key + b"\0", b"message", signature)
    assert not verify_ed25519(signer.public_key, b"sage", signature + b"mes")  # joined, the same bytes


def test_refuses_s_plus_the_group_order():
    """The second spelling of a signature, S + L, does not hold."""
    signer = Ed25519Signer(bytes(32))
    signature = signer.sign(b"message")
    twin = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    assert not verify_ed25519(signer.public_key, b"message", signature[:32] + twin.to_bytes(32, "little"))


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_refuses_keys_of_small_order(key):
    """A small-order key is weak, and the signature R = key, S = 0 that fools other libraries does not hold under it."""
    public = bytes.fromhex(key)
    assert is_weak_ed25519(public)
    for message in (b"", b"a", b"b", b"c", b"d"):
        assert not verify_ed25519(public, message, public + bytes(32))


def test_calls_keys_weak_that_are_no_points_or_carry_torsion():
    """A key off the curve, of another length or outside the prime-order subgroup is weak; an honest one is not."""
    honest = Ed25519Signer(bytes(32)).public_key
    torsion = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    assert not is_weak_ed25519(honest)
    assert is_weak_ed25519(honest[:-1])
    assert is_weak_ed25519(b"\x02" + bytes(31))
    assert is_weak_ed25519(crypto_core_ed25519_add(honest, torsion))
    assert not is_weak_ed25519(crypto_scalarmult_ed25519_base_noclamp(b"\x05" + bytes(31)))


def test_keeps_the_seed_to_itself():
    """The seed has one length, and `repr` shows the public key only."""
    seed = bytes(range(32))
    assert seed.hex() not in repr(Ed25519Signer(seed))
    assert Ed25519Signer(seed).public_key.hex() in repr(Ed25519Signer(seed))
    with pytest.raises(FormatError, match="32 bytes, not 31"):
        Ed25519Signer(seed[:31])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=80), st.binary(max_size=70))
def test_verification_never_raises(public, message, signature):
    """Whatever the bytes, verifying answers False and asking for weakness answers a bool."""
    assert verify_ed25519(public, message, signature) is False
    assert is_weak_ed25519(public) in (True, False)
