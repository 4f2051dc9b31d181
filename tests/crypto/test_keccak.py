"""Keccak-256, held against a plain sponge written from the specification."""

from __future__ import annotations

import hashlib

import pytest

from gateway.crypto.keccak import keccak256

RATE = 136
MASK = 2**64 - 1


def turned(lane: int, by: int) -> int:
    return (lane << by | lane >> (64 - by)) & MASK if by else lane


def permuted(a: list[list[int]]) -> list[list[int]]:
    """Keccak-f[1600] (FIPS 202, section 3), the round constants from their shift register."""
    register = 1
    for _ in range(24):
        c = [a[x][0] ^ a[x][1] ^ a[x][2] ^ a[x][3] ^ a[x][4] for x in range(5)]
        d = [c[x - 1] ^ turned(c[(x + 1) % 5], 1) for x in range(5)]
        a = [[a[x][y] ^ d[x] for y in range(5)] for x in range(5)]
        x, y, lane = 1, 0, a[1][0]
        for t in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            lane, a[x][y] = a[x][y], turned(lane, (t + 1) * (t + 2) // 2 % 64)
        a = [[a[x][y] ^ (~a[(x + 1) % 5][y] & a[(x + 2) % 5][y]) for y in range(5)] for x in range(5)]
        for j in range(7):
            register = (register << 1 ^ (register >> 7) * 0x171) % 256
            if register & 2:
                a[0][0] ^= 1 << ((1 << j) - 1)
    return a


def sponge(data: bytes, first_padding_byte: int) -> bytes:
    padded = bytearray(data + bytes([first_padding_byte]) + bytes(-(len(data) + 1) % RATE))
    padded[-1] |= 0x80
    state = [[0] * 5 for _ in range(5)]
    for at in range(0, len(padded), RATE):
        for lane in range(RATE // 8):
            state[lane % 5][lane // 5] ^= int.from_bytes(padded[at + 8 * lane : at + 8 * lane + 8], "little")
        state = permuted(state)
    return b"".join(state[i][0].to_bytes(8, "little") for i in range(4))


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"transfer(address,uint256)", "a9059cbb2ab09eb219583f4a59a5d0623ade346d962bcd4e46b11da047c9049b"),
    ],
)
def test_known_answers(data: bytes, digest: str) -> None:
    """The digests are those that the chain uses."""
    assert keccak256(data).hex() == digest


@pytest.mark.parametrize("length", [0, 1, 31, 32, 64, 134, 135, 136, 137, 271, 272, 273, 1000])
def test_the_specification(length: int) -> None:
    """Every length around the block's edges gives what the plain sponge gives, with the padding of Keccak, not SHA-3."""
    data = bytes(i * 7 % 251 for i in range(length))
    assert keccak256(data) == sponge(data, 0x01)
    assert hashlib.sha3_256(data).digest() == sponge(data, 0x06)


def test_it_is_not_sha3() -> None:
    """Keccak-256 and SHA3-256 of the same bytes differ."""
    assert keccak256(b"abc") != hashlib.sha3_256(b"abc").digest()
