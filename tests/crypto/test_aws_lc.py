"""AWS-LC beside libsodium: it answers for itself first, and no verdict depends on which of the two did the work."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_hash_sha512,
    crypto_scalarmult_ed25519_base_noclamp,
)
from test_ed25519 import SMALL_ORDER

from gateway import aws_lc
from gateway.crypto import signatures
from gateway.crypto.signatures import Ed25519Signer, verify_ed25519

TORSION = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
IDENTITY = b"\1" + bytes(31)
SECRET = b"\5" + bytes(31)


@pytest.fixture(autouse=True)
def _libsodium_afterwards():
    yield
    signatures.accelerate(None)


def both(public: bytes, message: bytes, signature: bytes) -> tuple[bool, bool]:
    """What libsodium alone says, and what is said with AWS-LC."""
    signatures.accelerate(None)
    alone = verify_ed25519(public, message, signature)
    assert signatures.accelerate(aws_lc.load())
    return alone, verify_ed25519(public, message, signature)


def signed(secret: bytes, nonce: bytes, key: bytes, r: bytes, message: bytes) -> bytes:
    """A signature by the book's last step, with a key and an R that may carry torsion."""
    k = crypto_core_ed25519_scalar_reduce(crypto_hash_sha512(r + key + message))
    return r + crypto_core_ed25519_scalar_add(nonce, crypto_core_ed25519_scalar_mul(k, secret))


def test_the_extra_brings_it_and_none_of_its_python():
    """AWS-LC is found, and loading it imports nothing of qh3's own."""
    code = (
        "import sys, json; from gateway import aws_lc; from gateway.crypto import signatures; on = signatures.accelerate(aws_lc.load());"
        "print(json.dumps([on, sorted(n for n in sys.modules if 'qh3' in n)]))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == [True, []], done.stderr


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_both_make_the_same_signature(seed, message):
    """Ed25519 is deterministic: AWS-LC's signature is libsodium's, byte for byte, and holds for both."""
    signatures.accelerate(None)
    plain = Ed25519Signer(seed)
    assert signatures.accelerate(aws_lc.load())
    fast = Ed25519Signer(seed)
    assert (fast.public_key, fast.sign(message)) == (plain.public_key, plain.sign(message))
    assert both(plain.public_key, message, plain.sign(message)) == (True, True)


@pytest.mark.parametrize("key", SMALL_ORDER)
@pytest.mark.parametrize("r", [*SMALL_ORDER, "key"])
def test_small_order_is_refused_by_both(key, r):
    """Keys and R of small order with S = 0: AWS-LC would believe some of them, and is not asked."""
    public = bytes.fromhex(key)
    start = public if r == "key" else bytes.fromhex(r)
    for message in (b"", b"a", b"b", b"c", b"d"):
        assert both(public, message, start + bytes(32)) == (False, False)


def test_it_alone_would_take_the_identity():
    """Why it is not asked about every key: with key and R the identity, any message is signed."""
    found = aws_lc.load()
    assert found is not None
    assert found.confirms(IDENTITY, b"anything", IDENTITY + bytes(32))


def test_an_honest_key_with_the_identity_as_r_is_libsodiums_to_judge():
    """A nonce of zero makes a signature that gives the key away: libsodium refuses it, AWS-LC alone would not."""
    key = crypto_scalarmult_ed25519_base_noclamp(SECRET)
    signature = signed(SECRET, bytes(32), key, IDENTITY, b"message")
    found = aws_lc.load()
    assert found is not None
    assert found.confirms(key, b"message", signature)
    assert both(key, b"message", signature) == (False, False)


@pytest.mark.parametrize("torsion_in", ["key", "r", "both"])
def test_torsion_makes_no_difference_between_them(torsion_in):
    """Where the cofactor decides, whatever libsodium says is what is said."""
    honest = crypto_scalarmult_ed25519_base_noclamp(SECRET)
    key = honest if torsion_in == "r" else crypto_core_ed25519_add(honest, TORSION)
    seen = set()
    for n in range(1, 33):
        nonce = bytes([n]) + bytes(31)
        r = crypto_scalarmult_ed25519_base_noclamp(nonce)
        if torsion_in != "key":
            r = crypto_core_ed25519_add(r, TORSION)
        alone, together = both(key, b"message", signed(SECRET, nonce, key, r, b"message"))
        assert alone is together
        seen.add(alone)
    assert seen, "nothing was compared"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_change_makes_a_difference_between_them(data):
    """A true signature with some bytes changed or parts exchanged: both say the same."""
    points = [bytes.fromhex(point) for point in SMALL_ORDER]
    signatures.accelerate(None)
    signer = Ed25519Signer(data.draw(st.binary(min_size=32, max_size=32)))
    message = data.draw(st.binary(max_size=40))
    parts = [bytearray(signer.public_key), bytearray(message), bytearray(signer.sign(message))]
    for _ in range(data.draw(st.integers(0, 3))):
        part = parts[data.draw(st.sampled_from([0, 1, 2, 2]))]
        if part:
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        parts[data.draw(st.sampled_from([0, 2]))][:32] = data.draw(st.sampled_from(points))
    alone, together = both(*map(bytes, parts))
    assert alone is together


def test_what_is_no_bytes_is_libsodiums_to_judge():
    """A message that AWS-LC's binding does not take is still checked."""
    signatures.accelerate(aws_lc.load())
    signer = Ed25519Signer(bytes(32))
    message = bytearray(b"message")
    assert verify_ed25519(signer.public_key, message, signer.sign(b"message"))


def _fake(name: str = "_hazmat") -> ModuleType:
    """A module of qh3's shape around the real one."""
    package = importlib.util.find_spec("qh3")
    spec = package and aws_lc.PathFinder.find_spec("_hazmat", package.submodule_search_locations)
    assert spec is not None
    assert spec.loader is not None
    real = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real)
    fake = ModuleType(name)
    for attribute in ("verify_with_public_key", "Ed25519PrivateKey", "SignatureError", "CryptoError"):
        setattr(fake, attribute, getattr(real, attribute))
    return fake


