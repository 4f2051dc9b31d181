"""One question for every signature: it holds for what was signed, and for nothing that differs by a bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.keys import MESSAGE, genuine, run, seeds

from gateway.crypto import algorithms
from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.signatures import Ed25519Signer

GENUINE = genuine()
PAIRED = {Alg.EIP191: Alg.EIP191_LOW_S, Alg.EIP191_LOW_S: Alg.EIP191, Alg.ES256K_LOW_S: Alg.ES256K}


def test_every_algorithm_has_its_verifier_and_its_row() -> None:
    """The set is closed: each name verifies something, and stands in the table of the documentation above."""
    assert set(algorithms._VERIFIERS) == set(Alg) == set(GENUINE)
    assert [alg for alg in Alg if f"`{alg}`" not in (algorithms.__doc__ or "")] == []


@pytest.mark.parametrize("alg", list(Alg))
def test_genuine(alg: Alg) -> None:
    """A genuine signature holds, and not over another message, nor an empty one."""
    key, signature = GENUINE[alg]
    assert verify(key, alg, MESSAGE, signature) is True
    assert verify(key, alg, MESSAGE + b"\0", signature) is False
    assert verify(key, alg, b"", signature) is False


@pytest.mark.parametrize("alg", list(Alg))
def test_under_another_name(alg: Alg) -> None:
    """A signature of one algorithm holds under no other's name, save where one name is another with a condition."""
    key, signature = GENUINE[alg]
    taken = {other for other in Alg if verify(key, other, MESSAGE, signature)}
    either = {Alg.ES256K, Alg.ES256K_LOW_S} if alg in (Alg.ES256K, Alg.ES256K_LOW_S) else {alg, PAIRED.get(alg, alg)}
    assert alg in taken
    assert taken <= either


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (bytes(32), bytes(64)),
        (b"\1" + bytes(31), b"\1" + bytes(63)),
        (b"\xec" + b"\xff" * 30 + b"\x7f", bytes(64)),
        (b"\xee" + b"\xff" * 30 + b"\x7f", b"\1" + bytes(63)),
        (bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), bytes(64)),
    ],
)
def test_ed25519_keys_of_small_order(key: bytes, signature: bytes) -> None:
    """Keys of small order and non-canonical points, under which a constant signs any message, verify nothing."""
    for message in (b"", b"a", MESSAGE):
        assert verify(key, Alg.ED25519, message, signature) is False


def test_ed25519_s_over_the_order() -> None:
    """S plus the group's order is another spelling of a signature, and refused."""
    signer = Ed25519Signer(b"\3" * 32)
    signature = signer.sign(MESSAGE)
    order = 2**252 + 27742317777372353535851937790883648493
    taller = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert verify(signer.public_key, Alg.ED25519, MESSAGE, signature)
    assert not verify(signer.public_key, Alg.ED25519, MESSAGE, taller)


@settings(max_examples=300, deadline=None)
@given(alg=st.sampled_from(list(Alg)), place=st.integers(0, 10_000), bit=st.integers(0, 7), part=st.integers(0, 2))
def test_a_changed_bit_never_holds(alg: Alg, place: int, bit: int, part: int) -> None:
    """One bit flipped in key, message or signature, and the signature does not hold."""
    key, signature = GENUINE[alg]
    parts = [bytearray(key), bytearray(MESSAGE), bytearray(signature)]
    parts[part][place % len(parts[part])] ^= 1 << bit
    if parts[part][-1:] != (key, MESSAGE, signature)[part][-1:] and part == 2 and alg is Alg.EIP191_LOW_S:
        return  # v takes no part where the key is known: test_secp256k1.py
    assert verify(bytes(parts[0]), alg, bytes(parts[1]), bytes(parts[2])) is False


@settings(max_examples=300, deadline=None)
@given(alg=st.sampled_from(list(Alg)), key=st.binary(max_size=600), signature=st.binary(max_size=600))
def test_any_bytes_are_answered(alg: Alg, key: bytes, signature: bytes) -> None:
    """Random bytes are no signature under anything, and never an exception."""
    assert verify(key, alg, MESSAGE, signature) is False
    assert verify(GENUINE[alg][0], alg, MESSAGE, signature) is False
    assert verify(key, alg, MESSAGE, GENUINE[alg][1]) is False


@settings(max_examples=300, deadline=None)
@given(seed=st.sampled_from(seeds()), cut=st.integers(0, 400), data=st.binary(max_size=40), flip=st.integers(0, 3199))
def test_packed_questions_are_answered(seed: bytes, cut: int, data: bytes, flip: int) -> None:
    """Whatever a mutated question packs - signature, preimage, signature object, binding - it has an answer."""
    changed = bytearray(seed)
    changed[flip // 8 % len(changed)] ^= 1 << flip % 8
    run(bytes(changed))
    run(bytes(changed[: cut % len(changed)]) + data)
    run(data)
