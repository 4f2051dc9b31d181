"""secp256k1: recovery, addresses, EIP-191; and the library against the plain form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.keys import MESSAGE, EcKey, ec_key

from gateway.crypto import secp256k1
from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.ecdsa import SECP256K1
from gateway.crypto.secp256k1 import (
    address,
    eip191_digest,
    plain_recover,
    plain_verify,
    recover,
    verify_eip191,
    verify_secp256k1,
)

KEY = ec_key("secp256k1")
N = SECP256K1.order
RECOVERIES = [recover, plain_recover]
GX = int.from_bytes(EcKey(SECP256K1, 1).raw[:32], "big")
GY_PARITY = EcKey(SECP256K1, 1).raw[63] & 1


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (1, "7e5f4552091a69125d5dfcb7b8c2659029395bdf"),
        (2, "2b5ad5c4795c026514f8317c7a215e218dccd6cf"),
        (3, "6813eb9362372eef6200f3b1dbc3f819671cba69"),
    ],
)
def test_addresses(secret: int, expected: str) -> None:
    """The addresses of the first private keys are the ones that everybody knows."""
    key = EcKey(SECP256K1, secret)
    assert address(key.raw).hex() == address(key.uncompressed).hex() == address(key.spki).hex() == expected  # type: ignore[union-attr]
    assert address(key.compressed) is None
    assert address(b"") is None


def test_the_digest_counts_bytes() -> None:
    """The message's length stands in the digest in decimal, in bytes and not in characters."""
    assert eip191_digest(b"hello world").hex() == "d9eba16ed0ecae432b71fe008c98cc872bb4cc214d3220a36f365326cf807d68"
    assert eip191_digest("é".encode()) != eip191_digest(b"e")
    assert verify(KEY.address, Alg.EIP191, "é".encode(), KEY.personal_sign("é".encode()))


@pytest.mark.parametrize("v_from", [0, 27])
@pytest.mark.parametrize("key", [KEY.address, KEY.raw, KEY.uncompressed, KEY.compressed, KEY.spki])
def test_eip191(key: bytes, v_from: int) -> None:
    """A signature holds under the address and under every form of the key, v being 27, 28, 0 or 1."""
    signature = KEY.personal_sign(MESSAGE, v_from=v_from)
    assert verify(key, Alg.EIP191, MESSAGE, signature)
    assert not verify(key, Alg.EIP191, MESSAGE + b" ", signature)
    assert not verify(key, Alg.EIP191, MESSAGE, bytes([signature[0] ^ 1]) + signature[1:])


@pytest.mark.parametrize("key", [KEY.address, KEY.raw])
def test_other_values_of_v(key: bytes) -> None:
    """v of EIP-155 transactions and every other value is refused, with an address and with a key."""
    signature = KEY.personal_sign(MESSAGE)
    for v in set(range(256)) - {0, 1, 27, 28}:
        assert not verify(key, Alg.EIP191, MESSAGE, signature[:64] + bytes([v])), v


def test_the_other_v_is_another_signer() -> None:
    """With an address v decides whose signature it is; with the key at hand v takes no part."""
    signature = KEY.personal_sign(MESSAGE)
    other = signature[:64] + bytes([signature[64] ^ 7])  # 27 and 28
    assert not verify(KEY.address, Alg.EIP191, MESSAGE, other)
    assert verify(KEY.raw, Alg.EIP191, MESSAGE, other)


@pytest.mark.parametrize("key", [KEY.address, KEY.raw])
def test_high_s(key: bytes) -> None:
    """Networks' verifiers don't ask for the low s, so both hold; the low-s name takes one."""
    low, high = KEY.personal_sign(MESSAGE), KEY.personal_sign(MESSAGE, high_s=True)
    assert verify(key, Alg.EIP191, MESSAGE, low)
    assert verify(key, Alg.EIP191, MESSAGE, high)
    assert verify(key, Alg.EIP191_LOW_S, MESSAGE, low)
    assert not verify(key, Alg.EIP191_LOW_S, MESSAGE, high)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 66, 130])
def test_lengths(length: int) -> None:
    """A signature has 65 bytes; EIP-2098's compact form of 64 is not one."""
    signature = (KEY.personal_sign(MESSAGE) * 2)[:length]
    assert not verify(KEY.address, Alg.EIP191, MESSAGE, signature)
    assert not verify(KEY.raw, Alg.EIP191, MESSAGE, signature)


@pytest.mark.parametrize("key", [bytes(20), b"", bytes(19), bytes(21), bytes(32), KEY.address + b"\0"])
def test_other_keys(key: bytes) -> None:
    """The zero address, that a failed recovery on the chain returns, and things of other lengths verify nothing."""
    signature = KEY.personal_sign(MESSAGE)
    for tried in (signature, bytes(65), bytes(64) + b"\x1b"):
        assert not verify(key, Alg.EIP191, MESSAGE, tried)


@pytest.mark.parametrize("how", RECOVERIES)
def test_recovery(how: object) -> None:
    """The key that signed comes back, with either s, for the parity that R had."""
    digest = eip191_digest(MESSAGE)
    r, s, parity = KEY.numbers(digest)
    assert how(digest, (r, s), parity) == KEY.raw  # type: ignore[operator]
    assert how(digest, (r, N - s), parity ^ 1) == KEY.raw  # type: ignore[operator]
    assert how(digest, (r, s), parity ^ 1) not in (None, KEY.raw)  # type: ignore[operator]


