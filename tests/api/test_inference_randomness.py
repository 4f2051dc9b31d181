"""The random bytes of exchanges: fetched many at a time, handed out once."""

from __future__ import annotations

import os

import pytest

from gateway.api.openai import Randomness, _pick, _randomness


def test_no_byte_is_handed_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece is new, also across the end of what was fetched, and the system is asked once for many."""
    fetched: list[bytes] = []
    real = os.urandom

    def urandom(count: int) -> bytes:
        fetched.append(real(count))
        return fetched[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    source = Randomness()
    pieces = [source.take(98) for _ in range(200)]
    assert {len(piece) for piece in pieces} == {98}
    per_fetch = Randomness.SIZE // 98
    assert len(fetched) == -(-200 // per_fetch)
    for n, piece in enumerate(pieces):
        at = n % per_fetch * 98
        assert piece == fetched[n // per_fetch][at : at + 98]


def test_a_forked_child_shares_none() -> None:
    """What was fetched before a fork is not handed out in the child."""
    source = Randomness()
    source.take(8)
    kept = source._bytes
    source.forget()
    assert source.take(98) not in kept


def test_the_module_forgets_when_it_is_forked() -> None:
    """The bytes that parent and child draw next differ."""

    _randomness.take(1)
    read, write = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - in the child
        os.write(write, _randomness.take(32))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 32) != _randomness.take(32)
    os.close(read)
    os.close(write)


def test_a_pick_is_a_fraction() -> None:
    """From 0 up to, and never, 1."""
    assert _pick(bytes(8)) == 0.0
    assert 0.9999 < _pick(b"\xff" * 8) < 1.0
    assert _pick(b"\x80" + bytes(7)) == 0.5
