"""HPKE against the vectors of RFC 9180 and against pyhpke, and at its edges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ohttp_kit import EPHEMERAL, PRIVATE, SMALL_ORDER, private_key, public_key, raw_public, suite
from pyhpke import KEMKeyPair

from gateway.crypto import hpke
from gateway.crypto.hpke import Aead, is_weak_x25519, public_key_of, setup_base_r, setup_base_s
from gateway.errors import FormatError

PUBLIC = raw_public(PRIVATE)
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
TEXT = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")

#: RFC 9180, appendices A.1.1 and A.2.1: AEAD, skEm, pkEm, skRm, ciphertexts for aad Count-0 and Count-1.
PUBLISHED = [
    (
        Aead.AES_128_GCM,
        "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
        "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
        ["f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"],
    ),
    (
        Aead.CHACHA20_POLY1305,
        "f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600",
        "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
        "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
        [
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
            "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
        ],
    ),
]
#: A.2.1.2: exporter context and value.
EXPORTED = {
    "": "4bbd6243b8bb54cec311fac9df81841b6fd61f56538a775e7c80a9f40160606e",
    "00": "8c1df14732580e5501b00f82b10a1647b40713191b7c1240ac80e2b68808ba69",
    "54657374436f6e74657874": "5acb09211139c43b3090489a9da433e8a30ee7188ba8b0a9a1ccf0c229283e53",
}


def reason(caught: pytest.ExceptionInfo[FormatError]) -> str | None:
    return caught.value.reason


@pytest.mark.parametrize(
    ("aead", "ephemeral", "enc", "private", "sealed"), PUBLISHED, ids=lambda v: getattr(v, "name", None)
)
def test_published_vectors(aead: Aead, ephemeral: str, enc: str, private: str, sealed: list[str]) -> None:
    """Encapsulation and ciphertexts are RFC 9180's, and the receiver opens them in their order."""
    secret = bytes.fromhex(private)
    found, sender = setup_base_s(public_key_of(secret), INFO, bytes.fromhex(ephemeral), aead)
    receiver = setup_base_r(bytes.fromhex(enc), secret, INFO, aead)
    assert found.hex() == enc
    for n, expected in enumerate(sealed):
        aad = b"Count-%d" % n
        assert sender.seal(aad, TEXT).hex() == expected
        assert receiver.open(aad, bytes.fromhex(expected)) == TEXT


def test_published_exports() -> None:
    """Exported secrets are RFC 9180's on both sides."""
    aead, ephemeral, enc, private, _ = PUBLISHED[1]
    secret = bytes.fromhex(private)
    sender = setup_base_s(public_key_of(secret), INFO, bytes.fromhex(ephemeral), aead)[1]
    receiver = setup_base_r(bytes.fromhex(enc), secret, INFO, aead)
    for context, value in EXPORTED.items():
        for side in (sender, receiver):
            assert side.export(bytes.fromhex(context), 32).hex() == value