class _Liar:
    """A private key that signs with the wrong bytes."""

    def __init__(self, _der: bytes) -> None:
        self.sign = lambda _message: bytes(64)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("verify_with_public_key", lambda *_: None),  # confirms everything
        ("verify_with_public_key", lambda *_: False),  # says it another way than by raising
        ("Ed25519PrivateKey", _Liar),
    ],
)
def test_what_does_not_answer_rightly_is_not_believed(attribute, value):
    """A module that confirms what is false, confirms nothing, or signs wrongly, is found out."""
    fake = _fake()
    assert signatures.accelerate(aws_lc.over(fake))
    setattr(fake, attribute, value)
    assert not signatures.accelerate(aws_lc.over(fake))
    assert not verify_ed25519(Ed25519Signer(bytes(32)).public_key, b"message", bytes(64))


def test_without_the_extra_libsodium_works_alone(monkeypatch):
    """No package, or one without the binary module: nothing is accelerated, and signing and checking go on."""
    monkeypatch.setattr(aws_lc.importlib.util, "find_spec", lambda _name: None)
    assert not signatures.accelerate(aws_lc.load())
    signer = Ed25519Signer(bytes(32))
    assert verify_ed25519(signer.public_key, b"message", signer.sign(b"message"))


@pytest.mark.parametrize("source", ["raise ImportError('another machine')", "nothing_of_it = 1"])
def test_a_module_that_does_not_load_or_has_changed_is_left_alone(monkeypatch, tmp_path, source):
    """A binary for another machine, or a later qh3 without these functions: libsodium works alone."""
    (tmp_path / "qh3").mkdir()
    (tmp_path / "qh3" / "__init__.py").write_text("")
    (tmp_path / "qh3" / "_hazmat.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert aws_lc.load() is None