@pytest.mark.parametrize("how", RECOVERIES)
def test_recovery_at_the_edges(how: object) -> None:
    """No point with that x, a key at infinity, R = G and R = -G are handled, not stumbled over."""
    five = next(x for x in range(1, 100) if pow(x**3 + 7, (secp256k1._P - 1) // 2, secp256k1._P) != 1)
    assert how(b"\1" * 32, (five, 1), 0) is None  # type: ignore[operator]
    # Q = (s R - z G) / r: with R = G and s = z nothing is left; with s = -z, or R = -G, 2 z G is.
    z = int.from_bytes(b"\1" * 32, "big")
    assert how(b"\1" * 32, (GX, z), GY_PARITY) is None  # type: ignore[operator]
    for s, parity in ((N - z, GY_PARITY), (z, GY_PARITY ^ 1)):
        found = how(b"\1" * 32, (GX, s), parity)  # type: ignore[operator]
        assert found == EcKey(SECP256K1, (-2 * z * pow(GX, -1, N)) % N).raw
    assert how(b"\1" * 32, (GX, N - z), GY_PARITY ^ 1) is None  # type: ignore[operator]
    assert how(bytes(32), (GX, 1), GY_PARITY) == EcKey(SECP256K1, pow(GX, -1, N)).raw  # type: ignore[operator]


def test_what_plain_arithmetic_recovers_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that our own arithmetic gets wrong is not believed: OpenSSL has the last word."""
    digest = eip191_digest(MESSAGE)
    r, s, parity = KEY.numbers(digest)
    wrong = ec_key("secp256k1", 99)
    monkeypatch.setattr(
        secp256k1, "_sum", lambda *_: tuple(int.from_bytes(wrong.raw[i : i + 32], "big") for i in (0, 32))
    )
    assert plain_recover(digest, (r, s), parity) is None


def test_additions_that_meet() -> None:
    """Adding a point to itself doubles it, to its negative leaves nothing, to nothing changes nothing."""
    g = secp256k1._G
    minus = (g[0], secp256k1._P - g[1])
    two = EcKey(SECP256K1, 2).raw
    assert secp256k1._affine(secp256k1._add((*g, 1), g)) == (
        int.from_bytes(two[:32], "big"),
        int.from_bytes(two[32:], "big"),
    )
    assert secp256k1._affine(secp256k1._add((*g, 1), minus)) is None
    assert secp256k1._add(secp256k1._INFINITY, g) == (*g, 1)
    assert secp256k1._affine(secp256k1._double(secp256k1._INFINITY)) is None


numbers = st.one_of(st.integers(1, N - 1), st.sampled_from([1, 2, GX, N - 1, N // 2, N // 2 + 1]))


@settings(max_examples=60, deadline=None)
@given(digest=st.binary(min_size=32, max_size=32), r=numbers, s=numbers, parity=st.sampled_from([0, 1]))
def test_the_library_and_the_plain_form_agree(digest: bytes, r: int, s: int, parity: int) -> None:
    """For any digest and numbers both recover the same key or none, and what they recover verifies in both."""
    found = recover(digest, (r, s), parity)
    assert plain_recover(digest, (r, s), parity) == found
    if found is not None:
        assert verify_secp256k1(found, digest, (r, s))
        assert plain_verify(found, digest, (r, s))
        assert not verify_secp256k1(KEY.raw, digest, (r, s)) or found == KEY.raw


def test_the_flag_and_the_name_agree() -> None:
    """`eip191-low-s` is `eip191` with the flag."""
    high = KEY.personal_sign(MESSAGE, high_s=True)
    assert verify_eip191(KEY.raw, MESSAGE, high)
    assert not verify_eip191(KEY.raw, MESSAGE, high, low_s=True)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libsecp256k1 is not installed the same signatures hold, and the same ones don't."""
    monkeypatch.setattr(secp256k1, "_PublicKey", None)
    for high_s in (False, True):
        signature = KEY.personal_sign(MESSAGE, high_s=high_s)
        other = signature[:64] + bytes([signature[64] ^ 7])
        for key, answers in (
            (KEY.address, (True, False)),
            (KEY.raw, (True, True)),
            (ec_key("secp256k1", 5).raw, (False, False)),
        ):
            assert (verify(key, Alg.EIP191, MESSAGE, signature), verify(key, Alg.EIP191, MESSAGE, other)) == answers
        assert not verify(KEY.address, Alg.EIP191, MESSAGE + b".", signature)


def test_an_x_over_the_order() -> None:
    """A signature whose R has an x of n or more holds, in both forms; no v of EIP-191 can say so, so no address does."""
    p, message = secp256k1._P, b"\2" * 32
    x = next(x for x in range(N + 1, p) if pow(x**3 + 7, (p - 1) // 2, p) == 1)
    point = (x, pow(x**3 + 7, (p + 1) // 4, p))
    r, s, z = x - N, 12345, int.from_bytes(message, "big")
    found = secp256k1._sum(-z * pow(r, -1, N) % N, secp256k1._G, s * pow(r, -1, N) % N, point)
    assert found is not None
    key = found[0].to_bytes(32, "big") + found[1].to_bytes(32, "big")
    assert verify_secp256k1(key, message, (r, s))
    assert plain_verify(key, message, (r, s))
    assert key not in {how(message, (r, s), parity) for how in RECOVERIES for parity in (0, 1)}