@pytest.mark.parametrize("aead", list(Aead))
@given(info=st.binary(max_size=80), aad=st.binary(max_size=40), text=st.binary(max_size=300), size=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_sealed_here_opened_there(aead: Aead, info: bytes, aad: bytes, text: bytes, size: int) -> None:
    """What is sealed here opens with pyhpke, message after message, and both export the same."""
    enc, sender = setup_base_s(PUBLIC, info, EPHEMERAL, aead)
    theirs = suite(aead).create_recipient_context(enc, private_key(), info=info)
    for _ in range(3):
        assert theirs.open(sender.seal(aad, text), aad=aad) == text
    assert sender.export(info, size) == theirs.export(info, size)


@pytest.mark.parametrize("aead", list(Aead))
@given(info=st.binary(max_size=80), aad=st.binary(max_size=40), text=st.binary(max_size=300))
@settings(max_examples=25, deadline=None)
def test_sealed_there_opened_here(aead: Aead, info: bytes, aad: bytes, text: bytes) -> None:
    """What pyhpke seals opens here; under the same ephemeral key both seal alike."""
    pair = KEMKeyPair(private_key(EPHEMERAL), public_key(EPHEMERAL))
    enc, theirs = suite(aead).create_sender_context(public_key(), info=info, eks=pair)
    receiver = setup_base_r(enc, PRIVATE, info, aead)
    ours, sender = setup_base_s(PUBLIC, info, EPHEMERAL, aead)
    assert ours == enc
    for _ in range(3):
        sealed = theirs.seal(text, aad=aad)
        assert sender.seal(aad, text) == sealed
        assert receiver.open(aad, sealed) == text


def test_any_change_is_refused_and_keeps_the_place() -> None:
    """A bit flipped in `enc`, ciphertext, associated data or `info` does not open; then the right bytes still do."""
    enc, sender = setup_base_s(PUBLIC, INFO, EPHEMERAL)
    sealed = sender.seal(b"aad", TEXT)
    receiver = setup_base_r(enc, PRIVATE, INFO)
    for n in range(8 * len(sealed)):
        bad = bytearray(sealed)
        bad[n // 8] ^= 1 << n % 8
        with pytest.raises(FormatError) as caught:
            receiver.open(b"aad", bytes(bad))
        assert reason(caught) == "hpke_decrypt"
    others = [
        setup_base_r(enc, PRIVATE, INFO + b"x"),
        setup_base_r(enc, EPHEMERAL, INFO),
        setup_base_r(PUBLIC, PRIVATE, INFO),
    ]
    for other, aad, data in [
        (receiver, b"aae", sealed),
        *((o, b"aad", sealed) for o in others),
        (receiver, b"aad", b""),
    ]:
        with pytest.raises(FormatError) as caught:
            other.open(aad, data)
        assert reason(caught) == "hpke_decrypt"
    assert receiver.open(b"aad", sealed) == TEXT


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda key: key.hex()[:8])
def test_keys_of_small_order_are_refused(public: bytes) -> None:
    """A point whose shared secret is zero for everybody is refused as key and as encapsulation, in every spelling."""
    assert is_weak_x25519(public)
    for attempt in (lambda: setup_base_s(public, b"", EPHEMERAL), lambda: setup_base_r(public, PRIVATE, b"")):
        with pytest.raises(FormatError) as caught:
            attempt()
        assert reason(caught) == "hpke_weak_key"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_have_32_bytes(size: int) -> None:
    """A key of another length is malformed, and weak to whoever asks."""
    for attempt in (lambda: setup_base_s(bytes(size), b"", EPHEMERAL), lambda: setup_base_r(bytes(size), PRIVATE, b"")):
        with pytest.raises(FormatError) as caught:
            attempt()
        assert reason(caught) == "hpke_malformed"
    assert is_weak_x25519(bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        setup_base_s(PUBLIC, b"", bytes(size))
    assert not is_weak_x25519(PUBLIC)


def test_a_context_ends_before_a_nonce_comes_round() -> None:
    """The last sequence number is never used: sealing and opening stop in front of it."""
    enc, sender = setup_base_s(PUBLIC, INFO, EPHEMERAL)
    receiver = setup_base_r(enc, PRIVATE, INFO)
    sender._sequence = receiver._sequence = 2**96 - 2
    assert receiver.open(b"", sender.seal(b"", TEXT)) == TEXT
    for attempt in (lambda: sender.seal(b"", TEXT), lambda: receiver.open(b"", TEXT)):
        with pytest.raises(FormatError) as caught:
            attempt()
        assert reason(caught) == "hpke_exhausted"


def test_hkdf_has_an_end() -> None:
    """HKDF-Expand gives 255 blocks and not a byte more."""
    assert len(hpke.expand(b"k", b"", 8160)) == 8160
    with pytest.raises(ValueError, match="8160"):
        hpke.expand(b"k", b"", 8161)
    sender = setup_base_s(PUBLIC, INFO, EPHEMERAL)[1]
    assert len(sender.export(b"", 8160)) == 8160


@given(enc=st.binary(max_size=40), sealed=st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_bytes_open_by_chance(enc: bytes, sealed: bytes) -> None:
    """Arbitrary encapsulations and ciphertexts give a `FormatError` and nothing else."""
    with pytest.raises(FormatError):
        setup_base_r(enc, PRIVATE, b"").open(b"", sealed)
